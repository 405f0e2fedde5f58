// Appends, overwrites and trims a journal of four replicas. What an entry holds follows from replica, index and term,
// so the
// parent can check every byte.

import Primitives
import Storage

/// Lines: `last REPLICA INDEX TERM` after a commit: the log of the replica ends there (overwriting only ever raises the
/// term),
/// `trim REPLICA INDEX` before a trim: entries up to the index may go; `base REPLICA INDEX` after it: they are gone.
func writeJournal(directory: String, seed: UInt64, steps: Int) throws {
    var random = SeededRandom(seed: seed)
    let identity = HostIdentity(incarnation: Incarnation(1), journal: 42)
    let journal = try Journal(
        disk: try LMDBDisk(directory: directory, settings: helperDiskSettings(seed: seed)),
        formatting: identity)
    var applied: [UInt64] = [0, 0, 0, 0, 0]
    for log in journal.recovered() { applied[Int(log.replica.rawValue)] = log.base.rawValue }
    for _ in 0..<steps {
        var records: [JournalRecord] = []
        var lines: [String] = []
        for replica in 1...4 as ClosedRange<UInt64> where random.below(3) > 0 {
            let log = journal.log(of: ReplicaID(replica))
            let last = log?.last.rawValue ?? 0
            let floor = max(applied[Int(replica)], log?.base.rawValue ?? 0)
            var term = max(log?.termRuns.last?.term.rawValue ?? 0, log?.baseTerm.rawValue ?? 0, 1)
            var first = last + 1
            if random.below(5) == 0, last > floor {
                first = floor + 1 + random.below(last - floor)
                term += 1
            }
            let count = 1 + random.below(20)
            let list = (first..<first + count).map { killTestEntry(replica: replica, index: $0, term: term) }
            records.append(.append(GroupID(UInt32(replica)), ReplicaID(replica), list))
            records.append(
                .hardState(
                    GroupID(UInt32(replica)), ReplicaID(replica), HardState(term: Term(term), commit: LogIndex(floor))))
            lines.append("last \(replica) \(first + count - 1) \(term)")
        }
        _ = try journal.append(records)
        if !lines.isEmpty { acknowledge(lines.joined(separator: "\n")) }
        if random.below(10) == 0 {
            for replica in 1...4 as ClosedRange<UInt64> {
                guard let log = journal.log(of: ReplicaID(replica)) else { continue }
                let low = max(applied[Int(replica)], log.base.rawValue)
                applied[Int(replica)] = low + random.below(log.last.rawValue - low + 1)
                acknowledge("trim \(replica) \(applied[Int(replica)])")
            }
            _ = try journal.trim(
                superfluousThrough: (1...4).map { (ReplicaID($0), LogIndex(applied[Int($0)])) })
            let bases = journal.recovered().map { "base \($0.replica) \($0.base)" }
            if !bases.isEmpty { acknowledge(bases.joined(separator: "\n")) }
        }
    }
}

/// A small map, so that it grows; by turns with zeros ahead, with nothing, and with a reserve.
func helperDiskSettings(seed: UInt64) -> LMDBDisk.Settings {
    .init(
        mapBytes: 1 << 18, preallocateBytes: seed % 3 == 0 ? 1 << 20 : 0, reserveBytes: seed % 3 == 2 ? 1 << 20 : 0)
}

/// The one entry that stands at this place.
func killTestEntry(replica: UInt64, index: UInt64, term: UInt64) -> LogEntry {
    var random = SeededRandom(seed: replica << 48 ^ index << 8 ^ term)
    let count = Int(random.below(600))
    let fill = UInt8(truncatingIfNeeded: random.next())
    return LogEntry(
        index: LogIndex(index), term: Term(term), logTime: LogTime(index), kind: .command,
        payload: Bytes(Array(repeating: fill, count: count)))
}
