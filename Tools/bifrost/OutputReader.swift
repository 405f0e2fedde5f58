// Whether anybody reads what a command prints that may have nothing to print for long: a reader that goes away shows
// otherwise with the next line alone, as when `bifrost watch KEY | head -1` waits for a change.

import Foundation
import Synchronization

/// Until `end`, the process ends as one whose output was closed (141), a second after its reader went away. Costs a thread
/// that sleeps in the kernel. Where standard output is a file nobody ever goes away.
final class OutputReader: Sendable {
    private let isOver = Atomic<Bool>(false)

    /// For a command that has just printed its last line, after which a reader may go: it ends by itself, with its own
    /// exit code.
    private static let graceSeconds = 1.0

    init() {
        Thread.detachNewThread { [self] in
            guard Self.waitUntilGone() else { return }
            Thread.sleep(forTimeInterval: Self.graceSeconds)
            if !isOver.load(ordering: .relaxed) { exit(ExitStatus.outputClosed.rawValue) }
        }
    }

    /// What is printed is all that there will be.
    func end() { isOver.store(true, ordering: .relaxed) }

    /// False: that can't be known.
    private static func waitUntilGone() -> Bool {
        // Errors and the other side's end are told without being asked for.
        var output = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
        while poll(&output, 1, -1) < 0 {
            guard errno == EINTR else { return false }
        }
        return output.revents & Int16(POLLERR | POLLHUP) != 0
    }
}
