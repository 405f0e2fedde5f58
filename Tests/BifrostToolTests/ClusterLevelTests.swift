// Which level a cluster is raised to, who holds it back, and what is waited for.

import BifrostTool
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct ClusterLevelTests {
    private func map(_ level: UInt32, registered: [UInt32]) throws -> ClusterMap {
        try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2),
            hosts: registered.enumerated().map { place, registered in
                HostRecord(
                    id: HostID(UInt64(place + 1)), name: "h", address: "127.0.0.1:700\(place + 1)",
                    incarnation: Incarnation(UInt64(place + 1)), featureLevel: registered)
            }, groups: 1, replicas: 3, featureLevel: level)
    }

    /// - Parameter named: 0: it does not answer.
    private func decide(
        _ level: UInt32, registered: [UInt32], named: [UInt32]? = nil, to wanted: UInt32? = nil
    ) throws -> String {
        let map = try map(level, registered: registered)
        let accounts = zip(map.hosts, named ?? registered).map { host, level in
            guard level > 0 else { return HostAccount(host: host, status: nil, problem: "connection refused") }
            var status = HostStatus()
            status.cluster = map.cluster
            status.host = host.id
            status.featureLevel = level
            return HostAccount(host: host, status: status)
        }
        do {
            switch try ClusterLevels(map, accounts).decide(wanted) {
            case .there: return "there"
            case .raise(let level): return "raise to \(level)"
            case .wait(let lines): return "wait: \(lines.joined(separator: "; "))"
            }
        } catch { return "\(error.status): \(error.message)" }
    }

    @Test func eachLevelHasItsWords() {
        for level in FeatureLevel.first...FeatureLevel.current {
            #expect(!ClusterLevels.words(level).contains("unknown"))
        }
        #expect(ClusterLevels.words(FeatureLevel.current + 1).contains("unknown"))
    }

    @Test func itIsRaisedToWhatAllHostsKnow() throws {
        #expect(try decide(2, registered: [4, 4, 4]) == "raise to 4")
        #expect(try decide(1, registered: [4, 4, 4]) == "raise to 4")
        #expect(try decide(2, registered: [4, 3, 4]) == "raise to 3")
        #expect(try decide(2, registered: [4, 4, 4], to: 3) == "raise to 3")
        // A host that is away and registered a level before has it on its disk.
        #expect(try decide(2, registered: [4, 4, 4], named: [4, 0, 4]) == "raise to 4")
        #expect(try decide(4, registered: [4, 4, 4]) == "there")
        #expect(try decide(2, registered: [4, 2, 4]) == "there")
        #expect(try decide(4, registered: [4, 4, 4], to: 4) == "there")
        // This program would not understand what follows.
        #expect(try decide(FeatureLevel.current, registered: [99, 99, 99]) == "there")
        #expect(try decide(2, registered: [99, 99, 99]) == "raise to \(FeatureLevel.current)")
    }

    @Test func whoHoldsItBackIsNamed() throws {
        let old = try decide(2, registered: [4, 2, 2], named: [4, 2, 0], to: 4)
        #expect(
            old
                == "negative: feature level 4 needs hosts that all know it, and host 2 (127.0.0.1:7002) registers 2, host "
                + "3 (127.0.0.1:7003) registers 2 and does not answer: start a newer version there, or remove the host; "
                + "nothing was changed")
        #expect(
            try decide(4, registered: [4, 4, 4], to: 3).hasPrefix("negative: the cluster uses feature level 4, which"))
        #expect(
            try decide(4, registered: [99, 99, 99], to: FeatureLevel.current + 1)
                .hasPrefix("usage: this program knows feature levels up to \(FeatureLevel.current)"))
    }

    @Test func hostsThatWereJustUpgradedAreWaitedFor() throws {
        #expect(
            try decide(2, registered: [4, 2, 4], named: [4, 4, 4])
                == "wait: host 2 (127.0.0.1:7002) knows 4, and registers 2 still")
        #expect(
            try decide(2, registered: [4, 2, 4], named: [4, 3, 4]).hasPrefix("wait: host 2 (127.0.0.1:7002) knows 3"))
        #expect(try decide(2, registered: [4, 2, 4], named: [4, 3, 4], to: 4).hasPrefix("negative: "))
        #expect(try decide(2, registered: [4, 3, 4], named: [4, 4, 4], to: 3) == "raise to 3")
        // One that does not answer may just be started.
        for wanted in [nil, 4 as UInt32] {
            #expect(
                try decide(2, registered: [4, 2, 4], named: [4, 0, 4], to: wanted)
                    == "wait: host 2 (127.0.0.1:7002) does not answer, and registers 2 still")
        }
        #expect(try decide(2, registered: [4, 2, 3], named: [4, 0, 3]).hasPrefix("wait: host 2"))
        #expect(try decide(2, registered: [4, 2, 2], named: [4, 0, 2]) == "there")
    }

    /// Two people, and a lost answer: the wish is decided anew on each map.
    @Test func theWishIsThereOnceTheMapHasIt() throws {
        let map = try map(2, registered: [4, 4, 4])
        let wish = MapWish.raiseFeatureLevel(4)
        #expect(try wish.decide(map) == .ask(.raiseFeatureLevel(4)))
        let raised = try #require(MapChange.raiseFeatureLevel(4).applied(to: map))
        #expect(raised.featureLevel == 4 && raised.version == map.version + 1)
        #expect(try wish.decide(raised, past: .unknown(asked: map)) == .there(MapWish.Subject()))
        #expect(try MapWish.raiseFeatureLevel(3).decide(raised) == .there(MapWish.Subject()))
    }
}
