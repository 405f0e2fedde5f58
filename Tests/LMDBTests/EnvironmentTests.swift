import Foundation
import LMDB
import Testing

/// A directory that goes away with its test.
final class TemporaryDirectory {
    let path: String
    init() throws {
        path = NSTemporaryDirectory() + "bifrost-lmdb-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

func withKey<Result>(_ number: UInt32, _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    try withUnsafeBytes(of: number.bigEndian) { try body($0) }
}

func put(_ environment: Environment, _ numbers: Range<UInt32>, bytes: Int = 100) throws {
    let transaction = try environment.beginWrite()
    for number in numbers {
        try withKey(number) { key in
            let place = try transaction.reserve(key, count: bytes)
            place.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: number))
        }
    }
    try transaction.commit()
}

@Suite struct EnvironmentTests {
    @Test func whatIsCommittedIsThereAfterReopeningAndWhatIsNotIsGone() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            try put(environment, 0..<10)
            let abandoned = try environment.beginWrite()
            try withKey(99) { key in _ = try abandoned.reserve(key, count: 8) }
        }
        let environment = try Environment(path: directory.path)
        let transaction = try environment.beginRead()
        #expect(try transaction.count() == 10)
        #expect(try withKey(7) { try transaction.get($0).map { Array($0) } } == Array(repeating: 7, count: 100))
        #expect(try withKey(99) { try transaction.get($0) == nil })
    }

    @Test func whereALargeValueEndsInTheFileIsKnownBeforeItIsWritten() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path)
        func put(_ key: UInt32, bytes: Int) throws -> Int? {
            let transaction = try environment.beginWrite()
            let end = try withKey(key) { try transaction.fileEnd(of: try transaction.reserve($0, count: bytes)) }
            try transaction.commit()
            return end
        }
        #expect(try put(1, bytes: 100) == nil)
        let before = environment.usedBytes
        let end = try #require(try put(2, bytes: 50_000))
        #expect(end >= before + 50_000 && end <= environment.usedBytes)
        try withKey(2) { key in
            let transaction = try environment.beginWrite()
            try transaction.delete(key)
            try transaction.commit()
        }
        // What was given back can be used by the transaction after the next one.
        _ = try put(3, bytes: 100)
        #expect(try put(4, bytes: 50_000) == end)
    }

    @Test func cursorsWalkInOrderBothWays() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path)
        try put(environment, 10..<20, bytes: 4)
        let transaction = try environment.beginRead()
        let cursor = try transaction.openCursor()
        #expect(try withKey(15) { try cursor.seek($0) }?.key.last == 15)
        #expect(try cursor.next()?.key.last == 16)
        #expect(try cursor.previous()?.key.last == 15)
        #expect(try cursor.last()?.key.last == 19)
        #expect(try cursor.next() == nil)
        #expect(try cursor.first()?.key.last == 10)
        #expect(try cursor.previous() == nil)
    }

    @Test func aReaderKeepsItsViewBesideAWriter() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path)
        try put(environment, 0..<5)
        let before = try environment.beginRead()
        try put(environment, 5..<10)
        #expect(try before.count() == 5)
        let after = try environment.beginRead()
        #expect(try after.count() == 10)
    }

    @Test func aDirectoryIsOpenedOnceInAProcessAlsoByAnotherPath() throws {
        let directory = try TemporaryDirectory()
        let link = directory.path + "-link"
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: directory.path)
        defer { try? FileManager.default.removeItem(atPath: link) }
        do {
            let environment = try Environment(path: directory.path)
            for path in [directory.path, link] {
                let error = #expect(throws: LMDBError.self) { try Environment(path: path) }
                #expect(error?.code == .inUse)
                #expect(error?.description.contains(path) == true)
            }
            withExtendedLifetime(environment) {}
        }
        _ = try Environment(path: link)
    }

    /// A process that holds the file until its input ends, as soon as it does.
    private func hold(_ path: String, _ script: String) throws -> (holder: Process, input: Pipe) {
        let holder = Process()
        let (input, output) = (Pipe(), Pipe())
        holder.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
        holder.arguments = [path, "sh", "-c", script]
        holder.standardInput = input
        holder.standardOutput = output
        try holder.run()
        _ = output.fileHandleForReading.availableData
        return (holder, input)
    }

    /// People delete lock files.
    @Test func aDirectoryOfAnotherProcessIsRefusedAlsoWithoutItsLockFile() throws {
        let directory = try TemporaryDirectory()
        do { _ = try Environment(path: directory.path) }
        try FileManager.default.removeItem(atPath: directory.path + "/LOCK")
        let (holder, input) = try hold(directory.path + "/data.mdb", "echo held; read line")
        let error = #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
        #expect(error?.code == .inUse)
        #expect(error?.description.contains("LOCK is not locked: was that deleted?") == true)
        try input.fileHandleForWriting.close()
        holder.waitUntilExit()
        _ = try Environment(path: directory.path)
    }

    @Test func aDirectoryOfAnotherProcessIsRefusedWithItsNumber() throws {
        let directory = try TemporaryDirectory()
        let (holder, input) = try hold(
            directory.path + "/LOCK", "echo $$ > \(directory.path)/LOCK; echo held; read line")
        let error = #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
        #expect(error?.code == .inUse)
        #expect(error?.description.contains(directory.path) == true)
        let number = try String(contentsOfFile: directory.path + "/LOCK", encoding: .utf8).prefix { $0.isNumber }
        #expect(error?.description.contains("process \(number) has it open") == true)
        try input.fileHandleForWriting.close()
        holder.waitUntilExit()
        _ = try Environment(path: directory.path)
    }

    /// As when a host is started right behind one that was killed.
    @Test func aDirectoryWhoseHolderIsJustEndingIsWaitedFor() throws {
        let directory = try TemporaryDirectory()
        let holder = open(directory.path + "/LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        try #require(holder >= 0 && flock(holder, LOCK_EX | LOCK_NB) == 0)
        Thread.detachNewThread {
            usleep(200_000)
            flock(holder, LOCK_UN)
            close(holder)
        }
        _ = try Environment(path: directory.path)
    }

    @Test func aFullMapIsAnErrorAndGrowsOnRequest() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path, mapBytes: 1 << 18, mapBytesMax: 1 << 19)
        let error = #expect(throws: LMDBError.self) { try put(environment, 0..<10, bytes: 50_000) }
        #expect(error?.code == .mapFull)
        try environment.growMap()
        #expect(environment.mapBytes == 1 << 19)
        try put(environment, 0..<8, bytes: 50_000)
        #expect(throws: LMDBError.self) { try environment.growMap() }
        #expect(try environment.beginRead().count() == 8)
    }

    @Test func growthWaitsForReadersOfOtherThreads() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path, mapBytes: 1 << 18)
        try put(environment, 0..<3)
        let started = DispatchSemaphore(value: 0)
        let done = DispatchSemaphore(value: 0)
        let release = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            do {
                let reader = try environment.beginRead()
                started.signal()
                release.wait()
                #expect(try reader.count() == 3)
            } catch { Issue.record(error) }
            done.signal()
        }
        started.wait()
        Thread.detachNewThread {
            #expect(throws: Never.self) { try environment.growMap() }
            done.signal()
        }
        release.signal()
        done.wait()
        done.wait()
        #expect(environment.mapBytes == 1 << 19)
    }

    @Test func aSecondWriteTransactionOnOneThreadIsRefused() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path)
        let first = try environment.beginWrite()
        let error = #expect(throws: LMDBError.self) { _ = try environment.beginWrite() }
        #expect(error?.code == .badTransaction)
        try first.commit()
        try environment.beginWrite().commit()
    }

    @Test func filesAreForTheirOwnerAndDescriptorsEndAtExec() throws {
        let directory = try TemporaryDirectory()
        let environment = try Environment(path: directory.path)
        for file in ["data.mdb", "lock.mdb", "LOCK"] {
            let attributes = try FileManager.default.attributesOfItem(atPath: directory.path + "/" + file)
            #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o600)
        }
        var found = 0
        for name in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd") {
            guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/" + name),
                target.hasPrefix(directory.path), let descriptor = Int32(name)
            else { continue }
            found += 1
            #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0, "\(target)")
        }
        #expect(found >= 3)
        withExtendedLifetime(environment) {}
    }

    @Test func preallocatedZerosLieBehindTheLastPageAndHarmNothing() throws {
        let directory = try TemporaryDirectory()
        do {
            let environment = try Environment(path: directory.path)
            for round in 0..<20 as Range<UInt32> {
                try put(environment, round * 50..<round * 50 + 50, bytes: 3_000)
                environment.preallocate(aheadBytes: 1 << 20, stepBytes: 1 << 19)
            }
            let attributes = try FileManager.default.attributesOfItem(atPath: directory.path + "/data.mdb")
            #expect((attributes[.size] as? NSNumber)?.intValue ?? 0 >= environment.usedBytes + 1 << 19)
        }
        let environment = try Environment(path: directory.path)
        let transaction = try environment.beginRead()
        #expect(try transaction.count() == 1_000)
        for number in 0..<1_000 as Range<UInt32> {
            #expect(
                try withKey(number) { key in
                    try transaction.get(key)?.allSatisfy { $0 == UInt8(truncatingIfNeeded: number) } == true
                })
        }
    }

    @Test func aDirectoryThatAnAssertionMarkedIsRefused() throws {
        let directory = try TemporaryDirectory()
        try Data("Assertion failed\n".utf8).write(to: URL(fileURLWithPath: directory.path + "/DAMAGED"))
        #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
    }

    @Test func everyErrorSaysWhatToDo() throws {
        let error = #expect(throws: LMDBError.self) { try Environment(path: "/nonexistent/bifrost") }
        #expect(error?.description.contains("/nonexistent/bifrost") == true)
        let directory = try TemporaryDirectory()
        try Data(repeating: 7, count: 20_000).write(to: URL(fileURLWithPath: directory.path + "/data.mdb"))
        let invalid = #expect(throws: LMDBError.self) { try Environment(path: directory.path) }
        #expect(invalid?.code == .invalid)
        #expect(invalid?.description.contains("whole copies") == true)
    }
}
