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

    /// As other versions see them: they don't change.
    @Test func bytesAreFrozen() {
        func hex(_ bytes: Bytes) -> String {
            bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        func join(_ parts: String...) -> String { parts.joined() }
        func long(_ byte: String) -> String { byte + "00000000000000" }
        #expect(ClusterMethod.rebalancing == 9)
        #expect(hex(RebalancingRequest().encoded()) == "0100")
        let auto = AutoRebalancing(
            limits: Rebalancing.Limits(concurrentMax: 3, bytesPerSecondMax: 5, pauseMillisMax: 50))
        let order = join("01", "03000000", long("05"), "32000000")
        var kept = standing
        kept.auto = AutoStanding(auto: auto, wait: .rebalancing(RebalancingID(4)))
        let head = join(
            "01", long("04"), long("05"), long("03"), "04000000", long("00"), "00000000", "01", "03000000")
        let states = ["03", "01", "01"]
        let steps = states.enumerated().map { place, state in
            join(
                state, "02", "00", long("07"), long("00"), "00000000", "01", "01000000", "02000000", "02000000",
                "0\(place)00", "0100", "0900", "0100")
        }
        let there = join(
            long("0c"), head, steps.joined(), "00", "01", "01", long("00"), long("00"), "01", "03", long("01"),
            long("00"))
        let replies: [(RebalancingReply, String)] = [
            (.nothing(nil), join("0100", "00", "00")),
            (.nothing(AutoStanding(auto: auto, wait: nil)), join("0100", "00", "01", order, "00")),
            (.there(standing), join("0100", "01", there, "00")),
            (.there(kept), join("0100", "01", there, "01", order, "01", "01", long("04"))),
            (.notLeader(address: "a"), join("0100", "02", "01000000", "61")),
            (.refused("no"), join("0100", "03", "02000000", "6e6f")),
        ]
        for (reply, bytes) in replies { #expect(hex(reply.encoded()) == bytes) }
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
        #expect(standing.isBlocked { $0 == 1 } && !standing.isBlocked { $0 == 2 })
        for place in standing.rebalancing.steps.indices { standing.rebalancing.steps[place].state = .done }
        standing.waits = [nil, nil, nil]
        #expect(!standing.isBlocked && !standing.isBlocked { _ in true })
    }
}
