import Foundation
import Primitives
import Storage
import Testing

@Suite struct LMDBDiskTests {
    @Test func aFullMapGrowsAndTheTransactionRunsAgainFromItsStart() throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 18))
        var runs = 0
        try fixture.disk.write { writer in
            runs += 1
            for number in 0..<40 as Range<UInt64> {
                try writer.put(DiskKey(table: 9, high: number), count: 50_000, append: true) {
                    $0.initializeMemory(as: UInt8.self, repeating: UInt8(number))
                }
            }
        }
        #expect(runs > 1)
        #expect(fixture.disk.mapBytes >= 1 << 21)
        try fixture.reopen()
        for number in 0..<40 as Range<UInt64> {
            #expect(
                try fixture.disk.get(DiskKey(table: 9, high: number)) == Array(repeating: UInt8(number), count: 50_000))
        }
    }

    @Test func theMapsLimitIsAFullDiskOfWhichNothingIsLost() throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 18, mapBytesMax: 1 << 19))
        try fixture.disk.put(DiskKey(table: 1), [1])
        let error = #expect(throws: DiskError.self) {
            try fixture.disk.put(DiskKey(table: 2), Array(repeating: 2, count: 1 << 20))
        }
        #expect(error?.code == .full)
        #expect(try fixture.disk.get(DiskKey(table: 2)) == nil)
        #expect(try fixture.disk.get(DiskKey(table: 1)) == [1])
        try fixture.disk.put(DiskKey(table: 2), [2])
    }

    /// With a reserve the limit shows before LMDB meets it, and is not taken for the file system's.
    @Test func theMapsLimitIsNamedAsSuch() throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 18, mapBytesMax: 1 << 21, reserveBytes: 1 << 18))
        var refusal: DiskError?
        var number: UInt64 = 0
        while refusal == nil {
            do {
                try fixture.disk.put(DiskKey(table: 1, high: number), Array(repeating: 2, count: 50_000))
                number += 1
            } catch let error as DiskError { refusal = error }
        }
        #expect(refusal?.code == .full && number > 20)
        #expect(refusal?.message.contains("may not be larger than 2097152 bytes") == true, "\(refusal!)")
        #expect(try fixture.disk.roomBytes(for: .growth) < 200_000)
        #expect(try fixture.disk.write(.upkeep) { try $0.delete(DiskKey(table: 1)) })
    }

    @Test func aSecondOpenIsRefusedAndNamesTheDirectory() throws {
        let fixture = try LMDBFixture()
        let error = #expect(throws: DiskError.self) { try LMDBDisk(directory: fixture.path) }
        #expect(error?.code == .refused)
        #expect(error?.message.contains(fixture.path) == true)
    }

    @Test func aFileThatIsNotLMDBIsCorrupt() throws {
        let path = NSTemporaryDirectory() + "bifrost-storage-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data(repeating: 9, count: 10_000).write(to: URL(fileURLWithPath: path + "/data.mdb"))
        let error = #expect(throws: DiskError.self) { try LMDBDisk(directory: path) }
        #expect(error?.code == .corrupt)
    }

    @Test func aFileThatWasCutOffIsCorruptAndSaysSo() throws {
        let path = NSTemporaryDirectory() + "bifrost-storage-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        do {
            let journal = try Journal(disk: LMDBDisk(directory: path), formatting: sampleIdentity)
            for index in 1...40 as ClosedRange<UInt64> {
                _ = try journal.append([append(1, index...index, bytes: 9_000)])
            }
        }
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path + "/data.mdb"))
        try file.truncate(atOffset: 200_000)
        try file.close()
        let error = #expect(throws: DiskError.self) { try LMDBDisk(directory: path) }
        #expect(error?.code == .corrupt)
        #expect(error?.message.contains("data.mdb was cut off: it has 200000 bytes") == true)
        #expect(error?.message.contains("whole copies of its replicas") == true)
    }

    /// A branch page that names a page which is not there: found by whoever comes by, and not that replica's alone.
    @Test func aBrokenTreeEndsEverythingAndLeavesANote() throws {
        let fixture = try LMDBFixture()
        try fixture.disk.write { writer in
            for number in 0..<2_000 as Range<UInt64> {
                try writer.put(DiskKey(table: 9, high: number), count: 100, append: true) {
                    $0.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: number))
                }
            }
        }
        try fixture.reopen {
            var content = try Data(contentsOf: URL(fileURLWithPath: fixture.path + "/data.mdb"))
            var broken = 0
            for page in 2..<content.count / 4_096 where content[page * 4_096 + 10] == 1 {
                let start = page * 4_096
                func half(_ offset: Int) -> Int { Int(content[start + offset]) | Int(content[start + offset + 1]) << 8 }
                guard half(0) == page, half(12) > 16, half(12) < 4_096 else { continue }
                // The last child: a page beyond all.
                let node = start + half(half(12) - 2)
                content.replaceSubrange(node..<node + 6, with: [0, 0, 0, 1, 0, 0])
                broken += 1
            }
            try #require(broken > 0)
            try content.write(to: URL(fileURLWithPath: fixture.path + "/data.mdb"))
        }
        #expect(try fixture.disk.get(DiskKey(table: 9, high: 0)) == Array(repeating: 0, count: 100))
        let error = #expect(throws: DiskError.self) { try fixture.disk.get(DiskKey(table: 9, high: 1_999)) }
        #expect(error?.code == .failed)
        // From now on nothing is read or written, be it ever so sound.
        #expect(throws: DiskError.self) { try fixture.disk.get(DiskKey(table: 9, high: 0)) }
        #expect(throws: DiskError.self) { try fixture.disk.put(DiskKey(table: 1), [1]) }
        let note = try String(contentsOfFile: fixture.path + "/DAMAGED", encoding: .utf8)
        #expect(note.contains(fixture.path) && note.contains("page"), "\(note)")
        #expect(throws: DiskError.self) { try fixture.reopen() }
    }

    @Test func keysOfAllSizesKeepTheirOrder() throws {
        let fixture = try LMDBFixture()
        let keys = [
            DiskKey(table: 0), DiskKey(table: 0, high: 0, low: 1), DiskKey(table: 0, high: 0, low: .max),
            DiskKey(table: 0, high: 1, low: 0), DiskKey(table: 0, high: 255, low: 7),
            DiskKey(table: 0, high: 256, low: 7),
            DiskKey(table: 0, high: .max, low: .max), DiskKey(table: 1), DiskKey(table: 255, high: .max, low: .max),
        ]
        for key in keys.reversed() { try fixture.disk.put(key, [key.table]) }
        #expect(try fixture.disk.dump().map(\.0) == keys)
        #expect(keys == keys.sorted())
    }

    @Test func preallocationChangesNothingThatIsStored() throws {
        let fixture = try LMDBFixture(settings: .init(mapBytes: 1 << 20, preallocateBytes: 1 << 20))
        for number in 0..<300 as Range<UInt64> {
            try fixture.disk.put(
                DiskKey(table: 9, high: number), Array(repeating: UInt8(truncatingIfNeeded: number), count: 20_000))
            if number >= 100 {
                _ = try fixture.disk.write { try $0.delete(DiskKey(table: 9, high: number - 100)) }
            }
        }
        try fixture.reopen()
        let all = try fixture.disk.dump()
        #expect(all.count == 100)
        #expect(
            all.allSatisfy { key, value in
                value.count == 20_000 && value.array.allSatisfy { $0 == UInt8(truncatingIfNeeded: key.high) }
            })
    }
}
