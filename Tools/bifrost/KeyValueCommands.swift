// `bifrost put`, `get`, `delete`: commands about one key.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import Ring
import StateMachines

/// A key as an argument.
struct KeyArgument: ExpressibleByArgument {
    var bytes: Bytes

    init?(argument: String) { bytes = RawArguments.bytes(of: argument) }

    /// The same check as the hosts'.
    func check() throws(ToolError) {
        if let problem = KeyValue.problem(ofKeyOf: bytes.count) { throw ToolError(.badData, "\(problem)") }
    }
}

/// What must be true of a key before it is written.
struct ConditionOptions: ParsableArguments {
    @Flag(help: "Only if the key has no value.")
    var ifAbsent = false

    @Flag(help: "Only if the key has a value.")
    var ifPresent = false

    @Option(help: ArgumentHelp("Only if the key got its value at this revision.", valueName: "revision"))
    var ifRevision: UInt64?

    @Option(help: ArgumentHelp("Only if the key has this value.", valueName: "value"))
    var ifValue: String?

    /// Nil: none is asked for.
    var test: KeyValueTransaction.Condition.Test? {
        if ifAbsent { return .absent }
        if ifPresent { return .present }
        if let ifRevision { return .revision(Revision(ifRevision)) }
        return ifValue.map { .value(RawArguments.bytes(of: $0)) }
    }

    func validate() throws {
        let count = [ifAbsent, ifPresent, ifRevision != nil, ifValue != nil].count { $0 }
        guard count <= 1 else {
            throw ValidationError("one of --if-absent, --if-present, --if-revision and --if-value; for more see txn")
        }
    }
}

/// What a write did.
struct WriteReport: Encodable {
    var key: String?
    var keyBase64: String?
    var slot: UInt16
    var group: UInt32?
    var revision: UInt64

    init(_ key: Bytes, _ revision: Revision, _ map: ClusterMap) {
        (self.key, keyBase64) = key.forJSON
        let slot = Ring.slot(of: key)
        self.slot = slot.rawValue
        group = map.owner(of: slot)?.rawValue
        self.revision = revision.rawValue
    }

    /// - Parameter deed: what was done, for who can't be shown it.
    func print(_ options: CommonOptions, _ deed: String) throws(ToolError) {
        do {
            if options.json { return try Output.json(self) }
            try Output.line("revision \(revision)")
        } catch {
            throw error.after("\(deed) at revision \(revision)")
        }
    }
}

extension Bytes {
    /// As text if it is UTF-8, otherwise as base 64: JSON has no other place for bytes.
    var forJSON: (text: String?, base64: String?) {
        let text = withUnsafeBytes { String(validating: $0, as: UTF8.self) }
        return text != nil ? (text, nil) : (nil, Data(array).base64EncodedString())
    }
}

struct Put: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Sets a key's value.",
        discussion: """
            A key has 1 to \(Limits.keyBytesMax) bytes (4 KiB), a value 0 to \(Limits.valueBytesMax) (1 MiB). Keys \
            with the same part in {…} live in the same group. When it returns 0 the value is on the disks of a \
            majority; prints the revision of the key's group. Exit code 2: the outcome is unknown.

            The value - is what standard input has, byte by byte; an empty input is the empty value. Behind -- words \
            mean themselves, and so does -.

            With a condition nothing is written unless it holds (exit code 1), and no other write comes between.

            EXAMPLES:
              bifrost put greeting hello
              bifrost put '{user:7}/photo' - < photo.jpg
              bifrost put --json greeting hello
              bifrost put --if-absent greeting hello
              bifrost put --ttl 90s greeting hello
              bifrost put --if-revision 7 greeting 'good evening'
              bifrost put -- -key-with-a-dash value
              bifrost put key-of-a-dash -- -
            """)

    @Argument(help: "The key.")
    var key: KeyArgument

    @Argument(help: "The value; - reads it from standard input, as it is, unless it stands behind --.")
    var value: String

    @Option(
        help: ArgumentHelp(
            "The key is gone so long afterwards, as its group counts time, and no earlier. The next write to it takes that back, or says another time. (default: it stays)",
            valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var ttl: TimeSpan?

    @OptionGroup var condition: ConditionOptions

    @OptionGroup var fence: GuardOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        try key.check()
        let isFromInput = value == "-" && !RawArguments.endLiterally(RawArguments.ofProcess)
        let bytes =
            isFromInput
            ? try InputFile.standard.readAll(bytesMax: Limits.valueBytesMax) : RawArguments.bytes(of: value)
        if let problem = KeyValue.problem(ofValueOf: bytes.count, timeToLiveMillis: 0) {
            throw ToolError(.badData, "\(problem)")
        }
        let cluster = try await options.cluster(guardedBy: fence.token)
        let revision =
            if let test = condition.test {
                try await cluster.kv.put(key.bytes, bytes, if: test, timeToLive: ttl?.duration)
            } else {
                try await cluster.kv.put(key.bytes, bytes, timeToLive: ttl?.duration)
            }
        try WriteReport(key.bytes, revision, try await cluster.map()).print(options.common, "the value is written")
        await cluster.close()
    }
}

struct Delete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Removes a key, whether or not it has a value.",
        discussion: """
            When it returns 0 the key has no value, on the disks of a majority; prints the revision of the key's \
            group. Exit code 2: the outcome is unknown. With a condition nothing is removed unless it holds (exit \
            code 1), and no write comes between.

            EXAMPLES:
              bifrost delete greeting
              bifrost delete --if-value hello greeting
              bifrost delete --json greeting
            """)

    @Argument(help: "The key.")
    var key: KeyArgument

    @OptionGroup var condition: ConditionOptions

    @OptionGroup var fence: GuardOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        try key.check()
        let cluster = try await options.cluster(guardedBy: fence.token)
        let revision =
            if let test = condition.test {
                try await cluster.kv.delete(key.bytes, if: test)
            } else {
                try await cluster.kv.delete(key.bytes)
            }
        try WriteReport(key.bytes, revision, try await cluster.map()).print(options.common, "the key is deleted")
        await cluster.close()
    }
}

/// How sure a read has to be that no other leader took the place of the one that answers.
enum Freshness: String, CaseIterable, ExpressibleByArgument {
    case linearizable, lease, stale
}

struct ReadOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "linearizable: the leader asks a majority first. lease: as new, and without asking while a majority has promised its votes; relies on clocks that are at most 5 % wrong. stale: from any replica, and nothing is missing that was acknowledged --max-age ago; a replica that has not made sure of its state within that time asks the leader first, and can't answer while there is none."
        ))
    var consistency = Freshness.linearizable

    @Option(
        help: ArgumentHelp(
            "With --consistency stale: how old the answer may be, as in 500ms, 5s.", valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var maxAge: TimeSpan?

    func reading() throws -> ReadConsistency {
        guard (consistency == .stale) == (maxAge != nil) else {
            throw ToolError(
                .usage,
                consistency == .stale
                    ? "--consistency stale needs --max-age: how old the answer may be, as in 500ms"
                    : "--max-age goes with --consistency stale alone")
        }
        return switch consistency {
        case .linearizable: .linearizable
        case .lease: .lease
        case .stale: .stale(max: maxAge?.duration ?? .zero)
        }
    }
}

struct Get: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints a key's value.",
        discussion: """
            Sees every write that was acknowledged before. Writes the value's bytes and nothing else; to a terminal \
            also a line break, if the value has none at its end. Exit code 1: the key has no value.

            EXAMPLES:
              bifrost get greeting
              bifrost get '{user:7}/photo' > photo.jpg
              bifrost get --json greeting
                {"found":true,"key":"greeting","revision":7,"value":"hello"}
              bifrost get --json nothing
                {"found":false,"key":"nothing"}
              bifrost get maybe 2> /dev/null || echo no
              bifrost get --consistency lease greeting
              bifrost get --consistency stale --max-age 500ms greeting
            """)

    @Argument(help: "The key.")
    var key: KeyArgument

    @OptionGroup var read: ReadOptions

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var key: String?
        var keyBase64: String?
        var value: String?
        var valueBase64: String?
        var revision: UInt64?
        var found: Bool
    }

    func run() async throws {
        try key.check()
        let wanted = try read.reading()
        let cluster = try await options.cluster()
        let reading = try await cluster.kv.get(key.bytes, wanted)
        await cluster.close()
        let (keyText, keyBase64) = key.bytes.forJSON
        guard let found = reading else {
            if options.common.json { try Output.json(Report(key: keyText, keyBase64: keyBase64, found: false)) }
            throw ToolError(.negative, "the key \(HumanText.quoted(key.bytes)) has no value")
        }
        if options.common.json {
            let (value, valueBase64) = found.value.forJSON
            return try Output.json(
                Report(
                    key: keyText, keyBase64: keyBase64, value: value, valueBase64: valueBase64,
                    revision: found.revision.rawValue, found: true))
        }
        try Output.value(found.value)
    }
}
