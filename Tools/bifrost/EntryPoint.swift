// Where the process begins: arguments and settings become a command, its outcome becomes an exit code and at most one
// line
// on standard error. Owns nothing else; what commands do stands in their own files.

import ArgumentParser
import Bifrost
import BifrostHost
import Foundation

@main
struct EntryPoint {
    static func main() async {
        // A reader that went away shows as EPIPE where it is written to, and ends the program there.
        signal(SIGPIPE, SIG_IGN)
        exit(await run(RawArguments.ofProcess).rawValue)
    }

    private static func run(_ arguments: [String]) async -> ExitStatus {
        do {
            guard var command = try parse(arguments) else { return .done }
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            return .done
        } catch let outcome as Outcome {
            return outcome.status
        } catch  where BifrostCommand.exitCode(for: error) == .success {
            // Help and the like: the parser's way to say that there is nothing to run.
            try? Output.line(BifrostCommand.fullMessage(for: error))
            return .done
        } catch {
            let error = ToolError(error)
            if !error.message.isEmpty { Output.note(error.message) }
            return error.status
        }
    }

    /// Nil: help or the version was asked for, and is printed.
    private static func parse(_ arguments: [String]) throws -> (any ParsableCommand)? {
        let shape = CommandShape.root
        let settings = try Settings.gather(arguments, shape: shape, environment: ProcessInfo.processInfo.environment)
        do {
            return try BifrostCommand.parseAsRoot(settings.arguments)
        } catch {
            guard BifrostCommand.exitCode(for: error) != .success else {
                try Output.line(BifrostCommand.fullMessage(for: error))
                return nil
            }
            let message = BifrostCommand.message(for: error).split(separator: "\n").joined(separator: " ")
            let help = "\((["bifrost"] + settings.path).joined(separator: " ")) --help"
            // A setting from outside of the command line that spoils it is named with its source.
            let culprit = settings.given.indices.first {
                (try? BifrostCommand.parseAsRoot(settings.arguments(without: $0))) != nil
            }
            if let culprit {
                throw ToolError(.usage, "\(settings.given[culprit].source): \(message)")
            }
            if settings.path.isEmpty, let word = arguments.first, !word.hasPrefix("-") {
                let known = (shape.subcommands ?? []).map(\.commandName).joined(separator: ", ")
                throw ToolError(
                    .usage,
                    "there is no command \(HumanText.quoted(RawArguments.bytes(of: word))); expected one of \(known)")
            }
            throw ToolError(.usage, "\(message.ended)\(Self.hint(settings.rest, message)) See '\(help)'")
        }
    }
}

extension EntryPoint {
    /// For who meant a key or a value that begins with a dash.
    private static func hint(_ arguments: [String], _ message: String) -> String {
        guard ["Unknown option", "Missing expected argument"].contains(where: message.hasPrefix) else { return "" }
        let word = arguments.prefix { $0 != "--" }.first { $0.hasPrefix("-") && !$0.hasPrefix("--") && $0 != "-" }
        guard let word else { return "" }
        return
            " \(HumanText.quoted(RawArguments.bytes(of: word))) is taken for an option: a key or a value that begins "
            + "with a dash goes behind --, as in 'bifrost put -- -key -value'."
    }
}

extension String {
    /// With a full stop at the end, if no other mark stands there.
    fileprivate var ended: String {
        guard let last, !".!?".contains(last) else { return self }
        return self + "."
    }
}
