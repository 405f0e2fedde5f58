// What the store's tests share: keys and values from a seed, headers, and disks that can be opened again.

import BifrostSimulator
import Foundation
import Primitives
import Storage
import Testing

func storeKey(_ slot: UInt16, _ text: String, machine: UInt16 = 1) -> RecordKey {
    RecordKey(slot: Slot(slot), machine: SubMachineNumber(machine), key: Bytes(text))
}

func storeHeader(_ index: UInt64, replica: UInt64 = 7, digest: UInt64 = 0) -> ManifestHeader {
    ManifestHeader(
        group: GroupID(3), replica: ReplicaID(replica), index: LogIndex(index), term: Term(1),
        revision: Revision(index),
        logTime: LogTime(index * 10), configuration: Configuration(voters: [ReplicaID(replica), ReplicaID(8)]),
        digest: digest,
        journal: 99, journalSequence: index)
}

let storeIdentity = StoreIdentity(cluster: ClusterID(high: 1, low: 2), host: HostID(3), journal: 99)

/// Bytes whose content tells their length and seed.
func storeValue(_ count: Int, _ seed: UInt64) -> Bytes {
    Bytes(count: count) { place in
        var random = SeededRandom(seed: seed)
        for offset in place.indices { place[offset] = UInt8(truncatingIfNeeded: random.next()) }
    }
}

func frozen(_ records: [Record]) -> FrozenMemtable {
    let memtable = Memtable()
    for record in records { memtable.put(record) }
    return memtable.freeze()
}

func record(_ key: RecordKey, _ index: UInt64, _ value: String?) -> Record {
    Record(key: key, revision: Revision(index), changed: LogIndex(index), value: value.map { Bytes($0) })
}

/// All records of a view, page by page.
func allRecords<D: Disk>(_ store: Store<D>, _ view: StoreView, tombstones: Bool = false, recordsMax: Int = 7) throws
    -> [Record]
{
    var all: [Record] = []
    var next: RecordKey?
    repeat {
        let page = try store.page(
            in: view, from: next, recordsMax: recordsMax, bytesMax: 100_000, tombstones: tombstones)
        all += page.records
        next = page.next
    } while next != nil
    return all
}

func code(_ body: () throws -> Void) -> DiskError.Code? {
    do {
        try body()
        return nil
    } catch let error as DiskError {
        return error.code
    } catch {
        Issue.record("expected a DiskError, found \(error)")
        return nil
    }
}

/// A directory for one LMDB environment, removed at the end.
final class StoreDirectory {
    let path: String
    init() {
        path = NSTemporaryDirectory() + "bifrost-store-" + String(UInt64.random(in: 0..<UInt64.max), radix: 36)
        try? FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}
