import Primitives
import RaftCore
import Testing

@Suite struct RaftMessageTests {
    private static func sample(_ random: inout SeededRandom) -> RaftMessage {
        func maybe(_ value: UInt64) -> UInt64 { value & 1 == 0 ? 0 : value >> 3 }
        var message = RaftMessage(
            kind: RaftMessageKind(rawValue: UInt8(random.below(16))), from: ReplicaID(random.next()),
            to: ReplicaID(random.next()),
            term: Term(maybe(random.next())), index: LogIndex(maybe(random.next())),
            logTerm: Term(maybe(random.next())),
            commit: LogIndex(maybe(random.next())), context: random.next(), reject: random.below(2) == 0,
            hintIndex: LogIndex(maybe(random.next())), hintTerm: Term(maybe(random.next())))
        for offset in 0..<Int(random.below(4)) {
            message.entries.append(
                LogEntry(
                    index: message.index + (offset + 1), term: Term(random.next()),
                    logTime: LogTime(random.next() >> 2),
                    kind: .command,
                    payload: Bytes(String(repeating: "x", count: Int(random.below(20))))))
        }
        return message
    }

    @Test func everyMessageComesBackAsItWent() throws {
        var random = SeededRandom(seed: 7)
        for _ in 0..<2_000 {
            let message = Self.sample(&random)
            var writer = ByteWriter()
            message.encode(into: &writer)
            #expect(writer.count == message.encodedBytes)
            var reader = ByteReader(writer.take())
            #expect(try RaftMessage(from: &reader) == message)
            #expect(reader.isAtEnd)
        }
    }

    @Test func theBytesOfAnAppendStayAsTheyAre() {
        let entry = LogEntry(index: LogIndex(8), term: Term(3), logTime: LogTime(5), kind: .command, payload: "ab")
        let message = RaftMessage(
            kind: .append, from: ReplicaID(1), to: ReplicaID(2), term: Term(4), index: LogIndex(7),
            logTerm: Term(3), commit: LogIndex(6), entries: [entry])
        var writer = ByteWriter()
        message.encode(into: &writer)
        let expected: [UInt8] = [
            5, 0, 0x8f, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
            4, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 97, 98,
        ]
        let bytes = writer.take()
        #expect(bytes.array == expected)
    }

    /// Random bytes, and messages with a few bytes changed or cut off: decoding throws or gives a message, and a core
    /// takes whatever it gives.
    @Test func noBytesTrapTheDecoderOrTheCore() {
        var random = SeededRandom(seed: 11)
        let settings = RaftSettings()
        var core = RaftCore(
            start: RaftStart(
                replica: ReplicaID(1), configuration: Configuration(voters: [ReplicaID(1), ReplicaID(2), ReplicaID(3)])),
            settings: settings, seed: 1)
        var effects = RaftEffects()
        var decoded = 0
        for round in 0..<200_000 {
            var bytes: [UInt8]
            if round % 3 == 0 {
                bytes = (0..<Int(random.below(120))).map { _ in UInt8(truncatingIfNeeded: random.next() & random.next())
                }
            } else {
                var writer = ByteWriter()
                var message = Self.sample(&random)
                if round % 3 == 1 {
                    // Near enough to the truth to get deep into the core.
                    message.kind = RaftMessageKind(rawValue: UInt8(1 + random.below(12)))
                    message.from = ReplicaID(2 + random.below(3))
                    message.to = ReplicaID(1)
                    message.term = Term(1 + random.below(4) + UInt64(round / 20_000))
                    message.index = LogIndex(random.below(4))
                    message.logTerm = Term(random.below(3))
                    message.entries = message.entries.enumerated().map { offset, entry in
                        var entry = entry
                        entry.index = message.index + (offset + 1)
                        entry.term = Term(random.below(4) + 1)
                        entry.kind = EntryKind(rawValue: UInt8(random.below(3)))
                        return entry
                    }
                }
                message.encode(into: &writer)
                bytes = writer.take().array
                for _ in 0..<random.below(3) {
                    bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(truncatingIfNeeded: random.next())
                }
                if random.below(8) == 0 { bytes.removeLast(Int(random.below(UInt64(bytes.count)))) }
            }
            var reader = ByteReader(Bytes(bytes))
            guard let message = try? RaftMessage(from: &reader) else { continue }
            decoded += 1
            core.step(message)
            if random.below(16) == 0 { core.tick() }
            core.ready(into: &effects)
            if let sequence = effects.persistSequence { core.persisted(sequence: sequence) }
            if random.below(64) == 0 { _ = core.propose(kind: .command, payload: "p", logTime: .zero) }
        }
        #expect(decoded > 10_000)
    }
}
