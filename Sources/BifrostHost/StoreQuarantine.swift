// What a start does about an environment that ended an earlier process, or that can't be opened: looks through the file,
// and puts a store that is damaged aside when the other hosts can give back what was in it. Owns the order in which that
// happens; what is found in a file is judged below, and what a replica without its state may do is decided above.
//
//   DAMAGED is there, or the store does not open
//      │ the file is read through, past LMDB
//      ├─ sound ──────────────────► the note goes, all is as ever
//      └─ damaged
//            ├─ the journal ──────► no start: votes are in it
//            └─ the store
//                 ├─ the journal is damaged too, or a group has nothing but this copy ──► no start
//                 └─ else ────────► store ──► store.damaged-N, and an empty one: to the journal, a store that was lost

import Foundation
import LMDB
import Logging
import Primitives
import Ring
import Storage

struct StoreQuarantine {
    let directory: DataDirectory
    let logger: Logger

    // MARK: The journal

    /// Before the journal is opened.
    ///
    /// - Throws: `HostError` if it is damaged.
    func lookAtJournal() throws {
        guard ClosedEnvironment.hasNote(path: directory.journal) else { return }
        let environment = try held(directory.journal)
        guard let note = environment.note else { return }
        announce(directory.journal, because: note)
        do throws(DiskError) { try environment.examineJournal() } catch {
            guard error.code == .corrupt else { throw error }
            throw HostError(
                .directory,
                "\(directory.journal) is damaged (\(error.message)). The host's votes are in it, so its disk counts as lost: "
                    + "look at the disk, move \(directory.path) away as a whole, and add a new host in its place (bifrost host "
                    + "add), then drain and remove this one; 'bifrost recover' if a group has no majority without it")
        }
        try removeNote(of: environment)
    }

    private func removeNote(of environment: borrowing ClosedEnvironment) throws {
        do throws(LMDBError) { try environment.removeNote() } catch { throw DiskError(error) }
        logger.notice("the file is sound; this host starts as ever", metadata: ["file": "\(environment.path)"])
    }

    private func announce(_ path: String, because why: String) {
        logger.warning(
            "a file is read through before it is believed, which takes as long as the disk does",
            metadata: ["file": "\(path)", "because": "\(why)"])
    }

    // MARK: The store

    /// Opens the store, or an empty one if it had to be put aside.
    ///
    /// - Parameter journalDisk: says whose the store is. Nothing of it is changed.
    /// - Throws: `DiskError`; `HostError` with what to do, if it is damaged and can't be put aside.
    func openStore(_ settings: LMDBDisk.Settings, beside journalDisk: LMDBDisk) throws -> LMDBDisk {
        if ClosedEnvironment.hasNote(path: directory.store) { try lookAtStore(because: nil, beside: journalDisk) }
        do { return try LMDBDisk(directory: directory.store, settings: settings) } catch let error as DiskError {
            guard error.code == .corrupt || error.code == .failed,
                try lookAtStore(because: error, beside: journalDisk)
            else { throw error }
        }
        return try LMDBDisk(directory: directory.store, settings: settings)
    }

    /// Whether it was put aside.
    @discardableResult
    private func lookAtStore(because failure: DiskError?, beside journalDisk: LMDBDisk) throws -> Bool {
        let environment = try held(directory.store)
        announce(directory.store, because: failure?.message ?? environment.note ?? "")
        let examination = try environment.examineStore()
        if let damage = examination.damage {
            try putAside(environment, damage, examination, beside: journalDisk)
            return true
        }
        if environment.note != nil { try removeNote(of: environment) }
        return false
    }

    private func putAside(
        _ environment: borrowing ClosedEnvironment, _ damage: DiskError, _ examination: StoreExamination,
        beside journalDisk: LMDBDisk
    ) throws {
        func refusal(_ why: String) -> HostError {
            HostError(.directory, "\(directory.store) is damaged (\(damage.message)), and \(why)")
        }
        let journal = try Journal(disk: journalDisk, formatting: nil)
        guard journal.identity.cluster != .none, !journal.isDamaged else {
            // Which ids were used up here is in the store, if it is not in a journal that is whole.
            throw refusal(
                "the journal beside it lost records too: the disk counts as lost; start with an empty directory")
        }
        // An empty store can't tell any more that the journal is another's, or an older copy.
        guard examination.journal ?? journal.identity.journal == journal.identity.journal,
            examination.journalSequence <= journal.lastSequence
        else {
            throw refusal(
                "the journal beside it is not the one that it was written with: the disk counts as lost; start with an "
                    + "empty directory")
        }
        guard let map = try directory.loadMap(), map.cluster == journal.identity.cluster else {
            throw refusal(
                "no copy of the cluster's map says what the other hosts have: copy the file cluster-map from the directory "
                    + "of another host, and start again")
        }
        let alone = try groupsOnlyHere(journal, examination.configurations, map)
        guard alone.isEmpty else {
            let groups = alone.prefix(8).map { "\($0)" }.joined(separator: ", ") + (alone.count > 8 ? ", …" : "")
            throw refusal(
                "no other host has a copy of group \(groups): this host does not start without it. Copy \(directory.path) "
                    + "before anything else. 'bifrost snapshot restore' makes a cluster of a save. To give up these groups "
                    + "and start with the others, move \(directory.store) away by hand, and start again")
        }
        if let earlier = try directory.storesAside().first {
            // A second one is a disk that goes on failing; and each takes the space of a store.
            throw refusal(
                "an earlier one was put aside already: replace the disk if it goes on failing (drain the host, and remove "
                    + "it), or delete or move \(directory.path)/\(earlier), and start again")
        }
        let aside = "\(directory.path)/\(DataDirectory.asidePrefix)\(journal.identity.bootCounter)"
        do throws(LMDBError) { try environment.rename(to: aside) } catch { throw DiskError(error) }
        try DurableDirectory.sync(directory.path)
        try DurableDirectory.make(directory.store)
        logger.error(
            """
            the store is damaged and was put aside; this host begins with an empty one: replicas whose logs go back to the \
            beginning make their states anew, the others vote, and neither lead nor serve until they have got another \
            host's. Look at the disk; when 'bifrost status' says healthy, delete what was put aside
            """, metadata: ["damage": "\(damage.message)", "aside": "\(aside)"])
    }

    /// Groups whose state is in this store, and in no other host's as far as this host knows: it alone votes, and its log
    /// does not go back to the beginning. The log says who votes, or the manifest if that is newer and can still be read;
    /// where both are silent the map's copy, which may be old. What none of them knows counts as alone. Ascending. Reads all
    /// logs, some at a time.
    ///
    /// - Parameter manifests: the configurations that the store's manifests have.
    private func groupsOnlyHere(
        _ journal: Journal<LMDBDisk>, _ manifests: [ReplicaID: (index: LogIndex, configuration: Configuration)],
        _ map: ClusterMap
    ) throws -> [GroupID] {
        var groups: [GroupID] = []
        for log in journal.recovered() where !log.isTombstone && (log.base > .zero || log.isDamaged) {
            func isAlone(_ configuration: Configuration) -> Bool {
                configuration.voters == [log.replica] || configuration.outgoing == [log.replica]
            }
            // That which counts, and those that may. A replica that came late has a manifest that names nobody yet.
            let manifest = manifests[log.replica]
            let commit = max(log.hardState.commit, manifest?.index ?? .zero)
            var committed = manifest.flatMap { $0.configuration.voters.isEmpty ? nil : $0.configuration }
            var isAloneLater = false
            var from = log.base.next
            while !log.isDamaged, from <= log.last {
                let entries = try journal.entries(
                    of: log.replica, from: from, through: log.last, bytesMax: Self.readBytes)
                guard let last = entries.last else { break }
                for entry in entries where entry.kind == .configuration {
                    var reader = ByteReader(entry.payload)
                    guard let configuration = try? Configuration(from: &reader) else { continue }
                    if entry.index <= commit {
                        if entry.index > manifest?.index ?? .zero { committed = configuration }
                    } else if isAlone(configuration) {
                        isAloneLater = true
                    }
                }
                from = last.index.next
            }
            let voters = map.group(log.group)?.replicas.filter { $0.membership == .voter }.map(\.id) ?? []
            let known = committed ?? (voters.isEmpty ? nil : Configuration(voters: voters))
            if isAloneLater || known.map(isAlone) ?? true { groups.append(log.group) }
        }
        return groups.sorted()
    }

    private static let readBytes = 4 << 20

    private func held(_ path: String) throws(DiskError) -> ClosedEnvironment {
        do throws(LMDBError) { return try ClosedEnvironment(path: path) } catch { throw DiskError(error) }
    }
}

extension Host {
    /// From now on the host's environments are named when a page of their files ends this process: see
    /// `Environment.noteFaults`. For a program that does nothing else.
    public static func noteFaults() { Environment.noteFaults() }
}
