// What lies where in a host's data directory, and the copy of the cluster map that a restart begins with.

import Foundation
import Primitives
import Ring

/// Something that keeps a host from starting, with what to do about it.
public struct HostError: Error, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The directory is held by another process, of another cluster or format, or not writable.
        case directory
        /// The address can't be listened on.
        case address
        /// The disk failed; nothing may be believed until the process is started anew.
        case disk
        /// There is no space or no file descriptor left now; nothing was changed.
        case exhausted
        /// What was asked for makes no sense here.
        case invalid
    }
    public var code: Code
    public var message: String
    public init(_ code: Code, _ message: String) { self.code = code; self.message = message }
    public var description: String { message }
}

/// Paths below a host's directory:
///
///     journal/      LMDB environment: identity, logs of all groups; held (flock) by the process that serves
///     store/        LMDB environment: manifests and runs of all replicas; held likewise
///     store.damaged-N  a store that was put aside at boot N: StoreQuarantine
///     cluster-map   the last cluster map seen: ClusterMapFile
///     RESTORING     while a restoration fills the directory; no host starts there: RestorationMark
struct DataDirectory: Sendable {
    let path: String

    var journal: String { path + "/journal" }
    var store: String { path + "/store" }
    private var mapFile: String { path + "/cluster-map" }
    static let ownNames = ["journal", "store", "cluster-map", "cluster-map.new", RestorationMark.name]

    /// Makes what is missing, unless the directory is somebody else's.
    init(path: String) throws {
        self.path = path
        var isDirectory: ObjCBool = false
        if FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory), !isDirectory.boolValue {
            throw HostError(.directory, "\(path) is a file; expected a directory, or nothing, there")
        }
        let foreign = Self.foreignFiles(in: path)
        guard foreign.isEmpty else {
            let names = foreign.prefix(3).joined(separator: ", ") + (foreign.count > 3 ? ", …" : "")
            throw HostError(
                .directory,
                "\(path) has files of others (\(names)) and none of a host: name a directory that is empty or missing, "
                    + "as \(path)/bifrost, and it will be made")
        }
        for directory in [path, path + "/journal", path + "/store"] { try DurableDirectory.make(directory) }
    }

    /// What is in the directory, if none of it is a host's.
    private static func foreignFiles(in path: String) -> [String] {
        // A disk's own directory has `lost+found` from the beginning.
        let files = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { $0 != "lost+found" }
        return files.contains(where: ["journal", "store", "cluster-map", RestorationMark.name].contains)
            ? [] : files.sorted()
    }

    /// No host has begun in the directory at this path, which may be missing.
    static func isNew(_ path: String) -> Bool { !FileManager.default.fileExists(atPath: path + "/journal/data.mdb") }

    /// What of a former host is there although its journal is missing or empty; nil if all is well. Looked at before
    /// anything is opened.
    var remainsWithoutJournal: String? {
        func size(_ file: String) -> Int {
            let attributes = try? FileManager.default.attributesOfItem(atPath: file)
            return (attributes?[.size] as? NSNumber)?.intValue ?? 0
        }
        guard size(journal + "/data.mdb") == 0 else { return nil }
        if size(store + "/data.mdb") > 0 { return "a store" }
        return size(mapFile) > 0 ? "a cluster map" : nil
    }

    static let asidePrefix = "store.damaged-"

    /// Stores that were put aside, ascending by name.
    func storesAside() throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasPrefix(Self.asidePrefix) }.sorted()
    }

    /// Nil when there is none. A damaged copy is an error that names the file: every host of the cluster has the same.
    func loadMap() throws -> ClusterMap? {
        guard FileManager.default.fileExists(atPath: mapFile) else { return nil }
        let data = try Data(contentsOf: URL(fileURLWithPath: mapFile))
        return try ClusterMapFile.decoded(data.withUnsafeBytes { Bytes(copying: $0) }, name: mapFile)
    }

    /// Replaces the copy atomically and durably.
    ///
    /// - Throws: `.exhausted`: the earlier copy is still there.
    func save(_ map: ClusterMap) throws {
        let file = ClusterMapFile.encoded(map)
        let temporary = mapFile + ".new"
        func failure(_ what: String) -> HostError {
            let isExhausted = [EMFILE, ENFILE, ENOSPC, EDQUOT].contains(errno)
            return HostError(isExhausted ? .exhausted : .disk, "\(what): \(String(cString: strerror(errno)))")
        }
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else {
            throw failure("can't write \(temporary)")
        }
        defer { close(descriptor) }
        try file.withUnsafeBytes { buffer in
            var offset = 0
            while offset < buffer.count {
                let written = write(descriptor, buffer.baseAddress! + offset, buffer.count - offset)
                guard written > 0 else { throw failure("can't write \(temporary)") }
                offset += written
            }
        }
        guard fsync(descriptor) == 0, rename(temporary, mapFile) == 0 else {
            throw failure("can't replace \(mapFile)")
        }
        try DurableDirectory.sync(path)
    }
}
