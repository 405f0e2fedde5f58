// Directories whose names are on disk: a file that is synced is lost with the name of a directory above it that was not.

import Foundation

/// Makes directories, and makes names durable.
package enum DurableDirectory {
    /// Makes the directory, and those above it that are missing, for the owner alone. When this returns the names of all
    /// that it made are on disk, and so is the name of one that was there, as another process may have been killed between
    /// making and syncing it: as far as this process may sync that at all.
    ///
    /// - Parameter sync: makes durable what names are in a directory.
    /// - Throws: `HostError`: `.exhausted`, `.disk`, or `.directory` if such a directory can't be made here.
    package static func make(_ path: String, sync: (_ directory: String) throws -> Void = sync) throws {
        var missing: [String] = []
        var place = path
        var wasThere = false
        while mkdir(place, 0o700) != 0 {
            let number = errno
            wasThere = number == EEXIST || number == EISDIR
            if wasThere { break }
            let above = parent(of: place)
            guard number == ENOENT, above != place else { throw HostError("make the directory \(path)", number) }
            missing.append(place)
            place = above
        }
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: place, isDirectory: &isDirectory), isDirectory.boolValue else {
            throw HostError("make the directory \(path)", ENOTDIR)
        }
        if wasThere {
            // What it is in may be a file system of another kind, read-only or nobody's to read.
            try? sync(parent(of: place))
        } else {
            try sync(parent(of: place))
        }
        for directory in missing.reversed() {
            guard mkdir(directory, 0o700) == 0 || errno == EEXIST else {
                throw HostError("make the directory \(directory)", errno)
            }
            try sync(parent(of: directory))
        }
    }

    /// What a path's last name is in. (Foundation's traps for a name alone.)
    package static func parent(of path: String) -> String {
        func cut(_ path: Substring) -> Substring {
            var path = path
            while path.count > 1, path.hasSuffix("/") { path.removeLast() }
            return path
        }
        let path = cut(path[...])
        let last = path.lastIndex(of: "/").map { path[path.index(after: $0)...] } ?? path
        // What `a/.` and `a/..` are in is not `a`.
        if last == "." || last == ".." { return path + "/.." }
        guard let place = path.lastIndex(of: "/") else { return "." }
        return place == path.startIndex ? "/" : String(cut(path[..<place]))
    }

    /// Names in the directory are on disk when this returns.
    package static func sync(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw HostError("sync the directory \(path)", errno, .disk) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw HostError("sync the directory \(path)", errno, .disk) }
    }
}

extension HostError {
    /// What the system said.
    ///
    /// - Parameter code: unless there was too little of something, which is `.exhausted`.
    init(_ deed: String, _ number: Int32, _ code: Code? = nil) {
        let isExhausted = [EMFILE, ENFILE, ENOSPC, EDQUOT].contains(number)
        let isDisk = [EIO, EROFS, EFBIG].contains(number)
        self.init(
            isExhausted ? .exhausted : code ?? (isDisk ? .disk : .directory),
            "can't \(deed): \(String(cString: strerror(number)))")
    }
}
