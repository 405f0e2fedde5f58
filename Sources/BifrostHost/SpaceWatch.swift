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
    private struct State {
        /// By disk, in the order of `disks`.
        var levels: [SpaceLevel]
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

    private let disks: [LMDBDisk]
    private let logger: Logger
    private let changed: @Sendable () -> Void
    private let state: Mutex<State>

    static var periodMilliseconds: Int64 { 250 }

    /// - Parameter changed: called on the thread that found it: `level` is another one now. It carries none, because two
    ///   threads may find something at about the same time, and the words of the first may come last.
    init(disks: [LMDBDisk], logger: Logger, changed: @escaping @Sendable () -> Void) {
        self.disks = disks
        self.logger = logger
        self.changed = changed
        state = Mutex(State(levels: Array(repeating: .ample, count: disks.count)))
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
            for place in disks.indices { measure(place) }
            state.withLock { $0.isLooking = false }
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

    private func measure(_ place: Int) {
        let disk = disks[place]
        var status = statvfs()
        guard statvfs(disk.directory, &status) == 0 else { return }
        let capacity = Int(clamping: UInt64(status.f_blocks) * UInt64(status.f_frsize))
        var free = Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
        let previous = state.withLock { $0.levels[place] }
        func level() -> SpaceLevel { .of(freeBytes: free, capacityBytes: capacity, previous: previous) }
        // The walk over the list of free pages is worth it only when it matters.
        if level() > .ample { free += (try? disk.reusableBytes()) ?? 0 }
        let found = level()
        guard found != previous else { return }
        state.withLock { $0.levels[place] = found }
        let text: Logger.Message =
            switch found {
            case .ample: "there is space on the disk again: everything is taken"
            case .low: "the disk is nearly full: puts are refused, deletes and what other hosts write are taken"
            case .out: "the disk is full but for a reserve: nothing is taken; free space"
            }
        logger.log(
            level: found == .ample ? .notice : .error, text,
            metadata: ["directory": "\(disk.directory)", "free": "\(free)", "capacity": "\(capacity)"])
    }

    private func tell() {
        let isNews = state.withLock { state in
            let level = SpaceLevel.of(
                measured: state.levels.max() ?? .ample, isJournalFull: state.isJournalFull,
                isStoreFull: state.isStoreFull)
            defer { state.told = level }
            return level != state.told
        }
        if isNews { changed() }
    }
}
