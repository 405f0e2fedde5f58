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
                CommandShape(commandName: "show", arguments: [option("progress", "flag", also: ["no-progress"])])
            ]),
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

    @Test func valuesOfTheWrongKindNameTheirSource() {
        #expect(throws: ToolError.self) { try merge(["get"], environment: ["BIFROST_JSON": "perhaps"]) }
        #expect(throws: ToolError.self) { try merge(["get"], file: ["timeout": .flag(true)]) }
        #expect(throws: ToolError.self) { try Settings.decode(Data("{\"timeout\": {}}".utf8), name: "f.json") }
        #expect(throws: ToolError.self) { try Settings.decode(Data("[]".utf8), name: "f.json") }
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
