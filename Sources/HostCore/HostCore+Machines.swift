// Users' state machines: which commands other hosts can apply, and queries, which are answered beside the event loop.

public import Messages
public import Primitives
import RaftCore
public import StateMachines
public import Storage

extension HostCore {
    // MARK: Commands

    /// Loop 0: the other side can't know what this host's program has.
    func tellMachines(to peer: Peer, asks: Bool) {
        guard peer.knowsMachines else { return }
        let commands = settings.machines.commandNumbers
        write(to: peer, over: .consensus, bytes: 8 + commands.count * 4) {
            $0.append(.machines(commands, asks: asks))
        }
    }

    /// Loop 0, once per second: until they have said so.
    func askForMachines() {
        for peer in peers where peer.isConnected && peer.machines == nil { tellMachines(to: peer, asks: true) }
    }

    /// What a host's program has.
    func machinesTold(_ commands: [MachineCommandNumber], by host: HostID) {
        peer(host)?.machines = Set(commands)
    }

    /// A command goes into the log only where every member that can be reached is able to apply it: one that is not would
    /// have to stop. Hosts that are away are not asked, or one host less would end the group's work.
    func refusalByMembers(of payload: Bytes, _ replica: Replica) -> Refusal? {
        if let (command, lock) = CommandGuard.read(payload) {
            // Whether the token stands is told by the machine that gave it: who has that has its first command.
            return refusalByMembers(of: MachineCommandNumber(machine: lock, command: 1), replica)
                ?? refusalByMembers(of: command, replica)
        }
        guard let machine = payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine }), machine.isRegistered,
            let request = try? MachineRequest(payload: payload)
        else { return nil }
        return refusalByMembers(of: MachineCommandNumber(machine: machine, command: request.number), replica)
    }

    /// The same for a command that another one scheduled.
    func refusalByMembers(of number: MachineCommandNumber, _ replica: Replica) -> Refusal? {
        for member in replica.withCore({ $0.configuration.members }) {
            // Nor is one that stands still, perhaps because it has come to what it does not know.
            guard let host = replica.host(of: member), let peer = peer(host), peer.isConnected,
                !peer.silent.names(member, of: replica.group)
            else { continue }
            guard let machines = peer.machines else {
                return .unavailable("host \(host) has not said yet which state machines it has")
            }
            guard machines.contains(number) else {
                return .unavailable(
                    "host \(host) does not have command \(number.command) of state machine \(number.machine): start it with a "
                        + "program that has it")
            }
        }
        return nil
    }

    // MARK: Queries

    /// A query of a user's machine, when it may be answered from what is here now.
    func serve(_ reading: MachineReading, call: CallToken, from replica: Replica) {
        var recent: [RecordPosition: Finding] = [:]
        var bytes = 0
        for place in reading.places {
            // Absent: it is known not to be in memory, and what lies below has it or nobody.
            recent[place] =
                isPlanted("query-without-memtable")
                ? .elsewhere : Finding(replica.memtable.get(RecordKey(place))) ?? .elsewhere
            if case .found(let record)? = recent[place] { bytes += record.value.count }
        }
        var live: [MachineRange: RecordPage] = [:]
        for range in reading.ranges where live[range] == nil {
            let page = replica.memtable.page(
                from: RecordKey(slot: reading.slot, machine: reading.machine, key: range.from),
                end: RecordKey(slot: reading.slot, machine: reading.machine, key: range.end),
                recordsMax: range.recordsMax, bytesMax: range.bytesMax)
            bytes += page.records.reduce(0) { $0 + $1.key.key.count + ($1.value?.count ?? 0) }
            live[range] = isPlanted("query-without-memtable") ? RecordPage(records: [], next: nil) : page
        }
        repliedBytes += bytes
        effects.machineReads.append(
            MachineRead(
                call: call, group: replica.group, replica: replica.id, index: replica.core.appliedIndex,
                revision: replica.machine.revision, logTime: replica.machine.logTime, reading: reading,
                recent: recent, live: live, view: replica.coldView))
    }

    /// A query names more records: it is answered from what is here by now, by the same replica, and from nothing older
    /// than it was confirmed for.
    public func queryAgain(_ read: MachineRead, _ reading: MachineReading) {
        guard let replica = replica(of: read.group), replica.id == read.replica else {
            return endQuery(read, .unknownGroup)
        }
        if let refusal = refusal(of: replica, slot: reading.slot, epoch: .zero) { return endQuery(read, refusal) }
        // What of it is here by now may be a part of what was.
        if let refusal = refusalToRead(reading.slot, replica) { return endQuery(read, refusal) }
        guard replica.core.appliedIndex >= read.index else {
            return endQuery(read, .unavailable("the replica has begun anew: ask again"))
        }
        serve(reading, call: read.call, from: replica)
    }

    private func endQuery(_ read: MachineRead, _ refusal: Refusal) {
        queryDone()
        refuse(read.call, refusal)
    }

    /// A `MachineRead` was answered.
    public func queryDone() { queriesOpen -= 1 }
}

/// A query of a user's machine: for a reader thread, which answers the call itself, and says so with `queryDone`, or has
/// it go on with `HostCore.queryAgain`.
public struct MachineRead: Sendable {
    public var call: CallToken
    public var group: GroupID
    package var replica: ReplicaID
    public var index: LogIndex
    public var revision: Revision
    package var logTime: LogTime
    package var reading: MachineReading
    /// Of the live memtable at that moment: `elsewhere` is what it does not have.
    package var recent: [RecordPosition: Finding]
    /// The same of ranges, tombstones included.
    package var live: [MachineRange: RecordPage]
    package var view: StoreView

    /// What became of it. Any thread.
    ///
    /// - Throws: what the disk said.
    public func result<D: Disk>(from store: Store<D>) throws -> MachineReading.Result {
        // Looked up once: a machine may ask again and again.
        var below: [RecordPosition: Finding] = [:]
        return try reading.result(
            index: index, revision: revision, logTime: logTime,
            lookUp: { place in
                guard let finding = recent[place] else { return .elsewhere }
                guard case .elsewhere = finding else { return finding }
                if let known = below[place] { return known }
                let found = Finding(try store.get(RecordKey(place), in: view)) ?? .absent
                below[place] = found
                return found
            }, page: { range in try page(of: range, from: store) })
    }

    private func page<D: Disk>(of range: MachineRange, from store: Store<D>) throws -> MachinePage? {
        guard let newer = live[range] else { return nil }
        let older = try store.page(
            in: view, from: RecordKey(slot: reading.slot, machine: reading.machine, key: range.from),
            end: RecordKey(slot: reading.slot, machine: reading.machine, key: range.end),
            recordsMax: range.recordsMax, bytesMax: range.bytesMax, tombstones: true)
        let page = RecordPage.overlaid(newer: newer, older: older)
        return MachinePage(
            records: page.records.map {
                ($0.key.key, MachineRecord(value: $0.value ?? Bytes(), revision: $0.revision))
            }, next: page.next?.key)
    }

    /// The answer to the call; nil if it goes on.
    public func response(to result: MachineReading.Result) -> Response<DataResult>? {
        switch result {
        case .done(let body): .done(DataResult(index: index, revision: revision, body: body))
        case .refused(let refusal): .refused(refusal)
        case .more: nil
        }
    }
}
