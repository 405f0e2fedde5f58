// What hosts say to each other about snapshots. The receiver asks, piece by piece, and the sender answers: so that the
// one who has to write decides how fast it goes, and a lost piece is asked for again.
//
//     leader                                    a follower that needs what is no longer in the log
//       │ ── offer ───────────────────────────►  │  again and again while consensus says so
//       │ ◄─ fetch: base, from the beginning ──  │
//       │ ── piece: description, records ─────►  │  written to the store
//       │ ◄─ fetch: from behind the last ──────  │
//       │ ── piece: records, the last ────────►  │  one edit of the manifest, then the replica starts anew on it
//       │ ◄─ done ─────────────────────────────  │

package import Primitives

/// One of them. All go over the bulk connection, in a peer batch of version 2.
package struct SnapshotMessage: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        /// 1: what `to` needs is not in the log any more.
        case offer
        /// 2
        case fetch(Fetch)
        /// 3
        case piece(Piece)
        /// 4: `snapshot u64 | reason u8`. This is not, or no longer, to be had.
        case refused(snapshot: UInt64, SnapshotRefusal)
        /// 5: `snapshot u64`. The asker has it, or has given up: nothing need be kept for it.
        case done(snapshot: UInt64)
    }

    /// `snapshot u64 | base u64 | least u64 | after length u32 | after`
    package struct Fetch: Hashable, Sendable {
        /// 0: any, from its beginning.
        package var snapshot: UInt64
        /// The index of the asker's durable manifest, 0 if a whole one is needed.
        package var base: LogIndex
        /// A state below this index is of no use.
        package var least: LogIndex
        /// The end of the last piece.
        package var after: Bytes

        package init(snapshot: UInt64, base: LogIndex, least: LogIndex, after: Bytes) {
            self.snapshot = snapshot
            self.base = base
            self.least = least
            self.after = after
        }
    }

    /// `snapshot u64 | after length u32 | after | isLast u8 | description length u32 | description | records length u32 |
    /// records`
    package struct Piece: Hashable, Sendable {
        package var snapshot: UInt64
        /// It is the piece behind this position.
        package var after: Bytes
        package var isLast: Bool
        /// Of the first piece.
        package var description: Bytes
        package var records: Bytes

        package init(snapshot: UInt64, after: Bytes, isLast: Bool, description: Bytes, records: Bytes) {
            self.snapshot = snapshot
            self.after = after
            self.isLast = isLast
            self.description = description
            self.records = records
        }
    }

    package var group: GroupID
    package var from: ReplicaID
    package var to: ReplicaID
    package var kind: Kind

    package init(group: GroupID, from: ReplicaID, to: ReplicaID, _ kind: Kind) {
        self.group = group
        self.from = from
        self.to = to
        self.kind = kind
    }

    /// A position is a key with its slot and its machine.
    static let positionBytesMax = 8 << 10
    static let descriptionBytesMax = 64 << 10
    /// Of a piece.
    static let recordsBytesMax = 4 << 20

    var encodedBytes: Int {
        let fixed = 50
        return switch kind {
        case .offer, .refused, .done: fixed
        case .fetch(let fetch): fixed + fetch.after.count
        case .piece(let piece): fixed + piece.after.count + piece.description.count + piece.records.count
        }
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(number)
        writer.write(group)
        writer.write(from)
        writer.write(to)
        func write(_ bytes: Bytes) {
            writer.write(UInt32(bytes.count))
            writer.write(bytes)
        }
        switch kind {
        case .offer: break
        case .fetch(let fetch):
            writer.write(fetch.snapshot)
            writer.write(fetch.base)
            writer.write(fetch.least)
            write(fetch.after)
        case .piece(let piece):
            writer.write(piece.snapshot)
            write(piece.after)
            writer.write(piece.isLast)
            write(piece.description)
            write(piece.records)
        case .refused(let snapshot, let reason):
            writer.write(snapshot)
            writer.write(reason.rawValue)
        case .done(let snapshot): writer.write(snapshot)
        }
    }

    private var number: UInt8 {
        switch kind {
        case .offer: 1
        case .fetch: 2
        case .piece: 3
        case .refused: 4
        case .done: 5
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        func bytes(_ max: Int, _ what: String) throws(DecodingFailure) -> Bytes {
            let count = Int(try reader.read(UInt32.self))
            guard count <= max else {
                throw DecodingFailure(expected: "\(what) of at most \(max) bytes", found: "\(count)")
            }
            return try reader.readBytes(count: count)
        }
        let number = try reader.read(UInt8.self)
        group = try reader.read()
        from = try reader.read()
        to = try reader.read()
        switch number {
        case 1: kind = .offer
        case 2:
            let fetch = Fetch(
                snapshot: try reader.read(), base: try reader.read(), least: try reader.read(),
                after: try bytes(Self.positionBytesMax, "a position"))
            // As everywhere, numbers from 2^62 on are left alone: what is added to one does not overflow.
            guard fetch.base.rawValue < 1 << 62, fetch.least.rawValue < 1 << 62 else {
                throw DecodingFailure(expected: "an index below 2^62", found: "\(fetch.base) and \(fetch.least)")
            }
            kind = .fetch(fetch)
        case 3:
            kind = .piece(
                Piece(
                    snapshot: try reader.read(), after: try bytes(Self.positionBytesMax, "a position"),
                    isLast: try reader.readBool(),
                    description: try bytes(Self.descriptionBytesMax, "a snapshot's description"),
                    records: try bytes(Self.recordsBytesMax, "a piece of a snapshot")))
        case 4:
            let snapshot = try reader.read(UInt64.self)
            let reason = try reader.read(UInt8.self)
            // A reason of a newer version: whatever it is, there is no snapshot.
            kind = .refused(snapshot: snapshot, SnapshotRefusal(rawValue: reason) ?? .gone)
        case 5: kind = .done(snapshot: try reader.read())
        default: throw DecodingFailure(expected: "a word on snapshots of kind 1 to 5", found: "kind \(number)")
        }
    }
}

/// Why a host does not give a snapshot. Another may, or it may later.
package enum SnapshotRefusal: UInt8, Sendable {
    /// It has no sound replica of the group.
    case none = 1
    /// The one that was asked for is not kept any more: begin anew.
    case gone = 2
    /// It gives as many as it may at a time.
    case busy = 3
    /// Its state is not newer than what the asker has.
    case notNewer = 4
}
