// Snapshots, incremental. It proves that a replica that was away, and needs what is in no log any more, gets what changed
// since its own last checkpoint and nothing else, time and again, and is equal to the others then; and that one whose own
// state is damaged gets the whole. Real hosts, and snapshots under faults: `Snapshot` in IntegrationTests.

import HostCore
import Messages
import Primitives
import RaftCore
import StateMachines
import Storage
import Testing

@Suite struct Snapshot {
    private let group = GroupID(1)

    /// What one snapshot after the other had in it.
    private final class Transfers {
        struct Transfer {
            var base: LogIndex
            var records: UInt64
            var bytes = 0
        }
        var list: [Transfer] = []

        init(_ trio: Trio) {
            trio.look = { [unowned self] _, _, _, payload in
                guard let reader = try? PeerBatchReader(payload) else { return }
                for message in reader.snapshots {
                    guard case .piece(let piece) = message.kind else { continue }
                    if piece.after.isEmpty {
                        var description = ByteReader(piece.description)
                        guard let what = try? SnapshotDescription(from: &description) else { continue }
                        list.append(Transfer(base: what.base, records: what.records))
                    }
                    if !list.isEmpty { list[list.count - 1].bytes += payload.count }
                }
            }
        }
    }

    private func write(_ trio: Trio, _ keys: some Sequence<Int>, _ value: String, at place: Int) throws {
        for key in keys {
            trio.hosts[place].core.journalBytes = 2
            trio.hosts[place].put("key \(key)", value, group: group, token: UInt64(key))
            try trio.tick(1)
        }
        try trio.tick(100)
    }

    private func expectEqual(_ trio: Trio) {
        let all = trio.hosts.map { $0.inspection(of: group) }
        #expect(all.allSatisfy { $0?.applied == all[0]?.applied && $0?.digest == all[0]?.digest }, "\(all)")
        #expect(all.allSatisfy { $0?.isStopped == false && $0?.isImpaired == false })
    }

    @Test func whoIsAwayTimeAndAgainGetsWhatChangedEachTime() throws {
        let trio = try Trio {
            // Journals wait for nobody.
            $0.journalBytesForLaggards = 1
            $0.memtableBytesTrigger = 4_000
            $0.snapshotPieceBytes = 2_000
            $0.raft.appendBytesMax = 500
        }
        let leader = try trio.leader()
        let away = (leader + 1) % 3
        let filler = String(repeating: "state ", count: 20)
        try write(trio, 0..<400, "first \(filler)", at: leader)
        let transfers = Transfers(trio)
        for round in 1...4 {
            let base = try #require(trio.hosts[away].inspection(of: group)).manifestIndex
            trio.cut(away)
            // A tenth of the keys, and each of them twice. The last of them may come by the log.
            let changed = (0..<80).map { $0 / 2 * 10 + round }
            try write(trio, changed, "round \(round) \(filler)", at: leader)
            let last = trio.hosts[away].inspection(of: group)?.last ?? .zero
            #expect(trio.hosts[leader].inspection(of: group)?.base ?? .zero > last, "the log still has it")
            trio.join(away)
            try trio.tick(400)
            expectEqual(trio)
            let transfer = try #require(transfers.list.last)
            #expect(transfers.list.count == round && transfer.base == base && base > .zero)
            #expect(transfer.records > 0 && transfer.records <= 80, "round \(round): \(transfer)")
        }
        // What it has is of no use: the whole, of all keys.
        trio.hosts[away].core.stateDamaged(group: group, "a test")
        try trio.tick(400)
        expectEqual(trio)
        let whole = try #require(transfers.list.last)
        #expect(transfers.list.count == 5 && whole.base == .zero && whole.records >= 400)
        let most = transfers.list.dropLast().map(\.bytes).max() ?? 0
        #expect(most * 3 < whole.bytes, "\(most) bytes of an increment, \(whole.bytes) of all")
        // Each of its values is that of the last round that changed it.
        for key in [0, 1, 2, 394, 399] {
            trio.hosts[away].get("key \(key)", group: group, .local, token: 10_000 + UInt64(key))
            try trio.tick(2)
            let found = try KeyValueReading(decoding: try #require(trio.hosts[away].result(10_000 + UInt64(key))).body)
            guard case .found(let value, _, _) = found else {
                Issue.record("key \(key) is not there")
                continue
            }
            let name = (1...4).contains(key % 10) ? "round \(key % 10)" : "first"
            #expect(value == Bytes("\(name) \(filler)"), "key \(key)")
        }
    }
}
