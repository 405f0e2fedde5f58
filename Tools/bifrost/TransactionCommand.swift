// `bifrost txn`: conditions on keys of one slot, and what is done if they hold or if they do not.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import StateMachines

struct Transaction: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "txn",
        abstract: "Changes keys if conditions hold, all or nothing.",
        discussion: """
            Reads a JSON object: "if" has conditions, "then" what is done if all of them hold, "else" what is done \
            otherwise; each may be left out. All keys lie in one slot: give keys that belong together the same part \
            in {…}. At most \(KeyValueTransaction.partsMax) conditions and operations, and 1 MiB of keys and values. \
            All of it takes effect at one revision, and no other write comes between.

            A condition names a key and a test: absent, present; revision, olderThan, newerThan with "revision"; \
            value, otherThan with "value". An operation is put with "value", delete or get. A put with "ttl", such as \
            "90s", lets the key end by itself, as put --ttl does. What is no text goes into "keyBase64" and \
            "valueBase64".

            Exit code 0: the conditions held. 1: they did not. 2: the outcome is unknown.

            EXAMPLES:
              bifrost txn transfer.json
              echo '{"if": [{"key": "{a}x", "test": "absent"}],
                     "then": [{"op": "put", "key": "{a}x", "value": "1", "ttl": "90s"},
                              {"op": "put", "key": "{a}y", "value": "2"}],
                     "else": [{"op": "get", "key": "{a}x"}]}' | bifrost txn -
            """)

    @Argument(help: "The file; - reads standard input.", completion: .file())
    var file: String

    @OptionGroup var fence: GuardOptions
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Reading: Encodable {
            var key: String?
            var keyBase64: String?
            var value: String?
            var valueBase64: String?
            var revision: UInt64?
            var found: Bool
        }
        var held: Bool
        var revision: UInt64
        var readings: [Reading]
    }

    /// What a file may have: base 64 and the names around keys and values take their room too.
    private static let fileBytesMax = 8 << 20

    func run() async throws {
        let input = try InputFile(opening: file)
        let text = try input.readAll(bytesMax: Self.fileBytesMax)
        let transaction = try TransactionFile.transaction(in: Data(text.array), named: input.name)
        if let problem = transaction.problem() { throw ToolError(.badData, "\(input.name): \(problem)") }
        let cluster = try await options.cluster(guardedBy: fence.token)
        let result = try await cluster.kv.transaction(
            if: transaction.conditions, then: transaction.then, otherwise: transaction.otherwise)
        await cluster.close()
        var keys: [Bytes] = []
        for case .get(let key) in result.holds ? transaction.then : transaction.otherwise { keys.append(key) }
        do {
            try print(result, zip(keys, result.readings))
        } catch let error as ToolError {
            throw error.after("the transaction was carried out at revision \(result.revision)")
        }
        if !result.holds { throw ToolError(.negative, "a condition does not hold: \"else\" was done") }
    }

    private func print(_ result: TransactionResult, _ readings: some Sequence<(Bytes, KeyValueReading)>) throws {
        guard !options.common.json else {
            let readings = readings.map { key, reading in
                var report = Report.Reading(found: false)
                (report.key, report.keyBase64) = key.forJSON
                if case .found(let value, let revision, _) = reading {
                    (report.value, report.valueBase64) = value.forJSON
                    report.revision = revision.rawValue
                    report.found = true
                }
                return report
            }
            return try Output.json(
                Report(held: result.holds, revision: result.revision.rawValue, readings: readings))
        }
        try Output.line("revision \(result.revision)")
        for (key, reading) in readings {
            switch reading {
            case .absent: try Output.line("\(key.shown) has no value")
            case .found(let value, let revision, _):
                try Output.line("\(key.shown) = \(value.shown), revision \(revision)")
            }
        }
    }
}

extension Bytes {
    /// For a line of text: itself, or what it is in base 64.
    fileprivate var shown: String {
        let (text, base64) = forJSON
        return text ?? base64.map { "base 64 \($0)" } ?? ""
    }
}

/// A transaction as a JSON file has it.
enum TransactionFile {
    private struct Whole: Decodable {
        var conditions: [Condition]?
        var then: [Operation]?
        var otherwise: [Operation]?
        enum CodingKeys: String, CodingKey, CaseIterable {
            case conditions = "if"
            case then
            case otherwise = "else"
        }
    }

    private struct Condition: Decodable {
        var key: String?
        var keyBase64: String?
        var test: String
        var revision: UInt64?
        var value: String?
        var valueBase64: String?
    }

    private struct Operation: Decodable {
        var op: String
        var key: String?
        var keyBase64: String?
        var value: String?
        var valueBase64: String?
        var ttl: String?
    }

    private static let fields: [String: Set<String>] = [
        "if": ["key", "keyBase64", "test", "revision", "value", "valueBase64"],
        "then": ["op", "key", "keyBase64", "value", "valueBase64", "ttl"],
        "else": ["op", "key", "keyBase64", "value", "valueBase64", "ttl"],
    ]

    static func transaction(in data: Data, named name: String) throws(ToolError) -> KeyValueTransaction {
        do {
            try checkNames(in: data)
            let whole = try JSONDecoder().decode(Whole.self, from: data)
            return KeyValueTransaction(
                if: try (whole.conditions ?? []).enumerated().map {
                    try condition($0.element, "\"if\", \($0.offset + 1)")
                },
                then: try (whole.then ?? []).enumerated().map {
                    try operation($0.element, "\"then\", \($0.offset + 1)")
                },
                otherwise: try (whole.otherwise ?? []).enumerated().map {
                    try operation($0.element, "\"else\", \($0.offset + 1)")
                })
        } catch let error as ToolError {
            throw ToolError(error.status, "\(name): \(error.message)")
        } catch let error as DecodingError {
            throw ToolError(.badData, "\(name): \(describe(error))")
        } catch {
            throw ToolError(.badData, "\(name): \(error)")
        }
    }

    /// A name that is misspelled must not pass for one that was left out.
    private static func checkNames(in data: Data) throws {
        let object: Any
        do {
            object = try JSONSerialization.jsonObject(with: data)
        } catch {
            let what = (error as NSError).userInfo["NSDebugDescription"].map { ": \($0)" } ?? ""
            throw ToolError(.badData, "this is no JSON\(what)")
        }
        guard let whole = object as? [String: Any] else {
            throw ToolError(.badData, "expected a JSON object with \"if\", \"then\" and \"else\"")
        }
        for (part, parts) in whole.sorted(by: { $0.key < $1.key }) {
            guard let known = fields[part] else {
                throw ToolError(.badData, "expected \"if\", \"then\" and \"else\", found \"\(part)\"")
            }
            for (place, fields) in ((parts as? [[String: Any]]) ?? []).enumerated() {
                for field in fields.keys.sorted() where !known.contains(field) {
                    throw ToolError(
                        .badData,
                        "\"\(part)\", \(place + 1): expected \(known.sorted().joined(separator: ", ")), found \"\(field)\""
                    )
                }
            }
        }
    }

    private static func describe(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, let context):
            "\(place(context)): \"\(key.stringValue)\" is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            "\(place(context)): \(context.debugDescription)"
        case .dataCorrupted(let context): "this is no JSON: \(context.debugDescription)"
        @unknown default: "\(error)"
        }
    }

    private static func place(_ context: DecodingError.Context) -> String {
        context.codingPath.map { $0.intValue.map { "\($0 + 1)" } ?? "\"\($0.stringValue)\"" }.joined(separator: ", ")
    }

    private static func bytes(_ text: String?, _ base64: String?, _ what: String, _ place: String) throws -> Bytes {
        switch (text, base64) {
        case (let text?, nil): return Bytes(text)
        case (nil, let base64?):
            guard let data = Data(base64Encoded: base64) else {
                throw ToolError(.badData, "\(place): \"\(what)Base64\" is no base 64")
            }
            return Bytes([UInt8](data))
        case (nil, nil): throw ToolError(.badData, "\(place): \"\(what)\" is missing")
        case (_?, _?): throw ToolError(.badData, "\(place): one of \"\(what)\" and \"\(what)Base64\"")
        }
    }

    /// 0: for ever.
    private static func timeToLiveMillis(_ text: String?, _ place: String) throws -> UInt64 {
        guard let text else { return 0 }
        do { return try TimeSpan(parsing: text).duration.timeToLiveMillis } catch let error as ValidationError {
            throw ToolError(.badData, "\(place): \"ttl\": \(error.message), found \"\(text)\"")
        }
    }

    private static func condition(
        _ condition: Condition, _ place: String
    ) throws -> KeyValueTransaction.Condition {
        let key = try bytes(condition.key, condition.keyBase64, "key", place)
        let hasValue = condition.value != nil || condition.valueBase64 != nil
        func revision() throws -> Revision {
            guard let revision = condition.revision, !hasValue else {
                throw ToolError(.badData, "\(place): \"\(condition.test)\" goes with \"revision\", and no value")
            }
            return Revision(revision)
        }
        func value() throws -> Bytes {
            guard condition.revision == nil else {
                throw ToolError(.badData, "\(place): \"\(condition.test)\" goes with \"value\", and no revision")
            }
            return try bytes(condition.value, condition.valueBase64, "value", place)
        }
        let test: KeyValueTransaction.Condition.Test
        switch condition.test {
        case "absent", "present":
            guard condition.revision == nil, !hasValue else {
                throw ToolError(.badData, "\(place): \"\(condition.test)\" goes with neither revision nor value")
            }
            test = condition.test == "absent" ? .absent : .present
        case "revision": test = .revision(try revision())
        case "olderThan": test = .olderThan(try revision())
        case "newerThan": test = .newerThan(try revision())
        case "value": test = .value(try value())
        case "otherThan": test = .otherThan(try value())
        default:
            throw ToolError(
                .badData,
                "\(place): expected the test absent, present, revision, olderThan, newerThan, value or otherThan, found "
                    + "\"\(condition.test)\"")
        }
        return KeyValueTransaction.Condition(key, test)
    }

    private static func operation(
        _ operation: Operation, _ place: String
    ) throws -> KeyValueTransaction.Operation {
        let key = try bytes(operation.key, operation.keyBase64, "key", place)
        if operation.op == "put" {
            return .put(
                key: key, value: try bytes(operation.value, operation.valueBase64, "value", place),
                timeToLiveMillis: try timeToLiveMillis(operation.ttl, place))
        }
        guard operation.op == "delete" || operation.op == "get" else {
            throw ToolError(.badData, "\(place): expected the op put, delete or get, found \"\(operation.op)\"")
        }
        guard operation.value == nil, operation.valueBase64 == nil else {
            throw ToolError(.badData, "\(place): \"\(operation.op)\" has no value")
        }
        guard operation.ttl == nil else {
            throw ToolError(.badData, "\(place): \"ttl\" goes with put, not with \(operation.op)")
        }
        return operation.op == "delete" ? .delete(key: key) : .get(key: key)
    }
}
