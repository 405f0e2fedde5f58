// A replica's manifest: the truth about its state on disk. Owns its encoding; how it changes is ManifestEdit's affair.
//
//     magic "BfMf" | version u16 = 1 | 0 u16 | edits u64 | group u32 | 0 u32 | replica u64 | index u64 | term u64
//     | revision u64 | log time u64 | horizon u64 | digest u64 | journal u64 | journal sequence u64
//     | chunks u64 | records u64 | configuration (its own version) | floors u16 = 0 (reserved) | runs u16
//     | per run: id u64, from u64, to u64, data chunks u32, index chunks u32, filter chunks u32, 0 u32,
//       records u64, tombstones u64, bytes u64
//     | CRC u32 of all before, seeded with the key (2, replica, 0)

public import Primitives

/// A run as its manifest knows it: records that changed in (from, to].
public struct RunDescriptor: Hashable, Sendable {
    public var id: RunID
    public var from: LogIndex
    public var to: LogIndex
    /// Chunks of records and of pieces of large values: 0..<dataChunks.
    public var dataChunks: UInt32
    /// Then the index; its root is the last of these.
    public var indexChunks: UInt32
    /// Then the filter.
    public var filterChunks: UInt32
    /// Tombstones among them.
    public var records: UInt64
    public var tombstones: UInt64
    /// Of all chunks.
    public var bytes: UInt64

    public var chunks: Int { Int(dataChunks) + Int(indexChunks) + Int(filterChunks) }

    static let encodedBytes = 64
}

/// What a host knows about a replica at the moment of a freeze.
public struct ManifestHeader: Hashable, Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    /// The last entry applied, and its term.
    public var index: LogIndex
    public var term: Term
    public var revision: Revision
    public var logTime: LogTime
    /// In effect at `index`.
    public var configuration: Configuration
    /// Rolling digest of the effects of all entries through `index`.
    public var digest: UInt64
    /// The journal's id, and its commit that made `index` durable here.
    public var journal: UInt64
    public var journalSequence: UInt64

    public init(
        group: GroupID, replica: ReplicaID, index: LogIndex, term: Term, revision: Revision, logTime: LogTime,
        configuration: Configuration, digest: UInt64, journal: UInt64, journalSequence: UInt64
    ) {
        self.group = group
        self.replica = replica
        self.index = index
        self.term = term
        self.revision = revision
        self.logTime = logTime
        self.configuration = configuration
        self.digest = digest
        self.journal = journal
        self.journalSequence = journalSequence
    }
}

/// A replica's durable state: what it is as of which index, and the runs it consists of, oldest first.
public struct Manifest: Hashable, Sendable {
    public var header: ManifestHeader
    /// Greatest index of last change of a tombstone that was dropped: an increment on a base below it would miss
    /// deletions.
    public var horizon: LogIndex
    /// Oldest first.
    public var runs: [RunDescriptor]
    /// How often it was edited: tells two manifests of one replica apart.
    public var edits: UInt64

    public var group: GroupID { header.group }
    public var replica: ReplicaID { header.replica }
    public var index: LogIndex { header.index }
    public var term: Term { header.term }
    public var revision: Revision { header.revision }
    public var logTime: LogTime { header.logTime }
    public var configuration: Configuration { header.configuration }
    public var digest: UInt64 { header.digest }
    public var journal: UInt64 { header.journal }
    public var journalSequence: UInt64 { header.journalSequence }

    /// Chunks of all runs.
    public var chunks: Int { runs.reduce(0) { $0 + $1.chunks } }
    /// Records of all runs; a key counts once per run.
    public var records: UInt64 { runs.reduce(0) { $0 &+ $1.records } }
    public var bytes: UInt64 { runs.reduce(0) { $0 &+ $1.bytes } }

    init(header: ManifestHeader, horizon: LogIndex = .zero, runs: [RunDescriptor] = [], edits: UInt64 = 0) {
        self.header = header
        self.horizon = horizon
        self.runs = runs
        self.edits = edits
    }

    static let magic: UInt32 = 0x664d_6642
    static let version: UInt16 = 1
    /// Merging keeps a replica at some eight; beyond this bound a checkpoint is refused.
    public static let runsMax = 1_024

    static func key(_ replica: ReplicaID) -> DiskKey { DiskKey(table: StoreTable.manifests, high: replica.rawValue) }

    func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 256 + runs.count * RunDescriptor.encodedBytes)
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(0 as UInt16)
        writer.write(edits)
        writer.write(group)
        writer.write(0 as UInt32)
        writer.write(replica)
        writer.write(index)
        writer.write(term)
        writer.write(revision)
        writer.write(logTime)
        writer.write(horizon)
        writer.write(digest)
        writer.write(journal)
        writer.write(journalSequence)
        writer.write(UInt64(chunks))
        writer.write(records)
        configuration.encode(into: &writer)
        writer.write(0 as UInt16)
        writer.write(UInt16(runs.count))
        for run in runs {
            writer.write(run.id)
            writer.write(run.from)
            writer.write(run.to)
            writer.write(run.dataChunks)
            writer.write(run.indexChunks)
            writer.write(run.filterChunks)
            writer.write(0 as UInt32)
            writer.write(run.records)
            writer.write(run.tombstones)
            writer.write(run.bytes)
        }
        let checksum = writer.withUnsafeBytes { crc32c($0, seed: Self.key(replica).checksumSeed) }
        writer.write(checksum)
        return writer.take()
    }

    /// Reads what `encoded` wrote under this replica's key. Throws `.corrupt`, or `.refused` for a newer format.
    init(_ bytes: Bytes, replica: ReplicaID) throws(DiskError) {
        func corrupt(_ what: String) -> DiskError { DiskError(.corrupt, "manifest of replica \(replica): \(what)") }
        guard bytes.count >= 12 else { throw corrupt("expected a manifest, found \(bytes.count) bytes") }
        let content = bytes[0..<bytes.count - 4]
        let stored = bytes.withUnsafeBytes {
            UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: $0.count - 4, as: UInt32.self))
        }
        let computed = content.withUnsafeBytes { crc32c($0, seed: Self.key(replica).checksumSeed) }
        guard stored == computed else { throw corrupt("the checksum does not match") }
        var reader = ByteReader(content)
        do throws(DecodingFailure) {
            guard try reader.read(UInt32.self) == Self.magic else {
                throw DecodingFailure(expected: "a manifest", found: "other bytes")
            }
            let version = try reader.read(UInt16.self)
            if version != Self.version {
                throw DecodingFailure(expected: "version \(Self.version)", found: "version \(version)")
            }
            self = try Manifest(content: &reader)
        } catch {
            if error.found.hasPrefix("version") {
                throw DiskError(
                    .refused, "manifest of replica \(replica): \(error.description); a newer bifrost wrote it")
            }
            throw corrupt(error.description)
        }
        guard self.replica == replica else { throw corrupt("it is replica \(self.replica)'s") }
    }

    private init(content reader: inout ByteReader) throws(DecodingFailure) {
        func reserved<Integer: FixedWidthInteger>(_ value: Integer) throws(DecodingFailure) {
            guard value == 0 else { throw DecodingFailure(expected: "0 in a reserved field", found: "\(value)") }
        }
        try reserved(try reader.read(UInt16.self))
        edits = try reader.read()
        let group = try reader.read(GroupID.self)
        try reserved(try reader.read(UInt32.self))
        let replica = try reader.read(ReplicaID.self)
        let index = try reader.read(LogIndex.self)
        let term = try reader.read(Term.self)
        let revision = try reader.read(Revision.self)
        let logTime = try reader.read(LogTime.self)
        horizon = try reader.read()
        let digest = try reader.read(UInt64.self)
        let journal = try reader.read(UInt64.self)
        let journalSequence = try reader.read(UInt64.self)
        let chunks = try reader.read(UInt64.self)
        let records = try reader.read(UInt64.self)
        let configuration = try Configuration(from: &reader)
        header = ManifestHeader(
            group: group, replica: replica, index: index, term: term, revision: revision, logTime: logTime,
            configuration: configuration, digest: digest, journal: journal, journalSequence: journalSequence)
        try reserved(try reader.read(UInt16.self))
        let count = Int(try reader.read(UInt16.self))
        try reader.check(count: count, ofSize: RunDescriptor.encodedBytes)
        runs = []
        for _ in 0..<count {
            let run = try RunDescriptor(from: &reader)
            guard run.from >= runs.last?.to ?? .zero, run.from <= run.to, run.to <= index else {
                throw DecodingFailure(
                    expected: "runs in order, up to index \(index)", found: "run \(run.id) of (\(run.from), \(run.to)]")
            }
            runs.append(run)
        }
        try reader.expectEnd()
        guard UInt64(self.chunks) == chunks, self.records == records else {
            throw DecodingFailure(
                expected: "runs of \(chunks) chunks and \(records) records in all",
                found: "\(self.chunks) and \(self.records)")
        }
    }
}

extension RunDescriptor {
    init(from reader: inout ByteReader) throws(DecodingFailure) {
        id = try reader.read()
        from = try reader.read()
        to = try reader.read()
        dataChunks = try reader.read()
        indexChunks = try reader.read()
        filterChunks = try reader.read()
        guard try reader.read(UInt32.self) == 0 else {
            throw DecodingFailure(expected: "0 in a reserved field", found: "more")
        }
        records = try reader.read()
        tombstones = try reader.read()
        bytes = try reader.read()
        guard dataChunks > 0, indexChunks > 0, filterChunks > 0, chunks <= Int(UInt32.max), tombstones <= records else {
            throw DecodingFailure(expected: "a run with data, index and filter", found: "run \(id) without")
        }
    }
}
