// How the words of the cluster stand in files for people and programs: numbers as numbers, the cluster's id and its map
// as hexadecimal digits, since programs that read JSON keep 53 bits of a number at best. Random numbers of 64 bits are
// digits too.

public import Primitives
public import Ring

extension HostID: Codable {}
extension GroupID: Codable {}
extension ReplicaID: Codable {}
extension Term: Codable {}
extension LogIndex: Codable {}
extension LogTime: Codable {}
extension MigrationID: Codable {}
extension Epoch: Codable {}
extension Slot: Codable {}

extension TermRun: Codable {
    private enum Keys: CodingKey { case first, term }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(first, forKey: .first)
        try container.encode(term, forKey: .term)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Keys.self)
        self.init(
            first: try container.decode(LogIndex.self, forKey: .first),
            term: try container.decode(Term.self, forKey: .term))
    }
}

extension Incarnation: Codable {
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(hexadecimal(rawValue))
    }

    public init(from decoder: any Decoder) throws {
        self.init(try Digits(from: decoder).number())
    }
}

extension ClusterID: Codable {
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }

    public init(from decoder: any Decoder) throws {
        let digits = try Digits(from: decoder)
        let bytes = try digits.bytes(count: 16)
        func number(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
        self.init(high: number(bytes[..<8]), low: number(bytes[8...]))
    }
}

extension Configuration: Codable {
    private enum Keys: CodingKey { case index, voters, outgoing, learners }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(index, forKey: .index)
        try container.encode(voters, forKey: .voters)
        try container.encode(outgoing, forKey: .outgoing)
        try container.encode(learners, forKey: .learners)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Keys.self)
        self.init(
            index: try container.decode(LogIndex.self, forKey: .index),
            voters: try container.decode([ReplicaID].self, forKey: .voters),
            outgoing: try container.decode([ReplicaID].self, forKey: .outgoing),
            learners: try container.decode([ReplicaID].self, forKey: .learners))
    }
}

extension ClusterMap: Codable {
    public func encode(to encoder: any Encoder) throws {
        var writer = ByteWriter(capacity: 65_536)
        encode(into: &writer)
        let table = Array("0123456789abcdef".utf8)
        let digits = writer.take().array.flatMap { [table[Int($0 >> 4)], table[Int($0 & 15)]] }
        var container = encoder.singleValueContainer()
        try container.encode(String(decoding: digits, as: UTF8.self))
    }

    public init(from decoder: any Decoder) throws {
        let digits = try Digits(from: decoder)
        var reader = ByteReader(Bytes(try digits.bytes(count: nil)))
        do throws(DecodingFailure) {
            try self.init(from: &reader)
            try reader.expectEnd()
        } catch {
            throw digits.failure("a cluster map", "\(error)")
        }
    }
}

/// Hexadecimal digits that are being read.
private struct Digits {
    private let path: [any CodingKey]
    private let text: String

    init(from decoder: any Decoder) throws {
        path = decoder.codingPath
        text = try decoder.singleValueContainer().decode(String.self)
    }

    func failure(_ expected: String, _ found: String) -> DecodingError {
        .dataCorrupted(
            DecodingError.Context(codingPath: path, debugDescription: "expected \(expected), found \(found)"))
    }

    func number() throws -> UInt64 { try bytes(count: 8).reduce(0) { $0 << 8 | UInt64($1) } }

    /// - Parameter count: nil: any.
    func bytes(count: Int?) throws -> [UInt8] {
        func value(_ digit: UInt8) throws -> UInt8 {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
            default: throw failure("hexadecimal digits", "another character")
            }
        }
        let digits = Array(text.utf8)
        guard digits.count % 2 == 0, count.map({ $0 * 2 == digits.count }) ?? true else {
            throw failure(count.map { "\($0 * 2) hexadecimal digits" } ?? "pairs of digits", "\(digits.count)")
        }
        return try stride(from: 0, to: digits.count, by: 2).map {
            try value(digits[$0]) << 4 | (try value(digits[$0 + 1]))
        }
    }
}
