// A file system that is really full: a small one in memory, which only root may mount. What does not fit is refused
// with `.full`, what was acknowledged stays, upkeep goes on from the reserve, and writes go on when there is space.

import Foundation
import Primitives
import Storage
import Testing

/// A file system of so many bytes, some of them taken by a file that can be removed. Nil if this process may not mount.
private final class SmallFileSystem {
    let path = NSTemporaryDirectory() + "bifrost-full-\(UUID().uuidString)"
    var disk: String { path + "/disk" }

    init?(bytes: Int, ballastBytes: Int) {
        guard (try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)) != nil,
            Self.run("mount", "-t", "tmpfs", "-o", "size=\(bytes)", "tmpfs", path)
        else {
            try? FileManager.default.removeItem(atPath: path)
            return nil
        }
        guard (try? FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)) != nil,
            FileManager.default.createFile(
                atPath: path + "/ballast", contents: Data(repeating: 1, count: ballastBytes))
        else { return nil }
    }

    deinit {
        // Lazily: whoever still has a file open keeps it.
        _ = Self.run("umount", "-l", path)
        try? FileManager.default.removeItem(atPath: path)
    }

    func giveSpace() throws { try FileManager.default.removeItem(atPath: path + "/ballast") }

    private static func run(_ arguments: String...) -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }

    static let isPermitted = SmallFileSystem(bytes: 1 << 20, ballastBytes: 1) != nil
}

@Suite(.serialized, .enabled(if: SmallFileSystem.isPermitted, "only root may mount")) struct FullDiskTests {
    private static let settings = LMDBDisk.Settings(
        mapBytes: 1 << 20, preallocateBytes: 1 << 20, reserveBytes: 4 << 20)
    private static let identity = HostIdentity(incarnation: Incarnation(1), journal: 42)

    @Test func aJournalOnAFullDiskRefusesTrimsAndGoesOn() throws {
        let files = try #require(SmallFileSystem(bytes: 32 << 20, ballastBytes: 6 << 20))
        var last: UInt64 = 0
        func fill(_ journal: Journal<LMDBDisk>) throws -> DiskError {
            while true {
                do {
                    _ = try journal.append([append(1, last + 1...last + 1, bytes: 50_000)])
                    last += 1
                } catch let error as DiskError {
                    return error
                }
            }
        }
        func expectAll(_ journal: Journal<LMDBDisk>) throws {
            let log = try #require(journal.log(of: ReplicaID(1)))
            #expect(!journal.isDamaged && !log.isDamaged && log.last.rawValue == last)
            let found = try journal.all(1)
            #expect(found == entries(log.base.rawValue + 1...last, bytes: 50_000))
        }
        do {
            let journal = try Journal(
                disk: LMDBDisk(directory: files.disk, settings: Self.settings), formatting: Self.identity)
            let error = try fill(journal)
            #expect(error.code == .full)
            #expect(error.message.contains("the file system is full"))
            #expect(last > 200)
            try expectAll(journal)
            // Refused is refused: nothing of it happened, and it can be tried again.
            #expect(try fill(journal).code == .full)
            try expectAll(journal)
        }
        // Also a host that starts on the full disk: it writes its boot counter, and tidies up.
        let journal = try Journal(disk: LMDBDisk(directory: files.disk, settings: Self.settings), formatting: nil)
        try journal.update(journal.identity)
        #expect(try fill(journal).code == .full)
        try expectAll(journal)
        let before = last
        while try journal.trim((1, last - 20)).values > 0 {}
        #expect(try #require(journal.log(of: ReplicaID(1))).base.rawValue > last - 60)
        try expectAll(journal)
        // What the trim gave back is written to again, though the file system is as full as before.
        #expect(try fill(journal).code == .full)
        #expect(last > before + 50)
        try expectAll(journal)
        // With space everything goes on at once.
        try files.giveSpace()
        _ = try journal.append([append(1, last + 1...last + 1, bytes: 50_000)])
        last += 1
        try expectAll(journal)
    }

    @Test func aStoreOnAFullDiskKeepsItsCheckpointsMergesAndGoesOn() throws {
        let files = try #require(SmallFileSystem(bytes: 48 << 20, ballastBytes: 12 << 20))
        var index: UInt64 = 0
        var all: [RecordKey: Record] = [:]
        var waiting: (part: CheckpointPart, records: [Record])?
        /// A checkpoint that overwrites what the others wrote: runs that a merge makes much smaller.
        func checkpoint(_ store: Store<LMDBDisk>) throws {
            if waiting == nil {
                var records: [Record] = []
                for number in 0..<10 as Range<UInt16> {
                    index += 1
                    records.append(
                        Record(
                            key: storeKey(number, "key"), revision: Revision(index), changed: LogIndex(index),
                            value: storeValue(60_000, index)))
                }
                waiting = (CheckpointPart(frozen(records), storeHeader(index)), records)
            }
            try store.checkpoint([waiting!.part])
            for record in waiting!.records { all[record.key] = record }
            waiting = nil
        }
        func expectAll(_ store: Store<LMDBDisk>) throws {
            #expect(store.damaged().isEmpty)
            let view = try #require(store.view(ReplicaID(7)))
            #expect(try allRecords(store, view) == all.values.sorted { $0.key < $1.key })
        }
        do {
            let store = try Store(
                disk: LMDBDisk(directory: files.disk, settings: Self.settings), formatting: storeIdentity)
            try store.start(storeHeader(0))
            var refusal: DiskError?
            while refusal == nil {
                do { try checkpoint(store) } catch let error as DiskError { refusal = error }
            }
            #expect(refusal?.code == .full)
            #expect(index > 200)
            try expectAll(store)
        }
        let store = try Store(disk: LMDBDisk(directory: files.disk, settings: Self.settings))
        try expectAll(store)
        #expect(code { try checkpoint(store) } == .full)
        // The merge needs space before it gives some back, and has the reserve.
        let runs = try #require(store.manifest(of: ReplicaID(7))).runs.count
        #expect(runs > 20)
        try store.merge(ReplicaID(7), range: 0..<runs)
        try expectAll(store)
        while try store.reclaim() > 0 {}
        try checkpoint(store)
        try expectAll(store)
        try files.giveSpace()
        try checkpoint(store)
        try expectAll(store)
    }

    /// Runs that have nothing in common: a merge of all takes as much again, and there is not so much. It would take what
    /// the file system has left, for nothing.
    @Test func aStoreOnAFullDiskMergesAsMuchAsFitsAndKeepsWhatDeletesNeed() throws {
        let files = try #require(SmallFileSystem(bytes: 48 << 20, ballastBytes: 8 << 20))
        let disk = try LMDBDisk(directory: files.disk, settings: Self.settings)
        let store = try Store(disk: disk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        var all: [Record] = []
        var index: UInt64 = 0
        func checkpoint(_ count: Int) throws {
            var records: [Record] = []
            for _ in 0..<count {
                index += 1
                records.append(
                    Record(
                        key: storeKey(UInt16(index), "key"), revision: Revision(index), changed: LogIndex(index),
                        value: storeValue(60_000, index)))
            }
            try store.checkpoint([CheckpointPart(frozen(records), storeHeader(index))])
            all += records
        }
        func expectAll() throws {
            #expect(try allRecords(store, #require(store.view(ReplicaID(7)))) == all.sorted { $0.key < $1.key })
        }
        #expect(code { while true { try checkpoint(10) } } == .full)
        let runs = try #require(store.manifest(of: ReplicaID(7))).runs.count
        #expect(runs > 20)
        var merges = 0
        var refusal: DiskError?
        while refusal == nil, merges < runs {
            do {
                guard try store.merge(ReplicaID(7)) != nil else { break }
                merges += 1
                while try store.reclaim() > 0 {}
            } catch let error as DiskError { refusal = error }
        }
        #expect(merges > 2)
        #expect(refusal == nil || refusal?.code == .full)
        try expectAll()
        // One that is begun all the same finds out when it has written much; it leaves enough to delete that again.
        let left = try #require(store.manifest(of: ReplicaID(7))).runs.count
        #expect(code { try store.merge(ReplicaID(7), range: 0..<left) } == .full)
        #expect(try store.reclaim() == 0, "all of it is gone")
        try expectAll()
        // What deletes give back is inside of the file, and nothing of the file system is left.
        try store.remove(ReplicaID(7))
        while try store.reclaim() > 0 {}
        let used = disk.usedBytes
        #expect(try disk.reusableBytes() > 20 << 20)
        try store.start(storeHeader(index))
        all = []
        for _ in 0..<2 { try checkpoint(100) }
        try expectAll()
        #expect(disk.usedBytes < used + 3 << 20)
    }

    /// Nothing is left behind the last page, much is free inside: transactions of any size go on there. Values that find
    /// no pages in a row are refused before LMDB writes anything: it would find out in the middle, as of a disk that
    /// fails.
    @Test func freePagesInsideAreWrittenToWhenNothingIsLeftBehind() throws {
        let files = try #require(SmallFileSystem(bytes: 32 << 20, ballastBytes: 8 << 20))
        let disk = try LMDBDisk(
            directory: files.disk, settings: LMDBDisk.Settings(mapBytes: 1 << 20, reserveBytes: 4 << 20))
        func put(_ numbers: some Sequence<Int>, bytes: Int = 60_000, _ purpose: DiskPurpose) throws {
            try disk.write(purpose) { writer in
                for number in numbers {
                    try writer.put(DiskKey(table: 1, high: UInt64(number)), count: bytes, append: false) { place in
                        place.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: number))
                    }
                }
            }
        }
        var count = 0
        #expect(
            code {
                while true {
                    try put(CollectionOfOne(count), .merge)
                    count += 1
                }
            } == .full)
        #expect(count > 300)
        let holes = Array(stride(from: 0, to: count, by: 2))
        for number in holes {
            try disk.write(.upkeep) { _ = try $0.delete(DiskKey(table: 1, high: UInt64(number))) }
        }
        let used = disk.usedBytes
        // More at once than there is behind the last page.
        try put(holes.prefix(60), .growth)
        #expect(disk.usedBytes <= used + 64 << 10)
        let refusal = #expect(throws: DiskError.self) { try put([count], bytes: 3 << 20, .upkeep) }
        #expect(
            refusal?.code == .full && refusal?.message.contains("scattered") == true, "\(String(describing: refusal))")
        for number in 0..<count {
            let found = try disk.read { reader in
                try reader.withValue(for: DiskKey(table: 1, high: UInt64(number))) { $0.map { Array($0) } }
            }
            let isThere = number % 2 == 1 || number / 2 < 60
            #expect(found == (isThere ? Array(repeating: UInt8(truncatingIfNeeded: number), count: 60_000) : nil))
        }
        try put(holes.dropFirst(60).prefix(60), .growth)
    }

    /// LMDB finds out by itself: then some of what happens reads like a disk that failed, and the process has to end.
    @Test func withoutAReserveNothingIsLostEither() throws {
        let files = try #require(SmallFileSystem(bytes: 8 << 20, ballastBytes: 2 << 20))
        let settings = LMDBDisk.Settings(mapBytes: 1 << 20)
        var last: UInt64 = 0
        var codes: Set<DiskError.Code> = []
        for life in 0..<8 as Range<UInt64> {
            if life == 6 { try files.giveSpace() }
            let journal = try Journal(
                disk: LMDBDisk(directory: files.disk, settings: settings), formatting: Self.identity)
            #expect(!journal.isDamaged)
            #expect(try journal.all(1) == (last == 0 ? [] : entries(1...last, bytes: 50_000)))
            let before = last
            while true {
                do {
                    _ = try journal.append([append(1, last + 1...last + 1, bytes: 50_000)])
                    last += 1
                } catch let error as DiskError {
                    codes.insert(error.code)
                    break
                }
            }
            if life == 6 { #expect(last > before + 20) }
        }
        #expect(codes.isSubset(of: [.full, .failed]))
    }
}
