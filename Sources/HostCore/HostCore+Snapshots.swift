// Snapshots between hosts: what both sides share. A replica that needs what its leader's log no longer holds, or whose
// state on disk is damaged, asks another member for its state piece by piece, and then starts anew on it as after a
// restart of its host. The words are in SnapshotMessage.swift; the one who gives is in HostCore+SnapshotSupply.swift, the
// one who gets in HostCore+SnapshotIntake.swift; clients that copy a state are in HostCore+ClientSnapshots.swift. What a piece is, and how it gets into the store, is Storage's.

import Primitives
import RaftCore

/// The snapshots of one replica, where there are any.
struct SnapshotState {
    /// As a leader: followers that need one, as consensus says.
    var needy: [ReplicaID] = []
    var supplies: [SnapshotSupply] = []
    /// Clients' calls for a state that has to get to the disk first.
    var pins: [SnapshotPin] = []
    /// This replica needs one; not to be asked for before this tick.
    var isWanted = false
    var notBefore: UInt64 = 0
    var intake: SnapshotIntake?
    /// Whom it asked last, and which of those that it does not take for the leader.
    var lastSource = ReplicaID.none
    var lastOtherSource = ReplicaID.none

    var isIdle: Bool { needy.isEmpty && supplies.isEmpty && pins.isEmpty && !isWanted && intake == nil }
}

extension HostCore {
    var secondTicks: UInt64 { max(1, 1_000_000_000 / settings.tickNanoseconds) }

    /// Changes the state of a replica's snapshots; it is looked after from then on until nothing is left to do.
    func note(_ replica: Replica, _ change: (inout SnapshotState) -> Void) {
        change(&replica.snapshots)
        guard !replica.isSnapshotting, !replica.snapshots.isIdle else { return }
        replica.isSnapshotting = true
        snapshotting.append(replica)
    }

    func tickSnapshots() {
        let perSecond = settings.snapshotBytesPerSecond
        snapshotBytesLeft = min(snapshotBytesLeft + max(perSecond / Int(secondTicks), 1), perSecond)
        guard !snapshotting.isEmpty else { return }
        // Another one comes first each time: what may be read in a tick may not be enough for all.
        let first = Int(tickCount % UInt64(snapshotting.count))
        for replica in snapshotting[first...] + snapshotting[..<first] {
            tickPins(of: replica)
            tickSupplies(of: replica)
            tickIntake(of: replica)
        }
        snapshotting.removeAll { replica in
            replica.isSnapshotting = !replica.snapshots.isIdle
            return !replica.isSnapshotting
        }
    }

    /// Lost if there is no connection: every word is asked for again.
    func say(_ kind: SnapshotMessage.Kind, _ replica: Replica, to other: ReplicaID) {
        guard let host = replica.host(of: other), let peer = peer(host), peer.isBulkConnected, peer.knowsSnapshots
        else {
            return
        }
        let message = SnapshotMessage(group: replica.group, from: replica.id, to: other, kind)
        write(to: peer, over: .bulk, bytes: message.encodedBytes) { $0.append(message) }
    }

    func receive(_ message: SnapshotMessage, from host: HostID) {
        guard let replica = replica(of: message.group), message.to == replica.id,
            replica.host(of: message.from) == host, !replica.isMute
        else {
            strayMessages += 1
            return
        }
        switch message.kind {
        case .offer: if replica.stopped == nil { wantSnapshot(replica) }
        case .fetch(let request): fetch(replica, by: message.from, request)
        case .piece(let piece): take(replica, from: message.from, piece)
        case .refused(let snapshot, let reason): refused(replica, by: message.from, snapshot, reason)
        case .done(let snapshot): done(replica, with: snapshot, by: message.from)
        }
    }
}
