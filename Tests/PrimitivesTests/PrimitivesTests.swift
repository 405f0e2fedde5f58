import Primitives
import Testing

@Suite struct PrimitivesTests {
    @Test func checksumMatchesThePublishedVectors() {
        #expect(Bytes("123456789").checksum == 0xe306_9283)  // RFC 3720, and every CRC catalogue
        #expect(Bytes([UInt8](repeating: 0, count: 32)).checksum == 0x8a91_36aa)
        #expect(Bytes((0..<32).map { UInt8($0) }).checksum == 0x46dd_794e)
        #expect(Bytes().checksum == 0)
    }

    @Test func newMapsHaveTheLevelThatAllTheirHostsKnow() {
        #expect(FeatureLevel.ofNewMap(hosts: [4, 4, 4]) == 4)
        #expect(FeatureLevel.ofNewMap(hosts: [4, 3, .max]) == 3)
        #expect(FeatureLevel.ofNewMap(hosts: [.max, .max]) == FeatureLevel.current)
        #expect(FeatureLevel.ofNewMap(hosts: [4, 1, 2]) == 1)
        #expect(FeatureLevel.ofNewMap(hosts: []) == 1)
    }

    @Test func slicesShareAndCompare() {
        let whole = Bytes("hello, ring")
        #expect(whole[7..<11] == Bytes("ring"))
        #expect(whole[7..<11][1..<3].string == "in")
        #expect(Bytes("a") < Bytes("aa"))
        #expect(Bytes([0xff]) > Bytes("zzzzzzzzz"))
        #expect(Bytes("12345678a") < Bytes("12345678b"))
    }

    @Test func writerAndReaderAgree() throws {
        var writer = ByteWriter(capacity: 16)
        writer.write(0x0102_0304 as UInt32)
        writer.write(Term(9))
        writer.writeWithLength("grün")
        writer.writeWithLength(Bytes([1, 2, 3]))
        writer.overwrite(7 as UInt32, at: 0)
        var reader = ByteReader(writer.take())
        #expect(try reader.read(UInt32.self) == 7)
        #expect(try reader.read(Term.self) == Term(9))
        #expect(try reader.readStringWithLength() == "grün")
        #expect(try reader.readBytesWithLength() == Bytes([1, 2, 3]))
        #expect(throws: DecodingFailure.self) { try reader.read(UInt8.self) }
    }

    @Test func aLyingLengthIsRefusedBeforeMemoryIsTaken() {
        var reader = ByteReader(Bytes([255, 255, 255, 255, 1]))
        #expect(throws: DecodingFailure.self) { try reader.readBytesWithLength() }
        #expect(throws: DecodingFailure.self) { try reader.check(count: 1 << 40, ofSize: 8) }
    }

    /// These values stand in digests on disk and on the wire: they may never change.
    @Test func hashesAreFixedForEver() {
        #expect(mix(0) == 0xe220_a839_7b1d_cdaf)
        var random = SeededRandom(seed: 1)
        #expect(random.next() == mix(1))
        let a = Bytes("bifrost").withUnsafeBytes { hash64($0) }
        #expect(a == Bytes("xbifrost")[1..<8].withUnsafeBytes { hash64($0) })
        #expect(a != Bytes("bifrosu").withUnsafeBytes { hash64($0) })
        print(String(a, radix: 16))
    }
}
