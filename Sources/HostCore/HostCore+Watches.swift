// Watches: clients ask a group's leader for what changed behind a revision, and wait here until something did. A watch
// that was answered is forgotten; the client asks again from where the answer ended. So nothing is kept for a client that
// is slow, and one that goes on elsewhere says the same there.
//
//     asked ──► waiting, by key or by range ──► due ──► answered
//        └───────── something is there ───────────▲

import DequeModule
public import Messages
import Primitives
import RaftCore
import StateMachines

/// The watches that wait at one replica.
struct WaitingWatches {
    fileprivate struct Watch {
        var call: CallToken
        var request: WatchRequest
        /// Answered with nothing in this tick.
        var endTick: UInt64
        var isDue = false
        /// It has seen nothing that it could go on from here.
        var isForeign = false
    }
    /// nil: free.
    fileprivate var watches: [Watch?] = []
    private var free: [Int] = []
    private(set) var count = 0
    /// Of one key alone: places, in the order in which they came.
    private var byKey: [Bytes: [Int]] = [:]
    /// Of more than one: by the slot whose keys they are, for that is as near as a change comes by itself.
    private var ranges: [Slot: [Int]] = [:]
    /// To be answered, in order.
    fileprivate var due: Deque<Int> = []
    /// Watches were woken for all changes up to here.
    fileprivate var woken = Revision.zero
    /// It is in the host's list of replicas with watches.
    fileprivate var isListed = false
    /// Until then somebody is likely to ask for what changes now.
    fileprivate(set) var wantedUntilTick: UInt64 = 0

    fileprivate mutating func add(_ watch: Watch) {
        count += 1
        let place: Int
        if let last = free.popLast() {
            place = last
            watches[place] = watch
        } else {
            place = watches.count
            watches.append(watch)
        }
        if watch.isDue {
            due.append(place)
        } else if watch.request.range.isOneKey {
            byKey[watch.request.range.from, default: []].append(place)
        } else {
            ranges[watch.request.slot, default: []].append(place)
        }
    }

    /// Something changed behind `after`, and nothing before that which anybody waits for: whom it concerns is to be
    /// answered.
    fileprivate mutating func wake(
        after: Revision, _ kind: Change.Kind, slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer
    ) {
        guard !byKey.isEmpty || !ranges.isEmpty else { return }
        let key = Bytes(copying: key)
        if kind == .cleared {
            // In a fixed order: a dictionary has none.
            for known in byKey.keys.filter({ $0.starts(with: key) }).sorted() {
                wake(ofKey: known, after, slot, machine)
            }
        } else {
            wake(ofKey: key, after, slot, machine)
        }
        guard let places = ranges[slot] else { return }
        var others: [Int] = []
        for place in places {
            guard let range = watches[place]?.request.range,
                kind == .cleared ? range.touches(keysWith: key) : range.contains(key),
                wake(place, after, slot, machine)
            else {
                others.append(place)
                continue
            }
        }
        if others.count < places.count { ranges[slot] = others.isEmpty ? nil : others }
    }

    private mutating func wake(
        ofKey key: Bytes, _ after: Revision, _ slot: Slot, _ machine: SubMachineNumber
    ) {
        guard let places = byKey.removeValue(forKey: key) else { return }
        var others: [Int] = []
        for place in places where !wake(place, after, slot, machine) { others.append(place) }
        if !others.isEmpty { byKey[key] = others }
    }

    private mutating func wake(_ place: Int, _ after: Revision, _ slot: Slot, _ machine: SubMachineNumber) -> Bool {
        guard let watch = watches[place], watch.request.slot == slot, watch.request.machine == machine else {
            return false
        }
        becomeDue(place, after)
        return true
    }

    /// So much changed at once that it is not known whom it concerns.
    fileprivate mutating func wakeAll(after: Revision) {
        for place in watches.indices where watches[place]?.isDue == false { becomeDue(place, after) }
        byKey = [:]
        ranges = [:]
    }

    private mutating func becomeDue(_ place: Int, _ after: Revision) {
        guard var watch = watches[place] else { return }
        watch.isDue = true
        watch.request.range.after = max(watch.request.range.after, after)
        watches[place] = watch
        due.append(place)
    }

    fileprivate mutating func take(_ place: Int) -> Watch? {
        guard let watch = watches[place] else { return nil }
        watches[place] = nil
        free.append(place)
        count -= 1
        return watch
    }

    /// Those that have waited long enough, in a fixed order, of one of so many parts of all.
    fileprivate mutating func endIdle(at tick: UInt64, part: UInt64, of parts: UInt64) {
        let first = watches.count * Int(part) / Int(parts)
        let end = watches.count * Int(part + 1) / Int(parts)
        guard first < end else { return }
        var ended: Set<Int> = []
        var keys: Set<Bytes> = []
        var slots: Set<Slot> = []
        for place in first..<end {
            guard let watch = watches[place], !watch.isDue, watch.endTick <= tick else { continue }
            becomeDue(place, woken)
            ended.insert(place)
            if watch.request.range.isOneKey {
                keys.insert(watch.request.range.from)
            } else {
                slots.insert(watch.request.slot)
            }
        }
        for slot in slots {
            let left = ranges[slot]?.filter { !ended.contains($0) } ?? []
            ranges[slot] = left.isEmpty ? nil : left
        }
        for key in keys {
            let left = byKey[key]?.filter { !ended.contains($0) } ?? []
            byKey[key] = left.isEmpty ? nil : left
        }
    }

    /// All of them, in a fixed order.
    fileprivate mutating func takeAll() -> [CallToken] {
        let calls = watches.compactMap { $0?.call }
        watches = []
        free = []
        count = 0
        byKey = [:]
        ranges = [:]
        due = []
        return calls
    }

    /// Nobody waits, and what many needed once is given back.
    fileprivate mutating func release() {
        precondition(count == 0 && byKey.isEmpty && ranges.isEmpty, "somebody waits")
        watches = []
        free = []
        byKey = [:]
        ranges = [:]
        due = []
    }
}

extension HostCore {
    /// Of one turn: others have theirs in between.
    private static var watchesPerTurn: Int { 1_024 }
    /// How long more of a group's changes are kept behind the last watch.
    private static var wantedSeconds: UInt64 { 60 }
    /// Who leads no more and does not know it has found out by then.
    private static var lostMillisMin: UInt32 { 3_000 }

    /// A client asks for changes. It is answered when there are some, or when the time is over.
    public func watch(_ request: WatchRequest, call: CallToken) {
        guard let replica = replica(of: request.group) else { return refuse(call, .unknownGroup) }
        if let refusal = refusal(of: replica, slot: request.slot, epoch: request.epoch) { return refuse(call, refusal) }
        guard request.machine == .keyValue || request.machine.isRegistered, request.slot < .group else {
            return refuse(call, .invalid("sub state machine \(request.machine) is not watched in this version"))
        }
        guard replica.core.role == .leader else { return refuse(call, notLeader(replica)) }
        // The slot may have gone and come back in what it still has to apply: what it is told then began elsewhere.
        guard replica.core.hasAppliedEarlierTerms else { return refuse(call, .overloaded(retryAfterMillis: 5)) }
        if let refusal = refusalToRead(request.slot, replica) { return refuse(call, refusal) }
        // Nobody would ever be told anything.
        guard
            request.machine == .keyValue || settings.machines.machines.contains(where: { $0.number == request.machine })
        else { return refuse(call, .invalid("host \(host) has no state machine \(request.machine)")) }
        guard watchesOpen < settings.watchesMax else {
            counts.watchesTurnedDown += 1
            return refuse(call, overloaded)
        }
        var request = request
        let isForeign = goOn(&request, replica)
        request.range.bytesMax = min(max(request.range.bytesMax, 1), UInt32(WatchRange.bytesMaxMax))
        request.range.waitMillis = min(request.range.waitMillis, WatchRange.waitMillisMax)
        watchesOpen += 1
        replica.watches.wantedUntilTick = tickCount + Self.wantedSeconds * secondTicks
        let ticks = UInt64(request.range.waitMillis) * 1_000_000 / settings.tickNanoseconds
        // What came since others were woken counts as there.
        let isDue =
            request.range.after < replica.history.last || request.range.after < replica.history.floor
            || isForeign
        if replica.watches.count == 0 { replica.watches.woken = replica.history.last }
        replica.watches.add(
            WaitingWatches.Watch(
                call: call, request: request, endTick: tickCount + ticks, isDue: isDue || ticks == 0,
                isForeign: isForeign))
        if !replica.watches.isListed {
            replica.watches.isListed = true
            watched.append(replica)
        }
        markReady(replica)
    }

    /// What was applied may be what somebody waits for.
    func wakeWatches(of replica: Replica) {
        guard replica.watches.count > 0, replica.watches.woken < replica.history.last else { return }
        let after = replica.watches.woken
        replica.watches.woken = replica.history.last
        guard replica.history.floor <= after else { return replica.watches.wakeAll(after: after) }
        replica.history.forEach(after: after) { kind, slot, machine, key in
            replica.watches.wake(after: after, kind, slot: slot, machine: machine, key: key)
        }
    }

    /// Answers those that are due, as many as a turn may.
    func serveWatches(_ replica: Replica) {
        var answered = 0
        while let place = replica.watches.due.first {
            guard answered < Self.watchesPerTurn, repliedBytes < settings.replyBytesPerTurn else {
                return markReady(replica)
            }
            replica.watches.due.removeFirst()
            guard let watch = replica.watches.take(place) else { continue }
            answered += 1
            serve(watch, from: replica)
        }
    }

    private func serve(_ watch: WaitingWatches.Watch, from replica: Replica) {
        var watch = watch
        if !watch.isForeign { watch.isForeign = goOn(&watch.request, replica) }
        let range = watch.request.range
        let isOver = tickCount >= watch.endTick
        // Nobody was ever told of a revision that an established leader has not come to, but in a log that was lost.
        let isLost =
            range.after > replica.machine.revision && replica.core.isEstablished
            && replica.core.appliedIndex >= replica.core.commit && isOver
            && range.waitMillis >= Self.lostMillisMin
        guard !isLost, !watch.isForeign, range.after >= replica.history.floor else {
            counts.watchesCompacted += 1
            return end(watch, .refused(.compacted(oldest: min(replica.history.floor, replica.machine.revision))))
        }
        // What this group does behind that is of no interest where its slot is now.
        let last = replica.machine.ownership.lastRevision(of: watch.request.slot) ?? Revision(.max)
        if let known = watchAnswer, known.request == watch.request, known.through == replica.history.last {
            repliedBytes += known.body.count
            counts.changesTold += UInt64(known.changes)
            // Who asks behind what a new leader has applied is not sent back.
            let upTo = max(range.after, replica.machine.revision)
            return end(watch, .done(result(known.body, through: min(upTo, last), replica)))
        }
        guard
            let (changes, through) = replica.history.changes(
                after: range.after, slot: watch.request.slot, machine: watch.request.machine, in: range,
                bytesMax: Int(range.bytesMax))
        else { preconditionFailure("what is behind the floor is there") }
        // Commands of users' machines that emit nothing have revisions, and leave nothing here: a watch that did not move
        // past them would find itself behind the floor of a leader that began with a later state.
        let isAll = through >= replica.history.last
        let upTo = max(range.after, isAll ? replica.machine.revision : through)
        if changes.isEmpty, isAll, let refusal = replica.machine.ownership.refusalToRead(watch.request.slot) {
            // It has all that ever changed here.
            return end(watch, .refused(refusal))
        }
        guard !changes.isEmpty || isOver || !isAll else {
            // Changes that do not concern it: it goes on waiting, from here.
            var again = watch
            again.isDue = false
            again.request.range.after = upTo
            return replica.watches.add(again)
        }
        let body = WatchAnswer(changes, group: replica.group).encoded()
        repliedBytes += body.count
        counts.changesTold += UInt64(changes.count)
        if through == replica.history.last { watchAnswer = (watch.request, through, changes.count, body) }
        end(watch, .done(result(body, through: min(upTo, last), replica)))
    }

    /// One that saw all of what was changed where the slot was before goes on here, from where the slot came. That is so
    /// before it waits: who waits is told how far this group has come.
    ///
    /// - Returns: it can't: a revision of another group says nothing of this one, nor does one from before the slot came.
    private func goOn(_ request: inout WatchRequest, _ replica: Replica) -> Bool {
        let range = request.range
        let isOfOther = range.group != .meta && range.group != replica.group
        guard replica.machine.ownership.hasMarks,
            let origin = replica.machine.ownership.origin(of: request.slot)
        else { return isOfOther }
        guard range.group == origin.source, range.after >= origin.sourceRevision else {
            return isOfOther || range.after < origin.revision
        }
        request.range.group = replica.group
        request.range.after = origin.revision
        return false
    }

    /// Slots went: whoever watches them has to go on elsewhere.
    func endWatchesOfGone(_ replica: Replica) {
        guard replica.watches.count > 0 else { return }
        replica.watches.wakeAll(after: replica.watches.woken)
        markReady(replica)
    }

    private func result(_ body: Bytes, through revision: Revision, _ replica: Replica) -> DataResult {
        DataResult(index: replica.core.appliedIndex, revision: revision, body: body)
    }

    private func end(_ watch: WaitingWatches.Watch, _ response: Response<DataResult>) {
        watchesOpen -= 1
        effects.replies.append(HostReply(call: watch.call, response: response, isRead: true))
    }

    /// Others are asked, or nobody.
    func endWatches(of replica: Replica, _ refusal: Refusal) {
        guard replica.watches.count > 0 else { return }
        let calls = replica.watches.takeAll()
        watchesOpen -= calls.count
        for call in calls { refuse(call, refusal) }
    }

    /// Those that have waited long enough are told up to where there is nothing. Each is looked at once per second: many
    /// that came together are answered over all of it, and others have their turn in between.
    func endIdleWatches() {
        for replica in watched {
            let part = (tickCount &+ UInt64(replica.group.rawValue)) % secondTicks
            replica.watches.endIdle(at: tickCount, part: part, of: secondTicks)
            if !replica.watches.due.isEmpty { markReady(replica) }
        }
        guard tickCount % secondTicks == 0, !watched.isEmpty else { return }
        watchAnswer = nil
        for replica in watched {
            replica.watches.isListed = replica.watches.count > 0
            if !replica.watches.isListed { replica.watches.release() }
        }
        watched.removeAll { !$0.watches.isListed }
    }

    /// For metrics and tests.
    package var watchCount: Int { watchesOpen }
}
