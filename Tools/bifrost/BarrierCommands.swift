// `bifrost barrier …`: to wait for others.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import StateMachines

struct BarrierCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "barrier", abstract: "Barriers: wait until so many have come.",
        discussion: """
            EXAMPLES:
              bifrost barrier arrive start --parties 3 && ./run
              bifrost barrier show start
            """,
        subcommands: [Arrive.self, Show.self, Watch.self])

    struct Arrive: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Waits until all have come; prints the number of the round.",
            discussion: """
                All who waited in a round print the same number. Exit code 1: too few came in --wait. 2: its \
                session is lost, and it was counted in a round that is over, or in none. If this process ends before, its \
                place is given back; if it is killed, after --session-ttl.
                """)
        @Argument(help: "Its name.") var name: KeyArgument
        @Option(help: "So many have to come; all say the same. (default: as those say who have come)")
        var parties: Int?
        @Option(
            help: ArgumentHelp("Wait so long at most. (default: as long as it takes)", valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var wait: TimeSpan?
        @Option(
            help: ArgumentHelp(
                "If this process ends without a word, its place is given back after so long. (default: 30s)",
                valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var sessionTtl: TimeSpan?
        @OptionGroup var options: ClientOptions

        func run() async throws {
            var settings = options.options(timeout: ClientOptions.timeout)
            if let sessionTtl { settings.sessionTimeToLive = sessionTtl.duration }
            let cluster = try await Cluster.connect(to: options.addresses, options: settings)
            let signals = SignalForwarder()
            let barrier = cluster.barrier(name.bytes, parties: parties)
            let limit = wait?.duration
            let round: UInt64
            do throws(BifrostError) {
                round = try await signals.wait(cluster) { () async throws(BifrostError) in
                    try await barrier.arrive(wait: limit)
                } giveBack: { _ in
                }
            } catch {
                guard error.code == .deadlineExceeded, let limit else { throw error }
                await cluster.close()
                throw ToolError(.negative, "too few came to \(HumanText.quoted(name.bytes)) within \(limit)")
            }
            signals.end()
            await cluster.close()
            try RoundReport(round: round).print(options)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints how many have come, how many there are, and the round.",
            discussion: "With tabs between. Exit code 1: nobody waits.")
        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        private struct Report: Encodable {
            var arrived: UInt32
            var parties: UInt32
            var round: UInt64
        }

        func run() async throws {
            let cluster = try await options.cluster()
            let state = try await cluster.barrier(name.bytes).state()
            await cluster.close()
            if options.common.json {
                try Output.json(Report(arrived: state.arrived, parties: state.parties, round: state.round))
            } else if state.arrived > 0 {
                try Output.line("\(state.arrived)\t\(state.parties)\t\(state.round)")
            }
            guard state.arrived == 0 else { return }
            throw ToolError(.negative, "nobody waits at \(HumanText.quoted(name.bytes))")
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints who comes, change by change.",
            discussion: "How many have come, how many there are, and the round, as a value with spaces between.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            let changes = cluster.barrier(name.bytes).watch(from: start)
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: false).run(changes) {
                Bytes("\($0.arrived) \($0.parties) \($0.round)")
            }
            await cluster.close()
        }
    }
}
