// A change of members whose leader dies at each point of it: after every single message and every single write, in
// groups of two to five voters. Whatever the point, the group ends with the old members or with the new ones, never
// between.

import Primitives
import RaftCore
import Testing

@Suite struct MembershipTests {
    enum Wish: CaseIterable {
        case addVoter, replaceFollower, replaceLeader, removeFollower, removeLeader, replaceAll, demoteLeader,
            addLearner
    }

    /// What becomes of the leader after the crash.
    enum Fate: CaseIterable {
        /// Is back at once, and what it sent arrives.
        case restart
        /// Is back after the others had time to go on without it; what it sent last is lost with it.
        case absence
    }

    /// A group of `voters`, led by 1, with two learners that have caught up.
    private static func group(voters: Int, seed: UInt64) -> Cluster {
        var settings = RaftSettings()
        settings.electionTicks = 4
        settings.heartbeatTicks = 1
        settings.promotionLagMax = 1
        var cluster = Cluster(voters: voters, spectators: 3, settings: settings, seed: seed)
        cluster.checks = Checks(replicas: cluster.replicas.count, configuration: cluster.configuration)
        cluster.replicas[0].core!.campaign()
        cluster.turn(0)
        cluster.exchange()
        let current = cluster.replicas[0].core!.configuration
        _ = cluster.replicas[0].core!.change(
            to: Configuration(
                voters: current.voters, learners: [ReplicaID(UInt64(voters + 1)), ReplicaID(UInt64(voters + 2))]),
            expecting: .zero)
        _ = cluster.calm(rounds: 10) { cluster, _ in cluster.replicas[0].core!.isSettled() }
        return cluster
    }

    private static func configuration(_ wish: Wish, from old: Configuration) -> Configuration {
        let first = ReplicaID(1)
        let lastVoter = old.voters.last!
        let new = old.learners[0]
        return switch wish {
        case .addVoter: Configuration(voters: old.voters + [new], learners: [old.learners[1]])
        case .replaceFollower: Configuration(voters: old.voters.filter { $0 != lastVoter } + [new])
        case .replaceLeader: Configuration(voters: old.voters.filter { $0 != first } + [new])
        case .removeFollower: Configuration(voters: old.voters.filter { $0 != lastVoter }, learners: old.learners)
        case .removeLeader: Configuration(voters: old.voters.filter { $0 != first }, learners: old.learners)
        case .replaceAll: Configuration(voters: old.learners)
        case .demoteLeader: Configuration(voters: old.voters.filter { $0 != first } + [new], learners: [first])
        case .addLearner:
            Configuration(voters: old.voters, learners: old.learners + [ReplicaID(old.learners[1].rawValue + 1)])
        }
    }

    /// Lets one thing happen. False if nothing is under way.
    private static func step(_ cluster: inout Cluster, _ random: inout SeededRandom) -> Bool {
        let writing = cluster.replicas.indices.filter { !cluster.replicas[$0].writes.isEmpty }
        let choices = cluster.flight.count + writing.count
        guard choices > 0 else { return false }
        let choice = Int(random.below(UInt64(choices)))
        if choice < writing.count {
            _ = cluster.finishWrite(writing[choice])
            cluster.turn(writing[choice])
        } else if let position = cluster.deliver(cluster.flight.remove(at: choice - writing.count)) {
            cluster.turn(position)
        }
        return true
    }

    @Test(arguments: [2, 3, 4, 5], Wish.allCases)
    func theChangeSurvivesTheLeadersCrashAtEveryPoint(voters: Int, wish: Wish) {
        var kept = 0
        var changed = 0
        for seed in 1...UInt64(6) {
            for fate in Fate.allCases {
                var point = 0
                var isOver = false
                while !isOver {
                    var cluster = Self.group(voters: voters, seed: seed)
                    let old = cluster.replicas[0].core!.configuration
                    let wished = Self.configuration(wish, from: old)
                    guard case .accepted = cluster.replicas[0].core!.change(to: wished, expecting: old.index) else {
                        Issue.record("\(wish) of \(voters) voters is refused")
                        return
                    }
                    cluster.turn(0)
                    var random = SeededRandom(seed: seed)
                    for _ in 0..<point where !isOver { isOver = !Self.step(&cluster, &random) }
                    let place = "\(wish) of \(voters) voters, seed \(seed), \(fate), point \(point)"
                    cluster.crash(0)
                    if fate == .restart {
                        cluster.start(0)
                    } else {
                        cluster.flight.removeAll { $0.from == ReplicaID(1) }
                        _ = cluster.calm(rounds: 40) { _, _ in false }
                        cluster.start(0)
                    }
                    var proposed: LogIndex?
                    let isCalm = cluster.calm(rounds: 200) { cluster, round in
                        guard round > 20, let leader = cluster.leader, let core = cluster.replicas[leader].core,
                            !core.configuration.isJoint
                        else { return false }
                        if proposed == nil {
                            if case .accepted(let index, _) = cluster.replicas[leader].core!.propose(
                                kind: .command, payload: "x", logTime: .zero)
                            {
                                proposed = index
                            }
                            return false
                        }
                        return cluster.replicas.allSatisfy {
                            !core.configuration.members.contains($0.id) || $0.core!.appliedIndex >= proposed!
                        }
                    }
                    if let violation = cluster.checks!.violation {
                        Issue.record("\(place): \(violation)")
                        return
                    }
                    guard isCalm, let leader = cluster.leader else {
                        Issue.record("\(place): no progress after the crash")
                        return
                    }
                    let configuration = cluster.replicas[leader].core!.configuration
                    switch (configuration.voters, configuration.learners) {
                    case (wished.voters, wished.learners): changed += 1
                    case (old.voters, old.learners): kept += 1
                    default:
                        Issue.record("\(place): ends with \(configuration)")
                        return
                    }
                    // Once the old leader knows that the change is done it can't come undone.
                    if isOver, configuration.voters != wished.voters {
                        Issue.record("\(place): was done and is undone")
                        return
                    }
                    point += 1
                }
            }
        }
        // Both ends were reached: crashes before and after the point of no return.
        #expect(changed > 0 && kept > 0)
    }

    @Test func whoIsSentByTheLeaderWinsAgainstLoyalVoters() {
        var cluster = Self.group(voters: 3, seed: 1)
        #expect(cluster.replicas[0].core!.mayUseLease)
        #expect(cluster.replicas[0].core!.transfer(to: ReplicaID(2)) == .accepted)
        #expect(!cluster.replicas[0].core!.mayUseLease && !cluster.replicas[0].core!.isSettled())
        #expect(cluster.replicas[0].core!.transfer(to: ReplicaID(3)) == .refused(.inFlight(ReplicaID(2))))
        cluster.turn(0)
        // No tick passes: nobody's loyalty has run out.
        cluster.exchange()
        #expect(cluster.replicas[1].core!.role == .leader && cluster.replicas[1].core!.mayUseLease)
        #expect(cluster.replicas[0].core!.leader == ReplicaID(2) && cluster.checks!.violation == nil)
    }

    /// Hosts look once a second, and the quorum is checked twice in it: they might always come just behind a check.
    @Test func aMemberThatAnswersIsHeardAtEveryMoment() {
        var cluster = Self.group(voters: 3, seed: 1)
        _ = cluster.calm(rounds: 12) { _, _ in false }
        for round in 0..<12 {
            cluster.replicas[0].core!.tick()
            let core = cluster.replicas[0].core!
            for member in 2...5 as ClosedRange<UInt64> {
                #expect(core.progress(of: ReplicaID(member))?.isRecentlyActive == true, "\(member) in round \(round)")
            }
            cluster.turn(0)
            cluster.exchange()
        }
    }

    @Test func aChangeIsRefusedWithItsReason() {
        var cluster = Self.group(voters: 3, seed: 1)
        let old = cluster.replicas[0].core!.configuration
        func ids(_ numbers: UInt64...) -> [ReplicaID] { numbers.map { ReplicaID($0) } }
        func refusal(_ wish: Configuration, at index: LogIndex? = nil, of position: Int = 0) -> ChangeRefusal? {
            var core = cluster.replicas[position].core!
            let last = core.lastIndex
            guard case .refused(let refusal) = core.change(to: wish, expecting: index ?? old.index) else { return nil }
            #expect(core.lastIndex == last && core.configuration == old)
            return refusal
        }
        let wish = Configuration(voters: ids(1, 2, 3, 4), learners: ids(5))
        #expect(refusal(wish) == nil)
        #expect(refusal(wish, of: 1) == .notLeader)
        #expect(refusal(wish, at: .zero) == .indexDiffers(current: old.index))
        #expect(refusal(old) == .unchanged)
        #expect(refusal(Configuration(voters: [], learners: ids(4, 5))) == .noVoters)
        #expect(refusal(Configuration(voters: ids(1, 2, 2))) == .malformed)
        #expect(refusal(Configuration(voters: ids(1, 2), learners: ids(2))) == .malformed)
        #expect(refusal(Configuration(voters: ids(0, 1, 2))) == .malformed)
        #expect(refusal(Configuration(voters: ids(1, 2), outgoing: ids(1, 2, 3))) == .malformed)
        #expect(
            refusal(Configuration(voters: ids(1, 2, 3), learners: (4...40).map { ReplicaID($0) })) == .tooMany)
        #expect(refusal(Configuration(voters: ids(1, 2, 3, 6))) == .notLearner(ReplicaID(6)))
        // 4 and 5 miss what comes now.
        for _ in 0..<2 { _ = cluster.replicas[0].core!.propose(kind: .command, payload: "x", logTime: .zero) }
        #expect(refusal(wish) == .notCaughtUp(ReplicaID(4), match: old.index))
        #expect(refusal(Configuration(voters: ids(1, 2), learners: ids(4, 5))) == nil)
        cluster.turn(0)
        cluster.exchange()
        #expect(refusal(wish) == nil)
        // 3 and 4 fall silent: only a check of the quorum tells, and the one before may have heard them.
        cluster.crash(2)
        cluster.crash(3)
        _ = cluster.calm(rounds: 9) { _, _ in false }
        #expect(refusal(wish) == .notHeard(ReplicaID(4)))
        #expect(refusal(Configuration(voters: ids(1, 3), learners: ids(4, 5))) == .noQuorum)
        #expect(refusal(Configuration(voters: ids(1, 2), learners: ids(4, 5))) == nil)
        // A host that knows that 2 is gone says so, where nobody ticks this leader any more.
        var alone = cluster.replicas[0].core!
        alone.unheard(ReplicaID(2))
        #expect(
            alone.change(to: Configuration(voters: ids(1, 2), learners: ids(4, 5)), expecting: old.index)
                == .refused(.noQuorum))
        #expect(alone.progress(of: ReplicaID(2))?.isRecentlyActive == false && !alone.quorumActive)
        alone.unheard(ReplicaID(1))
        #expect(alone.progress(of: ReplicaID(1))?.isRecentlyActive == true, "itself it always hears")
        var other = cluster
        #expect(other.replicas[0].core!.transfer(to: ReplicaID(2)) == .accepted)
        #expect(other.replicas[0].core!.change(to: wish, expecting: old.index) == .refused(.transferring))
        let smaller = Configuration(voters: ids(1, 2), learners: ids(5))
        guard case .accepted(let joint, _) = cluster.replicas[0].core!.change(to: smaller, expecting: old.index) else {
            Issue.record("refused")
            return
        }
        #expect(
            cluster.replicas[0].core!.change(to: wish, expecting: joint) == .refused(.inFlight(index: joint)))
        cluster.turn(0)
        cluster.exchange()
        let final = cluster.replicas[0].core!.configuration
        #expect(final.voters == smaller.voters && final.learners == smaller.learners && !final.isJoint)
        #expect(cluster.replicas[0].core!.committedConfiguration == final)
        #expect(
            cluster.replicas[0].core!.change(to: old, expecting: final.index) == .refused(.removedBefore(ReplicaID(3))))
        #expect(cluster.checks!.violation == nil)
    }
}
