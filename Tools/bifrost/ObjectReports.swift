// What the commands about data types have in common: their arguments, and what they print.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import StateMachines

/// A value on the command line, or from standard input.
struct ValueArgument: ParsableArguments {
    @Argument(help: "The value; - reads it from standard input, as it is, unless it stands behind --.")
    var value: String

    func bytes() throws -> Bytes {
        let isFromInput = value == "-" && !RawArguments.endLiterally(RawArguments.ofProcess)
        return isFromInput
            ? try InputFile.standard.readAll(bytesMax: ObjectLimits.valueBytesMax) : RawArguments.bytes(of: value)
    }
}

struct TimeToLiveOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "It is gone so long afterwards, as its group counts time, and no earlier, unless it is set again. (default: it stays)",
            valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var ttl: TimeSpan?
}

/// What is printed of a command or query: as JSON all of it, as text one line or none.
struct ObjectReport: Encodable {
    struct Found: Encodable {
        var value: String?
        var valueBase64: String?
        var revision: UInt64?
    }
    struct Element: Encodable {
        var element: String?
        var elementBase64: String?
        var isTrue: Bool
    }
    /// At which it took effect, or of the group when it was looked at.
    var revision: UInt64?
    var found: Bool?
    var value: String?
    var valueBase64: String?
    var previous: Found?
    var number: Double?
    var integer: Int64?
    var count: Int?
    var elements: [Element]?

    init() {}
    init(revision: Revision) { self.revision = revision.rawValue }

    init(found: Bool) { self.found = found }

    init(count: Int) { self.count = count }

    /// What there is.
    init(_ found: Versioned<Bytes>?) {
        self.found = found != nil
        revision = found?.revision.rawValue
        if let found { (value, valueBase64) = found.value.forJSON }
    }

    /// What there was.
    init(previous: Versioned<Bytes>?) {
        found = previous != nil
        self.previous = previous?.reported
    }

    init(number: Numeral) {
        switch number {
        case .integer(let value): integer = value
        case .double(let value): self.number = value
        }
    }

    init(elements: [Bytes], _ answers: [Bool]) {
        self.elements = zip(elements, answers).map { element, answer in
            let (text, base64) = element.forJSON
            return Element(element: text, elementBase64: base64, isTrue: answer)
        }
    }

    func print(_ options: ClientOptions, text: String?) throws {
        if options.common.json { return try Output.json(self) }
        if let text { try Output.line(text) }
    }

    /// How many, and nothing else.
    static func print(count: Int, _ options: ClientOptions) throws {
        try ObjectReport(count: count).print(options, text: "\(count)")
    }

    /// Of what is done or not: in text a word where it was done; else exit code 1, and why.
    func end(_ isDone: Bool, _ options: ClientOptions, yes: String, no: @autoclosure () -> String) throws {
        try print(options, text: isDone ? yes : nil)
        if !isDone { throw ToolError(.negative, no()) }
    }

    /// The end of a command that looks for something, and finds nothing.
    static func endEmpty(_ options: ClientOptions, _ message: String) throws -> Never {
        if options.common.json { try Output.json(ObjectReport(found: false)) }
        throw ToolError(.negative, message)
    }

    /// - Parameter value: as it is.
    func print(_ options: ClientOptions, value: Bytes?) throws {
        if options.common.json { return try Output.json(self) }
        if let value { try Output.value(value) }
    }
}

/// Of barriers and latches: a round that is over.
struct RoundReport: Encodable {
    var round: UInt64

    func print(_ options: ClientOptions) throws {
        if options.common.json { return try Output.json(self) }
        try Output.line("\(round)")
    }
}

extension Versioned where Value == Bytes {
    var reported: ObjectReport.Found {
        let (text, base64) = value.forJSON
        return ObjectReport.Found(value: text, valueBase64: base64, revision: revision.rawValue)
    }
}

extension Numeral {
    var asText: String {
        switch self {
        case .integer(let value): "\(value)"
        case .double(let value): "\(value)"
        }
    }
}

/// An integer of 64 bits, or a number with a point or an exponent.
struct NumeralArgument: ExpressibleByArgument {
    var numeral: Numeral

    init?(argument: String) {
        let isInteger = argument.utf8.allSatisfy { (48...57).contains($0) || $0 == 43 || $0 == 45 }
        let isDecimal = argument.utf8.allSatisfy { (48...57).contains($0) || "+-.eE".utf8.contains($0) }
        if let integer = Int64(argument) {
            numeral = .integer(integer)
        } else if isDecimal, !isInteger, let double = Double(argument), double.isFinite {
            numeral = .double(double)
        } else {
            return nil
        }
    }
}

/// Prints what a watch tells, until it ends.
struct ObjectWatchPrinter {
    private struct Line: Encodable {
        var change: String
        var element: String?
        var elementBase64: String?
        var value: String?
        var valueBase64: String?
        var revision: UInt64
        var resume: UInt64?
    }

    let options: ClientOptions
    let watch: WatchOptions
    let hasElements: Bool

    func run<Value: Message>(
        _ changes: ObjectWatch<Value>, _ bytes: (Value) -> Bytes?
    ) async throws {
        var left = watch.limit ?? .max
        var position = watch.after.map { Revision($0) }
        let reader = OutputReader()
        defer { reader.end() }
        do throws(BifrostError) {
            for try await change in changes {
                position = change.resume ?? position
                guard change.kind != .progress || options.common.json else { continue }
                do { try print(change, change.value.flatMap(bytes)) } catch {
                    throw BifrostError(.closed, "", cause: error)
                }
                if ![.ready, .present, .progress].contains(change.kind) { left -= 1 }
                if left == 0 { break }
            }
        } catch {
            throw error.cause as? ToolError ?? error.ofWatch(at: position)
        }
    }

    private func print<Value: Message>(_ change: ObjectChange<Value>, _ value: Bytes?) throws {
        if options.common.json {
            var line = Line(
                change: change.kind.rawValue, revision: change.revision.rawValue, resume: change.resume.map(\.rawValue))
            let isOfElement = ![.ready, .progress, .cleared].contains(change.kind)
            if hasElements, isOfElement { (line.element, line.elementBase64) = change.element.forJSON }
            if let value { (line.value, line.valueBase64) = value.forJSON }
            return try Output.jsonLine(line)
        }
        var fields = [Bytes(change.kind.rawValue)]
        if hasElements, ![.ready, .cleared].contains(change.kind) { fields.append(change.element) }
        if let value { fields.append(value) }
        try Output.write(RecordFormat.line(fields))
    }
}

extension WatchOptions {
    func start(now: Bool) throws -> WatchStart {
        guard !now || after == nil else {
            throw ToolError(.usage, "--now and --after are two beginnings: leave one of them out")
        }
        return now ? .now : after.map { .after(Revision($0)) } ?? .snapshot
    }
}
