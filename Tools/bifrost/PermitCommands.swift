// `bifrost lock …`, `semaphore …`, `election …`, `lease …` and `elect`: commands that run while something is held, and
// looks at who holds what.

import ArgumentParser
import Bifrost
import DataTypes
import Foundation
import Messages
import Primitives
import StateMachines
import Synchronization

/// What differs between the four.
protocol PermitKind: Sendable {
    associatedtype Machine: PermitMachine
    static var word: String { get }
    /// What a holder's number is called.
    static var number: String { get }
    static var waiter: String { get }
}

extension PermitKind {
    static var number: String { "token" }
    static var waiter: String { "waiting" }
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
}

enum LeaseKind: PermitKind {
    typealias Machine = LeaseMachine
    static let word = "lease"
}

extension FencingToken {
    private static let words: [(String, SubMachineNumber)] = [
        (LockKind.word, LockMachine.number), (SemaphoreKind.word, SemaphoreMachine.number),
        (ElectionKind.word, ElectionMachine.number), (LeaseKind.word, LeaseMachine.number),
    ]

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
                "expected a token as 'bifrost lock' gives it in BIFROST_GUARD, such as lock:17:NAME, found '\(text)'")
        }
        self.init(number, of: RawArguments.bytes(of: String(parts[2])), machine: machine)
    }
}

// MARK: Running

/// What to run while something is held, and how long to wait for that.
struct HeldCommandOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Wait so long at most, as the group counts time. (default: as long as it takes)", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var wait: TimeSpan?

    @Flag(help: "Don't wait: end with exit code 1 if others have it.") var noWait = false

    @Option(
        help: ArgumentHelp(
            "What others see of the holder. (default: this host's name and this process's number)", valueName: "text"))
    var value: String?

    @Option(
        help: ArgumentHelp(
            "What is held is free for others so long after this process's last word, if it ends without one; and it counts "
                + "as lost after nine tenths of it without an answer.", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var sessionTtl: TimeSpan?

    @Option(
        help: ArgumentHelp("The command gets so long to end after SIGTERM; then SIGKILL.", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var grace: TimeSpan?

    @OptionGroup var options: ClientOptions

    /// 'lock NAME -- COMMAND' is 'lock run NAME -- COMMAND'.
    static func spelledOut(_ arguments: [String]) -> [String] {
        let words = ["run", "show", "waiting", "revoke", "watch"]
        guard arguments.first == "lock", arguments.count > 1, arguments.contains("--"), !words.contains(arguments[1])
        else { return arguments }
        return ["lock", "run"] + arguments.dropFirst()
    }

    static let words = """
        Runs COMMAND while it is held. It finds the fencing token in its environment as BIFROST_LOCK_TOKEN, and, but for \
        semaphores, as BIFROST_GUARD, which is the --guard of all 'bifrost' commands in it: what they change they change only \
        while the token stands. If it is lost, the command \
        is ended (SIGTERM, after --grace SIGKILL; with its process group, unless it reads from a terminal), and the exit \
        code is 75; also if the command ends by itself then. Else the exit code is the command's, 128 and the signal's \
        number if it was killed, 127 if it can't be started; 1 if others had it for all that time. If this process is killed (SIGKILL) the \
        command goes on without: then only what is guarded is held back.
        """

    /// Until the command has ended.
    func run(
        _ command: [String], cluster: Cluster, _ acquire: (Bytes, Duration?) async throws(BifrostError) -> Held?
    ) async throws -> Never {
        let stopping = SignalForwarder(cluster)
        let text = value ?? "\(ProcessInfo.processInfo.hostName) \(ProcessInfo.processInfo.processIdentifier)"
        let got: Held?
        do throws(BifrostError) {
            got = try await acquire(RawArguments.bytes(of: text), noWait ? .zero : wait?.duration)
        } catch {
            guard error.code == .lockLost else { throw error }
            throw ToolError(.unavailable, "\(error.message); nothing was run")
        }
        guard let held = got else {
            await cluster.close()
            throw ToolError(.negative, "others held it for all that time; nothing was run")
        }
        let status = try await during(held, command, stopping)
        // The session ends with it, and what it held is free.
        _ = try? await held.release(timeout: .seconds(5))
        await cluster.close()
        if let status { Foundation.exit(status) }
        throw ToolError(.lockLost, "\(held.token.text) was lost while '\(command[0])' ran")
    }

    /// The command's exit code; nil: it was lost.
    private func during(_ held: Held, _ command: [String], _ stopping: SignalForwarder) async throws -> Int32? {
        var environment = ProcessInfo.processInfo.environment
        let token = held.token
        var own = [
            "BIFROST_LOCK_TOKEN": "\(token.number)", "BIFROST_LOCK_NAME": RawArguments.text(of: token.name.array),
        ]
        // Of another lock around this one: what is changed here is this one's.
        if token.machine != SemaphoreMachine.number { own["BIFROST_GUARD"] = token.text }
        environment.merge(own) { $1 }
        let child: ChildProcess
        do throws(ChildProcess.Failure) {
            child = try ChildProcess(
                command[0], Array(command.dropFirst()), environment: environment, input: .inherited,
                output: .inherited, errors: .inherited, inForeground: isatty(STDIN_FILENO) == 1)
        } catch {
            _ = try? await held.release(timeout: .seconds(5))
            Output.note(error.description)
            // As shells have it.
            Foundation.exit(127)
        }
        stopping.hand(to: child)
        let grace = grace?.duration ?? .seconds(10)
        let loss = Task {
            guard (try? await held.lost()) != nil else { return false }
            let isRunning = child.isRunning
            child.sendToAll(SIGTERM)
            try? await Task.sleep(for: grace)
            child.sendToAll(SIGKILL)
            return isRunning
        }
        let result = await child.end()
        loss.cancel()
        if await loss.value { return nil }
        switch result.ending {
        case .exit(let code): return code
        case .signal(let number): return 128 + number
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP end the command, and this process behind it; before there is one, this process.
private final class SignalForwarder {
    private let sources: [any DispatchSourceSignal]
    private let reference: Reference

    init(_ cluster: Cluster) {
        reference = Reference(cluster)
        let child = reference
        sources = [SIGINT, SIGTERM, SIGHUP].compactMap { number in
            let before = signal(number, SIG_IGN)
            // As Interruption does: what was ignored stays ignored.
            guard unsafeBitCast(before, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self) else { return nil }
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { child.came(number) }
            source.activate()
            return source
        }
    }

    func hand(to process: ChildProcess) { reference.hand(to: process) }

    private final class Reference: Sendable {
        private let child = Mutex<ChildProcess?>(nil)
        private let cluster: Cluster
        init(_ cluster: Cluster) { self.cluster = cluster }
        func hand(to process: ChildProcess) { child.withLock { $0 = process } }
        func came(_ number: Int32) {
            if let child = child.withLock({ $0 }) { return child.sendToAll(number) }
            // It waits: its place goes with its session.
            Task { [cluster] in
                await cluster.close()
                exit(128 + number)
            }
        }
    }
}

/// A name and a command.
struct HeldCommand: ParsableArguments {
    @Argument(help: "Its name.") var name: KeyArgument
    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("What to run, behind --, with its arguments.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        guard !command.isEmpty else { throw ValidationError("expected a command behind --, as in NAME -- make deploy") }
    }
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
            Run.self, PermitShow<LockKind>.self, PermitWaiting<LockKind>.self, PermitRevoke<LockKind>.self,
            PermitWatcher<LockKind>.self,
        ])

    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a command while this process has the lock.", discussion: HeldCommandOptions.words)
        @OptionGroup var command: HeldCommand
        @OptionGroup var held: HeldCommandOptions

        func run() async throws {
            let cluster = try await held.cluster()
            try await held.run(command.command, cluster: cluster) { (value, wait) async throws(BifrostError) in
                try await PermitObject<LockMachine>(cluster, command.name.bytes).acquire(
                    permits: 1, limit: 1, wait: wait, timeToLive: nil, value: value)
            }
        }
    }
}

struct ElectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "elect", abstract: "Runs a command while this process leads an election.",
        discussion: HeldCommandOptions.words
            + "\n\nEXAMPLE: bifrost elect primary --value \"$(hostname)\" -- ./serve-writes"
    )
    @OptionGroup var command: HeldCommand
    @OptionGroup var held: HeldCommandOptions

    func run() async throws {
        let cluster = try await held.cluster()
        try await held.run(command.command, cluster: cluster) { (value, wait) async throws(BifrostError) in
            try await PermitObject<ElectionMachine>(cluster, command.name.bytes).acquire(
                permits: 1, limit: 1, wait: wait, timeToLive: nil, value: value)
        }
    }
}

struct ElectionCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "election", abstract: "Elections: run a command while leading, look who leads, depose.",
        discussion: "'bifrost elect NAME -- COMMAND' is 'bifrost election run NAME -- COMMAND'.",
        subcommands: [
            Run.self, PermitShow<ElectionKind>.self, PermitWaiting<ElectionKind>.self,
            PermitRevoke<ElectionKind>.self, PermitWatcher<ElectionKind>.self,
        ])

    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a command while this process leads.", discussion: HeldCommandOptions.words)
        @OptionGroup var elect: ElectCommand
        func run() async throws { try await elect.run() }
    }
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
        @OptionGroup var held: HeldCommandOptions

        func run() async throws {
            let cluster = try await held.cluster()
            try await held.run(command.command, cluster: cluster) { (value, wait) async throws(BifrostError) in
                try await PermitObject<SemaphoreMachine>(cluster, command.name.bytes).acquire(
                    permits: count, limit: permits ?? 0, wait: wait, timeToLive: nil, value: value)
            }
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
            var report = ObjectReport()
            report.count = out
            try report.print(options, text: "\(out)")
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
        @OptionGroup var held: HeldCommandOptions

        func run() async throws {
            let cluster = try await held.cluster()
            let time = time.duration
            try await held.run(command.command, cluster: cluster) { (value, wait) async throws(BifrostError) in
                let got = try await PermitObject<LeaseMachine>(cluster, command.name.bytes).acquire(
                    permits: 1, limit: 1, wait: wait, timeToLive: time, value: value)
                if let got {
                    Task { [weak got] in
                        while let got {
                            try await Task.sleep(for: time / 3)
                            do throws(BifrostError) { try await got.renew(timeout: time / 3) } catch {
                                if error.code == .lockLost { return }
                            }
                        }
                    }
                }
                return got
            }
        }
    }
}

extension HeldCommandOptions {
    func cluster() async throws -> Cluster {
        var settings = options.options(timeout: ClientOptions.timeout)
        if let sessionTtl { settings.sessionTimeToLive = sessionTtl.duration }
        return try await Cluster.connect(to: options.addresses, options: settings)
    }
}

// MARK: Looking

private struct PermitReport: Encodable {
    struct Entry: Encodable {
        var token: UInt64?
        var ticket: UInt64?
        var session: String
        var permits: UInt32
        var value: String?
        var valueBase64: String?

        init(_ entry: PermitEntry, isWaiter: Bool) {
            if isWaiter { ticket = entry.number } else { token = entry.number }
            session = "\(entry.session)"
            permits = entry.permits
            (value, valueBase64) = entry.value.forJSON
        }
    }
    var limit: UInt32
    var out: UInt32
    var waiters: UInt32
    var entries: [Entry]
}

struct PermitShow<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "show", abstract: "Prints who has it: \(Kind.number), permits, and what he says of himself.",
            discussion: "With tabs between. Exit code 1: nobody has it.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @OptionGroup var options: ClientOptions

    func run() async throws { try await list(Kind.self, name.bytes, waiters: false, options) }
}

struct PermitWaiting<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "\(Kind.waiter)\(Kind.waiter == "candidate" ? "s" : "")",
            abstract: "Prints who waits, in the order of their turns: ticket, permits, and what each says of himself.",
            discussion: "With tabs between. Exit code 1: nobody waits.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @OptionGroup var options: ClientOptions

    func run() async throws { try await list(Kind.self, name.bytes, waiters: true, options) }
}

private func list<Kind: PermitKind>(
    _: Kind.Type, _ name: Bytes, waiters: Bool, _ options: ClientOptions
) async throws {
    let cluster = try await options.cluster()
    let object = PermitObject<Kind.Machine>(cluster, name)
    var listing = try await object.listing(waiters: waiters, .linearizable, timeout: nil)
    while let next = listing.next {
        let more = try await object.listing(waiters: waiters, from: next, .linearizable, timeout: nil)
        listing.entries += more.entries
        listing.next = more.next
    }
    await cluster.close()
    if options.common.json {
        try Output.json(
            PermitReport(
                limit: listing.limit, out: listing.out, waiters: listing.waiters,
                entries: listing.entries.map { PermitReport.Entry($0, isWaiter: waiters) }))
    } else {
        for entry in listing.entries {
            try Output.write(RecordFormat.line([Bytes("\(entry.number)"), Bytes("\(entry.permits)"), entry.value]))
        }
    }
    if listing.entries.isEmpty {
        throw ToolError(
            .negative,
            waiters
                ? "nobody waits for \(Kind.word) \(HumanText.quoted(name))"
                : "nobody has \(Kind.word) \(HumanText.quoted(name))")
    }
}

struct PermitRevoke<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: Kind.number == "epoch" ? "depose" : "revoke",
            abstract: "Takes it away from whoever has it with this \(Kind.number).",
            discussion: "Exit code 1: nobody has it with that.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @Argument(help: "The \(Kind.number) that 'show' prints.") var number: UInt64
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let cluster = try await options.cluster()
        let wasHeld = try await PermitObject<Kind.Machine>(cluster, name.bytes).release(token: number, timeout: nil)
        await cluster.close()
        var report = ObjectReport()
        report.found = wasHeld
        try report.print(options, text: wasHeld ? "revoked" : nil)
        if !wasHeld { throw ToolError(.negative, "nobody has it with \(Kind.number) \(number)") }
    }
}

struct PermitWatcher<Kind: PermitKind>: AsyncParsableCommand {
    private struct Line: Encodable {
        var change: String
        var token: UInt64?
        var permits: UInt32?
        var value: String?
        var valueBase64: String?
        var revision: UInt64
        var resume: UInt64?
    }

    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: Kind.number == "epoch" ? "observe" : "watch", abstract: "Prints who gets it and loses it.",
            discussion: """
                First who has it, then each change, until Ctrl-C or --limit: a word (present, ready, put, deleted, \
                expired), the \(Kind.number), permits, and what the holder says of himself, with tabs between.
                """)
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @Flag(help: "Not who has it: only what changes from now on.") var now = false
    @OptionGroup var watch: WatchOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let start = try watch.start(now: now)
        let cluster = try await options.cluster()
        var left = watch.limit ?? .max
        var position = watch.after.map { Revision($0) }
        let changes = PermitObject<Kind.Machine>(cluster, name.bytes).watch(from: start, patience: nil)
        do throws(BifrostError) {
            for try await change in changes {
                position = change.resume ?? position
                guard change.kind != .progress || options.common.json else { continue }
                do { try print(change) } catch { throw BifrostError(.closed, "", cause: error) }
                if ![.ready, .present, .progress].contains(change.kind) { left -= 1 }
                if left == 0 { break }
            }
        } catch {
            throw error.cause as? ToolError ?? error.ofWatch(at: position)
        }
        await cluster.close()
    }

    private func print(_ change: PermitChange) throws {
        let hasToken = change.kind != .ready && change.kind != .progress
        if options.common.json {
            var line = Line(
                change: change.kind.rawValue, token: hasToken ? change.token : nil, permits: change.holder?.permits,
                revision: change.revision.rawValue, resume: change.resume.map(\.rawValue))
            if let holder = change.holder { (line.value, line.valueBase64) = holder.value.forJSON }
            return try Output.write(Bytes(try Output.jsonText(line) + "\n"))
        }
        var fields = [Bytes(change.kind.rawValue)]
        if hasToken { fields.append(Bytes("\(change.token)")) }
        if let holder = change.holder { fields += [Bytes("\(holder.permits)"), holder.value] }
        try Output.write(RecordFormat.line(fields))
    }
}
