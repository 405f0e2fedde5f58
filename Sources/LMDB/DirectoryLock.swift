// One process per directory (flock on a file of ours, and on the data's own, since people delete lock files; LMDB's
// lock.mdb is never touched), and one open per process (LMDB corrupts when a process opens an environment twice), by
// device and inode so that two paths to one directory count.

import Glibc
import Synchronization

/// Which directory it is, whatever its path.
private struct DirectoryIdentity: Hashable {
    var device: UInt64
    var inode: UInt64
}

/// The directories that this process has open. Global because LMDB's restriction is the process's, not an object's.
private let openDirectories = Mutex<Set<DirectoryIdentity>>([])

/// Holds a directory from `init` to the end of its life.
struct DirectoryLock: ~Copyable {
    private static let fileName = "LOCK"
    private let descriptor: Int32
    private let identity: DirectoryIdentity

    /// Throws `.inUse`, naming the directory and, if it left its number, the process that holds it.
    init(path: String) throws(LMDBError) {
        var status = stat()
        guard stat(path, &status) == 0 else { throw systemError("open the directory", path: path) }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw systemError("open the directory", path: path, number: ENOTDIR)
        }
        let identity = DirectoryIdentity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        guard openDirectories.withLock({ $0.insert(identity).inserted }) else {
            throw LMDBError(
                .inUse, operation: "lock the directory", path: path, detail: "this process has it open already")
        }
        do throws(LMDBError) {
            descriptor = try Self.acquire(path: path)
        } catch {
            openDirectories.withLock { _ = $0.remove(identity) }
            throw error
        }
        self.identity = identity
    }

    /// This process has the directory open.
    static func isHeld(path: String) -> Bool {
        var status = stat()
        guard stat(path, &status) == 0 else { return false }
        let identity = DirectoryIdentity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        return openDirectories.withLock { $0.contains(identity) }
    }

    deinit {
        // Unlocked by name, not by closing alone: a child between its fork and its exec still holds the descriptor.
        // The file stays: deleting it would let two processes lock two files of one name.
        _ = flock(descriptor, LOCK_UN)
        close(descriptor)
        let identity = identity
        openDirectories.withLock { _ = $0.remove(identity) }
    }

    private static let attemptsMax = 20
    private static let attemptMicroseconds: UInt32 = 75_000

    private static func acquire(path: String) throws(LMDBError) -> Int32 {
        let descriptor = open(path + "/" + fileName, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw systemError("open \(fileName)", path: path) }
        guard lock(descriptor) else {
            let number = errno
            let holder = holder(descriptor)
            close(descriptor)
            guard number == EWOULDBLOCK else { throw systemError("lock the directory", path: path, number: number) }
            let who = holder.map { "process \($0)" } ?? "another process"
            throw LMDBError(
                .inUse, number: number, operation: "lock the directory", path: path, detail: "\(who) has it open")
        }
        // A hint for people; the lock does not depend on it.
        var text = "\(getpid())\n"
        text.withUTF8 { bytes in
            if ftruncate(descriptor, 0) == 0 { _ = pwrite(descriptor, bytes.baseAddress, bytes.count, 0) }
        }
        return descriptor
    }

    /// A process that was just killed may not be quite gone: a start right behind it waits a little. False: see errno.
    private static func lock(_ descriptor: Int32) -> Bool {
        var isLocked = flock(descriptor, LOCK_EX | LOCK_NB) == 0
        var attempts = attemptsMax
        while !isLocked, errno == EWOULDBLOCK, attempts > 0 {
            attempts -= 1
            usleep(attemptMicroseconds)
            isLocked = flock(descriptor, LOCK_EX | LOCK_NB) == 0
        }
        return isLocked
    }

    /// The file itself, through LMDB's descriptor: until that is closed.
    static func holdData(_ descriptor: Int32, path: String) throws(LMDBError) {
        guard !lock(descriptor) else { return }
        let number = errno
        guard number == EWOULDBLOCK else { throw systemError("lock data.mdb", path: path, number: number) }
        throw LMDBError(
            .inUse, number: number, operation: "lock data.mdb", path: path,
            detail: "another process has it open, though its file \(fileName) is not locked: was that deleted?")
    }

    private static func holder(_ descriptor: Int32) -> Int? {
        withUnsafeTemporaryAllocation(byteCount: 32, alignment: 1) { place in
            let count = pread(descriptor, place.baseAddress, place.count, 0)
            guard count > 0 else { return nil }
            return Int(String(decoding: place[..<count].prefix { $0 >= 48 && $0 <= 57 }, as: UTF8.self))
        }
    }
}
