// The data directory of a host of a cluster that is made of saved states: as if `init` had just made the cluster, and
// its groups had then written what was saved, and kept no log of it. Offline; which host gets what is in the map.

import Foundation
public import Primitives
public import Ring
public import Storage

/// Fills one new directory. Until `complete` no host starts there, and whatever ends before that leaves a directory that
/// another restoration empties and fills anew. Belongs to one task at a time.
public final class HostRestoration {
    public let path: String
    private let directory: DataDirectory
    private let host: HostRecord
    private let map: ClusterMap
    private let journal: Journal<LMDBDisk>
    private let store: Store<LMDBDisk>
    private var installer: SnapshotInstaller<LMDBDisk>?
    private var sequence: UInt64 = 0
    /// Holds the directory.
    private let mark: RestorationMark
    /// As hosts keep them, so that a full file system shows before a write has begun.
    private static let reserveBytes = 8 << 20

    /// Takes the directory: one that is missing or empty, or in which an earlier restoration was interrupted.
    ///
    /// - Throws: `HostError`: there is something else in it. `DiskError`.
    public init(directory path: String, host: HostID, map: ClusterMap) throws {
        guard let record = map.host(host) else { preconditionFailure("a host that is restored is in the map") }
        self.path = path
        self.host = record
        self.map = map
        mark = try DataDirectory.prepareForRestoration(path)
        do {
            directory = try DataDirectory(path: path)
            var random = SystemRandomNumberGenerator()
            let identity = HostIdentity(
                incarnation: record.incarnation, featureLevel: max(record.featureLevel, FeatureLevel.current),
                journal: random.next() | 1)
            var settings = LMDBDisk.Settings()
            settings.reserveBytes = Self.reserveBytes
            journal = try Journal(
                disk: LMDBDisk(directory: directory.journal, settings: settings), formatting: identity)
            store = try Store(
                disk: LMDBDisk(directory: directory.store, settings: settings),
                formatting: StoreIdentity(cluster: map.cluster, host: host, journal: journal.identity.journal))
        } catch let error as DiskError {
            let code: HostError.Code =
                switch error.code {
                case .full: .exhausted
                case .failed: .disk
                default: .directory
                }
            throw HostError(code, "can't make \(path): \(error)")
        }
    }

    /// Begins with a group that has a replica here: its log begins behind the state, in the state's term, in which
    /// nobody has voted.
    public func begin(_ description: SnapshotDescription, replica: ReplicaID) throws {
        precondition(installer == nil, "one group after the other")
        let group = description.group
        // Ahead of the manifest, which names a commit of the journal that has it.
        sequence = try journal.append([
            .base(group, replica, description.index, description.term),
            .hardState(group, replica, HardState(term: description.term, commit: description.index)),
        ])
        try store.start(
            ManifestHeader(
                group: group, replica: replica, index: .zero, term: .zero, revision: .zero, logTime: .zero,
                configuration: description.configuration, digest: 0, journal: journal.identity.journal,
                journalSequence: sequence))
        installer = try SnapshotInstaller(store, description, replica: replica)
    }

    public func accept(_ piece: Bytes) throws {
        guard let installer else { preconditionFailure("a group is begun first") }
        try installer.accept(piece)
    }

    /// All pieces of the group are there.
    public func finishGroup() throws {
        try installer?.finish(journal: journal.identity.journal, journalSequence: sequence)
        installer = nil
    }

    /// Makes the directory that of a host of the cluster, durably. The last that is done with this value.
    public func complete() throws {
        precondition(installer == nil, "all groups are finished first")
        try directory.save(map)
        var identity = journal.identity
        identity.cluster = map.cluster
        identity.host = host.id
        try journal.update(identity)
        try directory.endRestoration(mark)
    }
}
