// Which machines a host has, users' and Bifrost's data types: from numbers to what carries them out.

public import Messages
public import Primitives
import Ring

/// One command of one machine, by its numbers.
public struct MachineCommandNumber: Hashable, Sendable, Comparable {
    public var machine: SubMachineNumber
    public var command: UInt16

    public init(machine: SubMachineNumber, command: UInt16) {
        self.machine = machine
        self.command = command
    }

    public static func < (left: Self, right: Self) -> Bool {
        (left.machine.rawValue, left.command) < (right.machine.rawValue, right.command)
    }
}

/// The state machines that a host has beside those that every group is made of.
public struct StateMachineRegistry: Sendable {
    /// Commands of all users' machines together.
    public static let commandsMax = 3_840

    /// What a host needs to know of a command's type.
    final class Command: Sendable {
        let bringsDataIn: Bool
        let tellsWhatIsThere: Bool
        let check: @Sendable (MachineRequest) throws(DecodingFailure) -> Void
        /// All that it is about, as its body says.
        let keys: @Sendable (MachineRequest) throws(DecodingFailure) -> [Bytes]
        let readKeys: @Sendable (MachineRequest) throws(DecodingFailure) -> [Bytes]
        /// What it came to. The context keeps what it wrote, or why it has to wait.
        let apply: @Sendable (MachineRequest, inout MachineContext) throws(DecodingFailure) -> EncodedOutcome
        /// What is to be fetched before `apply`, as far as that can be told without doing all of it; nil: it can't.
        let foresee: (@Sendable (MachineRequest, ForeseenRecords) throws(DecodingFailure) -> [Bytes]?)?

        init<Machine: StateMachine, Type: MachineCommand<Machine>>(_ command: Type.Type) {
            bringsDataIn = command.bringsDataIn
            tellsWhatIsThere = command.tellsWhatIsThere
            keys = { request throws(DecodingFailure) in
                let value = try Type(decoding: request.body)
                return try request.keys(ofBody: value.key, value.furtherKeys)
            }
            check = { request throws(DecodingFailure) in
                guard try Type(decoding: request.body).key == request.key else {
                    throw DecodingFailure(expected: "the command's own key in front of it", found: "another")
                }
            }
            readKeys = { request throws(DecodingFailure) in try Type(decoding: request.body).readKeys }
            apply = { request, context throws(DecodingFailure) in
                let value = try Type(decoding: request.body)
                do {
                    let answer = try value.apply(in: &context)
                    // Users' answers may be written in other ways than from the front.
                    return Machine.number.isDataType
                        ? EncodedOutcome(answer: answer) : EncodedOutcome(encoded: answer.encoded())
                } catch {
                    return EncodedOutcome(MachineFailure(any: error))
                }
            }
            foresee = (command as? any ForeseeingCommand.Type).map { Command.foreseeing($0) }
        }

        private static func foreseeing<Type: ForeseeingCommand>(
            _: Type.Type
        ) -> @Sendable (MachineRequest, ForeseenRecords) throws(DecodingFailure) -> [Bytes]? {
            { request, records throws(DecodingFailure) in try Type(decoding: request.body).missing(in: records) }
        }
    }

    /// An encoded `MachineOutcome`.
    struct EncodedOutcome {
        var body: Bytes
        var isFailure: Bool

        init(_ failure: MachineFailure) {
            body = MachineOutcome.failure(failure).encoded()
            isFailure = true
        }

        /// Encoded where it stays: most answers are short, and there is one to each command.
        init(answer: some Message) { self.init { answer.encode(into: &$0) } }

        init(encoded answer: Bytes) { self.init { $0.write(answer) } }

        private init(_ answer: (inout ByteWriter) -> Void) {
            var writer = ByteWriter(capacity: 48)
            writer.write(MachineOutcome.answerKind)
            answer(&writer)
            isFailure = writer.count - 1 > MachineContext.Limits.answerBytesMax
            body = isFailure ? MachineOutcome.failure(MachineFailure(.answerTooLarge)).encoded() : writer.take()
        }
    }

    struct Query: Sendable {
        /// As a command's.
        var keys: @Sendable (MachineRequest) throws(DecodingFailure) -> [Bytes]
        var readKeys: @Sendable (MachineRequest) throws(DecodingFailure) -> [Bytes]
        var answer: @Sendable (MachineRequest, inout MachineView) throws(DecodingFailure) -> MachineOutcome
    }

    private var commands: [MachineCommandNumber: Command] = [:]
    /// Those of data types with low numbers, by place: what most commands are.
    private var near: [Command?] = []
    private var queries: [MachineCommandNumber: Query] = [:]
    private var releases: [SubMachineNumber: Release] = [:]
    private var fencings: [SubMachineNumber: Fencing] = [:]
    private var timers: [SubMachineNumber: @Sendable (Bytes) -> ScheduledCommand?] = [:]
    typealias Release = @Sendable (Bytes, SessionID, inout MachineContext) throws -> Void
    /// All machines, ascending, with their types' names.
    public private(set) var machines: [(number: SubMachineNumber, name: String)] = []
    /// All commands, ascending: what a host tells others that it can apply.
    public private(set) var commandNumbers: [MachineCommandNumber] = []

    public func has(_ machine: SubMachineNumber) -> Bool { machines.contains { $0.number == machine } }

    /// None.
    public init() {}

    /// - Throws: two machines, or two commands or queries of one machine, have the same number, or a number is one that
    ///   users don't give.
    public init(_ machines: [any StateMachine.Type]) throws(RegistrationFailure) {
        for machine in machines {
            guard machine.number >= .firstOfUsers else {
                throw RegistrationFailure(
                    "\(machine) has the number \(machine.number): those below \(SubMachineNumber.firstOfUsers) are "
                        + "Bifrost's own")
            }
            try add(machine)
        }
        sort()
        guard commandNumbers.count <= Self.commandsMax else {
            throw RegistrationFailure("expected at most \(Self.commandsMax) commands, found \(commandNumbers.count)")
        }
    }

    /// Bifrost's data types.
    package init(dataTypes: [any StateMachine.Type]) {
        do throws(RegistrationFailure) {
            for type in dataTypes {
                precondition(type.number.isDataType, "\(type) is no data type")
                try add(type)
            }
        } catch {
            preconditionFailure("\(error)")
        }
        sort()
    }

    /// With those of another one, in place of its own with the same numbers.
    package func with(_ other: StateMachineRegistry) -> StateMachineRegistry {
        var all = self
        all.machines.removeAll { other.has($0.number) }
        all.machines += other.machines
        all.commands.merge(other.commands) { $1 }
        all.queries.merge(other.queries) { $1 }
        all.releases.merge(other.releases) { $1 }
        all.fencings.merge(other.fencings) { $1 }
        all.timers.merge(other.timers) { $1 }
        all.sort()
        return all
    }

    private mutating func sort() {
        machines.sort { $0.number.rawValue < $1.number.rawValue }
        commandNumbers = commands.keys.sorted()
        near = []
        guard commandNumbers.contains(where: { Self.nearPlace($0.command, of: $0.machine) != nil }) else { return }
        near = Array(repeating: nil, count: Self.nearMachines * Self.nearCommands)
        for number in commandNumbers {
            guard let place = Self.nearPlace(number.command, of: number.machine) else { continue }
            near[place] = commands[number]
        }
    }

    private static let nearMachines = 16
    private static let nearCommands = 32

    private static func nearPlace(_ number: UInt16, of machine: SubMachineNumber) -> Int? {
        let offset = Int(machine.rawValue) - Int(SubMachineNumber.firstOfDataTypes.rawValue)
        guard offset >= 0, offset < nearMachines, number < nearCommands else { return nil }
        return offset * nearCommands + Int(number)
    }

    private mutating func add<Machine: StateMachine>(_ machine: Machine.Type) throws(RegistrationFailure) {
        if let other = machines.first(where: { $0.number == machine.number }) {
            throw RegistrationFailure("\(machine) and \(other.name) both have the number \(machine.number)")
        }
        machines.append((machine.number, "\(machine)"))
        if let swept = machine as? any SweptMachine.Type { timers[machine.number] = swept.timer }
        if machine.number.isDataType, let fencing = machine as? any FencingMachine.Type {
            fencings[machine.number] = Fencing(fencing)
        }
        if let holder = machine as? any SessionHolder.Type { releases[machine.number] = holder.release }
        for command in machine.commands { try add(command: command, of: machine) }
        for query in machine.queries { try add(query: query, of: machine) }
    }

    private mutating func add<Machine: StateMachine, Type: MachineCommand<Machine>>(
        command: Type.Type, of machine: Machine.Type
    ) throws(RegistrationFailure) {
        let number = MachineCommandNumber(machine: machine.number, command: command.number)
        guard commands.updateValue(Command(command), forKey: number) == nil else {
            throw RegistrationFailure("two commands of \(machine) have the number \(command.number)")
        }
    }

    private mutating func add<Machine: StateMachine, Type: MachineQuery<Machine>>(
        query: Type.Type, of machine: Machine.Type
    ) throws(RegistrationFailure) {
        let number = MachineCommandNumber(machine: machine.number, command: query.number)
        let entry = Query(
            keys: { request throws(DecodingFailure) in
                let value = try Type(decoding: request.body)
                return try request.keys(ofBody: value.key, value.furtherKeys)
            },
            readKeys: { request throws(DecodingFailure) in try Type(decoding: request.body).readKeys },
            answer: { request, view throws(DecodingFailure) in
                let value = try Type(decoding: request.body)
                do {
                    let answer = try value.answer(in: &view).encoded()
                    guard answer.count <= MachineContext.Limits.answerBytesMax else {
                        return .failure(MachineFailure(.answerTooLarge))
                    }
                    return .answer(answer)
                } catch {
                    return .failure(MachineFailure(any: error))
                }
            })
        guard queries.updateValue(entry, forKey: number) == nil else {
            throw RegistrationFailure("two queries of \(machine) have the number \(query.number)")
        }
    }

    func command(_ number: UInt16, of machine: SubMachineNumber) -> Command? {
        if let place = Self.nearPlace(number, of: machine) { return near.isEmpty ? nil : near[place] }
        return commands[MachineCommandNumber(machine: machine, command: number)]
    }

    func query(_ number: UInt16, of machine: SubMachineNumber) -> Query? {
        queries[MachineCommandNumber(machine: machine, command: number)]
    }

    /// What would end a record of this group some time: its deadline as it was set.
    ///
    /// - Parameter hasMoved: slots have come to the group, or gone from it: with the deadline goes where it was set, as it may
    ///   stand elsewhere among the group's by now.
    package func timer(
        in record: Bytes, of machine: SubMachineNumber, in group: GroupID, hasMoved: Bool
    ) -> DeadlineKey? {
        guard let timer = timers[machine]?(record) else { return nil }
        guard hasMoved else { return timer.group == group ? timer.deadline : nil }
        var key = timer.deadline
        key.origin = timer.group
        return key
    }

    func fencing(of machine: SubMachineNumber) -> Fencing? { fencings[machine] }

    func release(of machine: SubMachineNumber) -> Release? { releases[machine] }

    /// As the command says; one that is not here might.
    public func bringsDataIn(_ number: MachineCommandNumber) -> Bool { commands[number]?.bringsDataIn ?? true }

    /// Why a command can't be applied by a host with these machines, or can't be proposed at all; nil if it can.
    public func problem(ofCommand request: MachineRequest, of machine: SubMachineNumber) -> Refusal? {
        guard let command = command(request.number, of: machine) else { return missing(request.number, of: machine) }
        do throws(DecodingFailure) {
            try command.check(request)
            return nil
        } catch {
            return .invalid("command \(request.number) of machine \(machine): \(error)")
        }
    }

    /// It may come with the next version of the host's program.
    func missing(_ number: UInt16, of machine: SubMachineNumber) -> Refusal {
        machines.contains { $0.number == machine }
            ? .unavailable("the host's state machine \(machine) has no command or query \(number)")
            : .unavailable("the host has no state machine \(machine)")
    }
}

extension MachineRequest {
    /// All keys that it is about. What is done goes by the body, so the key in front of it, by which it is sent about, has to be the
    /// same.
    fileprivate func keys(ofBody key: Bytes, _ further: [Bytes]) throws(DecodingFailure) -> [Bytes] {
        guard key == self.key else {
            throw DecodingFailure(expected: "the request's own key in front of it", found: "another")
        }
        return [key] + further
    }
}

/// Machines that can't be together.
public struct RegistrationFailure: Error, Hashable, Sendable, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}

// MARK: Queries

/// A query of a user's machine, on its way through a host.
public struct MachineReading: Sendable {
    public let machine: SubMachineNumber
    public let slot: Slot
    private let request: MachineRequest
    private let query: StateMachineRegistry.Query
    /// Whose records are looked up in one go, for one moment.
    public private(set) var places: [RecordPosition]
    /// The same of ranges of records.
    public private(set) var ranges: [MachineRange] = []

    /// Reads and checks a query that came for a slot.
    ///
    /// - Throws: why it is turned down.
    public init(
        _ query: Bytes, machine: SubMachineNumber, slot: Slot, machines: StateMachineRegistry
    ) throws(Refusal) {
        do throws(DecodingFailure) {
            request = try MachineRequest(decoding: query)
        } catch {
            throw .invalid("\(error)")
        }
        if let problem = request.problem() { throw problem }
        let found = Ring.slot(of: request.key)
        guard found == slot else { throw .invalid("the key's slot is \(found), not \(slot)") }
        guard let known = machines.query(request.number, of: machine) else {
            throw machines.missing(request.number, of: machine)
        }
        self.query = known
        self.machine = machine
        self.slot = slot
        do throws(DecodingFailure) {
            places = RecordPosition.named(try known.readKeys(request), machine: machine, slot: slot)
        } catch {
            throw .invalid("query \(request.number) of machine \(machine): \(error)")
        }
    }

    /// What became of a round.
    public enum Result: Sendable {
        /// An encoded `MachineOutcome`.
        case done(Bytes)
        /// It reads these as well: another round, all of it at a later moment.
        case more(MachineReading)
        case refused(Refusal)
    }

    private var rounds = 0

    /// Answers it from what stood at one moment. Any thread.
    ///
    /// - Parameters:
    ///   - lookUp: what is there, for the places that were to be looked up; `elsewhere` for others.
    ///   - page: the first records of a range that was to be looked up; nil for others.
    /// - Throws: what these threw.
    public func result(
        index: LogIndex, revision: Revision, logTime: LogTime, lookUp: @escaping (RecordPosition) throws -> Finding,
        page: @escaping (MachineRange) throws -> MachinePage? = { _ in nil }
    ) throws -> Result {
        var view = MachineView(
            index: index, revision: revision, logTime: logTime, slot: slot, machine: machine, lookUp: lookUp,
            pageOf: page)
        let outcome: MachineOutcome
        do throws(DecodingFailure) { outcome = try query.answer(request, &view) } catch {
            return .refused(.invalid("query \(request.number) of machine \(machine): \(error)"))
        }
        if let failed = view.trouble.failed { throw failed }
        if let unready = view.trouble.unready {
            guard rounds < MachineView.roundsMax else {
                return .refused(
                    .tooLarge("a query reads at most \(MachineView.roundsMax) records that it did not name before"))
            }
            var next = self
            next.rounds += 1
            next.places += unready.places
            next.ranges += view.trouble.rangesUnready
            return .more(next)
        }
        return .done((view.trouble.broken.map { .failure($0) } ?? outcome).encoded())
    }
}

extension RecordPosition {
    /// Of the records that a request names ahead, those that it may have. More are found out as it comes to them.
    static func named(_ keys: [Bytes], machine: SubMachineNumber, slot: Slot) -> [RecordPosition] {
        var places: [RecordPosition] = []
        for key in keys.prefix(namedMax) where !key.isEmpty && key.count <= Limits.keyBytesMax {
            guard machine.isDataType || Ring.slot(of: key) == slot else { continue }
            places.append(RecordPosition(slot: slot, machine: machine, key: key))
        }
        return places
    }

    private static var namedMax: Int { 1_024 }
}
