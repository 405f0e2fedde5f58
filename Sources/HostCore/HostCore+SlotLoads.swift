// What slots have and do, for whoever spreads them: asked of a group's leader, which counts what it is asked for. Bytes come
// from its state on a thread that may wait.

public import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
public import Storage

extension HostCore {
    func queryLoad(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        guard replica.group != .meta else { return refuse(call, .invalid("group \(GroupID.meta) has no slots")) }
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

    func serveLoad(call: CallToken, from replica: Replica) {
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
                call: call, group: replica.group, index: replica.core.appliedIndex, revision: replica.machine.revision,
                rates: rates, seconds: UInt32(clamping: seconds), live: live,
                memtableBytes: UInt64(replica.memtable.distinctBytes + frozen), view: replica.coldView))
    }
}

extension LoadRead {
    /// The answer. Any thread that may wait: see `Store.slotBytes`.
    public func result<D: Disk>(from store: Store<D>) throws -> DataResult {
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
