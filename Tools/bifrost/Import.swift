// `bifrost import`: a file of records into the cluster, many at a time.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC
import Synchronization

extension RecordFormat: ExpressibleByArgument {}

struct Import: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes the records of a file, one per line.",
        discussion: """
            FORMATS: tsv is KEY, a tab, VALUE. Within a key or a value a tab is written \\t, a line feed \\n, a \
            carriage return \\r, a zero byte \\0, a backslash \\\\; all other bytes stand for themselves. ucd takes \
            lines of the Unicode Character Database as they are: the key is what stands before the first semicolon, \
            the value is the rest.

            Many puts are under way at a time. One whose outcome is unknown, as when a host dies, is repeated until \
            it is certain, which is safe because the same put twice is the same as once. A key that stands in several \
            lines gets the value of the last one.

            A malformed line ends the import with exit code 65 and its number; all lines before it are written. If \
            the cluster does not take a record within --timeout, the error names the first line that is not certainly \
            written: go on from there, or begin again, which does no harm. Ended by SIGINT or SIGTERM, it says how far \
            it came, with --json also as an object, and ends with 130 or 143. The digest in the result does not \
            depend on the order: an export of the same records has the same one.

            EXAMPLES:
              bifrost import users.tsv
              bifrost import --format ucd /usr/share/unicode/UnicodeData.txt
              zcat big.tsv.gz | bifrost import --progress -
              bifrost import --check users.tsv
            """)

    @Argument(help: ArgumentHelp("The file; - is standard input.", valueName: "file"))
    var file: String

    @Option(help: "How records stand on lines.")
    var format = RecordFormat.tsv

    @Option(help: ArgumentHelp("Puts under way at a time, 1 to 65536.", valueName: "count"))
    var window = 1_024

    @Flag(help: "Only look at the lines: write nothing, and name the first malformed ones.")
    var check = false

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var options: ClientOptions

    /// Time for one record, if the command line says nothing: enough for a host to die and its groups to elect others.
    private static let timeout = Duration.seconds(60)
    private static let malformedShownMax = 10

    private struct Report: Encodable {
        var records: UInt64
        var bytes: UInt64
        var seconds: Double
        var recordsPerSecond: Double
        var repeated: Int
        var digest: String
    }

    private struct InterruptedReport: Encodable {
        /// Puts that were acknowledged.
        var records: UInt64
        /// All lines up to here are certainly written; 0: none is.
        var certainLine: Int
        var signal: String
    }

    private struct CheckReport: Encodable {
        struct Line: Encodable {
            var line: Int
            /// What was expected, and what came.
            var problem: String
        }
        var lines: Int
        var malformed: Int
        /// Some of the malformed ones.
        var first: [Line]
    }

    func validate() throws {
        guard (1...65_536).contains(window) else { throw ValidationError("--window is 1 to 65536, not \(window)") }
    }

    func run() async throws {
        let input = try InputFile(opening: file)
        defer { input.close() }
        if check { return try await lookThrough(input) }
        let cluster = try await options.cluster(timeout: Self.timeout)
        let meter = ProgressMeter(verb: "import", total: input.bytes, isShown: progress.isShown)
        let position = ImportPosition()
        let isJSON = options.common.json
        let interruption = Interruption { number in
            if Output.isErrorTerminal { Output.error("\n") }
            Output.note(position.report(records: meter.records, of: input.name))
            if isJSON {
                try? Output.json(
                    InterruptedReport(
                        records: meter.records, certainLine: position.certain,
                        signal: number == SIGINT ? "SIGINT" : "SIGTERM"))
            }
            _exit((number == SIGINT ? ExitStatus.interrupted : .terminated).rawValue)
        }
        let pipeline = PutPipeline(
            cluster: cluster, window: window, timeout: options.timeout?.duration ?? Self.timeout, meter: meter,
            position: position)
        var digest = LinesDigest()
        let outcome: Result<Int, ToolError>
        do throws(ToolError) {
            outcome = .success(
                try await pipeline.run(input, format) { key, value in digest.add(key: key, value: value) })
        } catch {
            outcome = .failure(error)
        }
        meter.finish()
        await cluster.close()
        interruption.end()
        let repeated = try outcome.get()
        let seconds = meter.elapsedSeconds
        let rate = Double(meter.records) / max(seconds, 1e-6)
        do throws(ToolError) {
            try report(meter, seconds, rate, repeated, digest)
        } catch {
            throw error.after("all \(HumanText.count(Int(meter.records), "record")) are written")
        }
    }

    private func report(
        _ meter: ProgressMeter, _ seconds: Double, _ rate: Double, _ repeated: Int, _ digest: LinesDigest
    )
        throws(ToolError)
    {
        if options.common.json {
            return try Output.json(
                Report(
                    records: meter.records, bytes: meter.bytes, seconds: seconds, recordsPerSecond: rate.rounded(),
                    repeated: repeated, digest: digest.description))
        }
        let repeats = repeated == 0 ? "" : ", \(repeated) repeated because their outcome was unknown"
        try Output.line(
            "imported \(HumanText.count(Int(meter.records), "record")) (\(HumanText.bytes(meter.bytes))) in "
                + "\(HumanText.fixed(seconds, 2)) s, \(HumanText.grouped(UInt64(rate)))/s\(repeats), digest \(digest)")
    }

    private func lookThrough(_ input: InputFile) async throws {
        var splitter = LineSplitter()
        var malformed: [CheckReport.Line] = []
        var count = 0
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
                    count += 1
                    if malformed.count < Self.malformedShownMax {
                        malformed.append(CheckReport.Line(line: splitter.lines, problem: error.description))
                    }
                    // Where a line ends that is too long for the buffer is not looked for.
                    if splitter.isStuck { isAtEnd = true; break }
                }
            }
        }
        for line in malformed { Output.note("\(input.name), line \(line.line): \(line.problem)") }
        if options.common.json {
            try Output.json(CheckReport(lines: splitter.lines, malformed: count, first: malformed))
        }
        guard count == 0 else {
            throw ToolError(
                .badData, "\(HumanText.count(count, "malformed line")) of \(splitter.lines); nothing was written")
        }
        if options.common.json { return }
        try Output.line("\(HumanText.count(splitter.lines, "line")), all well-formed; nothing was written")
    }
}

/// How far an import is, for who ends it. Any thread may ask.
package final class ImportPosition: Sendable {
    private struct State {
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

    package func written(_ line: Int) { state.withLock { _ = $0.open.remove(line) } }

    /// All lines up to here are certainly written; 0: none is.
    package var certain: Int { state.withLock { $0.open.min().map { $0 - 1 } ?? $0.last } }

    /// - Parameter records: how many puts were acknowledged.
    package func report(records: UInt64, of name: String) -> String {
        let line = certain
        let lines = line == 0 ? "no line is certainly written" : "all lines up to \(line) are written"
        return "import interrupted: \(HumanText.count(Int(clamping: records), "record")) acknowledged; of \(name) "
            + "\(lines), later ones may be: go on from line \(line + 1) (tail -n +\(line + 1)), or begin again, which "
            + "does no harm"
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

    /// Writes all records; returns how many puts were repeated.
    /// - Parameter see: called with each record before it is put, in the order of the lines.
    func run(
        _ input: InputFile, _ format: RecordFormat, see: (Bytes, Bytes) -> Void
    ) async throws(ToolError) -> Int {
        let result: Result<Int, ToolError> = await withTaskGroup(of: Finished.self) { group in
            var underWay = UnderWay()
            var problem: ToolError?
            do throws(ToolError) {
                try await feed(input, format, see: see, &underWay, &group)
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
            return .success(underWay.repeated)
        }
        return try result.get()
    }

    private func feed(
        _ input: InputFile, _ format: RecordFormat, see: (Bytes, Bytes) -> Void, _ underWay: inout UnderWay,
        _ group: inout TaskGroup<Finished>
    ) async throws(ToolError) {
        var splitter = LineSplitter()
        var read: UInt64 = 0
        var isAtEnd = false
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
                let record: (key: Bytes, value: Bytes)?
                do throws(MalformedLine) {
                    record =
                        try isAtEnd
                        ? splitter.last { (line) throws(MalformedLine) in try format.decode(line) }
                        : splitter.next { (line) throws(MalformedLine) in try format.decode(line) }
                } catch {
                    throw ToolError(
                        .badData,
                        "\(input.name), line \(splitter.lines): \(error); the lines before it are written, "
                            + "this one and "
                            + "those behind it are not")
                }
                guard let record else { break }
                let bytes = record.key.count + record.value.count
                while underWay.lines.count >= window || underWay.bytes + bytes > Self.windowBytesMax
                    || underWay.keys.contains(record.key)
                {
                    guard let finished = await group.next() else { break }
                    underWay.take(finished)
                }
                if underWay.failure != nil { return }
                see(record.key, record.value)
                let line = splitter.lines
                underWay.keys.insert(record.key)
                underWay.lines.insert(line)
                position.begin(line)
                underWay.bytes += bytes
                group.addTask { await put(line, record.key, record.value) }
            }
            meter.set(done: read)
            if underWay.repeated > 0 { meter.set(notes: "\(underWay.repeated) repeated") }
        }
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
