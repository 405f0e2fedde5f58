// Handing over leadership (Raft thesis §3.10): the leader stops taking proposals, brings its successor up to date,
// tells it to stand for election at once, and goes on leading if that does not come about within an election timeout.

public import Primitives

public enum TransferResult: Hashable, Sendable {
    /// Under way. Ends with another leader, or after an election timeout in ticks with this one as before.
    case accepted
    case refused(TransferRefusal)
}

public enum TransferRefusal: Hashable, Sendable {
    case notLeader
    /// To the leader itself.
    case alreadyLeader
    /// No member of the configuration in effect.
    case unknown
    /// A learner, or a voter that is on its way out.
    case notVoter
    /// Another transfer is under way.
    case inFlight(ReplicaID)
}

extension RaftCore {
    /// Hands leadership over to `target`. Until that ends, proposals are `.overloaded`. From now on `mayUseLease` is
    /// false for the rest of this term, also if the transfer comes to nothing: the request to stand for election may
    /// still be under way. O(members).
    public mutating func transfer(to target: ReplicaID) -> TransferResult {
        guard role == .leader else { return .refused(.notLeader) }
        guard target != replica else { return .refused(.alreadyLeader) }
        guard let position = position(of: target) else { return .refused(.unknown) }
        guard progress[position].seat.isVoter else { return .refused(.notVoter) }
        guard transferTarget == .none || transferTarget == target else { return .refused(.inFlight(transferTarget)) }
        if transferTarget == .none {
            transferTarget = target
            transferElapsed = 0
            isTimeoutNowSent = false
            transferTerm = term
        }
        hasWork = true
        return .accepted
    }

    /// Who is to lead next; nil outside of a transfer.
    public var transferee: ReplicaID? { transferTarget == .none ? nil : transferTarget }

    /// Whether reads may rely on a lease at all: this replica leads, knows how far its predecessors got, and has not
    /// asked anybody in this term to stand for election, who need not wait for a lease to end.
    public var mayUseLease: Bool { isEstablished && (transferTerm != term || isPlanted("lease-after-transfer")) }

    mutating func ageTransfer() {
        guard transferTarget != .none else { return }
        transferElapsed += 1
        if transferElapsed >= settings.electionTicks {
            endTransfer()
            hasWork = true
        }
    }

    mutating func endTransfer() { transferTarget = .none }

    /// Asks the target as soon as it has everything, and again with each heartbeat, since one may be lost.
    mutating func pursueTransfer() {
        guard let position = position(of: transferTarget), progress[position].match == log.last, !isTimeoutNowSent
        else {
            return
        }
        isTimeoutNowSent = true
        sendTimeoutNow(to: transferTarget)
    }

    mutating func sendTimeoutNow(to target: ReplicaID) {
        queue(RaftMessage(kind: .timeoutNow, from: replica, to: target, term: term, index: log.last))
    }

    mutating func receiveTimeoutNow(_ message: RaftMessage) {
        if role == .leader || leader != .none && leader != message.from {
            // Only the leader of this term says so.
            statistics.surprises += 1
            return
        }
        // A candidate of this term is on its way already.
        guard role != .candidate, isPromotable else { return }
        statistics.campaigns += 1
        becomeCandidate(byTransfer: true)
    }
}
