// What a client holds: a lock, permits, leadership, a lease, a place in a membership. Owns how long it counts as held, and
// how it is given back.

import ClientCore
import DataTypes
import Messages
public import Primitives
import Ring
public import StateMachines
import Synchronization

/// Something that this client holds, until it gives it back, its session ends, its time to live is over, or somebody else
/// gives it back by its token. Who forgets it gives it back.
///
/// That it is held can't be known for sure at any moment: a process may stand still for longer than hosts wait. So what it
/// protects has to be told the `token`, and to refuse lower ones: data of the cluster does (`guarded(by:)`).
public final class Held: Sendable {
    /// What others compare: a later holder's is higher.
    public let token: FencingToken
    /// Of the group, at which it was granted, or seen to be.
    public let since: Revision
    private let session: SessionID
    private let hold: SessionHold
    private let way: any HeldWay
    private let errands: Errands
    private let timeToLive: Duration?
    /// When what keeps it alive was sent the last time.
    private let aliveAt: Mutex<ContinuousClock.Instant>
    private let isReleased = Atomic<Bool>(false)

    convenience init<Machine: PermitMachine>(
        _ permits: PermitObject<Machine>, token: UInt64, session: SessionID, since: Revision, timeToLive: Duration?,
        sentAt: ContinuousClock.Instant
    ) {
        self.init(
            permits, permits.object, FencingToken(token, of: permits.object.name, machine: Machine.number),
            session: session, since: since, timeToLive: timeToLive, sentAt: sentAt)
    }

    /// - Parameter sentAt: when what it was got by was sent.
    init(
        _ way: any HeldWay, _ object: ReliableObject, _ token: FencingToken, session: SessionID, since: Revision,
        timeToLive: Duration? = nil, sentAt: ContinuousClock.Instant = .now
    ) {
        self.token = token
        self.session = session
        self.since = since
        self.timeToLive = timeToLive
        aliveAt = Mutex(sentAt)
        self.way = way
        hold = object.cluster.hold(Ring.slot(of: object.name))
        errands = object.cluster.errands
    }

    deinit {
        guard !isReleased.load(ordering: .acquiring) else { return }
        let (way, number, hold) = (way, token.number, hold)
        errands.start {
            _ = await way.giveBack(token: number)
            hold.release()
        }
    }

    /// Gives it back. Goes on by itself if nobody waits for it any more, or the group can't be reached.
    ///
    /// - Returns: false: it was lost before.
    /// - Throws: `deadlineExceeded`, `cancelled`: it is given back as soon as that can be done.
    @discardableResult
    public func release(timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        guard !isReleased.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        let errand = Errand<Bool>()
        let (way, number, hold) = (way, token.number, hold)
        errands.start {
            let result = await way.giveBack(token: number)
            hold.release()
            _ = errand.finish(result)
        }
        return try await errand.value(within: timeout ?? way.timeout)
    }

    /// Of a lease: it lives for as long again, from now on.
    ///
    /// - Throws: `lockLost`: it was over before. `invalid`: it has no time to live.
    public func renew(timeout: Duration? = nil) async throws(BifrostError) {
        guard let timeToLive else { throw BifrostError(.invalid, "this lives as long as its session") }
        let sentAt = ContinuousClock.now
        guard try await way.renew(token: token.number, timeToLive, timeout: timeout) else { throw lockLost }
        aliveAt.withLock { $0 = max($0, sentAt) }
    }

    /// Says something else of its holder, for all who look.
    ///
    /// - Throws: `lockLost`: it was over before.
    public func announce(_ value: Bytes, timeout: Duration? = nil) async throws(BifrostError) {
        guard try await way.announce(token: token.number, value, timeout: timeout) else { throw lockLost }
    }

    private var lockLost: BifrostError {
        BifrostError(.lockLost, "\(token.name): what was held with token \(token.number) is lost, or was given back")
    }

    /// Returns as soon as it counts as lost: it was given back or is over, its session is lost, or nobody has answered for
    /// so long that this may be so, by this client's clock.
    ///
    /// - Throws: `cancelled` when the task is cancelled before; nothing else.
    public func lost() async throws(BifrostError) {
        let isLost = await withTaskGroup(of: Bool.self) { group in
            group.addTask { [hold, session] in (try? await hold.lost(session)) != nil }
            group.addTask { [way, token, since] in await way.isOver(token: token.number, after: since) }
            if timeToLive != nil { group.addTask { [self] in await timeIsOver() } }
            defer { group.cancelAll() }
            return await group.next() ?? false
        }
        guard isLost else {
            throw BifrostError(.cancelled, "the task was cancelled", cause: CancellationError())
        }
    }

    /// As with sessions, a tenth is for clocks that go differently.
    private func timeIsOver() async -> Bool {
        guard let timeToLive else { return false }
        while true {
            let end = aliveAt.withLock { $0 } + timeToLive * 9 / 10
            guard ContinuousClock.now < end else { return true }
            guard (try? await Task.sleep(until: end, clock: .continuous)) != nil else { return false }
        }
    }

    /// Does `body` while this is held; where it is lost, the task that does it is cancelled. Then gives it back, whatever
    /// the body came to, also if the caller was cancelled.
    ///
    /// - Throws: what the body throws; `lockLost`, if it was lost before the body ended.
    func during<Result: Sendable>(
        renewing: Bool, _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        do {
            let result = try await withThrowingTaskGroup(of: Result?.self) { group in
                group.addTask { try await body(self) }
                group.addTask {
                    try await self.lost()
                    throw self.lockLost
                }
                if renewing, let timeToLive {
                    group.addTask {
                        while true {
                            try await Task.sleep(for: timeToLive / 3)
                            do throws(BifrostError) { try await self.renew(timeout: timeToLive / 3) } catch {
                                if error.code == .lockLost { throw error }
                            }
                        }
                    }
                }
                defer { group.cancelAll() }
                guard let result = try await group.next(), let result else { throw self.lockLost }
                return result
            }
            await giveBack()
            return result
        } catch {
            await giveBack()
            throw error
        }
    }

    /// In a task of its own: that of the caller may be cancelled.
    private func giveBack() async { await Task { _ = try? await self.release() }.value }
}

/// What is asked of the object, whichever it is.
protocol HeldWay: Sendable {
    var timeout: Duration { get }
    /// As long as it takes.
    func giveBack(token: UInt64) async -> Result<Bool, BifrostError>
    func renew(token: UInt64, _ timeToLive: Duration, timeout: Duration?) async throws(BifrostError) -> Bool
    func announce(token: UInt64, _ value: Bytes, timeout: Duration?) async throws(BifrostError) -> Bool
    /// Returns true as soon as nobody has the token any more; false if the task is cancelled.
    func isOver(token: UInt64, after revision: Revision) async -> Bool
}

extension PermitObject: HeldWay {
    var timeout: Duration { object.cluster.options.timeout }

    func renew(token: UInt64, _ timeToLive: Duration, timeout: Duration?) async throws(BifrostError) -> Bool {
        let command = PermitRenew<Machine>(
            object.name, token: token, timeToLiveMillis: try timeToLive.timeToLiveMillis)
        return try await object.submit(command, timeout: timeout).answer
    }

    func announce(token: UInt64, _ value: Bytes, timeout: Duration?) async throws(BifrostError) -> Bool {
        guard value.count <= PermitLimits.valueBytesMax else {
            throw BifrostError(
                .tooLarge,
                "who holds something says at most \(PermitLimits.valueBytesMax) bytes of himself, not \(value.count)")
        }
        let command = PermitAnnounce<Machine>(object.name, token: token, value: value)
        return try await object.submit(command, timeout: timeout).answer
    }

    func isOver(token: UInt64, after revision: Revision) async -> Bool {
        let record = RecordWatch(
            object: object, machine: Machine.number, key: Machine.tokenRecord(object.name, token), isSteadfast: true)
        do throws(BifrostError) {
            return try await record.first(behind: revision) { (change) -> Bool? in
                change.kind == .put || change.kind == .event ? nil : true
            } asked: { () async throws(BifrostError) -> (Bool?, Revision) in
                let (found, revision) = try await object.query(
                    PermitList<Machine>(object.name, from: token, entriesMax: 1))
                return (found.entries.first?.number == token ? nil : true, revision)
            }
        } catch {
            return error.code == .closed
        }
    }
}
