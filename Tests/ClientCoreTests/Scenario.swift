// A client's router between two lists: what is done to it, and what it does. The transcript is what tests compare.

import ClientCore
import Messages
import Primitives
import Ring
import Testing

/// Three hosts and two groups unless said otherwise: group 1 owns the even slots and prefers host 1, group 2 owns the
/// odd slots and prefers host 2. Time is in milliseconds and ticks every 5.
struct Scenario {
    var router: ClientRouter
    var effects = ClientEffects()
    var milliseconds = 1_000
    var lines: [String] = []
    var calls: [UInt64: CallID] = [:]
    var handles: [UInt64: OperationHandle] = [:]
    var failures: [UInt64: OperationFailure] = [:]
    var fetchNumber: UInt64 = 0
    var lastSent: UInt64 = 0

    init(settings: ClientSettings = ClientSettings(), seeds: Int = 0, seed: UInt64 = 1) {
        router = ClientRouter(settings: settings, seedCount: seeds, seed: seed)
    }

    /// With the map known and all hosts connected.
    static func ready(settings: ClientSettings = ClientSettings(), seed: UInt64 = 1) -> Scenario {
        var scenario = Scenario(settings: settings, seed: seed)
        scenario.router.mapReceived(exampleMap(), now: scenario.now, into: &scenario.effects)
        for host in 1...3 { scenario.up(UInt64(host)) }
        scenario.lines.removeAll()
        return scenario
    }

    var now: Instant { Instant(UInt64(milliseconds) * 1_000_000) }
    var transcript: String { lines.joined(separator: "\n") }

    mutating func note(_ line: String) { lines.append(line) }

    mutating func up(_ host: UInt64) {
        note("> host \(host) connected")
        router.connectionUp(.host(HostID(host)), now: now, into: &effects)
        drain()
    }

    mutating func down(_ host: UInt64) {
        note("> host \(host) disconnected")
        router.connectionDown(.host(HostID(host)), now: now, into: &effects)
        drain()
    }

    mutating func seedUp(_ seed: Int) {
        note("> seed \(seed) connected")
        router.connectionUp(.seed(seed), now: now, into: &effects)
        drain()
    }

    mutating func put(_ tag: UInt64, slot: UInt16 = 0, within: Int = 1_000) {
        note("> put \(tag)")
        submit(tag, .command, slot: slot, within: within)
    }

    mutating func get(_ tag: UInt64, slot: UInt16 = 0, within: Int = 1_000, at host: UInt64 = 0) {
        note(host == 0 ? "> get \(tag)" : "> get \(tag) at host \(host)")
        submit(tag, .query, slot: slot, within: within, host: host)
    }

    /// May be stale, by so many milliseconds.
    mutating func getStale(_ tag: UInt64, slot: UInt16 = 0, bound: UInt32 = 500) {
        note("> get \(tag) of \(bound) ms")
        submit(tag, .query, slot: slot, within: 1_000, consistency: .stale, bound: bound)
    }

    private mutating func submit(
        _ tag: UInt64, _ kind: RequestKind, slot: UInt16, within: Int, host: UInt64 = 0,
        consistency: Consistency = .linearizable, bound: UInt32 = 0
    ) {
        let request = ClientRequest(
            tag: tag, kind: kind, target: .slot(Slot(slot)), pinned: HostID(host), consistency: consistency,
            bound: bound, payload: Bytes("\(tag)"),
            deadline: now + UInt64(within) * 1_000_000)
        handles[tag] = router.submit(request, now: now, into: &effects)
        drain()
    }

    mutating func done(_ tag: UInt64) { answer(tag, .done(exampleResult()), name: "done") }

    mutating func refuse(_ tag: UInt64, _ refusal: Refusal) {
        answer(tag, .refused(refusal), name: refusal.description)
    }

    /// Whichever operation was sent last.
    mutating func refuseLast(_ refusal: Refusal) { refuse(lastSent, refusal) }

    private mutating func answer(_ tag: UInt64, _ answer: CallAnswer, name: String) {
        note("> answer to \(tag): \(name)")
        guard let call = calls[tag] else { return note("  nothing was sent") }
        router.answered(call, answer, now: now, into: &effects)
        drain()
    }

    mutating func lose(_ tag: UInt64, _ failure: CallFailure) {
        note("> call of \(tag) fails: \(failure)")
        guard let call = calls[tag] else { return note("  nothing was sent") }
        router.callFailed(call, failure, now: now, into: &effects)
        drain()
    }

    mutating func withdraw(_ tag: UInt64) {
        note("> withdraw \(tag)")
        guard let handle = handles[tag] else { return }
        if !router.withdraw(handle, now: now, into: &effects) { note("  goes on in the background") }
        drain()
    }

    mutating func map(_ answer: MapAnswer, name: String) {
        note("> map: \(name)")
        router.mapAnswered(fetchNumber, answer, now: now, into: &effects)
        drain()
    }

    /// Lets time pass, tick by tick. Only what happens is noted.
    mutating func pass(_ duration: Int) {
        note("> \(duration) ms pass")
        let start = milliseconds
        while milliseconds < start + duration {
            milliseconds += 5
            router.tick(now: now, into: &effects)
            let before = lines.count
            drain()
            for line in before..<lines.count {
                lines[line] = "  +\(milliseconds - start) ms:" + lines[line].dropFirst(1)
            }
        }
    }

    private mutating func drain() {
        if effects.mapChanged { note("  map of version \(router.map?.version ?? 0)") }
        for cancel in effects.cancels {
            note("  cancel the call of \(calls.filter { $0.value == cancel }.keys.sorted().map(String.init).joined())")
        }
        for send in effects.sends {
            // The payload names its operation.
            let tag = UInt64(send.payload.string) ?? 0
            note("  send \(tag) to host \(send.host): group \(send.group), epoch \(send.epoch)")
            calls[tag] = send.call
            lastSent = tag
        }
        for completion in effects.completions {
            switch completion.result {
            case .success: note("  done \(completion.tag)")
            case .failure(let failure):
                note(
                    "  failed \(completion.tag): \(failure.code)\(failure.mayHaveHappened ? ", may have happened" : "")"
                )
                failures[completion.tag] = failure
            }
        }
        if let fetch = effects.mapFetch {
            note("  ask \(fetch.source) for the map, known \(fetch.knownVersion)")
            fetchNumber = fetch.number
        }
        effects.removeAll()
    }
}

/// Three hosts, groups 1 and 2, each slot's owner changed at the ring's epoch.
func exampleMap(version: UInt64 = 1, epoch: UInt64 = 1, cluster: UInt64 = 7, evenOwner: UInt32 = 1) -> ClusterMap {
    let hosts = (1...3).map { number in
        HostRecord(
            id: HostID(UInt64(number)), name: "host\(number)", address: "127.0.0.1:\(9_000 + number)",
            incarnation: Incarnation(UInt64(number)))
    }
    let groups = (1...2).map { number in
        let first = UInt64(number * 10)
        let replicas = (1...3).map { (host: UInt64) in ReplicaRecord(id: ReplicaID(first + host), host: HostID(host)) }
        return GroupRecord(
            id: GroupID(UInt32(number)), replicas: replicas, preferredLeader: ReplicaID(first + UInt64(number)))
    }
    let owners = (0..<Slot.count).map { GroupID($0 % 2 == 0 ? evenOwner : 2) }
    return ClusterMap(
        cluster: ClusterID(high: 0, low: cluster), version: version, hosts: hosts, groups: groups,
        ring: SlotTable(epoch: Epoch(epoch), owners: owners), nextHost: HostID(4), nextGroup: GroupID(3),
        nextReplica: ReplicaID(100))
}

/// Compares, and prints the whole transcript if it differs.
func expect(
    _ scenario: Scenario, _ expected: String, story: String = #function, at location: SourceLocation = #_sourceLocation
) {
    let actual = scenario.transcript
    if actual != expected { print("--- \(story)\n\(actual)\n---") }
    #expect(actual == expected, sourceLocation: location)
}

func exampleResult() -> Bytes { DataResult(index: LogIndex(1), revision: Revision(1)).encoded() }
