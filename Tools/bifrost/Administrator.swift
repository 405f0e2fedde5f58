// Asking a running cluster for changes, and waiting until they have come about. Owns the connections; what is asked for
// and what it waits for is decided in MapWish and MapGoal.
//
//   read the map ──► decide ──► ask, for this version only ──► done ──► look until it has come about
//        ▲                          │
//        └── another version, or the answer was lost
//
// A change names the version of the map that it was decided on, and the meta group refuses it for any other. So sending
// it again is safe: at most one of all attempts on one version takes effect.

import Messages
import Primitives
import RPC
import Ring
import StateMachines
import Synchronization

/// A client of the cluster service of all hosts of a cluster. Commands use it from one task.
final class Administrator: Sendable {
    /// What one command has to do altogether must be done by then.
    private let deadline: Instant
    private let seeds: [String]
    private let state = Mutex(State())

    private struct State {
        var probes: [String: HostProbe] = [:]
        var newest: ClusterMap?
        /// Who leads the meta group, as a host said last.
        var leader: String?
    }

    /// For one host to answer; others are asked at the same time, or next.
    static let shareNanoseconds: UInt64 = 1_000_000_000
    /// For a change, which waits for a quorum.
    static let changeShareNanoseconds: UInt64 = 3_000_000_000
    /// How long to look for the map that a refusal spoke of.
    private static let newerMapNanoseconds: UInt64 = 500_000_000
    /// How often to ask again after a refusal that the newest map does not explain.
    private static let refusalsMax = 4
    /// Readings of the map for one wish. A cluster whose map changes that often under each of them is busy with
    /// somebody else's script.
    private static let attemptsMax = 64
    /// How long to try addresses where nobody listens.
    private static let refusalGraceNanoseconds: UInt64 = 1_000_000_000
    static let pause = Duration.milliseconds(50)
    private static let lookPause = Duration.milliseconds(200)

    /// - Parameter timeout: for the command altogether.
    convenience init(_ options: ClientOptions, timeout: Duration) {
        self.init(seeds: options.addresses, timeout: options.timeout?.duration ?? timeout)
    }

    /// - Parameter seeds: addresses of hosts of one cluster; one that answers is enough.
    init(seeds: [String], timeout: Duration) {
        self.seeds = seeds
        deadline = RPCClock.now() + UInt64(max(0, timeout / .nanoseconds(1)))
    }

    func close() {
        let probes = state.withLock { state in
            defer { state.probes = [:] }
            return Array(state.probes.values)
        }
        for probe in probes { probe.close() }
    }

    func probe(_ address: String) throws(ToolError) -> HostProbe {
        // One for each address, whoever asks at the same time.
        try state.withLock { (state) throws(ToolError) in
            if let known = state.probes[address] { return known }
            let new = try HostProbe(address)
            state.probes[address] = new
            return new
        }
    }

    /// Ends the connection to this address, and with it what is asked there; the next question makes a new one.
    func hangUp(_ address: String) {
        state.withLock { $0.probes.removeValue(forKey: address) }?.close()
    }

    /// The command's time is over.
    var isOver: Bool { RPCClock.now() >= deadline }

    func share(_ nanoseconds: UInt64) -> Instant { min(deadline, RPCClock.now() + nanoseconds) }

    /// Where to ask: hosts of the map, before that those that the command line names.
    var addresses: [String] {
        let known = state.withLock { $0.newest?.hosts.map(\.address) ?? [] }
        return seeds + known.filter { !seeds.contains($0) }
    }

    // MARK: - Looking

    /// The newest map that any host has. Hosts learn of a change one after the other, so all are asked.
    ///
    /// - Parameter end: no longer than until then, if that is before the command's time is over.
    func map(until end: Instant? = nil) async throws(ToolError) -> ClusterMap {
        var isOver: Bool { self.isOver || end.map { RPCClock.now() >= $0 } ?? false }
        let grace = RPCClock.now() + Self.refusalGraceNanoseconds
        while true {
            do throws(ToolError) {
                if let map = try await look() { return map }
            } catch {
                // For hosts that were started in the line above.
                guard error.status == .unavailable, RPCClock.now() < grace, !isOver else { throw error }
            }
            guard !isOver else {
                throw ToolError(.unavailable, "no host at \(seeds.joined(separator: ", ")) had a map within the time")
            }
            try await sleep(Self.pause)
        }
    }

    /// Nil: there are hosts, and none has the map yet.
    private func look() async throws(ToolError) -> ClusterMap? {
        let asked = addresses
        var probes: [HostProbe] = []
        for address in asked { probes.append(try probe(address)) }
        // Also after the deadline: the last look tells what was not done.
        let (known, share) = (state.withLock { $0.newest }, RPCClock.now() + Self.shareNanoseconds)
        let answers = await concurrently(probes) { (probe) throws(ToolError) in
            try await probe.map(known: known?.version ?? 0, deadline: share, isPatient: false)
        }
        var newest = known
        var failures: [String] = []
        var hasHeard = false
        var isFree = false
        for (address, answer) in zip(asked, answers) {
            switch answer {
            case .success(.map(let map)):
                hasHeard = true
                if let other = newest, other.cluster != map.cluster {
                    // A host of another cluster where one of this one was, or a mistake in the command line.
                    guard seeds.contains(address) else { continue }
                    throw ToolError(
                        .usage,
                        "\(address) belongs to cluster \(map.cluster), and other hosts of --connect to cluster "
                            + "\(other.cluster): name hosts of one cluster")
                }
                if map.version > newest?.version ?? 0 { newest = map }
            case .success(.unchanged): hasHeard = true
            case .success(.notInitialised): isFree = true
            case .failure(let error): failures.append("\(address) (\(error.message))")
            }
        }
        if let newest, hasHeard {
            let isFirst = known == nil
            state.withLock { $0.newest = newest }
            // Somebody who was named may be behind: the others are known only now.
            return isFirst ? try await look() : newest
        }
        if isFree, newest == nil {
            throw ToolError(
                .unavailable,
                "\(seeds.joined(separator: ", ")) belongs to no cluster yet: make one with 'bifrost init'")
        }
        guard !failures.isEmpty, known == nil else { return nil }
        throw ToolError(
            .unavailable,
            "no host answers: \(failures.joined(separator: ", ")); is a host running there, and is --connect right?")
    }

    /// The newest map, when it is newer; nil if none came within some time.
    private func map(after version: UInt64) async throws(ToolError) -> ClusterMap? {
        let end = share(Self.newerMapNanoseconds)
        while true {
            let map = try await map()
            if map.version > version { return map }
            guard RPCClock.now() < end else { return nil }
            try await sleep(Self.pause)
        }
    }

    /// What every host of the map says of itself.
    func accounts(_ map: ClusterMap) async throws(ToolError) -> [HostAccount] {
        var probes: [HostProbe] = []
        for host in map.hosts { probes.append(try probe(host.address)) }
        let share = RPCClock.now() + Self.shareNanoseconds
        let answers = await concurrently(probes) { (probe) throws(ToolError) in
            try await probe.status(deadline: share, isPatient: false)
        }
        return zip(map.hosts, answers).map { host, answer in
            switch answer {
            case .success(let status): HostAccount(host: host, status: status)
            case .failure(let error): HostAccount(host: host, status: nil, problem: error.message)
            }
        }
    }

    func sleep(_ pause: Duration) async throws(ToolError) {
        do { try await Task.sleep(for: pause) } catch { throw ToolError(error) }
    }

    // MARK: - Changing

    /// What became of a wish.
    struct Change: Sendable {
        var subject: MapWish.Subject
        /// The map's version from which on it shows.
        var mapVersion: UInt64
        /// False: the map said so before.
        var isChanged: Bool
    }

    /// Decides and asks, and does both again whenever the map has changed in between or an answer was lost, until the
    /// map says what is wished.
    func bring(about wish: MapWish, from first: ClusterMap) async throws(ToolError) -> Change {
        var map = first
        var past = MapWish.Past.nothing
        var refusals = 0
        for _ in 0..<Self.attemptsMax {
            let change: MapChange
            switch try wish.decide(map, past: past) {
            case .there(let subject):
                let isOurs = if case .unknown = past { true } else { false }
                return Change(subject: subject, mapVersion: map.version, isChanged: isOurs)
            case .ask(let next): change = next
            }
            let answer = try await administer(change, expecting: map.version)
            switch answer.reply {
            case .done(let bytes):
                let outcome: MetaOutcome
                do throws(DecodingFailure) { outcome = try MetaOutcome(decoding: bytes) } catch {
                    throw ToolError(.fault, "the meta group's answer can't be read: \(error); it was carried out")
                }
                return Change(
                    subject: MapWish.Subject(group: outcome.group, replica: outcome.replica),
                    mapVersion: outcome.mapVersion, isChanged: true)
            case .refused(let text):
                if change.refusal(by: map) == .invalid(text) {
                    // It was this version that refused, so no attempt on it took effect.
                    throw ToolError(.negative, "\(text); nothing was changed")
                }
                let isDoubtful = if case .unknown(let asked) = past { asked.version == map.version } else { false }
                if !isDoubtful, MetaMachine.isRefusalByRebalancing(text) {
                    throw ToolError(.negative, "\(text); nothing was changed")
                }
                if !isDoubtful { past = .refused }
                if let newer = try await self.map(after: map.version) {
                    map = newer
                } else if refusals < Self.refusalsMax, !isOver {
                    // No map that anybody has explains it: a leader that is new may not have come so far itself.
                    refusals += 1
                } else {
                    throw isDoubtful ? Self.unknown : ToolError(.negative, "refused: \(text); nothing was changed")
                }
            case .notLeader, .outcomeUnknown:
                // Whatever became of it, it was for this version: on the same map it may be sent again.
                if answer.isDoubtful { past = .unknown(asked: map) }
                guard !isOver else {
                    throw answer.isDoubtful
                        ? Self.unknown
                        : ToolError(
                            .unavailable, "no host took the change within the time (\(answer.why)); nothing was changed"
                        )
                }
                try await sleep(Self.pause)
                map = try await self.map()
            }
        }
        throw ToolError(
            .unavailable,
            "the map changed \(Self.attemptsMax) times while this was decided: somebody else changes the cluster; run it "
                + "again")
    }

    private static let unknown = ToolError(
        .outcomeUnknown,
        "the change may have been carried out or not, or may be yet: look with 'bifrost group list' or 'bifrost host "
            + "list' before you repeat it")

    struct Answer {
        /// `notLeader`: nobody carried it out within the time.
        var reply: AdministerReply
        /// An attempt before the last one may have been carried out.
        var isDoubtful = false
        /// Why the last attempt came to nothing.
        var why = ""
    }

    /// Sends a change to who leads the meta group, wherever that is, until somebody says what became of it.
    private func administer(_ change: MapChange, expecting version: UInt64) async throws(ToolError) -> Answer {
        try await administer(MetaCommand.change(change, expecting: version))
    }

    /// The same of any command for the meta group.
    func administer(_ command: MetaCommand) async throws(ToolError) -> Answer {
        let request = AdministerRequest(payload: command.payload())
        var answer = Answer(reply: .notLeader(address: ""), why: "no host answered")
        var turn = 0
        repeat {
            let candidates = addresses
            let named = state.withLock { $0.leader }
            let address = named ?? candidates[turn % candidates.count]
            if named == nil { turn += 1 }
            do throws(ToolError) {
                answer.reply = try await probe(address).change(
                    ClusterMethod.administer, request, deadline: share(Self.changeShareNanoseconds))
                switch answer.reply {
                case .done, .refused:
                    state.withLock { $0.leader = address }
                    return answer
                case .outcomeUnknown:
                    answer.isDoubtful = true
                    return answer
                case .notLeader(let leader):
                    answer.why = leader.isEmpty ? "\(address) knows no leader of the meta group" : "\(leader) leads"
                    state.withLock { $0.leader = leader.isEmpty || leader == address ? nil : leader }
                    if !leader.isEmpty, leader != address { continue }
                }
            } catch {
                answer.reply = .notLeader(address: "")
                answer.why = "\(address): \(error.message)"
                state.withLock { $0.leader = nil }
                if error.status == .fault { throw error }
                if error.status == .outcomeUnknown {
                    answer.isDoubtful = true
                    answer.reply = .outcomeUnknown
                    return answer
                }
            }
            if turn % candidates.count == 0 { try await sleep(Self.pause) }
        } while !isOver
        return answer
    }

    /// Registers a host that belongs to no cluster. Again with the same host: the same id.
    func join(_ request: JoinRequest) async throws(ToolError) -> (host: HostID, mapVersion: UInt64) {
        var turn = 0
        var why = "no host answered"
        repeat {
            let candidates = addresses
            let named = state.withLock { $0.leader }
            let address = named ?? candidates[turn % candidates.count]
            if named == nil { turn += 1 }
            do throws(ToolError) {
                let reply: JoinReply = try await probe(address).change(
                    ClusterMethod.join, request, deadline: share(Self.changeShareNanoseconds))
                switch reply {
                case .accepted(_, let host, let mapVersion): return (host, mapVersion)
                case .refused(let text):
                    throw ToolError(.negative, "\(address) refused: \(text); nothing was changed")
                case .notLeader(_, let leader):
                    why = leader.isEmpty ? "\(address) knows no leader of the meta group" : "\(leader) leads"
                    state.withLock { $0.leader = leader.isEmpty || leader == address ? nil : leader }
                    if !leader.isEmpty, leader != address { continue }
                case .notInitialised: why = "\(address) belongs to no cluster"
                case .retry(let millis):
                    why = "\(address) has no quorum, or too much to do"
                    try await sleep(.milliseconds(Int64(min(millis, 1_000))))
                }
            } catch {
                if error.status == .fault || error.status == .negative { throw error }
                why = "\(address): \(error.message)"
                state.withLock { $0.leader = nil }
            }
            if turn % candidates.count == 0 { try await sleep(Self.pause) }
        } while !isOver
        // Registering twice is registering once: to run it again is right in any case.
        throw ToolError(.unavailable, "no host took the newcomer within the time (\(why)): run this again")
    }

    /// Asks the leader of a group to hand over, wherever it is. Begun, not done, when this returns.
    func transfer(_ group: GroupID, to replica: ReplicaID) async throws(ToolError) {
        var hint: String?
        var why = "no host leads it"
        repeat {
            let map = try await map()
            let accounts = try await accounts(map)
            let health = ClusterHealth(map: map, accounts: accounts)
            let leader = health.groups.first { $0.id == group }?.leader.flatMap { map.host($0)?.address }
            if let address = hint ?? leader {
                hint = nil
                do throws(ToolError) {
                    let reply: AdministerReply = try await probe(address).change(
                        ClusterMethod.transfer, TransferRequest(group: group, to: replica),
                        deadline: share(Self.changeShareNanoseconds))
                    switch reply {
                    case .done: return
                    case .refused(let text):
                        throw ToolError(.negative, "\(address) refused: \(text); nothing was changed")
                    case .notLeader(let next):
                        why = "\(address) does not lead it"
                        if !next.isEmpty, next != address { hint = next }
                    // Two words to hand over to the same replica are as good as one.
                    case .outcomeUnknown: return
                    }
                } catch {
                    if error.status == .fault || error.status == .negative { throw error }
                    if error.status == .outcomeUnknown { return }
                    why = "\(address): \(error.message)"
                }
            }
            try await sleep(Self.pause)
        } while !isOver
        throw ToolError(
            .unavailable,
            "the leader of \(group.words) did not take the request within the time (\(why)); nothing was changed")
    }

    // MARK: - Waiting

    /// Looks until all has come about, and shows what it waits for.
    /// - Parameters:
    ///   - version: of the map from which on the change shows; an older map says nothing.
    ///   - what: for the error: "replica 9 of group 3".
    ///   - hint: where to look further.
    func wait(
        for goals: [MapGoal], since version: UInt64, what: String, hint: String, meter: StandingMeter
    ) async throws(ToolError) {
        defer { meter.finish() }
        while true {
            let isLast = isOver
            var lines: [String] = []
            let map: ClusterMap
            do throws(ToolError) { map = try await self.map() } catch {
                throw ToolError(
                    .outcomeUnknown,
                    "\(what): \(error.message). The change stands in the map and goes on by itself: look with '\(hint)'"
                )
            }
            if map.version >= version {
                let accounts = try await accounts(map)
                for goal in goals {
                    switch goal.standing(map, accounts) {
                    case .done: continue
                    case .open(let more): lines += more
                    case .failed(let text): throw ToolError(.negative, text)
                    }
                }
                if lines.isEmpty { return }
            } else {
                lines = ["no host that answers has version \(version) of the map yet"]
            }
            meter.show(lines)
            guard !isLast else {
                throw ToolError(
                    .outcomeUnknown,
                    "\(what): not yet within the time, as it waits for \(lines[0])"
                        + (lines.count > 1 ? ", and \(lines.count - 1) more" : "")
                        + ". The change goes on by itself: look with '\(hint)'")
            }
            try await sleep(Self.lookPause)
        }
    }
}
