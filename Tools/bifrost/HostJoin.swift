// How a host that runs and belongs to no cluster becomes a member of one. Owns the steps; who takes them is `host add`,
// from outside, or `serve --join`, from within the host's own process.
//
//     who is it? ──► register it with the meta group ──► a map that has it ──► give it the map ──► it says so itself
//
// Each step may be taken again: the same incarnation gets the same id, and a host that has its map keeps it.

import Messages
import Primitives
import RPC
import Ring

struct HostJoin {
    let administrator: Administrator
    let newcomer: HostProbe
    /// For all steps together.
    let deadline: Instant

    private static let pause = Duration.milliseconds(50)
    private static let identifyNanoseconds: UInt64 = 5_000_000_000

    struct Outcome: Sendable {
        /// What the host says of itself.
        var ping: PingReply
        var map: ClusterMap
        /// False: it was a member before, and nothing was done.
        var isChanged: Bool
    }

    /// - Parameter weight: of a host that is registered now.
    func run(weight: UInt32) async throws -> Outcome {
        var map = try await administrator.map()
        let ping = try await identify()
        guard ping.cluster == .none || ping.cluster == map.cluster else {
            throw ToolError(
                .usage,
                "\(newcomer.address) belongs to cluster \(ping.cluster), expected a host that belongs to none: a host "
                    + "changes its cluster only with a new, empty --directory")
        }
        if ping.cluster == map.cluster { return Outcome(ping: ping, map: map, isChanged: false) }

        let joined = try await administrator.join(
            JoinRequest(
                incarnation: ping.incarnation, featureLevel: ping.featureLevel, weight: weight, name: ping.name,
                address: ping.address, zone: ping.zone))
        while map.version < joined.mapVersion || map.host(joined.host) == nil {
            guard RPCClock.now() < deadline else {
                throw ToolError(
                    .unavailable,
                    "\(newcomer.address) is registered as host \(joined.host), but no host had the map of version "
                        + "\(joined.mapVersion) within the time: run this again to go on")
            }
            try await Task.sleep(for: Self.pause)
            map = try await administrator.map()
        }
        try await initialise(ping, joined.host, map)
        return Outcome(ping: try await waitUntilMember(map), map: map, isChanged: true)
    }

    private func identify() async throws(ToolError) -> PingReply {
        do throws(ToolError) {
            return try await newcomer.ping(deadline: min(deadline, RPCClock.now() + Self.identifyNanoseconds))
        } catch {
            throw ToolError(
                error.status,
                "\(newcomer.address) does not answer: \(error.message); start it with 'bifrost serve' first; "
                    + "nothing was changed")
        }
    }

    private func initialise(_ ping: PingReply, _ host: HostID, _ map: ClusterMap) async throws(ToolError) {
        let reply: InitialiseReply
        do throws(ToolError) {
            reply = try await newcomer.initialise(
                InitialiseRequest(host: host, incarnation: ping.incarnation, map: map), deadline: deadline)
        } catch {
            throw ToolError(
                .unavailable,
                "\(newcomer.address) is registered as host \(host), but did not answer: \(error.message); run this "
                    + "again to go on")
        }
        switch reply {
        case .done: return
        case .already(let cluster):
            throw ToolError(
                .usage,
                "\(newcomer.address) became part of cluster \(cluster) in the meantime, and is registered here as host "
                    + "\(host): remove it with 'bifrost host remove \(host)'")
        case .refused(let text):
            throw ToolError(
                .unavailable,
                "\(newcomer.address) is registered as host \(host), but refused: \(text); run this again to go on")
        }
    }

    /// It has taken the map to heart when it says so itself.
    private func waitUntilMember(_ map: ClusterMap) async throws -> PingReply {
        while true {
            let ping = try await newcomer.ping(deadline: deadline)
            if ping.cluster == map.cluster, ping.mapVersion >= map.version { return ping }
            guard RPCClock.now() < deadline else {
                throw ToolError(.unavailable, "\(newcomer.address) is a member, but has no map yet: run this again")
            }
            try await Task.sleep(for: Self.pause)
        }
    }
}

/// `serve --join`: the host asks to be taken in by itself.
///
///     who answers?  no other host ────────────► wait, and say so
///                   hosts, and none in a cluster ──► an end
///                   another cluster than this host's ──► an end
///                   a cluster, and this host is a member ──► nothing to do
///                   a cluster, and this host in none ──► HostJoin; again if that can't be reached
struct SelfJoin {
    /// Of hosts of the cluster. This host's own may be among them.
    let seeds: [String]
    /// Where this host listens.
    let own: String
    /// Something that a person may want to know, once for each state of affairs.
    let say: @Sendable (_ words: String, _ isTrouble: Bool) -> Void

    private static let pause = Duration.seconds(1)
    private static let askNanoseconds: UInt64 = 2_000_000_000
    private static let joinTimeout = Duration.seconds(30)
    /// How often the same trouble is said again.
    private static let repeatNanoseconds: UInt64 = 60_000_000_000
    /// How often another one is.
    private static let changeNanoseconds: UInt64 = 5_000_000_000
    static let weight: UInt32 = 100

    private enum Finding {
        case member
        case joins
        case wait(String)
    }

    /// Until this host is a member, or the task is cancelled.
    /// - Throws: what can't get better by waiting.
    func run() async throws {
        let newcomer = try HostProbe(own)
        defer { newcomer.close() }
        var last = (words: "", said: Instant.zero)
        while !Task.isCancelled {
            var trouble: String
            switch try await look(newcomer) {
            case .member: return
            case .wait(let why): trouble = why
            case .joins:
                do {
                    if try await join(newcomer) { return }
                    continue
                } catch let error as ToolError where [.unavailable, .outcomeUnknown].contains(error.status) {
                    trouble = error.message
                }
            }
            // A signal ends what was under way, which is no trouble.
            guard !Task.isCancelled else { return }
            let pause = trouble == last.words ? Self.repeatNanoseconds : Self.changeNanoseconds
            if last.words.isEmpty || RPCClock.now().since(last.said) >= pause {
                say("--join: \(trouble); this host goes on trying", true)
                last = (trouble, RPCClock.now())
            }
            try await Task.sleep(for: Self.pause)
        }
    }

    /// False: what was found is no longer so.
    private func join(_ newcomer: HostProbe) async throws -> Bool {
        let administrator = Administrator(seeds: seeds, timeout: Self.joinTimeout)
        defer { administrator.close() }
        let deadline = RPCClock.now() + UInt64(Self.joinTimeout / .nanoseconds(1))
        let join = HostJoin(administrator: administrator, newcomer: newcomer, deadline: deadline)
        do {
            let joined = try await join.run(weight: Self.weight)
            if joined.isChanged {
                say("--join: this host is host \(joined.ping.host) of cluster \(joined.map.cluster) now", false)
            }
            return true
        } catch let error as ToolError where error.status == .usage {
            // It became a member of something meanwhile: the next look tells whether that is an error.
            guard try await newcomer.ping(deadline: RPCClock.now() + Self.askNanoseconds).cluster != .none else {
                throw error
            }
            return false
        }
    }

    private func look(_ newcomer: HostProbe) async throws -> Finding {
        let own = try await newcomer.ping(deadline: RPCClock.now() + Self.askNanoseconds)
        let probes = try seeds.map { (address) throws(ToolError) in try HostProbe(address) }
        defer { for probe in probes { probe.close() } }
        let deadline = RPCClock.now() + Self.askNanoseconds
        let answers = await concurrently(probes) { (probe) throws(ToolError) in
            let ping = try await probe.ping(deadline: deadline)
            guard ping.cluster != .none, case .map(let map) = try await probe.map(deadline: deadline) else {
                return (ping, ClusterMap?.none)
            }
            return (ping, map)
        }
        var members: [(address: String, map: ClusterMap)] = []
        var free: [String] = []
        var silent: [String] = []
        for (address, answer) in zip(seeds, answers) {
            switch answer {
            case .success((let ping, _)) where ping.incarnation == own.incarnation: continue
            case .success((_, let map?)): members.append((address, map))
            case .success((let ping, nil)):
                if ping.cluster == .none { free.append(address) } else { silent.append("\(address) has no map yet") }
            case .failure(let error): silent.append("\(address) does not answer (\(error.message))")
            }
        }
        if let other = members.first(where: { $0.map.cluster != members[0].map.cluster }) {
            throw ToolError(
                .usage,
                "--join names hosts of two clusters: \(members[0].address) belongs to \(members[0].map.cluster), "
                    + "\(other.address) to \(other.map.cluster)")
        }
        guard own.cluster == .none else {
            try check(own, members)
            return .member
        }
        if !members.isEmpty { return .joins }
        guard !silent.isEmpty else {
            guard let first = free.first else {
                throw ToolError(
                    .usage, "--join names this host itself: name another one, of the cluster that it shall join")
            }
            throw ToolError(
                .unavailable,
                "--join: \(first) belongs to no cluster, so there is none to join: make one with 'bifrost init', and "
                    + "start this host again; or start it without --join, and name it to 'bifrost init' as well")
        }
        return .wait(silent.joined(separator: ", "))
    }

    /// A member starts whether anybody answers or not: after a power cut all start at the same time.
    private func check(_ own: PingReply, _ members: [(address: String, map: ClusterMap)]) throws(ToolError) {
        guard let newest = members.max(by: { $0.map.version < $1.map.version }) else { return }
        guard newest.map.cluster == own.cluster else {
            throw ToolError(
                .badDirectory,
                "--directory belongs to cluster \(own.cluster), and \(newest.address), which --join names, to cluster "
                    + "\(newest.map.cluster): a host changes its cluster only with a new, empty --directory")
        }
        // An older map may not have it yet.
        guard newest.map.version < own.mapVersion || newest.map.host(own.host) != nil else {
            throw ToolError(
                .badDirectory,
                "this host was host \(own.host) of cluster \(own.cluster) and was removed from it: it comes back only "
                    + "with a new, empty --directory, under a new id")
        }
    }
}
