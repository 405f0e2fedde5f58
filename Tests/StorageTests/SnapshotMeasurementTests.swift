import Foundation
import Primitives
import Storage
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
}
