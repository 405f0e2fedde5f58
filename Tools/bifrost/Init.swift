// `bifrost init`: makes a cluster of hosts that belong to none, or finishes what an earlier attempt began.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import RPC
import Ring

struct Init: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Makes a cluster of hosts that run and belong to none.",
        discussion: """
            Asks all hosts who they are, plans groups, replicas and ring, tells each host, and waits until every \
            group has a leader. Nothing is changed unless all hosts answer and are free. If it stops half-way, run it \
            again with the same hosts: it goes on where it stopped, and does nothing if all is done. Of several that \
            run at the same time with the same hosts one makes the cluster, and the others help it.

            EXAMPLES:
              bifrost init --hosts 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003
              bifrost init --hosts 10.0.0.1:7001,10.0.0.2:7001 --groups 64 --replicas 2
              bifrost init --hosts 127.0.0.1:7001 --groups 4 --json
            """)

    @Option(
        help: ArgumentHelp("All hosts of the new cluster.", valueName: "host:port,…"),
        transform: AddressList.init(parsing:))
    var hosts: AddressList

    @Option(help: ArgumentHelp("Groups that share the data, 1 to 65535. (default: 16)", valueName: "count"))
    var groups: Int?

    @Option(
        help: ArgumentHelp("Replicas of each group, 1 to 15. (default: 3, or as many as hosts)", valueName: "count"))
    var replicas: Int?

    @Option(
        help: ArgumentHelp("How long it may take in all. (default: 30s)", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var timeout: TimeSpan?

    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let groups, groups < 1 || groups >= ClusterMap.groupsMax {
            throw ValidationError("--groups is 1 to \(ClusterMap.groupsMax - 1), not \(groups)")
        }
        if let replicas, replicas < 1 || replicas > ClusterMap.replicasPerGroupMax {
            throw ValidationError("--replicas is 1 to \(ClusterMap.replicasPerGroupMax), not \(replicas)")
        }
        if let replicas, replicas > hosts.addresses.count {
            throw ValidationError(
                "--replicas \(replicas) needs as many hosts, and --hosts names \(hosts.addresses.count)")
        }
    }

    func run() async throws {
        let began = RPCClock.now()
        let deadline = began + UInt64(max(0, (timeout?.duration ?? .seconds(30)) / .nanoseconds(1)))
        let probes = try hosts.addresses.map { (address) throws(ToolError) in try HostProbe(address) }
        defer { for probe in probes { probe.close() } }

        var pings = try await identify(probes, deadline: deadline)
        var map: ClusterMap?
        if pings.allSatisfy({ $0.cluster == .none }) {
            let planned = try plan(pings)
            if try await found(probes, pings, planned, deadline: deadline) {
                map = planned
            } else {
                // Somebody else was faster. Nothing was changed, and what is left to do is his cluster.
                pings = try await identify(probes, deadline: deadline)
            }
        }
        let members = pings.count { $0.cluster != .none }
        let made: ClusterMap
        if let map { made = map } else { made = try await mapToFinish(probes, pings, deadline: deadline) }
        if members < pings.count { try await tell(probes, pings, made, deadline: deadline) }
        let leaders = try await waitForLeaders(probes, made, deadline: deadline)
        let milliseconds = RPCClock.now().since(began) / 1_000_000
        try report(made, leaders, found: members, milliseconds: milliseconds)
    }

    // MARK: who is there

    /// Every host's answer, or one error that names all that don't answer. Well within the time for the whole.
    private func identify(_ probes: [HostProbe], deadline: Instant) async throws -> [PingReply] {
        let share = min(deadline, RPCClock.now() + 5_000_000_000)
        let answers = await concurrently(probes) { (probe) throws(ToolError) in try await probe.ping(deadline: share) }
        var pings: [PingReply] = []
        var missing: [String] = []
        for (probe, answer) in zip(probes, answers) {
            switch answer {
            case .success(let ping): pings.append(ping)
            case .failure(let error): missing.append("\(probe.address) (\(error.message))")
            }
        }
        guard missing.isEmpty else {
            throw ToolError(
                .unavailable,
                "expected all \(HumanText.count(probes.count, "host")) to answer, but not so: "
                    + "\(missing.joined(separator: ", ")); "
                    + "nothing was changed, start them and run this again")
        }
        for (position, ping) in pings.enumerated() {
            for earlier in 0..<position {
                guard pings[earlier].incarnation != ping.incarnation else {
                    throw ToolError(
                        .usage,
                        "\(probes[earlier].address) and \(probes[position].address) are the same host: name it once")
                }
                guard pings[earlier].address != ping.address else {
                    throw ToolError(
                        .usage,
                        "\(probes[earlier].address) and \(probes[position].address) both say that others reach them at "
                            + "\(ping.address): start one of them with another --advertise")
                }
            }
        }
        return pings
    }

    // MARK: the map

    private func plan(_ pings: [PingReply]) throws(ToolError) -> ClusterMap {
        let cluster = ClusterID(high: UInt64.random(in: 1...UInt64.max), low: UInt64.random(in: 0...UInt64.max))
        let records = pings.enumerated().map { position, ping in
            HostRecord(
                id: HostID(UInt64(position + 1)), name: ping.name, address: ping.address, zone: ping.zone,
                incarnation: ping.incarnation, featureLevel: ping.featureLevel)
        }
        do {
            return try Planner.firstMap(
                cluster: cluster, hosts: records, groups: groups ?? 16, replicas: replicas ?? min(3, pings.count),
                featureLevel: FeatureLevel.ofNewMap(hosts: pings.map(\.featureLevel)))
        } catch {
            throw ToolError(.usage, "\(error)")
        }
    }

    /// The map of the cluster that some of the hosts belong to, if it is a cluster of exactly these hosts.
    private func mapToFinish(_ probes: [HostProbe], _ pings: [PingReply], deadline: Instant) async throws -> ClusterMap
    {
        let members = zip(probes, pings).filter { $0.1.cluster != .none }
        let cluster = members[0].1.cluster
        if let other = members.first(where: { $0.1.cluster != cluster }) {
            throw ToolError(
                .usage,
                "\(members[0].0.address) belongs to cluster \(cluster), \(other.0.address) to cluster "
                    + "\(other.1.cluster): "
                    + "a host changes its cluster only with a new, empty --directory")
        }
        let map = try await map(of: members[0].0, cluster, deadline: deadline)
        for (probe, ping) in zip(probes, pings) {
            guard let record = map.hosts.first(where: { $0.incarnation == ping.incarnation }) else {
                if let former = map.hosts.first(where: { $0.address == ping.address }) {
                    throw ToolError(
                        .usage,
                        "\(probe.address) was host \(former.id) of cluster \(cluster) and has another directory now: "
                            + "start it with its former --directory")
                }
                throw ToolError(
                    .usage,
                    "\(members[0].0.address) belongs to cluster \(cluster), which has no host \(probe.address): "
                        + "init makes new clusters only")
            }
            guard record.address == ping.address else {
                throw ToolError(
                    .usage,
                    "cluster \(cluster) knows host \(record.id) at \(record.address), it says \(ping.address) now: "
                        + "start it with its former address")
            }
        }
        if let missing = map.hosts.first(where: { host in !pings.contains { $0.incarnation == host.incarnation } }) {
            throw ToolError(
                .usage,
                "these hosts belong to cluster \(cluster), which has also host \(missing.id) at "
                    + "\(missing.address): name all its hosts"
            )
        }
        if let groups, groups != map.dataGroups.count {
            throw ToolError(
                .usage, "these hosts are cluster \(cluster) already, with \(map.dataGroups.count) groups, not \(groups)"
            )
        }
        if let replicas, replicas != map.dataGroups.first?.replicas.count {
            throw ToolError(
                .usage,
                "these hosts are cluster \(cluster) already, with "
                    + "\(map.dataGroups.first?.replicas.count ?? 0) replicas of a "
                    + "group, not \(replicas)")
        }
        return map
    }

    /// A host that has just become a member has its map a moment later.
    private func map(of probe: HostProbe, _ cluster: ClusterID, deadline: Instant) async throws -> ClusterMap {
        let share = min(deadline, RPCClock.now() + 5_000_000_000)
        while true {
            if case .map(let map) = try await probe.map(deadline: deadline) { return map }
            guard RPCClock.now() < share else {
                throw ToolError(
                    .unavailable,
                    "\(probe.address) belongs to cluster \(cluster), but has no map yet: run this again")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: telling them

    /// Makes the first host a member. It is the one that everybody takes first who makes a cluster of the same hosts:
    /// false if it belongs to another's by now, and nothing was changed.
    private func found(
        _ probes: [HostProbe], _ pings: [PingReply], _ map: ClusterMap, deadline: Instant
    ) async throws -> Bool {
        guard let (probe, ping) = zip(probes, pings).min(by: { $0.1.address < $1.1.address }) else { return true }
        if case .already = try await tell(probe, ping, map, deadline: deadline) { return false }
        return true
    }

    private func tell(
        _ probe: HostProbe, _ ping: PingReply, _ map: ClusterMap, deadline: Instant
    ) async throws(ToolError) -> InitialiseReply {
        guard let record = map.hosts.first(where: { $0.incarnation == ping.incarnation }) else {
            throw ToolError(.fault, "the map has no host with the incarnation of \(probe.address)")
        }
        let reply: InitialiseReply
        do throws(ToolError) {
            reply = try await probe.initialise(
                InitialiseRequest(host: record.id, incarnation: ping.incarnation, map: map), deadline: deadline)
        } catch {
            throw ToolError(
                .unavailable,
                "\(probe.address) did not answer: \(error.message); run this again with the same hosts to go on")
        }
        guard case .refused(let text) = reply else { return reply }
        throw ToolError(.unavailable, "\(probe.address) refused: \(text); run this again with the same hosts")
    }

    /// Makes all hosts members that are none; one that has become so by now says so again.
    private func tell(_ probes: [HostProbe], _ pings: [PingReply], _ map: ClusterMap, deadline: Instant) async throws {
        let open = zip(probes, pings).filter { $0.1.cluster == .none }
        let replies = await concurrently(open) { (probe, ping) throws(ToolError) -> InitialiseReply in
            try await tell(probe, ping, map, deadline: deadline)
        }
        for ((probe, _), reply) in zip(open, replies) {
            if case .already(let cluster) = try reply.get() {
                throw ToolError(
                    .usage,
                    "\(probe.address) became part of cluster \(cluster) in the meantime: does another init run, with "
                        + "other hosts?")
            }
        }
    }

    // MARK: waiting

    /// The leader of every group, when all have one, and the meta group has the map: until then it can't be changed.
    private func waitForLeaders(
        _ probes: [HostProbe], _ map: ClusterMap, deadline: Instant
    ) async throws -> [GroupID: HostID] {
        var leaders: [GroupID: HostID] = [:]
        while true {
            let share = min(deadline, RPCClock.now() + 1_000_000_000)
            let answers = await concurrently(probes) { (probe) throws(ToolError) in
                try await probe.status(deadline: share)
            }
            leaders = [:]
            for case .success(let status) in answers {
                for replica in status.replicas where replica.role == .leader && replica.isQuorumActive {
                    guard replica.group != .meta || replica.revision > .zero else { continue }
                    leaders[replica.group] = status.host
                }
            }
            let open = map.groups.filter { leaders[$0.id] == nil }
            if open.isEmpty { return leaders }
            guard RPCClock.now() < deadline else {
                let names = open.prefix(8).map { "\($0.id)" }.joined(separator: ", ") + (open.count > 8 ? ", …" : "")
                throw ToolError(
                    .unavailable,
                    "the cluster is made, but \(HumanText.count(open.count, "group")) (\(names)) of "
                        + "\(map.groups.count) had no leader "
                        + "within the time: see 'bifrost status --connect \(probes[0].address)'")
            }
            // An answer names all replicas: of thousands it keeps hosts from electing.
            try await Task.sleep(for: .milliseconds(20 + map.groups.count / 20))
        }
    }

    // MARK: the result

    private func report(_ map: ClusterMap, _ leaders: [GroupID: HostID], found: Int, milliseconds: UInt64) throws {
        struct Made: Encodable {
            struct Member: Encodable {
                var host: UInt64
                var name: String
                var address: String
                var zone: String
                var replicas: Int
                var leads: Int
            }
            var cluster: String
            var groups: Int
            var replicasPerGroup: Int
            var hosts: [Member]
            var hostsThatWereMembers: Int
            var milliseconds: UInt64
        }
        let members = map.hosts.map { host in
            Made.Member(
                host: host.id.rawValue, name: host.name, address: host.address, zone: host.zone,
                replicas: map.replicas(on: host.id).count, leads: map.groups.count { leaders[$0.id] == host.id })
        }
        let made = Made(
            cluster: map.cluster.description, groups: map.dataGroups.count,
            replicasPerGroup: map.dataGroups.first?.replicas.count ?? 0, hosts: members, hostsThatWereMembers: found,
            milliseconds: milliseconds)
        if common.json { return try Output.json(made) }

        let what =
            switch found {
            case 0: "made"
            case map.hosts.count: "was made before; nothing to do"
            default: "finished: \(HumanText.count(map.hosts.count - found, "host")) came in"
            }
        var table = Table([
            ("host", .right), ("name", .left), ("address", .left), ("zone", .left), ("replicas", .right),
            ("leads", .right),
        ])
        for member in members {
            table.add([
                "\(member.host)", member.name, member.address, member.zone.isEmpty ? "-" : member.zone,
                "\(member.replicas)", "\(member.leads)",
            ])
        }
        try Output.line(
            """
            cluster \(made.cluster) \(what)
            \(HumanText.count(made.hosts.count, "host")), \(HumanText.count(made.groups, "group")) and the meta group, \
            \(HumanText.count(made.replicasPerGroup, "replica")) of each; every group has a leader after \
            \(HumanText.fixed(Double(milliseconds) / 1_000, 2)) s
            \(table.text)
            """)
    }
}
