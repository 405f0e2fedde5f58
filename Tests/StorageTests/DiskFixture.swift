import BifrostSimulator
import Foundation
import Glibc
import Primitives
import Storage
import Testing

/// A disk that a test can reopen and crash, real or simulated.
protocol DiskFixture: AnyObject {
    associatedtype Storage: Disk
    var disk: Storage { get }
    /// As a process that ends and starts again. Faults are over then.
    func reopen() throws
    /// What a disk does to a commit; `.failed` until `reopen`.
    func set(_ fault: DiskFault) throws
}

enum DiskFault { case none, everyWriteFails, noSpace }

final class SimulatedFixture: DiskFixture {
    let disk: SimulatedDisk
    init(seed: UInt64 = 1) { disk = SimulatedDisk(seed: seed) }
    /// By turns the machine's end and the process's, which keeps the page cache.
    func reopen() throws {
        isKill.toggle()
        if isKill { disk.kill() } else { disk.crash() }
        disk.faults = SimulatedDiskFaults()
    }
    private var isKill = false
    func set(_ fault: DiskFault) {
        disk.faults.nextWriteFails = fault == .everyWriteFails
        disk.faults.bytesMax = fault == .noSpace ? 0 : .max
    }
}

/// A directory's parent for tests in which no disk's durability is at stake: in memory, if there is such a place.
let scratchParent: String = {
    let inMemory = "/dev/shm"
    return FileManager.default.isWritableFile(atPath: inMemory) ? inMemory + "/" : NSTemporaryDirectory()
}()

final class LMDBFixture: DiskFixture {
    let path: String
    let settings: LMDBDisk.Settings
    private var open: LMDBDisk?
    var disk: LMDBDisk { open! }

    init(settings: LMDBDisk.Settings = LMDBDisk.Settings(mapBytes: 1 << 18), isInMemory: Bool = false) throws {
        path = (isInMemory ? scratchParent : NSTemporaryDirectory()) + "bifrost-storage-\(UUID().uuidString)"
        self.settings = settings
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        open = try LMDBDisk(directory: path, settings: settings)
    }

    /// Whoever holds the old disk must have let it go.
    func reopen() throws { try reopen {} }

    func reopen(_ whileClosed: () throws -> Void) throws {
        try set(.none)
        open = nil
        try whileClosed()
        open = try LMDBDisk(directory: path, settings: settings)
    }

    /// LMDB's descriptors of its file, and copies of them, while something else stands in their place.
    private var replaced: [(descriptor: Int32, original: Int32)] = []

    /// Puts a device in the place of LMDB's file that refuses all writes. The map goes on to show the file, and cannot
    /// be enlarged meanwhile: give it room enough.
    func set(_ fault: DiskFault) throws {
        for (descriptor, original) in replaced {
            try #require(dup2(original, descriptor) == descriptor)
            close(original)
        }
        replaced = []
        let device: Int32
        switch fault {
        case .none: return
        // ENOSPC for every write.
        case .noSpace: device = Glibc.open("/dev/full", O_RDWR | O_CLOEXEC)
        // EBADF: not open for writing.
        case .everyWriteFails: device = Glibc.open("/dev/null", O_RDONLY | O_CLOEXEC)
        }
        try #require(device >= 0)
        defer { close(device) }
        // First which, then replace them: a copy takes the number of a descriptor that was only there for the listing.
        let descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
            Int32($0)
        }.filter {
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")) == path + "/data.mdb"
        }
        for descriptor in descriptors {
            let original = dup(descriptor)
            try #require(original >= 0 && dup2(device, descriptor) == descriptor)
            replaced.append((descriptor, original))
        }
        try #require(replaced.count == 2, "LMDB has a descriptor for pages and one for its meta pages")
    }

    deinit {
        try? set(.none)
        open = nil
        try? FileManager.default.removeItem(atPath: path)
    }
}

extension Disk {
    func put(_ key: DiskKey, _ value: [UInt8]) throws {
        try write { writer in try writer.put(key, count: value.count, append: false) { $0.copyBytes(from: value) } }
    }
    func get(_ key: DiskKey) throws -> [UInt8]? {
        try read { reader in try reader.withValue(for: key) { $0.map { Array($0) } } }
    }
    /// All keys and values.
    func dump() throws -> [(DiskKey, Bytes)] {
        try read { reader in
            var all: [(DiskKey, Bytes)] = []
            try reader.scan(from: DiskKey(table: 0), through: DiskKey(table: .max, high: .max, low: .max)) {
                key, value in
                all.append((key, Bytes(copying: value)))
                return true
            }
            return all
        }
    }
}
