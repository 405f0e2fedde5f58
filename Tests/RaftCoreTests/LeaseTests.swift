import Primitives
import RaftCore
import Testing

@Suite struct LeaseTests {
    private func follower() -> RaftCore {
        RaftCore(
            start: RaftStart(
                replica: ReplicaID(2),
                configuration: Configuration(voters: [1, 2, 3].map { ReplicaID($0) })),
            settings: RaftSettings(), seed: 7)
    }

    private func answers(_ core: inout RaftCore) -> [RaftMessage] {
        var effects = RaftEffects()
        core.ready(into: &effects)
        if let sequence = effects.persistSequence { core.persisted(sequence: sequence) }
        return effects.messages + effects.durableMessages
    }

    private func message(_ kind: RaftMessageKind, from: UInt64, term: UInt64) -> RaftMessage {
        RaftMessage(kind: kind, from: ReplicaID(from), to: ReplicaID(2), term: Term(term))
    }

    /// A replica promises to its leader, learns of a newer term by an answer that names no leader, and is asked for its
    /// vote in that very term, late: the promise holds there too, or the leader would serve reads beside another.
    @Test func aPromiseHoldsInATermThatWasLearnedOtherwise() {
        var core = follower()
        core.observe(now: 100)
        core.step(message(.heartbeat, from: 1, term: 5))
        _ = answers(&core)
        let isPromised = core.promise(to: ReplicaID(1), term: Term(5), until: 300)
        #expect(isPromised)
        var refusal = message(.preVoteReply, from: 3, term: 6)
        refusal.reject = true
        core.step(refusal)
        _ = answers(&core)
        #expect(core.term == Term(6) && core.leader == .none)

        core.step(message(.vote, from: 3, term: 6))
        let refused = answers(&core)
        #expect(refused.map(\.kind) == [.voteReply] && refused.map(\.reject) == [true])

        core.observe(now: 300)
        core.step(message(.vote, from: 3, term: 6))
        let granted = answers(&core)
        #expect(granted.map(\.kind) == [.voteReply] && granted.map(\.reject) == [false])
    }
}
