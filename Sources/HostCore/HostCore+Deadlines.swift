// Carrying out what is due: each group's leader looks for deadlines whose time has come, in the order of their times, and
// proposes to carry them out; the state machine decides when the entry comes whether it is still so.

import Messages
public import Primitives
import RaftCore
import Ring
import StateMachines
public import Storage

/// A leader's search for deadlines that are due.
struct DeadlineWatch {
    /// It is in the host's list of replicas that may have deadlines.
    var isListed = false
    /// No deadline is earlier that was there when the last search began.
    fileprivate(set) var earliest = LogTime.zero
    /// A search begins here: what is earlier is done.
    fileprivate var from = LogTime.zero
    /// It found nothing before this key, and goes on.
    fileprivate var next: RecordKey?
    fileprivate var isReading = false
    /// Which search it is: what an earlier one brings is not taken.
    fileprivate var number: UInt64 = 0
    /// What was proposed last: when it is applied, all before `proposedThrough` is done.
    fileprivate var proposed: (index: LogIndex, term: Term, through: LogTime)?
    /// What failed is tried again in this tick.
    fileprivate var tick: UInt64 = 0
    /// A scheduled command is due that can't be proposed: it was passed over, and the search comes back to it in `tick`.
    fileprivate var heldBack: (time: LogTime, tick: UInt64)?
    fileprivate var hasToldOfHolding = false

    /// Nothing is known of what is there.
    fileprivate mutating func forget() {
        earliest = .zero
        from = .zero
        next = nil
        isReading = false
        proposed = nil
        tick = 0
        heldBack = nil
        hasToldOfHolding = false
        number += 1
    }

    fileprivate mutating func holdBack(_ time: LogTime, until tick: UInt64) {
        heldBack = (min(time, heldBack?.time ?? time), heldBack?.tick ?? tick)
    }

    /// It is time to look again for what was passed over: never before all else was looked at.
    fileprivate mutating func comeBack(at tick: UInt64) {
        guard let held = heldBack, tick >= held.tick, next == nil else { return }
        heldBack = nil
        earliest = min(earliest, held.time)
        from = min(from, held.time)
    }
}

/// The first deadlines of a group, for a reader thread; answered by `HostCore.deadlinesRead`.
public struct DeadlineRead: Sendable {
    public var group: GroupID
    package var replica: ReplicaID
    package var number: UInt64
    package var from: RecordKey
    package var live: RecordPage
    package var view: StoreView

    /// Reads them. Any thread.
    public func result<D: Disk>(from store: Store<D>) throws -> DeadlineReadResult {
        let cold = try store.page(
            in: view, from: from, end: Self.end, recordsMax: Self.recordsMax, bytesMax: Self.bytesMax, tombstones: true)
        let page = RecordPage.overlaid(newer: live, older: cold)
        return DeadlineReadResult(read: self, records: page.records, next: page.next)
    }

    /// One more than go into one command, so that the next one's time is known.
    package static var recordsMax: Int { dueMax + 1 }
    /// In one command: the records are fetched for it, values and all.
    package static var dueMax: Int { 64 }
    package static var bytesMax: Int { 128 << 10 }
    /// Behind all deadlines.
    package static var end: RecordKey {
        RecordKey(slot: .group, machine: SubMachineNumber(SubMachineNumber.deadlines.rawValue + 1), key: Bytes())
    }
}

/// Those that go into the log together, in the order of their times.
private struct DueDeadlines {
    /// With the time of the last deadline in each.
    private(set) var commands: [(command: DeadlineCommand, through: LogTime)] = []
    private var count = 0
    private var keyBytes = 0

    var isEmpty: Bool { count == 0 }

    /// False: there is no room for it.
    mutating func take(_ deadline: Deadline) -> Bool {
        guard count < DeadlineRead.dueMax else { return false }
        switch deadline.purpose {
        case .record(let place):
            guard count == 0 || keyBytes + place.key.count <= DeadlineCommand.keyBytesMax else { return false }
            keyBytes += place.key.count
            if case .end(let endings)? = commands.last?.command {
                commands[commands.count - 1] = (
                    .end(endings + [DeadlineCommand.Ending(deadline.key, place)]), deadline.key.time
                )
            } else {
                commands.append((.end([DeadlineCommand.Ending(deadline.key, place)]), deadline.key.time))
            }
        case .command: commands.append((.fire(deadline.key), deadline.key.time))
        }
        count += 1
        return true
    }
}

/// What a `DeadlineRead` found.
public struct DeadlineReadResult: Sendable {
    package var read: DeadlineRead
    package var records: [Record]
    package var next: RecordKey?
}

extension HostCore {
    private static var retrySeconds: UInt64 { 3 }

    /// The replica may have deadlines: it leads, or has just been told of one.
    func noteDeadlines(of replica: Replica) {
        guard replica.core.role == .leader, replica.group != .meta else { return }
        if !replica.deadlines.isListed, earliestDeadline(of: replica) < LogTime(.max) {
            replica.deadlines.isListed = true
            withDeadlines.append(replica)
        }
        // The next ones follow at once.
        if let proposed = replica.deadlines.proposed, replica.core.appliedIndex >= proposed.index {
            carryOutDeadlines(of: replica)
        }
    }

    private func earliestDeadline(of replica: Replica) -> LogTime {
        min(replica.deadlines.earliest, replica.machine.earliestDeadline)
    }

    /// Once per second. A group at rest is looked at too: its log time goes on while its members are heard.
    func carryOutDeadlines() {
        guard !withDeadlines.isEmpty, tickCount % secondTicks == 0 else { return }
        var kept = 0
        for place in withDeadlines.indices {
            let replica = withDeadlines[place]
            guard replica.core.role == .leader, replica.stopped == nil,
                earliestDeadline(of: replica) < LogTime(.max) || replica.deadlines.heldBack != nil
            else {
                replica.deadlines.isListed = false
                // Another leader may set some and carry them out: all is looked for anew.
                if replica.core.role != .leader { replica.deadlines.forget() }
                continue
            }
            withDeadlines[kept] = replica
            kept += 1
            carryOutDeadlines(of: replica)
        }
        withDeadlines.removeSubrange(kept...)
    }

    private func carryOutDeadlines(of replica: Replica) {
        guard replica.role == .leader, replica.impairment == nil else { return }
        passLogTime(replica)
        guard !turnsSessionsDown(replica), replica.core.isEstablished, !replica.deadlines.isReading else { return }
        if let proposed = replica.deadlines.proposed {
            if replica.core.term == proposed.term, replica.core.appliedIndex >= proposed.index {
                replica.deadlines.from = max(replica.deadlines.from, proposed.through)
            } else if replica.core.term == proposed.term {
                // What this leader proposed is applied some time, or it leads no more.
                return
            }
            replica.deadlines.proposed = nil
        } else if tickCount < replica.deadlines.tick {
            return
        }
        replica.deadlines.comeBack(at: tickCount)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let earliest = earliestDeadline(of: replica)
        guard earliest > replica.logTime.certain else { return search(replica) }
        noteTime(replica, before: earliest)
    }

    /// Another leader goes on from the last entry's time: now and then there is one, so that what a group at rest has
    /// waited is not forgotten with each change of leaders.
    private func noteTime(_ replica: Replica, before earliest: LogTime) {
        let now = replica.logTime.current
        let last = replica.withCore { $0.lastLogTime }
        let left = earliest.rawValue - min(now.rawValue, earliest.rawValue)
        guard now.rawValue - min(last.rawValue, now.rawValue) >= max(Self.timeUnsavedMillis, left / 16) else { return }
        _ = replica.core.propose(kind: .command, payload: DeadlineCommand.end([]).payload(), logTime: now)
        markReady(replica)
    }

    private static var timeUnsavedMillis: UInt64 { 60_000 }

    private func search(_ replica: Replica) {
        // What is set from now on is told of again.
        let told = replica.machine.takeEarliestDeadline()
        // What is before `next` was looked at; what was told of since was not there then.
        if let next = replica.deadlines.next, told <= Deadline.time(ofKey: next.key) {
            replica.deadlines.from = told
            replica.deadlines.next = nil
        } else if told < replica.deadlines.from {
            replica.deadlines.from = told
        }
        replica.deadlines.earliest = .zero
        replica.deadlines.number += 1
        replica.deadlines.isReading = true
        let from =
            replica.deadlines.next
            ?? RecordKey(slot: .group, machine: .deadlines, key: Deadline.firstKey(at: replica.deadlines.from))
        let live = replica.memtable.page(
            from: from, end: DeadlineRead.end, recordsMax: DeadlineRead.recordsMax, bytesMax: DeadlineRead.bytesMax)
        effects.deadlineReads.append(
            DeadlineRead(
                group: replica.group, replica: replica.id, number: replica.deadlines.number, from: from, live: live,
                view: replica.coldView))
    }

    /// What a search found.
    public func deadlinesRead(_ result: DeadlineReadResult) {
        guard let replica = searching(result.read) else { return }
        replica.deadlines.isReading = false
        guard replica.role == .leader, replica.core.isEstablished else { return replica.deadlines.forget() }
        var due = DueDeadlines()
        for record in result.records {
            guard record.key.machine == .deadlines,
                let deadline = try? Deadline(key: record.key.key, value: record.value ?? Bytes())
            else { continue }
            guard
                deadline.key.time <= replica.logTime.certain || isPlanted("expired-too-soon")
                    || isPlanted("timer-too-soon")
            else {
                if due.isEmpty {
                    replica.deadlines.earliest = deadline.key.time
                    replica.deadlines.from = deadline.key.time
                    replica.deadlines.next = nil
                    return
                }
                break
            }
            if case .command(let machine, let request) = deadline.purpose,
                let reason = refusalToFire(request, of: machine, replica)
            {
                holdBack(deadline.key.time, of: replica, reason)
                continue
            }
            guard due.take(deadline) else { break }
        }
        guard !due.isEmpty else {
            replica.deadlines.next = result.next
            if result.next == nil {
                replica.deadlines.earliest = LogTime(.max)
            } else {
                // Many that are done and not merged away yet: their times have come, so it goes on in this second.
                search(replica)
                markReady(replica)
            }
            return
        }
        guard !turnsSessionsDown(replica) else { return }
        for (command, through) in due.commands {
            let proposed = replica.core.propose(
                kind: .command, payload: command.payload(), logTime: replica.logTime.current)
            guard case .accepted(let index, let term) = proposed else { break }
            replica.deadlines.proposed = (index, term, through)
        }
        markReady(replica)
    }

    /// Why a scheduled command does not go into the log now; nil: it does. As for one that a client sends.
    private func refusalToFire(_ request: MachineRequest, of machine: SubMachineNumber, _ replica: Replica) -> Refusal?
    {
        let level = map?.featureLevel ?? 0
        guard level >= FeatureLevel.deadlines else {
            return .unavailable(
                "scheduled commands need feature level \(FeatureLevel.deadlines), and the cluster is at \(level): upgrade "
                    + "its hosts, then run 'bifrost cluster upgrade'")
        }
        let number = MachineCommandNumber(machine: machine, command: request.number)
        if let refusal = settings.machines.problem(ofCommand: request, of: machine) { return refusal }
        if let refusal = refusalByMembers(of: number, replica) { return refusal }
        return space > .ample && settings.machines.bringsDataIn(number) ? .unavailable(spaceRefusal) : nil
    }

    private func holdBack(_ time: LogTime, of replica: Replica, _ reason: Refusal) {
        guard !isPlanted("timer-passed-over") else { return }
        if !replica.deadlines.hasToldOfHolding {
            replica.deadlines.hasToldOfHolding = true
            effects.notices.append("group \(replica.group): a scheduled command that is due waits: \(reason)")
        }
        replica.deadlines.holdBack(time, until: tickCount + Self.retrySeconds * secondTicks)
    }

    /// The records could not be read: they are looked for again.
    public func deadlinesUnread(_ read: DeadlineRead) {
        guard let replica = searching(read) else { return }
        replica.deadlines.isReading = false
        replica.deadlines.tick = tickCount + Self.retrySeconds * secondTicks
    }

    private func searching(_ read: DeadlineRead) -> Replica? {
        guard let replica = replica(of: read.group), replica.id == read.replica, replica.deadlines.isReading,
            replica.deadlines.number == read.number
        else { return nil }
        return replica
    }
}
