// Files and pipes that commands read from and write to.

import ArgumentParser
import Foundation
import NIOPosix
import Primitives
import Synchronization

/// An open file or standard input. Belongs to one task at a time; closed by `close`.
struct InputFile: Sendable {
    let name: String
    /// Nil: unknown, as of a pipe.
    let bytes: UInt64?
    private let descriptor: Int32

    static let standard = InputFile(name: "standard input", bytes: nil, descriptor: STDIN_FILENO)

    private init(name: String, bytes: UInt64?, descriptor: Int32) {
        self.name = name
        self.bytes = bytes
        self.descriptor = descriptor
    }

    /// `-` is standard input.
    init(opening path: String) throws(ToolError) {
        let descriptor = path == "-" ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw ToolError(.fileTrouble, "can't open \(path): \(String(cString: strerror(errno)))")
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw ToolError(.fileTrouble, "can't look at \(path): \(String(cString: strerror(errno)))")
        }
        guard status.st_mode & S_IFMT != S_IFDIR else {
            throw ToolError(.fileTrouble, "\(path) is a directory; expected a file")
        }
        self.init(
            name: path == "-" ? "standard input" : path,
            bytes: status.st_mode & S_IFMT == S_IFREG ? UInt64(status.st_size) : nil, descriptor: descriptor)
    }

    /// Up to this many bytes; empty at the end. Blocks the thread until something comes.
    func read(bytesMax: Int = 256 << 10) throws(ToolError) -> [UInt8] {
        var problem: Int32 = 0
        let piece = [UInt8](unsafeUninitializedCapacity: bytesMax) { buffer, count in
            var result: Int
            repeat { result = Glibc.read(descriptor, buffer.baseAddress!, bytesMax) } while result < 0 && errno == EINTR
            if result < 0 { problem = errno }
            count = max(result, 0)
        }
        guard problem == 0 else {
            // What stands in the place of a closed standard input can't be read either.
            if problem == EBADF, descriptor == STDIN_FILENO { throw ToolError(.fileTrouble, "\(name) is closed") }
            throw ToolError(.fileTrouble, "can't read \(name): \(String(cString: strerror(problem)))")
        }
        return piece
    }

    /// The same from an async function: a thread of its own waits for a slow pipe.
    func next() async throws -> [UInt8] {
        try await NIOThreadPool.singleton.runIfActive { try read() }
    }

    /// All of it; more than the limit is an error. Blocks the thread.
    func readAll(bytesMax: Int) throws(ToolError) -> Bytes {
        var all: [UInt8] = []
        while true {
            let piece = try read()
            if piece.isEmpty { return Bytes(all) }
            all += piece
            guard all.count <= bytesMax else {
                throw ToolError(.badData, "expected at most \(bytesMax) bytes of value on \(name), found more")
            }
        }
    }

    func close() {
        if descriptor != STDIN_FILENO { Glibc.close(descriptor) }
    }
}

/// A file that is there as a whole or not at all, or standard output.
package struct OutputFile: Sendable {
    let name: String
    let isStandard: Bool
    private let path: String
    private let temporary: String
    private let descriptor: Int32

    /// `-` is standard output, and so is what leads to the file that standard output is. A file that exists is replaced
    /// when all is written, keeping its permissions, and stays as it is if that fails; a symbolic link to it stays one.
    package init(creating path: String) throws(ToolError) {
        var status = stat()
        var output = stat()
        let exists = path != "-" && stat(path, &status) == 0
        isStandard =
            path == "-"
            || exists && fstat(STDOUT_FILENO, &output) == 0 && status.st_dev == output.st_dev
                && status.st_ino == output.st_ino
        name = isStandard ? "standard output" : path
        // What is there and is no plain file (a device, a named pipe) is written to and not replaced.
        let isSpecial = !isStandard && exists && status.st_mode & S_IFMT != S_IFREG
        isDirect = isStandard || isSpecial
        let target = isDirect ? path : try Self.target(of: path, exists: exists)
        self.path = target
        temporary = "\(target).\(getpid()).partial"
        if !isDirect { PartialFile.removeOnSignals(temporary) }
        let mode: mode_t = exists && !isDirect ? status.st_mode & 0o777 : 0o666
        descriptor =
            switch (isStandard, isSpecial) {
            case (true, _): STDOUT_FILENO
            case (_, true): open(path, O_WRONLY | O_CLOEXEC)
            default: open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
            }
        guard descriptor >= 0 else {
            let problem = String(cString: strerror(errno))
            if !isDirect { PartialFile.forget() }
            throw ToolError(.fileTrouble, "can't write \(path): \(problem)")
        }
        // What the process takes off the permissions of new files was taken off the old one's, or was meant to stay.
        if exists, !isDirect { _ = fchmod(descriptor, mode) }
    }

    /// Where a path leads in the end: renaming over a link would replace the link.
    private static func target(of path: String, exists: Bool) throws(ToolError) -> String {
        var link = stat()
        guard lstat(path, &link) == 0, link.st_mode & S_IFMT == S_IFLNK else { return path }
        guard exists, let resolved = realpath(path, nil) else {
            throw ToolError(.fileTrouble, "can't write \(path): it is a symbolic link that leads nowhere")
        }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    private let isDirect: Bool

    package func write(_ bytes: [UInt8]) throws(ToolError) {
        try bytes.withUnsafeBufferPointer { (bytes) throws(ToolError) in
            try Output.write(UnsafeRawBufferPointer(bytes), to: descriptor, name: name)
        }
    }

    /// A file that the signals which end a program from outside take with them. One at a time.
    private enum PartialFile {
        /// Of its path; 0: none. A handler reads it at any moment, so what it points to is never freed: a path for each
        /// file that a program writes, which are few.
        private static let address = Atomic<Int>(0)
        /// Once for all files: a handler finds the one that is being written, if any.
        private static let handlers: Void = {
            for number in [SIGHUP, SIGINT, SIGTERM] {
                // One that this process was started to ignore (nohup) stays ignored.
                let before = signal(number, SIG_IGN)
                guard unsafeBitCast(before, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self) else { continue }
                signal(number) { number in
                    // Nothing but system calls: whatever runs was interrupted anywhere. Once `finish` gave the file its
                    // name there is none under this one.
                    if let path = UnsafePointer<CChar>(bitPattern: PartialFile.address.load(ordering: .acquiring)) {
                        unlink(path)
                    }
                    signal(number, SIG_DFL)
                    raise(number)
                }
            }
        }()

        static func removeOnSignals(_ file: String) {
            let before = address.exchange(Int(bitPattern: strdup(file)), ordering: .acquiringAndReleasing)
            precondition(before == 0, "one file at a time")
            _ = handlers
        }

        /// It has its place, or is gone.
        static func forget() { address.store(0, ordering: .releasing) }
    }

    /// All is written: puts the file in its place.
    package func finish() throws(ToolError) {
        guard !isDirect else { return }
        defer { PartialFile.forget() }
        guard fsync(descriptor) == 0, Glibc.close(descriptor) == 0, rename(temporary, path) == 0 else {
            let problem = String(cString: strerror(errno))
            unlink(temporary)
            throw ToolError(.fileTrouble, "can't write \(path): \(problem)")
        }
    }

    /// It came to nothing.
    package func abandon() {
        guard !isDirect else { return }
        Glibc.close(descriptor)
        unlink(temporary)
        PartialFile.forget()
    }
}
