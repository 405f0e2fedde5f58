// What a program does with its own state machines under simulation, and how it judges what came of it. Owns the words
// that users' code and the simulated clients exchange.

import ClientCore
public import Messages
public import Primitives
import Ring
public import StateMachines

/// A program that uses its own state machines. A simulated cluster has its machines on every host; its clients ask it
/// what to do next, tell it what came of it, and let it look at the end whether all is as it should be. All of it happens
/// on one thread.
///
///     final class Shop: SimulatedWorkload {
///         let machines: StateMachineRegistry
///         init(_ machines: StateMachineRegistry) { self.machines = machines }
///         func next(random: inout SeededRandom) -> SimulatedRequest {
///             SimulatedRequest(Reserve(sku: "7", count: 1)) { outcome in … }
///         }
///     }
///
/// Nothing but `random` may decide what it does: the same seed is the same run.
public protocol SimulatedWorkload: AnyObject {
    /// What each host has.
    var machines: StateMachineRegistry { get }

    /// What a client does next.
    func next(random: inout SeededRandom) -> SimulatedRequest

    /// What is asked at the end, when nothing fails any more, round by round until this is empty: for what a program
    /// scheduled, and waits for. After two minutes it must be.
    func unsettledRequests() -> [SimulatedRequest]

    /// What is asked at the end, when nothing fails any more and all that was under way has ended: each once of every host
    /// of the group concerned.
    func finalRequests() -> [SimulatedRequest]
}

extension SimulatedWorkload {
    public func unsettledRequests() -> [SimulatedRequest] { [] }
}

/// What came of a request.
public enum SimulatedOutcome<Answer> {
    case answer(Answer)
    /// The machine's own word. Nothing was changed.
    case failure(MachineFailure)
    /// Certainly not done.
    case notDone
    /// It may have been done, or may yet be.
    case unknown
}

/// Something that a simulated client asks of a machine.
public struct SimulatedRequest {
    let machine: SubMachineNumber
    let isCommand: Bool
    let request: MachineRequest
    /// Of a query: by whom, and how new.
    let consistency: Consistency
    let bound: UInt32
    /// Of a command: only while this stands.
    var guardToken: FencingToken?
    /// What is wrong with what came of it, as a group answered it.
    let judge: (Result<Bytes, OperationFailure>, GroupID) -> String?

    /// - Parameter ended: called when it has ended; returns what is wrong with that, nil if nothing is.
    public init<Command: MachineCommand>(
        _ command: Command, ended: @escaping (SimulatedOutcome<Command.Answer>) -> String? = { _ in nil }
    ) {
        machine = Command.Machine.number
        isCommand = true
        request = MachineRequest(command)
        consistency = .linearizable
        bound = 0
        judge = { result, _ in Self.judge(result, ended) }
    }

    /// - Parameters:
    ///   - bound: of `stale`: milliseconds.
    ///   - ended: as for commands. A query is never done in vain: its outcome is an answer, a failure, or `notDone`.
    public init<Query: MachineQuery>(
        _ query: Query, _ consistency: Consistency = .linearizable, bound: UInt32 = 0,
        ended: @escaping (SimulatedOutcome<Query.Answer>) -> String? = { _ in nil }
    ) {
        machine = Query.Machine.number
        isCommand = false
        request = MachineRequest(query)
        self.consistency = consistency
        self.bound = bound
        judge = { result, _ in Self.judge(result, ended) }
    }

    private static func judge<Answer: Message>(
        _ result: Result<Bytes, OperationFailure>, _ ended: (SimulatedOutcome<Answer>) -> String?
    ) -> String? {
        switch result {
        case .failure(let failure): return ended(failure.mayHaveHappened ? .unknown : .notDone)
        case .success(let bytes):
            do throws(DecodingFailure) {
                switch try MachineOutcome(decoding: try DataResult(decoding: bytes).body) {
                case .answer(let body): return ended(.answer(try Answer(decoding: body)))
                case .failure(let failure): return ended(.failure(failure))
                }
            } catch {
                return "an answer that can't be read: \(error)"
            }
        }
    }
}

extension SimulatedCluster {
    /// One operation of a program with its own machines.
    func submit(
        _ request: SimulatedRequest, pinned: HostID = HostID(0), through client: SimulatedClient,
        nanoseconds: UInt64, _ ended: @escaping () -> Void
    ) {
        let key = request.request.key
        guard request.isCommand else {
            note("client %h asks machine %b", UInt64(client.place), UInt64(request.machine.rawValue))
            client.submit(
                kind: .query, target: .slot(slot(of: key)), pinned: pinned, machine: request.machine,
                consistency: request.consistency, bound: request.bound, payload: request.request.encoded(),
                nanoseconds: nanoseconds
            ) { [unowned self] result in
                judge(request, result, by: client.answerer)
                if case .success = result { acknowledged += 1 }
                ended()
            }
            return
        }
        let number = operations.count
        // Commands that say the same are told apart by it, also those of clients without sessions.
        let bare = request.request.payload(
            header: CommandHeader(machine: request.machine, sequence: nextSequence))
        let payload = request.guardToken.flatMap { try? CommandGuard.payload(bare, guardedBy: $0) } ?? bare
        nextSequence += 1
        note(
            "client %h tells machine %b, operation %c", UInt64(client.place), UInt64(request.machine.rawValue),
            UInt64(number))
        operations.append(SimulatedOperation(client: client.place, key: key, kind: .machine, called: now))
        client.submit(
            kind: .command, target: .slot(slot(of: key)), payload: payload, nanoseconds: nanoseconds, number: number
        ) { [unowned self] result in
            judge(request, result, by: client.answerer)
            end(number, result)
            ended()
        }
    }

    private func judge(
        _ request: SimulatedRequest, _ result: Result<Bytes, OperationFailure>, by group: GroupID
    ) {
        if let problem = request.judge(result, group) {
            fail("the program's own rules", "\(request.request.key), request \(request.request.number): \(problem)")
        }
        mark(.machineUsed)
        if case .success(let bytes) = result, let data = try? DataResult(decoding: bytes),
            case .failure? = try? MachineOutcome(decoding: data.body)
        {
            mark(.machineFailure)
        }
    }

    private static let settledNanosecondsMax: UInt64 = 120_000_000_000

    /// What the programs scheduled comes.
    func awaitWorkload() throws(SimulationFailure) {
        for program in programs { try awaitProgram(program) }
    }

    private var programs: [any SimulatedWorkload] {
        [workload, dataTypes].compactMap { (program: (any SimulatedWorkload)?) in program }
    }

    private func awaitProgram(_ workload: any SimulatedWorkload) throws(SimulationFailure) {
        let end = now + Self.settledNanosecondsMax
        while true {
            let requests = workload.unsettledRequests()
            if requests.isEmpty { return }
            var open = requests.count
            for (number, request) in requests.enumerated() {
                submit(request, through: clients[number % clients.count], nanoseconds: 25_000_000_000) { open -= 1 }
            }
            try expect(
                try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
                "\(open) of the program's requests got no answer")
            if let failure { throw failure }
            try expect(
                now < end || workload.unsettledRequests().isEmpty, "what is scheduled comes",
                "after two minutes the program waits: \(requests.map { "\($0.request.key)" })")
            try pass(1_000_000_000)
        }
    }

    /// The program's own look at the end, at each host that has a replica.
    func readWorkloadBack() throws(SimulationFailure) {
        var open = 0
        for (number, request) in programs.flatMap({ $0.finalRequests() }).enumerated() {
            let group = map.owner(of: slot(of: request.request.key)).flatMap { map.group($0) }
            for replica in group?.replicas ?? [] {
                let host = hosts[place(of: replica.host)]
                guard !host.isLost, !host.isRotten else { continue }
                open += 1
                submit(
                    request.anywhere, pinned: replica.host, through: clients[number % clients.count],
                    nanoseconds: 25_000_000_000
                ) { open -= 1 }
            }
        }
        try expect(
            try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
            "\(open) of the program's last requests got no answer")
        if let bank = workload as? BankWorkload, bank.settled > 0 { mark(.scheduledCommand) }
        if let dataTypes, dataTypes.expired > 0 { mark(.dataTypeExpired) }
        if let dataTypes, dataTypes.cleared > 0 { mark(.dataTypeCleared) }
        if let dataTypes, dataTypes.guarded > 0 { mark(.guardHeld) }
        if let dataTypes, dataTypes.heldToTheEnd > 0 { mark(.heldToTheEnd) }
        if let dataTypes, dataTypes.heldOnTheMove > 0 { mark(.heldOnTheMove) }
        if let dataTypes, dataTypes.trimmed > 0 { mark(.dataTypeTrimmed) }
        if let dataTypes, dataTypes.timedOut > 0 { mark(.queueItemCameBack) }
        if let dataTypes, dataTypes.putOffline > 0 { mark(.memberPutOffline) }
        if let dataTypes, dataTypes.forgotten > 0 { mark(.memberLeftInTime) }
        if let dataTypes, dataTypes.opened > 0 { mark(.barrierOpened) }
    }
}

extension SimulatedRequest {
    /// As new, and answered by whoever is asked.
    fileprivate var anywhere: SimulatedRequest {
        SimulatedRequest(
            machine: machine, isCommand: isCommand, request: request,
            consistency: isCommand ? consistency : .linearizableAnywhere, bound: 0, judge: judge)
    }

    init(
        machine: SubMachineNumber, isCommand: Bool, request: MachineRequest, consistency: Consistency, bound: UInt32,
        judge: @escaping (Result<Bytes, OperationFailure>, GroupID) -> String?
    ) {
        self.machine = machine
        self.isCommand = isCommand
        self.request = request
        self.consistency = consistency
        self.bound = bound
        self.judge = judge
    }
}

/// Runs seeds one after the other until a rule is broken: for tests of programs that use Bifrost.
///
///     try simulate(seeds: 1...20) { Shop(machines) }
///
/// - Parameter workload: makes the program anew for each seed.
/// - Throws: the first broken rule, with its seed.
/// - Returns: what happened, of all seeds together.
@discardableResult
public func simulate(
    seeds: ClosedRange<UInt64>, settings: SimulationSettings = SimulationSettings(),
    workload: () -> any SimulatedWorkload
) throws(SimulationFailure) -> SimulationReport {
    var report = SimulationReport()
    for seed in seeds {
        report.add(try SimulatedCluster(seed: seed, settings: settings, workload: workload()).runAndCheck())
    }
    return report
}
