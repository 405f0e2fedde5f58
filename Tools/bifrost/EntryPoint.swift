// Where the process begins: arguments and settings become a command, its outcome becomes an exit code and at most one
// line on standard error. Owns nothing else; what commands do stands in their own files.

import ArgumentParser
import Bifrost
import BifrostHost
import Foundation

@main
struct EntryPoint {
    static func main() async {
        // A reader that went away shows as EPIPE where it is written to, and ends the program there.
        signal(SIGPIPE, SIG_IGN)
        StandardDescriptors.occupy()
        exit(await run(HeldCommandOptions.spelledOut(RawArguments.ofProcess)).rawValue)
    }

    private static func run(_ arguments: [String]) async -> ExitStatus {
        // Of a line that can't be understood: as far as it is plain.
        var isJSON = arguments.prefix { $0 != "--" }.contains("--json")
        var isOfRecords = false
        do {
            guard let parsed = try parse(arguments) else { return .done }
            var command = parsed.command
            (isJSON, isOfRecords) = (parsed.isJSON, parsed.isOfRecords)
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            return .done
        } catch let outcome as Outcome {
            // Its result says all, in whatever form it has one; where nothing came of it, nothing did.
            if isJSON, !isForOthers(arguments), !outcome.words.isEmpty { Failure.say(outcome.status, outcome.words) }
            return outcome.status
        } catch  where BifrostCommand.exitCode(for: error) == .success {
            // Help and the like: the parser's way to say that there is nothing to run.
            try? Output.line(BifrostCommand.fullMessage(for: error))
            return .done
        } catch {
            let error = ToolError(error)
            if isJSON {
                switch error.status {
                case .negative, .stale, .blocked:
                    if !Output.hasBegun, !isOfRecords { try? Output.json(Negative(reason: error.message)) }
                default: if !isForOthers(arguments) { Failure.say(error.status, error.message) }
                }
            }
            if !error.message.isEmpty { Output.note(error.message) }
            return error.status
        }
    }

    /// Standard output has records, which another program takes for what they are, or is that of a command that is run: no word
    /// of this program belongs there.
    private static func isForOthers(_ arguments: [String]) -> Bool {
        let words = arguments.prefix { $0 != "--" }
        let isRunner = words.count < arguments.count
        switch words.first {
        case "scan": return true
        case "export": return arguments.contains("-")
        case "elect": return isRunner
        case "lock", "semaphore", "lease": return isRunner && words.contains("run")
        case "members": return isRunner && words.contains("join")
        default: return false
        }
    }

    /// With --json the answer no is an object, too: this one, where the command has none of its own.
    private struct Negative: Encodable {
        var done = false
        var reason: String
    }

    /// With --json each other end that is no good one is an object too, behind those that a stream had before.
    private struct Failure: Encodable {
        struct Words: Encodable {
            /// The exit code.
            var code: Int32
            var message: String
        }
        var error: Words

        /// Unless the command had an object of its own, or nobody reads any more.
        static func say(_ status: ExitStatus, _ message: String) {
            guard !Output.hasObject, status != .outputClosed else { return }
            try? Output.json(Failure(error: Words(code: status.rawValue, message: message)))
        }
    }

    private struct Parsed {
        var command: any ParsableCommand
        var isJSON: Bool
        /// Its lines are records, to be imported: none is no line.
        var isOfRecords: Bool
    }

    /// Nil: help or the version was asked for, and is printed.
    private static func parse(_ arguments: [String]) throws -> Parsed? {
        let environment = ProcessInfo.processInfo.environment
        let shape = Settings.shape(for: arguments, environment: environment)
        // Once: what this program starts itself says nothing of it.
        if !arguments.contains("--worker"), let warning = Settings.misspelt(environment: environment, shape: shape) {
            Output.note(warning)
        }
        var settings = try Settings.gather(arguments, shape: shape, environment: environment)
        if settings.path == ["bench"] { Bench.settle(&settings) }
        // The parser's help takes any words, and gives help for those before the first that is no command.
        let words = arguments.first == "help" ? arguments.dropFirst() : arguments[...]
        if let unknown = shape.unknownCommand(in: words) {
            let place = words.prefix { $0 != unknown.word }.map { "\($0) " }.joined()
            let meant = Nearest.word(to: unknown.word, among: unknown.expected).map {
                ", did you mean '\(place)\($0)'?"
            }
            throw ToolError(
                .usage,
                "there is no command \(HumanText.quoted(RawArguments.bytes(of: place + unknown.word)))\(meant ?? ";") "
                    + "expected one of \(unknown.expected.joined(separator: ", "))"
                    + (arguments.first == "lock" ? ". \(HeldCommandOptions.hint)" : ""))
        }
        do {
            let command = try parseJoining(&settings)
            let isJSON = settings.isOnCommandLine("json") || settings.isGiven("json")
            return Parsed(command: command, isJSON: isJSON, isOfRecords: settings.path == ["scan"])
        } catch {
            guard BifrostCommand.exitCode(for: error) != .success else {
                try Output.line(BifrostCommand.fullMessage(for: error))
                return nil
            }
            let message =
                BifrostCommand.message(for: error).split(separator: "\n").joined(separator: " ")
                + expectation(settings.arguments, error)
            let help = "\((["bifrost"] + settings.path).joined(separator: " ")) --help"
            // A setting from outside of the command line that spoils it is named with its source.
            let culprit = settings.given.indices.first {
                (try? BifrostCommand.parseAsRoot(settings.arguments(without: $0))) != nil
            }
            if let culprit {
                throw ToolError(.usage, "\(settings.given[culprit].source): \(message)")
            }
            throw ToolError(.usage, "\(message.ended)\(Self.hint(settings, message)) See '\(help)'")
        }
    }
}

extension EntryPoint {
    /// A negative number behind an option is taken for another option by the parser, which then misses the value: both
    /// become one word, and whoever the value is for says whether it is right.
    private static func parseJoining(_ settings: inout Settings) throws -> any ParsableCommand {
        while true {
            do { return try BifrostCommand.parseAsRoot(settings.arguments) } catch {
                let words = settings.rest.prefix { $0 != "--" }
                guard
                    let match = BifrostCommand.message(for: error).firstMatch(of: /^Missing value for '(--[a-z-]+)/),
                    let place = words.indices.dropLast().first(where: {
                        words[$0] == match.1 && words[$0 + 1].contains(/^-[0-9]/)
                    })
                else { throw error }
                settings.rest.replaceSubrange(place...place + 1, with: ["\(words[place])=\(words[place + 1])"])
            }
        }
    }

    /// What an option or argument takes whose value the parser refuses without saying it: found by trying, as the parser
    /// tells nobody.
    private static func expectation(_ arguments: [String], _ error: any Error) -> String {
        let message = BifrostCommand.message(for: error)
        guard let match = message.firstMatch(of: /^The value '(.*)' is invalid for '((?:--[a-z-]+ )?<[^>]*>)'$/) else {
            return ""
        }
        let (value, name) = (String(match.1), String(match.2))
        let flag = name.hasPrefix("--") ? String(name.prefix { $0 != " " }) : nil
        func takes(_ other: String) -> Bool {
            var tried = arguments
            for place in tried.indices {
                guard let flag else {
                    if tried[place] == value { tried[place] = other }
                    continue
                }
                if tried[place] == "\(flag)=\(value)" { tried[place] = "\(flag)=\(other)" }
                if tried[place] == value, place > 0, tried[place - 1] == flag { tried[place] = other }
            }
            do {
                _ = try BifrostCommand.parseAsRoot(tried)
                return true
            } catch {
                // What else is wrong with the line is not in question here.
                return !BifrostCommand.message(for: error).hasPrefix("The value '\(other)' is invalid for '\(name)'")
            }
        }
        if takes("0.5") { return ": expected a number" }
        guard takes("1") else { return "" }
        let word = takes("meta") ? ", or meta" : ""
        if value.hasPrefix("-") {
            return ": expected a whole number\(takes("0") ? ", 0 or above" : ", above 0")\(word)"
        }
        let isWhole = !value.isEmpty && value.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        guard isWhole, let bound = bounds.first(where: { takes("\($0.last)") && !takes($0.next) }) else {
            return ": expected a whole number\(word)"
        }
        let range = bound.isFromZero ? "from 0 to" : "up to"
        return ": expected a whole number \(range) \(HumanText.grouped(bound.last))\(word)"
    }

    /// The last numbers of the types that numbers are kept in, and what follows them.
    private static let bounds: [(last: UInt64, next: String, isFromZero: Bool)] = [
        (UInt64(UInt8.max), "256", true), (UInt64(UInt16.max), "65536", true),
        (UInt64(Int32.max), "2147483648", false), (UInt64(UInt32.max), "4294967296", true),
        (UInt64(Int64.max), "9223372036854775808", false), (UInt64.max, "18446744073709551616", true),
    ]

    /// For who meant a command to be run, or a key or a value that begins with a dash.
    private static func hint(_ settings: Settings, _ message: String) -> String {
        let arguments = settings.rest
        if settings.path == ["lock"] { return " \(HeldCommandOptions.hint)" }
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
