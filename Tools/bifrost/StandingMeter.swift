// What a command waits for, on standard error: one line that is overwritten on a terminal, elsewhere a line when it
// says something new.

import ArgumentParser
import Foundation

/// Whether to wait until what was asked for has come about, and whether to show what it waits for.
struct WaitOptions: ParsableArguments {
    @Flag(help: "Only ask for it; it comes about by itself.")
    var noWait = false

    @Flag(
        inversion: .prefixedNo,
        help: "Show what it waits for on standard error. (default: if that is a terminal)")
    var progress: Bool?

    func meter(_ what: String, counting noun: String = "replica") -> StandingMeter {
        StandingMeter(what, counting: noun, isShown: progress ?? Output.isErrorTerminal)
    }
}

/// What can be said at one moment. Pure.
package struct StandingLine: Equatable, Sendable {
    package var what: String
    package var noun: String
    /// What is still waited for, one line for each.
    package var open: [String]

    package init(what: String, noun: String, open: [String]) {
        self.what = what
        self.noun = noun
        self.open = open
    }

    package var text: String {
        guard let first = open.first else { return "\(what): done" }
        let others = open.count > 1 ? ", and \(open.count - 1) more" : ""
        return "\(what): \(HumanText.count(open.count, noun)) to go; \(first)\(others)"
    }
}

/// Used by one task.
final class StandingMeter {
    private let what: String
    private let noun: String
    private let isShown: Bool
    private let isTerminal = Output.isErrorTerminal
    private var shown = ""

    init(_ what: String, counting noun: String, isShown: Bool) {
        self.what = what
        self.noun = noun
        self.isShown = isShown
    }

    func show(_ open: [String]) {
        guard isShown else { return }
        var text = StandingLine(what: what, noun: noun, open: open).text
        // A line that wraps can't be overwritten.
        if isTerminal { text = String(text.prefix(ProgressMeter.terminalColumns - 1)) }
        guard text != shown else { return }
        let blanks = String(repeating: " ", count: max(0, shown.count - text.count))
        Output.error(isTerminal ? "\r\(text)\(blanks)" : text + "\n")
        shown = text
    }

    /// The terminal is left at the beginning of a line.
    func finish() {
        if isTerminal, !shown.isEmpty { Output.error("\n") }
        shown = ""
    }
}
