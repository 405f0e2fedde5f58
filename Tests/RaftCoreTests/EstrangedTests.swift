// A leader whose history is another than what a follower has as committed: a promise was broken, or the group was begun
// anew from less than this follower knows.

import Primitives
import RaftCore
import Testing

@Suite struct EstrangedTests {
    /// Entries 1 to 61 are of term 2, those to 100 of term 3; 90 are committed. Its state can't be read.
    private func follower() -> RaftCore {
        var start = RaftStart(
            replica: ReplicaID(2), hardState: HardState(term: Term(3), commit: LogIndex(90)),
            configuration: Configuration(voters: [1, 2, 3].map { ReplicaID($0) }), last: LogIndex(100),
            termRuns: [
                TermRun(first: LogIndex(1), term: Term(2)), TermRun(first: LogIndex(62), term: Term(3)),
            ])
        start.isImpaired = true
        return RaftCore(start: start, settings: RaftSettings(), seed: 7)
    }

    private func answers(_ core: inout RaftCore) -> [RaftMessage] {
        var effects = RaftEffects()
        core.ready(into: &effects)
        if let sequence = effects.persistSequence { core.persisted(sequence: sequence) }
        return (effects.messages + effects.durableMessages).filter { $0.kind == .appendReply }
    }

    private func append(
        term: UInt64, behind index: UInt64, of logTerm: UInt64, entries: [UInt64] = []
    ) -> RaftMessage {
        RaftMessage(
            kind: .append, from: ReplicaID(1), to: ReplicaID(2), term: Term(term), index: LogIndex(index),
            logTerm: Term(logTerm),
            entries: entries.enumerated().map { offset, term in
                LogEntry(
                    index: LogIndex(index + UInt64(offset) + 1), term: Term(term), logTime: .zero, kind: .command,
                    payload: Bytes())
            })
    }

    @Test func aLeaderThatHasNotWhatIsCommittedHereGetsNoAcknowledgement() {
        // Its entries differ; and then not its empty message either, which does not show it.
        var core = follower()
        #expect(core.commit == LogIndex(90))
        core.step(append(term: 9, behind: 61, of: 2, entries: [9]))
        #expect(answers(&core).isEmpty && core.statistics.surprises == 1)
        core.step(append(term: 9, behind: 61, of: 2))
        #expect(answers(&core).isEmpty && core.statistics.surprises == 2)
        #expect(core.lastIndex == LogIndex(100) && core.term(at: LogIndex(62)) == Term(3))
        // What its own entry stands behind differs.
        for index in [62, 89, 90] as [UInt64] {
            core = follower()
            core.step(append(term: 9, behind: index, of: 9))
            #expect(answers(&core).isEmpty && core.statistics.surprises == 1, "behind \(index)")
        }
        // A later leader is heard again.
        core.step(append(term: 10, behind: 100, of: 3))
        #expect(answers(&core).map(\.index) == [LogIndex(100)] && core.statistics.surprises == 1)
    }

    @Test func anOldMessageOfALeaderWithTheSameHistoryIsAcknowledged() {
        var core = follower()
        core.step(append(term: 9, behind: 60, of: 2, entries: [2, 3]))
        #expect(answers(&core).map(\.index) == [LogIndex(62)])
        core.step(append(term: 9, behind: 89, of: 3, entries: [3, 9]))
        #expect(answers(&core).map(\.index) == [LogIndex(90)] && core.statistics.surprises == 0)
        core.step(append(term: 9, behind: 90, of: 3, entries: [9]))
        #expect(answers(&core).map(\.index) == [LogIndex(91)] && core.term(at: LogIndex(91)) == Term(9))
    }

    /// Such a leader's first words may be an empty probe where the two are the same still. Who said then how far it has
    /// committed, would count for entries of that leader which it does not have.
    @Test func noMoreIsAcknowledgedThanAMessageProves() {
        for (index, logTerm, entries) in [(61, 2, []), (40, 2, []), (60, 2, [2]), (0, 0, [])]
            as [(UInt64, UInt64, [UInt64])]
        {
            var core = follower()
            core.step(append(term: 9, behind: index, of: logTerm, entries: entries))
            let answers = answers(&core)
            #expect(answers.map(\.index) == [LogIndex(index + UInt64(entries.count))], "behind \(index)")
            #expect(answers.first?.commit == LogIndex(90) && core.statistics.surprises == 0)
        }
    }

    /// Terms do not fall: what is below the base has none above the base's.
    @Test func belowTheBaseALaterTermIsAnotherHistory() {
        let start = RaftStart(
            replica: ReplicaID(2), hardState: HardState(term: Term(3), commit: LogIndex(90)),
            configuration: Configuration(voters: [1, 2, 3].map { ReplicaID($0) }), base: LogIndex(90),
            baseTerm: Term(3),
            last: LogIndex(90), termRuns: [], applied: LogIndex(90))
        var core = RaftCore(start: start, settings: RaftSettings(), seed: 7)
        core.step(append(term: 9, behind: 50, of: 2, entries: [2, 3]))
        #expect(answers(&core).map(\.index) == [LogIndex(52)] && core.statistics.surprises == 0)
        core.step(append(term: 9, behind: 50, of: 2, entries: [2, 9]))
        #expect(answers(&core).isEmpty && core.statistics.surprises == 1)
    }
}
