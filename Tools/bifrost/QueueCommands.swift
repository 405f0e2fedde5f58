// `bifrost queue …`: queues.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

struct QueueCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue", abstract: "Queues: push, take, ack, nack, extend, pop, peek, dead letters.",
        discussion: """
            What is taken comes back unless it is acknowledged by its receipt in time. Here it stays in flight for its \
            visibility time whatever becomes of the command that took it: that ends at once, and nobody's session has the \
            item. (Programs' items come back when their session ends, too.)

            EXAMPLE:
              bifrost queue push jobs 'first job'
              bifrost queue take jobs --visibility 1m
                1-1<tab>first job
              bifrost queue ack jobs 1-1
            """,
        subcommands: [
            Push.self, Take.self, Ack.self, Nack.self, Extend.self, Pop.self, Count.self, Peek.self, Dead.self,
            Requeue.self, Purge.self, Set.self, Clear.self,
        ])

    /// One item, as it is printed.
    struct Line: Encodable {
        var receipt: String?
        var item: UInt64?
        var value: String?
        var valueBase64: String?
        var priority: UInt8?
        var deliveries: Int?
        var reason: String?

        init(_ value: Bytes) { (self.value, valueBase64) = value.forJSON }

        static func print(_ line: Line, _ fields: [Bytes], _ options: ClientOptions) throws {
            if options.common.json { return try Output.jsonLine(line) }
            try Output.write(RecordFormat.line(fields))
        }
    }

    struct Push: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Adds an item; prints its number.",
            discussion:
                "With --id, an item that was pushed with the same id within its window is not added again: exit code 1."
        )
        @Argument(help: "The queue's name.") var name: KeyArgument
        @OptionGroup var value: ValueArgument
        @Option(help: "0 to 255: higher ones are taken first.") var priority: UInt8 = 128
        @Option(
            help: ArgumentHelp("It is not ready before.", valueName: "time"), transform: TimeSpan.init(parsing:))
        var delay: TimeSpan?
        @Option(help: ArgumentHelp("Against duplicates, 1 to 256 bytes.", valueName: "id")) var id: KeyArgument?
        @Option(
            help: ArgumentHelp("How long the id counts. (default: 5m)", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var window: TimeSpan?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let pushed = try await cluster.queue(name.bytes, of: Bytes.self).push(
                bytes, priority: priority, delay: delay?.duration, id: id?.bytes,
                window: window?.duration ?? .seconds(300))
            await cluster.close()
            if options.common.json {
                try Output.json(PushReport(item: pushed.item, isNew: pushed.isNew))
            } else {
                try Output.line("\(pushed.item)")
            }
            if !pushed.isNew { throw ToolError(.negative, "item \(pushed.item) was pushed with this id before") }
        }

        private struct PushReport: Encodable {
            var item: UInt64
            var isNew: Bool
        }
    }

    struct Take: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes items; prints receipts and values, one item per line.",
            discussion: """
                They come back after their visibility time unless 'bifrost queue ack' says that they are done. They are \
                nobody's: no session has them, and they don't come back when this command ends. Exit code 1: nothing is \
                ready, or came while --wait was not over.
                """)
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("So many at most, up to 256.", valueName: "count")) var max = 1
        @Option(
            help: ArgumentHelp("They come back after it. (default: 30s)", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var visibility: TimeSpan?
        @Option(
            help: ArgumentHelp("Waits so long for something.", valueName: "time"), transform: TimeSpan.init(parsing:))
        var wait: TimeSpan?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let (queue, count) = (cluster.queue(name.bytes, of: Bytes.self), max)
            let (visibility, wait) = (visibility?.duration ?? .seconds(30), wait?.duration)
            let signals = SignalForwarder()
            let taken = try await signals.wait(cluster) { () async throws(BifrostError) in
                try await queue.take(max: count, visibility: visibility, wait: wait, outlivesSession: true)
            } giveBack: { taken in
                _ = try? await queue.nack(taken.map(\.receipt))
            }
            signals.end()
            for delivery in taken {
                var line = Line(delivery.value)
                line.receipt = "\(delivery.receipt)"
                (line.priority, line.deliveries) = (delivery.priority, delivery.deliveries)
                try Line.print(line, [Bytes("\(delivery.receipt)"), delivery.value], options)
            }
            await cluster.close()
            if taken.isEmpty {
                try ObjectReport.endEmpty(
                    options, "the queue \(HumanText.quoted(name.bytes)) has nothing that is ready")
            }
        }
    }

    /// A queue, and receipts of it.
    struct Receipts: ParsableArguments {
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Argument(help: "Receipts, as 'bifrost queue take' prints them.") var receipts: [String]
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        private struct Report: Encodable {
            var receipt: String
            var done: Bool
        }

        func run(
            _ body: (ReliableQueue<Bytes>, [QueueReceipt]) async throws(BifrostError) -> [Bool]
        ) async throws {
            let parsed = try receipts.map { text in
                guard let receipt = QueueReceipt(text) else {
                    throw ToolError(.usage, "a receipt has the form ITEM-DELIVERY, as 7-1, not \(text)")
                }
                return receipt
            }
            let cluster = try await options.cluster(guardedBy: fence.token)
            let isDone = try await body(cluster.queue(name.bytes, of: Bytes.self), parsed)
            await cluster.close()
            for (receipt, isDone) in zip(parsed, isDone) {
                if options.common.json {
                    try Output.jsonLine(Report(receipt: "\(receipt)", done: isDone))
                } else {
                    try Output.write(RecordFormat.line([Bytes(isDone ? "done" : "stale"), Bytes("\(receipt)")]))
                }
            }
            if isDone.contains(false) {
                throw ToolError(
                    .negative, "some items are not in flight by these receipts any more: they came back, or are gone")
            }
        }
    }

    struct Ack: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Says that items are done: they are gone.",
            discussion: "Exit code 1: some had come back before; of these nothing was changed.")
        @OptionGroup var receipts: Receipts
        func run() async throws {
            try await receipts.run { (queue, receipts) async throws(BifrostError) in try await queue.ack(receipts) }
        }
    }

    struct Nack: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Gives items back.")
        @OptionGroup var receipts: Receipts
        @Option(
            help: ArgumentHelp("They are not ready before.", valueName: "time"), transform: TimeSpan.init(parsing:))
        var delay: TimeSpan?
        func run() async throws {
            try await receipts.run { (queue, receipts) async throws(BifrostError) in
                try await queue.nack(receipts, delay: delay?.duration)
            }
        }
    }

    struct Extend: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Keeps items in flight for so long from now on.")
        @OptionGroup var receipts: Receipts
        @Option(
            help: ArgumentHelp("They come back after it. (default: 30s)", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var visibility: TimeSpan?
        func run() async throws {
            try await receipts.run { (queue, receipts) async throws(BifrostError) in
                try await queue.extend(receipts, by: visibility?.duration ?? .seconds(30))
            }
        }
    }

    struct Pop: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes items for good; prints their values, one per line.",
            discussion: "They don't come back, whatever becomes of this command. Exit code 1: nothing is ready.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("So many at most, up to 256.", valueName: "count")) var max = 1
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let values = try await cluster.queue(name.bytes, of: Bytes.self).takeAndAck(max: max)
            for value in values { try Line.print(Line(value), [value], options) }
            await cluster.close()
            if values.isEmpty {
                try ObjectReport.endEmpty(
                    options, "the queue \(HumanText.quoted(name.bytes)) has nothing that is ready")
            }
        }
    }

    struct Count: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Prints how many items there are, by where they are.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        private struct Report: Encodable {
            var ready: UInt64
            var delayed: UInt64
            var inFlight: UInt64
            var dead: UInt64
            var waiters: UInt32
            var deliveriesMax: UInt32
        }

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let counts = try await cluster.queue(name.bytes, of: Bytes.self).counts(wanted)
            await cluster.close()
            if options.common.json {
                return try Output.json(
                    Report(
                        ready: counts.ready, delayed: counts.delayed, inFlight: counts.inFlight, dead: counts.dead,
                        waiters: counts.waiters, deliveriesMax: counts.deliveriesMax))
            }
            try Output.line(
                "\(counts.ready) ready, \(counts.delayed) delayed, \(counts.inFlight) in flight, \(counts.dead) dead; "
                    + "\(counts.waiters) who wait")
        }
    }

    /// Prints items page by page.
    struct Listing: ParsableArguments {
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("So many at most.", valueName: "count")) var limit: Int?
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func validate() throws { try SetCommands.Printer.check(limit: limit) }

        func run(isOfDead: Bool) async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let queue = cluster.queue(name.bytes, of: Bytes.self)
            var (left, after): (Int, UInt64?) = (limit ?? .max, nil)
            repeat {
                let count = min(left, 256)
                let page =
                    isOfDead
                    ? try await queue.deadItems(after: after, itemsMax: count, wanted)
                    : try await queue.peek(after: after, itemsMax: count, wanted)
                for item in page.items {
                    var line = Line(item.value)
                    (line.item, line.priority, line.deliveries) = (item.item, item.priority, item.deliveries)
                    line.reason = item.reason?.rawValue
                    try Line.print(line, [Bytes("\(item.item)"), item.value], options)
                }
                left -= page.items.count
                after = page.next
            } while left > 0 && after != nil
            await cluster.close()
            if left == limit ?? .max {
                try ObjectReport.endEmpty(
                    options,
                    "the queue \(HumanText.quoted(name.bytes)) has nothing that is \(isOfDead ? "dead" : "ready")")
            }
        }
    }

    struct Peek: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what is ready, in the order in which it will be taken: numbers and values.",
            discussion: "Items stay where they are. Each page shows one moment. Exit code 1: there is none.")
        @OptionGroup var listing: Listing
        func run() async throws { try await listing.run(isOfDead: false) }
    }

    struct Dead: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints items that were delivered too often: numbers and values.",
            discussion: "In the order in which they were pushed. Exit code 1: there is none.")
        @OptionGroup var listing: Listing
        func run() async throws { try await listing.run(isOfDead: true) }
    }

    struct Requeue: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts dead items back to their places.", discussion: "Exit code 1: some are not dead.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Argument(help: "Items' numbers, up to 64, as 'bifrost queue dead' prints them.") var items: [UInt64]
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let isDone = try await cluster.queue(name.bytes, of: Bytes.self).requeue(items)
            await cluster.close()
            try ObjectReport.print(count: isDone.count { $0 }, options)
            if isDone.contains(false) { throw ToolError(.negative, "some of these items are not dead") }
        }
    }

    struct Purge: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Removes dead items, all or some; prints how many.",
            discussion: "Exit code 1: some of those named are not dead.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Argument(help: "Items' numbers, up to 64; none: all that are dead.") var items: [UInt64] = []
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let queue = cluster.queue(name.bytes, of: Bytes.self)
            let count =
                items.isEmpty ? try await queue.purgeDead() : try await queue.removeDead(items).count { $0 }
            await cluster.close()
            try ObjectReport.print(count: count, options)
            if !items.isEmpty, count != items.count {
                throw ToolError(.negative, "some of these items are not dead")
            }
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Says how often an item is delivered before it is dead.",
            discussion: "Holds for items that come back from now on.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @Option(help: ArgumentHelp("0: as often as it takes.", valueName: "count")) var deliveries: Int
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            try await cluster.queue(name.bytes, of: Bytes.self).setDeliveriesMax(deliveries)
            await cluster.close()
            try ObjectReport(count: deliveries).print(options, text: nil)
        }
    }

    struct Clear: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Removes all items, wherever they are; prints how many there were.")
        @Argument(help: "The queue's name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let count = try await cluster.queue(name.bytes, of: Bytes.self).clear()
            await cluster.close()
            try ObjectReport.print(count: count, options)
        }
    }
}
