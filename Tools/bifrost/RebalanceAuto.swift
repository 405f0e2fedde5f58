// `bifrost rebalance auto`: whether the cluster keeps the balance by itself, and within which limits. When it does what is
// the meta group's leader's business.

import ArgumentParser
import Bifrost
import Messages
import Primitives
import RPC
import Ring
import StateMachines

struct RebalanceAuto: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "auto", abstract: "Lets the cluster keep the balance by itself, or not any more.",
        discussion: """
            On, the leader of the meta group asks each group's leader each minute what its slots have, and plans. It begins \
            a rebalancing when two looks one after the other found that it is worth it: a group without slots or a host \
            without replicas, a host or a group that is to have nothing, uneven zones, leads more than 20 % out of bounds; \
            or bytes more than 20 % out of bounds, of which 64 MiB have to be written. It plans to the bounds of 'bifrost \
            rebalance plan' (10 %), by bytes and numbers of leads: never by operations per second. Five minutes are between \
            the end of one and the next look, half an hour if steps failed.

            It waits, and 'status' says for what, while a rebalancing is under way (or paused), slots move, members of a \
            group change, or a host does not answer.

            Off, nothing begins by itself any more; what is under way goes to its end ('bifrost rebalance cancel' ends that, \
            too). A recovery turns it off. Without a word, it says how it stands. It needs feature level 11.

            EXIT CODES: 0 it is as it should be; else as 'bifrost --help' says. With --json 'on' is true or false, and 'auto' \
            has limits and wait where it is on.

            EXAMPLES:
              bifrost rebalance auto on --max-concurrent 2 --max-bytes-per-second 20MiB --max-pause 50ms
              bifrost rebalance auto
              bifrost rebalance auto off
            """)

    enum Wish: String, ExpressibleByArgument, CaseIterable {
        case on, off, status
    }

    @Argument(help: "on, off or status.")
    var wish = Wish.status

    @OptionGroup var limits: RebalanceLimits
    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        var on: Bool
        /// nil: it is off.
        var auto: AutoReport?
        var changed: Bool
        var done = true

        init(_ auto: AutoReport?, changed: Bool) {
            on = auto != nil
            self.auto = auto
            self.changed = changed
        }
    }

    private static let lookNanoseconds: UInt64 = 10_000_000_000

    func validate() throws {
        if wish != .on, limits.isGiven {
            throw ValidationError("limits are given with 'on', not with '\(wish.rawValue)'")
        }
    }

    func run() async throws {
        switch wish {
        case .on: try await Self.turnOn(limits, options)
        case .off:
            let administrator = Administrator(options, timeout: ClientOptions.timeout)
            defer { administrator.close() }
            try await Self.turnOff(administrator, options)
        case .status:
            let administrator = Administrator(options, timeout: ClientOptions.timeout)
            defer { administrator.close() }
            let auto = try await Self.standing(administrator).map { AutoReport($0) }
            if options.common.json { return try Output.json(Report(auto, changed: false)) }
            try Output.line(auto?.text ?? "the cluster does not rebalance by itself")
        }
    }

    private static func standing(_ administrator: Administrator) async throws -> AutoStanding? {
        _ = try await administrator.map()
        return try await administrator.balance(until: RPCClock.now() + lookNanoseconds).auto
    }

    /// Limits that are not named stay, if it is on already.
    static func turnOn(_ limits: RebalanceLimits, _ options: ClientOptions) async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        let present = try await standing(administrator)?.auto
        let auto = AutoRebalancing(limits: limits.over(present?.limits ?? Rebalancing.Limits()))
        if auto != present { try await administrator.set(auto: auto) }
        let report = AutoReport(AutoStanding(auto: auto, wait: nil))
        if options.common.json { return try Output.json(Report(report, changed: auto != present)) }
        try Output.line("the cluster keeps the balance by itself from now on: see 'bifrost rebalance auto'")
    }

    static func turnOff(_ administrator: Administrator, _ options: ClientOptions) async throws {
        let isOn = try await standing(administrator) != nil
        if isOn { try await administrator.set(auto: nil) }
        if options.common.json { return try Output.json(Report(nil, changed: isOn)) }
        try Output.line(
            isOn
                ? "the cluster begins no rebalancing by itself any more; what is under way goes to its end"
                : "the cluster does not rebalance by itself")
    }
}
