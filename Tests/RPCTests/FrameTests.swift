import Primitives
import RPC
import Testing

/// The bytes of frames, fixed for good: a golden test that fails here is a change of the protocol.
@Suite struct FrameTests {
    static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    static func frame(_ header: FrameHeader, _ payload: Bytes = Bytes()) -> [UInt8] {
        var writer = FrameWriter()
        writer.append(header, payload: payload)
        return writer.withUnsafeBytes { Array($0) }
    }

    static func frame(_ header: FrameHeader, writing body: (inout ByteWriter) -> Void) -> [UInt8] {
        var writer = FrameWriter()
        _ = writer.append(header, writing: body)
        return writer.withUnsafeBytes { Array($0) }
    }

    static func assemble(_ bytes: [UInt8], limit: Int = FrameHeader.payloadBytesMax) -> ([Frame], ConnectionFault?) {
        var assembler = FrameAssembler(payloadBytesMax: limit)
        bytes.withUnsafeBytes { assembler.append($0) }
        return drain(&assembler)
    }

    static func drain(_ assembler: inout FrameAssembler) -> ([Frame], ConnectionFault?) {
        var frames: [Frame] = []
        do throws(ConnectionFault) {
            while let frame = try assembler.next() { frames.append(frame) }
            return (frames, nil)
        } catch {
            return (frames, error)
        }
    }

    static let identity = PeerIdentity(
        cluster: ClusterID(high: 0x1111, low: 0x2222), host: HostID(3), incarnation: Incarnation(0x4444),
        bootCounter: 5,
        featureLevel: 1, name: "three")

    @Test func eachKindHasTheseBytes() {
        let plain: [(FrameHeader, Bytes, String)] = [
            (
                FrameHeader(
                    kind: .request, service: 2, method: 3, call: 0x0102_0304_0506_0708, deadlineMilliseconds: 1_500),
                "put", "f5b1010100000200030000000807060504030201dc050000030000005a1df835707574"
            ),
            (
                FrameHeader(kind: .response, call: 7), "ok",
                "f5b1010200000000000000000700000000000000000000000200000086b44ac16f6b"
            ),
            (
                FrameHeader(kind: .oneway, service: 1, method: 1), "beat",
                "f5b101030000010001000000000000000000000000000000040000002d8589dd62656174"
            ),
            (
                FrameHeader(kind: .cancel, call: 7), "",
                "f5b10104000000000000000007000000000000000000000000000000fb29497d"
            ),
            (FrameHeader(kind: .ping), "", "f5b101080000000000000000000000000000000000000000000000008ee12c64"),
            (FrameHeader(kind: .pong), "", "f5b10109000000000000000000000000000000000000000000000000132a184a"),
            (FrameHeader(kind: .goaway), "", "f5b1010a000000000000000000000000000000000000000000000000b4764538"),
        ]
        for (header, payload, golden) in plain {
            let bytes = Self.frame(header, payload)
            #expect(Self.hex(bytes) == golden)
            #expect(Self.frame(header) { $0.write(payload) } == bytes)
            let (frames, fault) = Self.assemble(bytes)
            #expect(fault == nil && frames.count == 1)
            #expect(frames[0].payload == payload)
            var found = frames[0].header
            found.length = 0
            found.checksum = 0
            #expect(found == header)
        }
    }

    @Test func theHandshakeHasTheseBytes() throws {
        let hello = Hello(role: .consensus, identity: Self.identity, target: HostID(2))
        let bytes = Self.frame(FrameHeader(kind: .hello)) { hello.encode(into: &$0) }
        #expect(
            Self.hex(bytes)
                == "f5b10106000000000000000000000000000000000000000041000000b44ecb50"
                + "01010100020000000000000001000000111100000000000022220000000000000300000000000000"
                + "44440000000000000500000000000000050000007468726565")
        var reader = ByteReader(Self.assemble(bytes).0[0].payload)
        #expect(try Hello(from: &reader) == hello)

        let welcome = Welcome(identity: Self.identity, version: 1, callsInFlightMax: 65_536, payloadBytesMax: 4_259_840)
        let accepted = Self.frame(FrameHeader(kind: .helloReply)) { HelloReply.accepted(welcome).encode(into: &$0) }
        #expect(
            Self.hex(accepted)
                == "f5b1010700000000000000000000000000000000000000004100000053426767"
                + "00000100000001000000410001000000111100000000000022220000000000000300000000000000"
                + "44440000000000000500000000000000050000007468726565")
        reader = ByteReader(Self.assemble(accepted).0[0].payload)
        #expect(try HelloReply(from: &reader) == .accepted(welcome))

        let refusal = HelloReply.refused(RPCError(.wrongCluster, "no"))
        let refused = Self.frame(FrameHeader(kind: .helloReply)) { refusal.encode(into: &$0) }
        #expect(
            Self.hex(refused)
                == "f5b1010700000000000000000000000000000000000000000a0000005e8102f764000000020000006e6f")
        reader = ByteReader(Self.assemble(refused).0[0].payload)
        #expect(try HelloReply(from: &reader) == refusal)
    }

    @Test func aHelloCutAnywhereIsRefusedAndNeverTraps() {
        var writer = ByteWriter()
        Hello(role: .client, identity: Self.identity).encode(into: &writer)
        let whole = writer.take()
        for end in 0..<whole.count {
            var reader = ByteReader(whole[0..<end])
            #expect(throws: DecodingFailure.self) { try Hello(from: &reader) }
        }
    }

    static func mixture() -> [UInt8] {
        frame(FrameHeader(kind: .request, service: 2, method: 1, call: 1), "first") + frame(FrameHeader(kind: .ping))
            + frame(FrameHeader(kind: .oneway, service: 1, method: 9), Bytes([UInt8](repeating: 5, count: 300)))
            + frame(FrameHeader(kind: .response, call: 3), "x") + frame(FrameHeader(kind: .cancel, call: 1))
    }

    static func texts(_ frames: [Frame]) -> [String] {
        frames.map { "\($0.header.kind) \($0.header.call) \($0.payload)" }
    }

    @Test func aStreamCutAtAnyTwoBytesGivesTheSameFrames() {
        let bytes = Self.mixture()
        let expected = Self.texts(Self.assemble(bytes).0)
        #expect(expected.count == 5)
        for first in 0...bytes.count {
            for second in [first, (first + bytes.count) / 2, bytes.count] {
                var assembler = FrameAssembler()
                var found: [Frame] = []
                for piece in [bytes[0..<first], bytes[first..<second], bytes[second...]] {
                    Array(piece).withUnsafeBytes { assembler.append($0) }
                    found += Self.drain(&assembler).0
                }
                #expect(Self.texts(found) == expected)
                #expect(assembler.partialBytes == 0 && !assembler.hasFrames)
            }
        }
    }

    @Test func aStreamOfSingleBytesThatIsDrainedLateGivesTheSameFrames() {
        let bytes = Self.mixture()
        var assembler = FrameAssembler()
        for byte in bytes { [byte].withUnsafeBytes { assembler.append($0) } }
        let (frames, fault) = Self.drain(&assembler)
        #expect(fault == nil)
        #expect(Self.texts(frames) == Self.texts(Self.assemble(bytes).0))
    }

    @Test func theLongestFrameInSmallPiecesArrives() {
        let payload = Bytes((0..<FrameHeader.payloadBytesMax).map { UInt8(truncatingIfNeeded: $0 &* 31) })
        let bytes = Self.frame(FrameHeader(kind: .request, service: 2, method: 1, call: 9), payload)
        var assembler = FrameAssembler()
        var start = 0
        while start < bytes.count {
            let end = min(start + 1_448, bytes.count)
            bytes[start..<end].withUnsafeBytes { assembler.append($0) }
            start = end
        }
        let (frames, fault) = Self.drain(&assembler)
        #expect(fault == nil && frames.count == 1 && frames[0].payload == payload)
    }

    @Test func noSingleBitFlipIsTakenForAFrame() {
        let bytes = Self.frame(
            FrameHeader(kind: .request, service: 2, method: 3, call: 4, deadlineMilliseconds: 5), "value")
        let tail = Self.frame(FrameHeader(kind: .ping))
        var faults: Set<ConnectionFault.Reason> = []
        for bit in 0..<bytes.count * 8 {
            var flipped = bytes
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            let (frames, fault) = Self.assemble(flipped + tail)
            // A length that grew waits for bytes that never come; everything else is a fault at once.
            #expect(frames.isEmpty)
            if let fault { faults.insert(fault.reason) }
        }
        #expect(faults == [.wrongMagic, .wrongVersion, .unknownKind, .reservedBits, .overLong, .badChecksum])
    }

    @Test func goodFramesBeforeGarbageAreHandedOver() {
        let good = Self.mixture()
        let (frames, fault) = Self.assemble(good + Array("GET / HTTP/1.1\r\n\r\n".utf8))
        #expect(frames.count == 5)
        #expect(fault?.reason == .wrongMagic)
    }

    @Test func garbageIsRefusedWithItsSecondByte() {
        #expect(Self.assemble([0x47]).1 == nil)
        #expect(Self.assemble([0x47, 0x45]).1?.reason == .wrongMagic)
        #expect(Self.assemble([0xf5, 0xb1, 9]).1?.reason == .wrongVersion)
        #expect(Self.assemble([0xf5, 0xb1, 1, 0]).1?.reason == .unknownKind)
        #expect(Self.assemble([0xf5, 0xb1, 1, 11]).1?.reason == .unknownKind)
    }

    @Test func anOverLongFrameIsRefusedWithItsHeaderAndTheLimitIsExact() {
        let frame = Self.frame(FrameHeader(kind: .hello), Bytes([UInt8](repeating: 1, count: 1_024)))
        #expect(Self.assemble(frame, limit: 1_024).0.count == 1)
        let longer = Self.frame(FrameHeader(kind: .hello), Bytes([UInt8](repeating: 1, count: 1_025)))
        #expect(Self.assemble(Array(longer[0..<28]), limit: 1_024).1?.reason == .overLong)
        #expect(Self.assemble(Array(longer[0..<27]), limit: 1_024).1 == nil)
    }

    @Test func aFaultStays() {
        var assembler = FrameAssembler()
        [0x47 as UInt8, 0x45].withUnsafeBytes { assembler.append($0) }
        #expect(Self.drain(&assembler).1 != nil)
        Self.mixture().withUnsafeBytes { assembler.append($0) }
        let (frames, fault) = Self.drain(&assembler)
        #expect(frames.isEmpty && fault?.reason == .wrongMagic)
    }

    @Test func aPayloadOverTheLimitIsTakenBackAndTheFramesBeforeItStay() {
        var writer = FrameWriter()
        writer.append(FrameHeader(kind: .ping))
        let fits = writer.append(FrameHeader(kind: .response, call: 1)) {
            _ = $0.extend(by: FrameHeader.payloadBytesMax + 1)
        }
        #expect(!fits)
        writer.append(FrameHeader(kind: .pong))
        let (frames, fault) = Self.assemble(writer.withUnsafeBytes { Array($0) })
        #expect(fault == nil && frames.map(\.header.kind) == [.ping, .pong])
    }

    @Test func randomBytesNeverTrap() {
        var random = SeededRandom(seed: 7)
        for _ in 0..<20_000 {
            var bytes = Self.mixture()
            for _ in 0..<1 + random.below(8) {
                switch random.below(3) {
                case 0: bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes.remove(at: Int(random.below(UInt64(bytes.count))))
                default:
                    bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: Int(random.below(UInt64(bytes.count))))
                }
            }
            var assembler = FrameAssembler()
            var start = 0
            while start < bytes.count {
                let end = min(bytes.count, start + 1 + Int(random.below(200)))
                bytes[start..<end].withUnsafeBytes { assembler.append($0) }
                if random.below(2) == 0 { _ = Self.drain(&assembler) }
                start = end
            }
            _ = Self.drain(&assembler)
        }
    }
}
