// A client that takes a copy of a group's state: asks one of its replicas for it piece by piece. What is in a piece and
// in a description is Storage's, and passes through here as bytes.

public import Primitives

/// The next piece of a state that the host keeps for this client, or the word that it need not be kept any longer.
///
/// `version u16 = 1 | group u32 | snapshot u64 | kind u8 | has position u8 | position`
public struct SnapshotRequest: Message {
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        /// The piece behind a position; without one the first. Who asks for the first piece of a number that the host
        /// does not know is given the state as it is now: everything that was acknowledged before is in it.
        case fetch = 1
        /// Nothing more is wanted.
        case release = 2
    }

    public var group: GroupID
    /// Chosen by the client, at random and not 0, so that a lost answer leaves nothing behind.
    public var snapshot: UInt64
    public var kind: Kind
    /// Where the piece before ended; nil: the first piece.
    public var after: RecordPosition?

    public init(group: GroupID, snapshot: UInt64, kind: Kind, after: RecordPosition? = nil) {
        self.group = group
        self.snapshot = snapshot
        self.kind = kind
        self.after = after
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(group)
        writer.write(snapshot)
        writer.write(kind.rawValue)
        writer.write(after != nil)
        after?.encode(into: &writer)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a question for a snapshot")
        group = try reader.read()
        snapshot = try reader.read()
        guard snapshot != 0 else { throw DecodingFailure(expected: "a snapshot's number", found: "0") }
        let number = try reader.read(UInt8.self)
        guard let kind = Kind(rawValue: number) else {
            throw DecodingFailure(expected: "a question for a snapshot of kind 1 or 2", found: "kind \(number)")
        }
        self.kind = kind
        after = try reader.readBool() ? RecordPosition(from: &reader) : nil
    }
}

/// A piece: the body of a result, whose index and revision are the snapshot's.
///
/// `version u16 = 1 | is last u8 | digest u64 | description: length u32, bytes | piece: length u32, bytes`
public struct SnapshotAnswer: Message {
    public var isLast: Bool
    /// Of the last piece: over all records of the state, as the host read them; else 0.
    public var digest: UInt64
    /// Of the first piece: what the state is; else empty.
    public var description: Bytes
    public var piece: Bytes

    /// Of a description, and of a piece: one record may be larger than pieces are.
    ///
    /// Both empty: the first piece is not there yet, and `digest` says how many records the host has counted. To be
    /// asked for again, under the same number.
    public static let descriptionBytesMax = 64 << 10
    public static let pieceBytesMax = 4 << 20

    public init(isLast: Bool, digest: UInt64, description: Bytes, piece: Bytes) {
        self.isLast = isLast
        self.digest = digest
        self.description = description
        self.piece = piece
    }

    /// The answer that there is no piece yet.
    public init(notYet countedRecords: UInt64) {
        self.init(isLast: false, digest: countedRecords, description: Bytes(), piece: Bytes())
    }

    /// Of an answer that has no piece yet: the records counted so far.
    public var countedRecords: UInt64? { piece.isEmpty && description.isEmpty && !isLast ? digest : nil }

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        writer.write(isLast)
        writer.write(digest)
        writer.writeWithLength(description)
        writer.writeWithLength(piece)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a piece of a snapshot")
        isLast = try reader.readBool()
        digest = try reader.read()
        description = try reader.readBytesWithLength(limit: Self.descriptionBytesMax)
        piece = try reader.readBytesWithLength(limit: Self.pieceBytesMax)
    }
}
