// Random histories of a group whose members come and go; some of its hosts are lost; the rest is recovered as planned.
// What survivors knew stays, what the plan says of losses is true, and nobody but the base begins the group again.

import Primitives
import Recovery
import Ring
import Testing

@Suite struct RecoveryHistoryTests {
    private static let hosts = 6
    private static let seeds: UInt64 = 4_000

    private struct Tally {
        var kept = 0
        var recovered = 0
        var whole = 0
        var lostSome = 0
        var buried = 0
        /// Survivors that knew entries to be committed which the base has not.
        var knewMore = 0
    }

    private func member(_ host: Int) -> ReplicaID { id(1, host) }

    private func run(_ seed: UInt64, _ tally: inout Tally) throws {
        let all = Array(1...Self.hosts)
        let map = clusterMap(hosts: Self.hosts, meta: all, groups: [all])
        var cluster = LogCluster(all.map(member), founders: (1...3).map(member), seed: seed)
        for _ in 0..<Int(cluster.random.below(400)) {
            // Now and then the cluster falls into parts, and a step happens in one of them.
            let reach = all.filter { _ in cluster.chance(75) }.map(member)
            if !reach.isEmpty { cluster.step(among: reach) }
        }
        try #require(!cluster.isBroken, "seed \(seed): the model is not Raft")

        let survivors = all.filter { _ in cluster.chance(45) }
        guard !survivors.isEmpty else { return }
        var found: [HostReport] = []
        for host in survivors {
            var replicas = [replica(0, host, of: map)]
            // A replica that never heard anything may have nothing on disk either.
            let own = cluster.members[member(host)]!
            if own.term > 0, cluster.chance(20) { cluster.members[member(host)]!.isImpaired = true }
            if own.term > 0 || cluster.chance(50) { replicas.append(cluster.report(member(host), group: GroupID(1))) }
            found.append(report(host, map, metaMap: map, replicas))
        }
        let plan: RecoveryPlan
        do {
            plan = try RecoveryPlanner.plan(found, cluster: newCluster)
        } catch { return }
        let group = plan.groups[1]
        let wasCommitted = cluster.committed
        var alive = survivors.map(member)
        for id in cluster.ids { cluster.members[id]!.match = nil }

        switch group.outcome {
        case .emptied: Issue.record("seed \(seed): nobody agreed to an empty group")
        case .kept: tally.kept += 1
        case .recovered:
            tally.recovered += 1
            let base = try #require(group.base?.replica)
            let log = cluster.members[base]!.log
            #expect(!cluster.members[base]!.isImpaired, "seed \(seed): nobody can go on from \(base)")
            // What a survivor knew is there; and an impaired one that knew more does not go on under its id: it would
            // follow nobody.
            for id in alive {
                let commit = cluster.members[id]!.commit
                let isThere = Array(log.prefix(commit)) == Array(wasCommitted.prefix(commit))
                let isImpaired = cluster.members[id]!.isImpaired
                #expect(
                    isThere || isImpaired && group.buried.contains { $0.replica == id },
                    "seed \(seed): \(id) knew more")
                #expect(isImpaired || LogIndex(UInt64(commit)) <= group.certain, "seed \(seed)")
                if !isThere {
                    tally.knewMore += 1
                    #expect(!group.isComplete, "seed \(seed): \(id) knows what is lost")
                }
            }
            // What was acknowledged up to there is there, and if the plan says so, all of it.
            let certain = Int(group.certain.rawValue)
            #expect(wasCommitted.count >= certain && Array(log.prefix(certain)) == Array(wasCommitted.prefix(certain)))
            let isThere = log.count >= wasCommitted.count && Array(log.prefix(wasCommitted.count)) == wasCommitted
            if group.isComplete {
                tally.whole += 1
                #expect(isThere, "seed \(seed): the plan promised too much")
            } else if !isThere {
                tally.lostSome += 1
            }
            if !group.buried.isEmpty { tally.buried += 1 }
            alive.removeAll { id in group.buried.contains { $0.replica == id } }
            let lead = try #require(plan.hosts.flatMap(\.orders).first { $0.replica == base }?.lead)
            #expect(alive.allSatisfy { cluster.members[$0]!.term < lead.term.rawValue })
            cluster.members[base]!.log.append(
                LogCluster.Entry(term: lead.term.rawValue, configuration: lead.configuration))
            cluster.members[base]!.term = lead.term.rawValue
            cluster.lastTerm = max(cluster.lastTerm, lead.term.rawValue)
        }

        // Whatever those that are left do now: who is elected has what the group goes on from.
        let foundation = group.outcome == .kept ? wasCommitted : cluster.members[try #require(group.base?.replica)]!.log
        if group.outcome == .recovered { cluster.committed = Array(foundation.dropLast()) }
        var elected = 0
        for step in 0..<10_000 {
            if step >= 300, elected > 0 { break }
            let reach = alive.filter { _ in cluster.chance(80) }
            guard !reach.isEmpty, let leader = cluster.step(among: reach, changesMembers: false) else { continue }
            elected += 1
            let log = cluster.members[leader]!.log
            #expect(
                log.count > foundation.count && Array(log.prefix(foundation.count)) == foundation,
                "seed \(seed): \(leader) leads without what the group goes on from")
        }
        #expect(!cluster.isBroken, "seed \(seed): two entries were committed at one index")
        if group.outcome == .recovered { #expect(elected > 0, "seed \(seed): nobody was elected") }
    }

    @Test func nothingThatASurvivorKnewIsLostAndNobodyElseBeginsTheGroupAgain() throws {
        var tally = Tally()
        for seed in 0..<Self.seeds { try run(seed, &tally) }
        // The histories are of all kinds.
        #expect(
            tally.kept > 100 && tally.recovered > 500 && tally.whole > 20 && tally.lostSome > 50 && tally.buried > 5
                && tally.knewMore > 20,
            "\(tally)")
    }
}
