// Checkpoints, merges and reclaims a store of two replicas. What a replica holds follows from its index alone, so the
// parent can check every record.

import Primitives
import Storage

/// The change that a replica's entry at this index makes. The test has the same function.
func storeKillRecord(replica: UInt64, index: UInt64) -> Record {
    var random = SeededRandom(seed: replica << 48 ^ index)
    let key = RecordKey(
        slot: Slot(UInt16(random.below(50))), machine: SubMachineNumber(1), key: Bytes("key \(random.below(40))"))
    let isDeleted = random.below(4) == 0
    let count = random.below(200) == 0 ? 100_000 : Int(random.below(900))
    let fill = UInt8(truncatingIfNeeded: random.next())
    return Record(
        key: key, revision: Revision(index), changed: LogIndex(index),
        value: isDeleted ? nil : Bytes(Array(repeating: fill, count: count)))
}

/// Lines: `at REPLICA INDEX` for each replica of a checkpoint when it is durable, and when a replica was started.
func writeStore(directory: String, seed: UInt64, steps: Int) throws {
    var random = SeededRandom(seed: seed)
    let settings = StoreSettings(cacheBytesMax: 1 << 20, transactionBytesMax: 256 << 10, deletionsMax: 4)
    let store = try Store(
        disk: try LMDBDisk(directory: directory, settings: helperDiskSettings(seed: seed)),
        formatting: StoreIdentity(cluster: .none, host: HostID(1), journal: 42), settings: settings)
    func header(_ replica: UInt64, _ index: UInt64) -> ManifestHeader {
        ManifestHeader(
            group: GroupID(1), replica: ReplicaID(replica), index: LogIndex(index), term: Term(1),
            revision: Revision(index),
            logTime: .zero, configuration: Configuration(voters: [ReplicaID(replica)]), digest: index, journal: 42,
            journalSequence: 0)
    }
    for replica in 1...2 as ClosedRange<UInt64> where store.manifest(of: ReplicaID(replica)) == nil {
        try store.start(header(replica, 0))
        acknowledge("at \(replica) 0")
    }
    let memtable = Memtable()
    for _ in 0..<steps {
        var parts: [CheckpointPart] = []
        for replica in 1...2 as ClosedRange<UInt64> where random.below(3) > 0 {
            let base = store.manifest(of: ReplicaID(replica))!.index.rawValue
            let end = base + 1 + random.below(1_500)
            for index in base + 1...end { memtable.put(storeKillRecord(replica: replica, index: index)) }
            parts.append(CheckpointPart(memtable.freeze(), header(replica, end)))
        }
        let manifests = try store.checkpoint(parts)
        if !manifests.isEmpty {
            acknowledge(manifests.map { "at \($0.replica) \($0.index)" }.joined(separator: "\n"))
        }
        for replica in 1...2 as ClosedRange<UInt64> {
            let runs = store.manifest(of: ReplicaID(replica))!.runs.count
            if runs > 2, random.below(3) == 0 {
                try store.merge(ReplicaID(replica), range: runs - 2..<runs)
            } else {
                try store.merge(ReplicaID(replica))
            }
        }
        for _ in 0..<random.below(8) { _ = try store.reclaim() }
    }
}
