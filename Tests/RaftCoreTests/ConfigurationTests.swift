// Which configuration counts where in the log, and what of an entry is refused before it gets there.

import Primitives
import RaftCore
import Testing

@Suite struct ConfigurationTests {
    private var core = RaftCore(
        start: RaftStart(replica: ReplicaID(1), configuration: Configuration(voters: [ReplicaID(1)])),
        settings: RaftSettings(), seed: 1)
    private var effects = RaftEffects()

    private mutating func settle() {
        while core.hasReady {
            core.ready(into: &effects)
            if let sequence = effects.persistSequence { core.persisted(sequence: sequence) }
        }
    }

    private mutating func propose(_ kind: EntryKind, _ payload: Bytes) {
        guard case .accepted = core.propose(kind: kind, payload: payload, logTime: .zero) else {
            Issue.record("\(kind) is not accepted")
            return
        }
        settle()
    }

    private mutating func propose(learner: UInt64) {
        var writer = ByteWriter()
        Configuration(voters: [ReplicaID(1)], learners: [ReplicaID(learner)]).encode(into: &writer)
        propose(.configuration, writer.take())
    }

    /// A checkpoint at an index writes down what was in effect there, however far the log has gone on.
    @Test mutating func theConfigurationAtAnIndexIsTheNewestUpToThere() {
        core.campaign()
        settle()
        propose(.command, "2")
        propose(learner: 7)
        propose(.command, "4")
        propose(learner: 8)
        propose(.command, "6")
        #expect(core.commit == LogIndex(6))
        func learners(at index: UInt64) -> [ReplicaID] { core.configuration(at: LogIndex(index)).learners }
        #expect((0...2).map { learners(at: $0) } == [[], [], []])
        #expect((3...4).map { learners(at: $0) } == [[ReplicaID(7)], [ReplicaID(7)]])
        #expect((5...6).map { learners(at: $0) } == [[ReplicaID(8)], [ReplicaID(8)]])
        #expect(core.configuration(at: LogIndex(4)).index == LogIndex(3))
        // What is applied does not lose it.
        core.applied(through: LogIndex(4))
        core.evict(through: LogIndex(4))
        #expect(learners(at: 4) == [ReplicaID(7)] && learners(at: 5) == [ReplicaID(8)])
        #expect(core.configuration.learners == [ReplicaID(8)])
    }

    /// Leaders go on from the last entry's log time: one near the end of the numbers would end them.
    @Test func aLogTimeThatNoClockReachesIsRefusedAtTheDoor() throws {
        func decode(_ logTime: UInt64) throws(DecodingFailure) -> RaftMessage {
            let entry = LogEntry(
                index: LogIndex(8), term: Term(3), logTime: LogTime(logTime), kind: .command, payload: "ab")
            var writer = ByteWriter()
            RaftMessage(
                kind: .append, from: ReplicaID(1), to: ReplicaID(2), term: Term(4), index: LogIndex(7),
                logTerm: Term(3),
                commit: LogIndex(6), entries: [entry]
            ).encode(into: &writer)
            var reader = ByteReader(writer.take())
            return try RaftMessage(from: &reader)
        }
        #expect(try decode((1 << 62) - 1).entries.first?.logTime == LogTime((1 << 62) - 1))
        for absurd in [1 << 62, 1 << 63, .max] as [UInt64] {
            let failure = #expect(throws: DecodingFailure.self) { try decode(absurd) }
            #expect(failure.map { "\($0)" }?.contains("log time") == true)
        }
    }
}
