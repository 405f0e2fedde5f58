// `bifrost lock …`, `semaphore …`, `election …`, `lease …` and `elect`: what differs between them, and which commands they
// have. What runs while something is held is HeldCommand's, looking is PermitLooks'.

import ArgumentParser
import Bifrost
import DataTypes
import Primitives
import StateMachines

/// What differs between the four.
protocol PermitKind: Sendable {
    associatedtype Machine: PermitMachine
    static var word: String { get }
    /// What a holder's number is called.
    static var number: String { get }
    static var waiter: String { get }
    /// What who has it does.
    static var deed: String { get }
}

extension PermitKind {
    static var number: String { "token" }
    static var waiter: String { "waiting" }
    static var deed: String { "has the \(word)" }

    /// The token, where it is called so.
    static func epoch(_ token: UInt64?) -> UInt64? { number == "epoch" ? token : nil }
}

enum LockKind: PermitKind {
    typealias Machine = LockMachine
    static let word = "lock"
}

enum SemaphoreKind: PermitKind {
    typealias Machine = SemaphoreMachine
    static let word = "semaphore"
}

enum ElectionKind: PermitKind {
    typealias Machine = ElectionMachine
    static let word = "election"
    static let number = "epoch"
    static let waiter = "candidate"
    static let deed = "leads"
}

enum LeaseKind: PermitKind {
    typealias Machine = LeaseMachine
    static let word = "lease"
}

extension FencingToken {
    private static let words: [(String, SubMachineNumber)] = [
        (LockKind.word, LockMachine.number), (SemaphoreKind.word, SemaphoreMachine.number),
        (ElectionKind.word, ElectionMachine.number), (LeaseKind.word, LeaseMachine.number),
        ("members", MembershipMachine.number),
    ]

    /// One alone has such a token at a time: also what lies elsewhere can be guarded by it.
    var guardsAnything: Bool { machine != SemaphoreMachine.number && machine != MembershipMachine.number }

    /// As `--guard` takes it.
    var text: String {
        let word = Self.words.first { $0.1 == machine }?.0 ?? "\(machine)"
        return "\(word):\(number):\(RawArguments.text(of: name.array))"
    }

    init(parsing text: String) throws {
        let parts = text.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, let machine = Self.words.first(where: { $0.0 == parts[0] })?.1,
            let number = UInt64(parts[1]), !parts[2].isEmpty, parts[2].utf8.count <= Self.nameBytesMax
        else {
            throw ValidationError(
                "expected a token as 'bifrost lock' gives it in BIFROST_GUARD, such as lock:17:NAME, or members:17:NAME with "
                    + "an epoch, found '\(text)'")
        }
        self.init(number, of: RawArguments.bytes(of: String(parts[2])), machine: machine)
    }
}

/// Of a lock or an election; the others have options of their own.
struct PermitRun<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "run", abstract: "Runs a command while this process \(Kind.deed).",
            discussion: HeldCommandOptions.words)
    }
    @OptionGroup var command: HeldCommand
    @OptionGroup var held: HeldPermitOptions

    func run() async throws { try await held.run(Kind.self, command) }
}

struct LockCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lock", abstract: "Locks: run a command under one, look who has it, take it away.",
        discussion: """
            'bifrost lock NAME -- COMMAND' is 'bifrost lock run NAME -- COMMAND'.

            EXAMPLES:
              bifrost lock deploy -- make deploy
              bifrost lock --wait 5s '{ledger}' -- sh -c 'bifrost value set {ledger}/balance 100'
              bifrost lock show deploy
            """,
        subcommands: [
            PermitRun<LockKind>.self, PermitShow<LockKind>.self, PermitWaiting<LockKind>.self,
            PermitRevoke<LockKind>.self, PermitWatcher<LockKind>.self,
        ])
}

struct ElectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "elect", abstract: "Runs a command while this process leads an election.",
        discussion: HeldCommandOptions.words
            + "\n\nEXAMPLE: bifrost elect primary --value \"$(hostname)\" -- ./serve-writes"
    )
    @OptionGroup var election: PermitRun<ElectionKind>

    func run() async throws { try await election.run() }
}

struct ElectionCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "election", abstract: "Elections: run a command while leading, look who leads, depose.",
        discussion: "'bifrost elect NAME -- COMMAND' is 'bifrost election run NAME -- COMMAND'.",
        subcommands: [
            PermitRun<ElectionKind>.self, PermitShow<ElectionKind>.self, PermitWaiting<ElectionKind>.self,
            PermitRevoke<ElectionKind>.self, PermitWatcher<ElectionKind>.self,
        ])
}

struct SemaphoreCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "semaphore", abstract: "Semaphores: run a command with permits, look who has some, set how many.",
        subcommands: [
            Run.self, SetLimit.self, PermitShow<SemaphoreKind>.self, PermitWaiting<SemaphoreKind>.self,
            PermitRevoke<SemaphoreKind>.self, PermitWatcher<SemaphoreKind>.self,
        ])

    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a command while this process has permits.",
            discussion: HeldCommandOptions.words
                + "\n\nEXAMPLE: bifrost semaphore run builders --permits 4 -- make")
        @Option(help: "Permits that there are; all users say the same. (default: as was set)") var permits: UInt32?
        @Option(help: "Permits that it takes.") var count: UInt32 = 1
        @OptionGroup var command: HeldCommand
        @OptionGroup var held: HeldPermitOptions

        func run() async throws {
            try await held.run(SemaphoreKind.self, command, permits: count, limit: permits ?? 0)
        }
    }

    struct SetLimit: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "set", abstract: "Sets how many permits there are; prints how many are out.",
            discussion: "0: is forgotten once nobody has any. Those who have more than there are keep them.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Argument(help: "How many.") var permits: Int
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let out = try await cluster.semaphore(name.bytes).setLimit(permits)
            await cluster.close()
            try ObjectReport.print(count: out, options)
        }
    }
}

struct LeaseCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lease",
        abstract: "Leases: run a command with one that is renewed, look who has it, take it away.",
        subcommands: [
            Run.self, PermitShow<LeaseKind>.self, PermitRevoke<LeaseKind>.self, PermitWatcher<LeaseKind>.self,
        ])

    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a command while this process has the lease, which it renews each third of its time.",
            discussion: HeldCommandOptions.words)
        @Option(
            name: .customLong("for"),
            help: ArgumentHelp("How long the lease lives unless it is renewed.", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var time: TimeSpan
        @OptionGroup var command: HeldCommand
        @OptionGroup var held: HeldPermitOptions

        func run() async throws {
            try await held.run(LeaseKind.self, command, timeToLive: time.duration)
        }
    }
}
