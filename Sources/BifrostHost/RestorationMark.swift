// The mark of a directory that a restoration fills: the file RESTORING. Owns the rules by which no schedule of hosts and
// restorations, and no end of either in the middle, deletes what a host has served from.
//
//     restoration                                         host
//       makes the mark, empty, and holds it (flock)         makes journal/ and store/, opens and locks both
//       lists the directory: anything else in it?           looks for the mark
//         yes: removes the mark, refuses                      none: serves
//         no: writes the text into the mark, synced           held, or with the text: refuses
//       locks and deletes what is beside the mark             empty and not held: nothing was begun; removes it, serves
//       fills the directory
//       removes the mark: the directory is a host's
//
// A host that found no mark had its directories before the mark was made, so the list shows them. One that looks later
// finds the mark until the directory is whole. So only a directory that had nothing in it ever has a mark with the text,
// and only beside such a mark is anything deleted.

import Foundation

/// The mark, held by this process until the value is gone.
final class RestorationMark {
    static let name = "RESTORING"
    private static let text = "bifrost: a restoration fills this directory; what is in it is no host's yet\n"

    private let path: String
    private let descriptor: Int32

    /// Whether the restoration had found the directory empty: all else in it is a restoration's.
    private(set) var hasBegun: Bool

    private init(path: String, descriptor: Int32, hasBegun: Bool) {
        self.path = path
        self.descriptor = descriptor
        self.hasBegun = hasBegun
    }

    deinit { close(descriptor) }

    /// Takes the mark in a directory; makes it if `isMade`. Nil: there is none, or it went in this moment.
    ///
    /// - Throws: `HostError`: another process holds it.
    static func hold(in directory: String, isMade: Bool) throws -> RestorationMark? {
        let path = directory + "/" + name
        let descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (isMade ? O_CREAT : 0), 0o600)
        guard descriptor >= 0 else {
            if errno == ENOENT, !isMade { return nil }
            throw HostError("open \(path)", errno)
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let number = errno
            close(descriptor)
            guard number == EWOULDBLOCK else { throw HostError("lock \(path)", number) }
            throw HostError(.directory, "\(path): another restoration fills this directory; wait for it")
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_nlink > 0 else {
            // That of a directory that has just become a host's.
            close(descriptor)
            guard !isMade else {
                throw HostError(.directory, "\(path): another restoration has just filled this directory")
            }
            return nil
        }
        let wanted = Array(text.utf8)
        let found = [UInt8](unsafeUninitializedCapacity: wanted.count + 1) { buffer, count in
            count = max(0, pread(descriptor, buffer.baseAddress, buffer.count, 0))
        }
        return RestorationMark(path: path, descriptor: descriptor, hasBegun: found == wanted)
    }

    /// The directory was found empty. Durable when this returns, as is the mark's name.
    func begin() throws {
        let bytes = Array(Self.text.utf8)
        guard ftruncate(descriptor, 0) == 0, pwrite(descriptor, bytes, bytes.count, 0) == bytes.count,
            fsync(descriptor) == 0
        else {
            let number = errno == 0 ? ENOSPC : errno
            throw HostError("write \(path)", number, .disk)
        }
        try DurableDirectory.sync(DurableDirectory.parent(of: path))
        hasBegun = true
    }

    /// Removes the mark, durably.
    func remove() throws {
        guard unlink(path) == 0 else { throw HostError("remove \(path)", errno, .disk) }
        try DurableDirectory.sync(DurableDirectory.parent(of: path))
    }
}

extension DataDirectory {
    /// To be asked before and, as the one that counts, behind the locks of journal and store.
    ///
    /// - Parameter removesFalseStart: a mark that says nothing is removed: its restoration found this directory in use, or
    ///   never came to look.
    /// - Throws: `HostError`: a restoration fills the directory, or was interrupted when it did.
    func refuseRestoration(removesFalseStart: Bool = false) throws {
        guard let mark = try RestorationMark.hold(in: path, isMade: false) else { return }
        guard !mark.hasBegun else {
            throw HostError(
                .directory,
                "\(path) is half of a restoration that was interrupted: run 'bifrost snapshot restore' again, with "
                    + "the same directories")
        }
        if removesFalseStart { try mark.remove() }
    }

    /// Makes an empty directory that says so: of nothing, of an empty one, or of what an interrupted restoration left.
    /// Nothing else is deleted, whoever does what with the directory meanwhile.
    static func prepareForRestoration(_ path: String) throws -> RestorationMark {
        try DurableDirectory.make(path)
        func names() throws -> [String] {
            do {
                return try FileManager.default.contentsOfDirectory(atPath: path).filter { $0 != "lost+found" }.sorted()
            } catch { throw HostError(.directory, "can't look into \(path): \(error.localizedDescription)") }
        }
        // Who has files here already gets no mark beside them.
        let before = try names()
        guard before.isEmpty || before.contains(RestorationMark.name) else { throw notEmpty(path, before) }
        guard let mark = try RestorationMark.hold(in: path, isMade: true) else {
            preconditionFailure("a mark that is made is there")
        }
        let found = try names().filter { $0 != RestorationMark.name }
        if mark.hasBegun {
            let foreign = found.filter { !ownNames.contains($0) }
            guard foreign.isEmpty else { throw notEmpty(path, foreign) }
        } else {
            guard found.isEmpty else {
                try mark.remove()
                throw notEmpty(path, found)
            }
            try mark.begin()
        }
        try empty(path)
        return mark
    }

    /// Deletes all but the mark, which says that it is a restoration's. What a process has open is left to it.
    private static func empty(_ path: String) throws {
        var held: [Int32] = []
        defer { for descriptor in held { close(descriptor) } }
        for file in ["journal/LOCK", "journal/data.mdb", "store/LOCK", "store/data.mdb"] {
            let descriptor = open(path + "/" + file, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            guard descriptor >= 0 else {
                if errno == ENOENT { continue }
                throw HostError("open \(path)/\(file)", errno)
            }
            held.append(descriptor)
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                throw HostError(
                    .directory,
                    "\(path)/\(file) is held by another process: stop it, and restore again, or restore into another directory"
                )
            }
        }
        for name in ownNames where name != RestorationMark.name {
            do { try FileManager.default.removeItem(atPath: path + "/" + name) } catch let error as CocoaError
                where error.code == .fileNoSuchFile
            {} catch { throw HostError(.directory, "can't empty \(path): \(error.localizedDescription)") }
        }
        try DurableDirectory.sync(path)
    }

    private static func notEmpty(_ path: String, _ names: [String]) -> HostError {
        HostError(
            .directory,
            "\(path) is not empty (\(names.prefix(3).joined(separator: ", "))\(names.count > 3 ? ", …" : "")): states are "
                + "restored into directories that are missing or empty")
    }

    /// What was restored is whole and durable.
    func endRestoration(_ mark: RestorationMark) throws {
        for entry in [journal, store, path] { try DurableDirectory.sync(entry) }
        try mark.remove()
    }
}
