// Who holds something and does not know that slots move keeps its slot from moving: it would go by a session that the slot
// has left, while what it holds ends elsewhere and is somebody else's.

import DataTypes
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

@Suite struct UnawareHolderTests {
    private static let source = GroupID(1)
    private static let target = GroupID(2)

    /// Two groups, and a client that has a lock in a slot of the first.
    private final class Bench {
        let trio: Trio
        let name: Bytes
        let session: SessionID
        private let leader: TestHost
        private var token: UInt64 = 100

        var place: Slot { slot(of: name) }
        var map: ClusterMap? { leader.core.map }
        var hasMoved: Bool { map.map { $0.migrations.isEmpty && $0.owner(of: place) == target } ?? false }
        var notices: [String] { trio.hosts.flatMap(\.notices).filter { $0.contains("does not know that slots move") } }

        init(followsSlots: Bool) throws {
            trio = try Trio(groups: 2)
            try trio.tick(60)
            let map = trio.map
            name = try #require(
                (0..<1_000).map { Bytes("\($0)") }.first { map.owner(of: slot(of: $0)) == UnawareHolderTests.source })
            leader = trio.hosts[try trio.leader(of: UnawareHolderTests.source)]
            leader.execute(
                SessionCommand.open(timeToLive: 600_000, nonce: 7, followsSlots: followsSlots).payload(), .group,
                UnawareHolderTests.source, token: 1)
            try trio.tick(4)
            var reader = ByteReader(try #require(leader.result(1)).body)
            session = try reader.read()
            let header = CommandHeader(
                machine: LockMachine.number, session: session, sequence: 1, firstUnacknowledged: 1)
            leader.execute(
                MachineRequest(PermitAcquire<LockMachine>(name)).payload(header: header), place,
                UnawareHolderTests.source, token: 2)
            try trio.tick(4)
            _ = try #require(leader.result(2))
        }

        func migrate() {
            let change = MetaCommand.change(
                .migrate([place], from: UnawareHolderTests.source, to: UnawareHolderTests.target)
            ).payload()
            for host in trio.hosts { host.core.administer(change, call: CallToken(rawValue: 50)) }
        }

        func execute(_ command: SessionCommand) throws {
            token += 1
            leader.execute(command.payload(), .group, UnawareHolderTests.source, token: token)
            try trio.tick(4)
            _ = try #require(leader.result(token))
        }
    }

    @Test func whatAnEarlierClientHoldsStaysWhereItIs() throws {
        let bench = try Bench(followsSlots: false)
        bench.migrate()
        for _ in 0..<200 where bench.map?.migrations.isEmpty ?? true { try bench.trio.tick(1) }
        #expect(bench.map?.migrations.count == 1)
        try bench.trio.tick(20 * 25)
        #expect(bench.map?.migrations.count == 1 && bench.map?.owner(of: bench.place) == Self.source, "it waits")
        #expect(bench.notices.count == 1 && bench.notices[0].contains("session \(bench.session) holds"))
        for _ in 0..<20 * 20 where !(bench.map?.migrations.isEmpty ?? false) { try bench.trio.tick(1) }
        #expect(bench.map?.migrations.isEmpty ?? false, "and is called off")
        #expect(bench.map?.owner(of: bench.place) == Self.source)
    }

    @Test func whoHearsOfItMeanwhileLetsTheSlotGo() throws {
        let bench = try Bench(followsSlots: false)
        bench.migrate()
        try bench.trio.tick(20 * 5)
        #expect(!bench.hasMoved)
        try bench.execute(
            .hold(.init(id: bench.session, firstUnacknowledged: 2), [HeldSlot(slot: bench.place, epoch: .zero)]))
        try bench.trio.tick(20 * 5)
        #expect(bench.hasMoved)
    }

    @Test func aClientThatKnowsKeepsNothing() throws {
        let bench = try Bench(followsSlots: true)
        bench.migrate()
        try bench.trio.tick(20 * 5)
        #expect(bench.hasMoved && bench.notices.isEmpty)
    }
}
