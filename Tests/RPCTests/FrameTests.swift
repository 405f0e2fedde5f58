import Primitives
import RPC
import Testing

/// The bytes of frames, fixed for good: a golden test that fails here is a change of the protocol.
@Suite struct FrameTests {
    static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    static func frame(_ header: FrameHeader, _ payload: Bytes = Bytes(), version: UInt8 = 1) -> [UInt8] {
        var writer = FrameWriter(version: version)
        writer.append(header, payload: payload)
        return writer.withUnsafeBytes { Array($0) }
    }

    static func frame(
        _ header: FrameHeader, version: UInt8 = 1, writing body: (inout ByteWriter) -> Void
    ) -> [UInt8] {
        var writer = FrameWriter(version: version)
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

    @Test(arguments: FrameHeader.versions) func eachKindHasTheseBytes(version: UInt8) {
        // With the bytes in version 1 and those in version 2.
        let plain: [(FrameHeader, Bytes, String, String)] = [
            (
                FrameHeader(
                    kind: .request, service: 2, method: 3, call: 0x0102_0304_0506_0708, deadlineMilliseconds: 1_500),
                "put",
                "f5b1010100000200030000000807060504030201dc050000030000005a1df835707574",
                "f5b10201020003000807060504030201dc050000030000007c1d46e0bde6bb0a707574"
            ),
            (
                FrameHeader(kind: .response, call: 7), "ok",
                "f5b1010200000000000000000700000000000000000000000200000086b44ac16f6b",
                "f5b10202000000000700000000000000000000000200000064bc6c2edfb78b5f6f6b"
            ),
            (
                FrameHeader(kind: .oneway, service: 1, method: 1), "beat",
                "f5b101030000010001000000000000000000000000000000040000002d8589dd62656174",
                "f5b10203010001000000000000000000000000000400000075eaf50a51eee92862656174"
            ),
            (
                FrameHeader(kind: .cancel, call: 7), "",
                "f5b10104000000000000000007000000000000000000000000000000fb29497d",
                "f5b1020400000000070000000000000000000000000000008b9336bf8b9336bf"
            ),
            (
                FrameHeader(kind: .ping), "",
                "f5b101080000000000000000000000000000000000000000000000008ee12c64",
                "f5b1020800000000000000000000000000000000000000004f47b0364f47b036"
            ),
            (
                FrameHeader(kind: .pong), "",
                "f5b10109000000000000000000000000000000000000000000000000132a184a",
                "f5b102090000000000000000000000000000000000000000a23aba3ba23aba3b"
            ),
            (
                FrameHeader(kind: .goaway), "",
                "f5b1010a000000000000000000000000000000000000000000000000b4764538",
                "f5b1020a000000000000000000000000000000000000000095bca42c95bca42c"
            ),
        ]
        for (header, payload, first, second) in plain {
            let bytes = Self.frame(header, payload, version: version)
            #expect(Self.hex(bytes) == (version == 1 ? first : second))
            #expect(Self.frame(header, version: version) { $0.write(payload) } == bytes)
            let (frames, fault) = Self.assemble(bytes)
            #expect(fault == nil && frames.count == 1)
            #expect(frames[0].payload == payload)
            var found = frames[0].header
            found.length = 0
            #expect(found == header)
        }
    }

    @Test func theHandshakeHasTheseBytes() throws {
        let hello = Hello(
            role: .consensus, identity: Self.identity, target: HostID(2), versionMin: 1, versionMax: 1)
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

    static func mixture(version: UInt8) -> [UInt8] {
        let frames: [(FrameHeader, Bytes)] = [
            (FrameHeader(kind: .request, service: 2, method: 1, call: 1), "first"),
            (FrameHeader(kind: .ping), ""),
            (FrameHeader(kind: .oneway, service: 1, method: 9), Bytes([UInt8](repeating: 5, count: 300))),
            (FrameHeader(kind: .response, call: 3), "x"),
            (FrameHeader(kind: .cancel, call: 1), ""),
        ]
        return frames.flatMap { frame($0.0, $0.1, version: version) }
    }

    static func texts(_ frames: [Frame]) -> [String] {
        frames.map { "\($0.header.kind) \($0.header.call) \($0.payload)" }
    }

    @Test(arguments: FrameHeader.versions) func aStreamCutAtAnyTwoBytesGivesTheSameFrames(version: UInt8) {
        let bytes = Self.mixture(version: version)
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

    @Test(arguments: FrameHeader.versions)
    func aStreamOfSingleBytesThatIsDrainedLateGivesTheSameFrames(version: UInt8) {
        let bytes = Self.mixture(version: version)
        var assembler = FrameAssembler()
        for byte in bytes { [byte].withUnsafeBytes { assembler.append($0) } }
        let (frames, fault) = Self.drain(&assembler)
        #expect(fault == nil)
        #expect(Self.texts(frames) == Self.texts(Self.assemble(bytes).0))
    }

    @Test(arguments: FrameHeader.versions) func theLongestFrameInSmallPiecesArrives(version: UInt8) {
        let payload = Bytes((0..<FrameHeader.payloadBytesMax).map { UInt8(truncatingIfNeeded: $0 &* 31) })
        let bytes = Self.frame(
            FrameHeader(kind: .request, service: 2, method: 1, call: 9), payload, version: version)
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

    @Test func noSingleBitFlipIsTakenForAFrameOfVersionOne() {
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

    /// As a connection has it that agreed on version 2. Nothing waits for bytes that a changed length announces: the
    /// fault is found with the bytes of the header.
    @Test func everySingleBitFlipIsAFaultAtOnceInVersionTwo() {
        let bytes = Self.frame(
            FrameHeader(kind: .request, service: 2, method: 3, call: 4, deadlineMilliseconds: 5), "value", version: 2)
        var faults: Set<ConnectionFault.Reason> = []
        for bit in 0..<bytes.count * 8 {
            var flipped = bytes
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            for start in [0, 11] {
                var assembler = FrameAssembler(versions: 2...2)
                // Behind the header's checksum it takes the payload to see it.
                let end = bit < 28 * 8 ? FrameHeader.byteCount : bytes.count
                if start > 0 { flipped[0..<start].withUnsafeBytes { assembler.append($0) } }
                flipped[start..<end].withUnsafeBytes { assembler.append($0) }
                let (frames, fault) = Self.drain(&assembler)
                #expect(frames.isEmpty)
                if let fault { faults.insert(fault.reason) } else { Issue.record("bit \(bit) is no fault") }
            }
        }
        #expect(faults == [.wrongMagic, .wrongVersion, .unknownKind, .badChecksum])
    }

    @Test func framesOfAVersionThatWasNotAgreedOnAreRefused() {
        let old = Self.frame(FrameHeader(kind: .ping), version: 1)
        let new = Self.frame(FrameHeader(kind: .ping), version: 2)
        for (versions, bytes, text) in [
            (1...1, new, "a frame of version 2, expected 1"), (2...2, old, "a frame of version 1, expected 2"),
        ] as [(ClosedRange<UInt8>, [UInt8], String)] {
            var assembler = FrameAssembler(versions: versions)
            bytes.withUnsafeBytes { assembler.append($0) }
            #expect(Self.drain(&assembler).1 == ConnectionFault(.wrongVersion, text))
        }
        // What came in the same read as the handshake is judged when it is handed out.
        var assembler = FrameAssembler()
        (old + new + old).withUnsafeBytes { assembler.append($0) }
        #expect(throws: Never.self) { try assembler.next() }
        assembler.versions = 2...2
        let (frames, fault) = Self.drain(&assembler)
        #expect(frames.count == 1)
        #expect(fault == ConnectionFault(.wrongVersion, "a frame of version 1, expected 2"))
        #expect(Self.assemble([0xf5, 0xb1, 3]).1?.text == "a frame of version 3, expected 1 to 2")
    }

    @Test(arguments: FrameHeader.versions) func goodFramesBeforeGarbageAreHandedOver(version: UInt8) {
        let good = Self.mixture(version: version)
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

    @Test(arguments: FrameHeader.versions)
    func anOverLongFrameIsRefusedWithItsHeaderAndTheLimitIsExact(version: UInt8) {
        let frame = Self.frame(
            FrameHeader(kind: .hello), Bytes([UInt8](repeating: 1, count: 1_024)), version: version)
        #expect(Self.assemble(frame, limit: 1_024).0.count == 1)
        let longer = Self.frame(
            FrameHeader(kind: .hello), Bytes([UInt8](repeating: 1, count: 1_025)), version: version)
        #expect(Self.assemble(Array(longer[0..<28]), limit: 1_024).1?.reason == .overLong)
        #expect(Self.assemble(Array(longer[0..<27]), limit: 1_024).1 == nil)
    }

    @Test func aFaultStays() {
        var assembler = FrameAssembler()
        [0x47 as UInt8, 0x45].withUnsafeBytes { assembler.append($0) }
        #expect(Self.drain(&assembler).1 != nil)
        Self.mixture(version: 2).withUnsafeBytes { assembler.append($0) }
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
            var bytes = Self.mixture(version: random.below(2) == 0 ? 1 : 2)
            for _ in 0..<1 + random.below(8) {
                switch random.below(3) {
                case 0: bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes.remove(at: Int(random.below(UInt64(bytes.count))))
                default:
                    bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: Int(random.below(UInt64(bytes.count))))
                }
            }
            var assembler = FrameAssembler(versions: random.below(2) == 0 ? 1...2 : 2...2)
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
