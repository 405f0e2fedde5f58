// `bifrost watch` and `machine watch`: what changes, line by line, until it is ended. Owns the lines; in which order and
// from where is the library's affair.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

/// How a watch begins and ends, for keys and for events.
struct WatchOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Behind this revision: \"resume\" of the last line that was seen. Exit code 1: what was behind it is not kept any more.",
            valueName: "revision"))
    var after: UInt64?

    @Option(help: ArgumentHelp("Ends after so many changes. (default: never)", valueName: "count"))
    var limit: Int?

    func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit is at least 1, not \(limit)") }
    }
}

extension BifrostError {
    /// A watch that can't go on has an exit code of its own.
    ///
    /// - Parameter position: behind which it would have gone on; nil: it was not that far.
    func ofWatch(at position: Revision?) -> any Error {
        guard code == .compacted, let oldest = (cause as? CompactedFailure)?.oldest else { return self }
        guard let position else {
            return ToolError(.negative, "what changed since the watch began is not kept any more: watch again")
        }
        // Hosts have what is behind it, or nothing at all: it is no revision of this group.
        guard position < oldest else {
            return ToolError(
                .negative,
                "the keys' group has not come to revision \(position.rawValue): that is another group's, or of data that "
                    + "are gone; watch without --after")
        }
        return ToolError(
            .negative,
            "changes behind revision \(position.rawValue) are not kept any more, only those behind \(oldest.rawValue): "
                + "watch without --after")
    }
}

struct Watch: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints what becomes of a key, or of all keys of a prefix.",
        discussion: """
            First what is there, then each change, in order, with no gap and no repetition, also when leaders change and \
            hosts end. Goes on until Ctrl-C, or --limit.

            A line is a word, a key and a value, with tabs between, \\t, \\n, \\r, \\0 and \\\\ within: present (it was there), \
            put, deleted, expired, and ready: all that was there is told. With --json one object per line, and now and \
            then "progress", when nothing happened; "resume" of the last one is what --after takes.

            EXAMPLES:
              bifrost watch greeting
              bifrost watch --prefix '{user:7}/'
              bifrost watch --now --limit 1 greeting
              bifrost watch --after 17 --json greeting
                {"change":"put","key":"greeting","resume":18,"revision":18,"value":"hello"}
            """)

    @Argument(help: "The key, or with --prefix what the keys begin with.")
    var key: KeyArgument

    @Flag(help: "All keys that begin with it; there is a whole tag in it, such as {user:7}/.")
    var prefix = false

    @Flag(help: "Not what is there: only what changes from now on.")
    var now = false

    @OptionGroup var watch: WatchOptions

    @OptionGroup var options: ClientOptions

    private struct Line: Encodable {
        var change: String
        var key: String?
        var keyBase64: String?
        var value: String?
        var valueBase64: String?
        var revision: UInt64
        var resume: UInt64?
    }

    func validate() throws {
        guard !now || watch.after == nil else {
            throw ValidationError("--now and --after are two beginnings: leave one of them out")
        }
    }

    func run() async throws {
        try key.check()
        let cluster = try await options.cluster()
        let start: WatchStart = now ? .now : watch.after.map { .after(Revision($0)) } ?? .snapshot
        let changes =
            prefix
            ? cluster.kv.watch(prefix: key.bytes, from: start) : cluster.kv.watch(key.bytes, from: start)
        var left = watch.limit ?? .max
        var position = watch.after.map { Revision($0) }
        let reader = OutputReader()
        defer { reader.end() }
        do throws(BifrostError) {
            for try await change in changes {
                position = change.resume ?? position
                guard let word = word(change.kind) else { continue }
                do { try print(change, word) } catch { throw BifrostError(.closed, "", cause: error) }
                if ![.ready, .present, .progress].contains(change.kind) { left -= 1 }
                if left == 0 { break }
            }
        } catch {
            throw error.cause as? ToolError ?? error.ofWatch(at: position)
        }
        reader.end()
        await cluster.close()
    }

    /// In text a line is something that happened; in JSON also how far it is, for who comes back later.
    private func word(_ kind: KeyValueChange.Kind) -> String? {
        switch kind {
        case .present: "present"
        case .ready: "ready"
        case .put: "put"
        case .deleted: "deleted"
        case .expired: "expired"
        case .progress: options.common.json ? "progress" : nil
        }
    }

    private func print(_ change: KeyValueChange, _ word: String) throws {
        if options.common.json {
            var line = Line(
                change: word, revision: change.revision.rawValue, resume: change.resume.map(\.rawValue))
            if change.kind != .ready, change.kind != .progress { (line.key, line.keyBase64) = change.key.forJSON }
            if change.kind == .put || change.kind == .present { (line.value, line.valueBase64) = change.value.forJSON }
            return try Output.jsonLine(line)
        }
        var line = Array(word.utf8)
        if change.kind != .ready {
            line.append(UInt8(ascii: "\t"))
            try RecordFormat.tsv.encode(key: change.key, value: change.value, into: &line)
        }
        line.append(UInt8(ascii: "\n"))
        try Output.write(Bytes(line))
    }
}

struct MachineWatch: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Prints the events that a state machine emits for a key's tag.",
        discussion: """
            From now on, or behind a revision, until Ctrl-C or --limit. A line is the event's number, its key and its \
            bytes, with tabs between, as 'bifrost watch' has them.

            EXAMPLES:
              bifrost machine watch 1024 '{lamp}'
              bifrost machine watch 1024 '{lamp}' --after 17 --json
            """)

    @Argument(help: "The state machine's number, 1024 to 65535.")
    var machine: UInt16

    @Argument(help: "A key: events of all keys with the same part in braces are told.")
    var key: KeyArgument

    @OptionGroup var watch: WatchOptions

    @OptionGroup var options: ClientOptions

    private struct Line: Encodable {
        var event: UInt16
        var key: String?
        var keyBase64: String?
        var body: String?
        var bodyBase64: String?
        var revision: UInt64
        var resume: UInt64
    }

    func validate() throws {
        guard machine >= SubMachineNumber.firstOfUsers.rawValue else {
            throw ValidationError(
                "users' state machines have numbers from \(SubMachineNumber.firstOfUsers) on, not \(machine)")
        }
    }

    func run() async throws {
        try key.check()
        let cluster = try await options.cluster()
        let events = MachineEventRecords(
            cluster: cluster, machine: SubMachineNumber(machine), key: key.bytes,
            start: watch.after.map { .after(Revision($0)) } ?? .now, patience: nil, number: nil)
        var left = watch.limit ?? .max
        var position = watch.after.map { Revision($0) }
        let reader = OutputReader()
        defer { reader.end() }
        do throws(BifrostError) {
            for try await event in events {
                position = event.resume
                do { try print(event) } catch { throw BifrostError(.closed, "", cause: error) }
                left -= 1
                if left == 0 { break }
            }
        } catch {
            throw error.cause as? ToolError ?? error.ofWatch(at: position)
        }
        reader.end()
        await cluster.close()
    }

    private func print(_ event: MachineEventRecord) throws {
        if options.common.json {
            var line = Line(event: event.number, revision: event.revision.rawValue, resume: event.resume.rawValue)
            (line.key, line.keyBase64) = event.key.forJSON
            (line.body, line.bodyBase64) = event.body.forJSON
            return try Output.jsonLine(line)
        }
        var line = Array("\(event.number)\t".utf8)
        try RecordFormat.tsv.encode(key: event.key, value: event.body, into: &line)
        line.append(UInt8(ascii: "\n"))
        try Output.write(Bytes(line))
    }
}
