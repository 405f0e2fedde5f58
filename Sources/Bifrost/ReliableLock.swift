// Locks, semaphores, elections and leases, as programs see them.

public import DataTypes
public import Primitives
import StateMachines

extension Cluster {
    /// A lock: one at a time, first come, first served.
    ///
    ///     try await cluster.lock("{ledger}").withLock(wait: .seconds(5)) { held in
    ///         try await cluster.value("{ledger}/balance", of: Int.self).guarded(by: held.token).set(100)
    ///     }
    public func lock(_ name: Bytes) -> ReliableLock { ReliableLock(permits: PermitObject(self, name)) }

    /// A semaphore: as many permits as `permits` says. All who use one say the same number, or none, where `setLimit` was
    /// called.
    public func semaphore(_ name: Bytes, permits: Int? = nil) -> ReliableSemaphore {
        ReliableSemaphore(permits: PermitObject(self, name), limit: permits)
    }

    /// An election: one leads, the others stand by, in their order.
    public func election(_ name: Bytes) -> ReliableElection { ReliableElection(permits: PermitObject(self, name)) }

    /// A lease: one has it for a time, and may renew it.
    public func lease(_ name: Bytes) -> ReliableLease { ReliableLease(permits: PermitObject(self, name)) }
}

/// A lock with a name. Who has it has it until he gives it back, or his client's session ends: a client that is gone has
/// lost it after `ClusterOptions.sessionTimeToLive`. All functions throw `BifrostError`.
public struct ReliableLock: Sendable {
    let permits: PermitObject<LockMachine>
    public var name: Bytes { permits.object.name }

    @TaskLocal private static var held: [Bytes: Held] = [:]

    /// The lock, if nobody has it or waits for it; nil: somebody does.
    ///
    /// - Parameter value: what others see of who has it.
    public func tryAcquire(_ value: Bytes = Bytes()) async throws(BifrostError) -> Held? {
        try await permits.acquire(permits: 1, limit: 1, wait: .zero, timeToLive: nil, value: value)
    }

    /// The lock, when it is this caller's turn.
    ///
    /// - Parameter wait: of the group's elapsed time; nil: as long as it takes.
    /// - Throws: `deadlineExceeded`: others had it for all that time. `lockLost`: the session ended meanwhile.
    public func acquire(wait: Duration? = nil, _ value: Bytes = Bytes()) async throws(BifrostError) -> Held {
        try permits.expect(
            try await permits.acquire(permits: 1, limit: 1, wait: wait, timeToLive: nil, value: value), wait)
    }

    /// Does `body` with the lock, and gives it back: whatever the body comes to, also if this task is cancelled. If the
    /// lock is lost meanwhile the body's task is cancelled.
    ///
    /// - Parameter reentrant: a body of `withLock` that wants the same lock again goes on with the one that it has; else it
    ///   would wait for itself.
    /// - Throws: what the body throws; `deadlineExceeded` as `acquire`; `lockLost`: the lock was lost before the body ended.
    public func withLock<Result: Sendable>(
        wait: Duration? = nil, _ value: Bytes = Bytes(), reentrant: Bool = false,
        _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        if reentrant, let held = Self.held[name] { return try await body(held) }
        let held = try await acquire(wait: wait, value)
        return try await held.during(renewing: false) { [name] held in
            var all = Self.held
            all[name] = held
            return try await Self.$held.withValue(all) { try await body(held) }
        }
    }

    /// Who has it; nil: nobody.
    public func holder(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitEntry? {
        try await permits.listing(waiters: false, consistency, timeout: timeout).entries.first
    }

    /// Who waits, in the order of their turns: the first 256, and how many there are.
    public func waiters(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitListing {
        try await permits.listing(waiters: true, consistency, timeout: timeout)
    }

    /// Takes the lock away from whoever has it with this token.
    ///
    /// - Returns: false: nobody has it with that.
    @discardableResult
    public func revoke(token: UInt64, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await permits.release(token: token, timeout: timeout)
    }

    /// Who gets it and loses it.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> PermitWatch {
        permits.watch(from: start, patience: patience)
    }
}

/// A semaphore with a name. Permits are had as a lock is.
public struct ReliableSemaphore: Sendable {
    let permits: PermitObject<SemaphoreMachine>
    let limit: Int?
    public var name: Bytes { permits.object.name }

    /// Permits, if there are so many and nobody waits; nil: there are not, or somebody does.
    public func tryAcquire(_ count: Int = 1, _ value: Bytes = Bytes()) async throws(BifrostError) -> Held? {
        try await acquire(count, .zero, value)
    }

    /// Permits, all of them at once, when it is this caller's turn. Who wants many holds up those behind him who want few.
    ///
    /// - Throws: `deadlineExceeded`: there were not so many for all that time. `lockLost`: the session ended meanwhile.
    public func acquire(
        _ count: Int = 1, wait: Duration? = nil, _ value: Bytes = Bytes()
    ) async throws(BifrostError) -> Held {
        try permits.expect(try await acquire(count, wait, value), wait)
    }

    private func acquire(_ count: Int, _ wait: Duration?, _ value: Bytes) async throws(BifrostError) -> Held? {
        try await permits.acquire(
            permits: UInt32(clamping: count), limit: try checked(limit ?? 0), wait: wait, timeToLive: nil,
            value: value)
    }

    private func checked(_ limit: Int) throws(BifrostError) -> UInt32 {
        guard let limit = UInt32(exactly: limit) else {
            throw BifrostError(.invalid, "a semaphore has 1 to \(PermitLimits.permitsMax) permits, not \(limit)")
        }
        return limit
    }

    /// Does `body` with permits, and gives them back. As `ReliableLock.withLock`.
    public func withPermits<Result: Sendable>(
        _ count: Int = 1, wait: Duration? = nil, _ value: Bytes = Bytes(),
        _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        try await acquire(count, wait: wait, value).during(renewing: false, body)
    }

    /// Sets how many permits there are, and keeps that also while nobody has any. Those who have more keep them.
    ///
    /// - Parameter limit: 0: is forgotten, once nobody has any; then users say it.
    /// - Returns: how many are out.
    @discardableResult
    public func setLimit(_ limit: Int, timeout: Duration? = nil) async throws(BifrostError) -> Int {
        let command = PermitLimit<SemaphoreMachine>(name, try checked(limit))
        return Int(clamping: try await permits.object.submit(command, timeout: timeout).answer.count)
    }

    /// Its permits, and the first 256 who have some, by their tokens.
    public func holders(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitListing {
        try await permits.listing(waiters: false, consistency, timeout: timeout)
    }

    /// The first 256 who wait, in the order of their turns.
    public func waiters(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitListing {
        try await permits.listing(waiters: true, consistency, timeout: timeout)
    }

    /// Takes what somebody has with this token away from him.
    @discardableResult
    public func revoke(token: UInt64, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await permits.release(token: token, timeout: timeout)
    }

    /// Who gets permits and loses them.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> PermitWatch {
        permits.watch(from: start, patience: patience)
    }
}

/// An election with a name. Who leads leads until he resigns, or his client's session ends; then the next candidate does.
/// The token is the epoch: it grows with each leader.
public struct ReliableElection: Sendable {
    let permits: PermitObject<ElectionMachine>
    public var name: Bytes { permits.object.name }

    /// Stands as a candidate until he leads. Who leads resigns by `release`, and says something else of himself by
    /// `announce`.
    ///
    /// - Parameter value: what others see of him: an address, say.
    /// - Throws: `deadlineExceeded`: others led for all of `wait`. `lockLost`: the session ended meanwhile.
    public func campaign(_ value: Bytes, wait: Duration? = nil) async throws(BifrostError) -> Held {
        try permits.expect(
            try await permits.acquire(permits: 1, limit: 1, wait: wait, timeToLive: nil, value: value), wait)
    }

    /// Stands as a candidate, and does `body` while he leads: its task is cancelled where leadership is lost. Resigns when
    /// the body ends.
    ///
    /// - Throws: what the body throws; `lockLost`: leadership was lost before the body ended.
    public func lead<Result: Sendable>(
        as value: Bytes, wait: Duration? = nil, _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        try await campaign(value, wait: wait).during(renewing: false, body)
    }

    /// Who leads; nil: nobody.
    public func leader(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitEntry? {
        try await permits.listing(waiters: false, consistency, timeout: timeout).entries.first
    }

    /// Those who stand by, in their order: the first 256, and how many there are.
    public func candidates(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitListing {
        try await permits.listing(waiters: true, consistency, timeout: timeout)
    }

    /// Ends the leadership of this epoch, whoever's it is.
    @discardableResult
    public func depose(epoch: UInt64, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await permits.release(token: epoch, timeout: timeout)
    }

    /// Leaders as they come and go.
    public func observe(from start: WatchStart = .snapshot, patience: Duration? = nil) -> PermitWatch {
        permits.watch(from: start, patience: patience)
    }
}

/// A lease with a name: somebody has it alone, for a time, and no longer than his client's session lives.
public struct ReliableLease: Sendable {
    let permits: PermitObject<LeaseMachine>
    public var name: Bytes { permits.object.name }

    /// The lease, for `time`; `renew` gives it as long again. nil: somebody else has it, or had it for all of `wait`.
    ///
    /// - Parameters:
    ///   - time: of the group's elapsed time, from the grant on: it is over no earlier, and a second or two later while the
    ///     group has a leader.
    ///   - wait: nil: as long as it takes.
    public func grant(
        for time: Duration, wait: Duration? = .zero, _ value: Bytes = Bytes()
    ) async throws(BifrostError) -> Held? {
        try await permits.acquire(permits: 1, limit: 1, wait: wait, timeToLive: time, value: value)
    }

    /// Does `body` while it has the lease, which is renewed meanwhile, and gives it back.
    ///
    /// - Throws: what the body throws; `deadlineExceeded`: others had it for all of `wait`; `lockLost`.
    public func withLease<Result: Sendable>(
        for time: Duration, wait: Duration? = nil, _ value: Bytes = Bytes(),
        _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        try await permits.expect(try await grant(for: time, wait: wait, value), wait).during(renewing: true, body)
    }

    /// Who has it; nil: nobody.
    public func holder(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> PermitEntry? {
        try await permits.listing(waiters: false, consistency, timeout: timeout).entries.first
    }

    /// Takes it away from whoever has it with this token.
    @discardableResult
    public func revoke(token: UInt64, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await permits.release(token: token, timeout: timeout)
    }

    /// Who gets it and loses it.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> PermitWatch {
        permits.watch(from: start, patience: patience)
    }
}

extension PermitObject {
    /// - Throws: `deadlineExceeded`.
    func expect(_ held: Held?, _ wait: Duration?) throws(BifrostError) -> Held {
        guard let held else {
            throw BifrostError(
                .deadlineExceeded, "\(object.name): others had it for all of \(wait ?? .zero); nothing was got")
        }
        return held
    }
}
