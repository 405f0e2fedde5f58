// Bounds-checked decoding. Whatever the network or the disk holds, the worst that happens is a thrown DecodingFailure.

/// Bytes did not mean what was expected of them.
public struct DecodingFailure: Error, Hashable, CustomStringConvertible {
    /// What was being read, as in "append: entries".
    public var expected: String
    /// What came instead.
    public var found: String
    public init(expected: String, found: String) { self.expected = expected; self.found = found }
    public var description: String { "expected \(expected), found \(found)" }
}

/// Reads integers and slices from the front. All integers are little-endian.
public struct ByteReader: Sendable {
    public let bytes: Bytes
    @usableFromInline var position: Int
    @inlinable public var offset: Int { position }

    @inlinable public init(_ bytes: Bytes) { self.bytes = bytes; position = 0 }

    @inlinable public var remaining: Int { bytes.count - offset }
    @inlinable public var isAtEnd: Bool { offset == bytes.count }

    @inlinable @inline(__always)
    public mutating func read<Integer: FixedWidthInteger>(_ type: Integer.Type = Integer.self)
        throws(DecodingFailure) -> Integer
    {
        let size = MemoryLayout<Integer>.size
        guard remaining >= size else { throw shortage(of: "an integer of \(size) bytes") }
        let value = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Integer.self) }
        position += size
        return Integer(littleEndian: value)
    }

    /// Not inlined, so that what reads can be.
    @usableFromInline @inline(never) func shortage(of what: @autoclosure () -> String) -> DecodingFailure {
        DecodingFailure(expected: "\(what()) at offset \(offset)", found: "\(remaining) bytes left")
    }

    @inlinable public mutating func read<ID: Identifier>(_ type: ID.Type = ID.self) throws(DecodingFailure) -> ID {
        ID(rawValue: try read(ID.RawValue.self))
    }

    @inlinable public mutating func readBool() throws(DecodingFailure) -> Bool {
        let value = try read(UInt8.self)
        guard value < 2 else { throw DecodingFailure(expected: "0 or 1", found: "\(value)") }
        return value == 1
    }

    public mutating func readClusterID() throws(DecodingFailure) -> ClusterID {
        ClusterID(high: try read(), low: try read())
    }

    /// A slice of the next `count` bytes; shares storage.
    @inlinable public mutating func readBytes(count: Int) throws(DecodingFailure) -> Bytes {
        guard count >= 0, remaining >= count else { throw shortage(of: "\(count) bytes") }
        defer { position += count }
        return bytes[offset..<offset + count]
    }

    /// A 32-bit length of at most `limit`, then that many bytes.
    @inlinable public mutating func readBytesWithLength(limit: Int = Int(UInt32.max)) throws(DecodingFailure) -> Bytes {
        let count = Int(try read(UInt32.self))
        guard count <= limit else {
            throw DecodingFailure(expected: "at most \(limit) bytes", found: "a length of \(count)")
        }
        return try readBytes(count: count)
    }

    /// A 32-bit length of at most `limit`, then UTF-8.
    public mutating func readStringWithLength(limit: Int = 65_536) throws(DecodingFailure) -> String {
        let text = try readBytesWithLength(limit: limit)
        guard let string = text.withUnsafeBytes({ String(validating: $0, as: UTF8.self) }) else {
            throw DecodingFailure(expected: "UTF-8", found: "other bytes")
        }
        return string
    }

    @inlinable public mutating func readRest() -> Bytes {
        defer { position = bytes.count }
        return bytes[offset..<bytes.count]
    }

    /// Checks a count read from outside before memory is taken for it: `count` items of at least `size` bytes must
    /// still fit.
    public func check(count: Int, ofSize size: Int) throws(DecodingFailure) {
        guard count >= 0, count <= remaining / max(size, 1) else {
            throw DecodingFailure(
                expected: "\(count) items of at least \(size) bytes", found: "\(remaining) bytes left")
        }
    }

    public func expectEnd() throws(DecodingFailure) {
        guard isAtEnd else {
            throw DecodingFailure(expected: "the end at offset \(offset)", found: "\(remaining) bytes more")
        }
    }
}
