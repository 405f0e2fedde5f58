import Foundation
import LMDB
import Primitives
import Storage
import Synchronization
import Testing

/// Not part of the tests: `BIFROST_MEASURE=1` switches it on.
@Suite(.serialized, .enabled(if: ProcessInfo.processInfo.environment["BIFROST_MEASURE"] != nil))
struct SnapshotMeasurementTests {
    /// 100 MB of keys of 16 and values of 100 bytes, in one run, and in eight that are interleaved.
    @Test(arguments: [1, 8]) func aHundredMegabytes(runs: Int) throws {
        let count = 100_000_000 / 116
        let settings = LMDBDisk.Settings(mapBytes: 1 << 30)
        let fixtures = try [LMDBFixture(settings: settings), LMDBFixture(settings: settings)]
        let sender = try Store(disk: fixtures[0].disk, formatting: storeIdentity)
        let receiver = try Store(disk: fixtures[1].disk, formatting: storeIdentity)
        try sender.start(storeHeader(0))
        try receiver.start(storeHeader(0, replica: 8))
        let value = storeValue(100, 1)
        for run in 0..<runs {
            let memtable = Memtable()
            for number in stride(from: run, to: count, by: runs) {
                let digits = "\(number)"
                let key = storeKey(
                    UInt16(number % 100), String(repeating: "0", count: 16 - digits.count) + digits)
                memtable.put(
                    Record(key: key, revision: Revision(1), changed: LogIndex(UInt64(run + 1)), value: value))
            }
            try sender.checkpoint(memtable.freeze(), storeHeader(UInt64(run + 1)))
        }
        let reader = try SnapshotReader(sender, sender.view(ReplicaID(7))!, base: .zero)
        let clock = ContinuousClock()
        func report(_ what: String, _ duration: Duration) {
            let seconds = Double(duration.components.attoseconds) / 1e18 + Double(duration.components.seconds)
            print("\(runs) runs, \(what): \(Int(100 / seconds)) MB/s")
        }
        var description: SnapshotDescription?
        report("described", try clock.measure { description = try reader.describe() })
        var pieces: [Bytes] = []
        report(
            "read",
            try clock.measure {
                var next: RecordKey?
                repeat {
                    let piece = try reader.piece(behind: next)
                    pieces.append(piece.bytes)
                    next = piece.next
                } while next != nil
            })
        let installer = try SnapshotInstaller(receiver, description!, replica: ReplicaID(8))
        report(
            "installed",
            try clock.measure {
                for piece in pieces { try installer.accept(piece) }
                try installer.finish(journal: 99, journalSequence: 1)
            })
        #expect(receiver.manifest(of: ReplicaID(8))?.records == UInt64(count))
    }

    /// What an increment reads and sends for changed records that lie in a run of their own, spread over all keys, against
    /// the whole state. Of 1 GB, or of so many MB as `BIFROST_MEASURE_MEGABYTES` says.
    @Test func increments() throws {
        let megabytes = ProcessInfo.processInfo.environment["BIFROST_MEASURE_MEGABYTES"].flatMap { Int($0) } ?? 1_000
        let count = megabytes * 1_000_000 / 116
        let fixture = try LMDBFixture(settings: LMDBDisk.Settings(mapBytes: 8 << 30))
        let disk = CountingDisk(fixture.disk)
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        func key(_ number: Int) -> RecordKey {
            let digits = "\(number)"
            return storeKey(UInt16(number % 100), String(repeating: "0", count: 16 - digits.count) + digits)
        }
        var index: UInt64 = 0
        /// Every `stride`th key, in one run.
        func write(each stride: Int) throws {
            index += 1
            let memtable = Memtable()
            let value = storeValue(100, index)
            for number in Swift.stride(from: 0, to: count, by: stride) {
                memtable.put(
                    Record(key: key(number), revision: Revision(index), changed: LogIndex(index), value: value))
            }
            try store.checkpoint(memtable.freeze(), storeHeader(index))
        }
        func read(after base: UInt64) throws -> (pages: Int, bytes: Int, records: UInt64, seconds: Double) {
            let reader = try SnapshotReader(store, store.view(ReplicaID(7))!, base: LogIndex(base))
            disk.reset()
            let clock = ContinuousClock()
            var bytes = 0
            var records: UInt64 = 0
            let time = try clock.measure {
                records = try reader.describe().records
                var next: RecordKey?
                repeat {
                    let piece = try reader.piece(behind: next)
                    bytes += piece.bytes.count
                    next = piece.next
                } while next != nil
            }
            return (disk.pages, bytes, records, time / .seconds(1))
        }
        try write(each: 1)
        let whole = try read(after: 0)
        #expect(whole.records == UInt64(count))
        print("whole: \(whole)")
        for stride in [1_000, 100, 10] {
            try write(each: stride)
            let increment = try read(after: index - 1)
            #expect(increment.records == UInt64((count + stride - 1) / stride))
            print(
                "1 in \(stride): \(increment), \(100 * Double(increment.pages) / Double(whole.pages)) % of the pages, "
                    + "\(100 * Double(increment.bytes) / Double(whole.bytes)) % of the bytes")
            if stride == 1_000 { #expect(increment.pages * 50 < whole.pages) }
        }
    }
}

/// Counts the pages of the values that are read.
private final class CountingDisk: Disk {
    struct Reader: DiskReader {
        let reader: LMDBReader
        let disk: CountingDisk

        func withValue<Result>(for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result) throws -> Result {
            try reader.withValue(for: key) { bytes in
                if let bytes { disk.add(key, bytes.count) }
                return try body(bytes)
            }
        }
        func scan(
            from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool
        ) throws {
            try reader.scan(from: first, through: last) { key, bytes in
                disk.add(key, bytes.count)
                return try body(key, bytes)
            }
        }
        func count() throws -> Int { try reader.count() }
        func lastKey(from first: DiskKey, through last: DiskKey) throws -> DiskKey? {
            try reader.lastKey(from: first, through: last)
        }
    }
    typealias Writer = LMDBDisk.Writer

    private let disk: LMDBDisk
    private let values = Mutex<[DiskKey: Int]>([:])

    init(_ disk: LMDBDisk) { self.disk = disk }

    /// Of all values that were read, each once.
    var pages: Int { values.withLock { $0.values.reduce(0, +) } }
    func reset() { values.withLock { $0 = [:] } }
    /// A value that does not fit into a leaf has pages of its own.
    fileprivate func add(_ key: DiskKey, _ bytes: Int) {
        values.withLock { $0[key] = (bytes + 16 + 4_095) / 4_096 }
    }

    func read<Result>(_ body: (borrowing Reader) throws -> Result) throws -> Result {
        try disk.read { try body(Reader(reader: copy $0, disk: self)) }
    }
    func write<Result>(_ purpose: DiskPurpose, _ body: (borrowing Writer) throws -> Result) throws -> Result {
        try disk.write(purpose, body)
    }
    func roomBytes(for purpose: DiskPurpose) throws -> Int { try disk.roomBytes(for: purpose) }
    func flush() throws { try disk.flush() }
}
