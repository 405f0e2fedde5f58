// A journal that the first version of the format wrote, and that every later version reads.
//
// `Samples/journal-v1/data.mdb` was made by `BIFROST_WRITE_SAMPLES=<this directory's Samples> Tools/test --filter
// JournalSampleTests`, which writes a sample that is missing and never replaces one. The records are those of `write`
// below:
// a formatted journal, a prefix deletion that moved entries, and values with every kind of record.

import Foundation
import Primitives
import Storage
import Testing

@Suite struct JournalSampleTests {
    private static let settings = LMDBDisk.Settings(mapBytes: 1 << 20)

    private static func write(_ journal: Journal<LMDBDisk>) throws {
        _ = try journal.append([
            append(1, 1...20, bytes: 100), append(2, 1...3, term: 2), state(2, term: 5, vote: 2, commit: 1),
        ])
        _ = try journal.append([append(1, 21...24), append(1, 23...23, term: 2), base(3, 7, term: 4)])
        _ = try journal.trim((1, 20))
        _ = try journal.append([append(1, 24...24, term: 3), truncate(2, from: 3), append(3, 8...9, term: 4)])
        _ = try journal.append([tombstone(4), state(1, term: 3, vote: 1, commit: 22)])
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"] != nil))
    func writeTheSample() throws {
        let samples = try #require(ProcessInfo.processInfo.environment["BIFROST_WRITE_SAMPLES"])
        let path = samples + "/journal-v1"
        guard !FileManager.default.fileExists(atPath: path + "/data.mdb") else { return }
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        do {
            let disk = try LMDBDisk(directory: path, settings: Self.settings)
            try Self.write(try Journal(disk: disk, formatting: sampleIdentity))
        }
        for file in ["lock.mdb", "LOCK"] { try FileManager.default.removeItem(atPath: path + "/" + file) }
    }

    @Test func theFirstVersionsJournalIsReadAsItWasWritten() throws {
        let source = try #require(Bundle.module.url(forResource: "Samples/journal-v1/data", withExtension: "mdb"))
        let path = NSTemporaryDirectory() + "bifrost-sample-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try FileManager.default.copyItem(at: source, to: URL(fileURLWithPath: path + "/data.mdb"))

        let journal = try Journal(disk: try LMDBDisk(directory: path, settings: Self.settings), formatting: nil)
        #expect(journal.identity == sampleIdentity)
        #expect(journal.lastSequence == 4)
        #expect(!journal.isDamaged)
        let expected = [
            RecoveredLog(
                group: GroupID(1), replica: ReplicaID(1),
                hardState: HardState(term: Term(3), vote: ReplicaID(1), commit: LogIndex(22)), base: LogIndex(20),
                baseTerm: Term(1), last: LogIndex(24),
                termRuns: [(21, 1), (23, 2), (24, 3)].map { TermRun(first: LogIndex($0.0), term: Term($0.1)) }),
            RecoveredLog(
                group: GroupID(2), replica: ReplicaID(2),
                hardState: HardState(term: Term(5), vote: ReplicaID(2), commit: LogIndex(1)), last: LogIndex(2),
                termRuns: [TermRun(first: LogIndex(1), term: Term(2))]),
            RecoveredLog(
                group: GroupID(3), replica: ReplicaID(3), base: LogIndex(7), baseTerm: Term(4), last: LogIndex(9),
                termRuns: [TermRun(first: LogIndex(8), term: Term(4))]),
            RecoveredLog(group: GroupID(4), replica: ReplicaID(4), isTombstone: true),
        ]
        #expect(journal.recovered() == expected)
        #expect(try journal.all(1) == entries(21...22) + entries(23...23, term: 2) + entries(24...24, term: 3))
        #expect(try journal.all(2) == entries(1...2, term: 2))
        #expect(try journal.all(3) == entries(8...9, term: 4))
    }
}
