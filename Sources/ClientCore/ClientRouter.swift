// A client's decisions: where an operation goes, when it goes again, and what its caller is told. Pure: time is an
// argument, sockets are elsewhere, effects come out in a buffer that the caller reuses.
//
//     submit ──► queued ──► in flight ──► completion
//                  ▲  ▲        │
//                  │  └────────┤ certainly not proposed (any kind), a query, or a command of a session
//                  │           └ perhaps proposed, and a command without a session ──► outcomeUnknown
//              backing off (reads at a chosen host, redirects)
//
// It does not own: encodings (callers and shell), connections and their reconnecting (shell). Sessions: +Sessions.

import Messages
public import Primitives
public import Ring

/// Bounds and times. What happens at a bound stands beside it.
public struct ClientSettings: Sendable {
    /// Operations queued, backing off and in flight together. Beyond: `overloaded` at once.
    public var operationsMax = 65_536
    /// Granularity of deadlines and back-off; call `tick` about this often while operations are under way.
    public var tickNanoseconds: UInt64 = 5_000_000
    /// First pause after every replica of a group was tried in vain; doubles up to `backOffMaxNanoseconds`.
    public var backOffNanoseconds: UInt64 = 10_000_000
    public var backOffMaxNanoseconds: UInt64 = 200_000_000
    /// A host's wish to be left alone is honoured up to here.
    public var retryAfterMaxNanoseconds: UInt64 = 5_000_000_000
    /// A query without an answer for this long is asked again elsewhere.
    public var queryAttemptNanoseconds: UInt64 = 2_000_000_000
    /// A watch without an answer for this long is asked for again elsewhere: more than it waits there.
    public var watchAttemptNanoseconds: UInt64 = 8_000_000_000
    /// A command of a session without an answer for this long is sent again, under the same number.
    public var commandAttemptNanoseconds: UInt64 = 5_000_000_000
    /// Of sessions: how long a group knows this client's commands when they come again, from its last
    /// word on. 0: there are no sessions, and a command whose answer is lost is not sent again.
    public var sessionTimeToLiveMilliseconds: UInt64 = 30_000
    /// A leader that owes answers and gives none for this long is no longer sent to; others are asked.
    public var silenceNanoseconds: UInt64 = 1_500_000_000
    /// A host that does not send its map for this long is passed over.
    public var mapFetchNanoseconds: UInt64 = 1_000_000_000
    /// Operations of one group in flight; beyond: they queue. Shrinks when the host says `overloaded`, and recovers.
    public var groupWindowMax = 65_536

    public init() {}
}

/// Counted since the start. Never decides anything.
public struct ClientStatistics: Hashable, Sendable {
    public var sends: UInt64 = 0
    /// Sends of an operation that had been sent before.
    public var resends: UInt64 = 0
    /// Answers to calls that were given up, or given twice.
    public var lateAnswers: UInt64 = 0
    public var leaderChanges: UInt64 = 0
    public var mapFetches: UInt64 = 0
    /// Maps of another cluster, or with a lower version or epoch than the one known.
    public var mapsRefused: UInt64 = 0
    public var outcomesUnknown: UInt64 = 0

    public init() {}
}

struct HostState: Sendable {
    var id: HostID
    var isUp = false
}

struct SlotRoute: Sendable {
    var epoch: Epoch
    /// Index of the owner in `groups`; -1 if nobody owns the slot.
    var group: Int32
}

struct GroupState: Sendable {
    var id: GroupID
    /// Positions in `hosts`, in the map's order.
    var replicas: [Int] = []
    /// Position in `replicas` of the leader, or of the next one to ask.
    var candidate = 0
    /// Position in `replicas` of the last one that was asked what any may answer.
    var turn = 0
    /// The candidate has answered as a leader does. Until then one operation at a time goes out, and finds the leader.
    var isSettled = false
    /// The operation that is out to find the leader, or -1.
    var probe = -1
    var waiting = WaitingLists()
    var inFlight = 0
    /// Counts the candidates, so that what was asked of one says nothing of the next.
    var candidacy: UInt32 = 0
    /// Of those in flight, what the present candidate was asked and may answer as the leader.
    var asked = 0
    /// When the candidate last answered, or the first of what it was asked went.
    var heard = Instant.zero
    /// Of the newest hint: older ones are not followed.
    var term = Term.zero
    var window: Int
    /// Asked in vain since the last answer; after every round of all replicas comes a pause.
    var failures = 0
    /// Nothing is sent before.
    var notBefore = Instant.zero
    var reason = WaitReason.none
    /// What the last host said that could not serve.
    var obstacle = ""
    /// When the first command was refused by a leader that leads and can't take it, since it last served.
    var refusedSince: Instant?
    var retryAfterMilliseconds: UInt32 = 0
    /// In `waiting`, which `tick` looks through.
    var isWaiting = false
    /// In which its commands go.
    var session = ClientSession()
    /// Slots of its that are held: as long as there are any, the session is kept.
    var holds = 0
    /// Of all answers: the last entry of the group's log that was applied in what they told.
    var seen = LogIndex.zero
}

/// Routes operations to groups' leaders and retries them as far as that is safe.
///
/// One owner. Every input may append to `effects`; carrying them out soon is the owner's part. A completion for a tag
/// comes exactly once, at the latest one tick after its deadline if `tick` is called.
public struct ClientRouter: Sendable {
    public let settings: ClientSettings
    public internal(set) var statistics = ClientStatistics()
    /// The newest map known. Its version and its ring's epoch never fall.
    public internal(set) var map: ClusterMap?

    var table: OperationTable
    /// Sorted by id.
    var hosts: [HostState] = []
    /// Sorted by id.
    var groups: [GroupState] = []
    /// By slot, from `ring`: what a send needs stands in one place of memory.
    var routes: [SlotRoute] = []
    /// The newest owner known of each slot: of the map, and of `moved` answers since.
    var ring = SlotTable()
    /// All hosts know sessions, and they are wanted.
    var mayUseSessions = false
    var mayReadInSession = false
    /// Slots may move, and what is held in them with them.
    var usesMigrations = false
    /// Operations whose group is not known.
    var unrouted = WaitingList()
    /// Groups in which something waits that something else than an answer has to move.
    var waiting: [Int] = []
    /// Operations that were put in a group's list so far.
    var arrivals: UInt64 = 0
    var seedIsUp: [Bool]
    var fetch = MapFetchState()
    var random: SeededRandom
    private var due: [Int] = []
    private var silenceChecked = Instant.zero
    var sessionsChecked = Instant.zero
    /// When the map was asked for last to see whether slots may move.
    var migrationsLookedFor = Instant.zero
    /// Ascending by slot.
    var holds: [SlotHold] = []
    /// Of these, in slots that moved and where it is to be taken over.
    var movedHolds = 0
    /// Commands on their slots, as they came.
    var parked = WaitingList()
    /// When a host's answer came last.
    var heardAt = Instant.zero
    /// Counts the changes of what `sessionLife` says, but for the times of words.
    public internal(set) var sessionChanges: UInt64 = 0

    public init(settings: ClientSettings, seedCount: Int, seed: UInt64) {
        self.settings = settings
        table = OperationTable(limit: settings.operationsMax, tickNanoseconds: settings.tickNanoseconds)
        seedIsUp = [Bool](repeating: false, count: seedCount)
        random = SeededRandom(seed: seed)
    }

    /// Operations that are not completed.
    public var operationCount: Int { table.count }

    /// Something waits for time to pass: `tick` is to be called every `tickNanoseconds`, or when `nextTick` says.
    public var needsTicks: Bool { isBusy || nextWord != nil }

    /// When `tick` is to be called next, if nothing happens before; nil: nothing waits for time to pass. In one tick's
    /// time while anything is under way, else when a session that is held needs a word.
    ///
    /// Cost: O(1) while anything is under way, and where nothing is held; else O(groups).
    public func nextTick(now: Instant) -> Instant? {
        let soonest = now + settings.tickNanoseconds
        return isBusy ? soonest : nextWord.map { max($0, soonest) }
    }

    private var isBusy: Bool { table.count > 0 || (fetch.isWanted && (fetch.source != nil || hasMapSource)) }

    private var hasMapSource: Bool { seedIsUp.contains(true) || hosts.contains { $0.isUp } }

    /// Where operations of `group` go at present; nil while that is being found out.
    public func leader(of group: GroupID) -> HostID? {
        guard let index = groupIndex(group), groups[index].isSettled else { return nil }
        return hosts[candidateHost(index)].id
    }

    // MARK: inputs

    /// Takes an operation on. Sends it at once if its leader is known and connected. Cost: O(1).
    @discardableResult
    public mutating func submit(_ request: ClientRequest, now: Instant, into effects: inout ClientEffects)
        -> OperationHandle?
    {
        precondition(request.kind != .command || request.pinned.rawValue == 0, "commands go to the leader")
        guard request.deadline > now else {
            let failure = OperationFailure(
                code: .deadlineExceeded, mayHaveHappened: false,
                message: "the deadline had passed before the operation was sent; nothing was done")
            effects.completions.append(ClientCompletion(tag: request.tag, result: .failure(failure)))
            return nil
        }
        guard let place = table.take() else {
            let failure = OperationFailure(
                code: .overloaded, mayHaveHappened: false,
                message: "this client has \(settings.operationsMax) operations under way, its bound; nothing was done: "
                    + "wait for some to complete", retryAfterMilliseconds: 10)
            effects.completions.append(ClientCompletion(tag: request.tag, result: .failure(failure)))
            return nil
        }
        table[place].reset()
        table[place].payload = request.payload
        table[place].tag = request.tag
        table[place].deadline = request.deadline
        table[place].kind = request.kind
        table[place].machine = request.machine
        table[place].consistency = request.consistency
        table[place].boundMilliseconds = request.bound
        let isAnybodys = request.consistency == .stale || request.consistency == .session
        table[place].isSpread = isAnybodys && request.pinned.rawValue == 0
        table[place].pinned = table[place].isSpread ? HostID(.max) : request.pinned
        switch request.target {
        case .slot(let slot):
            table[place].slot = slot
            table[place].group = GroupID(0)
        case .group(let group):
            table[place].slot = .group
            table[place].group = group
        }
        route(place, now: now, into: &effects)
        return OperationHandle(place: place, serial: table[place].serial)
    }

    /// A connection to a host or seed is ready for calls.
    public mutating func connectionUp(_ source: MapSource, now: Instant, into effects: inout ClientEffects) {
        switch source {
        case .seed(let number):
            guard number < seedIsUp.count else { return }
            seedIsUp[number] = true
        case .host(let id):
            guard let index = hostIndex(id) else { return }
            hosts[index].isUp = true
            pumpWaiting(now: now, into: &effects)
        }
        fetchMapIfWanted(now: now, into: &effects)
    }

    /// A connection is gone. Its calls fail one by one through `callFailed`, before or after this.
    public mutating func connectionDown(_ source: MapSource, now: Instant, into effects: inout ClientEffects) {
        switch source {
        case .seed(let number):
            guard number < seedIsUp.count else { return }
            seedIsUp[number] = false
        case .host(let id):
            guard let index = hostIndex(id), hosts[index].isUp else { return }
            hosts[index].isUp = false
            for group in groups.indices where groups[group].isSettled && candidateHost(group) == index {
                advance(group, hint: nil, reason: .unreachable, now: now)
                pump(group, now: now, into: &effects)
            }
        }
        if fetch.source == source { endFetch(wantMore: true, now: now) }
        fetchMapIfWanted(now: now, into: &effects)
    }

    /// Time passes: deadlines, back-off, silent hosts. Costs what is due, and one look at each group that waits.
    public mutating func tick(now: Instant, into effects: inout ClientEffects) {
        due.removeAll(keepingCapacity: true)
        swapDue(now: now, into: &effects)
        checkSilence(now: now)
        keepSessionsAlive(now: now, into: &effects)
        takeOverHolds(now: now, into: &effects)
        pumpWaiting(now: now, into: &effects)
        if let asked = fetch.askedUntil, asked <= now { endFetch(wantMore: true, now: now) }
        fetchMapIfWanted(now: now, into: &effects)
    }

    private mutating func swapDue(now: Instant, into effects: inout ClientEffects) {
        var places = due
        due = []
        table.takeDue(now: now, into: &places)
        // What one of them sets in motion may complete another, or arm it anew.
        for place in places where table[place].state != .free && !table.isArmed(place) {
            rang(place, now: now, into: &effects)
        }
        due = places
    }

    /// A frozen host keeps its connection and answers nothing. Its calls stay in flight, as they may have been done; new
    /// ones go elsewhere. Looks at all groups, some times in each `silenceNanoseconds`.
    private mutating func checkSilence(now: Instant) {
        guard now.since(silenceChecked) >= settings.silenceNanoseconds / 4 else { return }
        silenceChecked = now
        for group in groups.indices where groups[group].asked > 0 && !groups[group].replicas.isEmpty {
            guard now.since(groups[group].heard) >= settings.silenceNanoseconds else { continue }
            groups[group].heard = now
            if groups[group].isSettled || groups[group].probe >= 0 {
                advance(group, hint: nil, reason: .noAnswer, now: now)
            }
        }
    }

    /// The caller no longer waits. What was certainly not sent is withdrawn and completes as `cancelled`, as do reads;
    /// a command that may have been done goes on (false is returned) and completes when its outcome is known.
    @discardableResult
    public mutating func withdraw(_ handle: OperationHandle, now: Instant, into effects: inout ClientEffects) -> Bool {
        guard let place = table.place(of: handle) else { return false }
        guard !table[place].isUncertain else { return false }
        let isInFlight = table[place].state == .inFlight
        if isInFlight {
            guard table[place].kind != .command else { return false }
            effects.cancels.append(CallID(place: place, generation: table[place].callGeneration))
        }
        let group = leave(place)
        fail(place, .cancelled, "cancelled by the caller; nothing was done", into: &effects)
        if let group { pump(group, now: now, into: &effects) }
        return true
    }

    /// Ends everything: what was not sent as `closed`, commands that may have been done as `outcomeUnknown`. Its sessions
    /// end when their time is over, or with `closeSessions`.
    public mutating func close(into effects: inout ClientEffects) {
        for place in table.operations.indices where table[place].state != .free {
            let isUnknown =
                table[place].kind == .command && (table[place].state == .inFlight || table[place].isUncertain)
            _ = leave(place)
            if isUnknown {
                failUnknown(place, "the client was closed while the command was under way", into: &effects)
            } else {
                fail(place, .closed, "the client was closed; nothing was done", into: &effects)
            }
        }
    }

    // MARK: completion

    mutating func complete(_ place: Int, _ result: Result<Bytes, OperationFailure>, into effects: inout ClientEffects) {
        settle(place, result)
        if table[place].purpose == .caller {
            effects.completions.append(ClientCompletion(tag: table[place].tag, result: result))
        }
        table.release(place)
    }

    /// Ends an operation that certainly did nothing.
    mutating func fail(
        _ place: Int, _ code: FailureCode, _ message: String, retryAfterMilliseconds: UInt32 = 0,
        oldest: Revision? = nil, into effects: inout ClientEffects
    ) {
        let failure = OperationFailure(
            code: code, mayHaveHappened: false, message: message, group: knownGroup(of: place),
            host: knownHost(of: place),
            retryAfterMilliseconds: retryAfterMilliseconds, oldest: oldest)
        complete(place, .failure(failure), into: &effects)
    }

    /// Ends a command of which nobody knows what became of it.
    mutating func failUnknown(_ place: Int, _ what: String, into effects: inout ClientEffects) {
        precondition(table[place].kind == .command, "a read has no outcome to be unknown")
        if table[place].purpose == .caller { statistics.outcomesUnknown += 1 }
        complete(place, .failure(unknownOutcome(place, what)), into: &effects)
    }

    func unknownOutcome(_ place: Int, _ what: String) -> OperationFailure {
        OperationFailure(
            code: .outcomeUnknown, mayHaveHappened: true,
            message: "\(what): it may have taken effect or not; read before you decide to repeat it",
            group: knownGroup(of: place), host: knownHost(of: place))
    }

    private func knownGroup(of place: Int) -> GroupID? {
        table[place].groupIndex >= 0 ? groups[Int(table[place].groupIndex)].id : nil
    }

    private func knownHost(of place: Int) -> HostID? {
        table[place].host.rawValue != 0 ? table[place].host : nil
    }

    // MARK: look-up

    func hostIndex(_ id: HostID) -> Int? {
        var (low, high) = (0, hosts.count)
        while low < high {
            let middle = (low + high) / 2
            if hosts[middle].id < id { low = middle + 1 } else { high = middle }
        }
        return low < hosts.count && hosts[low].id == id ? low : nil
    }

    func groupIndex(_ id: GroupID) -> Int? {
        var (low, high) = (0, groups.count)
        while low < high {
            let middle = (low + high) / 2
            if groups[middle].id < id { low = middle + 1 } else { high = middle }
        }
        return low < groups.count && groups[low].id == id ? low : nil
    }

    /// Position in `hosts` of the group's leader, or of the one to ask next.
    func candidateHost(_ group: Int) -> Int { groups[group].replicas[groups[group].candidate] }
}
