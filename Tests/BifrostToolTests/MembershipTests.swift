// Which host somebody means, what is asked for on which map, and what a change waits for.

import BifrostTool
import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// Four hosts; a group of three replicas, 4 to 6 on hosts 1 to 3, which 4 leads; the meta group beside it.
private func firstMap() -> ClusterMap {
    let hosts = (1...4).map {
        HostRecord(
            id: HostID(UInt64($0)), name: $0 < 3 ? "same" : "h\($0)", address: "127.0.0.1:700\($0)",
            incarnation: Incarnation(UInt64(90 + $0)), featureLevel: FeatureLevel.current)
    }
    func group(_ id: UInt32, from first: UInt64) -> GroupRecord {
        GroupRecord(
            id: GroupID(id), weight: id == 0 ? 0 : 100,
            replicas: (0..<3).map { ReplicaRecord(id: ReplicaID(first + $0), host: HostID($0 + 1)) },
            preferredLeader: ReplicaID(first))
    }
    let map = ClusterMap(
        cluster: ClusterID(high: 1, low: 2), version: 5, featureLevel: FeatureLevel.current, hosts: hosts,
        groups: [group(0, from: 1), group(1, from: 4)],
        ring: SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count)), nextHost: HostID(5),
        nextGroup: GroupID(2), nextReplica: ReplicaID(7))
    precondition(map.problem() == nil, map.problem() ?? "")
    return map
}

extension ClusterMap {
    /// The same one version later.
    fileprivate func changed(_ change: (inout ClusterMap) -> Void) -> ClusterMap {
        var map = self
        change(&map)
        map.version += 1
        precondition(map.problem() == nil, map.problem() ?? "")
        return map
    }

    fileprivate func group(_ id: UInt32, _ change: (inout GroupRecord) -> Void) -> ClusterMap {
        changed { map in
            var group = map.group(GroupID(id))!
            change(&group)
            map.nextReplica = max(map.nextReplica, ReplicaID((group.replicas.last?.id.rawValue ?? 0) + 1))
            map.replace(group)
        }
    }

    /// What its hosts say if all is well: the preferred replicas lead, and all have applied `applied`.
    fileprivate func accounts(applied: [ReplicaID: UInt64] = [:], silent: HostID? = nil) -> [HostAccount] {
        hosts.map { host in
            guard host.id != silent else { return HostAccount(host: host, status: nil, problem: "connection refused") }
            var status = HostStatus()
            status.cluster = cluster
            status.host = host.id
            status.replicas = replicas(on: host.id).map { group, replica in
                var status = ReplicaStatus(group: group.id, replica: replica)
                status.role = group.preferredLeader == replica ? .leader : .follower
                status.isQuorumActive = true
                status.term = Term(2)
                status.leader = group.preferredLeader
                status.commitIndex = LogIndex(2_000)
                status.appliedIndex = LogIndex(applied[replica] ?? 2_000)
                return status
            }
            return HostAccount(host: host, status: status)
        }
    }
}

private func message(_ body: () throws -> Void) -> String {
    do {
        try body()
        return ""
    } catch let error as ToolError {
        return "\(error.status.rawValue) \(error.message)"
    } catch {
        return "\(error)"
    }
}

@Suite struct MapNamesTests {
    private let map = firstMap()

    @Test func aHostIsNamedByIdNameOrAddress() throws {
        #expect(try MapNames.host("3", in: map).id == HostID(3))
        #expect(try MapNames.host("h3", in: map).id == HostID(3))
        #expect(try MapNames.host("127.0.0.1:7003", in: map).id == HostID(3))
        #expect(try MapNames.hosts(["h4", "1"], in: map).map(\.id) == [HostID(4), HostID(1)])
    }

    @Test func aNameThatFitsNoneOrSeveralIsRefusedWithThoseThatThereAre() {
        #expect(
            message { _ = try MapNames.host("same", in: map) }
                == "64 'same' fits 2 hosts: 1 (same, 127.0.0.1:7001), 2 (same, 127.0.0.1:7002); name one by its address"
        )
        let none = message { _ = try MapNames.host("7", in: map) }
        #expect(
            none.hasPrefix("64 there is no host '7'; expected") && none.contains("4 (h4, 127.0.0.1:7004)"), "\(none)")
        #expect(message { _ = try MapNames.hosts(["3", "h3"], in: map) }.contains("named twice"))
    }

    @Test func aGroupOrReplicaThatIsNotThereIsRefused() {
        #expect(
            message { _ = try MapNames.group(GroupID(9), in: map) }
                == "64 there is no group 9; there are 2 groups up to 1")
        let group = map.group(GroupID(1))!
        #expect(
            message { _ = try MapNames.replica(ReplicaID(2), of: group) }
                == "64 group 1 has no replica 2; it has: 4 on host 1, 5 on host 2, 6 on host 3")
        #expect(message { _ = try MapNames.replica(on: map.hosts[3], of: group) }.contains("no replica on host 4"))
    }
}

@Suite struct MapWishTests {
    private let map = firstMap()
    private let group = GroupID(1)

    private func add(_ host: UInt64, _ role: ReplicaRecord.Role = .voter, after: UInt64 = 0) -> MapWish {
        .addReplica(group, host: HostID(host), role: role, successorOf: ReplicaID(after))
    }

    @Test func aReplicaIsAskedForOnceWhoeverAskedBefore() throws {
        #expect(
            try add(4).decide(map)
                == .ask(.addReplica(group, host: HostID(4), role: .voter, successorOf: .none)))
        // Somebody else was faster, or the answer was lost: both look alike, and neither asks for another.
        let next = map.group(1) {
            $0.replicas.append(ReplicaRecord(id: ReplicaID(7), host: HostID(4), membership: .absent))
        }
        let there = MapWish.Decision.there(MapWish.Subject(group: group, replica: ReplicaID(7)))
        #expect(try add(4).decide(next, past: .refused) == there)
        #expect(try add(4).decide(next, past: .unknown(asked: map)) == there)
        #expect(try add(4).decide(next) == there)
        // On the same map it is the same question again: of all of one version at most one takes effect.
        #expect(try add(4).decide(map, past: .unknown(asked: map)) == add(4).decide(map))
    }

    @Test func aHostWithAnotherKindOfReplicaIsNotWhatWasWished() {
        let learner = map.group(1) {
            $0.replicas.append(ReplicaRecord(id: ReplicaID(7), host: HostID(4), role: .learner, membership: .absent))
        }
        let text = message { _ = try add(4).decide(learner) }
        #expect(text.hasPrefix("1 host 4 has replica 7") && text.contains("'bifrost group promote 1 7'"), "\(text)")
        #expect(message { _ = try add(2, .learner).decide(map) }.contains("'bifrost group demote 1 5'"))
        #expect(message { _ = try add(2, after: 4).decide(map) }.contains("not the successor of replica 4"))
    }

    /// The host has a replica, as behind a move that is over; but of that move the named one was no part.
    @Test func aPredecessorThatNeverWasIsNamed() {
        for id in [9, 7, 2] as [UInt64] {
            #expect(message { _ = try add(2, after: id).decide(map) }.hasPrefix("64 group 1 has no replica \(id)"))
        }
    }

    @Test func aGroupThatWasDeletedBeforeIsAndOneThatNeverWasIsAMistake() throws {
        let wish = MapWish.deleteGroup(GroupID(2))
        #expect(message { _ = try wish.decide(map) }.hasPrefix("64 there is no group 2"))
        let deleted = map.changed { $0.nextGroup = GroupID(3) }
        #expect(try wish.decide(deleted) == .there(MapWish.Subject(group: GroupID(2))))
        #expect(try MapWish.deleteGroup(group).decide(deleted) == .ask(.deleteGroup(group)))
    }

    @Test func itIsSaidWhatFewReplicasTolerate() {
        #expect(ReplicaCount.note(1)?.contains("no loss") == true && ReplicaCount.note(2)?.contains("no loss") == true)
        #expect(ReplicaCount.note(3) == nil && ReplicaCount.note(5) == nil)
        #expect(ReplicaCount.note(4) == "4 replicas tolerate the loss of 1, as 3 do: a majority is 3")
    }

    @Test func aReplicaThatIsStillLeavingDoesNotCount() throws {
        let leaving = map.group(1) { $0.replicas[1].role = .leaving }
        #expect(
            try add(2).decide(leaving)
                == .ask(.addReplica(group, host: HostID(2), role: .voter, successorOf: .none)))
    }

    @Test func aMoveThatIsOverIsThere() throws {
        let moved = map.group(1) {
            $0.replicas.remove(at: 1)
            $0.replicas.append(ReplicaRecord(id: ReplicaID(7), host: HostID(4)))
        }
        #expect(
            try add(4, after: 5).decide(moved, past: .unknown(asked: map))
                == .there(MapWish.Subject(group: group, replica: ReplicaID(7))))
    }

    @Test func whatIsGoneIsReachedOnALaterLookAndAMistakeOnTheFirst() throws {
        let without = map.group(1) {
            $0.replicas.remove(at: 1)
        }
        let leave = MapWish.setRole(group, ReplicaID(5), .leaving)
        #expect(try leave.decide(map) == .ask(.setRole(group, ReplicaID(5), .leaving)))
        #expect(try leave.decide(without, past: .refused) == .there(.init(group: group, replica: ReplicaID(5))))
        #expect(message { _ = try leave.decide(without) }.hasPrefix("64 group 1 has no replica 5"))
        let demote = MapWish.setRole(group, ReplicaID(5), .learner)
        #expect(
            message { _ = try demote.decide(without, past: .refused) }.hasPrefix("1 replica 5 of group 1 was removed"))
        let replace = MapWish.replaceReplica(group, ReplicaID(5))
        #expect(try replace.decide(without, past: .refused) == .there(.init(group: group, replica: ReplicaID(5))))
    }

    @Test func aGroupWhoseAnswerWasLostIsFoundByTheNumberThatItWouldHave() throws {
        let wish = MapWish.createGroup(weight: 100, hosts: [HostID(2), HostID(1)])
        let ask = MapWish.Decision.ask(.createGroup(weight: 100, hosts: [HostID(2), HostID(1)], preferred: 0))
        #expect(try wish.decide(map) == ask)
        let replicas = [HostID(1), HostID(2)].enumerated().map {
            ReplicaRecord(id: ReplicaID(7 + UInt64($0)), host: $1)
        }
        let made = map.changed {
            $0.replace(GroupRecord(id: GroupID(2), replicas: replicas, preferredLeader: ReplicaID(8)))
            $0.nextGroup = GroupID(3)
            $0.nextReplica = ReplicaID(9)
        }
        #expect(try wish.decide(made, past: .unknown(asked: map)) == .there(.init(group: GroupID(2))))
        // Refused for certain: it is somebody else's.
        #expect(try wish.decide(made, past: .refused) == ask)
        // With other hosts it is somebody else's too.
        let other = MapWish.createGroup(weight: 100, hosts: [HostID(1), HostID(3)])
        guard case .ask = try other.decide(made, past: .unknown(asked: map)) else {
            Issue.record("another's group was taken for the one that was asked for")
            return
        }
    }

    @Test func aHostWithReplicasIsNotRemovedAndOneThatIsGoneIs() throws {
        let text = message { _ = try MapWish.removeHost(HostID(2)).decide(map) }
        #expect(text.hasPrefix("1 host 2 has replicas of 2 groups (meta, 1): let it drain"), "\(text)")
        #expect(try MapWish.removeHost(HostID(4)).decide(map) == .ask(.removeHost(HostID(4))))
        let without = map.changed { $0.removeHost(HostID(4)) }
        #expect(try MapWish.removeHost(HostID(4)).decide(without, past: .refused) == .there(.init()))
    }

    @Test func aLeaderIsPreferredOnce() throws {
        let wish = MapWish.preferLeader(group, ReplicaID(5))
        #expect(try wish.decide(map) == .ask(.preferLeader(group, ReplicaID(5))))
        let preferred = map.group(1) { $0.preferredLeader = ReplicaID(5) }
        #expect(try wish.decide(preferred) == .there(.init(group: group, replica: ReplicaID(5))))
        let without = preferred.group(1) {
            $0.replicas.remove(at: 1)
            $0.preferredLeader = ReplicaID(4)
        }
        #expect(message { _ = try wish.decide(without, past: .refused) }.contains("was removed meanwhile"))
    }

    @Test func aHostDrainsOnce() throws {
        let wish = MapWish.setHostState(HostID(2), .draining)
        #expect(try wish.decide(map) == .ask(.setHostState(HostID(2), .draining)))
        let draining = map.changed { $0.hosts[1].state = .draining }
        #expect(try wish.decide(draining) == .there(.init()))
    }

    /// A refusal is final if this version of the map gives it too; otherwise it is about a newer one.
    @Test func aRefusalTellsWhichMapItIsAbout() {
        let change = MapChange.addReplica(group, host: HostID(4), role: .voter, successorOf: .none)
        #expect(change.refusal(by: map) == nil)
        let draining = map.changed { $0.hosts[3].state = .draining }
        #expect(
            change.refusal(by: draining)
                == .invalid("host 4 is draining and gets no replicas: choose another, or make it active again"))
    }
}

@Suite struct MapGoalTests {
    private let map = firstMap()
    private let group = GroupID(1)

    private func coming(_ membership: ReplicaRecord.Membership, after: UInt64 = 0) -> ClusterMap {
        map.group(1) {
            $0.replicas.append(
                ReplicaRecord(
                    id: ReplicaID(7), host: HostID(4), membership: membership, successorOf: ReplicaID(after)))
        }
    }

    @Test func aNewReplicaIsWaitedForWithHowFarBehindItIs() {
        let goal = MapGoal.settled(group, ReplicaID(7))
        let learning = coming(.learner)
        #expect(
            goal.standing(learning, learning.accounts(applied: [ReplicaID(7): 766]))
                == .open(["group 1: replica 7 on host 4, which is to vote: it catches up; 1,234 entries behind"]))
        #expect(
            goal.standing(learning, learning.accounts(silent: HostID(4)))
                == .open(["group 1: replica 7 on host 4, which is to vote: it catches up; host 4 does not answer"]))
        #expect(
            goal.standing(learning, learning.accounts(silent: HostID(1)))
                == .open([
                    "group 1: replica 7 on host 4, which is to vote: it catches up; the group has no leader at the moment"
                ]))
        let voting = coming(.voter)
        #expect(goal.standing(voting, voting.accounts()) == .done)
        guard case .failed = goal.standing(map, map.accounts()) else {
            Issue.record("a replica that is not in the map is waited for")
            return
        }
    }

    @Test func aMoveIsOverWhenTheOldReplicaIsGone() {
        let goal = MapGoal.settled(group, ReplicaID(7))
        let both = coming(.voter, after: 5)
        #expect(
            goal.standing(both, both.accounts())
                == .open(["group 1: replica 5 on host 2, which is to leave next"]))
        let leaving = both.group(1) { $0.replicas[1].role = .leaving }
        guard case .open(let lines) = goal.standing(leaving, leaving.accounts()) else {
            Issue.record("the move is over with the old replica still there")
            return
        }
        #expect(lines == ["group 1: replica 5 on host 2, which is to leave: the group's leader has not removed it yet"])
        let over = leaving.group(1) {
            $0.replicas[3].successorOf = .none
            $0.replicas.remove(at: 1)
        }
        #expect(goal.standing(over, over.accounts()) == .done)
    }

    @Test func aReplacementIsOverWhenAnotherVotesOnTheHost() {
        let goal = MapGoal.replaced(group, ReplicaID(5), on: HostID(2))
        let begun = map.group(1) { $0.replicas[1].role = .replaced }
        guard case .open = goal.standing(begun, begun.accounts()) else {
            Issue.record("over before it began")
            return
        }
        let coming = begun.group(1) {
            $0.replicas.remove(at: 1)
            $0.replicas.append(ReplicaRecord(id: ReplicaID(7), host: HostID(2), membership: .absent))
        }
        guard case .open = goal.standing(coming, coming.accounts()) else {
            Issue.record("over with a replica that does not vote yet")
            return
        }
        let over = coming.group(1) { $0.replicas[2].membership = .voter }
        #expect(goal.standing(over, over.accounts()) == .done)
    }

    @Test func aHandoverIsOverWhenTheRightOneLeads() {
        let accounts = map.accounts()
        #expect(MapGoal.leads(group, ReplicaID(4), from: HostID(2)).standing(map, accounts) == .done)
        #expect(
            MapGoal.leads(group, ReplicaID(5), from: HostID(1)).standing(map, accounts)
                == .open(["group 1: host 1 leads it still"]))
        #expect(MapGoal.leads(group, .none, from: HostID(2)).standing(map, accounts) == .done)
        #expect(MapGoal.leads(group, .none, from: HostID(1)).standing(map, accounts) != .done)
    }

    @Test func aDrainingHostSaysOfEachReplicaWhatItWaitsFor() {
        let goal = MapGoal.empty(HostID(2))
        guard case .failed = goal.standing(map, map.accounts()) else {
            Issue.record("a host that is not draining is waited for")
            return
        }
        let draining = map.changed { $0.hosts[1].state = .draining }
        #expect(
            goal.standing(draining, draining.accounts())
                == .open([
                    "the meta group: a successor of replica 2 is to come, as on host 4",
                    "group 1: a successor of replica 5 is to come, as on host 4",
                ]))
        let half = draining.group(1) {
            $0.replicas.append(
                ReplicaRecord(id: ReplicaID(7), host: HostID(4), membership: .learner, successorOf: ReplicaID(5)))
        }.group(0) { $0.replicas.remove(at: 1) }
        #expect(
            goal.standing(half, half.accounts(applied: [ReplicaID(7): 1_999]))
                == .open(["group 1: replica 7 on host 4, which is to vote: it catches up; 1 entry behind"]))
        let stuck = draining.changed { $0.hosts[3].weight = 0 }
        guard case .open(let lines) = goal.standing(stuck, stuck.accounts()) else {
            Issue.record("done with replicas on the host")
            return
        }
        #expect(lines.allSatisfy { $0.contains("a host that can take replica") && $0.contains("weight 0") }, "\(lines)")
        let empty = half.group(1) {
            $0.replicas.remove(at: 1)
            $0.replicas[2] = ReplicaRecord(id: ReplicaID(7), host: HostID(4))
        }
        #expect(goal.standing(empty, empty.accounts()) == .done)
    }

    @Test func spreadLeadersAreWaitedForWhereTheyMayLead() {
        let goal = MapGoal.preferredLead
        #expect(goal.standing(map, map.accounts()) == .done)
        let spread = map.group(1) { $0.preferredLeader = ReplicaID(5) }
        #expect(
            goal.standing(spread, map.accounts()) == .open(["group 1: host 1 leads it still, and host 2 is to"]))
        #expect(
            goal.standing(spread, map.accounts(silent: HostID(2)))
                == .open(["group 1: host 1 leads it still, and host 2 is to; host 2 does not answer"]))
        // Who drains leads nothing, whoever prefers it.
        let draining = spread.changed { $0.hosts[1].state = .draining }
        #expect(goal.standing(draining, map.accounts()) == .done)
    }

    @Test func aPlannedLeaderIsOnlyAskedForWhereItMayLead() throws {
        func decide(_ map: ClusterMap, _ replica: UInt64) throws -> MapWish.Decision {
            try MapWish.spreadLeader(GroupID(1), ReplicaID(replica)).decide(map, past: .refused)
        }
        func there(_ replica: UInt64) -> MapWish.Decision {
            .there(MapWish.Subject(group: GroupID(1), replica: ReplicaID(replica)))
        }
        #expect(try decide(map, 5) == .ask(.preferLeader(GroupID(1), ReplicaID(5))))
        #expect(try decide(map, 4) == there(4))
        // What was planned a moment ago makes no sense any more, and somebody else's change stands.
        #expect(try decide(map, 9) == there(9))
        #expect(try decide(map.changed { $0.hosts[1].state = .draining }, 5) == there(5))
        #expect(try decide(map.group(1) { $0.replicas[1].role = .leaving }, 5) == there(5))
    }

    @Test func aLineSaysHowMuchIsLeftAndWhatComesFirst() {
        #expect(
            StandingLine(what: "draining host 2", noun: "replica", open: ["a", "b", "c"]).text
                == "draining host 2: 3 replicas to go; a, and 2 more")
        #expect(StandingLine(what: "x", noun: "group", open: ["a"]).text == "x: 1 group to go; a")
    }
}
