// Giving a replica's state to another member: who is offered one, what is pinned meanwhile and for how long, and how fast
// pieces are read.

import Messages
import Primitives
import RaftCore
package import Storage

/// A state that a replica gives to another, or to a client.
struct SnapshotSupply {
    /// `.none`: a client.
    let to: ReplicaID
    /// Names it in the words of both. A client chose it.
    let number: UInt64
    /// Names it here, and no other ever.
    let supply: UInt64
    /// 0: a whole one.
    let base: LogIndex
    /// What the other side asked for.
    let askedBase: LogIndex
    let index: LogIndex
    /// Pins what is read; nil when the other side needs no more of it. The log stays a while yet for what it asks next.
    var view: StoreView?
    /// Once it was read: it may cost a look at all of the state, which is as far as `count` says.
    var description = Bytes()
    var count = SnapshotCount()
    /// Where the piece begins that is to be read, or is being read; nil: the other side has what it asked for.
    var wanted: Bytes?
    var isReading = false
    let begunTick: UInt64
    var usedTick: UInt64
    /// Of a member: the connection through which it asked last, as its peer counts them.
    var connection: UInt64 = 0
    /// Of a client: its call that waits for what is wanted.
    var call: CallToken?
    /// Of a client: where the last pieces began, and the digest of all records before them. So many that a piece whose
    /// answer was lost can be asked for again.
    var digests: [(after: Bytes, digest: StateDigest)] = []
    static let digestsMax = 4
}

extension HostCore {
    /// A state that nobody asks for is let go of, and each one some day: who is so slow begins anew.
    private var supplyIdleTicks: UInt64 { 30 * secondTicks }
    private var supplyTicks: UInt64 { 3_600 * secondTicks }
    /// After the last piece: installing, a restart of consensus, the first append.
    private var aftermathTicks: UInt64 { 10 * secondTicks }

    /// Consensus needs more than the log has for this follower.
    func offerSnapshot(_ replica: Replica, to follower: ReplicaID) {
        note(replica) { if !$0.needy.contains(follower) { $0.needy.append(follower) } }
    }

    func tickSupplies(of replica: Replica) {
        if tickCount % secondTicks == 0 {
            replica.snapshots.needy.removeAll { follower in
                replica.role != .leader || replica.core.progress(of: follower)?.state != .snapshot
            }
            for follower in replica.snapshots.needy { say(.offer, replica, to: follower) }
        }
        for place in replica.snapshots.supplies.indices.reversed() {
            let supply = replica.snapshots.supplies[place]
            let idleTicks =
                supply.to == .none ? clientIdleTicks : supply.view == nil ? aftermathTicks : supplyIdleTicks
            // A client that waits asks again. Of another member a read may take long, and it asks no more by then.
            var isIdle = tickCount - supply.usedTick > idleTicks && (supply.to == .none || !supply.isReading)
            // It asks no more, and others may wait for its place.
            if !isIdle, tickCount % secondTicks == 0, supply.to != .none { isIdle = replica.isStranger(supply.to) }
            if isIdle || tickCount - supply.begunTick > supplyTicks {
                close(replica, place)
                replica.snapshots.supplies.remove(at: place)
                // It may have held back what the journal may forget.
                announceSuperfluous(replica)
            }
        }
        tellWaitingClients(of: replica)
        readWanted(replica)
    }

    func fetch(_ replica: Replica, by other: ReplicaID, _ request: SnapshotMessage.Fetch) {
        func refuse(_ reason: SnapshotRefusal) {
            say(.refused(snapshot: request.snapshot, reason), replica, to: other)
        }
        guard replica.stopped == nil, replica.impairment == nil else { return refuse(.none) }
        if request.snapshot == 0 {
            let manifest = replica.view.manifest
            guard manifest.header.index >= max(request.least, request.base.next) else {
                // What it needs is not on disk yet; it will ask again.
                guard replica.core.appliedIndex >= max(request.least, request.base.next) else {
                    return refuse(.notNewer)
                }
                return checkpoint(replica)
            }
            if let place = replica.snapshots.supplies.firstIndex(where: { $0.to == other }) {
                let supply = replica.snapshots.supplies[place]
                if supply.view != nil, supply.askedBase == request.base, supply.index >= request.least {
                    // Asked again before the first piece was there, or after it was lost.
                    replica.snapshots.supplies[place].usedTick = tickCount
                    replica.snapshots.supplies[place].connection = connection(to: other, of: replica)
                    replica.snapshots.supplies[place].wanted = Bytes()
                    return readWanted(replica)
                }
                close(replica, place)
                replica.snapshots.supplies.remove(at: place)
            }
            guard !replica.isStranger(other) else { return refuse(.none) }
            if suppliesOpen >= settings.snapshotsMax { closeIdleSupply() }
            guard suppliesOpen < settings.snapshotsMax else { return refuse(.busy) }
            suppliesOpen += 1
            let isIncrement = request.base >= manifest.horizon || isPlanted("increment-below-horizon")
            let number = random.next() | 1
            note(replica) {
                $0.supplies.append(
                    SnapshotSupply(
                        to: other, number: number, supply: nextSupply(), base: isIncrement ? request.base : .zero,
                        askedBase: request.base,
                        index: manifest.header.index, view: replica.view, wanted: Bytes(), begunTick: tickCount,
                        usedTick: tickCount, connection: connection(to: other, of: replica)))
            }
        } else {
            let supplies = replica.snapshots.supplies
            guard
                let place = supplies.firstIndex(where: {
                    $0.to == other && $0.number == request.snapshot && $0.view != nil
                })
            else { return refuse(.gone) }
            replica.snapshots.supplies[place].usedTick = tickCount
            replica.snapshots.supplies[place].connection = connection(to: other, of: replica)
            replica.snapshots.supplies[place].wanted = request.after
        }
        readWanted(replica)
    }

    func nextSupply() -> UInt64 {
        suppliesMade += 1
        return suppliesMade
    }

    /// Reads what is asked for, as far as the limit on bytes lets it. Counting for clients, which may go through all of
    /// a state, is done for one of them at a time.
    func readWanted(_ replica: Replica) {
        for place in replica.snapshots.supplies.indices {
            let supply = replica.snapshots.supplies[place]
            guard let after = supply.wanted, let view = supply.view, !supply.isReading, snapshotBytesLeft > 0 else {
                continue
            }
            let read = SnapshotRead(
                group: replica.group, to: supply.to, supply: supply.supply, base: supply.base, view: view,
                description: supply.description, count: supply.count, countBytesMax: settings.snapshotCountBytes,
                after: after, bytesMax: settings.snapshotPieceBytes,
                digest: supply.digests.first { $0.after == after }?.digest)
            if read.isForClient, read.counts {
                guard !isCountingForClient else { continue }
                isCountingForClient = true
            }
            // How many there are shows when they were read.
            snapshotBytesLeft -= settings.snapshotPieceBytes
            replica.snapshots.supplies[place].isReading = true
            effects.snapshotReads.append(read)
        }
    }

    /// A `SnapshotRead` has ended.
    ///
    /// - Parameter piece: nil: what it was to read is damaged, as was reported.
    package func snapshotRead(_ read: SnapshotRead, _ piece: SnapshotReadResult?) {
        snapshotBytesLeft += settings.snapshotPieceBytes - (piece?.readBytes ?? 0)
        if read.isForClient, read.counts { isCountingForClient = false }
        guard let replica = replica(of: read.group),
            let place = replica.snapshots.supplies.firstIndex(where: { $0.supply == read.supply })
        else { return }
        let number = replica.snapshots.supplies[place].number
        replica.snapshots.supplies[place].isReading = false
        guard let piece else {
            close(replica, place)
            guard read.to != .none else { return }
            return say(.refused(snapshot: number, .none), replica, to: read.to)
        }
        replica.snapshots.supplies[place].count = piece.count
        guard piece.count.isComplete || !read.counts else { return readWanted(replica) }
        if !piece.description.isEmpty { replica.snapshots.supplies[place].description = piece.description }
        // Asked for another place meanwhile: that is read next.
        guard replica.snapshots.supplies[place].wanted == read.after else { return readWanted(replica) }
        replica.snapshots.supplies[place].wanted = nil
        replica.snapshots.supplies[place].usedTick = tickCount
        counts.snapshotBytesGiven += UInt64(piece.records.count)
        guard read.to != .none else { return answer(replica, place, piece) }
        say(
            .piece(
                SnapshotMessage.Piece(
                    snapshot: number, after: read.after, isLast: piece.isLast, description: piece.description,
                    records: piece.records)), replica, to: read.to)
    }

    /// The other side has all of it, or has given up.
    func done(_ replica: Replica, with snapshot: UInt64, by other: ReplicaID) {
        guard
            let place = replica.snapshots.supplies.firstIndex(where: { $0.to == other && $0.number == snapshot })
        else { return }
        close(replica, place)
        replica.snapshots.supplies[place].usedTick = tickCount
    }

    func closeSupplies(of replica: Replica) {
        for place in replica.snapshots.supplies.indices { close(replica, place) }
        replica.snapshots.supplies = []
        replica.snapshots.needy = []
        refusePins(of: replica)
    }

    private func isConnected(_ other: ReplicaID, of replica: Replica) -> Bool {
        replica.host(of: other).flatMap { peer($0) }?.isBulkConnected == true
    }

    private func connection(to other: ReplicaID, of replica: Replica) -> UInt64 {
        replica.host(of: other).flatMap { peer($0) }?.bulkConnections ?? 0
    }

    /// Somebody waits for a place: of the members that are away, or were, and not for a moment only, the one that asked
    /// for nothing for longest loses its own, and begins anew when it is there again. Who comes back and wants to go on
    /// says so at once.
    private func closeIdleSupply() {
        var longest: (replica: Replica, place: Int, tick: UInt64)?
        for replica in snapshotting {
            for (place, supply) in replica.snapshots.supplies.enumerated()
            where supply.to != .none && supply.view != nil && !supply.isReading {
                let isThere = isConnected(supply.to, of: replica)
                guard !isThere || connection(to: supply.to, of: replica) != supply.connection,
                    tickCount - supply.usedTick > supplyIdleTicks / 6,
                    longest.map({ supply.usedTick < $0.tick }) ?? true
                else { continue }
                longest = (replica, place, supply.usedTick)
            }
        }
        if let longest { close(longest.replica, longest.place) }
    }

    func close(_ replica: Replica, _ place: Int) {
        guard replica.snapshots.supplies[place].view != nil else { return }
        replica.snapshots.supplies[place].view = nil
        replica.snapshots.supplies[place].wanted = nil
        guard replica.snapshots.supplies[place].to == .none else { return suppliesOpen -= 1 }
        clientSuppliesOpen -= 1
        if let call = replica.snapshots.supplies[place].call {
            replica.snapshots.supplies[place].call = nil
            refuse(call, .unavailable("the replica on host \(host) no longer gives this state: begin anew elsewhere"))
        }
    }

    /// The log stays above what others are being given, or each would need another one when it has it; but no journal
    /// becomes too long for that.
    func heldForSnapshots(_ replica: Replica) -> LogIndex {
        guard journalBytes / 2 <= settings.journalBytesForLaggards else { return LogIndex(.max) }
        // Clients need no log.
        return replica.snapshots.supplies.reduce(LogIndex(.max)) { $1.to == .none ? $0 : min($0, $1.index) }
    }
}

// MARK: - Reading

/// What a `SnapshotRead` found.
package struct SnapshotReadResult: Sendable {
    var description: Bytes
    /// How far counting has come. Not complete, if there was no description: nothing else was read.
    var count: SnapshotCount
    var records: Bytes
    /// Where the next piece begins; nil: this is the last.
    var next: Bytes?
    /// Of all records up to the end of this piece, if there was one of all before.
    var digest: StateDigest?
    /// What it took of the limit on bytes.
    var readBytes: Int

    var isLast: Bool { next == nil }
}

extension SnapshotRead {
    /// Reads the piece, or counts on. Any thread.
    ///
    /// - Throws: `DiskError`, `.corrupt` when what was read is damaged; `SnapshotError` or `DecodingFailure` when there is
    ///   no such piece.
    package func result<D: Disk>(from store: Store<D>) throws -> SnapshotReadResult {
        let reader = try SnapshotReader(store, view, base: base)
        var count = count
        var description = Bytes()
        var position: RecordKey?
        if after.isEmpty {
            description = self.description
            if description.isEmpty {
                guard try reader.goOn(&count, passedBytesMax: countBytesMax) else {
                    return SnapshotReadResult(
                        description: description, count: count, records: Bytes(), readBytes: countBytesMax)
                }
                var writer = ByteWriter()
                reader.description(count).encode(into: &writer)
                description = writer.take()
            }
        } else {
            let place = try RecordPosition(decoding: after)
            position = RecordKey(slot: place.slot, machine: place.machine, key: place.key)
        }
        var digest = digest
        let piece = try reader.piece(behind: position, bytesMax: bytesMax, digest: &digest)
        let next = piece.next.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key).encoded() }
        return SnapshotReadResult(
            description: description, count: count, records: piece.bytes, next: next, digest: digest,
            readBytes: piece.bytes.count)
    }
}
