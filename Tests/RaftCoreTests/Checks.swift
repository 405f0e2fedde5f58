// What must hold in every execution (Raft paper, figure 3), checked from outside, with knowledge of all replicas.

import Primitives
import RaftCore

final class Checks {
    private struct Place: Hashable {
        var index: LogIndex
        var term: Term
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
    private(set) var readsServed = 0
    private(set) var elections = 0

    init(replicas: Int) {
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
                for (offset, term) in committed.enumerated() where core.term(at: LogIndex(UInt64(offset + 1))) != term {
                    fail("leader \(core.replica) of term \(core.term) lacks committed \(offset + 1)/\(term)")
                }
            }
        }
        wasLeader[position] = core.role == .leader
        if core.commit > commits[position] {
            commits[position] = core.commit
            checkCommit(core, cluster)
        }
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

    private func checkCommit(_ core: RaftCore, _ cluster: Cluster) {
        guard core.commit > highestCommit else { return }
        var index = highestCommit
        while index < core.commit {
            index = index.next
            guard let term = core.term(at: index) else { return fail("committed \(index) without a term") }
            committed.append(term)
        }
        let term = core.term(at: core.commit)
        let holders = cluster.replicas.filter { $0.durableTerm(at: core.commit) == term }.map(\.id)
        let voters = cluster.configuration.voters
        if voters.filter({ holders.contains($0) }).count <= voters.count / 2 {
            fail("\(core.commit)/\(term!) committed by \(core.replica) but durable only at \(holders)")
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
