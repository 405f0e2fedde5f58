// A command of somebody else that runs while something is held. Owns its options, its environment, its end, and what ends
// it.

import ArgumentParser
import Bifrost
import DataTypes
import Foundation
import Primitives
import StateMachines

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

/// How something runs while something is held.
struct HeldCommandOptions: ParsableArguments {
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

    /// For who leaves the -- out, by which 'lock' is known to be meant so.
    static let hint = "What is to be run stands behind --, as in 'bifrost lock NAME -- COMMAND'."

    /// 'lock NAME -- COMMAND' is 'lock run NAME -- COMMAND'.
    static func spelledOut(_ arguments: [String]) -> [String] {
        let words = ["run", "show", "waiting", "revoke", "watch"]
        guard arguments.first == "lock", arguments.count > 1, arguments.contains("--"), !words.contains(arguments[1])
        else { return arguments }
        return ["lock", "run"] + arguments.dropFirst()
    }

    static let words = """
        Runs COMMAND while it is held. It finds the fencing token in its environment as BIFROST_LOCK_TOKEN, and, but for \
        semaphores and memberships, as BIFROST_GUARD, which is the --guard of all 'bifrost' commands in it that have one: \
        keys, data types and state machines they change only while the token stands. Nothing guards what changes hosts, \
        groups, slots, locks and memberships. If it is lost, the command \
        is ended (SIGTERM, after --grace SIGKILL; with its process group, unless it reads from a terminal), and the exit \
        code is 75; also if the command ends by itself then. Else the exit code is the command's, 128 and the signal's \
        number if it was killed, or this process while it waited, which leaves no place among those who wait; 127 if it \
        can't be started; 1 if others had it for all that time. If this process is killed (SIGKILL) the \
        command goes on without: then only what is guarded is held back.
        """

    /// Until the command has ended.
    ///
    /// - Parameters:
    ///   - renewing: of a lease, which is renewed each third of it.
    ///   - acquire: what is to be held, of this cluster, by somebody who says this of himself.
    func run(
        _ command: [String], renewing timeToLive: Duration? = nil,
        _ acquire: @escaping @Sendable (Cluster, Bytes) async throws(BifrostError) -> Held?
    ) async throws -> Never {
        var settings = options.options(timeout: ClientOptions.timeout)
        if let sessionTtl { settings.sessionTimeToLive = sessionTtl.duration }
        let cluster = try await Cluster.connect(to: options.addresses, options: settings)
        let signals = SignalForwarder()
        let text = value ?? "\(ProcessInfo.processInfo.hostName) \(ProcessInfo.processInfo.processIdentifier)"
        let value = RawArguments.bytes(of: text)
        let got: Held?
        do throws(BifrostError) {
            got = try await signals.wait(cluster) { () async throws(BifrostError) in
                try await acquire(cluster, value)
            } giveBack: { held in
                _ = try? await held?.release()
            }
        } catch {
            guard error.code == .lockLost else { throw error }
            throw ToolError(.unavailable, "\(error.message); nothing was run")
        }
        guard let held = got else {
            await cluster.close()
            throw ToolError(.negative, "others held it for all that time; nothing was run")
        }
        if let timeToLive { Self.renew(held, timeToLive) }
        let status = try await during(held, command, signals)
        // The session ends with it, and what it held is free.
        _ = try? await held.release(timeout: .seconds(5))
        await cluster.close()
        if let status { Foundation.exit(status) }
        throw ToolError(.lockLost, "\(held.token.text) was lost while '\(command[0])' ran")
    }

    private static func renew(_ lease: Held, _ time: Duration) {
        Task { [weak lease] in
            while let lease {
                try await Task.sleep(for: time / 3)
                do throws(BifrostError) { try await lease.renew(timeout: time / 3) } catch {
                    if error.code == .lockLost { return }
                }
            }
        }
    }

    /// The command's exit code; nil: it was lost.
    private func during(_ held: Held, _ command: [String], _ signals: SignalForwarder) async throws -> Int32? {
        var environment = ProcessInfo.processInfo.environment
        let token = held.token
        var own = [
            "BIFROST_LOCK_TOKEN": "\(token.number)", "BIFROST_LOCK_NAME": RawArguments.text(of: token.name.array),
        ]
        // What is changed here is guarded by this one, and not by another lock around it. Permits of a semaphore and places
        // of members guard little, as several have some at once: there the guard of a lock around it stays.
        if token.guardsAnything { own["BIFROST_GUARD"] = token.text }
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
        signals.hand(to: child)
        let grace = grace?.duration ?? .seconds(10)
        let loss = Task {
            guard (try? await held.lost()) != nil, child.isRunning else { return false }
            await child.endAll(grace: grace)
            return true
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

/// What to run while permits are held, and how long to wait for these.
struct HeldPermitOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Wait so long at most, as the group counts time. (default: as long as it takes)", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var wait: TimeSpan?

    @Flag(help: "Don't wait: end with exit code 1 if others have it.") var noWait = false

    @OptionGroup var held: HeldCommandOptions

    /// Until the command has ended.
    ///
    /// - Parameters:
    ///   - limit: permits that there are; 0: as was set.
    ///   - timeToLive: of a lease.
    func run<Kind: PermitKind>(
        _: Kind.Type, _ command: HeldCommand, permits: UInt32 = 1, limit: UInt32 = 1, timeToLive: Duration? = nil
    ) async throws -> Never {
        let (name, wait) = (command.name.bytes, noWait ? .zero : wait?.duration)
        try await held.run(command.command, renewing: timeToLive) { (cluster, value) async throws(BifrostError) in
            try await PermitObject<Kind.Machine>(cluster, name).acquire(
                permits: permits, limit: limit, wait: wait, timeToLive: timeToLive, value: value)
        }
    }
}
