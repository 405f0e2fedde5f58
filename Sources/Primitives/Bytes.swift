// Immutable shared bytes: a payload is encoded once and sliced from then on, by wire, log and journal.

/// A slice of immutable, reference-counted bytes. Copying and slicing cost a retain; nothing is copied.
/// A slice keeps the whole storage alive: what lives long (a memtable) copies the bytes out.
public struct Bytes: Sendable {
    /// Fixed-size memory behind one or more slices, in one allocation with its reference count. The header is its
    /// capacity. Written only while its one owner (a `ByteWriter` or an initializer here) has not handed out a slice that
    /// covers those bytes; immutable from then on.
    @usableFromInline final class Storage: ManagedBuffer<Int, UInt8> {
        @inlinable static func allocate(capacity: Int) -> Storage {
            unsafeDowncast(create(minimumCapacity: capacity) { _ in capacity }, to: Storage.self)
        }
        @inlinable var base: UnsafeMutableRawPointer {
            withUnsafeMutablePointerToElements { UnsafeMutableRawPointer($0) }
        }
        /// By pointer: a property of an object is checked for exclusive access each time.
        @inlinable var size: Int { withUnsafeMutablePointerToHeader { $0.pointee } }
    }

    // Unsafe: bytes below any slice's end never change once that slice exists, as said above.
    @usableFromInline nonisolated(unsafe) let storage: Storage?
    @usableFromInline let start: UInt32
    @usableFromInline let end: UInt32

    @inlinable init(storage: Storage?, start: UInt32, end: UInt32) {
        self.storage = storage
        self.start = start
        self.end = end
    }

    @inlinable public init() { self.init(storage: nil, start: 0, end: 0) }

    /// Allocates `count` bytes (at most 4 GiB - 1) and lets `body` fill all of them.
    @inlinable public init(count: Int, initializingWith body: (UnsafeMutableRawBufferPointer) throws -> Void) rethrows {
        precondition(count >= 0 && count < Int(UInt32.max), "Bytes hold less than 4 GiB")
        guard count > 0 else { self.init(); return }
        let storage = Storage.allocate(capacity: count)
        try body(UnsafeMutableRawBufferPointer(start: storage.base, count: count))
        self.init(storage: storage, start: 0, end: UInt32(count))
    }

    @inlinable public init(copying bytes: UnsafeRawBufferPointer) {
        self.init(count: bytes.count) { $0.copyMemory(from: bytes) }
    }

    @inlinable public init(_ bytes: [UInt8]) {
        self = bytes.withUnsafeBytes { Bytes(copying: $0) }
    }

    /// The string's UTF-8.
    public init(_ string: String) {
        var string = string
        self = string.withUTF8 { Bytes(copying: UnsafeRawBufferPointer($0)) }
    }

    /// Bytes of memory that this slice keeps alive, with whatever other slices of the same storage there are.
    @inlinable public var storageBytes: Int { storage?.size ?? 0 }
    @inlinable public func sharesStorage(with other: Bytes) -> Bool { storage === other.storage }

    @inlinable public var count: Int { Int(end &- start) }
    @inlinable public var isEmpty: Bool { start == end }

    /// The bytes, valid during `body` only.
    @inlinable public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        guard let storage else { return try body(UnsafeRawBufferPointer(start: nil, count: 0)) }
        // The pointer does not keep its memory alive.
        defer { withExtendedLifetime(storage) {} }
        return try body(UnsafeRawBufferPointer(start: storage.base + Int(start), count: count))
    }

    /// The slice with these offsets, counted from this slice's own beginning. Offsets outside are a programmer's error.
    @inlinable public subscript(range: Range<Int>) -> Bytes {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "slice outside of Bytes")
        return Bytes(storage: storage, start: start &+ UInt32(range.lowerBound), end: start &+ UInt32(range.upperBound))
    }

    @inlinable public subscript(offset: Int) -> UInt8 {
        precondition(offset >= 0 && offset < count, "offset outside of Bytes")
        let storage = storage!
        return withExtendedLifetime(storage) { storage.base.load(fromByteOffset: Int(start) + offset, as: UInt8.self) }
    }

    /// Whether it begins with these.
    public func starts(with prefix: Bytes) -> Bool { count >= prefix.count && self[0..<prefix.count] == prefix }

    /// The same bytes in storage of their own, so that a large frame is not kept alive by a small slice.
    public func compacted() -> Bytes {
        withUnsafeBytes { Bytes(copying: $0) }
    }

    public var array: [UInt8] { withUnsafeBytes { [UInt8]($0) } }

    /// The bytes as text; bytes that are not UTF-8 show as U+FFFD.
    public var string: String { withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }
}

extension Bytes: Equatable, Hashable, Comparable, CustomStringConvertible, ExpressibleByStringLiteral {
    public static func == (left: Bytes, right: Bytes) -> Bool {
        left.count == right.count && compare(left, right) == 0
    }

    /// By unsigned bytes, a prefix before what it begins.
    public static func < (left: Bytes, right: Bytes) -> Bool { compare(left, right) < 0 }

    public func hash(into hasher: inout Hasher) {
        withUnsafeBytes { hasher.combine(bytes: $0) }
    }

    public var description: String { string }
    public init(stringLiteral value: String) { self.init(value) }

    private static func compare(_ left: Bytes, _ right: Bytes) -> Int {
        left.withUnsafeBytes { left in right.withUnsafeBytes { right in compareBytes(left, right) } }
    }
}

/// Negative, zero or positive as `left` sorts before, like or after `right`, by unsigned bytes, a prefix first.
@inlinable public func compareBytes(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
    let shared = min(left.count, right.count)
    var offset = 0
    while offset &+ 8 <= shared {
        let a = UInt64(bigEndian: left.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        let b = UInt64(bigEndian: right.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        if a != b { return a < b ? -1 : 1 }
        offset &+= 8
    }
    while offset < shared {
        let a = left[offset]
        let b = right[offset]
        if a != b { return a < b ? -1 : 1 }
        offset &+= 1
    }
    return left.count - right.count
}

extension Bytes {
    /// The least key behind all that begin with these bytes; nil if there is none.
    public var endOfPrefix: Bytes? {
        var bytes = array
        while let last = bytes.popLast() {
            guard last < .max else { continue }
            bytes.append(last + 1)
            return Bytes(bytes)
        }
        return nil
    }
}
