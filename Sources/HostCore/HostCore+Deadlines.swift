// Carrying out what is due: each group's leader looks for deadlines whose time has come, in the order of their times, and
// proposes to carry them out; the state machine decides when the entry comes whether it is still so.

import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

extension HostCore {
    private static var retrySeconds: UInt64 { 3 }
    /// Of a look at what is held back, in one second.
    private static var heldPagesPerSecond: Int { 32 }

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
        min(replica.deadlines.earliest, replica.machine.earliestDeadline, replica.deadlines.back ?? LogTime(.max))
    }

    /// Once per second. A group at rest is looked at too: its log time goes on while its members are heard.
    func carryOutDeadlines() {
        guard !withDeadlines.isEmpty, tickCount % secondTicks == 0 else { return }
        var kept = 0
        for place in withDeadlines.indices {
            let replica = withDeadlines[place]
            guard replica.core.role == .leader, replica.stopped == nil,
                earliestDeadline(of: replica) < LogTime(.max) || replica.deadlines.held.first != nil
            else {
                replica.deadlines.isListed = false
                // Another leader may set some and carry them out: all is looked for anew.
                if replica.core.role != .leader { replica.deadlines.forget() }
                continue
            }
            withDeadlines[kept] = replica
            kept += 1
            carryOutDeadlines(of: replica)
            replica.deadlines.held.pagesLeft = Self.heldPagesPerSecond
            lookAtHeld(of: replica)
        }
        withDeadlines.removeSubrange(kept...)
    }

    private func carryOutDeadlines(of replica: Replica) {
        guard replica.role == .leader, replica.impairment == nil else { return }
        passLogTime(replica)
        guard mayCarryOut(replica), !replica.deadlines.isReading else { return }
        if let proposed = replica.deadlines.proposed {
            if replica.core.term == proposed.term, replica.core.appliedIndex >= proposed.index {
                if let last = proposed.last {
                    replica.deadlines.from = max(replica.deadlines.from, last.time)
                    replica.deadlines.next = RecordKey(slot: .group, machine: .deadlines, key: last.key)
                }
            } else if replica.core.term == proposed.term {
                // What this leader proposed is applied some time, or it leads no more.
                return
            }
            replica.deadlines.proposed = nil
        } else if tickCount < replica.deadlines.tick {
            return
        }
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let earliest = earliestDeadline(of: replica)
        guard earliest > replica.logTime.certain else { return search(replica) }
        noteTime(replica, before: earliest)
    }

    /// Members with an older program don't know these commands. What machines schedule waits until the cluster is upgraded.
    private func mayCarryOut(_ replica: Replica) -> Bool {
        !turnsSessionsDown(replica) && replica.core.isEstablished
            && (map?.featureLevel ?? 0) >= FeatureLevel.deadlines
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
        let told = min(replica.machine.takeEarliestDeadline(), replica.deadlines.back ?? LogTime(.max))
        replica.deadlines.back = nil
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
        read(replica, .search, from: from)
    }

    private func read(_ replica: Replica, _ purpose: DeadlineRead.Purpose, from: RecordKey) {
        var read = DeadlineRead(
            group: replica.group, replica: replica.id, number: replica.deadlines.number, purpose: purpose, from: from,
            live: RecordPage(records: [], next: nil), view: replica.coldView)
        if read.isOfHeld { read.number = replica.deadlines.heldNumber }
        read.live = replica.memtable.page(
            from: from, end: DeadlineRead.end, recordsMax: DeadlineRead.recordsMax, bytesMax: DeadlineRead.bytesMax)
        effects.deadlineReads.append(read)
    }

    /// Whatever comes first goes first: where there is room for little, each has its turn. All but sweeps goes into the
    /// log at once, as it was just decided that it may.
    private func propose(_ due: DueDeadlines, _ replica: Replica) {
        guard mayCarryOut(replica) else { return }
        var carrying = CarriedDeadlines(due.keys)
        for (first, command) in due.commands {
            guard propose(command, &carrying, replica) else {
                carrying.leave(first)
                break
            }
        }
        let sweeps = due.sweeps.filter { carrying.isCarried($0.deadline) }
        guard let first = sweeps.first?.deadline else { return noteProposed(carrying, replica) }
        read(sweeps, carrying, replica)
        guard carrying.last != nil else { return }
        // Sweeps may come to nothing.
        carrying.leave(first)
        noteProposed(carrying, replica)
    }

    /// False: it was refused.
    private func propose(_ command: DeadlineCommand, _ carrying: inout CarriedDeadlines, _ replica: Replica) -> Bool {
        let outcome = replica.core.propose(
            kind: .command, payload: command.payload(), logTime: replica.logTime.current)
        guard case .accepted(let index, let term) = outcome else { return false }
        carrying.last = (index, term)
        return true
    }

    /// All before what was left is done once what went last is applied, and what stands behind is looked for again.
    private func noteProposed(_ carried: CarriedDeadlines, _ replica: Replica) {
        guard let last = carried.last else {
            replica.deadlines.tick = tickCount + Self.retrySeconds * secondTicks
            return
        }
        replica.deadlines.proposed = (last.index, last.term, carried.through)
        markReady(replica)
    }

    // MARK: Sweeps

    /// What sweeps are to delete is read before they go into the log. They go in steps, each of which puts its sweep behind
    /// all else that is due by then.
    private func read(
        _ sweeps: [(deadline: DeadlineKey, sweep: Sweep)], _ carrying: CarriedDeadlines, _ replica: Replica
    ) {
        let recordsMax = max(settings.sweptRecordsMax / sweeps.count, 1)
        var carrying = carrying
        var reads: [SweepRead] = []
        var bytesLeft = DeadlineRead.sweptBytesMax
        for (deadline, sweep) in sweeps {
            // One record of each would be too much: they may be large. The others have their turn in the next command.
            guard bytesLeft > 0 else {
                carrying.leave(deadline)
                break
            }
            guard let end = sweep.prefix.endOfPrefix else { continue }
            var read = SweepRead(
                deadline: deadline, sweep: sweep,
                end: RecordKey(slot: sweep.slot, machine: sweep.machine, key: end),
                live: RecordPage(records: [], next: nil), recordsMax: recordsMax,
                bytesMax: DeadlineRead.sweptBytesMax / sweeps.count)
            read.live = replica.memtable.page(
                from: read.from, end: read.end, recordsMax: recordsMax, bytesMax: read.bytesMax)
            bytesLeft -= read.live.keyAndValueBytes
            reads.append(read)
        }
        replica.deadlines.number += 1
        replica.deadlines.isReading = true
        effects.deadlineReads.append(
            DeadlineRead(
                group: replica.group, replica: replica.id, number: replica.deadlines.number,
                purpose: .sweeps(reads, carrying), from: DeadlineRead.end, live: RecordPage(records: [], next: nil),
                view: replica.coldView))
    }

    private func step(_ read: SweepRead, _ page: RecordPage, of replica: Replica) -> SweepStep {
        // Each layer brings so many.
        let records = page.records.prefix(DeadlineCommand.sweptMax)
        let next = records.count < page.records.count ? page.records[records.count].key : page.next
        return SweepStep(
            read.deadline,
            records: records.map { record in
                SweepStep.Record(
                    key: record.key.key,
                    timer: record.value.flatMap {
                        settings.machines.timer(
                            in: $0, of: read.sweep.machine, in: replica.group,
                            hasMoved: replica.machine.ownership.hasHistory)
                    })
            }, next: next?.key)
    }

    private func propose(_ reads: [SweepRead], _ pages: [RecordPage], _ carrying: CarriedDeadlines, _ replica: Replica)
    {
        // What went before in another term may never be applied: all of it is looked for again.
        if let last = carrying.last, last.term != replica.core.term { return }
        guard mayCarryOut(replica) else { return }
        var carrying = carrying
        let steps = zip(reads, pages).map { step($0, $1, of: replica) }
        if pages.count < reads.count { carrying.leave(reads[pages.count].deadline) }
        if let first = steps.first?.deadline, !propose(.sweep(steps), &carrying, replica) { carrying.leave(first) }
        noteProposed(carrying, replica)
    }

    /// What a search found.
    public func deadlinesRead(_ result: DeadlineReadResult) {
        guard let replica = searching(result.read) else { return }
        guard !result.read.isOfHeld else { return heldRead(result, replica) }
        replica.deadlines.isReading = false
        guard replica.role == .leader, replica.core.isEstablished else { return replica.deadlines.forget() }
        if case .sweeps(let reads, let carrying) = result.read.purpose {
            return propose(reads, result.swept, carrying, replica)
        }
        var due = DueDeadlines()
        for record in result.records {
            guard record.key.machine == .deadlines,
                let deadline = try? Deadline(key: record.key.key, value: record.value ?? Bytes())
            else { continue }
            guard
                deadline.key.time <= replica.logTime.certain || isPlanted("expired-too-soon")
                    || deadline.isCommand && isPlanted("timer-too-soon")
            else {
                if due.isEmpty {
                    replica.deadlines.earliest = deadline.key.time
                    replica.deadlines.from = deadline.key.time
                    replica.deadlines.next = nil
                    return
                }
                break
            }
            if let reason = refusalToCarryOut(deadline, replica) {
                holdBack(record.key, of: replica, reason)
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
        propose(due, replica)
    }

    /// Why something that is due does not go into the log now; nil: it does. What moves with its slot waits until that is
    /// served again.
    private func refusalToCarryOut(_ deadline: Deadline, _ replica: Replica) -> Refusal? {
        if let slot = deadline.slot, let refusal = replica.machine.ownership.refusal(of: slot) {
            // What ended a record that went is of no use, and goes.
            guard case .moved = refusal, deadline.endsARecord else { return refusal }
            return nil
        }
        guard case .command(let machine, let request) = deadline.purpose else { return nil }
        return refusalToFire(request, of: machine, replica)
    }

    /// Why a scheduled command does not go into the log now; nil: it does. As for one that a client sends.
    private func refusalToFire(_ request: MachineRequest, of machine: SubMachineNumber, _ replica: Replica) -> Refusal?
    {
        let number = MachineCommandNumber(machine: machine, command: request.number)
        if let refusal = settings.machines.problem(ofCommand: request, of: machine) { return refusal }
        if let refusal = refusalByMembers(of: number, replica) { return refusal }
        return space > .ample && settings.machines.bringsDataIn(number) ? .unavailable(spaceRefusal) : nil
    }

    private func holdBack(_ key: RecordKey, of replica: Replica, _ reason: Refusal) {
        guard !isPlanted("timer-passed-over") else { return }
        if !replica.deadlines.held.isTold {
            replica.deadlines.held.isTold = true
            effects.notices.append("group \(replica.group): something that is due waits: \(reason)")
        }
        if replica.deadlines.held.first == nil {
            replica.deadlines.held.tick = tickCount + Self.retrySeconds * secondTicks
        }
        replica.deadlines.held.add(key)
    }

    /// Some pages in each second: there may be many that nobody can carry out any more.
    private func lookAtHeld(of replica: Replica) {
        let held = replica.deadlines.held
        guard let first = held.first, !held.isReading, held.pagesLeft > 0, tickCount >= held.tick,
            replica.role == .leader, replica.impairment == nil, mayCarryOut(replica)
        else { return }
        replica.deadlines.heldNumber += 1
        replica.deadlines.held.isReading = true
        replica.deadlines.held.pagesLeft -= 1
        if held.next == nil { replica.deadlines.held.found = nil }
        read(replica, .held, from: held.next ?? first)
    }

    private func heldRead(_ result: DeadlineReadResult, _ replica: Replica) {
        replica.deadlines.held.isReading = false
        guard replica.role == .leader, replica.core.isEstablished else { return replica.deadlines.forget() }
        replica.deadlines.held.next = result.next
        for record in result.records {
            guard record.key.machine == .deadlines,
                let deadline = try? Deadline(key: record.key.key, value: record.value ?? Bytes())
            else { continue }
            guard deadline.key.time <= replica.logTime.certain else {
                replica.deadlines.held.next = nil
                break
            }
            if refusalToCarryOut(deadline, replica) == nil {
                replica.deadlines.back = min(replica.deadlines.back ?? deadline.key.time, deadline.key.time)
            } else if replica.deadlines.held.found.map({ record.key < $0 }) ?? true {
                replica.deadlines.held.found = record.key
            }
        }
        guard replica.deadlines.held.next == nil else {
            lookAtHeld(of: replica)
            return markReady(replica)
        }
        replica.deadlines.held.first = replica.deadlines.held.found
        replica.deadlines.held.isTold = replica.deadlines.held.found != nil
        replica.deadlines.held.tick = tickCount + Self.retrySeconds * secondTicks
    }

    /// The records could not be read: they are looked for again.
    public func deadlinesUnread(_ read: DeadlineRead) {
        guard let replica = searching(read) else { return }
        guard !read.isOfHeld else {
            replica.deadlines.held.isReading = false
            return
        }
        replica.deadlines.isReading = false
        replica.deadlines.tick = tickCount + Self.retrySeconds * secondTicks
    }

    private func searching(_ read: DeadlineRead) -> Replica? {
        guard let replica = replica(of: read.group), replica.id == read.replica,
            read.isOfHeld
                ? replica.deadlines.held.isReading && replica.deadlines.heldNumber == read.number
                : replica.deadlines.isReading && replica.deadlines.number == read.number
        else { return nil }
        return replica
    }
}
