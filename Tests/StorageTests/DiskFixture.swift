import BifrostSimulator
import Foundation
import Primitives
import Storage

/// A disk that a test can reopen and crash, real or simulated.
protocol DiskFixture: AnyObject {
    associatedtype Storage: Disk
    var disk: Storage { get }
    /// As a process that ends and starts again.
    func reopen() throws
}

final class SimulatedFixture: DiskFixture {
    let disk: SimulatedDisk
    init(seed: UInt64 = 1) { disk = SimulatedDisk(seed: seed) }
    func reopen() throws { disk.crash() }
}

final class LMDBFixture: DiskFixture {
    let path: String
    let settings: LMDBDisk.Settings
    private var open: LMDBDisk?
    var disk: LMDBDisk { open! }

    init(settings: LMDBDisk.Settings = LMDBDisk.Settings(mapBytes: 1 << 18)) throws {
        path = NSTemporaryDirectory() + "bifrost-storage-\(UUID().uuidString)"
        self.settings = settings
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        open = try LMDBDisk(directory: path, settings: settings)
    }

    /// Whoever holds the old disk must have let it go.
    func reopen() throws {
        open = nil
        open = try LMDBDisk(directory: path, settings: settings)
    }

    deinit {
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
