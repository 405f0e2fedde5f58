// Lines of files as keys and values, and back. Pure. Owns the escapes; refuses to know files or clusters.

package import Primitives
import StateMachines

/// A line that is no record: what was expected and what came.
package struct MalformedLine: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// How a record stands on a line. The line break is not part of it.
package enum RecordFormat: String, CaseIterable, Sendable {
    /// KEY, a tab, VALUE. Bytes stand for themselves but for five: `\t`, `\n`, `\r`, `\0`, `\\`.
    case tsv
    /// Lines of the Unicode Character Database: the key ends at the first semicolon, the value is the rest. No escapes.
    case ucd
    /// JSON lines: an object with `key` and `value` on each line, or `keyBase64` and `valueBase64` for bytes that are no
    /// UTF-8.
    case jsonl

    private static let tab = UInt8(ascii: "\t")
    private static let newline = UInt8(ascii: "\n")
    private static let carriageReturn = UInt8(ascii: "\r")
    private static let backslash = UInt8(ascii: "\\")
    private static let semicolon = UInt8(ascii: ";")

    /// The longest line that can be a record: each byte escaped, which JSON does in six bytes, and room for names.
    package static let lineBytesMax = 6 * (4_096 + 1_048_576) + 256

    package func decode(_ line: UnsafeRawBufferPointer) throws(MalformedLine) -> (key: Bytes, value: Bytes) {
        let key: Bytes
        let value: Bytes
        switch self {
        case .tsv:
            guard !line.isEmpty else { throw MalformedLine("expected KEY, a tab, VALUE; found an empty line") }
            guard let tab = line.firstIndex(of: Self.tab) else {
                let hint = line.first == UInt8(ascii: "{") ? "; JSON lines need --format jsonl" : ""
                throw MalformedLine("expected KEY, a tab, VALUE; found no tab\(hint)")
            }
            guard !line[(tab + 1)...].contains(Self.tab) else {
                throw MalformedLine("expected one tab, found more; write a tab within a key or a value as \\t")
            }
            guard !line.contains(Self.carriageReturn) else {
                throw MalformedLine(
                    "expected no carriage return; write one within a value as \\r, and end lines with \\n alone")
            }
            key = try Self.unescape(UnsafeRawBufferPointer(rebasing: line[..<tab]))
            value = try Self.unescape(UnsafeRawBufferPointer(rebasing: line[(tab + 1)...]))
        case .ucd:
            guard let end = line.firstIndex(of: Self.semicolon) else {
                throw MalformedLine("expected CODE;PROPERTIES, found no semicolon")
            }
            key = Bytes(copying: UnsafeRawBufferPointer(rebasing: line[..<end]))
            value = Bytes(copying: UnsafeRawBufferPointer(rebasing: line[(end + 1)...]))
        case .jsonl: (key, value) = try JSONRecord.decode(line)
        }
        if let problem = KeyValue.problem(ofKeyOf: key.count)
            ?? KeyValue.problem(ofValueOf: value.count, timeToLiveMillis: 0)
        {
            throw MalformedLine("\(problem)")
        }
        return (key, value)
    }

    /// Appends the record's line, without a line break. Throws when this format can't write this record.
    /// A line of fields with tabs between, as `tsv` has them, and a line break.
    static func line(_ fields: [Bytes]) -> Bytes {
        var line: [UInt8] = []
        for (place, field) in fields.enumerated() {
            if place > 0 { line.append(tab) }
            escape(field, into: &line)
        }
        line.append(newline)
        return Bytes(line)
    }

    package func encode(key: Bytes, value: Bytes, into line: inout [UInt8]) throws(MalformedLine) {
        switch self {
        case .tsv:
            Self.escape(key, into: &line)
            line.append(Self.tab)
            Self.escape(value, into: &line)
        case .ucd:
            let fits = key.withUnsafeBytes { !$0.contains(Self.semicolon) && !$0.contains(Self.newline) }
            guard fits, value.withUnsafeBytes({ !$0.contains(Self.newline) }) else {
                throw MalformedLine(
                    "the record with the key \(HumanText.quoted(key)) can't be a line of the format ucd, as "
                        + "it has a line break or "
                        + "a semicolon in its key; take --format tsv or jsonl")
            }
            key.withUnsafeBytes { line.append(contentsOf: $0) }
            line.append(Self.semicolon)
            value.withUnsafeBytes { line.append(contentsOf: $0) }
        case .jsonl: JSONRecord.encode(key: key, value: value, into: &line)
        }
    }

    private static func escape(_ bytes: Bytes, into line: inout [UInt8]) {
        bytes.withUnsafeBytes { bytes in
            var plain = bytes[...]
            while let place = plain.firstIndex(where: { $0 <= 13 && letter(for: $0) != nil || $0 == backslash }) {
                line.append(contentsOf: plain[..<place])
                line.append(backslash)
                line.append(letter(for: bytes[place]) ?? backslash)
                plain = plain[(place + 1)...]
            }
            line.append(contentsOf: plain)
        }
    }

    private static func letter(for byte: UInt8) -> UInt8? {
        switch byte {
        case 0: UInt8(ascii: "0")
        case tab: UInt8(ascii: "t")
        case newline: UInt8(ascii: "n")
        case carriageReturn: UInt8(ascii: "r")
        default: nil
        }
    }

    private static func unescape(_ field: UnsafeRawBufferPointer) throws(MalformedLine) -> Bytes {
        guard field.contains(backslash) else { return Bytes(copying: field) }
        var plain: [UInt8] = []
        plain.reserveCapacity(field.count)
        var position = 0
        while position < field.count {
            let byte = field[position]
            position += 1
            guard byte == backslash else {
                plain.append(byte)
                continue
            }
            guard position < field.count else {
                throw MalformedLine("expected a letter after the last backslash; write a backslash as \\\\")
            }
            switch field[position] {
            case UInt8(ascii: "t"): plain.append(tab)
            case UInt8(ascii: "n"): plain.append(newline)
            case UInt8(ascii: "r"): plain.append(carriageReturn)
            case UInt8(ascii: "0"): plain.append(0)
            case backslash: plain.append(backslash)
            case let other:
                throw MalformedLine(
                    "expected \\t, \\n, \\r, \\0 or \\\\, found a backslash and \(HumanText.quoted(Bytes([other]))); "
                        + "write a backslash as \\\\")
            }
            position += 1
        }
        return Bytes(plain)
    }
}

/// A digest of lines that does not depend on their order: an import and an export of the same records have the same
/// one.
/// Not against an adversary.
package struct LinesDigest: Equatable, Sendable, CustomStringConvertible {
    /// What it needs to be continued by another process.
    package private(set) var sum: UInt64 = 0
    package private(set) var lines: UInt64 = 0

    package init() {}

    package init(sum: UInt64, lines: UInt64) {
        self.sum = sum
        self.lines = lines
    }

    package mutating func add(key: Bytes, value: Bytes) {
        let seed = key.withUnsafeBytes { hash64($0) }
        sum &+= value.withUnsafeBytes { hash64($0, seed: seed) }
        lines += 1
    }

    /// 16 hexadecimal digits.
    package var description: String { hexadecimal(mix(sum ^ mix(lines))) }
}

/// Cuts a stream of bytes into lines, whatever the pieces it comes in.
package struct LineSplitter {
    private var buffer: [UInt8] = []
    private var start = 0
    /// Up to here there is no line break.
    private var searched = 0
    /// Lines given out.
    package private(set) var lines = 0
    private let lineBytesMax: Int

    package init(lineBytesMax: Int = RecordFormat.lineBytesMax) { self.lineBytesMax = lineBytesMax }

    /// A line is too long: where it ends is not known, and nothing more is read unless it is passed over.
    package private(set) var isStuck = false
    /// The line of the last call was too long, whatever the pieces it came in.
    package private(set) var wasLong = false
    /// Up to the next line break everything belongs to a line that is passed over.
    private var isPassing = false

    package mutating func append(_ piece: [UInt8]) {
        buffer.removeSubrange(..<start)
        searched -= start
        start = 0
        guard isPassing else { return buffer += piece }
        guard let end = piece.firstIndex(of: UInt8(ascii: "\n")) else { return }
        isPassing = false
        buffer += piece[(end + 1)...]
    }

    /// Goes on behind the line that is too long, without holding it in memory.
    package mutating func passOver() {
        guard isStuck else { return }
        isStuck = false
        isPassing = true
        buffer = []
        (start, searched) = (0, 0)
    }

    /// The next whole line without its line break; nil: there is none yet. The bytes are valid during `body` only.
    package mutating func next<Result>(
        _ body: (UnsafeRawBufferPointer) throws(MalformedLine) -> Result
    ) throws(MalformedLine) -> Result? {
        wasLong = false
        guard let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) else {
            searched = buffer.count
            guard buffer.count - start <= lineBytesMax else {
                lines += 1
                isStuck = true
                wasLong = true
                throw tooLong
            }
            return nil
        }
        defer {
            start = end + 1
            searched = start
        }
        lines += 1
        return try give(start..<end, body)
    }

    private var tooLong: MalformedLine {
        MalformedLine("expected a line of at most \(lineBytesMax) bytes, found a longer one")
    }

    /// What stands behind the last line break, if anything does.
    package mutating func last<Result>(
        _ body: (UnsafeRawBufferPointer) throws(MalformedLine) -> Result
    ) throws(MalformedLine) -> Result? {
        wasLong = false
        guard start < buffer.count else { return nil }
        defer {
            start = buffer.count
            searched = start
        }
        lines += 1
        return try give(start..<buffer.count, body)
    }

    private mutating func give<Result>(
        _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(MalformedLine) -> Result
    ) throws(MalformedLine) -> Result {
        guard range.count <= lineBytesMax else {
            wasLong = true
            throw tooLong
        }
        return try buffer.withUnsafeBufferPointer { (bytes) throws(MalformedLine) in
            try body(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: bytes[range])))
        }
    }
}
