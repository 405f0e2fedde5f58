// Ordered scans over real hosts: what is on disk and what came since, page by page, against a model.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

@Suite(.ownExecutor) struct ScanTests {
    private func key(_ number: Int, of tag: String = "t") -> Bytes { Bytes("{\(tag)}/\(number % 10)-\(number)") }

    @Test func aScanShowsItsRangeInOrderWhereverTheRecordsAre() async throws {
        try await withHosts(loops: [1], groups: 2, { $0.memtableBytesTrigger = 40_000 }) { hosts in
            let client = try await hosts.client()
            let group = try #require(try await client.map().owner(of: slot(of: key(0))))
            var model: [Bytes: Bytes] = [:]
            for number in 0..<60 { model[key(number)] = Bytes([UInt8](repeating: 1, count: 1_000)) }
            try await client.kv.put(model.map { (key: $0.key, value: $0.value) })
            try await wait(for: "a checkpoint") {
                try await hosts.status(0).replicas.contains { $0.group == group && $0.checkpoints > 0 }
            }
            // In memory: some more, some in the place of others, some gone. And neighbours that are none of it.
            for number in 55..<70 { model[key(number)] = Bytes("\(number)") }
            for number in 55..<70 { try await client.kv.put(key(number), Bytes("\(number)")) }
            for number in stride(from: 0, to: 60, by: 7) {
                model[key(number)] = nil
                try await client.kv.delete(key(number))
            }
            for key in ["{t}.", "{t}0", "{t}", "{s}/1", "t"] as [Bytes] { try await client.kv.put(key, "no") }

            let sorted = model.keys.sorted()
            for bytes in [1, 2_500, 1 << 20] {
                for consistency in [ReadConsistency.linearizable, .lease, .stale(max: .zero)] {
                    var found: [KeyValueScanPage.Record] = []
                    for try await record in client.kv.scan(prefix: "{t}/", consistency, pageBytesMax: bytes) {
                        found.append(record)
                    }
                    #expect(found.map(\.key) == sorted, "pages of \(bytes) bytes")
                    #expect(found.allSatisfy { $0.value == model[$0.key] })
                }
            }
            let (from, before) = (key(33), key(7))
            var part: [Bytes] = []
            for try await record in client.kv.scan(prefix: "{t}/", from: from, before: before, pageBytesMax: 3_000) {
                part.append(record.key)
            }
            #expect(part == sorted.filter { $0 >= from && $0 < before } && part.count > 20)
            // What was deleted takes room in a page.
            let page = try await client.kv.page(prefix: "{t}/", recordsMax: 4)
            #expect((1...4).contains(page.records.count) && page.next != nil)
            #expect(page.records.map(\.key) == Array(sorted[..<page.records.count]))
            let first = try #require(page.records.first)
            #expect(try await client.kv.get(first.key)?.revision == first.revision && page.revision >= first.revision)
            // Outside of the prefix there is nothing, and behind the end neither.
            #expect(try await client.kv.page(prefix: "{t}/", from: "{t}0").records.isEmpty)
            #expect(try await client.kv.page(prefix: "{t}/", from: key(9), before: key(1)).records.isEmpty)
            #expect(try await client.kv.page(prefix: "{nobody}").records.isEmpty)

            for prefix in ["t", "{t", "{}t"] as [Bytes] {
                let error = await #expect(throws: BifrostError.self) { try await client.kv.page(prefix: prefix) }
                #expect(error?.code == .invalid && error?.message.contains("a whole tag") == true)
            }
            await client.close()
        }
    }
}
