// `bifrost value …`: single values.

import ArgumentParser
import Bifrost
import Messages
import Primitives

struct ValueCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "value", abstract: "Single values: set, swap, compare and set, watch.",
        subcommands: [Get.self, Set.self, Swap.self, CompareAndSet.self, Delete.self, Watch.self])

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints a value.",
            discussion: """
                Its bytes and nothing else; to a terminal also a line break, if it has none at its end. Exit code 1: there \
                is none.

                EXAMPLES:
                  bifrost value get '{ledger}/owner'
                  bifrost value get --json '{ledger}/owner'
                    {"found":true,"revision":7,"value":"ada"}
                """)

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let found = try await cluster.value(name.bytes, of: Bytes.self).get(wanted)
            await cluster.close()
            try ObjectReport(found).print(options, value: found?.value)
            if found == nil { throw ToolError(.negative, "there is no value \(HumanText.quoted(name.bytes))") }
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Sets a value; prints the revision at which it took effect.",
            discussion: """
                With a condition nothing is changed unless it holds (exit code 1), and no other change comes between.

                EXAMPLES:
                  bifrost value set '{ledger}/owner' ada
                  bifrost value set --if-absent --ttl 30s '{ledger}/owner' ada
                """)

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var value: ValueArgument
        @OptionGroup var condition: ConditionOptions
        @OptionGroup var lifetime: TimeToLiveOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let revision = try await cluster.value(name.bytes, of: Bytes.self).set(
                bytes, if: condition.test, timeToLive: lifetime.ttl?.duration)
            await cluster.close()
            try ObjectReport(revision: revision).print(options, text: "revision \(revision)")
        }
    }

    struct Swap: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Sets a value; prints what was there before.")

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var value: ValueArgument
        @OptionGroup var lifetime: TimeToLiveOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let previous = try await cluster.value(name.bytes, of: Bytes.self).swap(
                bytes, timeToLive: lifetime.ttl?.duration)
            await cluster.close()
            try ObjectReport(previous: previous).print(options, value: previous?.value)
        }
    }

    struct CompareAndSet: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cas", abstract: "Sets a value if it is another one now.",
            discussion: "Exit code 1: it is not, and nothing was changed. By revision: set --if-revision.")

        @Argument(help: "Its name.") var name: KeyArgument
        @Argument(help: "What it has to be now.") var expected: String
        @OptionGroup var value: ValueArgument
        @OptionGroup var lifetime: TimeToLiveOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let bytes = try value.bytes()
            let cluster = try await options.cluster(guardedBy: fence.token)
            let revision = try await cluster.value(name.bytes, of: Bytes.self).set(
                bytes, if: .value(RawArguments.bytes(of: expected)), timeToLive: lifetime.ttl?.duration)
            await cluster.close()
            try ObjectReport(revision: revision).print(options, text: "revision \(revision)")
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes a value away.", discussion: "Says whether there was one.")

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var condition: ConditionOptions
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let wasThere = try await cluster.value(name.bytes, of: Bytes.self).delete(if: condition.test)
            await cluster.close()
            try ObjectReport(found: wasThere).print(options, text: wasThere ? "deleted" : "there was none")
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of a value.",
            discussion:
                "First what is there, then each change, until Ctrl-C or --limit. Lines as 'bifrost watch' has them.")

        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: false).run(
                cluster.value(name.bytes, of: Bytes.self).watch(from: start)
            ) { $0 }
            await cluster.close()
        }
    }
}
