// `bifrost array …`: arrays.

import ArgumentParser
import Bifrost
import Messages
import Primitives

struct ArrayCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "array", abstract: "Arrays: append, insert, set, get, remove, slice, list, trim, watch.",
        discussion: """
            An array has a name, and lies whole in one group. Its elements stand at indices from 0 on, and have ids, which \
            stay what they are wherever the element comes to stand, and are never given to another one: --id names the \
            element that was found before, an index whatever stands there now.
            """,
        subcommands: [
            Append.self, Insert.self, SetElement.self, Get.self, Remove.self, Slice.self, List.self, Count.self,
            Trim.self, Clear.self, Watch.self,
        ])

    // MARK: What several have in common

    /// An element that is there.
    struct Place: ParsableArguments {
        @Option(name: .customLong("at"), help: ArgumentHelp("The element at this index.", valueName: "index"))
        var index: UInt64?
        @Option(help: ArgumentHelp("The element with this id.", valueName: "id")) var id: UInt64?

        func validate() throws {
            guard (index == nil) != (id == nil) else {
                throw ValidationError("one of --at and --id says which element")
            }
        }

        var place: ArrayPlace { id.map { .element(ArrayElementID($0)) } ?? .index(index ?? 0) }
    }

    struct Condition: ParsableArguments {
        @Option(help: ArgumentHelp("Only if the element got its value at this revision.", valueName: "revision"))
        var ifRevision: UInt64?
        @Option(help: ArgumentHelp("Only if the element has this value.", valueName: "value")) var ifValue: String?

        func validate() throws {
            guard ifRevision == nil || ifValue == nil else {
                throw ValidationError("one of --if-revision and --if-value, not both")
            }
        }

        var test: EntryCondition? {
            if let ifRevision { return .revision(Revision(ifRevision)) }
            return ifValue.map { .value(RawArguments.bytes(of: $0)) }
        }
    }

    /// An element in JSON.
    struct Line: Encodable {
        var index: Int?
        var id: UInt64
        var revision: UInt64
        var value: String?
        var valueBase64: String?

        init(_ element: ReliableArray<Bytes>.Element, at index: Int?) {
            self.index = index
            id = element.id.rawValue
            revision = element.revision.rawValue
            (value, valueBase64) = element.value.forJSON
        }
    }

    struct IDs: Encodable {
        var ids: [UInt64]
    }

    static func print(_ ids: [ArrayElementID], _ options: ClientOptions) throws {
        if options.common.json { return try Output.json(IDs(ids: ids.map(\.rawValue))) }
        for id in ids { try Output.line("\(id)") }
    }

    /// On a line of its own, with the index in front.
    static func print(_ element: ReliableArray<Bytes>.Element, at index: Int, _ options: ClientOptions) throws {
        if options.common.json {
            try Output.jsonLine(Line(element, at: index))
        } else {
            try Output.write(RecordFormat.line([Bytes("\(index)"), element.value]))
        }
    }

    // MARK: Commands

    struct Append: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts values behind all others; prints their ids.",
            discussion: "EXAMPLE: bifrost array append lines 'first line' 'second line'")
        @Argument(help: "The array's name.") var name: KeyArgument
        @Argument(help: "Values, up to 256.") var values: [KeyArgument]
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let ids = try await cluster.array(name.bytes, of: Bytes.self).append(values.map(\.bytes))
            await cluster.close()
            try ArrayCommands.print(ids, options)
        }
    }

    struct Insert: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts values in before or behind an element; prints their ids.",
            discussion: """
                EXAMPLES:
                  bifrost array insert --at 0 lines 'title'
                  bifrost array insert --after 17 lines 'behind the element with id 17'
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @Argument(help: "Values, up to 256.") var values: [KeyArgument]
        @Option(
            name: .customLong("at"),
            help: ArgumentHelp("Before the element at this index, or behind the last one.", valueName: "index"))
        var index: UInt64?
        @Option(help: ArgumentHelp("Before the element with this id.", valueName: "id")) var before: UInt64?
        @Option(help: ArgumentHelp("Behind the element with this id.", valueName: "id")) var after: UInt64?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func validate() throws {
            guard [index, before, after].count(where: { $0 != nil }) == 1 else {
                throw ValidationError("one of --at, --before and --after says where; at the end puts 'append'")
            }
        }

        func run() async throws {
            let point: ArrayPoint =
                before.map { .before(ArrayElementID($0)) } ?? after.map { .behind(ArrayElementID($0)) }
                ?? .index(index ?? 0)
            let cluster = try await options.cluster(guardedBy: fence.token)
            let ids = try await cluster.array(name.bytes, of: Bytes.self).insert(values.map(\.bytes), at: point)
            await cluster.close()
            try ArrayCommands.print(ids, options)
        }
    }

    struct SetElement: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "set",
            abstract: "Gives an element another value; prints the revision at which it took effect.",
            discussion: """
                Exit code 1: there is no such element, or the condition does not hold.

                EXAMPLE: bifrost array set --id 17 --if-value old lines new
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @OptionGroup var value: ValueArgument
        @OptionGroup var place: Place
        @OptionGroup var condition: Condition
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let revision = try await cluster.array(name.bytes, of: Bytes.self).set(
                bytes, at: place.place, if: condition.test)
            await cluster.close()
            try ObjectReport(revision: revision).print(options, text: "revision \(revision)")
        }
    }

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints the value of an element.",
            discussion: "With --json its index and id, too. Exit code 1: there is no such element.")
        @Argument(help: "The array's name.") var name: KeyArgument
        @OptionGroup var place: Place
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let array = cluster.array(name.bytes, of: Bytes.self)
            let found = try await array.get(at: place.place, wanted)
            var index = place.index.map { Int(clamping: $0) }
            if let found, options.common.json, index == nil { index = try await array.index(of: found.id, wanted) }
            await cluster.close()
            guard let found else {
                try ObjectReport.endEmpty(
                    options,
                    "the array \(HumanText.quoted(name.bytes)) has no element "
                        + (place.id.map { "with the id \($0)" } ?? "at \(place.index ?? 0)"))
            }
            if options.common.json { return try Output.json(Line(found, at: index)) }
            try Output.value(found.value)
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes an element out; prints its value.",
            discussion: """
                With --count several that stand together; that prints nothing. Exit code 1: there is no such element, or \
                the condition does not hold.
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @OptionGroup var place: Place
        @OptionGroup var condition: Condition
        @Option(help: ArgumentHelp("With --at: so many, up to 256.", valueName: "number")) var count: Int?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func validate() throws {
            guard let count else { return }
            guard count > 0, place.index ?? .max <= Int.max - count, condition.test == nil else {
                throw ValidationError("--count is at least 1, goes with --at, and not with a condition")
            }
        }

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let array = cluster.array(name.bytes, of: Bytes.self)
            if let count, let index = place.index {
                try await array.removeSubrange(Int(index)..<Int(index) + count)
                await cluster.close()
                return try ObjectReport(count: count).print(options, text: nil)
            }
            let removed = try await array.remove(at: place.place, if: condition.test)
            await cluster.close()
            if options.common.json {
                return try Output.json(Line(removed, at: place.index.map { Int(clamping: $0) }))
            }
            try Output.value(removed.value)
        }
    }

    struct Slice: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints some elements that stand together, as they stood at one moment.",
            discussion: """
                One per line: index, tab, value, with \\t, \\n, \\r, \\0 and \\\\ within as 'bifrost scan' has them; with \
                --json one object per line. Fewer than were asked for: there are no more, or they are large. Exit code 1: \
                there is none.

                EXAMPLE: bifrost array slice lines 100 10
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @Argument(help: "From this index on.") var from: UInt64
        @Argument(help: "So many, up to 256.") var count = 256
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func validate() throws {
            guard (1...256).contains(count) else {
                throw ValidationError("a slice has 1 to 256 elements, not \(count): see 'array list'")
            }
        }

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let page = try await cluster.array(name.bytes, of: Bytes.self).slice(
                from: .index(from), limit: count, wanted)
            await cluster.close()
            for (offset, element) in page.elements.enumerated() {
                try ArrayCommands.print(element, at: page.index + offset, options)
            }
            guard !page.elements.isEmpty else {
                try ObjectReport.endEmpty(
                    options,
                    "the array \(HumanText.quoted(name.bytes)) has \(page.count) elements, none from \(from) on")
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints an array's elements, in order, one per line.",
            discussion: """
                As 'array slice' does. Read page by page; each page shows one moment, and begins behind the last element of \
                the one before. Exit code 1: there is none.
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("From this index on.", valueName: "index")) var from: UInt64 = 0
        @Option(help: ArgumentHelp("So many at most.", valueName: "count")) var limit: Int?
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func validate() throws {
            if let limit, limit < 1 { throw ValidationError("--limit is at least 1, not \(limit)") }
        }

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            var index = Int(clamping: from)
            let end = limit.map { index.addingReportingOverflow($0).partialValue }
            let elements = cluster.array(name.bytes, of: Bytes.self).elements(from: index, wanted)
            for try await element in elements {
                try ArrayCommands.print(element, at: index, options)
                index += 1
                if index == end { break }
            }
            let isAny = index > Int(clamping: from)
            await cluster.close()
            guard isAny else {
                try ObjectReport.endEmpty(
                    options, "the array \(HumanText.quoted(name.bytes)) has no element from \(from) on")
            }
        }
    }

    struct Count: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints how many elements an array has.")
        @Argument(help: "The array's name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let count = try await cluster.array(name.bytes, of: Bytes.self).count()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Trim: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes all elements out but some that stand together; prints how many it took out.",
            discussion: """
                However many, at once. With --first and --last all stay if there are fewer.

                EXAMPLES:
                  bifrost array trim --last 1000 lines
                  bifrost array trim --from 100 --before 200 lines
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("So many of the first stay.", valueName: "count")) var first: UInt32?
        @Option(help: ArgumentHelp("So many of the last stay.", valueName: "count")) var last: UInt32?
        @Option(help: ArgumentHelp("From this index on they stay …", valueName: "index")) var from: UInt32?
        @Option(help: ArgumentHelp("… up to before this one.", valueName: "index")) var before: UInt32?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func validate() throws {
            let isRange = from != nil && before != nil
            guard [first != nil, last != nil, isRange].count(where: { $0 }) == 1, (from != nil) == (before != nil)
            else {
                throw ValidationError("one of --first, --last, and --from with --before says what stays")
            }
            if let from, let before, before < from {
                throw ValidationError("--before is not below --from: \(before) is below \(from)")
            }
        }

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let array = cluster.array(name.bytes, of: Bytes.self)
            let count =
                if let first {
                    try await array.trim(toFirst: Int(first))
                } else if let last {
                    try await array.trim(toLast: Int(last))
                } else {
                    try await array.trim(to: Int(from ?? 0)..<Int(before ?? 0))
                }
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Clear: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes all elements out; prints how many there were.")
        @Argument(help: "The array's name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let count = try await cluster.array(name.bytes, of: Bytes.self).clear()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of an array's elements.",
            discussion: """
                First what is there, in order, then each change, until Ctrl-C or --limit: word, index, id, value. A trim is \
                one line, however many elements it took out: trimmed, the first index that stayed, and the one behind the \
                last.
                """)
        @Argument(help: "The array's name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        private struct Line: Encodable {
            var change: String
            var index: Int?
            var id: UInt64?
            var value: String?
            var valueBase64: String?
            var from: Int?
            var before: Int?
            var revision: UInt64
            var resume: UInt64?
        }

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            var left = watch.limit ?? .max
            var position = watch.after.map { Revision($0) }
            let reader = OutputReader()
            defer { reader.end() }
            do throws(BifrostError) {
                for try await event in cluster.array(name.bytes, of: Bytes.self).watch(from: start) {
                    position = event.resume ?? position
                    do { try print(event) } catch { throw BifrostError(.closed, "", cause: error) }
                    switch event.kind {
                    case .present, .ready, .progress: break
                    default: left -= 1
                    }
                    if left == 0 { break }
                }
            } catch {
                throw error.cause as? ToolError ?? error.ofWatch(at: position)
            }
            reader.end()
            await cluster.close()
        }

        private func print(_ event: ArrayEvent<Bytes>) throws {
            var line = Line(
                change: "", id: event.id?.rawValue, revision: event.revision.rawValue, resume: event.resume?.rawValue)
            switch event.kind {
            case .present(let index): (line.change, line.index) = ("present", index)
            case .inserted(let index): (line.change, line.index) = ("inserted", index)
            case .set(let index): (line.change, line.index) = ("set", index)
            case .removed(let index): (line.change, line.index) = ("removed", index)
            case .trimmed(let range):
                (line.change, line.from, line.before) = ("trimmed", range.lowerBound, range.upperBound)
            case .cleared: line.change = "cleared"
            case .ready: line.change = "ready"
            case .progress: line.change = "progress"
            }
            if let value = event.value { (line.value, line.valueBase64) = value.forJSON }
            if options.common.json { return try Output.jsonLine(line) }
            guard event.kind != .progress else { return }
            let numbers = [line.index, line.from, line.before].compactMap { $0.map { Bytes("\($0)") } }
            let rest = [line.id.map { Bytes("\($0)") }, event.value].compactMap { $0 }
            try Output.write(RecordFormat.line([Bytes(line.change)] + numbers + rest))
        }
    }
}
