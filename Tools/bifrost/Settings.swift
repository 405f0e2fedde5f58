// Settings that do not stand on the command line: how a file and the environment become flags. Pure but for reading the
// file; what a flag means is its command's business.

import ArgumentParser
package import Foundation
import Linearizability

/// What the argument parser knows of a command: names, flags, subcommands.
package struct CommandShape: Decodable, Sendable {
    package struct Argument: Decodable, Sendable {
        package struct Name: Decodable, Sendable {
            package var kind: String
            package var name: String
            package init(kind: String, name: String) {
                self.kind = kind
                self.name = name
            }
        }
        package var kind: String
        package var names: [Name]?
        package var shouldDisplay: Bool?
        package init(kind: String, names: [Name], shouldDisplay: Bool = true) {
            self.kind = kind
            self.names = names
            self.shouldDisplay = shouldDisplay
        }

        /// Help shows it, and so may messages.
        package var isShown: Bool { shouldDisplay ?? true }

        /// Without the dashes.
        package var longNames: [String] { (names ?? []).filter { $0.kind == "long" }.map(\.name) }
    }

    package var commandName: String
    package var subcommands: [CommandShape]?
    package var arguments: [Argument]?
    package var shouldDisplay: Bool?

    package init(
        commandName: String, subcommands: [CommandShape] = [], arguments: [Argument] = [], shouldDisplay: Bool = true
    ) {
        self.commandName = commandName
        self.subcommands = subcommands
        self.arguments = arguments
        self.shouldDisplay = shouldDisplay
    }

    /// The flags that a file or the environment may set.
    package var settable: [Argument] {
        (arguments ?? []).filter { argument in
            argument.kind != "positional" && argument.longNames.first.map { !Self.notSettable.contains($0) } ?? false
        }
    }

    private static let notSettable = ["help", "version", "config", "yes", "accept-empty"]

    /// All flags of all commands: what a configuration file may have, as one file serves them all.
    package var allSettableNames: [String] {
        var names = settable.flatMap(\.longNames)
        for command in subcommands ?? [] { names += command.allSettableNames }
        return Array(Set(names)).sorted()
    }

    /// The same without what help does not show.
    package var shownSettableNames: [String] {
        var names = settable.filter(\.isShown).flatMap(\.longNames)
        for command in subcommands ?? [] where command.shouldDisplay ?? true { names += command.shownSettableNames }
        return Array(Set(names)).sorted()
    }

    /// The first word that should be a command and is none, with the commands that could stand there. Words from the
    /// first flag on are not looked at.
    package func unknownCommand(in words: some Sequence<String>) -> (word: String, expected: [String])? {
        var command = self
        for word in words {
            guard !word.hasPrefix("-"), let subcommands = command.subcommands, !subcommands.isEmpty else { return nil }
            guard let next = subcommands.first(where: { $0.commandName == word }) else {
                let shown = subcommands.filter { $0.shouldDisplay ?? true }.map(\.commandName)
                return (word, shown.filter { $0 != "help" })
            }
            command = next
        }
        return nil
    }

    /// All commands with all that the parser knows of them. Takes longer than many a command: some 0.1 s.
    package static var root: CommandShape { described(BifrostCommand.self) }

    /// The same without what the commands take, but for the one that the first words name if it is `isDescribed`.
    package static func root(for words: [String], isDescribed: Bool) -> CommandShape {
        var shape = outline(BifrostCommand.self)
        // The parser has it, and it is in nobody's configuration.
        shape.subcommands?.append(CommandShape(commandName: "help"))
        if isDescribed { shape.describe(BifrostCommand.self, words[...]) }
        return shape
    }

    private static func described(_ command: any ParsableCommand.Type) -> CommandShape {
        struct Dump: Decodable { var command: CommandShape }
        guard let dump = try? JSONDecoder().decode(Dump.self, from: Data(command._dumpHelp().utf8)) else {
            preconditionFailure("the argument parser describes the commands in another way than expected")
        }
        return dump.command
    }

    private static func outline(_ command: any ParsableCommand.Type) -> CommandShape {
        CommandShape(
            commandName: command._commandName, subcommands: command.configuration.subcommands.map(outline),
            shouldDisplay: command.configuration.shouldDisplay)
    }

    private mutating func describe(_ command: any ParsableCommand.Type, _ words: ArraySlice<String>) {
        let next = command.configuration.subcommands.firstIndex { $0._commandName == words.first }
        guard let next else { return arguments = Self.described(command).arguments }
        subcommands?[next].describe(command.configuration.subcommands[next], words.dropFirst())
    }
}

/// A value in the configuration file or the environment. A list stands for its elements with commas between them.
package enum SettingValue: Decodable, Equatable, Sendable {
    case flag(Bool)
    case text(String)

    /// For messages.
    fileprivate var words: String {
        switch self {
        case .flag(let flag): "\(flag)"
        case .text(let text): "'\(text)'"
        }
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let flag = try? container.decode(Bool.self) {
            self = .flag(flag)
        } else if let number = try? container.decode(Int64.self) {
            self = .text(String(number))
        } else if let number = try? container.decode(Double.self) {
            self = .text(String(number))
        } else if let text = try? container.decode(String.self) {
            self = .text(text)
        } else if let list = try? container.decode([String].self) {
            self = .text(list.joined(separator: ","))
        } else {
            throw DecodingError.typeMismatch(
                SettingValue.self,
                .init(
                    codingPath: decoder.codingPath,
                    debugDescription: "neither text, number, true, false nor a list of texts"))
        }
    }
}

/// Arguments as given, and what file and environment add to them.
package struct Settings: Sendable {
    package struct Given: Equatable, Sendable {
        /// As it would stand on the command line.
        package var argument: String
        /// For messages: where it comes from.
        package var source: String
    }

    /// The subcommand's name, or names.
    package var path: [String]
    package var given: [Given]
    /// What follows the path on the command line.
    package var rest: [String]

    package var arguments: [String] { path + given.map(\.argument) + rest }

    /// A flag as it stands on the command line, by its long name.
    package func isOnCommandLine(_ name: String) -> Bool { Self.isGiven(name, in: rest) }

    /// A flag that file or environment add.
    package func isGiven(_ name: String) -> Bool { Self.isGiven(name, in: given.map(\.argument)) }

    package mutating func dropGiven(_ names: [String]) {
        given.removeAll { setting in names.contains { Self.isGiven($0, in: [setting.argument]) } }
    }

    package func arguments(without index: Int) -> [String] {
        var fewer = self
        fewer.given.remove(at: index)
        return fewer.arguments
    }

    /// The commands, with as much of their flags as these settings need: a file may have those of all commands, and a
    /// variable that is none of this command's may be another's or misspelt. Without either nobody asks for any.
    package static func shape(for arguments: [String], environment: [String: String]) -> CommandShape {
        guard configurationFile(arguments, environment) == nil else { return .root }
        let others = Set(ofScripts + ["BIFROST_CONFIG"])
        let variables = environment.keys.filter { $0.hasPrefix("BIFROST_") && !others.contains($0) }
        guard !variables.isEmpty else { return .root(for: arguments, isDescribed: false) }
        let shape = CommandShape.root(for: arguments, isDescribed: true)
        let known = Set(shape.allSettableNames.map(variable))
        return variables.allSatisfy(known.contains) ? shape : .root
    }

    /// As it is named; nil: there is none.
    private static func configurationFile(_ arguments: [String], _ environment: [String: String]) -> String? {
        value(of: "config", in: arguments) ?? environment["BIFROST_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
    }

    private static func variable(_ name: String) -> String {
        "BIFROST_" + name.uppercased().replacing("-", with: "_")
    }

    /// Reads the file that the arguments or the environment name, and merges.
    package static func gather(
        _ arguments: [String], shape: CommandShape, environment: [String: String]
    ) throws(ToolError) -> Settings {
        guard let path = configurationFile(arguments, environment) else {
            return try merge(arguments, shape: shape, file: [:], fileName: "", environment: environment)
        }
        guard !path.isEmpty else { throw ToolError(.usage, "--config is empty: name a file, or leave it out") }
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw ToolError(.fileTrouble, "can't read the configuration file \(path): \(words(of: error))")
        }
        return try merge(
            arguments, shape: shape, file: try decode(data, name: path), fileName: path, environment: environment)
    }

    package static func decode(_ data: Data, name: String) throws(ToolError) -> [String: SettingValue] {
        do {
            return try JSONDecoder().decode([String: SettingValue].self, from: data)
        } catch let DecodingError.typeMismatch(_, context) where !context.codingPath.isEmpty {
            let key = context.codingPath[0].stringValue
            throw ToolError(.usage, "\(name): the value of \"\(key)\" is \(context.debugDescription)")
        } catch {
            if let problem = JSONSyntax.problem(in: Array(data)) {
                throw ToolError(.usage, "\(name) is not JSON: \(problem)")
            }
            throw ToolError(
                .usage, "\(name): expected one JSON object with the long flags as keys, as in {\"timeout\": \"5s\"}")
        }
    }

    /// The command line wins over the environment, the environment over the file. A variable that is no flag of this
    /// command is ignored, since it may be meant for another; a key of the file that is no flag of any command is an
    /// error.
    package static func merge(
        _ arguments: [String], shape: CommandShape, file: [String: SettingValue], fileName: String,
        environment: [String: String]
    ) throws(ToolError) -> Settings {
        var command = shape
        var path: [String] = []
        for argument in arguments {
            guard let next = command.subcommands?.first(where: { $0.commandName == argument }) else { break }
            path.append(argument)
            command = next
        }
        let known = shape.allSettableNames
        if let unknown = file.keys.filter({ !known.contains($0) }).min() {
            let shown = shape.shownSettableNames
            let meant = Nearest.word(to: unknown, among: shown).map { "; did you mean \"\($0)\"?" } ?? ";"
            throw ToolError(
                .usage,
                "\(fileName): \"\(unknown)\" is no setting\(meant) expected one of \(shown.joined(separator: ", "))")
        }
        let rest = Array(arguments.dropFirst(path.count))
        var given: [Given] = []
        for argument in command.settable {
            // Any of its names on the command line: nothing from elsewhere.
            if argument.longNames.contains(where: { isGiven($0, in: rest) }) { continue }
            for name in argument.longNames {
                let variable = variable(name)
                let value: SettingValue
                let source: String
                if let text = environment[variable], !text.isEmpty {
                    source = "environment variable \(variable)"
                    value = argument.kind == "flag" ? .flag(try flag(text, source)) : .text(text)
                } else if let found = file[name] {
                    value = found
                    source = "\(fileName), key \"\(name)\""
                } else {
                    continue
                }
                if let flag = try self.argument(name, argument, value, source) {
                    given.append(Given(argument: flag, source: source))
                }
            }
        }
        return Settings(path: path, given: given, rest: rest)
    }

    private static func argument(
        _ name: String, _ argument: CommandShape.Argument, _ value: SettingValue, _ source: String
    ) throws(ToolError) -> String? {
        guard argument.kind == "flag" else {
            guard case .text(let text) = value else {
                throw ToolError(.usage, "\(source): expected a value, found true or false")
            }
            return "--\(name)=\(text)"
        }
        guard case .flag(let isOn) = value else {
            throw ToolError(.usage, "\(source): expected true or false, without quotes, found \(value.words)")
        }
        if isOn { return "--\(name)" }
        // "progress": false is --no-progress, where there is such a flag.
        return argument.longNames.contains("no-\(name)") ? "--no-\(name)" : nil
    }

    /// What a variable says of a flag. Variables have texts alone, so several words stand for true and false.
    private static func flag(_ text: String, _ source: String) throws(ToolError) -> Bool {
        switch text {
        case "1", "true", "yes", "on": return true
        case "0", "false", "no", "off": return false
        default: throw ToolError(.usage, "\(source): expected true or false, found '\(text)'")
        }
    }

    /// Variables that look like misspelt settings, in words for people; nil if there are none. Others that begin alike
    /// may be somebody's own.
    package static func misspelt(environment: [String: String], shape: CommandShape) -> String? {
        let known = Set(shape.allSettableNames.map(variable) + ["BIFROST_CONFIG"] + ofScripts)
        let shown = shape.shownSettableNames.map { String(variable($0).dropFirst(8)) } + ["CONFIG"]
        let problems = environment.keys.filter { $0.hasPrefix("BIFROST_") && !known.contains($0) }.sorted().compactMap {
            name in
            Nearest.word(to: String(name.dropFirst(8)), among: shown).map { "\(name) (did you mean BIFROST_\($0)?)" }
        }
        guard !problems.isEmpty else { return nil }
        let (noun, verb) = problems.count == 1 ? ("environment variable", "is") : ("environment variables", "are")
        return "the \(noun) \(problems.joined(separator: ", ")) \(verb) no setting and ignored"
    }

    /// Of Package.swift, of the scripts in Tools, and of the tests.
    package static let ofScripts = [
        "CELLS", "DISK_MODEL_SEEDS", "FAILURES", "FIRST_SEED", "INCREMENTS", "INCREMENT_SEEDS", "KILL_ROUNDS",
        "MEASURE",
        "MEASURE_MEGABYTES", "ONLY", "PLANTED",
        "POWER_IMAGE",
        "POWER_IMAGES", "PROFILE", "RECORD_LOG", "RECORD_ROOT", "REWRITE_TRANSCRIPTS", "SECONDS", "SEEDS", "TRACE",
        "WRITE_SAMPLES",
    ].map { "BIFROST_" + $0 }

    private static func isGiven(_ name: String, in arguments: [String]) -> Bool {
        arguments.prefix { $0 != "--" }.contains { $0 == "--\(name)" || $0.hasPrefix("--\(name)=") }
    }

    private static func value(of name: String, in arguments: [String]) -> String? {
        let flags = Array(arguments.prefix { $0 != "--" })
        for (position, argument) in flags.enumerated() {
            if argument.hasPrefix("--\(name)=") { return String(argument.dropFirst(name.utf8.count + 3)) }
            if argument == "--\(name)", position + 1 < flags.count { return flags[position + 1] }
        }
        return nil
    }
}
