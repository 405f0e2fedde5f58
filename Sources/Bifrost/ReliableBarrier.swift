// Barriers and latches, as programs see them.

public import DataTypes
import Messages
public import Primitives
import Ring
import StateMachines

extension Cluster {
    /// A barrier: all wait until so many have come.
    public func barrier(_ name: Bytes, parties: Int? = nil) -> ReliableBarrier {
        ReliableBarrier(object: ReliableObject(cluster: self, name: name, isBare: true), parties: parties)
    }

    /// A latch that counts down.
    public func latch(_ name: Bytes) -> ReliableLatch {
        ReliableLatch(object: ReliableObject(cluster: self, name: name))
    }
}

/// A barrier with a name. Who arrives waits until as many have come as there are parties; then all go on, and the next
/// round begins. Whose session ends while he waits has not arrived: the others go on waiting. All functions throw
/// `BifrostError`.
public struct ReliableBarrier: Sendable {
    let object: ReliableObject
    /// nil: as those say who have come before.
    let parties: Int?
    public var name: Bytes { object.name }

    /// Arrives, and waits until the round is over.
    ///
    /// - Parameter wait: nil: as long as it takes.
    /// - Returns: the number of the round, the same for all who waited in it; in its group the next one's is higher.
    /// - Throws: `deadlineExceeded`, `cancelled`: too few came in that time, as far as is known, and the place is given back;
    ///   where the group can't be reached for longer than `ClusterOptions.timeout` behind `wait`, the round may be over all
    ///   the same. `outcomeUnknown`: the session in which it waited is lost; it was counted in a round that is over, or in
    ///   none.
    ///   `conditionFailed`: those who wait say another number of parties.
    @discardableResult
    public func arrive(wait: Duration? = nil) async throws(BifrostError) -> UInt64 {
        let parties = UInt32(exactly: parties ?? 0) ?? .max
        guard parties <= BarrierLimits.partiesMax, self.parties != 0 else {
            throw BifrostError(
                .invalid, "a barrier has 1 to \(BarrierLimits.partiesMax) parties, not \(self.parties ?? 0)")
        }
        let errand = Errand<UInt64>()
        // Goes on by itself: nobody else could give back the place that it gets.
        object.cluster.errands.start { await arrive(parties, wait, errand) }
        return try await errand.value(within: wait.map { max($0, .zero) + object.cluster.options.timeout })
    }

    private enum Standing: Sendable {
        case open
        /// Or nobody waits for it any more.
        case timedOut
        case lost
    }

    private func arrive(_ parties: UInt32, _ wait: Duration?, _ errand: Errand<UInt64>) async {
        let hold = object.cluster.hold(Ring.slot(of: name))
        defer { hold.release() }
        let end = wait.map { ContinuousClock.now + $0 }
        let command = BarrierArrive(name, parties: parties, wish: UInt64.random(in: 1...UInt64.max))
        do throws(BifrostError) {
            let (arrival, revision) = try await object.submit(command, timeout: errandTime)
            if arrival.state.isOpen { return _ = errand.finish(.success(arrival.state.round)) }
            let waiting = Task { await standing(of: arrival, command, from: revision, hold, until: end) }
            errand.whenAbandoned { waiting.cancel() }
            switch await waiting.value {
            case .open: break
            case .lost: throw lost
            case .timedOut:
                // In the same session this tells for sure.
                let standing = try await object.submit(
                    BarrierWithdraw(name, wish: command.wish), timeout: errandTime
                ).answer
                guard standing.session == arrival.session else { throw lost }
                guard !standing.waits else {
                    throw BifrostError(
                        .deadlineExceeded,
                        "\(name): fewer than \(arrival.state.parties) came within \(wait ?? .zero); the place was given back"
                    )
                }
            }
            _ = errand.finish(.success(arrival.state.round))
        } catch {
            let isWanted = errand.finish(.failure(error))
            // One whose session is lost by the clock alone may still be there. In another session this does nothing.
            guard error.mayHaveHappened || !isWanted else { return }
            await seeThrough { () async throws(BifrostError) in
                _ = try await object.submit(BarrierWithdraw(name, wish: command.wish), timeout: errandTime)
            }
        }
    }

    private var lost: BifrostError {
        BifrostError(
            .outcomeUnknown,
            "\(name): the session in which it waited is lost: it was counted in a round that is over, or in none",
            mayHaveHappened: true)
    }

    private func standing(
        of arrival: BarrierArrival, _ command: BarrierArrive, from revision: Revision, _ hold: SessionHold,
        until end: ContinuousClock.Instant?
    ) async -> Standing {
        await withTaskGroup(of: Standing.self) { group in
            group.addTask { await told(of: arrival, command, from: revision) }
            group.addTask { (try? await hold.lost(arrival.session)) != nil ? .lost : .timedOut }
            if let end { group.addTask { await Self.timeOver(at: end) } }
            let first = await group.next() ?? .timedOut
            group.cancelAll()
            return first
        }
    }

    private static func timeOver(at end: ContinuousClock.Instant) async -> Standing {
        try? await Task.sleep(until: end, clock: .continuous)
        return .timedOut
    }

    private func told(
        of arrival: BarrierArrival, _ command: BarrierArrive, from revision: Revision
    ) async -> Standing {
        let key = BarrierMachine.openKey(name)
        var feed = WatchFeed(
            cluster: object.cluster, slot: Ring.slot(of: name), machine: BarrierMachine.number, from: key,
            end: Bytes(key.array + [0]), patience: nil, through: revision)
        while !Task.isCancelled {
            do throws(BifrostError) {
                for change in try await feed.next() {
                    guard let state = try? BarrierState(decoding: change.value) else { continue }
                    if state.round == arrival.state.round { return .open }
                }
            } catch {
                guard error.code != .cancelled, error.code != .closed else { break }
                // Too late for what was told, or of a leader of an older version: the session's own log knows.
                let check = BarrierCheck(name, wish: command.wish)
                if let (found, revision) = try? await object.submit(check, timeout: nil) {
                    guard found.session == arrival.session else { return .lost }
                    guard found.waits else { return .open }
                    feed.through = revision
                }
                guard (try? await Task.sleep(for: .seconds(1))) != nil else { break }
            }
        }
        return .timedOut
    }

    /// How many have come, change by change; `isOpen` of a state: its round is over.
    public func watch(
        from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> ObjectWatch<BarrierState> {
        let object = object
        return object.watch(
            machine: BarrierMachine.number, key: BarrierMachine.stateKey(name), start: start, patience: patience,
            entry: { () async throws(BifrostError) in
                let (state, revision) = try await object.query(BarrierShow(object.name))
                return (state.round > 0 ? ObjectEntry(value: state.encoded(), revision: revision) : nil, revision)
            })
    }

    /// How many have come.
    public func state(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> BarrierState {
        try await object.query(BarrierShow(name), consistency, timeout: timeout).answer
    }
}

/// A latch with a name: set to a count, counted down by whoever has done his part. Who waits goes on at zero. Set again,
/// the next round begins. All functions throw `BifrostError`.
public struct ReliableLatch: GuardableObject {
    var object: ReliableObject
    public var name: Bytes { object.name }

    public func guarded(by token: FencingToken) -> ReliableLatch {
        ReliableLatch(object: object.guarded(by: token))
    }

    /// Begins a round.
    ///
    /// - Parameters:
    ///   - count: 0: the round is over at once.
    ///   - ifAbsent: a latch that is there stays as it is.
    /// - Returns: the latch as it is now.
    @discardableResult
    public func set(
        _ count: Int, ifAbsent: Bool = false, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState {
        guard let count = UInt64(exactly: count) else {
            throw BifrostError(.invalid, "a latch counts down from 0 or more, not from \(count)")
        }
        return try await object.submit(LatchSet(name, count, ifAbsent: ifAbsent), timeout: timeout).answer
    }

    /// Counts down, to zero at most.
    ///
    /// - Parameter round: it is refused in another one; nil: whichever it is.
    /// - Returns: the latch as it is now.
    /// - Throws: `conditionFailed`: nobody has set it, or it is in another round.
    @discardableResult
    public func countDown(
        by amount: Int = 1, round: UInt64? = nil, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState {
        guard let amount = UInt64(exactly: amount), amount > 0 else {
            throw BifrostError(.invalid, "a latch counts down by 1 or more, not by \(amount)")
        }
        try check(round)
        return try await object.submit(LatchCountDown(name, by: amount, round: round ?? 0), timeout: timeout).answer
    }

    /// - Returns: false: there was none.
    @discardableResult
    public func delete(timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await object.submit(LatchDelete(name), timeout: timeout).answer
    }

    /// nil: nobody has set it.
    public func state(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> LatchState? {
        try await object.query(LatchShow(name), consistency, timeout: timeout).answer.state
    }

    /// Waits until the round that is under way comes to zero; at once, if it has.
    ///
    /// - Parameters:
    ///   - round: one that is known to have been; nil: the present one.
    ///   - limit: nil: as long as it takes.
    /// - Returns: the number of the round.
    /// - Throws: `deadlineExceeded`; `conditionFailed`: nobody has set it, it was deleted, or another round began before this
    ///   one came to zero (or this is not known any more).
    @discardableResult
    public func wait(round: UInt64? = nil, for limit: Duration? = nil) async throws(BifrostError) -> UInt64 {
        try check(round)
        let waiting = Task { () -> Result<UInt64, BifrostError> in
            do throws(BifrostError) { return .success(try await reach(round)) } catch { return .failure(error) }
        }
        let clock = limit.map { limit in
            Task {
                guard (try? await Task.sleep(for: limit)) != nil else { return }
                waiting.cancel()
            }
        }
        defer { clock?.cancel() }
        let result = await withTaskCancellationHandler {
            await waiting.value
        } onCancel: {
            waiting.cancel()
        }
        do throws(BifrostError) { return try result.get() } catch {
            guard error.code == .cancelled, !Task.isCancelled, let limit else { throw error }
            throw BifrostError(.deadlineExceeded, "\(name): the latch did not come to zero within \(limit)")
        }
    }

    private func check(_ round: UInt64?) throws(BifrostError) {
        guard round != 0 else { throw BifrostError(.invalid, "\(name): no latch has a round 0") }
    }

    private func reach(_ wanted: UInt64?) async throws(BifrostError) -> UInt64 {
        var round = wanted
        while true {
            let (found, revision) = try await Patience(nil).ask { () async throws(BifrostError) in
                try await object.query(LatchShow(name))
            }
            guard let state = found.state else { throw gone("nobody has set the latch, or it was deleted") }
            let wanted = round ?? state.round
            round = wanted
            if try isOpen(wanted, state) { return wanted }
            let key = LatchMachine.stateKey(name)
            var feed = WatchFeed(
                cluster: object.cluster, slot: Ring.slot(of: name), machine: LatchMachine.number, from: key,
                end: Bytes(key.array + [0]), patience: nil, through: revision)
            do throws(BifrostError) {
                while true {
                    for change in try await feed.next() {
                        guard change.kind == .put, let state = try? LatchState(decoding: change.value) else {
                            throw gone("the latch was deleted before it came to zero")
                        }
                        if try isOpen(wanted, state) { return wanted }
                    }
                }
            } catch {
                // Too late for what was told: the latch itself knows.
                guard error.code == .compacted || error.code == .malformedAnswer else { throw error }
            }
        }
    }

    private func isOpen(_ round: UInt64, _ state: LatchState) throws(BifrostError) -> Bool {
        if state.opened == round { return true }
        guard state.round == round else {
            throw gone("the latch is in round \(state.round): round \(round) is over, or never was")
        }
        return false
    }

    private func gone(_ text: String) -> BifrostError { BifrostError(.conditionFailed, "\(name): \(text)") }

    /// What it becomes, change by change.
    public func watch(
        from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> ObjectWatch<LatchState> {
        let object = object
        return object.watch(
            machine: LatchMachine.number, key: LatchMachine.stateKey(name), start: start, patience: patience,
            entry: { () async throws(BifrostError) in
                let (found, revision) = try await object.query(LatchShow(object.name))
                return (found.state.map { ObjectEntry(value: $0.encoded(), revision: revision) }, revision)
            })
    }
}
