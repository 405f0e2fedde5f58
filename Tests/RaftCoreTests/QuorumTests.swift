// Majorities, plain and joint, against their definition, for every configuration and every set of answers of up to
// seven.

import RaftCore
import Testing

@Suite struct QuorumTests {
    /// All ways to seat up to `members` replicas: each a voter, outgoing, both or neither.
    private static func seatings(_ members: Int) -> [[Seat]] {
        (0..<(1 << (2 * members))).map { code in
            (0..<members).map { Seat(isVoter: code >> (2 * $0) & 1 == 1, isOutgoing: code >> (2 * $0 + 1) & 1 == 1) }
        }
    }

    /// The definition: more than half of the voters, and of the outgoing voters if there are any.
    private static func isMajority(_ seats: [Seat], _ set: Int) -> Bool {
        func half(_ belongs: (Seat) -> Bool) -> Bool? {
            let all = seats.indices.filter { belongs(seats[$0]) }
            return all.isEmpty ? nil : 2 * all.filter { set >> $0 & 1 == 1 }.count > all.count
        }
        return (half(\.isVoter) ?? false) && (half(\.isOutgoing) ?? true)
    }

    @Test func votesAreDecidedExactlyWhenTheDefinitionSaysSo() {
        var wrong = 0
        for members in 1...5 {
            for seats in Self.seatings(members) {
                // Every member granted, refused or silent.
                var answers = Array(repeating: 0, count: members)
                repeat {
                    var granted = 0
                    var notRefused = 0
                    for member in 0..<members {
                        if answers[member] == 1 { granted |= 1 << member }
                        if answers[member] != 2 { notRefused |= 1 << member }
                    }
                    let outcome = Quorum.outcome(
                        members, seat: { seats[$0] }, vote: { answers[$0] == 0 ? nil : answers[$0] == 1 })
                    let expected: VoteOutcome =
                        Self.isMajority(seats, granted) ? .won : Self.isMajority(seats, notRefused) ? .pending : .lost
                    if outcome != expected { wrong += 1 }
                } while Self.advance(&answers, base: 3)
            }
        }
        #expect(wrong == 0)
    }

    @Test func majoritiesOfSevenMatchTheDefinitionForEverySubset() {
        var wrong = 0
        for members in 6...7 {
            for seats in Self.seatings(members) {
                for set in 0..<(1 << members) {
                    let holds = Quorum.holds(members, seat: { seats[$0] }, { set >> $0 & 1 == 1 })
                    if holds != Self.isMajority(seats, set) { wrong += 1 }
                }
            }
        }
        #expect(wrong == 0)
    }

    @Test func theCommittedIndexIsTheHighestThatAMajorityReached() {
        var wrong = 0
        for members in 1...5 {
            for seats in Self.seatings(members) {
                var values = Array(repeating: 0, count: members)
                repeat {
                    let reached = Quorum.reached(members, seat: { seats[$0] }, value: { UInt64(values[$0]) })
                    var expected: UInt64 = 0
                    for index in 1...3 {
                        var set = 0
                        for member in 0..<members where values[member] >= index { set |= 1 << member }
                        if Self.isMajority(seats, set) { expected = UInt64(index) }
                    }
                    if reached != expected { wrong += 1 }
                } while Self.advance(&values, base: 4)
            }
        }
        #expect(wrong == 0)
    }

    @Test func theCommittedIndexOfSevenPlainVotersMatchesSorting() {
        var wrong = 0
        for members in 6...7 {
            var values = Array(repeating: 0, count: members)
            repeat {
                let reached = Quorum.reached(
                    members, seat: { _ in Seat(isVoter: true, isOutgoing: false) }, value: { UInt64(values[$0]) })
                let sorted = values.sorted(by: >)
                if reached != UInt64(sorted[members / 2]) { wrong += 1 }
            } while Self.advance(&values, base: 5)
        }
        #expect(wrong == 0)
    }

    /// What safety rests on, through a whole change: whoever decides before the joint configuration and whoever decides
    /// in it have a replica in common, and so have whoever decides in it and after it. Learners add nothing to either.
    /// The old and the new majority alone need not meet: so nobody may go from one to the other directly.
    @Test func majoritiesOfNeighbouringConfigurationsAlwaysMeet() {
        var disjoint = 0
        var disjointWithoutJoint = 0
        var swayedByLearners = 0
        for members in 1...5 {
            for seats in Self.seatings(members) where seats.contains(where: \.isVoter) {
                guard seats.contains(where: \.isOutgoing) else { continue }
                let learners = seats.indices.reduce(0) {
                    seats[$1].isVoter || seats[$1].isOutgoing ? $0 : $0 | 1 << $1
                }
                func deciding(_ seat: (Seat) -> Seat) -> [Int] {
                    (0..<(1 << members)).filter { set in
                        Quorum.holds(members, seat: { seat(seats[$0]) }, { set >> $0 & 1 == 1 })
                    }
                }
                let before = deciding { Seat(isVoter: $0.isOutgoing, isOutgoing: false) }
                let joint = deciding { $0 }
                let after = deciding { Seat(isVoter: $0.isVoter, isOutgoing: false) }
                for set in joint {
                    disjoint += before.filter { $0 & set == 0 }.count + after.filter { $0 & set == 0 }.count
                    disjoint += joint.filter { $0 & set == 0 }.count
                    if !joint.contains(set & ~learners) { swayedByLearners += 1 }
                }
                for set in before where after.contains(where: { $0 & set == 0 }) { disjointWithoutJoint += 1 }
            }
        }
        #expect(disjoint == 0 && swayedByLearners == 0)
        #expect(disjointWithoutJoint > 0)
    }

    private static func advance(_ digits: inout [Int], base: Int) -> Bool {
        for position in digits.indices {
            digits[position] += 1
            if digits[position] < base { return true }
            digits[position] = 0
        }
        return false
    }
}
