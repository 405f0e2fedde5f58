// Reads a saved state from its beginning to its end, and believes nothing that is not checked. Memory: one piece.

public import Primitives
public import Storage

/// One walk through a file. A value of its own for each; the bytes come from `source`.
public struct SnapshotFileReader {
    public let file: String
    public let head: SnapshotFileHead
    /// Behind the last piece that was sound: what an interrupted save goes on from.
    public private(set) var soundBytes: UInt64
    public private(set) var pieces: UInt64 = 0
    public private(set) var digest = StateDigest()
    /// Records so far, by the sub state machines that they belong to.
    public private(set) var recordsOfMachines: [SubMachineNumber: UInt64] = [:]
    /// Where the next piece begins, a sort key; empty: with the first record. Nil: the last piece was there.
    private var position: Bytes? = Bytes()
    /// Set when all was read and found whole.
    public private(set) var end: SnapshotFileEnd?
    private var source: Source

    /// Gives up to so many bytes, at least one; none at the end.
    public typealias Read = (_ bytesMax: Int) throws -> Bytes

    /// The file's bytes in order, in whatever portions they come.
    private struct Source {
        let file: String
        let read: Read
        var offset: UInt64 = 0

        /// Exactly so many.
        mutating func take(_ count: Int, _ what: String) throws -> Bytes {
            let first = try read(count)
            var bytes = first
            if first.count < count {
                var writer = ByteWriter(capacity: count)
                writer.write(first)
                while writer.count < count {
                    let more = try read(count - writer.count)
                    guard !more.isEmpty else {
                        throw SnapshotFileDamage(
                            file: file, offset: offset, expected: "\(what) of \(count) bytes",
                            found: "the end of the file after \(writer.count)")
                    }
                    writer.write(more)
                }
                bytes = writer.take()
            }
            offset += UInt64(count)
            return bytes
        }
    }

    /// Reads the head.
    ///
    /// - Throws: `SnapshotFileDamage`, and what `read` throws.
    public init(file: String, read: @escaping Read) throws {
        self.file = file
        var source = Source(file: file, read: read)
        let fixed = try source.take(SnapshotFileHead.fixedBytes, "the head of a saved state")
        func damage(_ offset: UInt64, _ failure: DecodingFailure) -> SnapshotFileDamage {
            SnapshotFileDamage(file: file, offset: offset, expected: failure.expected, found: failure.found)
        }
        var reader = ByteReader(fixed)
        let length: Int
        do throws(DecodingFailure) {
            guard try reader.read(UInt32.self) == SnapshotFileHead.magic else {
                throw DecodingFailure(expected: "a saved state of a group", found: "another file")
            }
            let version = try reader.read(UInt16.self)
            guard version == SnapshotFileHead.version else {
                throw DecodingFailure(
                    expected: "version \(SnapshotFileHead.version), or a newer program", found: "version \(version)")
            }
            _ = try reader.readBytes(count: SnapshotFileHead.fixedBytes - 4 - reader.offset)
            length = Int(try reader.read(UInt32.self))
            guard length <= SnapshotFileHead.descriptionBytesMax else {
                throw DecodingFailure(
                    expected: "a description of at most \(SnapshotFileHead.descriptionBytesMax) bytes",
                    found: "\(length)")
            }
        } catch {
            throw damage(0, error)
        }
        let rest = try source.take(length + 4, "a description and a checksum")
        var whole = ByteWriter(capacity: fixed.count + rest.count)
        whole.write(fixed)
        whole.write(rest)
        let bytes = whole.take()
        do throws(DecodingFailure) {
            head = try SnapshotFileHead(bytes)
        } catch {
            throw damage(0, error)
        }
        soundBytes = source.offset
        self.source = source
    }

    /// The next piece; nil when the end was read and says the same as what came before.
    ///
    /// - Throws: `SnapshotFileDamage`, and what `read` throws.
    public mutating func next() throws -> ReceivedPiece? {
        try nextWithBytes()?.piece
    }

    /// The same with the piece's bytes, to be handed on.
    public mutating func nextWithBytes() throws -> (piece: ReceivedPiece, bytes: Bytes)? {
        guard end == nil else { return nil }
        let offset = source.offset
        func damage(_ expected: String, _ found: String) -> SnapshotFileDamage {
            SnapshotFileDamage(file: file, offset: offset, expected: expected, found: found)
        }
        var lengthReader = ByteReader(try source.take(4, "the length of a piece"))
        let length = Int(try lengthReader.read(UInt32.self))
        guard length > 0 else {
            end = try readEnd(at: offset)
            return nil
        }
        guard let position else { throw damage("the end, behind the last piece", "a piece of \(length) bytes") }
        guard length <= SnapshotFileFrame.pieceBytesMax else {
            throw damage("a piece of at most \(SnapshotFileFrame.pieceBytesMax) bytes", "\(length)")
        }
        let bytes = try source.take(length, "a piece")
        let piece: ReceivedPiece
        do throws(SnapshotError) { piece = try ReceivedPiece(bytes, of: head.description) } catch {
            throw damage("a sound piece", "\(error)")
        }
        guard piece.after == position else { throw damage("the piece behind the one before", "another") }
        piece.add(to: &digest)
        piece.count(into: &recordsOfMachines)
        guard digest.records <= head.description.records else {
            throw damage("\(head.description.records) records", "more")
        }
        self.position = piece.isLast ? nil : piece.through.compacted()
        pieces += 1
        soundBytes = source.offset
        return (piece, bytes)
    }

    /// Reads all that is left.
    public mutating func finish() throws -> SnapshotFileEnd {
        while try next() != nil {}
        guard let end else { preconditionFailure("a file without an end has thrown") }
        return end
    }

    /// The last piece was there.
    public var hasAllPieces: Bool { position == nil }
    /// Behind which key the next piece begins; nil: it is the first.
    public var nextPosition: RecordKey? {
        guard let position, !position.isEmpty else { return nil }
        return RecordKey(sortKey: position)
    }

    private mutating func readEnd(at offset: UInt64) throws -> SnapshotFileEnd {
        func damage(_ expected: String, _ found: String) -> SnapshotFileDamage {
            SnapshotFileDamage(file: file, offset: offset, expected: expected, found: found)
        }
        let bytes = try source.take(SnapshotFileEnd.encodedBytes - 4, "the end of a saved state")
        let found: SnapshotFileEnd
        do throws(DecodingFailure) {
            var reader = ByteReader(bytes)
            guard try reader.read(UInt32.self) == SnapshotFileEnd.magic else {
                throw DecodingFailure(expected: "a piece, or the end of a saved state", found: "neither")
            }
            found = SnapshotFileEnd(pieces: try reader.read(), records: try reader.read(), digest: try reader.read())
        } catch {
            throw damage(error.expected, error.found)
        }
        guard found.encoded()[4..<SnapshotFileEnd.encodedBytes] == bytes else {
            throw damage("a matching checksum of the end", "another")
        }
        guard position == nil else { throw damage("more pieces", "the end") }
        guard found.pieces == pieces, found.records == digest.records, found.records == head.description.records else {
            throw damage(
                "\(found.pieces) pieces and \(head.description.records) records",
                "\(pieces) and \(digest.records)")
        }
        guard found.digest == digest.value else {
            throw damage("records with the digest \(hexadecimal(found.digest))", hexadecimal(digest.value))
        }
        guard try source.read(1).isEmpty else {
            throw SnapshotFileDamage(
                file: file, offset: source.offset, expected: "the end of the file", found: "more bytes")
        }
        return found
    }
}

extension SnapshotFileHead {
    /// A whole head, with its checksum.
    fileprivate init(_ bytes: Bytes) throws(DecodingFailure) {
        var checksum = ByteReader(bytes[bytes.count - 4..<bytes.count])
        let body = bytes[0..<bytes.count - 4]
        guard try checksum.read(UInt32.self) == body.checksum else {
            throw DecodingFailure(expected: "a matching checksum of the head", found: "another")
        }
        var reader = ByteReader(body)
        _ = try reader.readBytes(count: 6)
        guard try reader.read(UInt16.self) == 0 else {
            throw DecodingFailure(expected: "0 in a reserved field", found: "more")
        }
        cluster = try reader.readClusterID()
        host = try reader.read()
        snapshot = try reader.read()
        savedMilliseconds = try reader.read()
        var inner = ByteReader(try reader.readBytesWithLength())
        description = try SnapshotDescription(from: &inner)
        try inner.expectEnd()
        try reader.expectEnd()
        guard description.base == .zero else {
            throw DecodingFailure(expected: "a whole state", found: "what changed after \(description.base)")
        }
    }
}
