// Looks at how much space there is for a host's two files, some times a second. Says what it finds to the log and to the
// cores; what follows from it is theirs to decide.

import Glibc
import HostCore
import Logging
import NIOPosix
import RPC
import Storage
import Synchronization

final class SpaceWatch: Sendable {
    private struct File {
        let disk: LMDBDisk
        let use: SpaceUse
        var level = SpaceLevel.ample
        /// Free pages inside, and how many looks ago they were counted.
        var reusableBytes = 0
        var age = countPeriod
    }

    private struct State {
        var files: [File]
        /// The journal's last commit found no space.
        var isJournalFull = false
        /// A checkpoint waits for space.
        var isStoreFull = false
        var isLooking = false
        /// What the cores were told last, or are being told.
        var told = SpaceLevel.ample
        /// The store says the same again and again.
        var stuckJobs = RepetitionLimiter()
    }

    private let logger: Logger
    private let changed: @Sendable () -> Void
    private let state: Mutex<State>

    static var periodMilliseconds: Int64 { 250 }
    /// In looks. To count free pages is to walk over the list of them, which of a large file is not small, and space may
    /// stay low for long.
    private static var countPeriod: Int { 8 }

    /// - Parameter changed: called on the thread that found it: `level` is another one now. It carries none, because two
    ///   threads may find something at about the same time, and the words of the first may come last.
    init(journal: LMDBDisk, store: LMDBDisk, logger: Logger, changed: @escaping @Sendable () -> Void) {
        self.logger = logger
        self.changed = changed
        state = Mutex(State(files: [File(disk: journal, use: .journal), File(disk: store, use: .store)]))
    }

    /// The worse of the two files'.
    var level: SpaceLevel { state.withLock { $0.told } }

    /// On a thread that may wait for a disk.
    func look(on readers: NIOThreadPool) {
        let isFirst = state.withLock { state in
            defer { state.isLooking = true }
            return !state.isLooking
        }
        guard isFirst else { return }
        readers.submit { [self] _ in
            // Nobody else changes them while one looks.
            let files = state.withLock { $0.files }.map(measured)
            state.withLock {
                $0.files = files
                $0.isLooking = false
            }
            tell()
        }
    }

    /// What the journal's writer found: it is there before any measurement.
    func journalIsFull(_ reason: String?) {
        state.withLock { $0.isJournalFull = reason != nil }
        if let reason {
            logger.error("the journal waits for space; nothing is acknowledged", metadata: ["reason": "\(reason)"])
        } else {
            logger.notice("the journal has space again")
        }
        tell()
    }

    /// What the store's writer found.
    func storeIsFull(_ reason: String?) {
        state.withLock { $0.isStoreFull = reason != nil }
        if let reason {
            if state.withLock({ $0.stuckJobs.admit(reason, now: RPCClock.now()) }) != nil {
                logger.error("a checkpoint waits for space", metadata: ["reason": "\(reason)"])
            }
        } else {
            logger.notice("the store has space again")
        }
        tell()
    }

    /// It is put off. Says nothing of what is taken: a merge may take more than there will ever be.
    func mergeFoundNoSpace(_ reason: String) {
        guard state.withLock({ $0.stuckJobs.admit(reason, now: RPCClock.now()) }) != nil else { return }
        logger.error("a merge waits for space", metadata: ["reason": "\(reason)"])
    }

    private func measured(_ file: File) -> File {
        let directory = file.disk.directory
        var status = statvfs()
        guard statvfs(directory, &status) == 0 else { return file }
        let capacity = Int(clamping: UInt64(status.f_blocks) * UInt64(status.f_frsize))
        let free = Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
        func level(_ freeBytes: Int) -> SpaceLevel {
            .of(file.use, freeBytes: freeBytes, capacityBytes: capacity, previous: file.level)
        }
        var measured = file
        measured.age += 1
        measured.level = level(free)
        if measured.level > .ample {
            if measured.age > Self.countPeriod {
                measured.reusableBytes = (try? file.disk.reusableBytes()) ?? 0
                measured.age = 1
            }
            measured.level = level(free + measured.reusableBytes)
        }
        if measured.level != file.level { log(measured, free, capacity) }
        return measured
    }

    private func log(_ file: File, _ free: Int, _ capacity: Int) {
        let text: Logger.Message =
            switch file.level {
            case .ample: "there is space on the disk again: everything is taken"
            case .low: "the disk is nearly full: puts are refused, deletes and what other hosts write are taken"
            case .out: "the disk is full but for a reserve: nothing is taken; free space"
            }
        logger.log(
            level: file.level == .ample ? .notice : .error, text,
            metadata: [
                "directory": "\(file.disk.directory)", "free": "\(free)", "inside": "\(file.reusableBytes)",
                "capacity": "\(capacity)",
            ])
    }

    private func tell() {
        let isNews = state.withLock { state in
            let level = SpaceLevel.of(
                measured: state.files.map(\.level).max() ?? .ample, isJournalFull: state.isJournalFull,
                isStoreFull: state.isStoreFull)
            defer { state.told = level }
            return level != state.told
        }
        if isNews { changed() }
    }
}
