// `bifrost history check`: is a recorded history linearizable?

import ArgumentParser
import Foundation
import Linearizability
import Primitives

struct HistoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "Judges what clients recorded of a cluster.",
        subcommands: [HistoryCheck.self])
}

struct HistoryCheck: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Says whether a history is linearizable, key by key.",
        discussion: """
            A history has one operation per line, as JSON:

              {"client":3,"key":"k","op":"put","value":"v","call":123,"return":456,
               "outcome":"ok","revision":7}

            op is put, get, delete or cas; outcome is ok, unknown or failed; times are nanoseconds of one clock. \
            Documentation/Histories.md has it all.

            Ends with 1 if a key is not linearizable, with 2 if one was too much for --steps and none is known to be \
            wrong, and with 65 if there is no operation: nothing was judged. With --svg the first violation is drawn: \
            who did what when, the longest order that explains something, and the operation that fits in no order.

            EXAMPLES:
              bifrost history check history.jsonl
              bifrost history check --svg violation.svg --json - < history.jsonl
            """)

    @Argument(help: ArgumentHelp("The file; - is standard input.", valueName: "file"), completion: .file())
    var file: String

    @Option(
        help: ArgumentHelp("Draw the first violation into this file; - is standard output.", valueName: "file"),
        completion: .file())
    var svg: String?

    @Option(help: ArgumentHelp("How much the search may cost per key.", valueName: "count"))
    var steps = CheckLimits().stepsMax

    @OptionGroup var common: CommonOptions

    /// More would take more memory than most machines have.
    private static let stepsMax = 1_000_000_000

    func validate() throws {
        guard (1...Self.stepsMax).contains(steps) else {
            throw ValidationError("expected --steps from 1 to \(Self.stepsMax), found \(steps)")
        }
        guard svg != "-" || !common.json else {
            throw ValidationError("--svg - and --json would share standard output: name a file")
        }
    }

    func run() async throws {
        let history = try await readHistory(file)
        guard !history.isEmpty else {
            let name = file == "-" ? InputFile.standard.name : file
            throw ToolError(.badData, "\(name): expected operations, one per line, found none: nothing to check")
        }
        let report = HistoryReport(checking: history, limits: CheckLimits(stepsMax: steps))
        if let svg, let picture = report.violation.flatMap({ HistoryPicture($0) }) {
            try write(picture: picture.svg(), to: svg)
        }
        let summary = HistorySummary(report)
        if common.json {
            try Output.json(summary)
        } else if svg != "-" {
            try Output.line(summary.text)
        }
        switch summary.verdict {
        case .linearizable: break
        case .violation: throw Outcome(.negative)
        case .unknown: throw Outcome(.outcomeUnknown)
        }
    }
}

/// A report as a command prints it.
struct HistorySummary: Encodable {
    enum Verdict: String, Encodable { case linearizable, violation, unknown }

    struct Key: Encodable {
        /// In base64 under `key64` if it is not UTF-8.
        var key: String?
        var key64: String?
        var verdict: Verdict
        var operations: Int
        var steps: Int
        var explanation: [String]
    }

    var verdict: Verdict
    var operations: Int
    var unknownOutcomes: Int
    var keys: Int
    var steps: Int
    /// Keys that are wrong or without an answer.
    var suspicious: [Key]

    init(_ report: HistoryReport) {
        verdict = report.isLinearizable ? .linearizable : report.violation != nil ? .violation : .unknown
        operations = report.operationCount
        unknownOutcomes = report.unknownOutcomeCount
        keys = report.keyCount
        steps = report.steps
        suspicious = report.suspicious.map { key in
            let text = String(validating: key.key.array, as: UTF8.self)
            let isViolation = if case .violation = key.verdict { true } else { false }
            return Key(
                key: text, key64: text == nil ? Data(key.key.array).base64EncodedString() : nil,
                verdict: isViolation ? .violation : .unknown, operations: key.records.count, steps: key.steps,
                explanation: key.explanation)
        }
    }

    var text: String {
        let counts =
            "\(HumanText.count(operations, "operation")) on \(HumanText.count(keys, "key")), "
            + "\(HumanText.grouped(UInt64(unknownOutcomes))) of unknown outcome"
        let words =
            switch verdict {
            case .linearizable: "linearizable"
            case .violation: "NOT linearizable"
            case .unknown: "no answer for some keys"
            }
        return (["\(words): \(counts)"] + suspicious.flatMap(\.explanation)).joined(separator: "\n")
    }
}

/// All operations of a file, or of standard input for `-`.
func readHistory(_ path: String) async throws -> [HistoryRecord] {
    let input = try InputFile(opening: path)
    defer { input.close() }
    var reader = HistoryReader()
    var history: [HistoryRecord] = []
    do {
        while true {
            let piece = try await input.next()
            if piece.isEmpty { break }
            try reader.read(piece) { history.append($0) }
        }
        try reader.finish { history.append($0) }
    } catch let error as HistoryError {
        throw ToolError(.badData, "\(input.name), \(error)")
    }
    return history
}

func write(picture: String, to path: String) throws(ToolError) {
    let output = try OutputFile(creating: path)
    do throws(ToolError) {
        try output.write(Array(picture.utf8))
        try output.finish()
    } catch {
        output.abandon()
        throw error
    }
}
