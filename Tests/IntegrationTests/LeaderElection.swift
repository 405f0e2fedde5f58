// Leader election. It proves that a group never has two leaders in one term, whatever is killed, cut off or stopped; that
// each group whose leader dies has another one within a bounded time, in a later term; and that who looks for two leaders
// would see them.

import Bifrost
import BifrostSimulator
import BifrostTool
import Messages
import Primitives
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct LeaderElection {
        private struct Election {
            var host: Int
            var group: UInt64
            var term: UInt64
            var replica: UInt64
        }

        /// `host 4: replica 12 leads group 3 in term 1`
        private func parsed(_ words: String) -> Election? {
            let parts = words.split(separator: " ")
            guard parts.count == 10, parts[4] == "leads", let host = Int(parts[1].dropLast()),
                let replica = UInt64(parts[3]), let group = UInt64(parts[6]), let term = UInt64(parts[9])
            else { return nil }
            return Election(host: host, group: group, term: term, replica: replica)
        }

        @Test func inEachTermOneReplicaLeadsUnderAllFaults() throws {
            var leaders = 0
            for seed in 1...16 as ClosedRange<UInt64> {
                let profile: SimulationProfile = seed % 4 == 0 ? .membership : .safety
                let run = try SimulatedRun(
                    seed: seed, SimulationSettings(profile: profile, seconds: 15),
                    keeping: { $0.contains(" leads group ") && !$0.contains(" no longer ") })
                var seen = Leaders()
                for line in run.transcript {
                    let election = try #require(parsed(line.words), "\(line.words)")
                    seen.note(group: election.group, term: election.term, replica: election.replica)
                }
                #expect(seen.conflict == nil, "seed \(seed)")
                leaders += seen.count
                // It would be seen.
                let one = try #require(run.transcript.first.flatMap { parsed($0.words) })
                seen.note(group: one.group, term: one.term, replica: one.replica + 1)
                #expect(seen.conflict != nil)
            }
            #expect(leaders > 400, "\(leaders) elections")
            print("\(leaders) elections, one leader in each term")
        }

        /// Crashes alone, of hosts whose two peers are up and stay up: a new leader within five seconds of virtual time,
        /// whatever time-outs (up to 1.2 s) and promises to leaders (up to 1.5 s) a seed draws.
        @Test func aCrashedLeaderHasASuccessorInTime() throws {
            let bound = 5.0
            var crashes = 0
            var longest = 0.0
            for seed in 1...8 as ClosedRange<UInt64> {
                let run = try SimulatedRun(
                    seed: seed, SimulationSettings(seconds: 40), only: [.crash],
                    adjust: {
                        $0.hosts = 3
                        $0.replicas = 3
                        $0.rottenHost = 0
                        $0.faultPauseNanosecondsMax = 10_000_000_000
                    },
                    keeping: {
                        $0.contains(" leads group ") || $0.hasSuffix(" crashes") || $0.contains(" starts")
                            || $0.hasSuffix("all is mended")
                    })
                var leader: [UInt64: Int] = [:]
                let end = run.transcript.first { $0.words == "all is mended" }?.seconds ?? 0
                for (place, line) in run.transcript.enumerated() {
                    if let election = parsed(line.words) {
                        leader[election.group] = election.host
                        continue
                    }
                    guard line.words.hasSuffix(" crashes"), line.seconds + bound < end,
                        let host = Int(line.words.split(separator: " ")[1])
                    else { continue }
                    let behind = run.transcript[(place + 1)...].prefix { $0.seconds <= line.seconds + bound }
                    let before = run.transcript[..<place].reversed().prefix { $0.seconds >= line.seconds - 2 }
                    let others = (Array(behind) + Array(before)).filter {
                        ($0.words.hasSuffix(" crashes") || $0.words.hasSuffix(" starts"))
                            && $0.words.split(separator: " ")[1] != "\(host)"
                    }
                    guard others.isEmpty else { continue }
                    for group in leader.filter({ $0.value == host }).keys.sorted() {
                        let next = behind.first { parsed($0.words)?.group == group }
                        crashes += 1
                        #expect(next != nil, "seed \(seed): group \(group) after \(line.seconds)")
                        longest = max(longest, (next?.seconds ?? .infinity) - line.seconds)
                    }
                }
            }
            #expect(crashes > 12, "\(crashes) leaders crashed")
            print("\(crashes) leaders crashed, the next one led after \(longest) s at most")
        }

        /// SIGKILL of the host that leads most, and what all hosts say meanwhile.
        @Test func aKilledLeaderHasASuccessorInTimeAndNoTermHasTwo() async throws {
            try await withCluster(groups: 8) { cluster in
                let client = try await cluster.client()
                var seen = Leaders()
                var terms: [GroupID: UInt64] = [:]
                var longest = Duration.zero
                var shortest = Duration.seconds(180)
                func look() async throws -> [ReplicaView] {
                    let leaders = try await client.replicas().filter { $0.status.role == .leader }
                    for leader in leaders {
                        let status = leader.status
                        seen.note(
                            group: UInt64(status.group.rawValue), term: status.term.rawValue,
                            replica: status.replica.rawValue)
                    }
                    return leaders
                }
                // A machine that stands still makes each of them late but the next.
                var rounds = 0
                while rounds < 3 || rounds < 6 && shortest > .seconds(5) {
                    rounds += 1
                    var leaders: [ReplicaView] = []
                    try await wait("a leader of each group") {
                        leaders = try await look()
                        return Set(leaders.map(\.status.group)).count == 9
                    }
                    let byHost = Dictionary(grouping: leaders, by: \.host)
                    let most = try #require(byHost.max { ($0.value.count, $1.key) < ($1.value.count, $0.key) })
                    terms = [:]
                    for leader in most.value { terms[leader.status.group] = leader.status.term.rawValue }
                    let victim = cluster.hosts[Int(most.key.rawValue) - 1]
                    cluster.local.kill(victim)
                    let begin = ContinuousClock.now
                    var open = Set(terms.keys)
                    try await wait("another leader of \(open.count) groups") {
                        for leader in try await look() where leader.host != most.key {
                            guard let term = terms[leader.status.group] else { continue }
                            #expect(leader.status.term.rawValue > term)
                            open.remove(leader.status.group)
                        }
                        return open.isEmpty
                    }
                    longest = max(longest, ContinuousClock.now - begin)
                    shortest = min(shortest, ContinuousClock.now - begin)
                    // It is one that commits.
                    try await client.write(0..<64) { Bytes("\($0)") }
                    try cluster.start(victim)
                    _ = try await cluster.waitForStatus(0)
                }
                _ = try await look()
                #expect(seen.conflict == nil)
                #expect(seen.count > 12)
                #expect(shortest <= .seconds(5))
                print("\(rounds) hosts killed; all their groups had leaders again after \(longest) at most")
                await client.close()
            }
        }
    }
}
