// The two locks that an environment needs and the standard library does not have: one with a condition to wait for,
// one that notices when its own thread asks for it twice.

import Glibc

/// A mutex with a condition.
final class Gate: @unchecked Sendable {
    // @unchecked: both are made for use from many threads; their memory does not move.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func withLock<Result>(_ body: () -> Result) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body()
    }

    /// Inside `withLock` only, as are the others.
    func wait(until isTrue: () -> Bool) {
        while !isTrue() { pthread_cond_wait(condition, mutex) }
    }

    /// Whether it came true in time.
    func wait(seconds: Int, until isTrue: () -> Bool) -> Bool {
        var deadline = timespec()
        clock_gettime(CLOCK_MONOTONIC, &deadline)
        deadline.tv_sec += seconds
        while !isTrue() {
            if pthread_cond_timedwait(condition, mutex, &deadline) == ETIMEDOUT { return isTrue() }
        }
        return true
    }

    func wakeAll() { pthread_cond_broadcast(condition) }
}

/// Held by the thread with the write transaction.
final class WriterLock: @unchecked Sendable {
    // @unchecked: as above.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

    init() {
        var attributes = pthread_mutexattr_t()
        pthread_mutexattr_init(&attributes)
        pthread_mutexattr_settype(&attributes, Int32(PTHREAD_MUTEX_ERRORCHECK))
        pthread_mutex_init(mutex, &attributes)
        pthread_mutexattr_destroy(&attributes)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// False when this thread holds it already.
    func lock() -> Bool { pthread_mutex_lock(mutex) == 0 }

    func unlock() {
        precondition(pthread_mutex_unlock(mutex) == 0, "a write transaction ended on another thread than it began")
    }
}
