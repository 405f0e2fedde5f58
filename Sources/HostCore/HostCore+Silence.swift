// Replicas that say nothing: what stands still or is mute follows nobody, and the sums of the two hosts' heartbeats would
// never agree on its account. So each host names its own to the others, which leave them out of what they lead there, and
// of what they wait for.
//
//     leader's host                                         follower's host
//       heartbeat: sum of what it leads, without ────────►    they are not the ones it has: it names all
//       those it knows to be silent there, and
//       the sum of these                         ◄────────   answer: disagrees or not, silent replicas
//       leaves them out from the next on
//
// Nothing rests on it but rest: a group that is left out is in no promise of that host, and counts it neither for a lease
// nor for its quorum.

package import Primitives
import RaftCore

/// A replica on the host that names it.
package struct SilentReplica: Hashable, Sendable {
    package var group: GroupID
    package var id: ReplicaID

    package init(group: GroupID, id: ReplicaID) {
        self.group = group
        self.id = id
    }

    static var encodedBytes: Int { 12 }
}

extension [SilentReplica] {
    /// The same for the same replicas in any order; 0: none.
    var silence: UInt64 { reduce(0) { $0 &+ mix(mix(UInt64($1.group.rawValue)) ^ ~$1.id.rawValue) } }

    /// Ascending by group, at most one of each.
    fileprivate func place(of group: GroupID) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if self[middle].group < group { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func names(_ id: ReplicaID, of group: GroupID) -> Bool {
        guard !isEmpty else { return false }
        let place = place(of: group)
        return place < count && self[place] == SilentReplica(group: group, id: id)
    }
}

extension HostCore {
    // MARK: Its own

    /// Keeps the list of this loop's silent replicas.
    func noteSilence(of replica: Replica) {
        let isSilent = replica.stopped != nil || replica.isMute
        guard isSilent != replica.isSilent else { return }
        replica.isSilent = isSilent
        let place = silent.place(of: replica.group)
        if isSilent {
            silent.insert(SilentReplica(group: replica.group, id: replica.id), at: place)
        } else {
            silent.remove(at: place)
        }
    }

    /// Nothing is left of it here.
    func forgetSilence(of replica: Replica) {
        guard replica.isSilent else { return }
        replica.isSilent = false
        silent.remove(at: silent.place(of: replica.group))
    }

    /// Loop 0, with its answer to a heartbeat: names them to who knows of others.
    func tellSilence(to peer: Peer, knowing silence: UInt64, elsewhere: [SilentReplica]) {
        guard peer.knowsSilence, self.silent.silence &+ elsewhere.silence != silence else { return }
        let all = elsewhere.isEmpty ? silent : (silent + elsewhere).sorted { $0.group < $1.group }
        write(to: peer, over: .consensus, bytes: all.count * SilentReplica.encodedBytes) { $0.silent = all }
    }

    // MARK: Others'

    /// What the other host has now, of this loop's groups. Each loop sums up those that it holds itself: one that had no
    /// room for its part of what the other host said is told again.
    func silenceTold(_ named: [SilentReplica], by peer: Peer) {
        let before = peer.silent
        guard !named.isEmpty || !before.isEmpty else { return }
        peer.silent = named
        peer.silence = named.silence
        for replica in before where !named.names(replica.id, of: replica.group) { silenceChanged(replica.group) }
        for replica in named where !before.names(replica.id, of: replica.group) { silenceChanged(replica.group) }
    }

    private func silenceChanged(_ group: GroupID) {
        guard let replica = replica(of: group), replica.role == .leader else { return }
        updateLiveness(replica)
    }

    /// Its host is connected, and did not name it.
    func isHeard(_ member: ReplicaID, of replica: Replica) -> Bool {
        guard let host = replica.host(of: member), let peer = peer(host) else { return false }
        return peer.isConnected && !peer.silent.names(member, of: replica.group)
    }

    /// The same, and something came from its host just now.
    func isHeardNow(_ member: ReplicaID, of replica: Replica) -> Bool {
        guard isHeard(member, of: replica), let host = replica.host(of: member) else { return false }
        return isFresh(peer(host)?.lastHeardTick)
    }

    /// A leader rests: who is absent is not taken for alive because it was heard before. Nobody checks its quorum any more,
    /// and a change of members would wait for the dead for good, whom `RaftCore.change` would have let through.
    func forgetAbsentMembers(of replica: Replica) {
        guard replica.core.role == .leader, !isPlanted("absent-stay-heard") else { return }
        for member in absentMembers(of: replica) ?? [] { replica.core.unheard(member) }
    }

    /// The leader's members that nobody hears: their hosts said that they are silent, or are not connected. Empty if some
    /// other host does not agree, though it is connected: it has to be told something.
    ///
    /// - Returns: nil if the group has to stay awake.
    func absentMembers(of replica: Replica) -> [ReplicaID]? {
        let configuration = replica.withCore { $0.configuration }
        var absent: [ReplicaID] = []
        for member in configuration.members where member != replica.id {
            guard let host = replica.host(of: member), let peer = peer(host) else { return nil }
            if !peer.isConnected || peer.silent.names(member, of: replica.group) {
                absent.append(member)
            } else if !isFresh(peer.lastAgreedTick) {
                return nil
            }
        }
        // Who is left is a majority, or the leader has to find out by itself that it is none.
        func holds(_ voters: [ReplicaID]) -> Bool { voters.count { absent.contains($0) } * 2 < voters.count }
        guard holds(configuration.voters), configuration.outgoing.isEmpty || holds(configuration.outgoing) else {
            return nil
        }
        return absent
    }
}
