// What a snapshot is: the state that it leads to, and from which base. Owns the description's encoding and the errors of
// snapshots; pieces are SnapshotPiece's affair, who sends them when is the host's.
//
//     version u16 = 1 | group u32 | base u64 | index u64 | term u64 | revision u64 | log time u64 | digest u64
//     | horizon u64 | records u64 | tombstones u64 | configuration (its own version)

public import Primitives

/// Why a snapshot, or a piece of one, is refused. Nothing was changed, and the installation goes on, but where a case
/// says that it has ended.
public struct SnapshotError: Error, Hashable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The sender has dropped tombstones that this increment needs: send a full snapshot.
        case baseBelowHorizon
        /// The sender's state does not go beyond the base: there is nothing to send.
        case nothingNewer
        /// The piece's bytes are damaged, or of a format that this version does not know: ask for it again.
        case badPiece
        /// The piece is of another snapshot.
        case otherSnapshot
        /// Pieces before this one are missing: ask for the one behind the position reached.
        case gap
        /// The last piece has not come yet.
        case incomplete
        /// Records came, or went missing, that the description did not count. The installation has ended.
        case wrongCount
        /// The installation ended before: begin a new one.
        case ended
    }
    public var code: Code
    public var message: String
    public init(_ code: Code, _ message: String) { self.code = code; self.message = message }
    public var description: String { message }
}

/// A snapshot as sender and receiver speak of it: the state of a group at `index`, as what changed after `base`.
public struct SnapshotDescription: Hashable, Sendable {
    public var group: GroupID
    /// The receiver's durable manifest ends here; zero: a full snapshot, for whatever the receiver has.
    public var base: LogIndex
    /// The last entry whose effects are in it, and its term.
    public var index: LogIndex
    public var term: Term
    public var revision: Revision
    public var logTime: LogTime
    /// In effect at `index`.
    public var configuration: Configuration
    /// Rolling digest of the effects of all entries through `index`.
    public var digest: UInt64
    /// The receiver's horizon is not lower afterwards. Of a full snapshot, which has no tombstones, its index.
    public var horizon: LogIndex
    /// Of all pieces together; tombstones among them.
    public var records: UInt64
    public var tombstones: UInt64

    /// Above this a description is refused: the receiver takes 10 bits of memory for each record.
    public static let recordsMax: UInt64 = 1 << 30
    static let version: UInt16 = 1

    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.version)
        writer.write(group)
        writer.write(base)
        writer.write(index)
        writer.write(term)
        writer.write(revision)
        writer.write(logTime)
        writer.write(digest)
        writer.write(horizon)
        writer.write(records)
        writer.write(tombstones)
        configuration.encode(into: &writer)
    }

    /// Reads what `encode` wrote, and refuses what no sender says.
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == Self.version else {
            throw DecodingFailure(
                expected: "a snapshot's description of version \(Self.version)", found: "version \(version)")
        }
        group = try reader.read()
        base = try reader.read()
        index = try reader.read()
        term = try reader.read()
        revision = try reader.read()
        logTime = try reader.read()
        digest = try reader.read()
        horizon = try reader.read()
        records = try reader.read()
        tombstones = try reader.read()
        configuration = try Configuration(from: &reader)
        // As everywhere, numbers from 2^62 on are left alone: what is added to one does not overflow.
        for number in [index.rawValue, term.rawValue, revision.rawValue, logTime.rawValue] where number >= 1 << 62 {
            throw DecodingFailure(expected: "numbers below 2^62", found: "\(number)")
        }
        guard base < index, horizon == index && tombstones == 0 || base > .zero && horizon <= base else {
            throw DecodingFailure(
                expected: "a snapshot that ends above its base, with a horizon that fits",
                found: "(\(base), \(index)], horizon \(horizon), \(tombstones) tombstones")
        }
        guard records <= Self.recordsMax, tombstones <= records else {
            throw DecodingFailure(
                expected: "at most \(Self.recordsMax) records", found: "\(records), \(tombstones) of them tombstones")
        }
    }

    init(_ manifest: Manifest, base: LogIndex, records: UInt64, tombstones: UInt64) {
        group = manifest.group
        self.base = base
        index = manifest.index
        term = manifest.term
        revision = manifest.revision
        logTime = manifest.logTime
        configuration = manifest.configuration
        digest = manifest.digest
        horizon =
            base == .zero
            ? manifest.index : isPlanted("increment-below-horizon") ? min(base, manifest.horizon) : manifest.horizon
        self.records = records
        self.tombstones = tombstones
    }

    /// What the receiver's manifest says of itself afterwards.
    func header(replica: ReplicaID, journal: UInt64, journalSequence: UInt64) -> ManifestHeader {
        ManifestHeader(
            group: group, replica: replica, index: index, term: term, revision: revision, logTime: logTime,
            configuration: configuration, digest: digest, journal: journal, journalSequence: journalSequence)
    }
}
