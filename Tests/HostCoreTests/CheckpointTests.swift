// Checkpoints that nobody's size asks for: of age, and because the memtables of all replicas take too much together.

import HostCore
import Primitives
import Ring
import Storage
import Testing

@Suite struct CheckpointTests {
    @Test func whatWasAppliedLongAgoIsWrittenOut() throws {
        let trio = try Trio { $0.checkpointNanoseconds = 5_000_000_000 }
        let leader = try trio.leader()
        trio.hosts[leader].put("a", "v", group: GroupID(1), token: 1)
        try trio.tick(80)
        #expect(trio.hosts.allSatisfy { $0.inspection(of: GroupID(1))?.manifestIndex == .zero })
        try trio.tick(60)
        let first = trio.hosts.map { $0.inspection(of: GroupID(1)) }
        #expect(first.allSatisfy { $0?.manifestIndex == $0?.applied && $0?.manifestIndex ?? .zero > .zero }, "\(first)")
        // Nothing new, nothing to write.
        let edits = trio.hosts.map { $0.store.manifests().map(\.edits) }
        try trio.tick(300)
        #expect(trio.hosts.map { $0.store.manifests().map(\.edits) } == edits)
    }

    @Test func theLargestMemtablesGoWhenAllTogetherTakeTooMuch() throws {
        let trio = try Trio(groups: 4) { $0.memtableBytesTotal = 100_000 }
        for group in (1...4).map({ GroupID(UInt32($0)) }) {
            let leader = try trio.leader(of: group)
            let keys = (0..<1_000).map(String.init).filter { trio.map.owner(of: slot(of: Bytes($0))) == group }
            for key in keys.prefix(Int(group.rawValue) * 10) {
                trio.hosts[leader].put(key, String(repeating: "v", count: 1_000), group: group, token: UInt64(key)!)
                try trio.settle()
                #expect(trio.hosts[leader].isDone(UInt64(key)!))
            }
        }
        try trio.tick(100)
        for host in trio.hosts {
            let indexes = (1...4).map { host.inspection(of: GroupID(UInt32($0)))?.manifestIndex ?? .zero }
            #expect(indexes[3] > .zero && indexes[0] == .zero, "\(indexes)")
        }
    }

    /// Groups that always have something to write must not keep others from it: those would take no entries one day.
    @Test func whoWaitsLongestForTheStoreIsNext() throws {
        let trio = try Trio(groups: 4) {
            $0.memtableBytesTrigger = 1
            $0.checkpointsMax = 1
            $0.mergesMax = 1
            $0.runsMax = 1
        }
        let host = trio.hosts[0]
        host.holdsStore = true
        let keys = try (1...4).map { number in
            try #require(
                (0..<1_000).map(String.init).first {
                    trio.map.owner(of: slot(of: Bytes($0)))?.rawValue == UInt32(number)
                })
        }
        for round in 0..<40 {
            for (place, key) in keys.enumerated() where place < 2 || round == 0 {
                let group = GroupID(UInt32(place + 1))
                let leader = try trio.leader(of: group)
                trio.hosts[leader].put(key, "v", group: group, token: UInt64(round * 10 + place))
                try trio.settle()
            }
            #expect(host.jobs.count <= 2)
            try host.doJobs()
            try trio.settle()
        }
        for number in (1...4).map(UInt32.init) {
            let state = try #require(host.core.inspection(of: GroupID(number)))
            #expect(state.manifestIndex > .zero, "group \(number)")
        }
    }
}
