// `bifrost latch …`: to wait for what others do.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

struct LatchCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "latch", abstract: "Latches that count down: wait until they come to zero.",
        discussion: """
            EXAMPLES:
              bifrost latch set migrated 3
              bifrost latch count-down migrated
              bifrost latch wait migrated --for 1m && ./next
            """,
        subcommands: [Set.self, CountDown.self, Wait.self, Show.self, Delete.self, Watch.self])

    private struct Report: Encodable {
        var count: UInt64
        var initial: UInt64
        var round: UInt64

        init(_ state: LatchState) { (count, initial, round) = (state.count, state.initial, state.round) }

        func print(_ options: ClientOptions) throws {
            if options.common.json { return try Output.json(self) }
            try Output.line("\(count)\t\(round)")
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Begins a round with this count; prints the count and the round.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Argument(help: "What is to be counted down.") var count: Int
        @Flag(help: "A latch that is there stays as it is.") var ifAbsent = false
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let state = try await cluster.latch(name.bytes).set(count, ifAbsent: ifAbsent)
            await cluster.close()
            try Report(state).print(options)
        }
    }

    struct CountDown: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "count-down",
            abstract: "Counts down, to zero at most; prints what is left, and the round.",
            discussion: "Exit code 1: nobody has set it, or it is in another round than --round.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Option(help: ArgumentHelp("By so much.", valueName: "count")) var by = 1
        @Option(help: "Only in this round, as 'set' printed it.") var round: UInt64?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let state = try await cluster.latch(name.bytes).countDown(by: by, round: round)
            await cluster.close()
            try Report(state).print(options)
        }
    }

    struct Wait: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Waits until it comes to zero; prints the round.",
            discussion: "Exit code 1: it did not in --for, nobody has set it, or another round began before.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Option(
            name: .customLong("for"),
            help: ArgumentHelp("Wait so long at most. (default: as long as it takes)", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var limit: TimeSpan?
        @Option(help: "For this round to come to zero. (default: the present one)") var round: UInt64?
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let reached: UInt64
            do throws(BifrostError) {
                reached = try await cluster.latch(name.bytes).wait(round: round, for: limit?.duration)
            } catch {
                guard error.code == .deadlineExceeded, let limit else { throw error }
                await cluster.close()
                throw ToolError(
                    .negative, "\(HumanText.quoted(name.bytes)) did not come to zero within \(limit.duration)")
            }
            await cluster.close()
            try RoundReport(round: reached).print(options)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what is left, and the round.",
            discussion: "With a tab between. Exit code 1: nobody has set it.")
        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let state = try await cluster.latch(name.bytes).state(wanted)
            await cluster.close()
            guard let state else {
                try ObjectReport.endEmpty(options, "nobody has set \(HumanText.quoted(name.bytes))")
            }
            try Report(state).print(options)
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Deletes a latch: who waits gets an error.", discussion: "Exit code 1: there was none.")
        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let wasThere = try await cluster.latch(name.bytes).delete()
            await cluster.close()
            try ObjectReport(found: wasThere).end(
                wasThere, options, yes: "deleted", no: "there is no latch \(HumanText.quoted(name.bytes))")
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what a latch becomes, change by change.",
            discussion: "What is left and the round, as a value with a space between.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            let changes = cluster.latch(name.bytes).watch(from: start)
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: false).run(changes) {
                Bytes("\($0.count) \($0.round)")
            }
            await cluster.close()
        }
    }
}
