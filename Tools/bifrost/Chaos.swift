// `bifrost chaos`: real hosts, real damage, and clients whose histories the checker judges. For Tools/chaos.

import ArgumentParser
import Foundation
import Primitives

struct Chaos: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Breaks real hosts in all ways this machine allows, and judges what clients saw.",
        discussion: """
            Tools/chaos runs this, as root in namespaces of its own where it can. For each kind of round new hosts are \
            started, and clients write and read while they break. After each round the cluster must become healthy \
            again and replicas agree; at the end every key is read at every host, and the whole history must be \
            linearizable. Histories, and the picture of a violation, stay in --output.

              kill       SIGKILL of one host, and of all at once in the last round
              stop       SIGSTOP of the host that leads most, for 5 to 15 seconds
              partition  network namespaces: a host cut off; from the others only;
                         one way
              proxy      delays, cut connections, changed bytes
              eio        an fdatasync fails (strace)
              killcall   SIGKILL at one exact write or sync (strace)
              full       no space on a disk of 64 MiB, and then space again
              members    of four hosts one is drained and taken back, and one is
                         killed meanwhile

            Ends with 1 if anything was lost, wrong or too slow, or a kind was skipped that --permitted-skips does not name.

            EXAMPLES:
              bifrost chaos --rounds kill:3,stop:2,proxy:3
              bifrost chaos --rounds eio:5 --keep --json
            """,
        shouldDisplay: false)

    @Option(
        help: ArgumentHelp("What to do, and how often.", valueName: "kind:count,…"),
        transform: ChaosPlan.init(parsing:))
    var rounds: ChaosPlan

    @Option(help: ArgumentHelp("Groups that share the data, 1 to 1000.", valueName: "count"))
    var groups = 4

    @Option(
        help: ArgumentHelp("Clients, 1 to 64, each with \(ChaosLoad.workersPerClient) workers.", valueName: "count"))
    var clients = 3

    @Option(
        help: ArgumentHelp(
            "Make the hosts' directories below this one. (default: $TMPDIR or /var/tmp)", valueName: "path"),
        completion: .directory)
    var directory: String?

    @Option(
        help: ArgumentHelp("Where histories and pictures go. (default: the working directory)", valueName: "path"),
        completion: .directory)
    var output = "."

    @Option(help: ArgumentHelp("A file with kinds that may be skipped: lines 'kind: reason'.", valueName: "file"))
    var permittedSkips: String?

    @Flag(help: "This process has a network and mounts of its own, which go with it.")
    var ownNamespaces = false

    @Flag(help: "Keep the hosts' data and logs, also of rounds without a problem.")
    var keep = false

    @OptionGroup var common: CommonOptions

    func validate() throws {
        guard (1...1_000).contains(groups) else { throw ValidationError("--groups is 1 to 1000, not \(groups)") }
        guard (1...64).contains(clients) else { throw ValidationError("--clients is 1 to 64, not \(clients)") }
    }

    private struct Report: Encodable {
        var good: Bool
        var kinds: [ChaosResult]
    }

    func run() async throws {
        let permitted = try readPermittedSkips()
        let parent = try LocalCluster.parentDirectory(directory)
        do {
            try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        } catch {
            throw ToolError(.fileTrouble, "can't make \(output): \(words(of: error))")
        }
        let settings = ChaosTrial.Settings(
            parent: parent, output: output, groups: groups, clients: clients, keep: keep,
            hasNamespaces: ownNamespaces)
        let story = DemoStory()
        var results: [ChaosResult] = []
        for part in rounds.parts {
            var result = await ChaosTrial(part, settings: settings, story: story).run()
            if result.skipped != nil { result.isSkipPermitted = permitted.kinds.contains(part.kind) }
            results.append(result)
        }
        let isGood = results.allSatisfy(\.isGood)
        if common.json {
            try Output.json(Report(good: isGood, kinds: results))
        } else {
            try Output.line(Self.text(results))
        }
        if !isGood { throw Outcome(.negative) }
    }

    private func readPermittedSkips() throws -> PermittedSkips {
        guard let permittedSkips else { return PermittedSkips() }
        let input = try InputFile(opening: permittedSkips)
        defer { input.close() }
        do {
            return try PermittedSkips(parsing: input.readAll(bytesMax: 1 << 20).string)
        } catch let error as ValidationError {
            throw ToolError(.badData, "\(permittedSkips), \(error.message)")
        }
    }

    private static func text(_ results: [ChaosResult]) -> String {
        var table = Table([
            ("kind", .left), ("rounds", .right), ("seconds", .right), ("operations", .right), ("unknown", .right),
            ("history", .left), ("result", .left),
        ])
        var lines: [String] = []
        for result in results {
            let words =
                if let reason = result.skipped {
                    "skipped\(result.isSkipPermitted == true ? "" : ", NOT permitted"): \(reason)"
                } else {
                    result.problems.isEmpty ? "good" : HumanText.count(result.problems.count, "problem").uppercased()
                }
            table.add([
                "\(result.kind)", "\(result.roundsDone)/\(result.rounds)", HumanText.fixed(result.seconds, 1),
                HumanText.grouped(UInt64(result.operations)), HumanText.grouped(UInt64(result.unknownOutcomes)),
                result.verdict?.rawValue ?? "-", words,
            ])
            lines += result.problems.map { "\(result.kind): \($0)" }
            lines += [result.picture, result.problems.isEmpty ? nil : result.history, result.directory]
                .compactMap(\.self).map { "\(result.kind): see \($0)" }
        }
        return ([table.text] + lines).joined(separator: "\n")
    }
}
