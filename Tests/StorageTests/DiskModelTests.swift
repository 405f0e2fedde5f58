// One suite for every disk: random transactions, reads, crashes and faults on the simulated disk and on LMDB, step by
// step beside one another and beside a plain dictionary. If they did not behave alike here, down to the codes of their
// errors, a simulation would say nothing about the disk.
//
// BIFROST_DISK_MODEL_SEEDS: how many seeds (100 by itself), of 10,000 operations each.

import BifrostSimulator
import Foundation
import LMDB
import Primitives
import Storage
import Testing

@Suite struct DiskModelTests {
    static let seeds = ProcessInfo.processInfo.environment["BIFROST_DISK_MODEL_SEEDS"].flatMap { UInt64($0) } ?? 100
    static let operations = 10_000

    /// 16 MiB: a value that neither has room for.
    static let bytesMax = 8 << 20

    @Test(arguments: 1...seeds) func theSimulatedDiskDoesWhatLMDBDoes(seed: UInt64) throws {
        let simulated = DiskModel(SimulatedFixture(seed: seed))
        // A map as large as it may be: it could not grow while a device stands in the place of its file.
        let real = DiskModel(
            try LMDBFixture(settings: .init(mapBytes: Self.bytesMax, mapBytesMax: Self.bytesMax), isInMemory: true))
        var random = SeededRandom(seed: seed)
        var model: [DiskKey: Bytes] = [:]
        for number in 0..<Self.operations {
            let operation = DiskOperation(&random)
            simulated.fixture.disk.faults.bytesMax = Self.bytesMax
            let expected = operation.outcome(&model)
            let outcomes = try (simulated.perform(operation), real.perform(operation))
            // Not #expect for each: a million times it takes longer than the disks.
            if outcomes.0 != expected || outcomes.1 != expected {
                func short(_ outcome: Any) -> String { String("\(outcome)".prefix(600)) }
                Issue.record(
                    """
                    seed \(seed), operation \(number), \(short(operation)): expected \(short(expected)), the simulated \
                    disk says \(short(outcomes.0)), LMDB \(short(outcomes.1))
                    """)
                return
            }
        }
        try simulated.fixture.reopen()
        try real.fixture.reopen()
        let expected = model.keys.sorted().map { DiskContent(key: $0, value: model[$0]!) }
        #expect(try simulated.fixture.disk.dump().map { DiskContent(key: $0.0, value: $0.1) } == expected)
        #expect(try real.fixture.disk.dump().map { DiskContent(key: $0.0, value: $0.1) } == expected)
    }
}

private struct DiskContent: Equatable {
    var key: DiskKey
    var value: Bytes
}

/// One step. All that is random in it is drawn when it is made.
private enum DiskOperation {
    enum Step {
        case put(DiskKey, Bytes)
        /// Above all keys or not.
        case append(DiskKey, Bytes)
        case delete(DiskKey)
        case get(DiskKey)
        /// What `get` gives outside of the transaction, which has not happened yet.
        case getBeside(DiskKey)
        /// A second write transaction inside of the first.
        case nestedWrite
        /// A value of 4 GiB.
        case tooBig(DiskKey)
        /// 16 MiB, and the error caught in the transaction if so.
        case full(DiskKey, isCaught: Bool)
    }
    case write([Step], isAbandoned: Bool)
    case writeWhileFull([Step])
    case writeThatFails([Step])
    case scan(DiskKey, DiskKey, limit: Int)
    case get(DiskKey)
    case flush
    case reopen

    init(_ random: inout SeededRandom) {
        func key(_ random: inout SeededRandom) -> DiskKey {
            DiskKey(
                table: UInt8(random.below(3)), high: random.below(4) << (random.below(2) * 62),
                low: UInt32(random.below(6)))
        }
        func value(_ random: inout SeededRandom) -> Bytes {
            let size = random.below(20) == 0 ? 2_000 + random.below(30_000) : random.below(300)
            let fill = UInt8(truncatingIfNeeded: random.next())
            return Bytes(count: Int(size)) { $0.initializeMemory(as: UInt8.self, repeating: fill) }
        }
        func steps(_ random: inout SeededRandom) -> [Step] {
            (0...random.below(6)).map { _ in
                switch random.below(60) {
                case 0..<28: .put(key(&random), value(&random))
                case 28..<32: .append(DiskKey(table: 9, high: random.below(4)), value(&random))
                case 32..<33: .append(key(&random), value(&random))
                case 33..<45: .delete(key(&random))
                case 45..<47: .delete(DiskKey(table: 9, high: random.below(4)))
                case 47..<54: .get(key(&random))
                case 54..<57: .getBeside(key(&random))
                case 57: .nestedWrite
                case 58: .tooBig(key(&random))
                default:
                    random.below(10) == 0
                        ? .full(key(&random), isCaught: random.below(2) == 0) : .put(key(&random), value(&random))
                }
            }
        }
        switch random.below(1_000) {
        case 0..<350: self = .write(steps(&random), isAbandoned: random.below(8) == 0)
        case 350..<354: self = .writeWhileFull(steps(&random) + [.put(key(&random), Bytes([1, 2, 3]))])
        case 354..<357: self = .writeThatFails(steps(&random) + [.put(key(&random), value(&random))])
        case 357..<650:
            let bounds = [key(&random), key(&random)].sorted()
            self = .scan(bounds[0], bounds[1], limit: Int(random.below(8)) + 1)
        case 650..<985: self = .get(key(&random))
        case 985..<995: self = .flush
        default: self = .reopen
        }
    }

    /// What comes out of a step, or of an operation.
    enum Outcome: Equatable {
        case nothing
        case value(Bytes?)
        case deleted(Bool)
        case refused(DiskError.Code)
        case steps([Outcome])
        case abandoned
        case found([DiskKey], last: DiskKey?)
    }

    struct Abandoned: Error {}

    /// What a dictionary does.
    func outcome(_ model: inout [DiskKey: Bytes]) -> Outcome {
        switch self {
        case .write(let steps, let isAbandoned):
            var next = model
            var outcomes: [Outcome] = []
            for step in steps {
                switch step {
                case .put(let key, let value):
                    next[key] = value
                    outcomes.append(.nothing)
                case .append(let key, let value):
                    if let last = next.keys.max(), last >= key {
                        outcomes.append(.refused(.misuse))
                    } else {
                        next[key] = value
                        outcomes.append(.nothing)
                    }
                case .delete(let key): outcomes.append(.deleted(next.removeValue(forKey: key) != nil))
                case .get(let key): outcomes.append(.value(next[key]))
                case .getBeside(let key): outcomes.append(.value(model[key]))
                case .nestedWrite, .tooBig: outcomes.append(.refused(.misuse))
                case .full: return .refused(.full)
                }
            }
            if isAbandoned { return .abandoned }
            model = next
            return .steps(outcomes)
        case .writeWhileFull: return .refused(.full)
        case .writeThatFails: return .refused(.failed)
        case .scan(let first, let last, let limit):
            let keys = model.keys.filter { $0 >= first && $0 <= last }.sorted()
            return .found(Array(keys.prefix(limit)), last: keys.last)
        case .get(let key): return .value(model[key])
        case .flush, .reopen: return .nothing
        }
    }
}

/// Carries operations out on a disk.
private final class DiskModel<Fixture: DiskFixture> {
    let fixture: Fixture
    init(_ fixture: Fixture) { self.fixture = fixture }

    private var disk: Fixture.Storage { fixture.disk }

    func perform(_ operation: DiskOperation) throws -> DiskOperation.Outcome {
        switch operation {
        case .write(let steps, let isAbandoned):
            return try refusal {
                do {
                    return .steps(try write(steps, isAbandoned: isAbandoned))
                } catch is DiskOperation.Abandoned {
                    return .abandoned
                }
            }
        case .writeWhileFull(let steps):
            let plain = steps.filter(\.isPlain)
            try fixture.set(.noSpace)
            let outcome = try refusal { .steps(try write(plain, isAbandoned: false)) }
            try fixture.set(.none)
            return outcome
        case .writeThatFails(let steps):
            let plain = steps.filter(\.isPlain)
            try fixture.set(.everyWriteFails)
            let outcome = try refusal { .steps(try write(plain, isAbandoned: false)) }
            // Nothing is answered any more, not even by a disk that works again.
            try fixture.set(.none)
            let later: [DiskOperation.Outcome] = [
                try refusal { .value(try disk.get(DiskKey(table: 1)).map { Bytes($0) }) },
                try refusal { .steps(try write(plain, isAbandoned: false)) },
                try refusal {
                    try disk.flush()
                    return .nothing
                },
            ]
            try fixture.reopen()
            return later == [outcome, outcome, outcome] ? outcome : .steps(later)
        case .scan(let first, let last, let limit):
            return try disk.read { reader in
                var found: [DiskKey] = []
                try reader.scan(from: first, through: last) { key, _ in
                    found.append(key)
                    return found.count < limit
                }
                return .found(found, last: try reader.lastKey(from: first, through: last))
            }
        case .get(let key): return .value(try disk.get(key).map { Bytes($0) })
        case .flush:
            try disk.flush()
            return .nothing
        case .reopen:
            try fixture.reopen()
            return .nothing
        }
    }

    private func refusal(_ body: () throws -> DiskOperation.Outcome) throws -> DiskOperation.Outcome {
        do { return try body() } catch let error as DiskError { return .refused(error.code) }
    }

    private func write(_ steps: [DiskOperation.Step], isAbandoned: Bool) throws -> [DiskOperation.Outcome] {
        try disk.write { writer in
            var outcomes: [DiskOperation.Outcome] = []
            func put(_ key: DiskKey, _ value: Bytes, append: Bool, _ writer: borrowing Fixture.Storage.Writer) throws {
                try writer.put(key, count: value.count, append: append) { place in
                    value.withUnsafeBytes { place.copyMemory(from: $0) }
                }
            }
            for step in steps {
                switch step {
                case .put(let key, let value):
                    try put(key, value, append: false, writer)
                    outcomes.append(.nothing)
                case .append(let key, let value):
                    do {
                        try put(key, value, append: true, writer)
                        outcomes.append(.nothing)
                    } catch {
                        outcomes.append(.refused(try code(error)))
                    }
                case .delete(let key): outcomes.append(.deleted(try writer.delete(key)))
                case .get(let key):
                    outcomes.append(try writer.withValue(for: key) { .value($0.map { Bytes(copying: $0) }) })
                case .getBeside(let key): outcomes.append(.value(try disk.get(key).map { Bytes($0) }))
                case .nestedWrite:
                    do {
                        _ = try disk.write { try $0.delete(DiskKey(table: 1)) }
                        outcomes.append(.nothing)
                    } catch {
                        outcomes.append(.refused(try code(error)))
                    }
                case .tooBig(let key):
                    do {
                        try writer.put(key, count: 1 << 32, append: false) { _ in }
                        outcomes.append(.nothing)
                    } catch {
                        outcomes.append(.refused(try code(error)))
                    }
                case .full(let key, let isCaught):
                    do {
                        try writer.put(key, count: 16 << 20, append: false) { _ in }
                    } catch {
                        if !isCaught { throw error }
                        return outcomes
                    }
                }
            }
            if isAbandoned { throw DiskOperation.Abandoned() }
            return outcomes
        }
    }

    /// Inside of a transaction LMDB's own errors show; the disk translates those that leave it.
    private func code(_ error: any Error) throws -> DiskError.Code {
        if let error = error as? DiskError { return error.code }
        if let error = error as? LMDBError { return DiskError(error).code }
        throw error
    }
}

extension DiskOperation.Step {
    /// Neither refused by itself nor about other transactions: what it comes to is the disk's affair alone.
    fileprivate var isPlain: Bool {
        switch self {
        case .put, .delete, .get: true
        default: false
        }
    }
}

@Suite struct SimulatedDiskTests {
    private let key = DiskKey(table: 1)

    @Test func aCrashLosesWhatWasNotSyncedAndAFlushKeepsIt() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1])
        disk.faults.commitsWithoutSync = true
        try disk.put(key, [2])
        #expect(try disk.get(key) == [2], "the page cache shows it")
        disk.crash()
        #expect(try disk.get(key) == [1])
        disk.faults.commitsWithoutSync = true
        try disk.put(key, [3])
        disk.kill()
        #expect(try disk.get(key) == [3], "the page cache outlives the process")
        try disk.flush()
        disk.crash()
        #expect(try disk.get(key) == [3])
    }

    @Test func afterAFailedWriteNothingIsAnsweredBeforeARestart() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1])
        disk.faults.nextWriteFails = true
        #expect(throws: DiskError.self) { try disk.put(key, [2]) }
        #expect(throws: DiskError.self) { try disk.get(key) }
        #expect(throws: DiskError.self) { try disk.flush() }
        disk.crash()
        #expect(try disk.get(key) == [1])
    }

    @Test func aCommitThatWasReportedAsFailedMayBeThereAfterARestart() throws {
        let disk = SimulatedDisk(seed: 1)
        disk.faults.nextWriteFailsButStays = true
        let error = #expect(throws: DiskError.self) { try disk.put(key, [2]) }
        #expect(error?.code == .failed)
        disk.crash()
        #expect(try disk.get(key) == [2])
    }

    /// As Linux does it: after a sync that failed pages are clean, and a second one succeeds without writing them.
    @Test func whatAFailedSyncLeftIsWrittenByNoLaterOne() throws {
        let disk = SimulatedDisk(seed: 1, isLatching: false)
        try disk.put(key, [1])
        disk.faults.nextSyncFails = true
        let error = #expect(throws: DiskError.self) { try disk.put(key, [2]) }
        #expect(error?.code == .failed)
        try disk.flush()
        #expect(try disk.get(key) == [2], "the page cache shows it")
        try disk.put(DiskKey(table: 2), [3])
        disk.crash()
        #expect(try disk.get(key) == [1])
        #expect(try disk.get(DiskKey(table: 2)) == [3])
    }

    @Test func whatAFailedFlushLeftIsForgottenByTheNextProcess() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1])
        disk.faults.commitsWithoutSync = true
        try disk.put(key, [2])
        disk.kill()
        disk.faults.nextFlushFails = true
        #expect(throws: DiskError.self) { try disk.flush() }
        disk.kill()
        try disk.flush()
        #expect(try disk.get(key) == [1])
        disk.crash()
        #expect(try disk.get(key) == [1])
    }

    @Test func aFullDiskRefusesAndStillDeletes() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1, 2, 3])
        disk.faults.bytesMax = 4
        #expect(throws: DiskError.self, "a delete takes some before it gives any") {
            try disk.write(.upkeep) { _ = try $0.delete(key) }
        }
        #expect(try disk.get(key) == [1, 2, 3])
        disk.faults.bytesMax = 20
        disk.faults.reserveBytes = 16
        let error = #expect(throws: DiskError.self) { try disk.put(DiskKey(table: 2), [1, 2]) }
        #expect(error?.code == .full)
        #expect(try disk.get(DiskKey(table: 2)) == nil)
        _ = try disk.write(.upkeep) { try $0.delete(key) }
        try disk.put(DiskKey(table: 2), [1, 2])
    }

    @Test func aBitFlipsInOneValue() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [0, 0])
        #expect(disk.flipBit(in: key, bit: 9))
        #expect(try disk.get(key) == [0, 2])
        #expect(!disk.flipBit(in: DiskKey(table: 9)))
    }

    @Test func aReserveIsForUpkeepOnly() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1, 2, 3])
        disk.faults.bytesMax = 8
        disk.faults.reserveBytes = 4
        func put(_ table: UInt8, _ count: Int, _ purpose: DiskPurpose) throws {
            try disk.write(purpose) { writer in
                try writer.put(DiskKey(table: table), count: count, append: false) { place in
                    place.initializeMemory(as: UInt8.self, repeating: 1)
                }
            }
        }
        #expect(throws: DiskError.self) { try put(2, 2, .growth) }
        try put(2, 2, .merge)
        #expect(try disk.roomBytes(for: .merge) == 2 && disk.roomBytes(for: .growth) == 0)
        #expect(throws: DiskError.self) { try put(3, 3, .merge) }
        try put(3, 3, .upkeep)
        disk.faults.bytesMax = .max
        #expect(try disk.roomBytes(for: .growth) == .max)
        try disk.put(DiskKey(table: 4), [1, 2, 3, 4, 5])
    }

    /// The same transactions whole, and ended at each of them, before and behind.
    @Test func theProcessEndsAtAnyTransaction() throws {
        func work(_ disk: SimulatedDisk) throws {
            for number in 0..<5 as Range<UInt8> { try disk.put(DiskKey(table: number), [number]) }
        }
        for end in 0..<5 {
            for isBehind in [false, true] {
                let disk = SimulatedDisk(seed: 1)
                disk.faults.transactionsUntilEnd = end
                disk.faults.endsBehindTransaction = isBehind
                #expect(throws: SimulatedProcessEnd.self) { try work(disk) }
                #expect(throws: SimulatedProcessEnd.self) { try disk.put(key, [7]) }
                #expect(throws: SimulatedProcessEnd.self) { try disk.get(key) }
                #expect(throws: SimulatedProcessEnd.self) { try disk.flush() }
                if end % 2 == 0 { disk.crash() } else { disk.kill() }
                #expect(try disk.dump().map(\.0.table) == Array(0..<UInt8(end + (isBehind ? 1 : 0))))
                try work(disk)
                #expect(try disk.dump().count == 5)
            }
        }
    }

    @Test func anyBitMeansEveryValueOfTheTables() throws {
        let disk = SimulatedDisk(seed: 3)
        for number in 0..<20 as Range<UInt8> { try disk.put(DiskKey(table: number), [0]) }
        var hit: Set<UInt8> = []
        for _ in 0..<200 { hit.insert(try #require(disk.flipAnyBit(inTables: 5...9)).table) }
        #expect(hit == [5, 6, 7, 8, 9])
        #expect(try disk.get(DiskKey(table: 4)) == [0])
        #expect(disk.flipAnyBit(inTables: 30...40) == nil)
        #expect(disk.flipAnyBit() != nil)
    }
}
