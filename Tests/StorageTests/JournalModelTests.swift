// Random records, prefix deletions, restarts and faults beside a plain model of each log, on both disks.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct JournalModelTests {
    private struct Model: Equatable {
        var hardState = HardState()
        var base: UInt64 = 0
        var baseTerm: UInt64 = 0
        var entries: [LogEntry] = []
        var isTombstone = false
        var last: UInt64 { base + UInt64(entries.count) }
        func term(_ index: UInt64) -> UInt64 {
            index == base ? baseTerm : entries[Int(index - base) - 1].term.rawValue
        }
    }

    @Test(arguments: 1...200 as ClosedRange<UInt64>) func onTheSimulatedDisk(seed: UInt64) throws {
        let fixture = SimulatedFixture(seed: seed)
        try run(fixture, seed: seed, operations: 120) { random in
            // A failed write, there or not there after the restart; or the process ends at it.
            switch random.below(4) {
            case 0:
                fixture.set(.everyWriteFails)
                return false
            case 1:
                fixture.disk.faults.nextWriteFailsButStays = true
                return true
            default:
                fixture.disk.faults.transactionsUntilEnd = 0
                fixture.disk.faults.endsBehindTransaction = random.below(2) == 0
                return fixture.disk.faults.endsBehindTransaction
            }
        }
    }

    @Test(arguments: 1...40 as ClosedRange<UInt64>) func onLMDB(seed: UInt64) throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 28), isInMemory: true)
        try run(fixture, seed: seed, operations: 120) { _ in
            try fixture.set(.everyWriteFails)
            return false
        }
    }

    private func run<Fixture: DiskFixture>(
        _ fixture: Fixture, seed: UInt64, operations: Int, fault: (inout SeededRandom) throws -> Bool
    ) throws {
        var random = SeededRandom(seed: seed)
        var models: [UInt64: Model] = [:]
        var journal: Journal<Fixture.Storage>? = try Journal(disk: fixture.disk, formatting: sampleIdentity)
        let large = seed % 4 == 0
        var checkpoint: [UInt64: UInt64] = [:]
        for _ in 0..<operations {
            switch random.below(20) {
            case 0..<13:
                var next = models
                var records: [JournalRecord] = []
                for _ in 0...random.below(4) {
                    let replica = 1 + random.below(4)
                    var model = next[replica] ?? Model()
                    guard !model.isTombstone else { continue }
                    let floor = max(model.base, checkpoint[replica] ?? 0)
                    switch random.below(20) {
                    case 0..<12:
                        let first =
                            random.below(4) > 0 ? model.last + 1 : floor + 1 + random.below(model.last - floor + 1)
                        let term = (first > 1 ? model.term(first - 1) : 0) + (random.below(3) == 0 ? 1 : 0)
                        let bytes = large && random.below(3) == 0 ? Int(random.below(400_000)) : Int(random.below(200))
                        let list = (0...random.below(5)).map { number in
                            entry(first + number, term: term + (number > 2 ? 1 : 0), bytes: bytes)
                        }
                        records.append(.append(GroupID(UInt32(replica)), ReplicaID(replica), list))
                        model.entries.removeSubrange(Int(first - model.base - 1)...)
                        model.entries += list
                    case 12..<14:
                        let from = floor + 1 + random.below(model.last - floor + 1)
                        records.append(truncate(replica, from: from))
                        model.entries.removeSubrange(min(model.entries.count, Int(from - model.base - 1))...)
                    case 14 where random.below(3) == 0:
                        let index = model.last + random.below(10)
                        records.append(base(replica, index, term: 7))
                        model.base = index
                        model.baseTerm = 7
                        model.entries = []
                    case 15 where random.below(8) == 0:
                        records.append(tombstone(replica))
                        model.entries = []
                        model.isTombstone = true
                    default:
                        let term = random.below(100)
                        records.append(state(replica, term: term, vote: replica, commit: floor))
                        model.hardState = HardState(term: Term(term), vote: ReplicaID(replica), commit: LogIndex(floor))
                    }
                    next[replica] = model
                }
                if !records.isEmpty, random.below(25) == 0 {
                    // No space first: nothing happens, and the same records go in when there is some.
                    try fixture.set(.noSpace)
                    #expect(failure { try journal!.append(records) } == .full)
                    try fixture.set(.none)
                    try compare(journal!, models)
                    if random.below(2) == 0 {
                        _ = try journal!.append(records)
                        models = next
                        continue
                    }
                    let isThere = try fault(&random)
                    #expect(throws: (any Error).self) { try journal!.append(records) }
                    if isThere { models = next }
                    journal = nil
                    try fixture.reopen()
                    journal = try Journal(disk: fixture.disk, formatting: nil)
                    try compare(journal!, models)
                } else {
                    let before = journal!.lastSequence
                    #expect(try journal!.append(records) == before + (records.isEmpty ? 0 : 1))
                    models = next
                }
            case 13..<16:
                // Checkpoints somewhere in the logs, then prefix deletion.
                for (replica, model) in models.sorted(by: { $0.key < $1.key }) where !model.isTombstone {
                    let low = max(model.base, checkpoint[replica] ?? 0)
                    checkpoint[replica] = max(low, low + random.below(model.last - low + 1))
                }
                let pairs = checkpoint.sorted { $0.key < $1.key }.map { (ReplicaID($0.key), LogIndex($0.value)) }
                _ = try journal!.trim(superfluousThrough: pairs)
                for (replica, model) in models.sorted(by: { $0.key < $1.key }) {
                    let log = try #require(journal!.log(of: ReplicaID(replica)))
                    let risen = log.base.rawValue
                    #expect(risen >= model.base && risen <= max(model.base, checkpoint[replica] ?? 0))
                    var model = model
                    model.baseTerm = model.term(risen)
                    model.entries.removeFirst(Int(risen - model.base))
                    model.base = risen
                    models[replica] = model
                }
                try compare(journal!, models)
            case 16..<18:
                journal = nil
                try fixture.reopen()
                journal = try Journal(disk: fixture.disk, formatting: nil)
                try compare(journal!, models)
            default: try compare(journal!, models, bytesMax: Int(random.below(2_000)))
            }
        }
        journal = nil
        try fixture.reopen()
        try compare(try Journal(disk: fixture.disk, formatting: nil), models)
    }

    private func compare(_ journal: Journal<some Disk>, _ models: [UInt64: Model], bytesMax: Int = .max) throws {
        let found = journal.recovered()
        try #require(found.map(\.replica.rawValue) == models.keys.sorted())
        for log in found {
            let model = try #require(models[log.replica.rawValue])
            var runs: [TermRun] = []
            for entry in model.entries where runs.last?.term != entry.term {
                runs.append(TermRun(first: entry.index, term: entry.term))
            }
            try #require(
                log
                    == RecoveredLog(
                        group: GroupID(UInt32(log.replica.rawValue)), replica: log.replica, hardState: model.hardState,
                        base: LogIndex(model.base), baseTerm: Term(model.baseTerm), last: LogIndex(model.last),
                        termRuns: runs, isDamaged: false, isTombstone: model.isTombstone))
            try #require(try journal.all(log.replica.rawValue, bytesMax: bytesMax) == model.entries)
        }
    }
}
