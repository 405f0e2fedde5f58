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
}
