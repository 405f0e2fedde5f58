// Replicas of a group compare what they have: at every so many entries of its log each tells all others the digest of its
// state, and goes by what a majority of the voters has. One that has another state stands still, and says in what it
// differs. Nobody is stopped by another's verdict: each replica judges itself, by the words of a majority.
//
//     replica 1            replica 2            replica 3
//     4096: a1 ──────────────► 4096: a1             4096: b7, in the key-value machine
//         ◄──────────────────────  ──────────────────►  2 of 3 have a1: it stops
//
// Who is behind asks when it comes to the point, and is answered by those that still know theirs. All of it is in memory:
// what was not compared is found at the next point, as digests go over everything since the group began.

import Primitives
import RaftCore
import StateMachines

extension HostCore {
    /// For so long other voters may keep silent before operators hear that nobody can tell which state is right.
    private static var doubtSeconds: UInt64 { 10 }

    // MARK: Its own

    /// The last entry that was applied is one after which states are compared.
    func reachDigestPoint(_ replica: Replica) {
        let interval = replica.machine.endInterval(entries: settings.digestInterval)
        replica.digests.fresh.append(
            DigestPoint(index: replica.machine.applied, digest: replica.machine.digest, interval: interval))
    }

    /// Behind the entries that were applied in this turn.
    func compareFreshDigests(_ replica: Replica) {
        let fresh = replica.digests.fresh
        replica.digests.fresh = []
        for point in fresh where replica.stopped == nil {
            replica.digests.keep(point, interval: settings.digestInterval)
            let isKnown = compareDigests(of: replica, at: point.index)
            for member in replica.withCore({ $0.configuration.members }) where member != replica.id {
                tellDigest(of: replica, point, to: member, asks: !isKnown)
            }
        }
    }

    private func tellDigest(of replica: Replica, _ point: DigestPoint, to member: ReplicaID, asks: Bool) {
        guard let host = replica.host(of: member), let peer = peer(host), peer.isConnected, peer.knowsDigests else {
            return
        }
        let word = DigestWord(group: replica.group, replica: replica.id, asks: asks, point: point)
        write(to: peer, over: .consensus, bytes: word.encodedBytes) { $0.append(.digest(word)) }
    }

    // MARK: Others'

    /// What a member had. Only members of the configuration in effect have a say, each on its own host.
    func receive(_ word: DigestWord, from host: HostID) {
        guard let replica = replica(of: word.group), word.replica != replica.id,
            replica.host(of: word.replica) == host,
            word.point.index > .zero, word.point.index.rawValue % settings.digestInterval == 0
        else {
            strayMessages += 1
            return
        }
        let members = replica.withCore { $0.configuration.members }
        guard members.contains(word.replica), replica.stopped == nil else { return }
        var point = word.point
        // As if the entries of all intervals were the same.
        if isPlanted("digest-of-another-point"), let own = replica.digests.points.last { point.index = own.index }
        replica.digests.keep(point, of: word.replica, members: members)
        if word.asks, let own = replica.digests.point(at: word.point.index) {
            tellDigest(of: replica, own, to: word.replica, asks: false)
        }
        compareDigests(of: replica, at: point.index)
    }

    // MARK: Who is right

    /// False: nobody knows yet what a majority of the voters has there.
    @discardableResult private func compareDigests(of replica: Replica, at index: LogIndex) -> Bool {
        guard replica.stopped == nil, let own = replica.digests.point(at: index) else { return true }
        let configuration = replica.withCore { $0.configuration }
        func said(_ voter: ReplicaID) -> DigestPoint? {
            voter == replica.id ? own : replica.digests.word(of: voter, at: index)
        }
        func isAgreed(_ digest: UInt64) -> Bool {
            func holds(_ voters: [ReplicaID]) -> Bool {
                voters.count { said($0)?.digest == digest } * 2 > voters.count
            }
            return holds(configuration.voters) && (configuration.outgoing.isEmpty || holds(configuration.outgoing))
        }
        if isAgreed(own.digest) {
            if index > replica.digests.agreed {
                replica.digests.agreed = index
                counts.digestsAgreed += 1
            }
            endDoubt(of: replica, at: index)
            return true
        }
        let voters = configuration.voters + configuration.outgoing.filter { !configuration.voters.contains($0) }
        let others = voters.filter { said($0).map { $0.digest != own.digest } ?? false }
        for other in others {
            guard let digest = said(other)?.digest, isAgreed(digest) else { continue }
            // One that can say in what.
            let others = voters.compactMap { said($0) }.filter { $0.digest == digest }
            outvote(replica, own, by: others.first { $0.interval != nil } ?? others[0])
            return true
        }
        if let other = others.first {
            doubt(replica, at: index, other: other, isFinal: voters.allSatisfy { said($0) != nil })
        }
        return false
    }

    /// A majority has another state, so this replica's is wrong: it stands still until it is replaced.
    private func outvote(_ replica: Replica, _ own: DigestPoint, by other: DigestPoint) {
        replica.digests.isOutvoted = true
        replica.digests.doubt = nil
        stop(
            replica,
            because: "its state is not the one that a majority of the group's voters has at index \(own.index): "
                + "\(difference(own, other)); replace it before this host is started again: "
                + "bifrost group replace-replica \(replica.group) --host \(host)"
        )
        // Its state is for nobody, and it gets none on top: what changed since a base would hide that the base is wrong.
        endSnapshots(of: replica)
        lookAtPlacement(replica)
    }

    private func difference(_ own: DigestPoint, _ other: DigestPoint) -> String {
        guard let its = own.interval, let others = other.interval else {
            return
                "in what is not known, as \(own.interval == nil ? "this one" : "the other") was not there for all of "
                + "the last \(settings.digestInterval) entries"
        }
        let first = own.index.rawValue - settings.digestInterval + 1
        switch its.difference(from: others) {
        case .before: return "it differs since before entry \(first)"
        case .within([]): return "it differs since an entry of \(first) to \(own.index), in no sub machine alone"
        case .within(let machines):
            let names = machines.map(name(of:)).joined(separator: ", ")
            return "it differs since an entry of \(first) to \(own.index), in what is \(names)'s"
        }
    }

    private func name(of machine: SubMachineNumber) -> String {
        let name: String? =
            switch machine {
            case .keyValue: "key-value"
            case .meta: "meta"
            case .sessions: "sessions"
            case .deadlines: "deadlines"
            default: settings.machines.machines.first { $0.number == machine }?.name
            }
        return name.map { "\($0) (sub machine \(machine))" } ?? "sub machine \(machine)"
    }

    // MARK: Where nobody is right

    /// - Parameter isFinal: all voters have said theirs.
    private func doubt(_ replica: Replica, at index: LogIndex, other: ReplicaID, isFinal: Bool) {
        if replica.digests.doubt == nil {
            replica.digests.doubt = ReplicaDigests.Doubt(index: index, sinceTick: tickCount)
            if !doubted.contains(where: { $0 === replica }) { doubted.append(replica) }
        }
        guard replica.digests.doubt?.text == nil,
            isFinal || tickCount - (replica.digests.doubt?.sinceTick ?? 0) >= Self.doubtSeconds * secondTicks
        else { return }
        var text = "its state at index \(index) is not replica \(other)'s, and no majority of the voters agrees on one"
        if let own = replica.digests.point(at: index), let its = replica.digests.word(of: other, at: index) {
            text += ": \(difference(own, its))"
        }
        replica.digests.doubt?.text = text
        effects.notices.append("group \(replica.group): replica \(replica.id) goes on, but \(text)")
    }

    private func endDoubt(of replica: Replica, at index: LogIndex) {
        guard let doubt = replica.digests.doubt, doubt.index <= index else { return }
        replica.digests.doubt = nil
        if doubt.text != nil {
            effects.notices.append(
                "group \(replica.group): a majority of the voters has the state of replica \(replica.id) at index \(index)"
            )
        }
    }

    /// Each second: those that have said nothing yet are asked again.
    func reconsiderDoubts() {
        guard !doubted.isEmpty, tickCount % secondTicks == 0 else { return }
        doubted.removeAll { $0.stopped != nil || $0.digests.doubt == nil }
        for replica in doubted {
            guard let index = replica.digests.doubt?.index, let own = replica.digests.point(at: index) else { continue }
            for voter in replica.withCore({ $0.configuration.members })
            where voter != replica.id && replica.digests.word(of: voter, at: index) == nil {
                tellDigest(of: replica, own, to: voter, asks: true)
            }
            compareDigests(of: replica, at: index)
        }
    }
}
