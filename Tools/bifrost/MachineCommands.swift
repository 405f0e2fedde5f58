// `bifrost machine call` and `machine query`: users' state machines by their numbers, with bodies as bytes. What the
// numbers and bodies mean is known to the hosts' program alone.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

struct MachineCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "machine", abstract: "Asks users' state machines, by their numbers.",
        discussion: """
            For clusters whose hosts have state machines of their own: Documentation/StateMachines.md tells how they \
            are made. 'bifrost serve' has none.
            """, subcommands: [MachineCall.self, MachineAsk.self, MachineWatch.self])
}

/// What a command or a query is made of.
struct MachineRequestOptions: ParsableArguments {
    @Argument(help: "The state machine's number, 1024 to 65535.")
    var machine: UInt16

    @Argument(help: "The number of the command or query.")
    var number: UInt16

    @Argument(help: "Its key, which says where it goes.")
    var key: KeyArgument

    @Argument(help: "Its bytes, often JSON; - reads them from standard input. (default: none)")
    var body: String?

    @Option(
        help: ArgumentHelp("Its bytes are this file's; - is standard input.", valueName: "file"),
        completion: .file())
    var file: String?

    @Flag(help: "The body is in hexadecimal digits; blanks and line breaks between them don't count.")
    var hex = false

    func validate() throws {
        guard machine >= SubMachineNumber.firstOfUsers.rawValue else {
            throw ValidationError(
                "users' state machines have numbers from \(SubMachineNumber.firstOfUsers) on, not \(machine)")
        }
        guard body == nil || file == nil else {
            throw ValidationError("the body stands on the command line or in --file: leave one of them out")
        }
    }

    func request() throws -> MachineRequest {
        try key.check()
        let isFromInput = body == "-" && !RawArguments.endLiterally(RawArguments.ofProcess)
        let name = file ?? (isFromInput ? "-" : nil)
        var bytes = Bytes()
        if let name {
            let input = try InputFile(opening: name)
            defer { input.close() }
            // A digit is half of a byte, and blanks may stand around each pair.
            bytes = try input.readAll(bytesMax: MachineRequest.bodyBytesMax * (hex ? 4 : 1))
        } else if let body {
            bytes = RawArguments.bytes(of: body)
        }
        if hex {
            guard let plain = HumanText.bytes(ofHexadecimal: bytes) else {
                throw ToolError(.badData, "the body is no row of pairs of hexadecimal digits, as in '00 ff'")
            }
            bytes = plain
        }
        let request = MachineRequest(number: number, key: key.bytes, body: bytes)
        if let problem = request.problem() { throw ToolError(.badData, "\(problem)") }
        return request
    }
}

/// What a state machine said.
private struct MachineReport: Encodable {
    struct Failure: Encodable {
        var code: UInt32
        var text: String
        var details: String?
        var detailsBase64: String?
    }
    var revision: UInt64
    var answer: String?
    var answerBase64: String?
    var failure: Failure?

    init(_ outcome: MachineOutcome, _ revision: Revision) {
        self.revision = revision.rawValue
        switch outcome {
        case .answer(let body): (answer, answerBase64) = body.forJSON
        case .failure(let failed):
            // Those of the framework have no text of their own.
            var failure = Failure(code: failed.code, text: failed.rule == nil ? failed.text : "\(failed)")
            if !failed.details.isEmpty { (failure.details, failure.detailsBase64) = failed.details.forJSON }
            self.failure = failure
        }
    }

    /// Prints it, and ends the command if the answer is no.
    static func finish(_ outcome: MachineOutcome, _ revision: Revision, json: Bool, of machine: UInt16) throws {
        if json { try Output.json(MachineReport(outcome, revision)) }
        switch outcome {
        case .failure(let failure):
            throw ToolError(.negative, "state machine \(machine): \(failure); nothing was changed")
        case .answer(let body):
            guard !json, !body.isEmpty else { return }
            let (text, _) = body.forJSON
            try Output.line(text ?? HumanText.hexadecimal(body))
        }
    }
}

struct MachineCall: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "call", abstract: "Has a command of a state machine done, once.",
        discussion: """
            Prints the machine's answer, in hexadecimal digits if it is no text; an empty one is no line. When it \
            returns 0 the command was done, on the disks of a majority. Exit code 1: the machine says that it can't be \
            done, and why; nothing was changed. 2: the outcome is unknown. 4: a host does not have the machine or the \
            command.

            EXAMPLES:
              bifrost machine call 1024 1 '{lamp}' '{"sku":"lamp","count":10}'
              bifrost machine call 1024 1 '{lamp}' --file restock.json --json
                {"answer":"{\\"onHand\\":10,\\"reserved\\":0}","revision":7}
              bifrost machine call 5000 3 key --hex '01 00 ff'
            """)

    @OptionGroup var request: MachineRequestOptions

    @OptionGroup var fence: GuardOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let machine = SubMachineNumber(request.machine)
        let wanted = try request.request()
        let cluster = try await options.cluster(guardedBy: fence.token)
        let (outcome, revision) = try await cluster.submit(wanted, to: machine)
        await cluster.close()
        do {
            try MachineReport.finish(outcome, revision, json: options.common.json, of: request.machine)
        } catch let error as ToolError where error.status != .negative {
            throw error.after("the command was done at revision \(revision)")
        }
    }
}

struct MachineAsk: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "query", abstract: "Asks a state machine a question.",
        discussion: """
            Sees every command that was acknowledged before. Prints the answer as 'machine call' does; exit code 1: \
            the machine has none, and says why.

            EXAMPLES:
              bifrost machine query 1024 1 '{lamp}' '{"sku":"lamp","orders":[]}'
              bifrost machine query 1024 1 '{lamp}' --file question.json --consistency lease
            """)

    @OptionGroup var request: MachineRequestOptions

    @OptionGroup var read: ReadOptions

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let wanted = try request.request()
        let reading = try read.reading()
        let cluster = try await options.cluster()
        let (outcome, revision) = try await cluster.query(wanted, of: SubMachineNumber(request.machine), reading)
        await cluster.close()
        try MachineReport.finish(outcome, revision, json: options.common.json, of: request.machine)
    }
}
