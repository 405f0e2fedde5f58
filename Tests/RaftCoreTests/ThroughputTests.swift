// What an entry costs in the three cores of a group together. Prints a figure; the bound is only there to notice a
// disaster.

import Foundation
import Primitives
import RaftCore
import Testing

/// Three cores whose messages arrive at once and whose writes are durable at once.
private struct Trio {
    var cores: [RaftCore]
    private var effects = RaftEffects()
    private var inbox: [[RaftMessage]] = [[], [], []]
    private var outbox: [[RaftMessage]] = [[], [], []]
    private(set) var messages = 0

    init() {
        let ids = (1...3).map { ReplicaID(UInt64($0)) }
        cores = ids.map {
            RaftCore(
                start: RaftStart(replica: $0, configuration: Configuration(voters: ids)), settings: RaftSettings(),
                seed: $0.rawValue)
        }
    }

    private mutating func send(_ sent: [RaftMessage]) {
        messages += sent.count
        for message in sent { outbox[Int(message.to.rawValue) - 1].append(message) }
    }

    /// One turn of each core. False if nothing happened.
    mutating func turn() -> Bool {
        var isBusy = false
        for position in 0..<3 {
            for message in inbox[position] { cores[position].step(message) }
            inbox[position].removeAll(keepingCapacity: true)
            guard cores[position].hasReady else { continue }
            isBusy = true
            cores[position].ready(into: &effects)
            send(effects.messages)
            send(effects.bulkMessages)
            if let sequence = effects.persistSequence { cores[position].persisted(sequence: sequence) }
            send(effects.durableMessages)
            guard effects.commitAdvanced else { continue }
            let applied = cores[position].appliedIndex
            guard let last = cores[position].committedEntries(after: applied, bytesMax: 1 << 20).last else { continue }
            cores[position].applied(through: last.index)
            if last.index.rawValue & 1_023 < 32 { cores[position].evict(through: last.index) }
        }
        swap(&inbox, &outbox)
        return isBusy
    }
}

@Suite struct ThroughputTests {
    private static func threadNanoseconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) * 1e9 + Double(time.tv_nsec)
    }

    @Test func entriesThroughThreeCores() {
        var trio = Trio()
        trio.cores[0].campaign()
        while trio.turn() {}
        #expect(trio.cores[0].role == .leader)
        let payload = Bytes([UInt8](repeating: 7, count: 128))
        let batches = 20_000
        let before = trio.messages
        let start = Self.threadNanoseconds()
        for _ in 0..<batches {
            for _ in 0..<32 { _ = trio.cores[0].propose(kind: .command, payload: payload, logTime: .zero) }
            while trio.turn() {}
        }
        let perBatch = (Self.threadNanoseconds() - start) / Double(batches)
        #expect(trio.cores.allSatisfy { $0.commit.rawValue == UInt64(batches * 32 + 1) })
        let messages = Double(trio.messages - before) / Double(batches)
        print("\(Int(perBatch / 32)) CPU ns per entry over three cores, batches of 32 with \(messages) messages")
        #expect(perBatch < 320_000)
    }
}
