// What slots have and do, for whoever spreads them: asked of a group's leader, which counts what it is asked for. Bytes come
// from its state on a thread that may wait.

public import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
public import Storage

extension HostCore {
    /// A query of the group's own word about slots.
    func querySlots(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        guard replica.group != .meta else { return refuse(call, .invalid("group \(GroupID.meta) has no slots")) }
        switch request.query.isEmpty ? 0 : request.query[0] {
        case MigrationsQuery.number: queryMigrations(request, replica, call)
        case SlotContentsQuery.number: queryContents(request, replica, call)
        default: queryLoad(request, replica, call)
        }
    }

    private func queryLoad(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        guard request.slot == .group else {
            return refuse(call, .invalid("loads are those of all slots of a group: ask in slot \(Slot.group)"))
        }
        guard request.consistency == .linearizable || request.consistency == .lease else {
            return refuse(call, .invalid("loads are measured by the group's leader: ask it for a linearizable read"))
        }
        do throws(DecodingFailure) { _ = try SlotLoadQuery(decoding: request.query) } catch {
            return refuse(call, .invalid("\(error)"))
        }
        wait(WaitingRead(call: call, kind: .load), in: replica, consistency: request.consistency)
    }

    /// - Parameter asker: who is told instead of the call.
    func serveLoad(call: CallToken, asker: LoadRead.Asker? = nil, from replica: Replica) {
        let slots = map?.ring.slots(of: replica.group) ?? []
        // What was counted before it began to lead was another one's to answer.
        let leadsFor = replica.leadsSinceTick.map { (tickCount - $0) / secondTicks } ?? 0
        let seconds = min(slotWork.seconds, leadsFor)
        let rates = slots.map { slot in
            let operations = slotWork.count(of: slot) * 1_000 / max(seconds, 1)
            return (slot: slot, operations: UInt32(clamping: operations))
        }
        var live = [UInt64](repeating: 0, count: Slot.count + 1)
        replica.memtable.add(toBytesOfSlots: &live)
        // All of its records are looked at: no more of that in a turn than of bytes.
        repliedBytes += replica.memtable.distinctBytes
        let frozen = replica.checkpoint?.frozen.distinctBytes ?? 0
        effects.loadReads.append(
            LoadRead(
                call: call, asker: asker, group: replica.group, index: replica.core.appliedIndex,
                revision: replica.machine.revision, rates: rates, seconds: UInt32(clamping: seconds), live: live,
                memtableBytes: UInt64(replica.memtable.distinctBytes + frozen), contents: nil,
                view: replica.coldView))
    }

    /// How far the slots are that come to the group: as the leader knows it, now.
    private func queryMigrations(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        do throws(DecodingFailure) { _ = try MigrationsQuery(decoding: request.query) } catch {
            return refuse(call, .invalid("\(error)"))
        }
        guard replica.role == .leader, replica.core.isEstablished else { return refuse(call, notLeader(replica)) }
        let reports = (map?.migrations ?? []).filter { $0.target == replica.group }.map { migration in
            let phase = replica.machine.ownership.task(migration.id)?.phase
            guard let drive = drive(of: migration.id, .target), drive.replica === replica else {
                return MigrationReport(id: migration.id, source: migration.source, phase: phase)
            }
            return MigrationReport(
                id: migration.id, source: migration.source, phase: phase, rounds: UInt32(clamping: drive.rounds),
                bytes: drive.takenBytes, lastRoundBytes: drive.rounds > 0 ? UInt64(max(drive.lastRoundBytes, 0)) : 0,
                bytesPerSecond: drive.pace.bytesPerSecond, wait: drive.proposed == nil ? drive.wait : .log)
        }
        let body = GroupMigrations(reports).encoded()
        effects.replies.append(
            HostReply(
                call: call,
                response: .done(
                    DataResult(index: replica.core.appliedIndex, revision: replica.machine.revision, body: body))))
    }

    /// What this replica has of slots, whoever leads: each answers for itself.
    private func queryContents(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        guard request.slot == .group, request.consistency == .local else {
            return refuse(
                call, .invalid("what a replica has is asked in slot \(Slot.group), of itself: with a local read"))
        }
        let query: SlotContentsQuery
        do throws(DecodingFailure) { query = try SlotContentsQuery(decoding: request.query) } catch {
            return refuse(call, .invalid("\(error)"))
        }
        guard pagesOpen < settings.pagesMax, repliedBytes < settings.replyBytesPerTurn else {
            return refuse(call, overloaded)
        }
        pagesOpen += 1
        let place = query.from.isEmpty ? nil : try? RecordPosition(decoding: query.from)
        let from = place.map { RecordKey(slot: $0.slot, machine: $0.machine, key: $0.key) } ?? .first(of: Slot(0))
        let live = replica.memtable.page(
            from: from, end: .first(of: .group), recordsMax: settings.pageRecordsMax, bytesMax: settings.pageBytesMax)
        repliedBytes += live.keyAndValueBytes
        var contents = SlotContents(mapVersion: map?.version ?? 0)
        if place == nil { (contents.gates, contents.tasks) = replica.machine.ownership.statement }
        effects.loadReads.append(
            LoadRead(
                call: call, group: replica.group, index: replica.core.appliedIndex, revision: replica.machine.revision,
                rates: [], seconds: 0, live: [], memtableBytes: 0,
                contents: LoadRead.Contents(from: from, live: live, answer: contents), view: replica.coldView))
    }
}

extension LoadRead {
    /// What a replica has of slots, as far as its event loop knows it.
    package struct Contents: Sendable {
        var from: RecordKey
        /// What is in memory, tombstones too; where it ends before the last slot, the answer does.
        var live: RecordPage
        var answer: SlotContents
    }

    /// Looks for the first record of each slot: one look-up for each that has any, and some for what is deleted in memory
    /// alone.
    private func contents<D: Disk>(_ contents: Contents, from store: Store<D>) throws -> SlotContents {
        var answer = contents.answer
        var from = contents.from
        var live = contents.live
        let end = RecordKey.first(of: .group)
        for look in 0... {
            // What is in memory behind its end was not given.
            guard from < end, contents.live.next.map({ from < $0 }) ?? true, look < Self.looksMax else { break }
            let cold = try store.page(
                in: view, from: from, end: end, recordsMax: Self.recordsOfLook, bytesMax: Self.bytesOfLook)
            let page = RecordPage.overlaid(newer: live, older: cold)
            if let found = page.records.first {
                answer.filled.append(found.key.slot)
                from = .first(of: Slot(found.key.slot.rawValue + 1))
            } else {
                from = page.next ?? end
            }
            live.records.removeFirst(live.records.firstIndex { $0.key >= from } ?? live.records.count)
        }
        if from < end {
            answer.next = RecordPosition(slot: from.slot, machine: from.machine, key: from.key).encoded()
        }
        return answer
    }

    /// Of one answer; each reads some blocks of each run.
    private static var looksMax: Int { 20_000 }
    private static var recordsOfLook: Int { 16 }
    private static var bytesOfLook: Int { 64 << 10 }
}

extension LoadRead {
    /// The answer. Any thread that may wait: see `Store.slotBytes`.
    public func result<D: Disk>(from store: Store<D>) throws -> DataResult {
        if let contents {
            let answer = try self.contents(contents, from: store)
            return DataResult(index: index, revision: revision, body: answer.encoded())
        }
        var bytes = try store.slotBytes(in: view, among: rates.map(\.slot))
        for (slot, size) in live.enumerated() { bytes[slot] += size }
        var slots: [SlotLoad] = []
        for (slot, operations) in rates {
            let place = Int(slot.rawValue)
            if bytes[place] > 0 || operations > 0 {
                slots.append(SlotLoad(slot: slot, bytes: bytes[place], operationsPer1000Seconds: operations))
            }
            bytes[place] = 0
        }
        let load = GroupLoad(
            stateBytes: view.manifest.bytes, memtableBytes: memtableBytes, otherBytes: bytes.reduce(0, +),
            seconds: seconds, slots: slots)
        return DataResult(index: index, revision: revision, body: load.encoded())
    }
}
