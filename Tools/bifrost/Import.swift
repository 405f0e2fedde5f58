// `bifrost import`: a file of records into the cluster, many at a time.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC
import Ring
import Synchronization

extension RecordFormat: ExpressibleByArgument {}

struct Import: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes the records of a file, one per line.",
        discussion: """
            FORMATS: tsv is KEY, a tab, VALUE. Within a key or a value a tab is written \\t, a line feed \\n, a \
            carriage return \\r, a zero byte \\0, a backslash \\\\; all other bytes stand for themselves. ucd takes \
            lines of the Unicode Character Database as they are: the key is what stands before the first semicolon, \
            the value is the rest. jsonl is one JSON object per line, {"key":"a","value":"b"}, with "keyBase64" and \
            "valueBase64" for bytes that are no UTF-8; a "revision", as scan --json prints it, is not written.

            Many puts are under way at a time. One whose outcome is unknown, as when a host dies, is repeated until \
            it is certain, which is safe because the same put twice is the same as once. A key that stands in several \
            lines gets the value of the last one.

            A malformed line ends the import with exit code 65 and its number; all lines before it are written. With \
            --skip-bad it goes on behind lines that can't be read or are no record (too large, an empty key), names the \
            first ten with their numbers, and counts all in the result; it ends with 0 then, but with 65 if no line was \
            a record, as a file of another format would have it. What the cluster does not take is never skipped. If \
            the cluster does not take a record within --timeout, the error names the first line that is not certainly \
            written: go on from there, or begin again, which does no harm. Ended by SIGINT or SIGTERM, it says how far \
            it came, with --json also as an object, and ends with 130 or 143. The digest in the result does not \
            depend on the order: an export of the same records has the same one.

            --resume NOTE makes an import that goes on where it ended, however it ended: the file NOTE says up to which \
            line all is acknowledged, each second and at the end. The same command again looks through these lines, \
            which must be the same, and writes those behind them; some that were under way are written again. When all \
            is written it does nothing. An input of another size or with other lines, another format or another cluster \
            is refused with 64; to begin anew, remove the note.

            EXAMPLES:
              bifrost import users.tsv
              bifrost import --format ucd /usr/share/unicode/UnicodeData.txt
              zcat big.tsv.gz | bifrost import --progress -
              bifrost import --check users.tsv
              bifrost import --format jsonl --skip-bad --resume users.note users.jsonl
            """)

    @Argument(help: ArgumentHelp("The file; - is standard input.", valueName: "file"), completion: .file())
    var file: String

    @Option(help: "How records stand on lines.")
    var format = RecordFormat.tsv

    @Option(help: ArgumentHelp("Puts under way at a time, 1 to 65536.", valueName: "count"))
    var window = 1_024

    @Flag(help: "Only look at the lines: write nothing, and name the first malformed ones.")
    var check = false

    @Flag(help: "Go on behind lines that are no records, and count them.")
    var skipBad = false

    @Option(
        help: ArgumentHelp(
            "Note in this file how far it is, and go on from there if it exists.", valueName: "note"),
        completion: .file())
    var resume: String?

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var fence: GuardOptions
    @OptionGroup var options: ClientOptions

    /// Time for one record, if the command line says nothing: enough for a host to die and its groups to elect others.
    private static let timeout = Duration.seconds(60)

    private struct Report: Encodable {
        /// All of the input, with those that earlier runs wrote.
        var records: UInt64
        var bytes: UInt64
        /// Of `records`, those that earlier runs wrote.
        var recordsBefore: UInt64
        /// Lines that are no records, and some of those that this run met.
        var skipped: Int
        var firstSkipped: [BadLines.Line]
        var seconds: Double
        var recordsPerSecond: Double
        var repeated: Int
        var digest: String
    }

    private struct InterruptedReport: Encodable {
        /// Puts that were acknowledged.
        var records: UInt64
        /// All lines up to here are certainly written, or skipped; 0: none is.
        var certainLine: Int
        /// Lines that are no records.
        var skipped: Int
        var signal: String
    }

    private struct CheckReport: Encodable {
        var lines: Int
        var malformed: Int
        /// Some of the malformed ones.
        var first: [BadLines.Line]
    }

    func validate() throws {
        guard (1...65_536).contains(window) else { throw ValidationError("--window is 1 to 65536, not \(window)") }
        guard resume.map({ !$0.isEmpty && $0 != "-" && $0 != file }) ?? true else {
            throw ValidationError("--resume needs the name of a file for its note, and not the input's")
        }
        guard !check || (!skipBad && resume == nil) else {
            throw ValidationError("--check writes nothing: leave out \(skipBad ? "--skip-bad" : "--resume")")
        }
    }

    func run() async throws {
        let input = try InputFile(opening: file)
        defer { input.close() }
        if check { return try await lookThrough(input) }
        let cluster = try await options.cluster(timeout: Self.timeout, guardedBy: fence.token)
        let note: ImportNote?
        if let resume {
            let map = try await cluster.map()
            note = try ImportNote(
                resume, cluster: map.cluster.description, format: format, input: input.name, inputBytes: input.bytes)
        } else {
            note = nil
        }
        let meter = ProgressMeter(verb: "import", total: input.bytes, isShown: progress.isShown)
        let position = ImportPosition()
        let isJSON = options.common.json
        let interruption = Interruption { number in
            if Output.isErrorTerminal { Output.error("\n") }
            let certain = position.certain
            let again = note.map { ($0.save(certain: certain), $0.path) }
            Output.note(position.report(records: meter.records, of: input.name, resuming: again))
            if isJSON {
                try? Output.json(
                    InterruptedReport(
                        records: meter.records, certainLine: certain, skipped: position.skipped,
                        signal: number == SIGINT ? "SIGINT" : "SIGTERM"))
            }
            _exit((number == SIGINT ? ExitStatus.interrupted : .terminated).rawValue)
        }
        let pipeline = PutPipeline(
            cluster: cluster, window: window, timeout: options.timeout?.duration ?? Self.timeout, meter: meter,
            position: position, note: note, skipsBadLines: skipBad)
        let outcome: Result<PutPipeline.Outcome, ToolError>
        do throws(ToolError) {
            outcome = .success(try await pipeline.run(input, format))
        } catch {
            outcome = .failure(error)
        }
        meter.finish()
        let next = note?.save(certain: position.certain)
        await cluster.close()
        interruption.end()
        let done: PutPipeline.Outcome
        do throws(ToolError) { done = try outcome.get() } catch {
            guard let note, let next, !position.isEmpty else { throw error }
            throw ToolError(
                error.status,
                "\(error.message); the same command goes on from line \(next), as \(note.path) says")
        }
        for line in done.bad.first {
            Output.note("\(input.name), line \(line.line), skipped: \(line.problem)")
        }
        do throws(ToolError) {
            try report(done, meter, before: note?.before)
        } catch {
            throw error.after("all \(HumanText.count(Int(done.all.records), "record")) are written")
        }
        if done.all.records == 0, done.all.skipped > 0 {
            throw ToolError(
                .badData,
                "none of \(HumanText.count(done.all.line, "line")) is a record, and nothing was written: is --format "
                    + "\(format.rawValue) right?")
        }
    }

    private func report(
        _ done: PutPipeline.Outcome, _ meter: ProgressMeter, before: ImportNote.Mark?
    ) throws(ToolError) {
        let seconds = meter.elapsedSeconds
        let rate = Double(meter.records) / max(seconds, 1e-6)
        let all = done.all
        let recordsBefore = before?.records ?? 0
        if options.common.json {
            return try Output.json(
                Report(
                    records: all.records, bytes: all.bytes, recordsBefore: recordsBefore, skipped: all.skipped,
                    firstSkipped: done.bad.first, seconds: seconds, recordsPerSecond: rate.rounded(),
                    repeated: done.repeated, digest: all.digest.description))
        }
        let earlier = recordsBefore == 0 ? "" : ", \(HumanText.grouped(recordsBefore)) of them before"
        let repeats = done.repeated == 0 ? "" : ", \(done.repeated) repeated because their outcome was unknown"
        let skips = all.skipped == 0 ? "" : ", \(HumanText.count(all.skipped, "line")) skipped"
        try Output.line(
            "imported \(HumanText.count(Int(all.records), "record")) (\(HumanText.bytes(all.bytes)))\(earlier) in "
                + "\(HumanText.fixed(seconds, 2)) s, \(HumanText.grouped(UInt64(rate)))/s\(repeats)\(skips), digest "
                + "\(all.digest)")
    }

    private func lookThrough(_ input: InputFile) async throws {
        var splitter = LineSplitter()
        var bad = BadLines()
        var isAtEnd = false
        while !isAtEnd {
            let piece = try await input.next()
            isAtEnd = piece.isEmpty
            splitter.append(piece)
            while true {
                do throws(MalformedLine) {
                    let record =
                        try isAtEnd
                        ? splitter.last { (line) throws(MalformedLine) in try format.decode(line) }
                        : splitter.next { (line) throws(MalformedLine) in try format.decode(line) }
                    if record == nil { break }
                } catch {
                    bad.add(splitter.lines, error)
                    splitter.passOver()
                }
            }
        }
        for line in bad.first { Output.note("\(input.name), line \(line.line): \(line.problem)") }
        if options.common.json {
            try Output.json(CheckReport(lines: splitter.lines, malformed: bad.count, first: bad.first))
        }
        guard bad.count == 0 else {
            throw ToolError(
                .badData, "\(HumanText.count(bad.count, "malformed line")) of \(splitter.lines); nothing was written")
        }
        if options.common.json { return }
        try Output.line("\(HumanText.count(splitter.lines, "line")), all well-formed; nothing was written")
    }
}

/// Lines that are no records.
struct BadLines: Sendable {
    struct Line: Encodable, Sendable {
        var line: Int
        /// What was expected, and what came.
        var problem: String
    }

    private(set) var count = 0
    /// At most `firstMax`.
    private(set) var first: [Line] = []

    private static let firstMax = 10

    mutating func add(_ line: Int, _ problem: MalformedLine) {
        count += 1
        if first.count < Self.firstMax { first.append(Line(line: line, problem: problem.description)) }
    }
}

/// How far an import is, for who ends it. Any thread may ask.
package final class ImportPosition: Sendable {
    private struct State {
        var skipped = 0
        /// Begun, and not certainly written.
        var open: Set<Int> = []
        var last = 0
    }
    private let state = Mutex(State())

    package init() {}

    package func begin(_ line: Int) {
        state.withLock {
            $0.open.insert(line)
            $0.last = line
        }
    }

    /// Nothing is to be written of it.
    ///
    /// - Parameter skipped: lines that are no records, so far.
    package func pass(_ line: Int, skipped: Int) {
        state.withLock {
            $0.last = line
            $0.skipped = skipped
        }
    }

    package var skipped: Int { state.withLock { $0.skipped } }
    /// No line was begun.
    package var isEmpty: Bool { state.withLock { $0.last == 0 } }

    package func written(_ line: Int) { state.withLock { _ = $0.open.remove(line) } }

    /// All lines up to here are certainly written; 0: none is.
    package var certain: Int { state.withLock { $0.open.min().map { $0 - 1 } ?? $0.last } }

    /// - Parameters:
    ///   - records: how many puts were acknowledged.
    ///   - again: the line from which on the same command goes on, and the file that says so.
    package func report(records: UInt64, of name: String, resuming again: (line: Int, note: String)? = nil) -> String {
        let line = max(certain, again.map { $0.line - 1 } ?? 0)
        var lines = line == 0 ? "no line is certainly written" : "all lines up to \(line) are written"
        if skipped > 0 { lines += " but for \(HumanText.grouped(UInt64(skipped))) that are no records" }
        let next =
            again.map { "the same command goes on from line \($0.line), as \($0.note) says" }
            ?? "go on from line \(line + 1) (tail -n +\(line + 1)), or begin again, which does no harm"
        return "import interrupted: \(HumanText.count(Int(clamping: records), "record")) acknowledged; of \(name) "
            + "\(lines), later ones may be: \(next)"
    }
}

/// Puts of a file's records with a bounded number under way.
///
/// Two puts of one key are never under way together, so that the later line wins. A put whose outcome is unknown is
/// repeated: it is idempotent as long as no other put of its key came between, which that rule sees to.
struct PutPipeline {
    let cluster: Cluster
    /// Puts under way. Beyond: reading waits.
    let window: Int
    /// For one record with all its repetitions.
    let timeout: Duration
    let meter: ProgressMeter
    let position: ImportPosition
    /// Where an earlier run ended, and where this one notes how far it is.
    let note: ImportNote?
    /// Goes on behind lines that are no records.
    let skipsBadLines: Bool

    struct Outcome: Sendable {
        /// Puts that were repeated.
        var repeated = 0
        /// The whole input, with what earlier runs wrote.
        var all = ImportNote.Mark()
        /// Of this run.
        var bad = BadLines()
    }

    /// Bytes of keys and values under way. Beyond: reading waits.
    private static let windowBytesMax = 64 << 20
    /// After this long without an answer a put is given up and repeated: the host may hang.
    private static let attempt = Duration.seconds(5)

    private struct Finished: Sendable {
        var line: Int
        var key: Bytes
        var bytes: Int
        var repeated: Int
        var failure: BifrostError?
    }

    /// What is under way, in the words of the reading task.
    private struct UnderWay {
        var keys: Set<Bytes> = []
        var lines: Set<Int> = []
        var bytes = 0
        var repeated = 0
        /// The first line that is not certainly written, and why.
        var failure: (line: Int, key: Bytes, error: BifrostError)?

        mutating func take(_ finished: Finished) {
            keys.remove(finished.key)
            lines.remove(finished.line)
            bytes -= finished.bytes
            repeated += finished.repeated
            if let error = finished.failure, failure.map({ finished.line < $0.line }) ?? true {
                failure = (finished.line, finished.key, error)
            }
        }
    }

    /// Writes all records.
    func run(_ input: InputFile, _ format: RecordFormat) async throws(ToolError) -> Outcome {
        let result: Result<Outcome, ToolError> = await withTaskGroup(of: Finished.self) { group in
            var underWay = UnderWay()
            var outcome = Outcome()
            var problem: ToolError?
            do throws(ToolError) {
                try await feed(input, format, &outcome, &underWay, &group)
            } catch {
                problem = error
            }
            for await finished in group { underWay.take(finished) }
            if let failure = underWay.failure {
                let cause = ToolError(failure.error)
                return .failure(
                    ToolError(
                        cause.status,
                        "\(input.name), line \(failure.line), key \(HumanText.quoted(failure.key)): "
                            + "\(cause.message); all lines before "
                            + "it are written, \(HumanText.count(Int(meter.records), "record")) in all"))
            }
            if let problem { return .failure(problem) }
            outcome.repeated = underWay.repeated
            return .success(outcome)
        }
        return try result.get()
    }

    /// What an interrupted import writes again is what was under way, and less than so many lines.
    private static let linesPerMark = 64

    private enum Read {
        case record(key: Bytes, value: Bytes)
        /// An earlier run wrote it.
        case before
    }

    private func feed(
        _ input: InputFile, _ format: RecordFormat, _ outcome: inout Outcome, _ underWay: inout UnderWay,
        _ group: inout TaskGroup<Finished>
    ) async throws(ToolError) {
        var splitter = LineSplitter()
        var read: UInt64 = 0
        var isAtEnd = false
        let before = note?.before ?? ImportNote.Mark()
        // With the line that is looked at, and without.
        var mark = ImportNote.Mark()
        var begun = mark
        defer { if begun.line > before.line { note?.add(begun) } }
        if before.line > 0 { meter.set(notes: "looking through what is written") }
        while !isAtEnd {
            let piece: [UInt8]
            do {
                piece = try await input.next()
            } catch {
                throw ToolError(error)
            }
            isAtEnd = piece.isEmpty
            read += UInt64(piece.count)
            splitter.append(piece)
            while true {
                let number = splitter.lines + 1
                let found: Read?
                do throws(MalformedLine) {
                    func take(_ line: UnsafeRawBufferPointer) throws(MalformedLine) -> Read {
                        if note != nil { mark.take(line) }
                        if number <= before.line { return .before }
                        let record = try format.decode(line)
                        return .record(key: record.key, value: record.value)
                    }
                    found = try isAtEnd ? splitter.last(take) : splitter.next(take)
                } catch {
                    if splitter.wasLong { mark.takeLongLine() }
                    guard number > before.line else {
                        splitter.passOver()
                        try pass(number, &mark, of: input)
                        begun = mark
                        continue
                    }
                    guard skipsBadLines else {
                        throw ToolError(
                            .badData,
                            "\(input.name), line \(number): \(error); the lines before it are written, this one and "
                                + "those behind it are not")
                    }
                    splitter.passOver()
                    outcome.bad.add(number, error)
                    mark.line = number
                    mark.skipped += 1
                    position.pass(number, skipped: mark.skipped)
                    begun = mark
                    continue
                }
                guard case .record(let key, let value) = found else {
                    guard found != nil else { break }
                    try pass(number, &mark, of: input)
                    begun = mark
                    continue
                }
                let bytes = key.count + value.count
                while underWay.lines.count >= window || underWay.bytes + bytes > Self.windowBytesMax
                    || underWay.keys.contains(key)
                {
                    guard let finished = await group.next() else { break }
                    underWay.take(finished)
                }
                if underWay.failure != nil { return }
                mark.line = number
                mark.records += 1
                mark.bytes += UInt64(bytes)
                mark.digest.add(key: key, value: value)
                underWay.keys.insert(key)
                underWay.lines.insert(number)
                position.begin(number)
                underWay.bytes += bytes
                group.addTask { await put(number, key, value) }
                begun = mark
                if number % Self.linesPerMark == 0 {
                    note?.add(mark)
                    note?.saveIfDue { position.certain }
                }
            }
            meter.set(done: read)
            if begun.line > before.line { note?.add(begun) }
            note?.saveIfDue { position.certain }
            if underWay.repeated > 0 { meter.set(notes: "\(underWay.repeated) repeated") }
        }
        if mark.line < before.line { try note?.check(mark, of: input.name) }
        outcome.all = mark
    }

    /// A line that an earlier run wrote. With the last of them it must be the same input.
    private func pass(_ line: Int, _ mark: inout ImportNote.Mark, of input: InputFile) throws(ToolError) {
        mark.line = line
        guard let note, line == note.before.line else { return }
        try note.check(mark, of: input.name)
        mark = note.before
        position.pass(line, skipped: mark.skipped)
        meter.set(notes: "")
    }

    private func put(_ line: Int, _ key: Bytes, _ value: Bytes) async -> Finished {
        var finished = Finished(line: line, key: key, bytes: key.count + value.count, repeated: 0)
        let clock = ContinuousClock()
        let end = clock.now + timeout
        while true {
            let left = clock.now.duration(to: end)
            do throws(BifrostError) {
                try await cluster.kv.put(key, value, timeout: min(left, Self.attempt))
                finished.failure = nil
                // At once: the reading task may wait for input until somebody ends it and wants to know.
                meter.add(records: 1, bytes: finished.bytes)
                position.written(line)
                return finished
            } catch {
                finished.failure = error
                let isWorthIt = error.mayHaveHappened || error.isRetrySafe
                guard isWorthIt, clock.now < end else { return finished }
                if error.mayHaveHappened { finished.repeated += 1 }
                if error.code == .overloaded { try? await Task.sleep(for: error.retryAfter ?? .milliseconds(20)) }
            }
        }
    }
}
