// The file before it is mapped: one that was cut off is an error, and never a SIGBUS at the first read behind its end;
// one that is only shorter than LMDB's count of pages is whole.

import Foundation
import Glibc
import LMDB
import Testing

@Suite struct EnvironmentFileTests {
    /// Small values, and some that take pages of their own.
    private func make(_ directory: TemporaryDirectory) throws {
        let environment = try Environment(path: directory.path)
        for step in 0..<10 as Range<UInt32> {
            try put(environment, step * 100..<step * 100 + 100, bytes: step % 3 == 0 ? 9_000 : 300)
        }
        let transaction = try environment.beginWrite()
        for number in 500..<600 as Range<UInt32> { try withKey(number) { _ = try transaction.delete($0) } }
        try transaction.commit()
    }

    private func expectContents(_ path: String) throws {
        let environment = try Environment(path: path)
        let transaction = try environment.beginRead()
        try #require(try transaction.count() == 900)
        for number in 0..<1_000 as Range<UInt32> {
            let expected = [UInt8](
                repeating: UInt8(truncatingIfNeeded: number), count: number / 100 % 3 == 0 ? 9_000 : 300)
            try #require(
                try withKey(number) { try transaction.get($0).map { Array($0) } }
                    == ((500..<600).contains(number) ? nil : expected))
        }
    }

    @Test func aFileThatWasCutOffIsCorruptAndNothingOfItIsRead() throws {
        let directory = try TemporaryDirectory()
        try make(directory)
        let whole = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/data.mdb"))
        try #require(whole.count > 500 * 4_096)
        var refused = 0
        // Pages that are free may go: then all is there. Page 0 and 1 are never free.
        let sizes = Array(stride(from: 0, to: whole.count, by: 61 * 1_024)) + [1, 512, 4_096, 8_191, 8_192, 8_193]
        for size in sizes {
            let cut = try TemporaryDirectory()
            try whole[..<size].write(to: URL(fileURLWithPath: cut.path + "/data.mdb"))
            do {
                try expectContents(cut.path)
                #expect(size > 8_192)
            } catch let error as LMDBError {
                #expect(error.code == .corrupted)
                #expect(error.description.contains("data.mdb was cut off: it has \(size) bytes"))
                refused += 1
            }
            #expect(try FileManager.default.attributesOfItem(atPath: cut.path + "/data.mdb")[.size] as? Int == size)
        }
        #expect(refused > sizes.count * 2 / 3)
    }

    /// One bit of one meta page's transaction number: LMDB would open the tree of the commit before, whole and sound.
    /// All are noticed but the one bit that makes another pair of neighbours of them.
    @Test func aFlippedTransactionNumberIsCorruptAndNotTheCommitBefore() throws {
        let directory = try TemporaryDirectory()
        try make(directory)
        let whole = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/data.mdb"))
        let pageBytes = Int(getpagesize())
        var unnoticed: [String] = []
        for page in 0...1 {
            for bit in 0..<64 {
                let damaged = try TemporaryDirectory()
                var bytes = whole
                bytes[page * pageBytes + 16 + 128 + bit / 8] ^= 1 << UInt8(bit % 8)
                try bytes.write(to: URL(fileURLWithPath: damaged.path + "/data.mdb"))
                do {
                    _ = try Environment(path: damaged.path)
                    unnoticed.append("bit \(bit) of page \(page)")
                } catch {
                    #expect(error.code == .corrupted && error.description.contains("meta pages"))
                }
            }
        }
        #expect(unnoticed.count <= 1, "\(unnoticed)")
    }

    @Test func aTreeThatLeadsInCirclesEndsTheWalk() throws {
        let directory = try TemporaryDirectory()
        try make(directory)
        var content = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/data.mdb"))
        // Both headers name as their last page one that is not there, so that the tree is walked, and every branch page
        // leads to itself.
        for offset in [16 + 120, 4_096 + 16 + 120] {
            content.replaceSubrange(offset..<offset + 8, with: [255, 255, 0, 0, 0, 0, 0, 0])
        }
        var branches = 0
        for page in 2..<content.count / 4_096 where content[page * 4_096 + 10] == 1 {
            let start = page * 4_096
            func half(_ offset: Int) -> Int { Int(content[start + offset]) | Int(content[start + offset + 1]) << 8 }
            guard half(0) == page, half(2) == 0, half(12) > 16, half(12) < 4_096 else { continue }
            for slot in stride(from: 16, to: half(12), by: 2) {
                let node = start + half(slot)
                guard node + 8 <= content.count else { continue }
                content.replaceSubrange(
                    node..<node + 6, with: [UInt8(page & 255), UInt8(page >> 8), 0, 0, 0, 0])
            }
            branches += 1
        }
        try #require(branches > 0)
        try content.write(to: URL(fileURLWithPath: directory.path + "/data.mdb"))
        let error = #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
        #expect(error?.code == .corrupted && error?.description.contains("tree") == true)
    }

    /// What LMDB leaves there when it failed to write the meta page of the first commit in a map that was enlarged.
    @Test func anOlderMetaPageWithALargerMapIsSound() throws {
        let directory = try TemporaryDirectory()
        try make(directory)
        let path = directory.path + "/data.mdb"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        func number(_ offset: Int) -> UInt64 {
            bytes[offset..<offset + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        let pageBytes = Int(getpagesize())
        let older = number(16 + 128) < number(pageBytes + 16 + 128) ? 0 : pageBytes
        var larger = 2 * number(older + 16 + 16)
        for offset in older + 32..<older + 40 {
            bytes[offset] = UInt8(larger & 255)
            larger >>= 8
        }
        try bytes.write(to: URL(fileURLWithPath: path))
        let environment = try Environment(path: directory.path)
        try put(environment, 1_000..<1_010)
    }

    /// One bit of a meta page's map size or last page: the map would be enlarged for nothing, or the file be full for
    /// ever. Those that are not noticed do no harm: all is there, and more can be written.
    @Test func aFlippedLastPageOrMapSizeIsCorruptOrHarmless() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            for step in 0..<5 as Range<UInt32> { try put(environment, step * 10..<step * 10 + 10) }
        }
        let whole = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/data.mdb"))
        var refused = 0
        for place in 0..<256 {
            let (page, field, bit) = (place / 128, place / 64 % 2 == 0 ? 16 : 120, place % 64)
            let damaged = try TemporaryDirectory()
            var bytes = whole
            bytes[page * Int(getpagesize()) + 16 + field + bit / 8] ^= 1 << UInt8(bit % 8)
            try bytes.write(to: URL(fileURLWithPath: damaged.path + "/data.mdb"))
            do {
                let environment = try Environment(path: damaged.path)
                let spareBytes = environment.preallocate(aheadBytes: 1 << 20, stepBytes: 1 << 20, writesZeros: false)
                #expect(spareBytes >= 1 << 20, "bit \(bit) at \(field) of page \(page)")
                try put(environment, 50..<60)
                let transaction = try environment.beginRead()
                for number in 0..<60 as Range<UInt32> {
                    #expect(try withKey(number) { try transaction.get($0)?.first } == UInt8(number))
                }
            } catch let error as LMDBError {
                #expect(error.code == .corrupted, "bit \(bit) at \(field) of page \(page): \(error)")
                refused += 1
            }
        }
        #expect(refused > 100 && refused < 256, "\(refused)")
    }

    @Test func aFileThatLacksOnlyPagesNeverWrittenIsWhole() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            try put(environment, 0..<50)
            var isShort = false
            for step in 1...8 where !isShort {
                let transaction = try environment.beginWrite()
                try withKey(50) { key in
                    _ = try transaction.reserve(key, count: 100).initializeMemory(as: UInt8.self, repeating: 50)
                }
                // Its pages are taken at the end of the file, as none before is large enough, and given back at once.
                try withKey(99) { _ = try transaction.reserve($0, count: step << 20) }
                let isGone = try withKey(99) { try transaction.delete($0) }
                #expect(isGone)
                try transaction.commit()
                let file = try FileManager.default.attributesOfItem(atPath: directory.path + "/data.mdb")
                isShort = try #require(file[.size] as? Int) < environment.usedBytes
            }
            try #require(isShort, "else this tests nothing")
        }
        let environment = try Environment(path: directory.path)
        let transaction = try environment.beginRead()
        #expect(try transaction.count() == 51)
        for number in 0..<51 as Range<UInt32> {
            #expect(
                try withKey(number) { try transaction.get($0).map { Array($0) } }
                    == Array(repeating: UInt8(number), count: 100))
        }
    }

    @Test func whatAnUnfinishedCreationLeftIsNoHindrance() throws {
        let directory = try TemporaryDirectory()
        try Data(repeating: 7, count: 600).write(to: URL(fileURLWithPath: directory.path + "/new.mdb"))
        let environment = try Environment(path: directory.path)
        try put(environment, 0..<10)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == [
                "LOCK", "data.mdb", "lock.mdb",
            ])
    }

    @Test func theLockFileHasItsBlocksSoThatAFullDiskIsNoSignal() throws {
        let directory = try TemporaryDirectory()
        for _ in 0..<2 {
            let environment = try Environment(path: directory.path)
            var status = stat()
            #expect(stat(directory.path + "/lock.mdb", &status) == 0)
            #expect(status.st_size >= Environment.readersMax * 64)
            #expect(Int(status.st_blocks) * 512 >= Int(status.st_size))
            #expect(environment.usedBytes > 0)
        }
    }
}
