// What must hold in every execution (Raft paper, figure 3), checked from outside, with knowledge of all replicas.

import Primitives
import RaftCore

final class Checks {
    private struct Place: Hashable {
        var index: LogIndex
        var term: Term
    }
    private struct Vote: Hashable {
        var term: Term
        var candidate: ReplicaID
    }
    private struct Content {
        var before: Term
        var payload: Bytes
        var kind: EntryKind
    }

    /// What was found wrong, the first only.
    private(set) var violation: String?
    private var leaders: [Term: Int] = [:]
    private var contents: [Place: Content] = [:]
    /// Term of each entry that some replica took for committed, from index 1.
    private(set) var committed: [Term] = []
    private var terms: [Term]
    private var commits: [LogIndex]
    private var wasLeader: [Bool]
    /// For each read: what was committed anywhere when it was asked for.
    private var reads: [UInt64: LogIndex] = [:]
    /// Whose voice reached whom.
    private var votes: [Vote: Set<ReplicaID>] = [:]
    /// The committed configurations, the group's first included.
    private(set) var configurations: [Configuration]
    private(set) var readsServed = 0
    private(set) var leaseReads = 0
    private(set) var elections = 0

    init(replicas: Int, configuration: Configuration) {
        configurations = [configuration]
        terms = Array(repeating: .zero, count: replicas)
        commits = Array(repeating: .zero, count: replicas)
        wasLeader = Array(repeating: false, count: replicas)
    }

    var highestCommit: LogIndex { LogIndex(UInt64(committed.count)) }

    private func fail(_ text: String) { if violation == nil { violation = text } }

    func started(_ position: Int) {
        terms[position] = .zero
        commits[position] = .zero
        wasLeader[position] = false
    }

    func asked(_ context: UInt64) { reads[context] = highestCommit }

    func turned(_ position: Int, _ cluster: Cluster) {
        guard let core = cluster.replicas[position].core else { return }
        if core.term < terms[position] { fail("term fell") }
        if core.commit < commits[position] { fail("commit fell") }
        terms[position] = core.term
        if core.statistics.surprises > 0 { fail("surprise at \(core.replica)") }
        for entry in cluster.effects.entries {
            guard let before = core.term(at: entry.index.previous) else { continue }
            if let known = contents[Place(index: entry.index, term: entry.term)] {
                if known.before != before || known.payload != entry.payload || known.kind != entry.kind {
                    fail("log matching at \(entry.index)/\(entry.term)")
                }
            } else {
                contents[Place(index: entry.index, term: entry.term)] = Content(
                    before: before, payload: entry.payload, kind: entry.kind)
            }
        }
        if core.role == .leader {
            if let other = leaders[core.term], other != position { fail("two leaders in term \(core.term)") }
            leaders[core.term] = position
            if !wasLeader[position] {
                elections += 1
                checkElection(core)
                // What is below the base is in the state, of which the base is the last.
                for (offset, term) in committed.enumerated()
                where LogIndex(UInt64(offset + 1)) >= core.base && core.term(at: LogIndex(UInt64(offset + 1))) != term {
                    fail("leader \(core.replica) of term \(core.term) lacks committed \(offset + 1)/\(term)")
                }
            }
        }
        wasLeader[position] = core.role == .leader
        commits[position] = core.commit
        // Only what a restart brought along was not seen yet.
        received(position, under: core.configuration, cluster)
        checkMembers(core, cluster)
        for read in cluster.effects.readsReady {
            guard let floor = reads.removeValue(forKey: read.context) else {
                fail("read \(read.context) answered twice"); continue
            }
            readsServed += 1
            if read.index < floor { fail("stale read: \(read.index) when \(floor) was committed") }
        }
        for context in cluster.effects.readsFailed where reads.removeValue(forKey: context) == nil {
            fail("read \(context) ended twice")
        }
    }

    /// More than half of the voters, and of the outgoing ones if there are any: by the definition, not by the core's
    /// arithmetic.
    private func isMajority(_ members: Set<ReplicaID>, of configuration: Configuration) -> Bool {
        [configuration.voters, configuration.outgoing].allSatisfy { half in
            half.isEmpty || 2 * half.filter(members.contains).count > half.count
        }
    }

    func delivered(_ message: RaftMessage) {
        guard message.kind == .voteReply, !message.reject else { return }
        votes[Vote(term: message.term, candidate: message.to), default: []].insert(message.from)
    }

    private func checkElection(_ core: RaftCore) {
        let voters = (votes[Vote(term: core.term, candidate: core.replica)] ?? []).union([core.replica])
        if !isMajority(voters, of: core.configuration) {
            fail("\(core.replica) leads term \(core.term) with \(voters.sorted()), in \(show(core.configuration))")
        }
    }

    /// Something came in while `configuration` was in effect.
    func received(_ position: Int, under configuration: Configuration, _ cluster: Cluster) {
        guard let core = cluster.replicas[position].core, core.commit > highestCommit else { return }
        var index = highestCommit
        while index < core.commit {
            index = index.next
            guard let term = core.term(at: index) else { return fail("committed \(index) without a term") }
            committed.append(term)
            guard let content = contents[Place(index: index, term: term)] else { continue }
            if let new = Self.configuration(content.kind, content.payload, at: index) { configurations.append(new) }
        }
        let term = core.term(at: core.commit)
        let holders = cluster.replicas.filter { $0.durableTerm(at: core.commit) == term }.map(\.id)
        if !isMajority(Set(holders), of: configuration) {
            fail(
                "\(core.commit)/\(term!) committed by \(core.replica) but durable only at \(holders), in "
                    + show(configuration))
        }
    }

    private static func configuration(_ kind: EntryKind, _ payload: Bytes, at index: LogIndex) -> Configuration? {
        guard kind == .configuration else { return nil }
        var reader = ByteReader(payload)
        guard var configuration = try? Configuration(from: &reader) else { return nil }
        configuration.index = index
        return configuration
    }

    private func checkMembers(_ core: RaftCore, _ cluster: Cluster) {
        if core.role == .leader {
            for entry in cluster.effects.entries where entry.term == core.term {
                guard let new = Self.configuration(entry.kind, entry.payload, at: entry.index) else { continue }
                checkChange(from: core.configuration(at: entry.index.previous), to: new, core, cluster)
            }
            let current = core.configuration
            if current.index <= core.commit {
                if current.isJoint { fail("\(core.replica) stays in the joint configuration \(current.index)") }
                if !current.voters.contains(core.replica) { fail("\(core.replica) leads though it is no voter") }
            }
        }
        if let removedAt = core.removedAt {
            let wasIn = configurations.contains { $0.index < removedAt && $0.members.contains(core.replica) }
            let isIn = configurations.contains { $0.index >= removedAt && $0.members.contains(core.replica) }
            if !wasIn || isIn || !configurations.contains(where: { $0.index == removedAt }) {
                fail("\(core.replica) believes that it was removed at \(removedAt)")
            }
        }
    }

    /// Of what a leader appends: one change at a time, both majorities overlap, and new voters have the log.
    private func checkChange(from old: Configuration, to new: Configuration, _ core: RaftCore, _ cluster: Cluster) {
        if old.index > highestCommit { fail("\(new.index) follows \(old.index), which is not committed") }
        let isSafe =
            old.isJoint
            ? !new.isJoint && new.voters == old.voters
            : new.isJoint ? new.outgoing == old.voters : new.voters == old.voters
        if !isSafe { fail("\(show(old)) is followed by \(show(new))") }
        guard !old.isJoint else { return }
        if !core.isEstablished { fail("a change before an entry of term \(core.term) is committed") }
        for voter in new.voters where !old.voters.contains(voter) {
            guard let replica = cluster.replicas.first(where: { $0.id == voter }) else { continue }
            let needed = LogIndex(UInt64(max(0, new.index - .zero - 1 - core.settings.promotionLagMax)))
            if !old.learners.contains(voter) || replica.durableTerm(at: needed) != core.term(at: needed) {
                fail("\(voter) becomes a voter at \(new.index) but ends at \(replica.last)")
            }
        }
    }

    private func show(_ configuration: Configuration) -> String {
        "\(configuration.voters)" + (configuration.isJoint ? " from \(configuration.outgoing)" : "")
    }

    /// While a lease holds nothing is committed that its holder does not know.
    func served(at now: UInt64, _ cluster: Cluster) {
        for core in cluster.replicas.compactMap(\.core) {
            guard let index = core.leaseReadIndex(now: now) else { continue }
            leaseReads += 1
            if index < highestCommit { fail("\(core.replica) serves \(index) by lease, committed is \(highestCommit)") }
        }
    }

    func applied(_ position: Int, _ entries: [LogEntry], _ cluster: Cluster) {
        for entry in entries where entry.index > highestCommit || committed[Int(entry.index.rawValue) - 1] != entry.term
        {
            fail("\(cluster.replicas[position].id) applied another entry at \(entry.index)")
        }
    }

    func becameDurable(_ position: Int, _ cluster: Cluster) {
        guard let core = cluster.replicas[position].core else { return }
        let stable = core.stableIndex
        if cluster.replicas[position].durableTerm(at: stable) != core.term(at: stable) {
            fail("\(core.replica) takes \(stable) for durable")
        }
    }

    /// Reads that neither got an answer nor failed.
    var openReads: Int { reads.count }
}
