// Looking through a file without believing it: what LMDB wrote is sound, whatever was done before, and what was changed
// behind its back is found, or does no harm.

import Foundation
import Glibc
import LMDB
import Testing

@Suite struct ClosedEnvironmentTests {
    private static let keysMax: UInt32 = 4_000

    /// Some thousand changes, of small values and of some with pages of their own, in an order drawn from a seed. Calls
    /// `look` now and then, with the environment closed.
    private func live(_ directory: TemporaryDirectory, seed: UInt64, rounds: Int, look: () throws -> Void) throws {
        var random = seed
        func draw(_ bound: UInt64) -> UInt64 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (random >> 33) % bound
        }
        for _ in 0..<rounds {
            do {
                let environment = try Environment(path: directory.path, mapBytes: 64 << 20)
                for _ in 0..<1 + draw(6) {
                    let transaction = try environment.beginWrite()
                    let isShrinking = draw(3) == 0
                    for _ in 0..<1 + draw(400) {
                        try withKey(UInt32(draw(UInt64(Self.keysMax)))) { key in
                            if isShrinking ? draw(5) > 0 : draw(5) == 0 {
                                _ = try transaction.delete(key)
                            } else {
                                let bytes = draw(6) == 0 ? 3_000 + draw(60_000) : draw(700)
                                let place = try transaction.reserve(key, count: Int(bytes))
                                place.initializeMemory(as: UInt8.self, repeating: 7)
                            }
                        }
                    }
                    if draw(8) == 0 { continue }
                    try transaction.commit()
                }
            }
            try look()
        }
    }

    private func examine(_ path: String) throws -> Int {
        let environment = try ClosedEnvironment(path: path)
        var keys = 0
        var last: [UInt8] = []
        var isAscending = true
        try environment.examine(keyBytes: 4) { (key, _) throws(LMDBError) in
            keys += 1
            if !last.lexicographicallyPrecedes(key) { isAscending = false }
            last = Array(key)
        }
        #expect(isAscending)
        return keys
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>) func whatLMDBWroteIsSound(seed: UInt64) throws {
        let directory = try TemporaryDirectory()
        try live(directory, seed: seed, rounds: 25) {
            let found = try examine(directory.path)
            let environment = try Environment(path: directory.path)
            #expect(found == (try environment.beginRead().count()))
        }
    }

    /// Each page that is in use, and says of itself which one it is.
    private func pages(of content: Data) -> [(page: Int, flags: Int)] {
        (2..<content.count / 4_096).compactMap { page in
            let start = page * 4_096
            let isItself = (0..<8).allSatisfy { Int(content[start + $0]) == page >> (8 * $0) & 255 }
            return isItself ? (page, Int(content[start + 10])) : nil
        }
    }

    /// Overwrites the beginning of each page of the trees in turn. Whether one is in use, or was once, is seen by what
    /// LMDB itself finds when it can be asked: a file of one commit has no others.
    @Test func aPageOfTheTreesThatWasOverwrittenIsFound() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            let transaction = try environment.beginWrite()
            for number in 0..<1_500 as Range<UInt32> {
                try withKey(number) { key in
                    let place = try transaction.reserve(key, count: number % 50 == 0 ? 9_000 : 200)
                    place.initializeMemory(as: UInt8.self, repeating: 7)
                }
            }
            try transaction.commit()
        }
        #expect(try examine(directory.path) == 1_500)
        let file = directory.path + "/data.mdb"
        let whole = try Data(contentsOf: URL(fileURLWithPath: file))
        var kinds: Set<Int> = []
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: file))
        defer { try? handle.close() }
        for (page, flags) in pages(of: whole) {
            for (offset, bytes) in [
                (0, [0xff, 0xff, 0xff, 0xff]), (10, [0x40, 0x10]), (12, [0xff, 0xff, 0xff, 0xff]),
            ] {
                // What stands at 12 in a value's first page is how many there are; its upper half is 0 here.
                let place = UInt64(page * 4_096 + offset)
                try handle.seek(toOffset: place)
                try handle.write(contentsOf: Data(bytes.map { UInt8($0) }))
                let error = #expect(throws: LMDBError.self, "page \(page), flags \(flags), offset \(offset)") {
                    try examine(directory.path)
                }
                #expect(error?.code == .corrupted && error?.description.contains("page") == true)
                try handle.seek(toOffset: place)
                try handle.write(contentsOf: whole[Int(place)..<Int(place) + bytes.count])
            }
            kinds.insert(flags)
        }
        #expect(kinds == [1, 2, 4], "branches, leaves and values")
        #expect(try examine(directory.path) == 1_500)
    }

    /// What passes leads LMDB to every key, without an end of the process: this one.
    @Test func whatPassesInSpiteOfAFlippedBitCanBeReadByLMDB() throws {
        let directory = try TemporaryDirectory()
        try live(directory, seed: 99, rounds: 3) {}
        let count = try examine(directory.path)
        let whole = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/data.mdb"))
        let trees = pages(of: whole).filter { $0.flags == 1 || $0.flags == 2 }.map(\.page)
        let damaged = try TemporaryDirectory()
        let url = URL(fileURLWithPath: damaged.path + "/data.mdb")
        try whole.write(to: url)
        let handle = try FileHandle(forUpdating: url)
        defer { try? handle.close() }
        var found = 0
        var random: UInt64 = 5
        for trial in 0..<150 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            // Headers, offsets and the first nodes, where most leads somewhere.
            let place =
                trees[Int(random >> 40) % trees.count] * 4_096 + Int(random >> 20) % (trial % 2 == 0 ? 64 : 4_096)
            try handle.seek(toOffset: UInt64(place))
            try handle.write(contentsOf: Data([whole[place] ^ UInt8(1 << (random >> 60 & 7))]))
            do {
                let keys = try examine(damaged.path)
                #expect(keys == count)
                let environment = try Environment(path: damaged.path)
                let transaction = try environment.beginRead()
                let cursor = try transaction.openCursor()
                var item = try cursor.first()
                var met = 0
                var bytes = 0
                while let next = item {
                    met += 1
                    bytes += next.value.count { $0 != 0 }
                    item = try cursor.next()
                }
                #expect(met == count && bytes > 0)
            } catch let error as LMDBError {
                #expect(error.code == .corrupted, "\(error)")
                found += 1
            }
            try handle.seek(toOffset: UInt64(place))
            try handle.write(contentsOf: Data([whole[place]]))
        }
        #expect(found > 5)
    }

    @Test func aFileThatWasCutOffIsFound() throws {
        let directory = try TemporaryDirectory()
        try live(directory, seed: 3, rounds: 3) {}
        let file = directory.path + "/data.mdb"
        for bytes in [40 * 4_096, 8_192, 5_000, 0] {
            #expect(truncate(file, bytes) == 0)
            let error = #expect(throws: LMDBError.self) { try examine(directory.path) }
            #expect(error?.code == .corrupted && error?.description.contains("cut off") == true)
        }
    }

    @Test func aNoteIsReadAndTakenAwayByWhoHoldsTheDirectory() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            try put(environment, 0..<10)
            #expect(throws: LMDBError.self) { try examine(directory.path) }
            environment.markDamaged("page 7 is broken")
        }
        #expect(ClosedEnvironment.hasNote(path: directory.path))
        let error = #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
        #expect(error?.code == .corrupted && error?.description.contains("DAMAGED") == true)
        do {
            let closed = try ClosedEnvironment(path: directory.path)
            let note = closed.note
            #expect(note == "page 7 is broken")
            try closed.removeNote()
        }
        #expect(!ClosedEnvironment.hasNote(path: directory.path))
        #expect(try Environment(path: directory.path).beginRead().count() == 10)
    }

    /// A disk that fails for a moment has lost nothing.
    @Test(arguments: [0, 1, 3, 4]) func whatCanNotBeReadIsReadAgain(failures: Int) {
        var left = failures
        var pauses = 0
        var bytes: [UInt8] = [0, 0, 0, 0, 0, 0]
        let (count, number) = bytes.withUnsafeMutableBytes { buffer in
            PatientRead.fill(buffer, pause: { pauses += 1 }) { rest, done in
                if done == 4, left > 0 {
                    left -= 1
                    return (0, EIO)
                }
                rest.copyBytes(from: [UInt8(done + 1), UInt8(done + 2)])
                return (2, 0)
            }
        }
        #expect(count == (failures < 4 ? 6 : 4) && number == (failures < 4 ? 0 : EIO) && pauses == min(failures, 3))
        #expect(bytes == (failures < 4 ? [1, 2, 3, 4, 5, 6] : [1, 2, 3, 4, 0, 0]))
        // Other errors and ends are what they are.
        let other = bytes.withUnsafeMutableBytes { buffer in
            PatientRead.fill(buffer, pause: { pauses += 100 }) { _, done in done == 0 ? (1, 0) : (0, ENXIO) }
        }
        #expect(other == (1, ENXIO))
        let end = bytes.withUnsafeMutableBytes { buffer in
            PatientRead.fill(buffer, pause: { pauses += 100 }) { _, done in done == 0 ? (1, 0) : (0, 0) }
        }
        #expect(end == (1, 0) && pauses < 100)
    }

    /// It may be sound, and what it means is for another program to say; one page of it alone is damage.
    @Test func aFileOfAnotherVersionOfLMDBIsNotDamaged() throws {
        let directory = try TemporaryDirectory()
        try live(directory, seed: 3, rounds: 2) {}
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: directory.path + "/data.mdb"))
        defer { try? handle.close() }
        for (page, code) in [(0, LMDBError.Code.corrupted), (1, .versionMismatch)] {
            try handle.seek(toOffset: UInt64(page * 4_096 + 20))
            try handle.write(contentsOf: Data([2, 0, 0, 0]))
            let error = #expect(throws: LMDBError.self) { try examine(directory.path) }
            #expect(error?.code == code, "\(String(describing: error))")
        }
    }
}
