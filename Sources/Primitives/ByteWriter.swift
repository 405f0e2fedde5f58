// Little-endian encoding into memory that becomes `Bytes` without a copy.

/// Appends integers and bytes; grows as needed. All integers are little-endian unless a name says otherwise.
public struct ByteWriter: ~Copyable, Sendable {
    // Unsafe: nobody else has what is written here before `take` hands it over.
    @usableFromInline nonisolated(unsafe) var storage: Bytes.Storage
    @usableFromInline var used: Int
    @inlinable public var count: Int { used }

    @inlinable public init(capacity: Int = 256) {
        storage = Bytes.Storage.allocate(capacity: max(capacity, 16))
        used = 0
    }

    public var isEmpty: Bool { used == 0 }

    /// Makes room for `size` more bytes and counts them as written. The caller fills them.
    @inlinable public mutating func extend(by size: Int) -> UnsafeMutableRawBufferPointer {
        if count + size > storage.size { grow(to: count + size) }
        let place = UnsafeMutableRawBufferPointer(start: storage.base + count, count: size)
        used += size
        return place
    }

    @inlinable public mutating func write<Integer: FixedWidthInteger>(_ value: Integer) {
        let place = extend(by: MemoryLayout<Integer>.size)
        place.storeBytes(of: value.littleEndian, as: Integer.self)
    }

    @inlinable public mutating func write<ID: Identifier>(_ value: ID) { write(value.rawValue) }
    @inlinable public mutating func write(_ value: Bool) { write(value ? 1 as UInt8 : 0) }

    public mutating func write(_ value: ClusterID) {
        write(value.high)
        write(value.low)
    }

    @inlinable public mutating func write(bytes: UnsafeRawBufferPointer) {
        extend(by: bytes.count).copyMemory(from: bytes)
    }

    @inlinable public mutating func write(_ bytes: Bytes) {
        let place = extend(by: bytes.count)
        bytes.withUnsafeBytes { place.copyMemory(from: $0) }
    }

    /// A 32-bit length, then the bytes.
    @inlinable public mutating func writeWithLength(_ bytes: Bytes) {
        write(UInt32(bytes.count))
        write(bytes)
    }

    /// A 32-bit length, then the string's UTF-8.
    public mutating func writeWithLength(_ string: String) {
        let start = count
        write(0 as UInt32)
        var string = string
        string.withUTF8 { write(bytes: UnsafeRawBufferPointer($0)) }
        overwrite(UInt32(count - start - 4), at: start)
    }

    /// Replaces an integer written before.
    @inlinable public mutating func overwrite<Integer: FixedWidthInteger>(_ value: Integer, at offset: Int) {
        precondition(
            offset >= 0 && offset + MemoryLayout<Integer>.size <= count, "overwrite outside of what is written")
        (storage.base + offset).storeBytes(of: value.littleEndian, as: Integer.self)
    }

    /// What was written so far, valid during `body` only.
    public func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try body(UnsafeRawBufferPointer(start: storage.base, count: count))
    }

    /// CRC-32C of what was written from `offset` on.
    public func checksum(from offset: Int = 0) -> UInt32 {
        crc32c(UnsafeRawBufferPointer(start: storage.base + offset, count: count - offset))
    }

    /// Hands over what was written, with its memory: this is the end of the writer.
    @inlinable public consuming func take() -> Bytes { Bytes(storage: storage, start: 0, end: UInt32(used)) }

    /// Forgets what was written and keeps the memory.
    public mutating func removeAll() { used = 0 }

    @usableFromInline mutating func grow(to needed: Int) {
        precondition(needed < Int(UInt32.max), "a ByteWriter holds less than 4 GiB")
        let larger = Bytes.Storage.allocate(capacity: max(needed, storage.size * 2))
        larger.base.copyMemory(from: storage.base, byteCount: count)
        storage = larger
    }
}
