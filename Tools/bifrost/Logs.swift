// What a host logs, as lines for people or for programs. Owns how a line looks; who logs what, and when, stands where it
// happens.

import ArgumentParser
import Foundation
package import Logging

/// How lines of the log look.
package enum LogFormat: String, CaseIterable, ExpressibleByArgument, Sendable {
    /// The time, the level, the logger, what belongs to it, the message.
    case text
    /// One JSON object per line.
    case json

    /// From here on everything that is logged in this process goes to standard error like this. Once in a process.
    func bootstrap(_ level: LogLevel) {
        let level = level.level
        LoggingSystem.bootstrap { label in
            var handler: any LogHandler =
                switch self {
                case .text: StreamLogHandler.standardError(label: label)
                case .json: JSONLogHandler(label: label) { Output.error($0) }
                }
            handler.logLevel = level
            return handler
        }
    }

    /// The last words of a process: a line of their own as other commands have it, or one of the log, where all lines
    /// are read by a program.
    func say(_ words: String, logger: Logger) {
        guard !words.isEmpty else { return }
        switch self {
        case .text: Output.note(words)
        case .json: logger.critical("\(words)")
        }
    }
}

/// Writes each event as one JSON object on one line:
///
///     {"level":"warning","logger":"bifrost","message":"…","metadata":{"address":"…"},"source":"RPC","time":"…"}
///
/// The time is UTC, in milliseconds, in the form of RFC 3339. `metadata` and `error` are there if the event has any.
package struct JSONLogHandler: LogHandler {
    package var logLevel = Logger.Level.info
    package var metadata = Logger.Metadata()
    package var metadataProvider: Logger.MetadataProvider?
    private let label: String
    private let write: @Sendable (String) -> Void

    /// - Parameter write: takes a line with its line break, on any thread, and in one piece.
    package init(label: String, write: @escaping @Sendable (String) -> Void) {
        self.label = label
        self.write = write
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var all = metadata
        if let provided = metadataProvider?.get() { all.merge(provided) { _, newer in newer } }
        if let given = event.metadata { all.merge(given) { _, newer in newer } }
        let line = Line(
            level: event.level.rawValue, logger: label, message: event.message.description,
            metadata: all.isEmpty ? nil : all.mapValues(Value.init), error: event.error.map { "\($0)" },
            source: event.source, time: Self.time.format(Date()))
        // What can't be written as JSON is no text: there is none such.
        if let text = try? Output.jsonText(line) { write(text + "\n") }
    }

    private static let time = Date.ISO8601FormatStyle(includingFractionalSeconds: true)

    private struct Line: Encodable {
        var level: String
        var logger: String
        var message: String
        var metadata: [String: Value]?
        var error: String?
        var source: String
        var time: String
    }

    private struct Value: Encodable {
        let value: Logger.Metadata.Value

        init(_ value: Logger.Metadata.Value) { self.value = value }

        func encode(to encoder: any Encoder) throws {
            switch value {
            case .dictionary(let values): try values.mapValues(Value.init).encode(to: encoder)
            case .array(let values): try values.map(Value.init).encode(to: encoder)
            default: try value.description.encode(to: encoder)
            }
        }
    }
}
