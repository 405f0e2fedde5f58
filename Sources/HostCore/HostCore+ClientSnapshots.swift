// Giving a replica's state to a client that copies it. It is kept as for another member (HostCore+SnapshotSupply), and
// read within the same limit on bytes; how many there are at a time has a bound of its own, so that no follower waits for
// one. The client needs no log behind it, and can have a digest of all records as they were read.
//
//     client                                       a replica, whether it leads or not
//       │ ── fetch: number, no position ───────►    asks its leader how far it must be, applies that, and waits until
//       │                                           its manifest has it; then the manifest's runs are pinned, and their
//       │ ◄─ not yet: records counted ──────────    records counted, which may take long: whoever waits is told how far
//       │ ── fetch: number, no position ───────►    that is, and asks again under the same number
//       │ ◄─ description, first piece ──────────
//       │ ── fetch: from behind the last ──────►    …
//       │ ◄─ last piece, digest ────────────────
//       │ ── release ───────────────────────────►   (or nobody asks for a while)

public import Messages
import Primitives
import RaftCore
import Storage

/// A client's call for a state that is applied and not on disk yet.
struct SnapshotPin {
    let number: UInt64
    /// Nil: whoever asked was told that it takes longer, and has not asked again yet.
    var call: CallToken?
    /// The manifest must have this entry.
    let least: LogIndex
    let begunTick: UInt64
    /// When it was asked for last.
    var usedTick: UInt64
}

extension HostCore {
    /// A client that was interrupted may go on for so long.
    var clientIdleTicks: UInt64 { 120 * secondTicks }
    /// For the state to get to the disk.
    private var pinTicksMax: UInt64 { 60 * secondTicks }
    /// A client that waits for its first piece is told so often that the host is at it.
    private var wordTicks: UInt64 { 2 * secondTicks }

    /// A client's question for a piece of a group's state. The answer is a result with a `SnapshotAnswer` in it.
    public func snapshot(_ request: SnapshotRequest, call: CallToken) {
        guard let replica = replica(of: request.group) else { return refuse(call, .unknownGroup) }
        let supplies = replica.snapshots.supplies
        let place = supplies.firstIndex { $0.to == .none && $0.number == request.snapshot && $0.view != nil }
        if request.kind == .release {
            if let place {
                close(replica, place)
                replica.snapshots.supplies.remove(at: place)
            }
            if let place = replica.snapshots.pins.firstIndex(where: { $0.number == request.snapshot }) {
                let pin = replica.snapshots.pins.remove(at: place)
                clientSuppliesOpen -= 1
                if let call = pin.call { refuse(call, .unavailable("the client no longer wants this state")) }
            }
            return effects.replies.append(
                HostReply(call: call, response: .done(DataResult(index: .zero, revision: .zero)), isRead: true))
        }
        if let refusal = refusal(of: replica, slot: .group, epoch: .zero, isCopy: true) { return refuse(call, refusal) }
        guard let place else {
            guard request.after == nil else { return refuse(call, notKept(request)) }
            // One whose first answer was lost on its way here is found when this read is served.
            return wait(
                WaitingRead(call: call, kind: .snapshot(request.snapshot)), in: replica,
                consistency: .linearizableAnywhere)
        }
        let after = request.after?.encoded() ?? Bytes()
        guard supplies[place].digests.contains(where: { $0.after == after }) else {
            return refuse(call, notKept(request))
        }
        ask(replica, place, for: after, call: call)
    }

    private func notKept(_ request: SnapshotRequest) -> Refusal {
        .invalid("host \(host) does not keep this state of group \(request.group), or not this piece: begin anew")
    }

    private func ask(_ replica: Replica, _ place: Int, for after: Bytes, call: CallToken) {
        if let earlier = replica.snapshots.supplies[place].call {
            refuse(earlier, .unavailable("the same was asked for again"))
        }
        replica.snapshots.supplies[place].call = call
        replica.snapshots.supplies[place].wanted = after
        replica.snapshots.supplies[place].usedTick = tickCount
        readWanted(replica)
    }

    /// The replica has applied what was acknowledged before the call came.
    func pin(_ replica: Replica, _ number: UInt64, call: CallToken) {
        if let place = replica.snapshots.supplies.firstIndex(where: { $0.to == .none && $0.number == number }) {
            guard replica.snapshots.supplies[place].view != nil,
                replica.snapshots.supplies[place].digests.first?.after.isEmpty == true
            else { return refuse(call, .invalid("this state is no longer kept: begin anew under another number")) }
            return ask(replica, place, for: Bytes(), call: call)
        }
        if let place = replica.snapshots.pins.firstIndex(where: { $0.number == number }) {
            if let earlier = replica.snapshots.pins[place].call {
                refuse(earlier, .unavailable("the same was asked for again"))
            }
            replica.snapshots.pins[place].call = call
            replica.snapshots.pins[place].usedTick = tickCount
            return
        }
        guard clientSuppliesOpen < settings.clientSnapshotsMax else {
            return refuse(call, .overloaded(retryAfterMillis: 500))
        }
        clientSuppliesOpen += 1
        let least = replica.core.appliedIndex
        note(replica) {
            $0.pins.append(
                SnapshotPin(number: number, call: call, least: least, begunTick: tickCount, usedTick: tickCount))
        }
        tickPins(of: replica)
    }

    /// Opens what is on disk by now, and sees to it that the rest gets there.
    func tickPins(of replica: Replica) {
        guard !replica.snapshots.pins.isEmpty else { return }
        guard replica.stopped == nil, replica.impairment == nil else { return refusePins(of: replica) }
        var waiting: [SnapshotPin] = []
        for pin in replica.snapshots.pins {
            guard replica.manifestIndex < pin.least else {
                var supply = SnapshotSupply(
                    to: .none, number: pin.number, supply: nextSupply(), base: .zero, askedBase: .zero,
                    index: replica.manifestIndex,
                    view: replica.view, wanted: Bytes(), begunTick: tickCount, usedTick: tickCount)
                supply.call = pin.call
                supply.digests = [(Bytes(), StateDigest())]
                replica.snapshots.supplies.append(supply)
                continue
            }
            if tickCount - pin.begunTick > pinTicksMax {
                clientSuppliesOpen -= 1
                if let call = pin.call {
                    refuse(call, .unavailable("the state on host \(host) does not get to its disk: ask another"))
                }
            } else {
                waiting.append(pin)
            }
        }
        replica.snapshots.pins = waiting
        if !waiting.isEmpty { checkpoint(replica) }
        readWanted(replica)
    }

    func refusePins(of replica: Replica) {
        for pin in replica.snapshots.pins {
            guard let call = pin.call else { continue }
            refuse(call, .unavailable(replica.stopped ?? replica.impairment ?? "the replica is not sound"))
        }
        clientSuppliesOpen -= replica.snapshots.pins.count
        replica.snapshots.pins = []
    }

    /// Says to clients that wait for a first piece how many records were counted. Counting goes on.
    func tellWaitingClients(of replica: Replica) {
        func tell(_ call: CallToken, _ counted: UInt64) {
            let result = DataResult(
                index: .zero, revision: .zero, body: SnapshotAnswer(notYet: counted).encoded())
            effects.replies.append(HostReply(call: call, response: .done(result), isRead: true))
        }
        for place in replica.snapshots.pins.indices {
            let pin = replica.snapshots.pins[place]
            guard let call = pin.call, tickCount - pin.usedTick >= wordTicks else { continue }
            replica.snapshots.pins[place].call = nil
            tell(call, 0)
        }
        for place in replica.snapshots.supplies.indices {
            let supply = replica.snapshots.supplies[place]
            guard supply.to == .none, supply.description.isEmpty, let call = supply.call,
                tickCount - supply.usedTick >= wordTicks
            else { continue }
            replica.snapshots.supplies[place].call = nil
            tell(call, supply.count.records)
        }
    }

    /// A piece was read for the client that waits for it.
    func answer(_ replica: Replica, _ place: Int, _ piece: SnapshotReadResult) {
        if let next = piece.next, let digest = piece.digest {
            var digests = replica.snapshots.supplies[place].digests
            digests.removeAll { $0.after == next }
            digests.append((next, digest))
            replica.snapshots.supplies[place].digests = digests.suffix(SnapshotSupply.digestsMax)
        }
        guard let call = replica.snapshots.supplies[place].call else { return }
        replica.snapshots.supplies[place].call = nil
        let answer = SnapshotAnswer(
            isLast: piece.isLast, digest: piece.isLast ? piece.digest?.value ?? 0 : 0, description: piece.description,
            piece: piece.records)
        let result = DataResult(
            index: replica.snapshots.supplies[place].index,
            revision: replica.snapshots.supplies[place].view?.manifest.revision ?? .zero, body: answer.encoded())
        effects.replies.append(HostReply(call: call, response: .done(result), isRead: true))
    }
}
