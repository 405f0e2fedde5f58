// `bifrost number …`: integers and doubles.

import ArgumentParser
import Bifrost
import Messages
import Primitives

struct NumberCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "number", abstract: "Numbers: set, compute, compare and set, bounds, watch.",
        discussion: """
            A number is a 64-bit integer, or a double if it was set with a point or an exponent, as in 1.0 or 2e3. One that \
            was never set counts as 0. Each command prints what the number is afterwards. Exit code 1: overflow, division \
            by zero, out of bounds; nothing was changed. A negative operand stands behind --: bifrost number add n -- -3.
            """,
        subcommands: [
            Get.self, Set.self, Add.self, Subtract.self, Multiply.self, Divide.self, CompareAndSet.self, Bound.self,
            Delete.self, Watch.self,
        ])

    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints a number.", discussion: "Exit code 1: it was never set.")

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var read: ReadOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let wanted = try read.reading()
            let cluster = try await options.cluster()
            let found = try await cluster.number(name.bytes).get(wanted)
            await cluster.close()
            var report = found.map { ObjectReport(number: $0.value) } ?? ObjectReport()
            report.found = found != nil
            try report.print(options, text: found.map(\.value.asText))
            if found == nil { throw ToolError(.negative, "there is no number \(HumanText.quoted(name.bytes))") }
        }
    }

    /// What all that compute have in common.
    struct Operands: ParsableArguments {
        @Argument(help: "Its name.") var name: KeyArgument
        @Argument(help: "An integer, or a number with a point or an exponent.") var operand: NumeralArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run(
            _ change: (ReliableNumeral, Numeral) async throws(BifrostError) -> Numeral
        ) async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let value = try await change(cluster.number(name.bytes), operand.numeral)
            await cluster.close()
            try ObjectReport(number: value).print(options, text: value.asText)
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Sets a number.")
        @OptionGroup var operands: Operands
        func run() async throws {
            try await operands.run { (number, operand) async throws(BifrostError) in
                try await number.change(.set, operand)
            }
        }
    }

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Adds to a number.", discussion: "EXAMPLE: bifrost number add '{home}/visits' 1")
        @OptionGroup var operands: Operands
        func run() async throws {
            try await operands.run { (number, operand) async throws(BifrostError) in
                try await number.change(.add, operand)
            }
        }
    }

    struct Subtract: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Subtracts from a number.")
        @OptionGroup var operands: Operands
        func run() async throws {
            try await operands.run { (number, operand) async throws(BifrostError) in
                try await number.change(.subtract, operand)
            }
        }
    }

    struct Multiply: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Multiplies a number.")
        @OptionGroup var operands: Operands
        func run() async throws {
            try await operands.run { (number, operand) async throws(BifrostError) in
                try await number.change(.multiply, operand)
            }
        }
    }

    struct Divide: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Divides a number.", discussion: "Integers are divided towards 0.")
        @OptionGroup var operands: Operands
        func run() async throws {
            try await operands.run { (number, operand) async throws(BifrostError) in
                try await number.change(.divide, operand)
            }
        }
    }

    struct CompareAndSet: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cas", abstract: "Sets a number if it is another one now.",
            discussion: "Exit code 1: it is not, and nothing was changed.")

        @Argument(help: "Its name.") var name: KeyArgument
        @Argument(help: "What it has to be now.") var expected: NumeralArgument
        @Argument(help: "What it becomes.") var value: NumeralArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let after = try await cluster.number(name.bytes).change(
                .set, value.numeral, ifEqual: expected.numeral)
            await cluster.close()
            try ObjectReport(number: after).print(options, text: after.asText)
        }
    }

    struct Bound: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Says between what a number stays.",
            discussion: """
                What would leave its bounds is refused (exit code 1). Without --at-least and --at-most it has none.

                EXAMPLE: bifrost number bound --at-least 0 --at-most 100 '{shop}/stock'
                """)

        @Argument(help: "Its name.") var name: KeyArgument
        @Option(help: ArgumentHelp("It is never below.", valueName: "number")) var atLeast: NumeralArgument?
        @Option(help: ArgumentHelp("It is never above.", valueName: "number")) var atMost: NumeralArgument?
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let state = try await cluster.number(name.bytes).bound(
                atLeast: atLeast?.numeral, atMost: atMost?.numeral)
            await cluster.close()
            try (state.map { ObjectReport(number: $0.value) } ?? ObjectReport()).print(
                options, text: state.map(\.value.asText))
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes a number and its bounds away.",
            discussion: "Prints what it was; nothing if there was none.")

        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var fence: GuardOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster(guardedBy: fence.token)
            let before = try await cluster.number(name.bytes).delete()
            await cluster.close()
            var report = before.map { ObjectReport(number: $0.value) } ?? ObjectReport()
            report.found = before != nil
            try report.print(options, text: before.map(\.value.asText))
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of a number.",
            discussion: "First what it is, then each change, until Ctrl-C or --limit.")

        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            try await ObjectWatchPrinter(options: options, watch: watch, hasElements: false).run(
                cluster.number(name.bytes).watch(from: start)
            ) { Bytes($0.value.asText) }
            await cluster.close()
        }
    }
}
