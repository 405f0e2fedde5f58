// The scrubber: reads what nobody reads, so that damage is found while other members still have what it hit. Decides what
// is looked at next and how fast; has no thread and no clock. What it finds goes the way of what a read finds.
//
//   a round:  each replica: manifest, then its runs by number, chunk by chunk  ─►  the journal: what prefix deletion kept,
//             from a replica that is another at each start                          then its values, oldest first
//
// A start reads the whole journal, and of the store the manifests alone: so the store comes first, and hosts that are
// started again and again get to all of it.

package import Primitives
import RaftCore
package import Storage

/// What was found to be damaged.
package enum ScrubFinding: Hashable, Sendable {
    /// Of a replica's state.
    case state(ScrubbedDamage)
    /// Of a replica's log.
    case journal(ScrubbedDamage)
    /// Nobody needs it any more, or it can't be said what it is. In words.
    case other(String)

    /// Whose it is.
    package var group: GroupID? {
        switch self {
        case .state(let damage), .journal(let damage): damage.group
        case .other: nil
        }
    }
}

/// What was scrubbed since the process started.
package struct ScrubStatistics: Hashable, Sendable {
    package var bytes: UInt64 = 0
    /// Rounds that came to their end.
    package var rounds: UInt64 = 0
    /// Bytes of the last of these.
    package var lastRoundBytes: UInt64 = 0
    /// Replicas found damaged, each once in a round.
    package var damages: UInt64 = 0

    package init() {}
}

/// One piece of scrubbing.
package struct ScrubStep: Sendable {
    package var bytes = 0
    package var findings: [ScrubFinding] = []
    /// It was the last of a round.
    package var endsRound = false
    /// How long to wait before the next.
    package var pauseNanoseconds: UInt64 = 0
    package var statistics = ScrubStatistics()
}

/// Goes round through all of a host's cold data. One step at a time, on any thread.
package final class Scrubber<Storage: Disk>: @unchecked Sendable {
    // @unchecked: belongs to who carries out its steps, one behind the other.
    private let store: Store<Storage>
    private let journal: Journal<Storage>
    private let bytesPerSecond: Int
    private let pieceBytes: Int
    private let roundNanoseconds: UInt64
    private var random: SeededRandom
    private var round: Round?
    private var statistics = ScrubStatistics()

    private struct Round {
        /// Those that there were when it began. One that comes later waits for the next.
        var replicas: [ReplicaID]
        var next = 0
        var position: StorePosition?
        let runsEnd: RunID
        var journalPosition: JournalPosition?
        let journalEnd: UInt64
        var bytes: UInt64 = 0
        var nanoseconds: UInt64 = 0
    }

    /// Replicas that one step looks at, where they have little.
    private static var replicasPerStep: Int { 64 }
    /// Between two steps, however little they read.
    private static var pauseNanosecondsMin: UInt64 { 10_000_000 }

    /// - Parameter seed: where the first round begins: another at each start.
    /// - Returns: nil if the settings say that nothing is scrubbed.
    package init?(store: Store<Storage>, journal: Journal<Storage>, settings: HostSettings, seed: UInt64) {
        guard settings.scrubBytesPerSecond > 0 else { return nil }
        self.store = store
        self.journal = journal
        bytesPerSecond = settings.scrubBytesPerSecond
        // No step takes longer than a second's share, however slow that is.
        pieceBytes = max(1, min(settings.scrubPieceBytes, bytesPerSecond))
        roundNanoseconds = settings.scrubRoundNanoseconds
        random = SeededRandom(seed: mix(seed ^ 0x7363_7275_6262_6572))
    }

    /// Reads and verifies the next piece. Short read transactions, each of a piece at most and a chunk or value more.
    ///
    /// - Throws: `DiskError` for what is not one replica's damage: what it means is the same as for a read.
    package func step() throws -> ScrubStep {
        var step = ScrubStep()
        var round = self.round ?? begin()
        var visits = 0
        while step.bytes < pieceBytes, visits < Self.replicasPerStep, !step.endsRound {
            visits += 1
            if round.next < round.replicas.count {
                try lookAtStore(&round, &step)
            } else {
                try lookAtJournal(&round, &step)
            }
        }
        round.bytes += UInt64(step.bytes)
        statistics.bytes += UInt64(step.bytes)
        // A piece is at most some large value; the product stays far below the type's end.
        step.pauseNanoseconds = max(
            Self.pauseNanosecondsMin, UInt64(step.bytes) * 1_000_000_000 / UInt64(bytesPerSecond))
        round.nanoseconds += step.pauseNanoseconds
        if step.endsRound {
            statistics.rounds += 1
            statistics.lastRoundBytes = round.bytes
            if round.nanoseconds < roundNanoseconds { step.pauseNanoseconds += roundNanoseconds - round.nanoseconds }
        }
        self.round = step.endsRound ? nil : round
        step.statistics = statistics
        return step
    }

    private func begin() -> Round {
        var replicas = store.manifests().map(\.replica)
        if !replicas.isEmpty {
            let first = Int(random.below(UInt64(replicas.count)))
            replicas = Array(replicas[first...] + replicas[..<first])
        }
        return Round(
            replicas: replicas, runsEnd: store.runsEnd, journalPosition: .start, journalEnd: journal.lastSequence)
    }

    private func lookAtStore(_ round: inout Round, _ step: inout ScrubStep) throws {
        do {
            let (bytes, next) = try store.verify(
                round.replicas[round.next], from: round.position, runsBelow: round.runsEnd,
                bytesMax: pieceBytes - step.bytes)
            step.bytes += bytes
            round.position = next
            if next == nil { round.next += 1 }
        } catch let damage as ScrubbedDamage {
            statistics.damages += 1
            step.findings.append(.state(damage))
            // All of it is to be built anew, or is told of again in the next round.
            round.position = nil
            round.next += 1
        } catch let error as DiskError where error.code == .refused {
            step.findings.append(.other("\(error)"))
            round.position = nil
            round.next += 1
        }
    }

    private func lookAtJournal(_ round: inout Round, _ step: inout ScrubStep) throws {
        guard let position = round.journalPosition else {
            step.endsRound = true
            return
        }
        let stretch = try journal.verify(
            from: position, through: round.journalEnd, bytesMax: pieceBytes - step.bytes)
        step.bytes += stretch.bytes
        round.journalPosition = stretch.next
        statistics.damages += UInt64(stretch.damaged.count)
        step.findings += stretch.damaged.map { .journal($0) }
        step.findings += stretch.superfluousDamage.map {
            .other("\($0) is damaged, and nothing in it is needed any more")
        }
    }
}

extension HostCore {
    /// The scrubber found damage in what a replica of this loop has on disk.
    package func scrubbed(_ finding: ScrubFinding) {
        switch finding {
        case .state(let damage):
            // It may have got another state meanwhile, or have been replaced.
            guard let replica = replica(of: damage.group), replica.id == damage.replica,
                damage.run.map({ run in replica.view.manifest.runs.contains { $0.id == run } }) ?? true
            else { return }
            stateDamaged(group: damage.group, damage.message)
        case .journal(let damage):
            guard let replica = replica(of: damage.group), replica.id == damage.replica else { return }
            guard mayStand(still: replica, for: damage) else { return }
            journalDamaged(group: damage.group, damage.message)
        case .other(let what): effects.notices.append("the scrubber: \(what)")
        }
    }

    /// A replica that is to be replaced stands still, and what it has may be wanted until others are enough: it goes on
    /// then, as it would if nobody had looked. The next round finds the damage again.
    private func mayStand(still replica: Replica, for damage: ScrubbedDamage) -> Bool {
        guard !canDoWithout(replica) else { return true }
        effects.notices.append(
            "group \(damage.group): a record of the journal is damaged, and the other voters that are heard are no "
                + "majority; it goes on, and may not start again: \(damage.message)")
        return false
    }
}
