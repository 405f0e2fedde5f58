import BifrostSimulator
import HostCore
import Primitives
import RaftCore
import Storage
import Testing

private let group = GroupID(1)
private let replica = ReplicaID(7)
private let members = Configuration(voters: [ReplicaID(7), ReplicaID(8), ReplicaID(9)])

private func manifest(index: UInt64, term: UInt64) throws -> Manifest {
    let store = try Store(
        disk: SimulatedDisk(seed: 1),
        formatting: StoreIdentity(cluster: ClusterID(high: 1, low: 1), host: HostID(1), journal: 3))
    return try store.start(
        ManifestHeader(
            group: group, replica: replica, index: LogIndex(index), term: Term(term), revision: .zero,
            logTime: LogTime(5),
            configuration: members, digest: 1, journal: 3, journalSequence: 1))
}

private func log(
    base: UInt64 = 0, baseTerm: UInt64 = 0, last: UInt64, runs: [(UInt64, UInt64)], term: UInt64, vote: UInt64 = 0,
    isDamaged: Bool = false
) -> RecoveredLog {
    RecoveredLog(
        group: group, replica: replica,
        hardState: HardState(term: Term(term), vote: ReplicaID(vote), commit: LogIndex(base)), base: LogIndex(base),
        baseTerm: Term(baseTerm), last: LogIndex(last),
        termRuns: runs.map { TermRun(first: LogIndex($0.0), term: Term($0.1)) }, isDamaged: isDamaged)
}

private func plan(_ manifest: Manifest?, _ log: RecoveredLog?) -> ReplicaStartPlan {
    ReplicaStartPlan(
        ReplicaOnDisk(group: group, replica: replica, manifest: manifest, log: log), configuration: members)
}

@Suite struct ReplicaStartTests {
    @Test func aNewReplicaBeginsEmpty() {
        let plan = plan(nil, nil)
        #expect(plan.records.isEmpty && !plan.hasEntries && plan.impairment == nil)
        #expect(plan.start.configuration == members && plan.start.last == .zero && plan.start.hardState == HardState())
    }

    /// Nothing says that it had not: its log and its votes may be what can't be read.
    @Test func aReplicaThatADamagedJournalDoesNotKnowIsMute() throws {
        for manifest in [nil, try manifest(index: 2, term: 1)] {
            let plan = ReplicaStartPlan(
                ReplicaOnDisk(group: group, replica: replica, manifest: manifest, log: nil, isJournalDamaged: true),
                configuration: members)
            #expect(plan.isMute && plan.start.isImpaired && plan.records.isEmpty && !plan.hasEntries)
        }
    }

    @Test func theSuffixStaysWhenTheLogContinuesTheManifest() throws {
        let plan = plan(
            try manifest(index: 10, term: 2),
            log(base: 4, baseTerm: 1, last: 15, runs: [(5, 1), (8, 2), (12, 3)], term: 3, vote: 8))
        #expect(plan.records.isEmpty && plan.impairment == nil && !plan.isMute)
        #expect(plan.entriesFrom == LogIndex(11) && plan.entriesThrough == LogIndex(15))
        #expect(plan.start.applied == LogIndex(10) && plan.start.base == LogIndex(4) && plan.start.last == LogIndex(15))
        #expect(plan.start.hardState.vote == ReplicaID(8) && plan.start.appliedLogTime == LogTime(5))
    }

    @Test func aManifestAtTheBaseOrAtTheEndIsContinuedToo() throws {
        let atBase = plan(try manifest(index: 4, term: 1), log(base: 4, baseTerm: 1, last: 6, runs: [(5, 1)], term: 1))
        #expect(atBase.records.isEmpty && atBase.entriesFrom == LogIndex(5))
        let atEnd = plan(try manifest(index: 6, term: 1), log(base: 4, baseTerm: 1, last: 6, runs: [(5, 1)], term: 1))
        #expect(atEnd.records.isEmpty && !atEnd.hasEntries && atEnd.impairment == nil)
    }

    @Test func aBaseIsWrittenWhereTheLogEndsBeforeTheManifest() throws {
        let plan = plan(try manifest(index: 20, term: 3), log(last: 15, runs: [(1, 2)], term: 3, vote: 8))
        guard plan.records.count == 1, case .base(_, _, LogIndex(20), Term(3)) = plan.records[0] else {
            Issue.record("\(plan.records)")
            return
        }
        #expect(plan.start.base == LogIndex(20) && plan.start.last == LogIndex(20) && plan.start.termRuns.isEmpty)
        #expect(!plan.hasEntries && plan.impairment == nil)
        #expect(plan.start.hardState.vote == ReplicaID(8))
    }

    @Test func aBaseIsWrittenWhereTheEntryHasAnotherTerm() throws {
        // The entries behind it are of a log that the state did not come from: none of them may come back.
        let plan = plan(try manifest(index: 10, term: 3), log(last: 15, runs: [(1, 2)], term: 4))
        guard case .base(_, _, LogIndex(10), Term(3))? = plan.records.first else {
            Issue.record("\(plan.records)")
            return
        }
        #expect(plan.start.last == LogIndex(10) && !plan.hasEntries)
    }

    @Test func aVoteThatMayHaveBeenForgottenIsNotGivenAgain() throws {
        let plan = plan(try manifest(index: 10, term: 3), nil)
        #expect(plan.records.count == 2)
        guard case .hardState(_, _, let state)? = plan.records.last else {
            Issue.record("\(plan.records)")
            return
        }
        #expect(state.term == Term(3) && state.vote == replica && plan.start.hardState == state)
    }

    /// The hint was of the log that is void: a later start would take all that stands there by then for committed.
    @Test func whatTheVoidLogWasKnownToHaveCommittedIsForgottenWithIt() throws {
        for (term, vote) in [(4, replica), (2, ReplicaID(8)), (9, ReplicaID(8))] as [(UInt64, ReplicaID)] {
            var log = log(last: 4_100, runs: [(1, 2)], term: term, vote: vote.rawValue)
            log.hardState.commit = LogIndex(4_096)
            let plan = plan(try manifest(index: 3_000, term: 4), log)
            guard plan.records.count == 2, case .base(_, _, LogIndex(3_000), Term(4)) = plan.records[0],
                case .hardState(_, _, let state) = plan.records[1]
            else {
                Issue.record("\(plan.records)")
                return
            }
            // The term does not fall, and no vote is given twice in it.
            let expected = HardState(
                term: Term(max(term, 4)), vote: term < 4 ? replica : vote, commit: LogIndex(3_000))
            #expect(state == expected && plan.start.hardState == expected)
        }
    }

    @Test func aManifestOlderThanTheLogsBaseIsImpaired() throws {
        let plan = plan(
            try manifest(index: 10, term: 2), log(base: 12, baseTerm: 2, last: 15, runs: [(13, 2)], term: 2))
        #expect(
            plan.impairment != nil && plan.start.isImpaired && !plan.hasEntries && plan.records.isEmpty && !plan.isMute)
    }

    @Test func aDamagedLogTakesNoPartAtAll() throws {
        let plan = plan(try manifest(index: 10, term: 2), log(last: 15, runs: [(1, 2)], term: 2, isDamaged: true))
        #expect(plan.impairment != nil && plan.start.isImpaired && plan.isMute && plan.records.isEmpty)
    }
}
