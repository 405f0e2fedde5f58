// What a start makes of a disk that lost something.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Storage
import Testing

@Suite struct RestorationTests {
    private let identity = HostIdentity(
        cluster: ClusterID(high: 1, low: 2), host: HostID(1), incarnation: Incarnation(5), featureLevel: 1, journal: 99)

    private func birth(_ number: UInt64) -> ReplicaBirth {
        ReplicaBirth(
            group: GroupID(UInt32(number)), replica: ReplicaID(number),
            configuration: Configuration(voters: [ReplicaID(number)]))
    }

    private func restored(
        _ birth: ReplicaBirth, _ journal: Journal<SimulatedDisk>, _ store: Store<SimulatedDisk>
    ) throws -> RestoredReplica {
        try RestoredReplica.restored([birth], logs: journal.recovered(), journal: journal, store: store)[0]
    }

    /// The value with everything that a replica ever wrote is gone: the journal does not know it any more, and it must
    /// not be taken for one that never voted.
    @Test func aReplicaThatADamagedJournalDoesNotShowIsMute() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try Store(
            disk: SimulatedDisk(seed: 2),
            formatting: StoreIdentity(cluster: identity.cluster, host: identity.host, journal: 99))
        var journal = try Journal(disk: disk, formatting: identity)
        for number in [1, 2] as [UInt64] {
            let vote = HardState(term: Term(8), vote: ReplicaID(number), commit: .zero)
            _ = try journal.append([.hardState(GroupID(UInt32(number)), ReplicaID(number), vote)])
        }
        journal = try Journal(disk: disk, formatting: identity)
        let sound = try restored(birth(1), journal, store)
        #expect(!sound.plan.isMute && sound.plan.start.hardState.term == Term(8))
        let new = try restored(birth(3), journal, store)
        #expect(!new.plan.isMute)
        // Who was here before may have promised its vote to a leader, and waits that out.
        #expect(sound.plan.mayHavePromised && !new.plan.mayHavePromised)
        let again = try restored(birth(3), journal, store)
        #expect(again.plan.mayHavePromised)

        let first = try #require(disk.contents().first { $0.key.table == 9 })
        disk.plant(first.key, nil)
        journal = try Journal(disk: disk, formatting: identity)
        #expect(!journal.recovered().contains { $0.replica == ReplicaID(1) })
        for number in [1, 2] as [UInt64] {
            let found = try restored(birth(number), journal, store)
            #expect(found.plan.isMute, "replica \(number)")
        }
    }

    /// Else a host with such a journal would get one replica after the other, none of which ever says a word.
    @Test func onADamagedJournalAReplicaThatWasNeverHereIsSound() throws {
        let disk = SimulatedDisk(seed: 1)
        let store = try Store(
            disk: SimulatedDisk(seed: 2),
            formatting: StoreIdentity(cluster: identity.cluster, host: identity.host, journal: 99))
        var journal = try Journal(disk: disk, formatting: identity)
        try journal.deleteRemoved(from: store)
        for number in [1, 5] as [UInt64] {
            _ = try restored(birth(number), journal, store)
            let vote = HardState(term: Term(8), vote: ReplicaID(number), commit: .zero)
            _ = try journal.append([.hardState(GroupID(UInt32(number)), ReplicaID(number), vote)])
        }
        // Replica 5 was removed, and only the journal's damaged value says so.
        _ = try journal.append([.tombstone(GroupID(5), ReplicaID(5))])
        try store.remove(ReplicaID(5))
        for value in disk.contents() where value.key.table == 9 && value.key.high > 1 { disk.plant(value.key, nil) }
        disk.plant(try #require(disk.contents().first { $0.key.table == 9 }).key, Bytes([1, 2, 3]))

        journal = try Journal(disk: disk, formatting: identity)
        #expect(journal.isDamaged)
        try journal.deleteRemoved(from: store)
        for number in [1, 4, 5] as [UInt64] {
            let found = try restored(birth(number), journal, store)
            #expect(found.plan.isMute, "replica \(number)")
        }
        let new = try restored(birth(6), journal, store)
        #expect(!new.plan.isMute && new.plan.impairment == nil && !new.plan.mayHavePromised)
        // Begun again on a snapshot, with a log of its own and without.
        #expect(try !restored(birth(6), journal, store).plan.isMute)
        let vote = HardState(term: Term(9), vote: ReplicaID(6), commit: .zero)
        _ = try journal.append([.hardState(GroupID(6), ReplicaID(6), vote)])
        let begun = try restored(birth(6), journal, store)
        #expect(!begun.plan.isMute && begun.plan.start.hardState == vote)
        // So it is when the journal is opened anew, with all that it acknowledged; the others are as before.
        journal = try Journal(disk: disk, formatting: identity)
        try journal.deleteRemoved(from: store)
        let later = try restored(birth(6), journal, store)
        #expect(!later.plan.isMute && later.plan.start.hardState == vote)
        #expect(try restored(birth(1), journal, store).plan.isMute && restored(birth(5), journal, store).plan.isMute)
        #expect(try !restored(birth(7), journal, store).plan.isMute)
        // What is lost behind the mark may be anybody's.
        let last = try #require(disk.contents().last { $0.key.table == 9 })
        disk.plant(last.key, Bytes([1, 2, 3]))
        journal = try Journal(disk: disk, formatting: identity)
        try journal.deleteRemoved(from: store)
        for number in [1, 5, 6, 7] as [UInt64] {
            #expect(try restored(birth(number), journal, store).plan.isMute, "replica \(number)")
        }
        #expect(try !restored(birth(8), journal, store).plan.isMute)
    }

    /// A store that does not know which replicas were here, as one that was lost, learns it from a journal that is whole,
    /// and from no other.
    @Test func whatWasHereIsKnownFromAWholeJournal() throws {
        let disk = SimulatedDisk(seed: 1)
        var journal = try Journal(disk: disk, formatting: identity)
        for number in [3, 9, 4] as [UInt64] {
            _ = try journal.append([.tombstone(GroupID(1), ReplicaID(number))])
        }
        _ = try journal.append([.hardState(GroupID(1), ReplicaID(20), HardState())])
        let store = try Store(
            disk: SimulatedDisk(seed: 2),
            formatting: StoreIdentity(cluster: identity.cluster, host: identity.host, journal: 99))
        #expect(store.removedThrough == nil)
        try journal.deleteRemoved(from: store)
        #expect(store.removedThrough == ReplicaID(20))
        try store.remove(ReplicaID(21))
        try store.remove(ReplicaID(3))
        #expect(store.removedThrough == ReplicaID(21))

        disk.plant(try #require(disk.contents().first { $0.key.table == 9 }).key, Bytes([1, 2, 3]))
        journal = try Journal(disk: disk, formatting: identity)
        let new = try Store(
            disk: SimulatedDisk(seed: 3),
            formatting: StoreIdentity(cluster: identity.cluster, host: identity.host, journal: 99))
        do {
            try journal.deleteRemoved(from: new)
            Issue.record("a replica that was removed from here would come back")
        } catch let error as DiskError {
            #expect(error.code == .refused && error.message.contains("start with an empty directory"))
        }
        #expect(new.removedThrough == nil)
        #expect(try restored(birth(50), journal, new).plan.isMute)
    }

    /// What the store's thread says of a merge that met damage (`StoreWriterTests`) ends no host: another leads, and the
    /// replica goes on.
    @Test func aReplicaWhoseStateIsDamagedHandsOverAndGoesOn() throws {
        let trio = try Trio()
        let host = trio.hosts[try trio.leader()]
        host.put("a", "1", group: GroupID(1), token: 1)
        try trio.settle()
        #expect(host.isDone(1))
        let before = host.core.leaderCount
        host.core.checkpointAll()
        try host.turn()
        host.core.storeDamaged(.merge(GroupID(1), ReplicaID(1), tombstonesThrough: LogIndex(.max)), "a test")
        // Nobody gives it a state meanwhile.
        host.holdsStore = true
        try trio.tick(200)
        #expect(host.core.leaderCount == before - 1)
        let leader = trio.hosts[try trio.leader()]
        leader.put("b", "2", group: GroupID(1), token: 2)
        try trio.settle()
        #expect(leader.isDone(2))
        host.get("b", group: GroupID(1), .local, token: 3)
        try trio.tick(10)
        #expect(host.isDone(3) && host.inspection(of: GroupID(1))?.isStopped == false)
        #expect(host.core.replicaStatuses().contains { $0.problem.contains("its state on disk is damaged") })
    }

    /// A start reads the sessions of each group. A run that can't be read for that is its replica's damage, and no other's:
    /// it votes, applies nothing, and wants another member's state as a whole.
    @Test func aStartThatCanNotReadSessionsImpairsOneReplica() throws {
        let trio = try Trio(groups: 2)
        let host = trio.hosts[0]
        for group in [GroupID(1), GroupID(2)] {
            let leader = trio.hosts[try trio.leader(of: group)]
            let key = try #require(
                (0..<1_000).map { "k\($0)" }.first { trio.map.owner(of: slot(of: Bytes($0))) == group })
            leader.put(key, String(repeating: "v", count: 900), group: group, token: UInt64(group.rawValue))
            try trio.tick(10)
        }
        host.core.checkpointAll()
        try trio.tick(4)
        let ids = try [GroupID(1), GroupID(2)].map { group in
            try #require(trio.map.group(group)?.replica(on: host.id))
        }
        let whole = try Store(disk: host.storeDisk)
        let births = zip([GroupID(1), GroupID(2)], ids).map {
            ReplicaBirth(group: $0, replica: $1, configuration: Configuration(voters: [$1]))
        }
        let sound = try RestoredReplica.restored(
            births, logs: host.journal.recovered(), journal: host.journal, store: whole)
        #expect(sound.allSatisfy { $0.plan.impairment == nil && !$0.plan.isStateDamaged })

        let runs = try #require(whole.manifest(of: ids[0])).runs.map(\.id.rawValue)
        for (key, value) in host.storeDisk.contents() where runs.contains(key.high) && value.count > 500 {
            host.storeDisk.flipBit(in: key, bit: 8 * value.count / 2)
        }
        let store = try Store(disk: host.storeDisk)
        let found = try RestoredReplica.restored(
            births, logs: host.journal.recovered(), journal: host.journal, store: store)
        #expect(found[0].plan.impairment?.contains("damaged") == true && found[0].plan.isStateDamaged)
        #expect(found[0].plan.start.isImpaired && found[0].plan.start.entries.isEmpty && !found[0].plan.isMute)
        #expect(found[1].plan.impairment == nil && !found[1].plan.isStateDamaged)
    }
}
