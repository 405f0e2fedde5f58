// Asking the meta group's leader for rebalancing: to begin a plan, to set what is under way otherwise, and how it stands.

import Messages
import Primitives
import RPC
import Ring
import StateMachines

extension Administrator {
    /// Begins a plan. Sent again while nobody answers: with its token it is begun once.
    ///
    /// - Throws: `stale` if what it moves has changed since; `negative` if another one is under way, or it is refused.
    func begin(_ plan: RebalancingPlan) async throws(ToolError) -> RebalancingID {
        try await rebalancingCommand(.beginRebalancing(plan))
    }

    func set(_ id: RebalancingID, _ wish: Rebalancing.Wish) async throws(ToolError) {
        _ = try await rebalancingCommand(.setRebalancing(id, wish))
    }

    /// From now on the cluster keeps the balance by itself, or not any more (nil).
    func set(auto: AutoRebalancing?) async throws(ToolError) {
        _ = try await rebalancingCommand(.setAuto(auto))
    }

    /// What it says twice it says once: it is asked until somebody answers.
    private func rebalancingCommand(_ command: MetaCommand) async throws(ToolError) -> RebalancingID {
        // Without a map nobody but the first addresses is known.
        _ = try await map()
        var isDoubtful = false
        while true {
            let answer = try await administer(command)
            isDoubtful = isDoubtful || answer.isDoubtful
            switch answer.reply {
            case .done(let bytes):
                do throws(DecodingFailure) {
                    return RebalancingID(try MetaOutcome(decoding: bytes).mapVersion)
                } catch {
                    throw ToolError(.fault, "the meta group's answer can't be read: \(error); it was carried out")
                }
            case .refused(let text):
                let isStale = text.hasPrefix(Rebalancing.staleWord)
                throw ToolError(
                    isStale ? .stale : .negative,
                    isStale ? "\(text); nothing was begun: run it again" : "\(text); nothing was changed")
            case .notLeader, .outcomeUnknown:
                guard !isOver else {
                    throw isDoubtful
                        ? ToolError(
                            .outcomeUnknown,
                            "it may have been carried out or not: look with 'bifrost rebalance status'")
                        : ToolError(
                            .unavailable, "no host took it within the time (\(answer.why)); nothing was changed")
                }
                try await sleep(Self.pause)
            }
        }
    }

    /// As the meta group's leader has it; nil: there was none.
    ///
    /// - Parameter end: no longer than until then, if that is before the command's time is over.
    func rebalancing(until end: Instant) async throws(ToolError) -> RebalancingStanding? {
        try await balance(until: end).standing
    }

    /// The same, and whether the cluster keeps the balance by itself; nil: it does not.
    func balance(
        until end: Instant
    ) async throws(ToolError) -> (standing: RebalancingStanding?, auto: AutoStanding?) {
        var hint: String?
        var turn = 0
        var why = "no host answered"
        repeat {
            let candidates = addresses
            let address = hint ?? candidates[turn % candidates.count]
            if hint == nil { turn += 1 }
            hint = nil
            do throws(ToolError) {
                switch try await probe(address).rebalancing(deadline: share(Self.shareNanoseconds)) {
                case .nothing(let auto): return (nil, auto)
                case .there(let standing): return (standing, standing.auto)
                case .refused(let text): throw ToolError(.negative, "\(address) refused: \(text)")
                case .notLeader(let leader):
                    why = leader.isEmpty ? "\(address) knows no leader of the meta group" : "\(leader) leads"
                    if !leader.isEmpty, leader != address {
                        hint = leader
                        continue
                    }
                }
            } catch {
                if error.status == .fault || error.status == .negative { throw error }
                why = "\(address): \(error.message)"
            }
            if turn % candidates.count == 0 { try await sleep(Self.pause) }
        } while !isOver && RPCClock.now() < end
        throw ToolError(.unavailable, "the meta group's leader does not answer (\(why))")
    }
}
