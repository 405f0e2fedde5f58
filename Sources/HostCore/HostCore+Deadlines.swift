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

    /// Nothing is known of what is there.
    fileprivate mutating func forget() {
        earliest = .zero
        from = .zero
        next = nil
        isReading = false
        proposed = nil
        tick = 0
        number += 1
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
                earliestDeadline(of: replica) < LogTime(.max)
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
        _ = replica.core.propose(kind: .command, payload: DeadlineCommand([]).payload(), logTime: now)
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
        let now = replica.logTime.certain
        var due: [Deadline] = []
        var keyBytes = 0
        for record in result.records {
            guard record.key.machine == .deadlines,
                let deadline = try? Deadline(key: record.key.key, value: record.value ?? Bytes())
            else { continue }
            keyBytes += deadline.place.key.count
            guard due.isEmpty || due.count < DeadlineRead.dueMax && keyBytes <= DeadlineCommand.keyBytesMax
            else { break }
            guard deadline.time <= now || isPlanted("expired-too-soon") else {
                if due.isEmpty {
                    replica.deadlines.earliest = deadline.time
                    replica.deadlines.from = deadline.time
                    replica.deadlines.next = nil
                    return
                }
                break
            }
            due.append(deadline)
        }
        guard let last = due.last else {
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
        let proposed = replica.core.propose(
            kind: .command, payload: DeadlineCommand(due).payload(), logTime: replica.logTime.current)
        if case .accepted(let index, let term) = proposed {
            replica.deadlines.proposed = (index, term, last.time)
        }
        markReady(replica)
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
