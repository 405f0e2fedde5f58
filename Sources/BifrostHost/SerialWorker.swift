// A dedicated thread that does one kind of blocking work in order: the journal's commits, or the store's writes.

import NIOPosix

/// One thread. Work is done in the order of its submission.
final class SerialWorker: Sendable {
    private let pool: NIOThreadPool

    init() {
        // A pool of one: LMDB wants a write transaction begun and committed by the same thread.
        pool = NIOThreadPool(numberOfThreads: 1)
        pool.start()
    }

    func submit(_ work: @escaping @Sendable () -> Void) {
        pool.submit { state in
            if case .active = state { work() }
        }
    }

    /// Waits for the work that has begun, drops what has not, and ends the thread. What is submitted later is dropped.
    func shutDown() async throws { try await pool.shutdownGracefully() }
}
