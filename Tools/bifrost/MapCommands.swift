// `bifrost map …`: ordered maps.

import ArgumentParser
import Bifrost
import Messages
import Primitives

struct MapCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map", abstract: "Ordered maps: get, put, list, count, clear, watch.",
        discussion: """
            A map has a name, and lies whole in one group. Its keys have up to \(ObjectLimits.elementBytesMax) bytes, and \
            are listed in the order of their bytes.
            """,
        subcommands: [
            Get.self, Put.self, Remove.self, List.self, Count.self, Clear.self, Watch.self,
        ])

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what a key of a map has.", discussion: "Exit code 1: nothing.")

        @Argument(help: "The map's name.") var name: KeyArgument
        @Argument(help: "The key.") var key: KeyArgument
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let found = try await cluster.map(name.bytes, of: Bytes.self).get(key.bytes, wanted)
            await cluster.close()
            try ObjectReport(found).print(options, value: found?.value)
            if found == nil {
                throw ToolError(
                    .negative, "the map \(HumanText.quoted(name.bytes)) has no key \(HumanText.quoted(key.bytes))")
            }
        }
    }

    struct Put: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Gives a key of a map a value; prints the revision at which it took effect.",
            discussion: """
                With a condition on the key nothing is changed unless it holds (exit code 1).

                EXAMPLES:
                  bifrost map put users ada '{"name": "Ada"}'
                  bifrost map put --if-absent --ttl 1h users ada - < ada.json
                """)

        @Argument(help: "The map's name.") var name: KeyArgument
        @Argument(help: "The key.") var key: KeyArgument
        @OptionGroup var value: ValueArgument
        @OptionGroup var condition: ConditionOptions
        @OptionGroup var lifetime: TimeToLiveOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let revision = try await cluster.map(name.bytes, of: Bytes.self).put(
                key.bytes, bytes, if: condition.test, timeToLive: lifetime.ttl?.duration)
            await cluster.close()
            try ObjectReport(revision: revision).print(options, text: "revision \(revision)")
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes a key of a map away; prints what it had.",
            discussion: "Exit code 1: the condition does not hold. A key that is not there is no mistake.")

        @Argument(help: "The map's name.") var name: KeyArgument
        @Argument(help: "The key.") var key: KeyArgument
        @OptionGroup var condition: ConditionOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let previous = try await cluster.map(name.bytes, of: Bytes.self).remove(key.bytes, if: condition.test)
            await cluster.close()
            try ObjectReport(previous: previous).print(options, value: previous?.value)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints a map's entries, in order.",
            discussion: """
                One per line: key, tab, value, as 'bifrost scan' has them; with --json one object per line. Read page by \
                page; each page shows one moment. Exit code 1: there is none.

                EXAMPLES:
                  bifrost map list users
                  bifrost map list --prefix a --limit 10 --json users
                    {"key":"ada","revision":7,"value":"{\\"name\\": \\"Ada\\"}"}
                """)

        @Argument(help: "The map's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("Keys that begin with it.", valueName: "key")) var prefix: KeyArgument?
        @Option(help: ArgumentHelp("From this key on.", valueName: "key")) var from: KeyArgument?
        @Option(help: ArgumentHelp("Before this key.", valueName: "key")) var before: KeyArgument?
        @Option(help: ArgumentHelp("So many at most.", valueName: "count")) var limit: Int?
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        private struct Line: Encodable {
            var key: String?
            var keyBase64: String?
            var value: String?
            var valueBase64: String?
            var revision: UInt64
        }

        func validate() throws {
            if let limit, limit < 1 { throw ValidationError("--limit is at least 1, not \(limit)") }
        }

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let map = cluster.map(name.bytes, of: Bytes.self)
            var left = limit ?? .max
            var next = from?.bytes
            var isAny = false
            while left > 0 {
                let page = try await map.page(
                    prefix: prefix?.bytes ?? Bytes(), from: next, before: before?.bytes, entriesMax: min(left, 1_000),
                    wanted)
                left -= page.entries.count
                if !page.entries.isEmpty { isAny = true }
                try print(page.entries)
                guard page.next != nil else { break }
                next = page.next
            }
            await cluster.close()
            guard isAny else {
                try ObjectReport.endEmpty(
                    options, "the map \(HumanText.quoted(name.bytes)) has no key in this range")
            }
        }

        private func print(_ entries: [ReliableMap<Bytes>.Entry]) throws {
            var lines: [UInt8] = []
            for entry in entries {
                if options.common.json {
                    var line = Line(revision: entry.revision.rawValue)
                    (line.key, line.keyBase64) = entry.key.forJSON
                    (line.value, line.valueBase64) = entry.value.forJSON
                    lines += Array(try Output.jsonText(line).utf8)
                } else {
                    try RecordFormat.tsv.encode(key: entry.key, value: entry.value, into: &lines)
                }
                lines.append(UInt8(ascii: "\n"))
            }
            if !lines.isEmpty { try Output.write(Bytes(lines)) }
        }
    }

    struct Count: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints how many entries a map has.")

        @Argument(help: "The map's name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let count = try await cluster.map(name.bytes, of: Bytes.self).count()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Clear: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes all entries of a map away; prints how many there were.")

        @Argument(help: "The map's name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let count = try await cluster.map(name.bytes, of: Bytes.self).clear()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of a map's entries.",
            discussion: "First what is there, then each change, until Ctrl-C or --limit: word, key, value.")

        @Argument(help: "The map's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("Keys that begin with it.", valueName: "key")) var prefix: KeyArgument?
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            let changes = cluster.map(name.bytes, of: Bytes.self).watch(
                prefix: prefix?.bytes ?? Bytes(), from: start)
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: true).run(changes) { $0 }
            await cluster.close()
        }
    }
}
