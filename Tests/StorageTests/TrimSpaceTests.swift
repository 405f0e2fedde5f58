// Prefix deletion in a journal of many replicas, in a file that may not grow any more.

import Foundation
import Primitives
import Storage
import Testing

@Suite struct TrimSpaceTests {
    /// Each commit has an entry of each replica, so that each value that goes changes a row of each in the base table.
    @Test(arguments: [100, 4_000]) func aFullJournalOfManyReplicasIsTrimmedFromItsReserve(_ replicas: Int) throws {
        let path = NSTemporaryDirectory() + "bifrost-storage-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let disk = try LMDBDisk(
            directory: path,
            settings: .init(mapBytes: 48 << 20, mapBytesMax: 48 << 20, reserveBytes: 8 << 20))
        let journal = try Journal(
            disk: disk,
            formatting: HostIdentity(
                cluster: ClusterID(high: 1, low: 1), host: HostID(1), incarnation: Incarnation(1), featureLevel: 1,
                journal: 7))
        let payload = Bytes(Array(repeating: 7, count: 200))
        var last: UInt64 = 0
        let error = #expect(throws: DiskError.self) {
            while last < 100_000 {
                last += 1
                let records = (1...replicas).map { number in
                    JournalRecord.append(
                        GroupID(UInt32(number)), ReplicaID(UInt64(number)),
                        [
                            LogEntry(
                                index: LogIndex(last), term: Term(1), logTime: .zero, kind: .command, payload: payload)
                        ])
                }
                _ = try journal.append(records)
            }
        }
        #expect(error?.code == .full)
        let superfluous = (1...replicas).map { (ReplicaID(UInt64($0)), LogIndex(last - 1)) }
        var trimmed = 0
        while true {
            let values = try journal.trim(superfluousThrough: superfluous).values
            if values == 0 { break }
            trimmed += values
        }
        // The last commit stays.
        #expect(trimmed > 0 && journal.statistics.values <= 2)
    }
}
