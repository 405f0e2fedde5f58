// Who leads the meta group keeps the balance, where the cluster is told to: looks from time to time what slots have, and
// begins a rebalancing if that is worth it. What is worth it, and what speaks against a look, stands in
// Ring/AutoRebalancing.swift; what is begun is driven like any other (HostCore+Rebalancing). Times are counted in ticks.
//
//   resting ──► asking ──► planning ──► resting … ──► a rebalancing, for which it waits as for anybody's
//                 each group's leader     on a thread that may take its time

public import Messages
import Primitives
import RaftCore
package import Ring
import StateMachines

/// How far the meta group's leader is with the balance. In memory alone: whoever leads next begins anew, and later rather
/// than sooner.
final class BalanceWatch {
    /// A group that has not said yet what its slots have.
    struct Open {
        var group: GroupID
        /// Who is said to lead it.
        var leader: HostID?
        var askedTick: UInt64?
        var attempts = 0
    }

    enum Phase {
        case resting
        case asking
        case planning
    }

    /// Of the meta group, that it leads in.
    let term: Term
    var phase = Phase.resting
    /// The next look begins then.
    var notBefore: UInt64
    /// Of the look: what was asked before is another's.
    var number: UInt64
    /// Those that are asked in this look and have not answered, ascending. The first ones are asked.
    var open: [Open] = []
    var loads: [RebalanceInput.SlotLoad] = []
    /// The look is given up then.
    var endTick: UInt64 = 0
    /// Looks one after the other that found something.
    var found = 0
    /// The rebalancing after which it has rested, or does. Whatever else is in the way meanwhile, it rests after each.
    var rested: RebalancingID?
    private var kind = Kind.pause
    private let secondTicks: UInt64

    /// What it waits for while it rests, or instead of a look.
    enum Kind {
        case pause
        case imbalance
        case confirmation
        case hindrance(AutoWait)
    }

    init(term: Term, rested: RebalancingID?, number: UInt64, notBefore: UInt64, secondTicks: UInt64) {
        self.term = term
        self.rested = rested
        self.number = number
        self.notBefore = notBefore
        self.secondTicks = secondTicks
    }

    /// No look before that tick, and why.
    func rest(until tick: UInt64, _ kind: Kind) {
        phase = .resting
        notBefore = tick
        self.kind = kind
        (open, loads) = ([], [])
        if case .confirmation = kind { return }
        found = 0
    }

    /// nil: it looks.
    func wait(at tick: UInt64) -> AutoWait? {
        switch phase {
        case .asking: return open.first.map { .load($0.group) }
        case .planning: return nil
        case .resting: break
        }
        let seconds = (max(notBefore, tick) - tick + secondTicks - 1) / secondTicks
        return switch kind {
        case .pause: .pause(seconds: seconds)
        case .imbalance: .imbalance(seconds: seconds)
        case .confirmation: .confirmation(seconds: seconds)
        case .hindrance(let wait): wait
        }
    }
}

/// A plan that is to be made where it may take its time: the planner's work grows with hosts and groups. Answered by
/// `HostCore.balanceLooked`.
public struct BalanceLook: Sendable {
    package var number: UInt64
    package var input: RebalanceInput
    package var bytesMin: UInt64

    /// Any thread.
    public func result() -> BalanceFound {
        BalanceFound(number: number, map: input.map, plan: AutoRebalancing.plan(input, bytesMin: bytesMin))
    }
}

/// What a `BalanceLook` came to.
public struct BalanceFound: Sendable {
    package var number: UInt64
    package var map: ClusterMap
    /// nil: nothing is worth it.
    package var plan: RebalancePlan?
}

extension HostCore {
    /// Groups that are asked at a time: each takes a thread of its host some while.
    private static var asksMax: Int { 16 }
    /// After which a group is asked again, and whoever is next to lead it.
    private var askTicks: UInt64 { 3 * secondTicks }
    /// After which a look is given up: one for loads, and one for a plan.
    private var lookTicksMax: UInt64 { 60 * secondTicks }
    /// Where steps of the last rebalancing failed, it rests for longer: most of what is planned anew would fail again.
    private static var restsAfterFailure: UInt64 { 6 }
    /// Of one entry's steps. That leaves room for all but these.
    private static var planBytesMax: Int { AdministerRequest.payloadBytesMax - 1_024 }

    private func ticks(_ nanoseconds: UInt64) -> UInt64 { max(nanoseconds / settings.tickNanoseconds, 1) }

    private func restTicks(after last: Rebalancing?) -> UInt64 {
        guard let last else { return ticks(settings.balanceLookNanoseconds) }
        let rest = ticks(settings.balanceRestNanoseconds)
        return last.count(.failed) > 0 ? rest.multipliedClamped(by: Self.restsAfterFailure) : rest
    }

    /// Each second, on loop 0.
    func keepBalance() {
        guard isMetaLeader, let replica = replica(of: .meta), let map = replica.machine.meta.map,
            map.featureLevel >= FeatureLevel.migrations, replica.machine.meta.auto != nil
        else {
            balance = nil
            return
        }
        let last = replica.machine.meta.rebalancing
        let term = replica.core.term
        if balance?.term != term {
            // When the last one was over it does not know: as if that were now.
            balance = BalanceWatch(
                term: term, rested: last.flatMap { $0.isOver ? $0.id : nil }, number: random.next(),
                notBefore: tickCount + restTicks(after: last), secondTicks: secondTicks)
        }
        guard let balance else { return }
        if let hindrance = AutoRebalancing.hindrance(map, last, away: awayHosts().away) {
            // What was measured meanwhile is of another cluster. All has to be calm for one pause.
            let rest = ticks(settings.balanceLookNanoseconds)
            balance.number &+= 1
            return balance.rest(until: max(balance.notBefore, tickCount + rest), .hindrance(hindrance))
        }
        if let last, balance.rested != last.id {
            // It is over, perhaps since it began a moment ago.
            balance.rested = last.id
            balance.number &+= 1
            return balance.rest(until: max(balance.notBefore, tickCount + restTicks(after: last)), .pause)
        }
        switch balance.phase {
        case .resting:
            guard tickCount >= balance.notBefore else { return balance.calm() }
            balance.number &+= 1
            balance.phase = .asking
            balance.endTick = tickCount + lookTicksMax
            balance.loads = []
            // Those that are stopped keep their slots, and have nobody who could answer.
            balance.open = map.dataGroups.filter { $0.state != .stopped }.map { BalanceWatch.Open(group: $0.id) }
            askLoads(balance, map)
        case .asking:
            if tickCount >= balance.endTick, let first = balance.open.first {
                // No plan without it: what it has would be taken for the mean of the others.
                return balance.rest(
                    until: tickCount + ticks(settings.balanceLookNanoseconds), .hindrance(.load(first.group)))
            }
            askLoads(balance, map)
        case .planning:
            // Nobody answers any more: what was planned was lost with whoever should have.
            guard tickCount >= balance.endTick else { break }
            balance.number &+= 1
            balance.rest(until: tickCount + ticks(settings.balanceLookNanoseconds), .pause)
        }
    }

    private func askLoads(_ balance: BalanceWatch, _ map: ClusterMap) {
        guard !balance.open.isEmpty else {
            balance.phase = .planning
            balance.endTick = tickCount + lookTicksMax
            effects.balanceLooks.append(
                BalanceLook(
                    number: balance.number,
                    input: RebalanceInput(map: map, loads: balance.loads, rules: settings.balanceRules),
                    bytesMin: settings.balanceBytesMin))
            balance.loads = []
            return
        }
        // Whoever hears it may answer at once, and then it is not open any more.
        var asks: [(group: GroupID, host: HostID)] = []
        for place in balance.open.indices.prefix(Self.asksMax) {
            let open = balance.open[place]
            if let tick = open.askedTick, tickCount - tick < askTicks { continue }
            guard let group = map.group(open.group), !group.replicas.isEmpty else { continue }
            let host: HostID
            if let leader = open.leader, group.replica(on: leader) != nil {
                host = leader
            } else if open.attempts == 0, let preferred = group.host(of: group.preferredLeader) {
                host = preferred
            } else {
                host = group.replicas[open.attempts % group.replicas.count].host
            }
            balance.open[place].askedTick = tickCount
            balance.open[place].attempts += 1
            balance.open[place].leader = nil
            asks.append((open.group, host))
        }
        for (group, host) in asks {
            say(LoadWord(to: group, about: group, balance.number, .asked), on: host)
        }
    }

    // MARK: Words

    private func say(_ word: LoadWord, on other: HostID) {
        if other == host {
            guard loop.owns(word.group) else {
                return effects.loopMessages.append(
                    (LoopPlace.owner(of: word.group, loops: loop.count), LoopMessage(kind: .load(word, from: host))))
            }
            return receive(word, from: host)
        }
        guard let peer = peer(other), peer.isConnected, peer.isBulkConnected, peer.knowsMigrations else { return }
        var bytes = 64
        if case .told(let load) = word.kind { bytes += 16 * load.slots.count }
        write(to: peer, over: .bulk, bytes: bytes) { $0.append(.load(word)) }
    }

    func receive(_ word: LoadWord, from other: HostID) {
        switch word.kind {
        case .asked: asked(word, by: other)
        case .told(let load): told(load, word)
        case .refused(let leader):
            guard let balance = balance(asking: word),
                let place = balance.open.firstIndex(where: { $0.group == word.about })
            else { return }
            guard leader != HostID(0) else { return balance.open[place].leader = nil }
            // Whoever leads is known: asked with the next ones, within a second. Without one its turn comes again.
            balance.open[place].leader = leader
            balance.open[place].askedTick = nil
        }
    }

    /// Whoever leads the group says what its slots have, about: no round of its group confirms it.
    private func asked(_ word: LoadWord, by other: HostID) {
        guard word.group != .meta, let replica = replica(of: word.group), replica.stopped == nil else { return }
        guard replica.role == .leader, replica.core.isEstablished else {
            let leader = replica.host(of: replica.core.leader) ?? HostID(0)
            return say(LoadWord(to: .meta, about: word.group, word.number, .refused(leader: leader)), on: other)
        }
        // It is asked again.
        guard pagesOpen < settings.pagesMax, repliedBytes < settings.replyBytesPerTurn else { return }
        pagesOpen += 1
        serveLoad(
            call: CallToken(rawValue: 0), asker: LoadRead.Asker(host: other, number: word.number), from: replica)
    }

    /// A `LoadRead` for a host has ended. Answers nobody if nothing was found: it is asked again.
    public func loadRead(_ read: LoadRead, _ result: DataResult?) {
        pageDone()
        guard let asker = read.asker, let result, let load = try? GroupLoad(decoding: result.body) else { return }
        say(LoadWord(to: .meta, about: read.group, asker.number, .told(load)), on: asker.host)
    }

    private func balance(asking word: LoadWord) -> BalanceWatch? {
        guard let balance, case .asking = balance.phase, balance.number == word.number else { return nil }
        return balance
    }

    private func told(_ load: GroupLoad, _ word: LoadWord) {
        guard let balance = balance(asking: word), isMetaLeader, let map = replica(of: .meta)?.machine.meta.map,
            let place = balance.open.firstIndex(where: { $0.group == word.about })
        else { return }
        balance.open.remove(at: place)
        balance.loads += load.slotLoads(of: word.about, in: map)
        askLoads(balance, map)
    }

    // MARK: Beginning

    /// A `BalanceLook` has ended. What it found twice in a row is begun.
    public func balanceLooked(_ found: BalanceFound) {
        guard let balance, case .planning = balance.phase, balance.number == found.number else { return }
        let next = tickCount + ticks(settings.balanceLookNanoseconds)
        guard isMetaLeader, let replica = replica(of: .meta), replica.core.term == balance.term,
            let auto = replica.machine.meta.auto
        else {
            // Turned off: it may be on again before anybody sees that.
            return balance.rest(until: next, .pause)
        }
        guard let plan = found.plan else { return balance.rest(until: next, .imbalance) }
        balance.found += 1
        guard balance.found >= AutoRebalancing.looksMin else { return balance.rest(until: next, .confirmation) }
        let (steps, _) = Rebalancing.steps(of: plan, bytesMax: Self.planBytesMax)
        balance.rest(until: next, .pause)
        guard !steps.isEmpty else { return }
        // If what it rests on has changed since the map that it is for, it is refused, and the next look plans anew.
        let command = MetaCommand.beginRebalancing(
            RebalancingPlan(
                token: random.next() | 1, steps: steps, for: found.map, limits: auto.limits, isAutomatic: true))
        guard case .accepted = propose(command.payload(), to: replica) else { return }
        effects.notices.append("the cluster rebalances by itself: \(steps.count) steps, \(plan.bytes) bytes to write")
    }
}

extension BalanceWatch {
    /// What hindered it is gone: it says how long it rests still.
    fileprivate func calm() {
        guard case .hindrance(let wait) = kind else { return }
        if case .load = wait { return }
        kind = .pause
    }
}

extension UInt64 {
    /// No more than there is: a pause without end.
    fileprivate func multipliedClamped(by factor: UInt64) -> UInt64 {
        let (product, isBeyond) = multipliedReportingOverflow(by: factor)
        return isBeyond ? .max >> 1 : product
    }
}
