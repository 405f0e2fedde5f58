// Which of command line, environment and file wins, and what is said about a setting that makes no sense.

import BifrostTool
import Foundation
import Testing

private func option(_ name: String, _ kind: String = "option", also: [String] = []) -> CommandShape.Argument {
    CommandShape.Argument(kind: kind, names: ([name] + also).map { .init(kind: "long", name: $0) })
}

private let shape = CommandShape(
    commandName: "bifrost",
    subcommands: [
        CommandShape(
            commandName: "get",
            arguments: [
                option("connect"), option("timeout"), option("json", "flag"), option("config"), option("help", "flag"),
            ]),
        CommandShape(commandName: "serve", arguments: [option("directory"), option("log-level")]),
        CommandShape(
            commandName: "ring",
            subcommands: [
                CommandShape(
                    commandName: "show",
                    arguments: [
                        option("progress", "flag", also: ["no-progress"]),
                        CommandShape.Argument(
                            kind: "flag", names: [.init(kind: "long", name: "worker")], shouldDisplay: false),
                    ])
            ]),
        CommandShape(commandName: "chaos", arguments: [option("own-namespaces", "flag")], shouldDisplay: false),
    ])

private func merge(
    _ arguments: [String], file: [String: SettingValue] = [:], environment: [String: String] = [:]
) throws(ToolError) -> [String] {
    try Settings.merge(arguments, shape: shape, file: file, fileName: "f.json", environment: environment).arguments
}

@Suite struct SettingsTests {
    @Test func theCommandLineWinsOverTheEnvironmentAndThatOverTheFile() throws {
        let file: [String: SettingValue] = ["connect": .text("file:1"), "timeout": .text("1s"), "json": .flag(true)]
        #expect(try merge(["get", "k"], file: file) == ["get", "--connect=file:1", "--timeout=1s", "--json", "k"])
        let environment = ["BIFROST_CONNECT": "environment:1", "BIFROST_JSON": "0", "BIFROST_TIMEOUT": ""]
        #expect(
            try merge(["get", "k"], file: file, environment: environment)
                == ["get", "--connect=environment:1", "--timeout=1s", "k"])
        #expect(
            try merge(["get", "--connect", "here:1", "--timeout=2s", "k"], file: file, environment: environment)
                == ["get", "--connect", "here:1", "--timeout=2s", "k"])
    }

    @Test func whatStandsBehindTwoDashesIsNoFlag() throws {
        #expect(
            try merge(["get", "--", "--connect"], file: ["connect": .text("a:1")])
                == ["get", "--connect=a:1", "--", "--connect"])
    }

    @Test func settingsOfOtherCommandsAreLeftOut() throws {
        #expect(
            try merge(["get", "k"], file: ["directory": .text("/d")], environment: ["BIFROST_LOG_LEVEL": "x"]) == [
                "get", "k",
            ])
        #expect(try merge(["serve"], environment: ["BIFROST_LOG_LEVEL": "debug"]) == ["serve", "--log-level=debug"])
    }

    @Test func flagsWithANegationCanBeTurnedOff() throws {
        #expect(try merge(["ring", "show"], file: ["progress": .flag(false)]) == ["ring", "show", "--no-progress"])
        #expect(
            try merge(["ring", "show", "--progress"], file: ["progress": .flag(false)]) == [
                "ring", "show", "--progress",
            ])
    }

    @Test func unknownKeysAreNamed() {
        for key in ["conect", "help", "config"] {
            do throws(ToolError) {
                _ = try merge(["get"], file: [key: .flag(true)])
                Issue.record("\(key) was accepted")
            } catch {
                #expect(error.status == .usage && error.message.contains("\"\(key)\""))
            }
        }
    }

    @Test func whatHelpDoesNotShowIsNotSuggested() {
        do throws(ToolError) {
            _ = try merge(["get"], file: ["workr": .flag(true)])
            Issue.record("it was accepted")
        } catch {
            #expect(error.message.contains("log-level") && !error.message.contains("worker,"))
            #expect(!error.message.contains("own-namespaces") && !error.message.contains("\"worker\""))
        }
        #expect(throws: Never.self) { try merge(["get"], file: ["own-namespaces": .flag(true)]) }
    }

    @Test func flagsInTheFileAreTrueOrFalseAlone() throws {
        for value in ["\"yes\"", "\"true\"", "1"] {
            let file = try Settings.decode(Data("{\"json\": \(value)}".utf8), name: "f.json")
            do throws(ToolError) {
                _ = try merge(["get"], file: file)
                Issue.record("\(value) was accepted")
            } catch {
                #expect(
                    error.status == .usage && error.message.contains("f.json, key \"json\": expected true or false"))
            }
        }
        #expect(try merge(["get"], environment: ["BIFROST_JSON": "yes"]) == ["get", "--json"])
    }

    @Test func variablesThatLookLikeSettingsAreNamed() {
        func said(_ names: String...) -> String? {
            Settings.misspelt(
                environment: Dictionary(uniqueKeysWithValues: names.map { ($0, "x") }), shape: shape)
        }
        #expect(
            said("BIFROST_CONECT", "PATH")
                == "the environment variable BIFROST_CONECT (did you mean BIFROST_CONNECT?) is no setting and ignored")
        #expect(said("BIFROST_LOGLEVEL")?.contains("BIFROST_LOG_LEVEL?") == true)
        #expect(said("BIFROST_CONFG")?.contains("BIFROST_CONFIG?") == true)
        let both = said("BIFROST_TIMEOUTS", "BIFROST_CONECT")
        #expect(both?.contains("BIFROST_CONECT (did you") == true && both?.contains("BIFROST_TIMEOUTS (did") == true)
        // Settings, what scripts use, and what is like neither or like what help does not show.
        #expect(
            said(
                "BIFROST_CONNECT", "BIFROST_CONFIG", "BIFROST_ONLY", "BIFROST_SEEDS", "BIFROST_HOME", "BIFROST_WORKR",
                "BIFROST_") == nil)
    }

    /// Who sets one of these does not mean a setting of the program, and is not warned.
    @Test func everyVariableOfTheScriptsAndTestsIsKnown() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        var files = ["Package.swift"]
        for place in ["Tools", "Tests", ".ci"] {
            files += try FileManager.default.subpathsOfDirectory(atPath: root.appending(path: place).path).map {
                "\(place)/\($0)"
            }
        }
        var used: Set<String> = []
        for file in files {
            guard let text = try? String(contentsOf: root.appending(path: file), encoding: .utf8) else { continue }
            // Programs also have the names of settings in them; what they read themselves is asked for like this.
            if file.hasSuffix(".swift") || file.hasSuffix(".c") {
                let reads = text.matches(of: /(?:environment\[|environment\(|getenv\()"(BIFROST_[A-Z_]+)"/)
                used.formUnion(reads.map { String($0.1) })
            } else {
                used.formUnion(text.matches(of: /BIFROST_[A-Z_]+/).map { String($0.0) })
            }
        }
        // The one setting that the program looks for by its name.
        used.remove("BIFROST_CONFIG")
        #expect(used.sorted() == Settings.ofScripts.sorted())
    }

    /// What is not asked for is left out of the description, and nothing else.
    @Test func theParserIsAskedForTheFlagsThatAreNeeded() throws {
        func commands(_ shape: CommandShape) -> [String] {
            let below = (shape.subcommands ?? []).flatMap(commands)
            return [shape.commandName] + below.map { "\(shape.commandName) \($0)" }
        }
        func find(_ words: [String], in shape: CommandShape) throws -> CommandShape {
            var shape = shape
            for word in words { shape = try #require(shape.subcommands?.first { $0.commandName == word }) }
            return shape
        }
        let all = CommandShape.root
        for words in [["put"], ["rebalance", "plan"], ["bench"], ["help"], ["nothing"], []] {
            let none = Settings.shape(for: words + ["x"], environment: ["PATH": "/bin", "BIFROST_SEEDS": "1"])
            #expect(commands(none) == commands(all) && none.allSettableNames.isEmpty)
            #expect(
                none.unknownCommand(in: ["nothing"])?.expected == all.unknownCommand(in: ["nothing"])?.expected)
        }
        for words in [["put"], ["rebalance", "plan"], ["bench"]] {
            let environment = ["BIFROST_CONNECT": "a:1", "BIFROST_TIMEOUT": "1s"]
            let own = Settings.shape(for: words + ["x"], environment: environment)
            #expect(commands(own) == commands(all))
            let names = try find(words, in: all).settable.map(\.longNames)
            #expect(try find(words, in: own).settable.map(\.longNames) == names && names.count > 2)
            #expect(own.allSettableNames == Array(Set(names.flatMap { $0 })).sorted())
        }
        // Another command's variable, one that is misspelt, a file.
        #expect(
            Settings.shape(for: ["put"], environment: ["BIFROST_PAYLOAD": "1"]).allSettableNames
                == all.allSettableNames)
        #expect(
            Settings.shape(for: ["put"], environment: ["BIFROST_CONECT": "1"]).allSettableNames
                == all.allSettableNames)
        #expect(
            Settings.shape(for: ["put", "--config", "f.json"], environment: [:]).allSettableNames
                == all.allSettableNames)
    }

    /// A token guards commands for groups with slots. What it does not guard must not take it and do without.
    @Test func theGuardIsTakenWhereItGuards() {
        func guarded(_ command: CommandShape, _ path: [String] = []) -> [String] {
            let takes = command.settable.contains { $0.longNames.contains("guard") }
            return (takes ? [path.joined(separator: " ")] : [])
                + (command.subcommands ?? []).flatMap { guarded($0, path + [$0.commandName]) }
        }
        #expect(
            guarded(CommandShape.root).sorted() == [
                "array append", "array clear", "array insert", "array remove", "array set", "array trim", "delete",
                "import", "latch count-down", "latch delete", "latch set", "machine call", "map clear", "map put",
                "map remove", "number add", "number bound", "number cas", "number delete", "number divide",
                "number multiply", "number set", "number subtract", "put", "queue ack", "queue clear", "queue extend",
                "queue nack", "queue pop", "queue purge", "queue push", "queue requeue", "queue set", "queue take",
                "set add", "set clear", "set move", "set remove", "txn", "value cas", "value delete", "value set",
                "value swap",
            ])
    }

    @Test func wordsThatAreNoCommandsAreFound() {
        func found(_ words: String...) -> [String]? { shape.unknownCommand(in: words).map { [$0.word] + $0.expected } }
        #expect(found("gte") == ["gte", "get", "serve", "ring"])
        #expect(found("ring", "shwo") == ["shwo", "show"])
        #expect(found() == nil && found("get", "anything") == nil && found("ring", "show") == nil)
        #expect(found("ring", "--help", "x") == nil && found("chaos", "x") == nil)
    }

    @Test func valuesOfTheWrongKindNameTheirSource() {
        #expect(throws: ToolError.self) { try merge(["get"], environment: ["BIFROST_JSON": "perhaps"]) }
        #expect(throws: ToolError.self) { try merge(["get"], file: ["timeout": .flag(true)]) }
        #expect(throws: ToolError.self) { try Settings.decode(Data("{\"timeout\": {}}".utf8), name: "f.json") }
        #expect(throws: ToolError.self) { try Settings.decode(Data("[]".utf8), name: "f.json") }
    }

    @Test func whereTheFileIsNotJSONIsSaid() {
        func said(_ text: String) -> String {
            do throws(ToolError) {
                return "\(try Settings.decode(Data(text.utf8), name: "f.json"))"
            } catch {
                return error.message
            }
        }
        #expect(
            said("{\n  \"timeout\": \"5s\"\n  \"json\": true\n}\n")
                == "f.json is not JSON: expected a comma or the end, found \"\"json\": true\" at line 3, column 3")
        #expect(said("") == "f.json is not JSON: expected a value, found the end of the line")
        #expect(said("[]").contains("expected one JSON object with the long flags as keys"))
    }

    @Test func theFileHasTextsNumbersFlagsAndLists() throws {
        let text = "{\"connect\": [\"a:1\", \"b:2\"], \"timeout\": 5, \"json\": true}"
        #expect(
            try Settings.decode(Data(text.utf8), name: "f.json")
                == ["connect": .text("a:1,b:2"), "timeout": .text("5"), "json": .flag(true)])
    }

    @Test(arguments: [("5", 5_000), ("500ms", 500), ("1.5s", 1_500), ("2m", 120_000), ("1h", 3_600_000)])
    func timesAreReadAsPeopleWriteThem(_ text: String, _ milliseconds: Int) throws {
        #expect(try TimeSpan(parsing: text).duration == .milliseconds(milliseconds))
    }

    @Test(arguments: ["", "x", "0", "-1s", "25h", "5x", "nan", "inf"]) func otherTimesAreRefused(_ text: String) {
        #expect(throws: (any Error).self) { try TimeSpan(parsing: text) }
    }
}
