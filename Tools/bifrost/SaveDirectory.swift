// The files of a save: states of groups, whole or half, and the list that says that all are there. Owns opening, syncing
// and renaming; what is in them is decided in SnapshotFiles.
//
//     DIRECTORY/
//       group-3.state.partial    pieces as they come; what is sound of it stays when the program ends
//       group-3.state            whole, checked and synced
//       save                     the list, written last

import BifrostHost
import Foundation
import NIOPosix
import Primitives
import SnapshotFiles
import Storage

/// A directory that one program writes a save into.
package final class SaveDirectory: Sendable {
    package let path: String
    /// Held as long as this lives: two programs that write one save would spoil it.
    private let descriptor: Int32

    /// Makes the directory if it is missing, and takes one that is empty or has an unfinished save.
    package init(writing path: String) throws(ToolError) {
        self.path = path
        do { try DurableDirectory.make(path) } catch {
            throw ToolError(.fileTrouble, "\(error)")
        }
        descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.trouble("open", path) }
        // What is thrown from here on closes it, as the end of any value.
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            throw ToolError(.fileTrouble, "another program saves into \(path): wait for it, or name another directory")
        }
        let names = Self.names(in: path)
        guard !names.contains(SavedCluster.fileName) else {
            throw ToolError(
                .usage,
                "\(path) has a save that is whole: name another directory, or look at it with 'snapshot inspect'")
        }
        let foreign = names.filter {
            !$0.hasPrefix("group-") && $0 != SavedCluster.fileName + SavedCluster.partialSuffix
        }
        guard foreign.isEmpty else {
            throw ToolError(
                .usage,
                "\(path) has files of others (\(foreign.prefix(3).joined(separator: ", "))): name a directory that is "
                    + "missing, empty, or has an unfinished save")
        }
    }

    deinit { close(descriptor) }

    /// Whatever is here of an unfinished save is of this cluster, or the save does not go on.
    func expect(_ cluster: ClusterID) throws(ToolError) {
        for name in Self.names(in: path) where name.hasPrefix("group-") {
            do throws(ToolError) {
                try Self.read(path(name)) { reader, _ in
                    guard reader.head.cluster == cluster else {
                        throw ToolError(
                            .usage,
                            "\(path) has an unfinished save of cluster \(reader.head.cluster) (\(name)), and the hosts that "
                                + "answer are of cluster \(cluster): name another directory, or the hosts of that cluster"
                        )
                    }
                }
            } catch {
                // One that was hardly begun has no head that can be read. It is looked at again when its group's turn comes.
                guard error.status == .badData else { throw error }
            }
        }
    }

    static func names(in path: String) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }

    func path(_ name: String) -> String { path + "/" + name }

    /// Writes the list: the save is whole from then on.
    func finish(_ saved: SavedCluster) throws(ToolError) {
        let partial = path(SavedCluster.fileName + SavedCluster.partialSuffix)
        let file = try AppendedFile(partial, keeping: 0)
        do throws(ToolError) { try file.append(saved.encoded()) } catch {
            file.close()
            throw error
        }
        try file.finish(as: path(SavedCluster.fileName))
        try sync()
    }

    /// Names of files are durable.
    func sync() throws(ToolError) {
        guard fsync(descriptor) == 0 else { throw Self.trouble("sync", path) }
    }

    static func trouble(_ what: String, _ path: String) -> ToolError {
        ToolError(.fileTrouble, "can't \(what) \(path): \(String(cString: strerror(errno)))")
    }

    // MARK: Reading

    /// The list of a whole save.
    static func list(of path: String) throws(ToolError) -> SavedCluster {
        let name = path + "/" + SavedCluster.fileName
        guard FileManager.default.fileExists(atPath: name) else {
            let names = names(in: path)
            guard names.contains(where: { $0.hasPrefix("group-") }) else {
                throw ToolError(.fileTrouble, "\(path) has no save: expected the file \(SavedCluster.fileName) in it")
            }
            throw ToolError(
                .badData,
                "the save in \(path) is not whole: it has no list; run the same 'snapshot save' again to go on with it")
        }
        let input = try InputFile(opening: name)
        defer { input.close() }
        guard let bytes = input.bytes, bytes <= SavedCluster.fileBytesMax else {
            throw ToolError(.badData, "\(name) is no list of a save: it is no file, or too long")
        }
        let all = try input.readAll(bytesMax: SavedCluster.fileBytesMax)
        do throws(SnapshotFileDamage) { return try SavedCluster(all, file: name) } catch {
            throw ToolError(.badData, "\(error)")
        }
    }

    /// Reads a state's file through, with its length. `body` gets the reader behind the head.
    static func read<Result>(
        _ path: String, _ body: (inout SnapshotFileReader, _ bytes: UInt64) throws -> Result
    ) throws(ToolError) -> Result {
        let input = try InputFile(opening: path)
        defer { input.close() }
        let buffer = ReadBuffer(input)
        do {
            var reader = try SnapshotFileReader(file: path) { try buffer.read($0) }
            return try body(&reader, input.bytes ?? 0)
        } catch let damage as SnapshotFileDamage {
            throw ToolError(.badData, "\(damage)")
        } catch { throw ToolError(error) }
    }
}

/// Small reads from a file without a system call for each.
private final class ReadBuffer {
    private let input: InputFile
    private var bytes: Bytes = Bytes()

    init(_ input: InputFile) { self.input = input }

    func read(_ bytesMax: Int) throws(ToolError) -> Bytes {
        if bytes.isEmpty { bytes = Bytes(try input.read(bytesMax: max(bytesMax, 256 << 10))) }
        let count = min(bytesMax, bytes.count)
        defer { bytes = bytes[count..<bytes.count] }
        return bytes[0..<count]
    }
}

/// A file that grows at its end. Belongs to one task at a time.
struct AppendedFile: Sendable {
    private let descriptor: Int32
    private let path: String

    /// Opens or makes it, and keeps so many bytes of what is there.
    init(_ path: String, keeping bytes: UInt64) throws(ToolError) {
        self.path = path
        descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw SaveDirectory.trouble("write", path) }
        guard ftruncate(descriptor, off_t(bytes)) == 0, lseek(descriptor, off_t(bytes), SEEK_SET) >= 0 else {
            defer { Glibc.close(descriptor) }
            throw SaveDirectory.trouble("write", path)
        }
    }

    func append(_ bytes: Bytes) throws(ToolError) {
        do throws(ToolError) {
            try bytes.withUnsafeBytes { (bytes) throws(ToolError) in
                try Output.write(bytes, to: descriptor, name: path)
            }
        } catch {
            throw ToolError(
                error.status,
                "\(error.message); the next \(HumanText.bytes(UInt64(bytes.count))) of it are to be written there, and what "
                    + "is there stays: make room, and run the same command again to go on")
        }
    }

    func sync() throws(ToolError) {
        guard fsync(descriptor) == 0 else { throw SaveDirectory.trouble("write", path) }
    }

    /// What was written stays, and is closed.
    func close() { Glibc.close(descriptor) }

    /// All is written: syncs it and gives it its name, whose durability is the directory's affair.
    func finish(as name: String) throws(ToolError) {
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0, rename(path, name) == 0 else { throw SaveDirectory.trouble("write", path) }
    }
}
