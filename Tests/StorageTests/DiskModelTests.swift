// One suite for every disk: random transactions beside a plain dictionary, with crashes between. If the simulated disk
// and LMDB did not behave alike here, a simulation would say nothing about the disk.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct DiskModelTests {
    @Test(arguments: 1...30 as ClosedRange<UInt64>) func theSimulatedDiskIsADictionary(seed: UInt64) throws {
        try run(SimulatedFixture(seed: seed), seed: seed, operations: 300)
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>) func lmdbIsADictionary(seed: UInt64) throws {
        try run(LMDBFixture(), seed: seed, operations: 150)
    }

    private struct Abandoned: Error {}

    private func run(_ fixture: some DiskFixture, seed: UInt64, operations: Int) throws {
        var random = SeededRandom(seed: seed)
        var model: [DiskKey: Bytes] = [:]
        func key() -> DiskKey {
            DiskKey(
                table: UInt8(random.below(3)), high: random.below(4) << (random.below(2) * 62),
                low: UInt32(random.below(6)))
        }
        func value() -> Bytes {
            let size = random.below(10) == 0 ? 5_000 + random.below(60_000) : random.below(300)
            let fill = UInt8(truncatingIfNeeded: random.next())
            return Bytes(count: Int(size)) { $0.initializeMemory(as: UInt8.self, repeating: fill) }
        }
        for _ in 0..<operations {
            switch random.below(20) {
            case 0..<12:
                // A transaction, sometimes abandoned; its changes are drawn first, as its body may run twice.
                let changes = (0...random.below(6)).map { _ in (key(), random.below(3) == 0 ? nil : value()) }
                let isAbandoned = random.below(8) == 0
                let before = model
                for (key, value) in changes { model[key] = value }
                do {
                    let counts = try fixture.disk.write { writer in
                        var seen: [Bool] = []
                        for (key, value) in changes {
                            if let value {
                                try writer.put(key, count: value.count, append: false) { place in
                                    value.withUnsafeBytes { place.copyMemory(from: $0) }
                                }
                                seen.append(try writer.withValue(for: key) { $0.map { Bytes(copying: $0) } == value })
                            } else {
                                try writer.delete(key)
                                seen.append(try !writer.delete(key))
                            }
                        }
                        if isAbandoned { throw Abandoned() }
                        return seen
                    }
                    #expect(counts.allSatisfy { $0 }, "a transaction sees its own changes")
                    #expect(!isAbandoned)
                } catch is Abandoned {
                    model = before
                }
            case 12..<14: try fixture.reopen()
            case 14: try fixture.disk.flush()
            case 15..<17:
                let wanted = key()
                #expect(try fixture.disk.get(wanted) == model[wanted]?.array)
            default:
                let bounds = [key(), key()].sorted()
                let expected = model.keys.filter { $0 >= bounds[0] && $0 <= bounds[1] }.sorted()
                let limit = Int(random.below(8)) + 1
                let (found, last) = try fixture.disk.read { reader in
                    var found: [DiskKey] = []
                    try reader.scan(from: bounds[0], through: bounds[1]) { key, _ in
                        found.append(key)
                        return found.count < limit
                    }
                    return (found, try reader.lastKey(from: bounds[0], through: bounds[1]))
                }
                #expect(found == Array(expected.prefix(limit)))
                #expect(last == expected.last)
            }
        }
        try fixture.reopen()
        let all = try fixture.disk.dump()
        #expect(all.map(\.0) == model.keys.sorted())
        #expect(all.allSatisfy { model[$0.0] == $0.1 })
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

    @Test func aFullDiskRefusesAndStillDeletes() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [1, 2, 3])
        disk.faults.bytesMax = 4
        let error = #expect(throws: DiskError.self) { try disk.put(DiskKey(table: 2), [1, 2]) }
        #expect(error?.code == .full)
        #expect(try disk.get(DiskKey(table: 2)) == nil)
        _ = try disk.write { try $0.delete(key) }
        try disk.put(DiskKey(table: 2), [1, 2])
    }

    @Test func aBitFlipsInOneValue() throws {
        let disk = SimulatedDisk(seed: 1)
        try disk.put(key, [0, 0])
        #expect(disk.flipBit(in: key, bit: 9))
        #expect(try disk.get(key) == [0, 2])
        #expect(!disk.flipBit(in: DiskKey(table: 9)))
    }
}
