// Barriers, as programs see them.

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
                guard await isKnown(standing, arrival, hold) else { throw lost }
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
            group.addTask { await told(of: arrival, command, from: revision, hold) }
            group.addTask { (try? await hold.lost(arrival.session)) != nil ? .lost : .timedOut }
            if let end { group.addTask { await Self.timeOver(at: end) } }
            let first = await group.next() ?? .timedOut
            group.cancelAll()
            return first
        }
    }

    /// The answer is of the session in which it arrived, or of one that stands for it since the barrier's slot has moved.
    private func isKnown(_ standing: BarrierStanding, _ arrival: BarrierArrival, _ hold: SessionHold) async -> Bool {
        guard standing.session != arrival.session else { return true }
        return await hold.life(as: arrival.session) != nil
    }

    private static func timeOver(at end: ContinuousClock.Instant) async -> Standing {
        try? await Task.sleep(until: end, clock: .continuous)
        return .timedOut
    }

    private func told(
        of arrival: BarrierArrival, _ command: BarrierArrive, from revision: Revision, _ hold: SessionHold
    ) async -> Standing {
        let record = RecordWatch(
            object: object, machine: BarrierMachine.number, key: BarrierMachine.openKey(name), isSteadfast: true)
        do throws(BifrostError) {
            return try await record.first(behind: revision) { (change) -> Standing? in
                guard let state = try? BarrierState(decoding: change.value) else { return nil }
                return state.round == arrival.state.round ? .open : nil
            } asked: { () async throws(BifrostError) -> (Standing?, Revision) in
                // A command: the session's own log knows for sure.
                let (found, revision) = try await object.submit(
                    BarrierCheck(name, wish: command.wish), timeout: nil)
                guard await isKnown(found, arrival, hold) else { return (.lost, revision) }
                return (found.waits ? nil : .open, revision)
            }
        } catch {
            return .timedOut
        }
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
