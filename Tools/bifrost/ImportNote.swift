// How far an import is, in a file of its own, so that the same command goes on where an earlier one ended, however it
// ended. Owns the file and what is believed of it; what is certainly written is ImportPosition's affair.

import Foundation
import Primitives
import Synchronization

/// The note of one import. Any thread may save it.
///
/// It counts lines of which every one is acknowledged, so it is behind by what was under way: those are written again,
/// which is the same as once. It names the input by its size and by a digest of those lines: an input that is another
/// one, or that was changed there, is refused.
package final class ImportNote: Sendable {
    /// A line, and what all lines up to it are.
    package struct Mark: Equatable, Sendable {
        package var line = 0
        /// Of the bytes of all lines, in their order.
        package var inputDigest: UInt64 = 0
        package var records: UInt64 = 0
        /// Of keys and values.
        package var bytes: UInt64 = 0
        /// Lines that are no records.
        package var skipped = 0
        package var digest = LinesDigest()

        package init() {}

        package mutating func take(_ line: UnsafeRawBufferPointer) {
            inputDigest = hash64(line, seed: mix(inputDigest))
        }

        /// A line that nobody holds in memory: that there is one.
        package mutating func takeLongLine() { inputDigest = mix(inputDigest &+ 1) }
    }

    /// The file: one JSON object.
    private struct Contents: Codable {
        var bifrost = Contents.what
        var version = Contents.current
        var cluster: String
        var format: String
        /// For people.
        var input: String
        /// Nil: nobody knows, as of a pipe.
        var inputBytes: UInt64?
        var line: Int
        var inputDigest: String
        var records: UInt64
        var bytes: UInt64
        var skipped: Int
        /// Of `records`, as the result has it, with what it takes to continue it.
        var digestSum: String

        static let what = "import"
        static let current = 1
        static let bytesMax = 64 << 10
    }

    package let path: String
    /// What earlier runs have written.
    package let before: Mark
    private let base: Contents
    private let state: Mutex<State>

    private struct State {
        /// Ascending by line, from the last one that was saved. Those of a second, as a rule; while the put of one line
        /// hangs, of a minute at most, which is some megabytes.
        var marks: [Mark]
        var saved: ContinuousClock.Instant
        var hasFailed = false
    }

    /// How often it is written, besides at the end.
    private static let interval = Duration.seconds(1)

    /// Reads the note if there is one, and writes it, so that a place where none can be written shows at once.
    ///
    /// - Parameter inputBytes: nil: nobody knows.
    package init(
        _ path: String, cluster: String, format: RecordFormat, input: String, inputBytes: UInt64?
    ) throws(ToolError) {
        self.path = path
        base = Contents(
            cluster: cluster, format: format.rawValue, input: input, inputBytes: inputBytes, line: 0, inputDigest: "",
            records: 0, bytes: 0, skipped: 0, digestSum: "")
        before = try Self.read(path, for: base)
        state = Mutex(State(marks: [before], saved: ContinuousClock.now))
        try write(before)
    }

    private static func read(_ path: String, for base: Contents) throws(ToolError) -> Mark {
        var status = stat()
        guard stat(path, &status) == 0 else { return Mark() }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw ToolError(.usage, "--resume \(path) is no file: expected one that an import made, or a new name")
        }
        let input = try InputFile(opening: path)
        defer { input.close() }
        let foreign = ToolError(
            .usage, "--resume \(path) is no note of an import: expected a file that an import made, or a new name")
        guard status.st_size <= Contents.bytesMax,
            let contents = try? JSONDecoder().decode(
                Contents.self, from: Data(try input.readAll(bytesMax: Contents.bytesMax).array)),
            contents.bifrost == Contents.what
        else { throw foreign }
        guard contents.version == Contents.current else {
            throw ToolError(.usage, "--resume \(path) was made by another version of this program")
        }
        func refuse(_ what: String, _ noted: String, _ now: String) -> ToolError {
            ToolError(
                .usage,
                "--resume \(path) is about \(what) \(noted), not \(now): name the same again, or another file to begin anew"
            )
        }
        guard contents.cluster == base.cluster else { throw refuse("cluster", contents.cluster, base.cluster) }
        guard contents.format == base.format else { throw refuse("--format", contents.format, base.format) }
        if let noted = contents.inputBytes, let now = base.inputBytes, noted != now {
            throw refuse("an input (\(contents.input)) of", "\(noted) bytes", "\(now) as \(base.input) has")
        }
        guard let inputDigest = UInt64(contents.inputDigest, radix: 16),
            let sum = UInt64(contents.digestSum, radix: 16), contents.line >= 0
        else { throw foreign }
        var mark = Mark()
        mark.line = contents.line
        mark.inputDigest = inputDigest
        mark.records = contents.records
        mark.bytes = contents.bytes
        mark.skipped = contents.skipped
        mark.digest = LinesDigest(sum: sum, lines: contents.records)
        return mark
    }

    /// The input's line that the note is about was read: it has to be the one that earlier runs read.
    package func check(_ mark: Mark, of input: String) throws(ToolError) {
        guard mark.line < before.line || mark.inputDigest != before.inputDigest else { return }
        throw ToolError(
            .usage,
            mark.line < before.line
                ? "\(input) has \(HumanText.count(mark.line, "line")), and \(path) says that \(before.line) were written: "
                    + "name the same input again, or another file with --resume to begin anew"
                : "the first \(HumanText.count(before.line, "line")) of \(input) are not those that \(path) says were "
                    + "written: name the same input again, or another file with --resume to begin anew")
    }

    /// All lines up to the mark's are begun.
    package func add(_ mark: Mark) {
        state.withLock { state in
            if state.marks.last?.line != mark.line { state.marks.append(mark) }
        }
    }

    /// Saves if it is time. Called with what is certainly written, which is found only then.
    package func saveIfDue(_ certain: () -> Int) {
        let isDue = state.withLock { ContinuousClock.now - $0.saved >= Self.interval }
        if isDue { save(certain: certain()) }
    }

    /// Saves the last mark whose lines are all certainly written. A failure is said once and ends nothing: the import
    /// is worth more than the note.
    /// - Returns: the line from which on the same command goes on.
    @discardableResult
    package func save(certain: Int) -> Int {
        state.withLock { state in
            if let newest = state.marks.lastIndex(where: { $0.line <= certain }) {
                state.marks.removeSubrange(..<newest)
            }
            state.saved = ContinuousClock.now
            do throws(ToolError) { try write(state.marks[0]) } catch {
                if !state.hasFailed { Output.note("\(error.message); the import goes on without a newer note") }
                state.hasFailed = true
            }
            return state.marks[0].line + 1
        }
    }

    private func write(_ mark: Mark) throws(ToolError) {
        var contents = base
        contents.line = mark.line
        contents.inputDigest = hexadecimal(mark.inputDigest)
        contents.records = mark.records
        contents.bytes = mark.bytes
        contents.skipped = mark.skipped
        contents.digestSum = hexadecimal(mark.digest.sum)
        let partial = "\(path).partial"
        let file = try AppendedFile(partial, keeping: 0)
        do throws(ToolError) { try file.append(Bytes(try Output.jsonText(contents) + "\n")) } catch {
            file.close()
            unlink(partial)
            throw ToolError(error.status, "can't write the note \(path): \(error.message)")
        }
        try file.finish(as: path)
    }
}
