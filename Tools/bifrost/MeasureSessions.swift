// `bifrost measure sessions`: what it costs to keep sessions alive.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC
import StateMachines

struct MeasureSessions: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sessions", abstract: "Measures what it costs to keep many clients' sessions alive.",
        discussion: """
            Opens --sessions sessions, spread over the groups, and keeps each alive every third of --ttl with a command of \
            its own, as clients do, evenly spread, for --seconds. The processor time of the hosts is compared to that of \
            the same time before. At the end all sessions have to be there.

            EXAMPLE: bifrost measure sessions --sessions 100000 --groups 64
            """)

    @Option(help: ArgumentHelp("Sessions, of as many clients.", valueName: "count")) var sessions = 10_000
    @Option(help: ArgumentHelp("Each says a word every third of this, as if it lived so long.", valueName: "seconds"))
    var ttl = 30.0
    @Option(help: ArgumentHelp("How long to measure.", valueName: "seconds")) var seconds = 30.0
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard sessions >= 1, sessions <= 1_000_000, ttl >= 1, ttl <= 3_600, seconds > 0, seconds <= 3_600 else {
            throw ValidationError(
                "--sessions takes 1 to 1000000, --ttl 1 to 3600 and --seconds above 0 to 3600, not \(sessions), \(ttl) "
                    + "and \(seconds)")
        }
    }

    private struct Report: MeasureReport {
        var sessions: Int
        var groups: Int
        var ttlSeconds: Double
        var seconds: Double
        /// Until all were open.
        var openedMillis: Double
        var keepAlives: Int
        var keepAlivesPerSecond: Double
        /// Of all hosts together, in percent of a core, before there was any and while they were kept alive.
        var idleCpuPercent: Double
        var cpuPercent: Double
        var cpuMicrosPerKeepAlive: Double
        var latency: MeasureSpread?
        /// Of all hosts together, beyond what they had before.
        var bytesPerSession: Double
        /// That were not there any more when they were kept alive.
        var lost: Int
        var failed: Int
        var machine: Machine

        var problems: [String] {
            lost + failed > 0 ? ["\(lost) sessions were lost, and \(failed) keep-alives failed"] : []
        }

        var text: String {
            [
                "sessions      \(HumanText.grouped(UInt64(sessions))) in \(groups) groups, open after "
                    + "\(HumanText.fixed(openedMillis / 1_000, 2)) s, \(HumanText.fixed(bytesPerSession, 0)) bytes each "
                    + "in all hosts together",
                "keep-alives   \(HumanText.fixed(keepAlivesPerSecond, 0))/s over \(HumanText.fixed(seconds, 1)) s, "
                    + "\(latency?.text ?? "none")",
                "processor     \(HumanText.fixed(cpuPercent, 1)) % of a core, \(HumanText.fixed(idleCpuPercent, 1)) % "
                    + "before; \(HumanText.fixed(cpuMicrosPerKeepAlive, 2)) µs for each keep-alive, all hosts together",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    /// What became of one command.
    private enum Outcome: Sendable {
        case opened(Int, SessionID)
        case kept(nanoseconds: UInt64, isThere: Bool)
        case failed
    }

    func run() async throws {
        try await options.run("sessions") { cluster in
            _ = try await cluster.begin()
            try await cluster.waitUntilSettled("waiting until all is quiet")
            let groups = cluster.keys.map(\.group)
            await cluster.disconnect()
            cluster.say("measuring without sessions for \(HumanText.fixed(seconds, 1)) s")
            let idle = try cluster.figures()
            try await Task.sleep(for: .milliseconds(Int64(seconds * 1_000)))
            let quiet = try cluster.figures()

            var own = ClusterOptions()
            own.hasSessions = false
            own.operationsMax = 131_072
            own.name = "measure"
            own.timeout = .seconds(120)
            let client = try await Cluster.connect(to: cluster.local.hosts.map(\.address), options: own)
            defer { Task { await client.close() } }
            let start = RPCClock.now()
            let ids = try await open(groups, by: client)
            let opened = RPCClock.now().since(start)
            cluster.say("measuring \(sessions) sessions for \(HumanText.fixed(seconds, 1)) s")
            // The first round is none of it: hosts have just taken in the commands that opened them.
            _ = await keepAlive(ids, groups, seconds: min(ttl / 3, seconds), by: client)
            let before = try cluster.figures()
            let begin = RPCClock.now()
            let outcomes = await keepAlive(ids, groups, seconds: seconds, by: client)
            let after = try cluster.figures()
            let time = Double(RPCClock.now().since(begin))

            func cpu(_ from: [ProcessFigures], _ to: [ProcessFigures]) -> Double {
                zip(from, to).reduce(0) { $0 + Double($1.1.cpuNanoseconds - $1.0.cpuNanoseconds) }
            }
            var times: [UInt64] = []
            var (lost, failed) = (0, 0)
            for outcome in outcomes {
                switch outcome {
                case .kept(let nanoseconds, let isThere):
                    times.append(nanoseconds)
                    if !isThere { lost += 1 }
                case .failed, .opened: failed += 1
                }
            }
            let idleShare = cpu(idle, quiet) / (seconds * 1e9)
            let memory = zip(quiet, before).reduce(0) {
                $0 + Double($1.1.residentBytes) - Double($1.0.residentBytes)
            }
            return Report(
                sessions: sessions, groups: groups.count, ttlSeconds: ttl, seconds: time / 1e9,
                openedMillis: Double(opened) / 1e6, keepAlives: times.count,
                keepAlivesPerSecond: Double(times.count) / (time / 1e9), idleCpuPercent: idleShare * 100,
                cpuPercent: cpu(before, after) / time * 100,
                cpuMicrosPerKeepAlive: (cpu(before, after) - idleShare * time) / 1e3 / Double(max(1, times.count)),
                latency: MeasureSpread(times), bytesPerSession: max(0, memory) / Double(sessions), lost: lost,
                failed: failed, machine: cluster.machine)
        }
    }

    private func open(_ groups: [GroupID], by client: Cluster) async throws -> [SessionID] {
        // Nobody keeps the first ones while the last are opened.
        let generous = UInt64(max(ttl, 600) * 1_000)
        return try await withThrowingTaskGroup(of: Outcome.self) { tasks in
            var ids = [SessionID](repeating: .none, count: sessions)
            var next = 0
            func add() {
                guard next < sessions else { return }
                let (place, group) = (next, groups[next % groups.count])
                next += 1
                tasks.addTask {
                    let command = SessionCommand.open(timeToLive: generous, nonce: UInt64.random(in: 1...UInt64.max))
                    var reader = ByteReader(try await client.submit(command, in: group, timeout: nil))
                    return .opened(place, try reader.read())
                }
            }
            for _ in 0..<2_048 { add() }
            for try await outcome in tasks {
                if case .opened(let place, let id) = outcome { ids[place] = id }
                add()
            }
            return ids
        }
    }

    /// Each of them every third of its time.
    private func keepAlive(
        _ ids: [SessionID], _ groups: [GroupID], seconds: Double, by client: Cluster
    ) async -> [Outcome] {
        await withTaskGroup(of: Outcome.self) { tasks in
            let perSecond = Double(ids.count) / (ttl / 3)
            let start = ContinuousClock.now
            var sent = 0
            while true {
                let elapsed = (ContinuousClock.now - start) / .seconds(1)
                guard elapsed < seconds else { break }
                while Double(sent) < elapsed * perSecond {
                    let place = sent % ids.count
                    let (id, group) = (ids[place], groups[place % groups.count])
                    sent += 1
                    tasks.addTask {
                        let begin = RPCClock.now()
                        let command = SessionCommand.keepAlive([.init(id: id, firstUnacknowledged: 1)])
                        guard let missing = try? await client.submit(command, in: group, timeout: nil) else {
                            return .failed
                        }
                        return .kept(nanoseconds: RPCClock.now().since(begin), isThere: missing.isEmpty)
                    }
                }
                try? await Task.sleep(for: .milliseconds(5))
            }
            var outcomes: [Outcome] = []
            for await outcome in tasks { outcomes.append(outcome) }
            return outcomes
        }
    }
}
