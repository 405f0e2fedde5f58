// How far a long command is: what it shows, and when.

import ArgumentParser
import Foundation
import Primitives
import RPC
import Synchronization

/// What can be said at one moment. Pure.
package struct ProgressLine: Equatable, Sendable {
    package var verb: String
    package var records: UInt64
    /// Of the last seconds.
    package var recordsPerSecond: Double
    package var bytes: UInt64
    /// Done of `total`, in whatever it is counted: bytes of a file, pages' groups. No total: no percent, no bar, no
    /// time left.
    package var done: UInt64
    package var total: UInt64?
    package var elapsedSeconds: Double
    package var notes: String

    package init(
        verb: String, records: UInt64, recordsPerSecond: Double, bytes: UInt64, done: UInt64, total: UInt64?,
        elapsedSeconds: Double, notes: String = ""
    ) {
        self.verb = verb
        self.records = records
        self.recordsPerSecond = recordsPerSecond
        self.bytes = bytes
        self.done = done
        self.total = total
        self.elapsedSeconds = elapsedSeconds
        self.notes = notes
    }

    /// 0 to 1; nil if nobody knows.
    package var fraction: Double? {
        guard let total else { return nil }
        return total == 0 ? 1 : min(1, Double(done) / Double(total))
    }

    package func text(barWidth: Int = 24) -> String {
        var text = verb
        if let fraction {
            let filled = Int(fraction * Double(barWidth))
            let percent = HumanText.fixed(fraction * 100, 1)
            text += " [\(String(repeating: "#", count: filled))\(String(repeating: ".", count: barWidth - filled))]"
            text += " \(String(repeating: " ", count: max(0, 5 - percent.count)))\(percent) %"
        }
        text += "  \(HumanText.grouped(records)) records  \(HumanText.bytes(bytes))"
        text += "  \(HumanText.grouped(UInt64(max(0, recordsPerSecond))))/s"
        if let fraction, fraction > 0, fraction < 1 {
            text +=
                "  ETA \(HumanText.clock(seconds: UInt64((elapsedSeconds * (1 - fraction) / fraction).rounded(.up))))"
        } else {
            text += "  in \(HumanText.clock(seconds: UInt64(elapsedSeconds)))"
        }
        return notes.isEmpty ? text : "\(text)  \(notes)"
    }
}

/// Whether to show progress.
struct ProgressOptions: ParsableArguments {
    @Flag(
        inversion: .prefixedNo,
        help: "Show records, rate and time left on standard error. (default: if that is a terminal)")
    var progress: Bool?

    var isShown: Bool { progress ?? Output.isErrorTerminal }
}

/// Shows progress on standard error: one line that is overwritten on a terminal, a line each second elsewhere.
final class ProgressMeter: Sendable {
    private struct State {
        var records: UInt64 = 0
        var bytes: UInt64 = 0
        var done: UInt64 = 0
        var total: UInt64?
        var notes = ""
        /// Some seconds of (time in seconds, records).
        var samples: [(Double, UInt64)] = []
        var shownWidth = 0
    }

    private let verb: String
    private let began = RPCClock.now()
    private let isShown: Bool
    private let isTerminal = Output.isErrorTerminal
    private let state: Mutex<State>
    private let ticker: Task<Void, Never>?

    private static let samplesMax = 16

    init(verb: String, total: UInt64?, isShown: Bool) {
        self.verb = verb
        self.isShown = isShown
        state = Mutex(State(total: total))
        let (start, starter) = AsyncStream.makeStream(of: ProgressMeter.self)
        let pause = Duration.milliseconds(isTerminal ? 200 : 1_000)
        ticker =
            isShown
            ? Task {
                for await meter in start {
                    while !Task.isCancelled {
                        do { try await Task.sleep(for: pause) } catch { return }
                        meter.show()
                    }
                }
            } : nil
        if isShown { starter.yield(self) }
        starter.finish()
    }

    var elapsedSeconds: Double { Double(RPCClock.now().since(began)) / 1e9 }
    var records: UInt64 { state.withLock { $0.records } }
    var bytes: UInt64 { state.withLock { $0.bytes } }

    func add(records: Int, bytes: Int) {
        state.withLock {
            $0.records += UInt64(records)
            $0.bytes += UInt64(bytes)
        }
    }

    func set(done: UInt64) { state.withLock { $0.done = done } }
    func set(notes: String) { state.withLock { $0.notes = notes } }

    /// The last line, if any was to be shown; the terminal is left at the beginning of a line.
    func finish() {
        ticker?.cancel()
        guard isShown else { return }
        show()
        if isTerminal { Output.error("\n") }
    }

    static var terminalColumns: Int {
        var size = winsize()
        guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
        return Int(size.ws_col)
    }

    private func show() {
        let elapsed = elapsedSeconds
        let isTerminal = isTerminal
        let text = state.withLock { state -> String in
            if state.samples.count == Self.samplesMax { state.samples.removeFirst() }
            let first = state.samples.first ?? (0, 0)
            state.samples.append((elapsed, state.records))
            let rate = Double(state.records - first.1) / max(elapsed - first.0, 0.001)
            let progress = ProgressLine(
                verb: verb, records: state.records, recordsPerSecond: rate, bytes: state.bytes, done: state.done,
                total: state.total, elapsedSeconds: elapsed, notes: state.notes
            )
            var line = progress.text()
            if isTerminal {
                // A line that wraps can't be overwritten: a shorter bar, and if need be no end.
                let room = Self.terminalColumns - 1
                if line.count > room { line = progress.text(barWidth: max(4, 24 - (line.count - room))) }
                line = String(line.prefix(room))
            }
            guard isTerminal else { return line + "\n" }
            // Blanks over what the line before had more: works on every terminal, without control sequences.
            let blanks = String(repeating: " ", count: max(0, state.shownWidth - line.count))
            state.shownWidth = line.count
            return "\r\(line)\(blanks)"
        }
        Output.error(text)
    }
}
