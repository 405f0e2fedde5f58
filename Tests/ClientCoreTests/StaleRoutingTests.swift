// Reads that any replica may answer go to each in turn.

import ClientCore
import Messages
import Primitives
import Testing

@Suite struct StaleRoutingTests {
    /// The hosts that were asked, in order.
    private func asked(_ scenario: Scenario) -> [String] {
        scenario.lines.filter { $0.contains("send") }.compactMap { line in
            line.split(separator: ":")[0].split(separator: " ").last.map(String.init)
        }
    }

    @Test func eachReplicaHasItsTurnAndWhoIsAwayIsLeftOut() {
        var scenario = Scenario.ready()
        for tag in 1...3 as ClosedRange<UInt64> { scenario.getStale(tag) }
        #expect(Set(asked(scenario)) == ["1", "2", "3"], "\(scenario.transcript)")
        for tag in 1...3 as ClosedRange<UInt64> { scenario.done(tag) }
        scenario.down(2)
        scenario.lines.removeAll()
        for tag in 4...7 as ClosedRange<UInt64> { scenario.getStale(tag) }
        #expect(asked(scenario).count == 4 && Set(asked(scenario)) == ["1", "3"], "\(scenario.transcript)")
    }

    @Test func whoCanNotAnswerIsFollowedByAnother() {
        var scenario = Scenario.ready()
        scenario.getStale(1)
        let first = asked(scenario)
        scenario.refuse(1, .notLeader(leader: HostID(0), term: Term(1)))
        scenario.lines.removeAll()
        scenario.pass(50)
        let second = asked(scenario)
        #expect(first.count == 1 && second.count == 1 && first != second, "\(scenario.transcript)")
        scenario.done(1)
        #expect(scenario.failures.isEmpty)
    }
}
