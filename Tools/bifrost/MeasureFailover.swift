// `bifrost measure failover`: how long groups are without a leader when its host dies.

import ArgumentParser
import Bifrost
import Foundation
import Primitives
import RPC
import Ring

struct MeasureFailover: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "Kills hosts, and measures until each of their groups takes a write again.",
        discussion: """
            Kills the host that leads most groups with SIGKILL, writes at once to each group that it led, and takes the \
            time from the signal to the first write that is acknowledged. Then the host is started again, and when all \
            groups are whole and quiet the next one is killed.

            EXAMPLES:
              bifrost measure failover --groups 64 --kills 20
              bifrost measure failover --groups 1000 --kills 5 --json
            """)

    @Option(help: ArgumentHelp("How often a host is killed, 1 to 1000.", valueName: "count"))
    var kills = 5
    @Option(help: ArgumentHelp("Quiet seconds before each kill, so that the groups are at rest.", valueName: "seconds"))
    var quiet = 2.0
    @OptionGroup var options: MeasureOptions

    func validate() throws {
        guard (1...1_000).contains(kills) else { throw ValidationError("--kills takes 1 to 1000, not \(kills)") }
        guard quiet >= 0, quiet <= 600 else { throw ValidationError("--quiet takes 0 to 600 seconds, not \(quiet)") }
        guard options.hosts >= 3 else {
            throw ValidationError("--hosts takes 3 at least here: of fewer none may die, not \(options.hosts)")
        }
    }

    private struct Report: MeasureReport {
        struct Kill: Encodable {
            var host: Int
            var groupsLed: Int
            var firstWrite: MeasureSpread?
            /// From its start until all groups were whole.
            var healedMillis: Double
            /// Of the hosts that lived, from the kill until the last group took a write.
            var survivorsCpuMillis: Double
        }
        var groups: Int
        var hosts: Int
        /// Over all groups of all kills.
        var firstWrite: MeasureSpread?
        /// Groups that took no write within the time.
        var unanswered: Int
        var kills: [Kill]
        var machine: Machine

        var problems: [String] {
            unanswered > 0 ? ["\(HumanText.count(unanswered, "group")) took no write within the time"] : []
        }

        var text: String {
            var table = Table([
                ("kill", .right), ("host", .right), ("led", .right), ("median ms", .right), ("worst ms", .right),
                ("CPU ms", .right), ("healed ms", .right),
            ])
            for (number, kill) in kills.enumerated() {
                table.add([
                    "\(number + 1)", "\(kill.host)", "\(kill.groupsLed)",
                    kill.firstWrite.map { HumanText.fixed($0.medianMillis, 1) } ?? "-",
                    kill.firstWrite.map { HumanText.fixed($0.worstMillis, 1) } ?? "-",
                    HumanText.fixed(kill.survivorsCpuMillis, 1), HumanText.fixed(kill.healedMillis, 0),
                ])
            }
            return [
                table.text, "",
                "first write   \(firstWrite?.text ?? "none") writes, \(groups) groups on \(hosts) hosts",
                machine.line,
            ].joined(separator: "\n")
        }
    }

    func run() async throws {
        try await options.run("failover") { cluster in
            _ = try await cluster.begin()
            var kills: [Report.Kill] = []
            var all: [UInt64] = []
            var unanswered = 0
            for number in 1...self.kills {
                let leaders = try await cluster.waitUntilSettled("before kill \(number)")
                try await Task.sleep(for: .milliseconds(Int64(quiet * 1_000)))
                let (kill, times, missing) = try await self.kill(cluster, leaders)
                cluster.say(
                    "kill \(number) of \(self.kills): host \(kill.host), which led "
                        + "\(HumanText.count(kill.groupsLed, "group")): \(kill.firstWrite?.text ?? "no write")")
                kills.append(kill)
                all += times
                unanswered += missing
            }
            cluster.noteEnds()
            return Report(
                groups: options.groups, hosts: options.hosts, firstWrite: MeasureSpread(all), unanswered: unanswered,
                kills: kills, machine: cluster.machine)
        }
    }

    private func kill(
        _ cluster: MeasuredCluster, _ leaders: [GroupID: HostID]
    ) async throws -> (kill: Report.Kill, times: [UInt64], missing: Int) {
        let led = cluster.local.hosts.map { host in leaders.values.count { $0.rawValue == UInt64(host.number) } }
        let place = led.indices.max { led[$0] < led[$1] } ?? 0
        let victim = cluster.local.hosts[place]
        let keys = cluster.keys.filter { leaders[$0.group]?.rawValue == UInt64(victim.number) }
        let client = try await cluster.connect()
        let patience = options.patience
        let before = try cluster.figures()
        let start = RPCClock.now()
        victim.process?.send(SIGKILL)
        let times = await withTaskGroup(of: UInt64?.self) { group in
            for (_, key) in keys {
                group.addTask { await MeasuredCluster.firstWrite(key, by: client, since: start, within: patience) }
            }
            var times: [UInt64] = []
            for await time in group { if let time { times.append(time) } }
            return times
        }
        var cpu: UInt64 = 0
        for (host, old) in zip(cluster.local.hosts, before) where host.number != victim.number {
            guard let figures = ProcessFigures(of: host.pid) else { continue }
            cpu += figures.cpuNanoseconds - old.cpuNanoseconds
        }
        cluster.local.kill(victim)
        let again = RPCClock.now()
        try cluster.start(victim)
        try await cluster.waitUntilThere(victim)
        try await cluster.waitUntilSettled("after the kill of host \(victim.number)")
        let kill = Report.Kill(
            host: victim.number, groupsLed: keys.count, firstWrite: MeasureSpread(times),
            healedMillis: Double(RPCClock.now().since(again)) / 1e6, survivorsCpuMillis: Double(cpu) / 1e6)
        return (kill, times, keys.count - times.count)
    }
}
