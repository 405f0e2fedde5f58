// Hosts that are started with newer versions: the map hears of it, and the cluster's level can be raised.

import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage
import Testing

@Suite struct LevelHostTests {
    private let top = FeatureLevel.current

    private func levels(_ trio: Trio, at place: Int = 0) -> [UInt32] {
        trio.hosts[place].core.map?.hosts.map(\.featureLevel) ?? []
    }

    /// Asks every host until the meta group's leader answers: the map's version then, or why not.
    private func raise(_ trio: Trio, to level: UInt32, token: UInt64) throws -> String {
        for _ in 0..<200 {
            for host in trio.hosts {
                host.core.administer(
                    MetaCommand.change(.raiseFeatureLevel(level)).payload(), call: CallToken(rawValue: token))
            }
            try trio.tick()
            if trio.hosts.contains(where: { $0.isDone(token) }) { return "" }
            for host in trio.hosts {
                if case .invalid(let why)? = host.refusal(token), !why.contains("no cluster yet") { return why }
            }
        }
        throw DiskError(.misuse, "nobody took the command")
    }

    @Test func newerHostsAreWrittenDownOnceAndNothingElseOfTheirRecordsChanges() throws {
        let trio = try Trio(groups: 2, registered: [2, 2, 2])
        _ = try trio.leader(of: .meta)
        try trio.tick(100)
        for place in 0..<3 {
            #expect(levels(trio, at: place) == [top, top, top])
            let map = try #require(trio.hosts[place].core.map)
            #expect(map.featureLevel == 2 && map.version == trio.map.version + 3, "each host once")
            for (now, before) in zip(map.hosts, trio.map.hosts) {
                var expected = before
                expected.featureLevel = top
                #expect(now == expected)
            }
        }
        let last = trio.hosts[0].inspection(of: .meta)?.last
        try trio.tick(2_000)
        #expect(trio.hosts[0].inspection(of: .meta)?.last == last, "quiet when nothing differs")
        #expect(trio.hosts.map(\.activeCount) == [0, 0, 0])
        #expect(try raise(trio, to: top, token: 1).isEmpty)
        try trio.tick(20)
        #expect(trio.hosts.allSatisfy { $0.core.map?.featureLevel == top })
        // Again, by somebody who has not heard of it: nothing changes.
        let version = trio.hosts[0].core.map?.version
        #expect(try raise(trio, to: top, token: 2).isEmpty)
        #expect(try raise(trio, to: 3, token: 3).contains("may not go back to 3"))
        try trio.tick(20)
        #expect(trio.hosts.allSatisfy { $0.core.map?.version == version })
    }

    /// A cluster of the first version's level: its replicas could not read commands from 3 on.
    @Test(arguments: [[1, 1, 1], [1, 2, 1]] as [[UInt32]])
    func aClusterOfLevelOneIsRaisedWhenAllItsHostsAreUpgraded(registered: [UInt32]) throws {
        let trio = try Trio(groups: 2, registered: registered)
        #expect(trio.map.featureLevel == 1)
        _ = try trio.leader(of: .meta)
        try trio.tick(100)
        #expect(levels(trio) == [top, top, top])
        #expect(try raise(trio, to: top, token: 1).isEmpty)
        try trio.tick(20)
        #expect(trio.hosts.allSatisfy { $0.core.map?.featureLevel == top })
    }

    @Test func oneOfAnOlderVersionOrThatIsAwayKeepsTheLevelDown() throws {
        let trio = try Trio(groups: 2, featureLevels: [4, 2, 3], registered: [2, 2, 2])
        let leader = try trio.leader(of: .meta)
        let away = leader == 2 ? 0 : 2
        trio.cut(away)
        try trio.tick(100)
        var expected: [UInt32] = [4, 2, 3]
        // It is cut off from the others: those renew each other, and what it named before.
        #expect(levels(trio, at: leader)[leader] == expected[leader])
        trio.join(away)
        try trio.tick(100)
        #expect(levels(trio) == expected && levels(trio, at: 2) == expected)
        #expect(try raise(trio, to: 3, token: 1).contains("host 2 knows 2: upgrade it first"))
        #expect(try raise(trio, to: 2, token: 2).isEmpty)
        expected = [4, 2, 3]
        #expect(levels(trio) == expected && trio.hosts[0].core.map?.featureLevel == 2)
    }

    /// Whoever adds a host asked it before it was upgraded, and his word comes late.
    @Test func aLateRegistrationDoesNotLowerALevel() throws {
        let trio = try Trio(groups: 1, registered: [2, 2, 2])
        let leader = try trio.leader(of: .meta)
        try trio.tick(100)
        #expect(levels(trio) == [top, top, top])
        let host = try #require(trio.hosts[0].core.map?.hosts[1])
        trio.hosts[leader].core.register(
            HostRegistration(
                name: "other name", address: host.address, incarnation: host.incarnation, featureLevel: 2),
            call: CallToken(rawValue: 7))
        try trio.tick(4)
        #expect(trio.hosts[leader].isDone(7))
        let record = try #require(trio.hosts[leader].core.map?.hosts[1])
        #expect(record.name == "other name" && record.featureLevel == top)
    }
}
