// Pages as a host answers them: of records in runs and in memory, within the bytes asked for.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import RPC
import TestSupport
import Testing

@Suite(.ownExecutor) struct PageTests {
    @Test func aPageOverRunsAndMemoryKeepsItsBoundAndMissesNothing() async throws {
        let group = GroupID(1)
        try await withHosts(loops: [1], groups: 1, { $0.memtableBytesTrigger = 70_000 }) { hosts in
            let client = try await hosts.client()
            for key in 0..<80 { try await client.kv.put(Bytes("a \(key)"), Bytes(Array(repeating: 1, count: 1_000))) }
            try await wait(for: "a checkpoint") {
                try await hosts.status(0).replicas.contains { $0.group == group && $0.checkpoints > 0 }
            }
            // Into memory: between those of the run, and in the place of some.
            for key in 0..<15 { try await client.kv.put(Bytes("b \(key)"), Bytes(Array(repeating: 2, count: 1_000))) }
            for key in 0..<9 { try await client.kv.put(Bytes("a \(key)"), Bytes(Array(repeating: 3, count: 1_000))) }
            await client.close()

            let probe = Probe(hosts.running[0]!.address)
            defer { probe.close() }
            var found: [String: UInt8] = [:]
            var from: RecordPosition?
            var pages = 0
            repeat {
                let request = PageRequest(group: group, from: from, bytesMax: 10_000)
                let answer: Response<PageResult> = try Response(
                    decoding: try await probe.connection.request(
                        service: ServiceNumber.data, method: DataMethod.page, payload: request.encoded(),
                        deadline: RPCClock.now() + 10_000_000_000))
                guard case .done(let page) = answer else {
                    Issue.record("\(answer)")
                    return
                }
                #expect(page.records.reduce(0) { $0 + $1.encodedBytes } <= 10_000)
                for record in page.records {
                    #expect(found.updateValue(record.value[0], forKey: record.position.key.string) == nil)
                }
                pages += 1
                from = page.next
            } while from != nil
            #expect(pages >= 8)
            #expect(found.count == 95)
            #expect((0..<80).allSatisfy { found["a \($0)"] == ($0 < 9 ? 3 : 1) })
            #expect((0..<15).allSatisfy { found["b \($0)"] == 2 })
        }
    }
}
