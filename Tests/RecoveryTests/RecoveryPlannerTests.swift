// What a plan does with each way in which groups can lose their quorum.

import Primitives
import Recovery
import Ring
import Testing

@Suite struct RecoveryPlannerTests {
    private func refusal(_ body: () throws -> RecoveryPlan) -> RecoveryError? {
        do { _ = try body() } catch { return error as? RecoveryError }
        return nil
    }

    @Test func theOneSurvivorOfThreeGoesOnAlone() throws {
        let map = clusterMap(hosts: 3, meta: [1, 2, 3], groups: [[1, 2, 3], [1, 2, 3]])
        let plan = try RecoveryPlanner.plan(reports([3], map), cluster: newCluster)
        #expect(plan.cluster == newCluster && plan.formerCluster == formerCluster)
        #expect(plan.map.version == 8 && plan.map.featureLevel == FeatureLevel.recovery && plan.map.problem() == nil)
        #expect(plan.map.hosts.map(\.id.rawValue) == [3], "nobody else is in the new map")
        #expect(plan.lostHosts.map(\.host.rawValue) == [1, 2] && plan.lostHosts.allSatisfy(\.isRemoved))
        #expect(plan.groups.map(\.outcome) == [.recovered, .recovered, .recovered])
        for (number, order) in plan.hosts[0].orders.enumerated() {
            let lead = try #require(order.lead)
            #expect(order.replica == id(number, 3))
            #expect(lead.last == LogIndex(10) && lead.lastTerm == Term(2) && lead.term == Term(3))
            #expect(lead.configuration == Configuration(index: LogIndex(11), voters: [id(number, 3)]))
            #expect(lead.logTime == LogTime(77))
        }
        let record = try #require(plan.map.group(GroupID(1)))
        #expect(record.replicas == [ReplicaRecord(id: id(1, 3), host: HostID(3))])
        #expect(record.founders == [id(1, 3)] && record.configurationIndex == LogIndex(11))
        let group = plan.groups[1]
        #expect(group.certain == LogIndex(8) && group.last == LogIndex(10) && group.mayLose && !group.isComplete)
        let words = group.account.joined(separator: " ")
        #expect(words.contains("2 entries behind them (9 to 10) take effect"), "\(words)")
        #expect(words.contains("MAY BE LOST: writes behind entry 8"), "\(words)")
        #expect(words.contains("201 on host 1, 202 on host 2"), "\(words)")
    }

    @Test func theBestLogIsTheBaseAndTheOthersLearnFromIt() throws {
        let map = clusterMap(hosts: 5, meta: [1, 2, 3, 4, 5], groups: [[1, 2, 3, 4, 5]])
        let (longer, later) = (
            replica(1, 4, of: map, last: 20, lastTerm: 2),
            replica(1, 5, of: map, last: 12, lastTerm: 3, commit: 9, term: 6)
        )
        let plan = try RecoveryPlanner.plan(
            [report(4, map, [longer]), report(5, map, metaMap: map, [later, replica(0, 5, of: map)])],
            cluster: newCluster)
        let group = plan.groups[1]
        #expect(group.base == PlacedReplica(replica: id(1, 5), host: HostID(5)), "a later term beats a longer log")
        #expect(group.certain == LogIndex(9) && group.buried.isEmpty)
        let order = try #require(plan.hosts[1].orders.first { $0.group == GroupID(1) })
        #expect(order.lead?.term == Term(7), "above all terms that are known")
        #expect(
            order.lead?.configuration == Configuration(index: LogIndex(13), voters: [id(1, 5)], learners: [id(1, 4)]))
        #expect(plan.hosts[0].orders.isEmpty, "nobody but the base writes")
        let record = try #require(plan.map.group(GroupID(1)))
        #expect(
            record.replicas.map(\.membership) == [.learner, .voter] && record.replicas.allSatisfy { $0.role == .voter })
        // Of the meta group host 4 has nothing on disk yet: it is born there as no founder.
        #expect(plan.map.group(.meta)?.firstConfiguration(of: id(0, 4)).voters == [])
    }

    @Test func halfOfTheVotersMakeItWhole() throws {
        let map = clusterMap(hosts: 4, meta: [1, 2, 3, 4], groups: [[1, 2, 3, 4]])
        let plan = try RecoveryPlanner.plan(reports([3, 4], map), cluster: newCluster)
        #expect(plan.groups.allSatisfy { $0.outcome == .recovered && $0.isComplete && !$0.mayLose })
        #expect(plan.groups[1].account.joined().contains("Nothing that was acknowledged is lost"))
    }

    @Test func groupsWithAQuorumAreLeftAloneAndTheirLostHostsStay() throws {
        let map = clusterMap(hosts: 5, meta: [1, 2, 3], groups: [[1, 2, 4], [3, 4, 5]])
        let plan = try RecoveryPlanner.plan(reports([1, 2, 3], map), cluster: newCluster)
        #expect(plan.groups.map(\.outcome) == [.recovered, .kept, .recovered])
        #expect(plan.groups[0].hadQuorum && plan.groups[0].isComplete, "the meta group is written to in any case")
        #expect(plan.map.group(GroupID(1)) == map.group(GroupID(1)))
        #expect(plan.lostHosts.map(\.isRemoved) == [false, true] && plan.map.hosts.map(\.id.rawValue) == [1, 2, 3, 4])
        #expect(plan.hosts.allSatisfy { host in !host.orders.contains { $0.group == GroupID(1) } })
        #expect(plan.groups[2].base?.replica == id(2, 3))
    }

    @Test func anImpairedReplicaIsNeverTheBaseAndWhatItHadIsSaid() throws {
        let map = clusterMap(hosts: 5, meta: [5], groups: [[1, 2, 3, 4, 5]])
        let impaired = replica(1, 4, of: map, last: 30, lastTerm: 9, impairment: "it needs a snapshot")
        let plan = try RecoveryPlanner.plan(
            [
                report(4, map, [impaired]),
                report(5, map, metaMap: map, [replica(1, 5, of: map), replica(0, 5, of: map)]),
            ], cluster: newCluster)
        let group = plan.groups[1]
        #expect(group.base?.replica == id(1, 5) && group.impairedLast == LogIndex(30) && group.certain == LogIndex(8))
        #expect(group.account.joined().contains("up to 30"))
        #expect(plan.hosts[1].orders.last?.lead?.term == Term(10))
        // Of three, two are here, and the better log can't lead: there is no quorum, and the other goes on.
        let three = clusterMap(hosts: 3, meta: [3], groups: [[1, 2, 3]])
        let stuck = try RecoveryPlanner.plan(
            [
                report(2, three, [replica(1, 2, of: three, last: 30, lastTerm: 9, impairment: "damaged")]),
                report(3, three, metaMap: three, [replica(1, 3, of: three), replica(0, 3, of: three)]),
            ], cluster: newCluster)
        #expect(stuck.groups[1].outcome == .recovered && !stuck.groups[1].isComplete)
    }

    /// It would acknowledge to the new leader what it has and the leader has not: all that it knows to be committed.
    @Test func whoKnowsMoreToBeCommittedThanTheBaseHasIsGivenUp() throws {
        let map = clusterMap(hosts: 3, meta: [3], groups: [[1, 2, 3]])
        func plan(_ impaired: ReplicaReport, base: ReplicaReport) throws -> RecoveryPlan {
            try RecoveryPlanner.plan(
                [report(2, map, [impaired]), report(3, map, metaMap: map, [base, replica(0, 3, of: map)])],
                cluster: newCluster)
        }
        func expectGivenUp(_ plan: RecoveryPlan) throws {
            let group = plan.groups[1]
            #expect(group.base?.replica == id(1, 3) && group.buried.map(\.replica) == [id(1, 2)])
            #expect(!group.isComplete && group.account.joined().contains("up to"), "\(group.account)")
            #expect(plan.hosts[0].orders == [ReplicaOrder(group: GroupID(1), replica: id(1, 2))])
            let lead = try #require(plan.hosts[1].orders.first { $0.group == GroupID(1) }?.lead)
            #expect(lead.configuration.voters == [id(1, 3)] && lead.configuration.learners.isEmpty)
            let record = try #require(plan.map.group(GroupID(1)))
            let new = try #require(record.replicas.first { $0.host == HostID(2) })
            #expect(new.id >= map.nextReplica && new.membership == .absent && new.role == .voter)
        }
        // Beyond the end of the base's log.
        try expectGivenUp(
            plan(
                replica(1, 2, of: map, last: 4_100, lastTerm: 9, commit: 4_096, impairment: "damaged"),
                base: replica(1, 3, of: map, last: 61, commit: 60)))
        // Within it, where the base has an entry of a leader that was left behind.
        var other = replica(1, 3, of: map, last: 10, lastTerm: 5, commit: 4)
        other.terms = [TermRun(first: LogIndex(1), term: Term(2)), TermRun(first: LogIndex(6), term: Term(5))]
        try expectGivenUp(
            plan(replica(1, 2, of: map, last: 9, lastTerm: 6, commit: 8, impairment: "damaged"), base: other))
        // What the base has too makes nobody go.
        let known = try plan(
            replica(1, 2, of: map, last: 4_100, lastTerm: 9, commit: 10, impairment: "damaged"),
            base: replica(1, 3, of: map, last: 10, commit: 8))
        #expect(known.groups[1].buried.isEmpty && known.hosts[0].orders.isEmpty)
        let below = try plan(
            replica(1, 2, of: map, last: 30, lastTerm: 9, commit: 20, impairment: "damaged"),
            base: ReplicaReport(
                group: GroupID(1), replica: id(1, 3), term: Term(3), applied: LogIndex(25), commit: LogIndex(25),
                base: LogIndex(25), baseTerm: Term(3), terms: [], last: LogIndex(25),
                configurations: [Configuration(voters: [id(1, 1), id(1, 2), id(1, 3)])]))
        #expect(below.groups[1].buried.isEmpty)
    }

    @Test func aGroupThatNobodyHasIsRefusedByNameAndBeginsAnewWhenThatIsWanted() throws {
        let map = clusterMap(hosts: 4, meta: [3, 4], groups: [[1, 2], [3, 4]])
        let found = reports([3, 4], map)
        let error = try #require(refusal { try RecoveryPlanner.plan(found, cluster: newCluster) })
        #expect(error.code == .refused && error.description.contains("of group 1:"), "\(error)")
        #expect(error.description.contains("--accept-empty 1"), "\(error)")
        let plan = try RecoveryPlanner.plan(found, cluster: newCluster, acceptEmpty: [GroupID(1)])
        #expect(plan.groups.map(\.outcome) == [.recovered, .emptied, .kept])
        let record = try #require(plan.map.group(GroupID(1)))
        #expect(
            record.replicas.map(\.host.rawValue).sorted() == [3, 4] && record.founders == record.replicas.map(\.id))
        #expect(record.replicas.allSatisfy { $0.id >= map.nextReplica }, "an id is never given again")
        #expect(plan.map.ring == map.ring && plan.groups[1].mayLose)
        let needless = refusal {
            try RecoveryPlanner.plan(found, cluster: newCluster, acceptEmpty: [GroupID(1), GroupID(2)])
        }
        #expect(needless?.description.contains("group 2 is not lost") == true)
    }

    /// What a host put aside as damaged may be the last that there is of it.
    @Test func nothingBeginsAnewBesideAStoreThatWasPutAside() throws {
        let map = clusterMap(hosts: 4, meta: [3, 4], groups: [[1, 2], [3, 4], [1, 4]])
        var found = reports([3, 4], map)
        found[1].replicas.removeAll { $0.group == GroupID(3) }
        func plan() throws -> RecoveryPlan {
            try RecoveryPlanner.plan(found, cluster: newCluster, acceptEmpty: [GroupID(1), GroupID(3)])
        }
        #expect(try plan().groups.map(\.outcome) == [.recovered, .emptied, .kept, .emptied])
        // Group 1 was never on host 3.
        found[0].storesAside = ["store.damaged-4"]
        #expect(try plan().groups.map(\.outcome) == [.recovered, .emptied, .kept, .emptied])
        found[1].storesAside = ["store.damaged-7"]
        // Who has not asked for it is told so first.
        for accepted in [[GroupID(1), GroupID(3)], []] as [Set<GroupID>] {
            let error = try #require(
                refusal { try RecoveryPlanner.plan(found, cluster: newCluster, acceptEmpty: accepted) })
            #expect(error.code == .refused && error.description.contains("group 3"), "\(error)")
            #expect(error.description.contains("store.damaged-7") && error.description.contains("host 4"), "\(error)")
        }
    }

    /// A replica without a single entry is nothing to go on from, and one whose journal is damaged neither.
    @Test func whoHasNothingSoundIsNobody() throws {
        let map = clusterMap(hosts: 3, meta: [3], groups: [[1, 2, 3], [1, 2, 3]])
        let found = report(
            3, map, metaMap: map,
            [
                replica(0, 3, of: map), replica(1, 3, of: map, last: 0, lastTerm: 0, commit: 0),
                replica(2, 3, of: map, impairment: "damaged", isMute: true),
            ])
        #expect(
            refusal { try RecoveryPlanner.plan([found], cluster: newCluster) }?.description.contains("groups 1, 2:")
                == true)
        let plan = try RecoveryPlanner.plan([found], cluster: newCluster, acceptEmpty: [GroupID(1), GroupID(2)])
        #expect(plan.hosts[0].orders.filter { $0.lead == nil }.map(\.replica) == [id(1, 3), id(2, 3)])
        #expect(plan.groups[1].account.joined().contains("DELETED"))
    }

    @Test func theMetaGroupBeginsAnewFromTheNewestCopy() throws {
        let old = clusterMap(hosts: 4, meta: [1, 2], groups: [[2, 3, 4]], version: 5)
        var new = old
        new.version = 9
        new.nextReplica = ReplicaID(900)
        let plan = try RecoveryPlanner.plan(
            [report(3, old, [replica(1, 3, of: old)]), report(4, new, [replica(1, 4, of: new)])], cluster: newCluster,
            acceptEmpty: [.meta])
        #expect(plan.formerMapVersion == 9 && plan.map.version == 10)
        #expect(plan.groups.map(\.outcome) == [.emptied, .kept])
        #expect(plan.map.group(.meta)?.founders == [ReplicaID(900), ReplicaID(901)])
        #expect(plan.map.nextReplica == ReplicaID(902))
    }

    @Test func theMapOfTheMetaGroupsLogCountsUnlessAHostHasSeenALaterOne() throws {
        let copy = clusterMap(hosts: 3, meta: [1, 2, 3], groups: [[1, 2, 3]], version: 5)
        var log = copy
        log.version = 6
        log.groups[1].weight = 50
        let replicas = [replica(0, 3, of: copy), replica(1, 3, of: copy)]
        let plan = try RecoveryPlanner.plan([report(3, copy, metaMap: log, replicas)], cluster: newCluster)
        #expect(plan.formerMapVersion == 6 && plan.map.group(GroupID(1))?.weight == 50)
        let later = try RecoveryPlanner.plan([report(3, log, metaMap: copy, replicas)], cluster: newCluster)
        #expect(later.formerMapVersion == 6 && later.map.group(GroupID(1))?.weight == 50)
    }

    /// A leader of the meta group that was left behind has changes of higher versions that never were. What a host was
    /// told was.
    @Test func changesOfTheMapThatNeverWereDoNotBeatACopy() throws {
        let first = clusterMap(hosts: 5, meta: [1, 2, 3], groups: [[1, 2, 3]], version: 5)
        var copy = first
        copy.version = 7
        copy.replace(
            GroupRecord(
                id: GroupID(2), replicas: [ReplicaRecord(id: ReplicaID(950), host: HostID(4))],
                preferredLeader: ReplicaID(950)))
        (copy.nextGroup, copy.nextReplica) = (GroupID(3), ReplicaID(951))
        #expect(copy.problem() == nil)
        var behind = first
        behind.version = 9
        behind.groups[1].weight = 1
        var left = report(1, first, metaMap: behind, [replica(0, 1, of: first), replica(1, 1, of: first)])
        left.metaVersions = [MapVersion(first), MapVersion(behind)]
        let other = report(
            4, copy,
            [
                ReplicaReport(
                    group: GroupID(2), replica: ReplicaID(950), term: Term(1), applied: LogIndex(1),
                    commit: LogIndex(1),
                    terms: [TermRun(first: LogIndex(1), term: Term(1))], last: LogIndex(1),
                    configurations: [Configuration(voters: [ReplicaID(950)])])
            ])
        let plan = try RecoveryPlanner.plan([left, other], cluster: newCluster)
        #expect(plan.formerMapVersion == 7 && plan.map.version == 10)
        #expect(plan.groups.map(\.outcome) == [.recovered, .recovered, .kept] && plan.strays.isEmpty)
        // The log goes on from the copy: it counts.
        left.metaVersions = [MapVersion(first), MapVersion(copy), MapVersion(behind)]
        let later = try RecoveryPlanner.plan([left, other], cluster: newCluster)
        #expect(later.formerMapVersion == 9)
        // What the map does not have is listed, and no number is given again.
        #expect(later.strays.map(\.replica) == [ReplicaID(950)] && later.map.nextGroup == GroupID(3))
        #expect(later.map.nextReplica > ReplicaID(950))
    }

    /// An entry is committed by a later one of its leader's term: who catches up knows it before its own log says so, and
    /// the log of a leader that was left behind ends in a later term.
    @Test func whatIsKnownToBeCommittedBeatsALaterTerm() throws {
        let map = clusterMap(hosts: 5, meta: [4], groups: [[1, 2, 3, 4, 5]])
        var behind = replica(1, 5, of: map, last: 12, lastTerm: 9, commit: 4)
        behind.terms = [TermRun(first: LogIndex(1), term: Term(2)), TermRun(first: LogIndex(6), term: Term(9))]
        let catchesUp = replica(1, 4, of: map, last: 8, commit: 8, term: 10)
        let plan = try RecoveryPlanner.plan(
            [report(4, map, metaMap: map, [replica(0, 4, of: map), catchesUp]), report(5, map, [behind])],
            cluster: newCluster)
        #expect(plan.groups[1].base?.replica == id(1, 4) && plan.groups[1].certain == LogIndex(8))
        #expect(plan.hosts[0].orders.last?.lead?.term == Term(11))
    }

    /// A replica that was removed, or of which nothing can be read, does not vote as if it had never begun.
    @Test func whoIsGoneIsNoSurvivor() throws {
        let map = clusterMap(hosts: 3, meta: [1], groups: [[1, 2, 3]])
        var second = report(2, map, [])
        let first = report(1, map, metaMap: map, [replica(0, 1, of: map), replica(1, 1, of: map)])
        #expect(refusal { try RecoveryPlanner.plan([first, second], cluster: newCluster) }?.code == .refused)
        second.gone = [id(1, 2)]
        let plan = try RecoveryPlanner.plan([first, second], cluster: newCluster)
        #expect(plan.groups[1].outcome == .recovered && plan.groups[1].lost.map(\.host.rawValue) == [2, 3])
    }

    @Test func reportsThatNoHostMakesAreToldByWhatIsWrong() throws {
        let map = clusterMap(hosts: 3, meta: [1, 2, 3], groups: [[1, 2, 3]])
        let sound = reports([3], map)[0]
        #expect(sound.problem() == nil)
        func expect(_ change: (inout HostReport) -> Void, _ words: String) {
            var report = sound
            change(&report)
            #expect(report.problem()?.contains(words) == true, "\(report.problem() ?? "nothing")")
        }
        expect({ $0.greatestReplica = ReplicaID(.max) }, "not below 2^62")
        expect({ $0.replicas[0].term = Term(.max) }, "not below 2^62")
        expect({ $0.replicas[0].configurations = [] }, "no configuration")
        expect({ $0.replicas[0].terms = [] }, "begin with its log")
        expect({ $0.replicas[0].commit = LogIndex(11) }, "ends before")
        expect({ $0.replicas[0].terms.append(TermRun(first: LogIndex(4), term: Term(1))) }, "out of order")
        expect({ $0.replicas.reverse() }, "out of order")
    }

    /// Four of five members of the meta group are here: three of them could still elect one of themselves under the old
    /// configuration, beside the base. They come back under new ids.
    @Test func whoCouldElectAnotherLeaderIsGivenUp() throws {
        let map = clusterMap(hosts: 7, meta: [1, 2, 3, 4, 5], groups: [[5, 6, 7]])
        let plan = try RecoveryPlanner.plan(reports([1, 2, 3, 4, 6], map), cluster: newCluster)
        let meta = plan.groups[0]
        #expect(meta.outcome == .recovered && meta.base?.replica == id(0, 1))
        #expect(meta.buried.map(\.replica) == [id(0, 2), id(0, 3), id(0, 4)])
        let lead = try #require(plan.hosts[0].orders[0].lead)
        #expect(lead.configuration == Configuration(index: LogIndex(11), voters: [id(0, 1)]))
        #expect(plan.hosts[1].orders == [ReplicaOrder(group: .meta, replica: id(0, 2))])
        let record = try #require(plan.map.group(.meta))
        #expect(record.replicas.map(\.host.rawValue) == [1, 2, 3, 4])
        #expect(record.replicas.dropFirst().allSatisfy { $0.id >= map.nextReplica && $0.membership == .absent })
    }

    /// A change of members that only the survivor with the best log knows: by its configuration the quorum is lost, but
    /// the two others can go on by the one before, and lose nothing.
    @Test func aConfigurationThatWasNeverCommittedDoesNotMakeAGroupLost() throws {
        let map = clusterMap(hosts: 5, meta: [1], groups: [[1, 2, 3, 4, 5]])
        let old = Configuration(index: LogIndex(5), voters: [id(1, 1), id(1, 2), id(1, 3)])
        let joint = Configuration(index: LogIndex(11), voters: [id(1, 1), id(1, 4), id(1, 5)], outgoing: old.voters)
        let found = [
            report(
                1, map, metaMap: map,
                [replica(0, 1, of: map), replica(1, 1, of: map, last: 11, configurations: [old, joint])]),
            report(2, map, [replica(1, 2, of: map, configurations: [old])]),
            report(3, map, [replica(1, 3, of: map, configurations: [old])]),
        ]
        #expect(
            refusal { try RecoveryPlanner.plan(found, cluster: newCluster) }?.description.contains("no group has lost")
                == true)
    }

    @Test func aHostWithADamagedJournalCountsAsLost() throws {
        let map = clusterMap(hosts: 3, meta: [1, 2, 3], groups: [[1, 2, 3]])
        var found = reports([2, 3], map)
        #expect(refusal { try RecoveryPlanner.plan(found, cluster: newCluster) }?.code == .refused)
        found[0].isJournalDamaged = true
        let plan = try RecoveryPlanner.plan(found, cluster: newCluster)
        #expect(plan.hosts.map(\.host.rawValue) == [3] && plan.lostHosts.map(\.isDamaged) == [false, true])
        found[1].isJournalDamaged = true
        #expect(
            refusal { try RecoveryPlanner.plan(found, cluster: newCluster) }?.description.contains(
                "no host has a sound") == true)
    }

    @Test func reportsThatDoNotBelongTogetherAreRefused() throws {
        let map = clusterMap(hosts: 3, meta: [1, 2, 3], groups: [[1, 2, 3]])
        let found = reports([3], map)
        func says(_ reports: [HostReport], _ words: String) {
            let error = refusal { try RecoveryPlanner.plan(reports, cluster: newCluster) }
            #expect(
                error?.code == .reports && error?.description.contains(words) == true, "\(String(describing: error))")
        }
        says([], "found none")
        says(found + found, "two reports")
        var other = reports([2], map)
        other[0].cluster = newCluster
        says(found + other, "reports of one cluster")
        other = reports([2], map)
        other[0].incarnation = Incarnation(5)
        says(found + other, "another incarnation")
    }

    @Test func aPlanIsTheSameWhateverTheOrderOfTheReports() throws {
        let map = clusterMap(hosts: 5, meta: [1, 2, 3, 4, 5], groups: [[1, 2, 3, 4, 5], [1, 2, 3]])
        let found = reports([4, 5, 3], map)
        #expect(
            try RecoveryPlanner.plan(found, cluster: newCluster)
                == RecoveryPlanner.plan(found.reversed(), cluster: newCluster))
    }
}
