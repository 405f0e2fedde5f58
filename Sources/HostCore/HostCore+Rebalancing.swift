// Who leads the meta group drives the rebalancing that stands there: begins its steps, sees by the map when they are done,
// and writes that down. Decides nothing of its own: the next act follows from record, map and who is away
// (Ring/Rebalancing+Driving.swift), and is one entry of the meta group's log. So whoever comes to lead goes on from there.

public import Messages
public import Primitives
import RaftCore
import Ring
import StateMachines

extension HostCore {
    /// Some times a second, between the steps of moves.
    func driveRebalancing() {
        guard isMetaLeader, let replica = replica(of: .meta), let map = replica.machine.meta.map,
            map.featureLevel >= FeatureLevel.migrations, let rebalancing = replica.machine.meta.rebalancing,
            !rebalancing.isOver,
            // All that was decided shows: nothing is on its way into the log.
            replica.core.appliedIndex == replica.core.lastIndex
        else { return }
        let (away, lost) = awayHosts()
        // One that the map refuses at the moment must not hold up the others.
        for act in rebalancing.acts(map, away: away, lost: lost) {
            guard let command = command(for: act, rebalancing, map) else { continue }
            _ = propose(command.payload(), to: replica)
            return
        }
    }

    /// nil: nothing comes of it on this map.
    private func command(for act: RebalanceAct, _ rebalancing: Rebalancing, _ map: ClusterMap) -> MetaCommand? {
        func change(_ change: MapChange) -> MetaCommand? {
            change.refusal(by: map) == nil ? .change(change, expecting: map.version) : nil
        }
        switch act {
        case .report(let place, .begun):
            // The map has the last word: a step that it refuses is failed with that, and the rest goes on.
            let refusal =
                rebalancing.change(of: place, in: map).map { $0.refusal(by: map) }
                ?? .invalid("what it moves is not there")
            guard let refusal else { return .reportStep(rebalancing.id, UInt32(place), .begun) }
            let word = if case .invalid(let text) = refusal { text } else { "\(refusal)" }
            return .reportStep(rebalancing.id, UInt32(place), .failed(word))
        case .report(let place, let report): return .reportStep(rebalancing.id, UInt32(place), report)
        case .abort(let id): return change(.abortMigration(id))
        case .takeBack(let group, let replica): return change(.setRole(group, replica, .leaving))
        case .limit(let id): return change(.limitMigration(id, rebalancing.limits.ofMigration))
        }
    }

    /// Hosts that are not connected, and those of them that have not been for so long that nobody waits for them.
    func awayHosts() -> (away: [HostID], lost: [HostID]) {
        let away = peers.filter { !$0.isConnected }
        let patience = settings.moveNanoseconds / settings.tickNanoseconds
        let lost = away.filter { $0.awaySinceTick.map { tickCount - $0 >= patience } ?? false }
        return (away.map(\.host), lost.map(\.host))
    }

    /// The rebalancing and what its steps wait for; nil: this host does not lead the meta group.
    public func rebalancingReply() -> RebalancingReply? {
        guard let replica = replica(of: .meta), replica.stopped == nil, isMetaLeader else { return nil }
        let auto = replica.machine.meta.auto.map { AutoStanding(auto: $0, wait: balance?.wait(at: tickCount)) }
        guard let map = replica.machine.meta.map, let rebalancing = replica.machine.meta.rebalancing else {
            return .nothing(auto)
        }
        let (away, lost) = awayHosts()
        return .there(
            RebalancingStanding(
                mapVersion: map.version, rebalancing: rebalancing,
                waits: rebalancing.waits(map, away: away, lost: lost), auto: auto))
    }

    /// Who leads the meta group, as far as this host knows.
    public var metaLeader: HostID? {
        guard let replica = replica(of: .meta) else { return nil }
        return replica.host(of: replica.core.leader)
    }
}
