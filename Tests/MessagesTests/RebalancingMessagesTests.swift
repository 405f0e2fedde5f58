import Messages
import Primitives
import Ring
import Testing

/// What is asked of the meta group's leader about rebalancing, and answered.
@Suite struct RebalancingMessagesTests {
    private var standing: RebalancingStanding {
        let steps = (0..<3).map {
            Rebalancing.Step(
                .slots([Slot(UInt16($0)), Slot(9)], from: GroupID(1), to: GroupID(2)), .groupIsNew, bytes: 7,
                state: $0 == 0 ? .done : .waiting)
        }
        return RebalancingStanding(
            mapVersion: 12,
            rebalancing: Rebalancing(id: RebalancingID(4), token: 5, plannedVersion: 3, isPaused: true, steps: steps),
            waits: [nil, .resumption, .step(1)])
    }

    @Test func answersComeBackFromTheirBytes() throws {
        var kept = standing
        let auto = AutoRebalancing(limits: Rebalancing.Limits(concurrentMax: 3))
        kept.auto = AutoStanding(auto: auto, wait: .rebalancing(RebalancingID(4)))
        for reply in [
            .nothing(nil), .nothing(AutoStanding(auto: auto, wait: nil)), .there(standing), .there(kept),
            .notLeader(address: "10.0.0.1:7001"), .notLeader(address: ""), .refused("no"),
        ] as [RebalancingReply] {
            let bytes = reply.encoded()
            #expect(try RebalancingReply(decoding: bytes) == reply)
            for count in 0..<bytes.count {
                #expect(throws: DecodingFailure.self) { try RebalancingReply(decoding: bytes[0..<count]) }
            }
        }
        #expect(try RebalancingRequest(decoding: RebalancingRequest().encoded()) == RebalancingRequest())
        #expect(throws: DecodingFailure.self) { try RebalancingReply(decoding: Bytes([1, 0, 4])) }
        #expect(throws: DecodingFailure.self) { try RebalancingReply(decoding: Bytes([2, 0, 0])) }
        #expect(throws: DecodingFailure.self) { try RebalancingRequest(decoding: Bytes([2, 0])) }
    }

    @Test func itIsBlockedWhenAllThatIsOpenWaitsForSomebody() {
        var standing = standing
        #expect(standing.isBlocked)
        standing.waits[2] = nil
        #expect(!standing.isBlocked)
        standing.waits = [nil, .host(HostID(3)), .turn(underway: 1, most: 1)]
        #expect(standing.isBlocked)
        standing.waits[1] = .members(GroupID(1))
        #expect(!standing.isBlocked)
        for place in standing.rebalancing.steps.indices { standing.rebalancing.steps[place].state = .done }
        standing.waits = [nil, nil, nil]
        #expect(!standing.isBlocked)
    }
}
