// `bifrost set …`: sets.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

struct SetCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Sets: add, remove, contains, move, combine, list, watch.",
        discussion: """
            A set has a name, and lies whole in one group. Its elements have up to \(ObjectLimits.elementBytesMax) bytes. \
            Sets that are combined have the same part in braces in their names, as '{team}/on' and '{team}/off'.
            """,
        subcommands: [
            Add.self, Remove.self, Contains.self, Count.self, List.self, Move.self, Union.self, Intersection.self,
            Difference.self, Clear.self, Watch.self,
        ])

    /// A set and some of its elements.
    struct Elements: ParsableArguments {
        @Argument(help: "The set's name.") var name: KeyArgument
        @Argument(help: "Elements, up to 256.") var elements: [KeyArgument]
        @OptionGroup var options: ClientOptions

        /// - Parameter token: while which stands they are changed; nil also where nothing is.
        func run(
            guardedBy token: FencingToken? = nil, _ ask: (ReliableSet, [Bytes]) async throws(BifrostError) -> [Bool],
            words: (isTrue: String, isFalse: String)
        ) async throws -> [Bool] {
            let bytes = elements.map(\.bytes)
            let cluster = try await options.cluster(guardedBy: token)
            let answers = try await ask(cluster.set(name.bytes), bytes)
            await cluster.close()
            if options.common.json {
                try Output.json(ObjectReport(elements: bytes, answers))
            } else {
                for (element, answer) in zip(bytes, answers) {
                    try Output.write(RecordFormat.line([Bytes(answer ? words.isTrue : words.isFalse), element]))
                }
            }
            return answers
        }
    }

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Adds elements; says which are new.", discussion: "EXAMPLE: bifrost set add '{team}/on' ada grace"
        )
        @OptionGroup var elements: Elements
        @OptionGroup var fence: GuardOptions
        func run() async throws {
            _ = try await elements.run(
                guardedBy: fence.token,
                { (set, elements) async throws(BifrostError) in try await set.add(elements) }, words: ("added", "there")
            )
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Takes elements away; says which were there.")
        @OptionGroup var elements: Elements
        @OptionGroup var fence: GuardOptions
        func run() async throws {
            _ = try await elements.run(
                guardedBy: fence.token,
                { (set, elements) async throws(BifrostError) in try await set.remove(elements) },
                words: ("removed", "absent"))
        }
    }

    struct Contains: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Says which elements are there.", discussion: "Exit code 1: not all of them are.")
        @OptionGroup var elements: Elements
        func run() async throws {
            let answers = try await elements.run(
                { (set, elements) async throws(BifrostError) in try await set.contains(elements) },
                words: ("there", "absent"))
            if answers.contains(false) { throw ToolError(.negative, "the set does not have all of them") }
        }
    }

    struct Count: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints how many elements a set has.")
        @Argument(help: "The set's name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let count = try await cluster.set(name.bytes).count()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Clear: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes all elements of a set away; prints how many there were.")
        @Argument(help: "The set's name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let count = try await cluster.set(name.bytes).clear()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }

    struct Move: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes an element from one set to another one.",
            discussion: "Both lie in one slot. Exit code 1: it is not there, and nothing was changed.")
        @Argument(help: "The set's name.") var name: KeyArgument
        @Argument(help: "The other set's name.") var target: KeyArgument
        @Argument(help: "The element.") var element: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let wasThere = try await cluster.set(name.bytes).move(element.bytes, to: target.bytes)
            await cluster.close()
            try ObjectReport(found: wasThere).end(
                wasThere, options, yes: "moved",
                no: "the set \(HumanText.quoted(name.bytes)) has no element \(HumanText.quoted(element.bytes))")
        }
    }

    /// Prints elements page by page, one per line.
    struct Printer {
        let options: ClientOptions
        let limit: Int?

        private struct Line: Encodable {
            var element: String?
            var elementBase64: String?
        }

        /// - Throws: the limit is none.
        static func check(limit: Int?) throws {
            if let limit, limit < 1 { throw ValidationError("--limit is at least 1, not \(limit)") }
        }

        func run(_ next: (Bytes?, Int) async throws(BifrostError) -> ReliableSet.Page) async throws -> Int {
            var left = limit ?? .max
            var count = 0
            var from: Bytes?
            while left > 0 {
                let page = try await next(from, min(left, 1_000))
                for element in page.elements.prefix(left) {
                    guard options.common.json else {
                        try Output.write(RecordFormat.line([element]))
                        continue
                    }
                    let (text, base64) = element.forJSON
                    try Output.jsonLine(Line(element: text, elementBase64: base64))
                }
                count += min(page.elements.count, left)
                left -= min(page.elements.count, left)
                guard page.next != nil else { break }
                from = page.next
            }
            return count
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints a set's elements, in order, one per line.",
            discussion: """
                With \\t, \\n, \\r, \\0 and \\\\ within, as 'bifrost scan' has keys. Read page by page; each page shows one \
                moment. Exit code 1: there is none.
                """)
        @Argument(help: "The set's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("Elements that begin with it.", valueName: "element")) var prefix: KeyArgument?
        @Option(help: ArgumentHelp("So many at most.", valueName: "count")) var limit: Int?
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func validate() throws { try Printer.check(limit: limit) }

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let set = cluster.set(name.bytes)
            let count = try await Printer(options: options, limit: limit).run {
                (from, count) async throws(BifrostError) in
                try await set.page(prefix: prefix?.bytes ?? Bytes(), from: from, elementsMax: count, wanted)
            }
            await cluster.close()
            guard count > 0 else {
                try ObjectReport.endEmpty(
                    options, "the set \(HumanText.quoted(name.bytes)) has no such element")
            }
        }
    }

    /// Several sets of one slot.
    struct Names: ParsableArguments {
        @Argument(help: "The set's name.") var name: KeyArgument
        @Argument(help: "The names of others.") var others: [KeyArgument]
        @Option(help: ArgumentHelp("So many elements at most.", valueName: "count")) var limit: Int?
        @OptionGroup var options: ClientOptions

        func validate() throws { try Printer.check(limit: limit) }

        func run(_ combination: SetCombine.Combination) async throws {
            let cluster = try await options.cluster()
            let set = cluster.set(name.bytes)
            let names = others.map(\.bytes)
            _ = try await Printer(options: options, limit: limit).run { (from, _) async throws(BifrostError) in
                try await set.combined(combination, with: names, from: from ?? Bytes())
            }
            await cluster.close()
        }
    }

    struct Union: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints the elements that some of the sets have.")
        @OptionGroup var names: Names
        func run() async throws { try await names.run(.union) }
    }

    struct Intersection: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints the elements that all of the sets have.")
        @OptionGroup var names: Names
        func run() async throws { try await names.run(.intersection) }
    }

    struct Difference: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints the elements of the first set that no other one has.")
        @OptionGroup var names: Names
        func run() async throws { try await names.run(.difference) }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of a set's elements.",
            discussion: "First what is there, then what is added (put) and removed (deleted), until Ctrl-C or --limit.")
        @Argument(help: "The set's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("Elements that begin with it.", valueName: "element")) var prefix: KeyArgument?
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            let changes = cluster.set(name.bytes).watch(prefix: prefix?.bytes ?? Bytes(), from: start)
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: true).run(changes) { _ in nil }
            await cluster.close()
        }
    }
}
