// One line of a history: what a client did to a key, when, and what came of it. Owns the JSON of it, as
// Documentation/Histories.md describes it; refuses to know files.

public import Primitives

/// An operation on one key of a key-value store.
public struct HistoryRecord: Hashable, Sendable {
    public enum Outcome: Hashable, Sendable {
        case ok(RegisterOutput<Bytes>)
        /// It may take effect at any time after its call, or never.
        case unknown
        /// Certainly without effect, then and later.
        case failed
    }

    public var client: UInt64
    public var key: Bytes
    public var input: RegisterInput<Bytes>
    public var outcome: Outcome
    /// Nanoseconds of one clock for all clients.
    public var call: UInt64
    /// When the caller was told; nil if it never was. Of an operation of unknown outcome this is when it gave up, which
    /// bounds nothing.
    public var end: UInt64?

    public init(
        client: UInt64, key: Bytes, input: RegisterInput<Bytes>, outcome: Outcome, call: UInt64, end: UInt64?
    ) {
        self.client = client
        self.key = key
        self.input = input
        self.outcome = outcome
        self.call = call
        self.end = end
    }
}

/// Why a line of a history can't be read: what was expected, what came.
public struct HistoryError: Error, Hashable, CustomStringConvertible {
    /// From 1 on.
    public var line: Int
    public var problem: String
    public var description: String { "line \(line): \(problem)" }
}

/// What is wrong with a line, before its number is known.
struct LineProblem: Error {
    var text: String
    init(_ text: String) { self.text = text }
}

// MARK: - Writing

extension HistoryRecord {
    /// One line of JSON, with its line break.
    public func line() -> [UInt8] {
        var object = JSONLineWriter()
        object.add("client", client)
        object.add("key", key)
        object.add("op", name)
        switch input {
        case .put(let value): object.add("value", value)
        case .get, .delete: break
        case .compareAndSet(let condition, let value):
            switch condition {
            case .value(let expected): object.add("expected", expected)
            case .revision(let revision): object.add("expectedRevision", revision)
            }
            object.add("value", value)
        }
        object.add("call", call)
        if let end { object.add("return", end) }
        switch outcome {
        case .unknown: object.add("outcome", "unknown")
        case .failed: object.add("outcome", "failed")
        case .ok(let output):
            object.add("outcome", "ok")
            switch output {
            case .changed(let revision):
                if isCompareAndSet { object.add("swapped", true) }
                if let revision { object.add("revision", revision) }
            case .found(let value, let revision):
                object.add("value", value)
                if let revision { object.add("revision", revision) }
            case .conditionFailed: object.add("swapped", false)
            }
        }
        return object.finish()
    }

    private var isCompareAndSet: Bool {
        if case .compareAndSet = input { true } else { false }
    }

    private var name: String {
        switch input {
        case .put: "put"
        case .get: "get"
        case .delete: "delete"
        case .compareAndSet: "cas"
        }
    }
}

// MARK: - Reading

extension HistoryRecord {
    init(line: [UInt8]) throws(LineProblem) {
        let fields = try JSONLineFields(line)
        client = try fields.number("client")
        key = try fields.bytes("key")
        call = try fields.number("call")
        end = try fields.optionalNumber("return")
        if let end, end < call {
            throw LineProblem("expected a \"return\" at or after the \"call\" at \(call), found \(end)")
        }
        let name = try fields.text("op")
        let outcome = try fields.text("outcome")
        guard ["ok", "unknown", "failed"].contains(outcome) else {
            throw LineProblem("expected the outcome ok, unknown or failed, found \"\(outcome)\"")
        }
        let isOK = outcome == "ok"
        if isOK, end == nil { throw LineProblem("an operation with outcome ok needs its time of \"return\"") }
        let revision = try fields.optionalNumber("revision")
        var output = RegisterOutput<Bytes>.changed(revision: revision)
        switch name {
        case "put": input = .put(try fields.bytes("value"))
        case "delete": input = .delete
        case "get":
            input = .get
            if isOK {
                let value = try fields.optionalBytes("value")
                if value == nil, revision != nil {
                    throw LineProblem("an absent key has no revision, found \"revision\" beside no value")
                }
                output = .found(value, revision: revision)
            }
        case "cas":
            let condition: RegisterInput<Bytes>.Condition
            switch (fields.has("expected"), fields.has("expectedRevision")) {
            case (true, false): condition = .value(try fields.optionalBytes("expected"))
            case (false, true): condition = .revision(try fields.number("expectedRevision"))
            default: throw LineProblem("a cas needs either \"expected\" or \"expectedRevision\"")
            }
            guard fields.has("value") else { throw LineProblem("a cas needs its new \"value\", or null to delete") }
            input = .compareAndSet(condition, to: try fields.optionalBytes("value"))
            if isOK, try !fields.bool("swapped") { output = .conditionFailed }
        default: throw LineProblem("expected the op put, get, delete or cas, found \"\(name)\"")
        }
        self.outcome = isOK ? .ok(output) : outcome == "unknown" ? .unknown : .failed
    }
}
