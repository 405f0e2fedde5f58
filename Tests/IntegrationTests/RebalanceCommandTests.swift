// `bifrost rebalance`: what real hosts measure, and what is planned from it.

import Bifrost
import BifrostTool
import Foundation
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct RebalanceCommandTests {
        /// Keys of a group, no two of one slot.
        private func keys(_ count: Int, of group: GroupID, _ ring: SlotTable) -> [Bytes] {
            var keys: [Bytes] = []
            var slots: Set<Slot> = []
            var number = 0
            while keys.count < count {
                let key = Bytes("{tag \(number)} key")
                number += 1
                let slot = Ring.slot(of: key)
                if ring.owner(of: slot) == group, slots.insert(slot).inserted { keys.append(key) }
            }
            return keys
        }

        private func plan(_ cluster: TestCluster) async throws -> [String: Any] {
            let result = try await cluster.bifrost(
                "rebalance", "plan", "--json", "--timeout", "60s", limit: .seconds(180))
            result.expect(0)
            return try result.json()
        }

        private func figure(_ name: String, _ entry: [String: Any]?, _ when: String) throws -> Double {
            let figures = try #require(entry?[when] as? [String: Any])
            return try #require(figures[name] as? NSNumber).doubleValue
        }

        @Test func aPlanNamesTheFatGroupAndTheHostThatLeadsAll() async throws {
            try await withCluster { cluster in
                let even = try await plan(cluster)
                #expect((even["steps"] as? [Any])?.isEmpty == true && even["inBalance"] as? Bool == true)
                #expect((even["unreached"] as? [Any])?.isEmpty == true)
                let words = try await cluster.bifrost("rebalance", "plan")
                words.expect(0)
                #expect(words.text.hasPrefix("in balance: nothing to do\n3 hosts, 4 groups"), "\(words.text)")

                let client = try await Cluster.connect(to: cluster.hosts.map(\.address))
                let ring = try await client.map().ring
                let fat = keys(150, of: GroupID(1), ring)
                let value = Bytes(Array(repeating: UInt8(ascii: "x"), count: 60_000))
                for key in fat { try await client.kv.put(key, value) }
                let busy = keys(1, of: GroupID(2), ring)[0]
                try await client.kv.put(busy, "small")
                for group in 1...4 {
                    try await cluster.bifrost(
                        "group", "transfer-leader", "\(group)", "--host", "1", "--prefer", "--timeout", "180s",
                        limit: .seconds(200)
                    ).expect(0)
                }
                for _ in 0..<300 { _ = try await client.kv.get(busy) }
                let before = try await client.map(refresh: true)

                let load = try await client.load(of: GroupID(1), timeout: .seconds(180))
                #expect(load.slots.count == 150 && load.slots.allSatisfy { $0.bytes > 20_000 })
                #expect(load.stateBytes + load.memtableBytes > 9_000_000)

                let report = try await plan(cluster)
                #expect(report["inBalance"] as? Bool == false && report["carriedOut"] as? Bool == false)
                let steps = try #require(report["steps"] as? [[String: Any]])
                // Of the busy one some slots may move, too.
                let moves = steps.filter { $0["kind"] as? String == "slots" && $0["group"] as? Int == 1 }
                #expect(!moves.isEmpty)
                let moved = Set(moves.flatMap { $0["slots"] as? [Int] ?? [] })
                #expect(moved.allSatisfy { ring.owner(of: Slot(UInt16($0))) == GroupID(1) })
                #expect(fat.contains { moved.contains(Int(Ring.slot(of: $0).rawValue)) })
                #expect(moves.allSatisfy { $0["reason"] as? String == "a group's load is out of bounds" })
                let leads = steps.filter { $0["kind"] as? String == "lead" }
                #expect(!leads.isEmpty && leads.allSatisfy { $0["fromHost"] as? Int == 1 })

                let hosts = try #require(report["hosts"] as? [[String: Any]])
                let first = try #require(hosts.first { $0["host"] as? Int == 1 })
                #expect(try figure("leads", first, "before") == 4 && figure("leads", first, "after") <= 2)
                let groups = try #require(report["groups"] as? [[String: Any]])
                #expect(groups.compactMap { $0["group"] as? Int } == [1, 2, 3, 4])
                #expect(try figure("bytes", groups[0], "before") > 8_900_000)
                #expect(try figure("bytes", groups[0], "after") < figure("bytes", groups[0], "before") * 0.8)
                #expect(try figure("operationsPerSecond", groups[1], "before") > 1)

                let text = try await cluster.bifrost(
                    "rebalance", "plan", "--steps", "--timeout", "60s", limit: .seconds(180))
                text.expect(0)
                #expect(text.text.contains("nothing is carried out"), "\(text.text)")
                #expect(text.text.contains("of group 1 to group ") && text.text.contains(" from host 1 to host "))
                let summary = try await cluster.bifrost("rebalance", "plan", "--timeout", "60s", limit: .seconds(180))
                summary.expect(0)
                #expect(summary.text.contains("leads to other hosts") && summary.text.contains(" to other groups"))
                // Sums of steps, and no step.
                #expect(!summary.text.contains(" from host 1 to host "), "\(summary.text)")
                // It only reads.
                #expect(try await client.map(refresh: true).version == before.version)
                await client.close()

                try await cluster.bifrost("group", "stop", "4").expect(0)
                let without = try await cluster.bifrost("rebalance", "plan", "--timeout", "60s", limit: .seconds(180))
                without.expect(0)
                #expect(without.text.contains("1 group did not say") && without.text.contains("group 4 is stopped"))
                try await cluster.bifrost("rebalance", "plan", "--bytes-percent", "1001").expect(
                    64, saying: "--bytes-percent is 0 to 1000")
            }
        }
    }
}
