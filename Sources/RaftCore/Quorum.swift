// The arithmetic of majorities, plain and joint (Raft thesis §4.3). Knows nothing of messages or logs.

/// How a vote stands.
package enum VoteOutcome: Sendable { case pending, won, lost }

/// A replica's seat in the two halves of a configuration. Outside of joint consensus nobody sits in `outgoing`.
package struct Seat: Hashable, Sendable {
    package var isVoter: Bool
    package var isOutgoing: Bool
    package init(isVoter: Bool, isOutgoing: Bool) { self.isVoter = isVoter; self.isOutgoing = isOutgoing }
}

/// Decisions over `count` members, told apart by their position. Quadratic in the members, which are few; allocates
/// nothing. Without any voter nothing is ever decided; an empty outgoing half has no say.
package enum Quorum {
    /// The highest value that a majority of each half has reached.
    @inline(__always)
    package static func reached(_ count: Int, seat: (Int) -> Seat, value: (Int) -> UInt64) -> UInt64 {
        var inVoters = 0
        var inOutgoing = 0
        for member in 0..<count {
            let seat = seat(member)
            if seat.isVoter { inVoters += 1 }
            if seat.isOutgoing { inOutgoing += 1 }
        }
        guard inVoters > 0 else { return 0 }
        var best: UInt64 = 0
        for candidate in 0..<count {
            let threshold = value(candidate)
            let seatOfCandidate = seat(candidate)
            guard threshold > best, seatOfCandidate.isVoter || seatOfCandidate.isOutgoing else { continue }
            var voters = 0
            var outgoing = 0
            for member in 0..<count where value(member) >= threshold {
                let seat = seat(member)
                if seat.isVoter { voters += 1 }
                if seat.isOutgoing { outgoing += 1 }
            }
            if voters > inVoters / 2, inOutgoing == 0 || outgoing > inOutgoing / 2 { best = threshold }
        }
        return best
    }

    /// Whether those for whom `holds` is true are a majority of each half.
    @inline(__always)
    package static func holds(_ count: Int, seat: (Int) -> Seat, _ holds: (Int) -> Bool) -> Bool {
        reached(count, seat: seat, value: { holds($0) ? 1 : 0 }) == 1
    }

    /// `vote` is nil for who has not answered. Lost as soon as the missing answers can't turn it.
    @inline(__always)
    package static func outcome(_ count: Int, seat: (Int) -> Seat, vote: (Int) -> Bool?) -> VoteOutcome {
        if holds(count, seat: seat, { vote($0) == true }) { return .won }
        return holds(count, seat: seat, { vote($0) != false }) ? .pending : .lost
    }
}
