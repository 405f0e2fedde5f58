// What a request needs its sender to be allowed, with the keys that it names. Asked before anything else is done with it; whether
// the request can be carried out is looked at by others. Keys are found where those look who carry it out: what a permission is
// about and what is done must not differ.

public import Messages
import Primitives
public import Ring

/// What requests need. Each of the permissions is needed, not one of them. What can't be read is refused here, as `invalid`: nothing
/// is known of it, so nobody may do it.
public enum Permissions {
    /// Of calls that need the same whatever is in them; nil: the others (`PermissionRule.byContent`).
    public static func needed(for call: ServiceCall) -> [Permission]? {
        call.rule == .byContent ? nil : call.rule.permissions(keys: [])
    }

    /// For a command.
    ///
    /// - Parameter machines: what the host has. A command of another machine is refused.
    public static func needed(
        for request: ExecuteRequest, machines: StateMachineRegistry
    ) throws(Refusal) -> [Permission] {
        try parts(of: request.payload, machines).flatMap { kind, keys in kind.rule.permissions(keys: keys) }
    }

    /// For a query, of any consistency.
    public static func needed(
        for request: QueryRequest, machines: StateMachineRegistry
    ) throws(Refusal) -> [Permission] {
        switch request.machine {
        case .keyValue:
            let query = try readable { () throws(DecodingFailure) in try KeyValueQuery(decoding: request.query) }
            let rule = QueryKind(query).rule
            switch query {
            case .get(let key): return rule.permissions(keys: [key])
            case .scan(let scan): return rule.permissions(from: scan.from, end: scan.end)
            }
        case .sessions: return QueryKind.sessions.rule.permissions(keys: [])
        case .slotOwnership: return try kind(ofSlotQuery: request.query).rule.permissions(keys: [])
        default:
            guard request.machine.isRegistered else {
                throw .invalid("sub state machine \(request.machine) answers no queries in this version")
            }
            let query = try readable { () throws(DecodingFailure) in try MachineRequest(decoding: request.query) }
            guard let known = machines.query(query.number, of: request.machine) else {
                throw machines.missing(query.number, of: request.machine)
            }
            let keys = try readable { () throws(DecodingFailure) in try known.keys(query) }
            return QueryKind.machine.rule.permissions(keys: keys)
        }
    }

    /// For a watch: reading what it is about. Of a data type, that is the object in whose records it lies.
    public static func needed(for request: WatchRequest) throws(Refusal) -> [Permission] {
        let range = request.range
        let rule = QueryKind.machine.rule
        guard request.machine == .keyValue || request.machine.isRegistered else {
            throw .invalid("sub state machine \(request.machine) is not watched")
        }
        guard request.machine.isDataType else {
            return range.isOneKey
                ? rule.permissions(keys: [range.from]) : rule.permissions(from: range.from, end: range.end)
        }
        guard let (name, records) = request.machine.object(ofRecord: range.from), let end = range.end,
            let last = records.endOfPrefix, end <= last
        else { return rule.permissions(from: Bytes(), end: nil) }
        return rule.permissions(keys: [name])
    }

    /// For a command of the meta group.
    public static func needed(for request: AdministerRequest) throws(Refusal) -> [Permission] {
        let command = try readable { () throws(DecodingFailure) in try MetaCommand(payload: request.payload) }
        return AdministerKind(command).rule.permissions(keys: [])
    }

    // MARK: Parts

    private static func parts(
        of payload: Bytes, _ machines: StateMachineRegistry
    ) throws(Refusal) -> [(CommandKind, [Bytes])] {
        guard let header = payload.withUnsafeBytes({ CommandHeader(of: $0) }) else {
            throw .invalid("the command has no header of version \(CommandHeader.formatVersion)")
        }
        switch header.machine {
        case .keyValue: return try readable { () throws(DecodingFailure) in try keyValueParts(of: payload) }
        case .sessions:
            let command = try readable { () throws(DecodingFailure) in try SessionCommand(payload: payload) }
            return [(CommandKind(command), [])]
        case .meta: return [(.meta, [])]
        case .configuration: return [(.configuration, [])]
        case .slotOwnership: return [(.slotOwnership, [])]
        case .deadlines: return [(.deadlines, [])]
        case .guards:
            let guarded = try readable { () throws(DecodingFailure) in try GuardedCommand(payload: payload) }
            // What is inside is a command of data, never a guarded one again.
            return [(.guardLock, [guarded.token.name])] + (try parts(of: guarded.payload, machines))
        default: return try machineParts(of: payload, header.machine, machines)
        }
    }

    private static func keyValueParts(of payload: Bytes) throws(DecodingFailure) -> [(CommandKind, [Bytes])] {
        if payload.withUnsafeBytes({ KeyValueTransaction.isOne($0) }) {
            let transaction = try KeyValueTransaction(payload: payload)
            return [(.transactionCondition, transaction.conditions.map(\.key))]
                + (transaction.then + transaction.otherwise).map { (CommandKind($0), [$0.key]) }
        }
        guard let view = payload.withUnsafeBytes({ KeyValueCommandView(payload: $0) }) else {
            throw DecodingFailure(
                expected: "a key-value command of version \(KeyValueCommand.formatVersion)", found: "other bytes")
        }
        let key = payload[view.key]
        let command: KeyValueCommand = view.isPut ? .put(key: key, value: Bytes()) : .delete(key: key)
        return [(CommandKind(command), [key])]
    }

    private static func machineParts(
        of payload: Bytes, _ machine: SubMachineNumber, _ machines: StateMachineRegistry
    ) throws(Refusal) -> [(CommandKind, [Bytes])] {
        guard machine.isRegistered else {
            throw .invalid("sub state machine \(machine) takes no commands from clients in this version")
        }
        let request = try readable { () throws(DecodingFailure) in try MachineRequest(payload: payload) }
        guard let command = machines.command(request.number, of: machine) else {
            throw machines.missing(request.number, of: machine)
        }
        let keys = try readable { () throws(DecodingFailure) in try command.keys(request) }
        return [(command.tellsWhatIsThere ? .machine : .machineWithoutAnswer, keys)]
    }

    private static func kind(ofSlotQuery query: Bytes) throws(Refusal) -> QueryKind {
        switch query.isEmpty ? 0 : query[0] {
        case SlotLoadQuery.number: return .slotLoad
        case MigrationsQuery.number: return .migrations
        case SlotContentsQuery.number: return .slotContents
        case let number: throw .invalid("expected a query about slots of kind 1 to 3, found kind \(number)")
        }
    }

    private static func readable<Value>(
        _ read: () throws(DecodingFailure) -> Value
    ) throws(Refusal) -> Value {
        do throws(DecodingFailure) { return try read() } catch { throw .invalid("\(error)") }
    }
}

extension PermissionRule {
    /// Of what names these keys, or none where the rule is not about keys.
    func permissions(keys: [Bytes]) -> [Permission] {
        switch self {
        // Whoever asks for them without looking into it gets nothing allowed.
        case .byContent: [.hosts]
        case .user: [.user]
        case .something(let verbs): verbs.each.map { .something($0) }
        case .named(let verbs): keys.flatMap { key in verbs.each.map { .key($0, key) } }
        case .everything(let verbs): verbs.each.map { .everything($0) }
        case .hosts: [.hosts]
        }
    }

    /// Of what names all keys from this one on, and before `end`.
    func permissions(from: Bytes, end: Bytes?) -> [Permission] {
        guard case .named(let verbs) = self else { return permissions(keys: []) }
        return verbs.each.map { .range($0, from: from, end: end) }
    }
}

extension VerbSet {
    var each: [Verb] { Verb.allCases.filter { contains($0) } }
}

extension SubMachineNumber {
    /// Of a data type: the name of the object that a record's key is of, or a watch's, and what all of its records' keys begin with:
    /// `name length u16, big-endian | name`. nil: it is no such key.
    func object(ofRecord key: Bytes) -> (name: Bytes, records: Bytes)? {
        guard isDataType, key.count >= 2 else { return nil }
        let end = 2 + Int(key[0]) << 8 + Int(key[1])
        guard end > 2, end <= key.count else { return nil }
        return (key[2..<end], key[0..<end])
    }
}
