// A memtable's memory: blocks of records, and the hash tables that find them. Owns layout, placement and growth;
// order is in MemtableOrder.swift.
//
//     hash ──top 6 bits──▶ one of 64 tables ──▶ slot: tag u32 | place u32 ──▶ record in a block
//
//     record  0 revision u64   8 changed u64   16 expiry u64   24 value length u32   28 value capacity u32
//            32 forward u32   36 sort key length u16   38 flags u8   40 sort key, value
//
// A table grows by itself when it is three quarters full, so that no put pays for more than a 64th of all keys.

import Primitives

/// Unsafe memory throughout: every pointer comes from this arena's own blocks and lives as long as the arena. One
/// owner writes until the memtable is frozen; nobody writes afterwards.
struct MemtableArena: ~Copyable {
    static let blockBytes = 256 << 10
    static let tableCount = 64
    /// 2^18 blocks at most: 64 GiB when all are full. Hosts freeze long before.
    static let blocksMax = 1 << 18 - 1
    private static let unitShift = 4
    private static let blockShift = 14

    enum Field {
        static let revision = 0, changed = 8, expiry = 16, valueBytes = 24, valueCapacity = 28, forward = 32
        static let keyBytes = 36, flags = 38, key = 40
    }
    static let tombstoneFlag: UInt8 = 1
    /// The record took the place of an older one of the same key, to which the order still points.
    static let movedFlag: UInt8 = 2

    struct Block {
        var base: UnsafeMutableRawPointer
        var used: Int
        var capacity: Int
        /// Bytes whose records the order already has.
        var orderedBytes: Int
    }

    struct Table {
        var slots: UnsafeMutablePointer<UInt64>?
        var exponent: UInt8
        var count: UInt32
    }

    let pool: MemtablePool
    private(set) var blocks: UnsafeMutablePointer<Block>
    private(set) var blockCount = 0
    private var blockCapacity = 16
    /// The block that takes the next record of usual size.
    private var current = -1
    private let tables: UnsafeMutablePointer<Table>
    private let firstExponent: Int
    private(set) var count = 0
    private(set) var tombstones = 0
    private(set) var distinctBytes = 0
    private(set) var arenaBytes = 0

    /// - Parameter expected: number of keys to make room for as they come.
    init(pool: MemtablePool, expected: Int) {
        self.pool = pool
        blocks = .allocate(capacity: blockCapacity)
        tables = .allocate(capacity: Self.tableCount)
        tables.initialize(repeating: Table(slots: nil, exponent: 0, count: 0), count: Self.tableCount)
        var exponent = 4
        while exponent < 20, (1 << exponent) * 3 / 4 * Self.tableCount < expected { exponent += 1 }
        firstExponent = exponent
    }

    deinit {
        for index in 0..<blockCount {
            let block = blocks[index]
            if block.capacity == Self.blockBytes { pool.give(block: block.base) } else { block.base.deallocate() }
        }
        blocks.deallocate()
        for index in 0..<Self.tableCount {
            if let slots = tables[index].slots { pool.give(table: slots, exponent: Int(tables[index].exponent)) }
        }
        tables.deallocate()
    }

    @inline(__always) static func hash(_ prefix: UInt32, _ key: UnsafeRawBufferPointer) -> UInt32 {
        UInt32(truncatingIfNeeded: hash64(key, seed: UInt64(prefix) &* 0x9e37_79b9_7f4a_7c15) &>> 32)
    }

    /// The record at a place that this arena gave out.
    @inline(__always) func address(_ place: UInt32) -> UnsafeMutableRawPointer {
        blocks[Int(place &>> Self.blockShift)].base + Int(place & (1 << Self.blockShift - 1)) &<< Self.unitShift
    }

    /// The record of a key, or nil.
    @inline(__always)
    func find(prefix: UInt32, key: UnsafeRawBufferPointer, tag: UInt32) -> UnsafeMutableRawPointer? {
        let table = tables[Int(tag &>> 26)]
        guard let slots = table.slots else { return nil }
        let mask = 1 &<< Int(table.exponent) &- 1
        var index = Int(tag) & mask
        while true {
            let slot = slots[index]
            if slot == 0 { return nil }
            if UInt32(truncatingIfNeeded: slot &>> 32) == tag {
                let record = address(UInt32(truncatingIfNeeded: slot) &- 1)
                if Self.matches(record, prefix, key) { return record }
            }
            index = (index &+ 1) & mask
        }
    }

    @inline(__always)
    private static func matches(_ record: UnsafeMutableRawPointer, _ prefix: UInt32, _ key: UnsafeRawBufferPointer)
        -> Bool
    {
        guard
            Int(record.load(fromByteOffset: Field.keyBytes, as: UInt16.self)) == key.count
                &+ RecordLimits.sortPrefixBytes,
            record.load(fromByteOffset: Field.key, as: UInt32.self) == prefix
        else { return false }
        return equal(record + (Field.key + RecordLimits.sortPrefixBytes), key)
    }

    @inline(__always)
    private static func equal(_ left: UnsafeMutableRawPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        var offset = 0
        let count = right.count
        guard let base = right.baseAddress else { return true }
        while offset &+ 8 <= count {
            if left.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                != base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            {
                return false
            }
            offset &+= 8
        }
        while offset < count {
            if left.load(fromByteOffset: offset, as: UInt8.self) != base.load(fromByteOffset: offset, as: UInt8.self) {
                return false
            }
            offset &+= 1
        }
        return true
    }

    @inline(__always)
    mutating func put(
        prefix: UInt32, key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex, expiry: LogTime,
        isTombstone: Bool, value: UnsafeRawBufferPointer
    ) {
        let tag = Self.hash(prefix, key)
        let number = Int(tag &>> 26)
        var table = tables[number]
        if table.slots == nil || Int(table.count) &* 4 >= 3 &<< Int(table.exponent) {
            grow(number)
            table = tables[number]
        }
        let slots = table.slots!
        let mask = 1 &<< Int(table.exponent) &- 1
        var index = Int(tag) & mask
        while true {
            let slot = slots[index]
            if slot == 0 { break }
            if UInt32(truncatingIfNeeded: slot &>> 32) == tag {
                let place = UInt32(truncatingIfNeeded: slot) &- 1
                let record = address(place)
                if Self.matches(record, prefix, key) {
                    overwrite(
                        record, at: slots + index, tag: tag, prefix: prefix, key: key, revision: revision,
                        changed: changed,
                        expiry: expiry, isTombstone: isTombstone, value: value)
                    return
                }
            }
            index = (index &+ 1) & mask
        }
        let (record, place) = make(prefix: prefix, key: key, valueBytes: value.count)
        Self.fill(record, revision, changed, expiry, flags: isTombstone ? Self.tombstoneFlag : 0, value)
        slots[index] = UInt64(tag) &<< 32 | UInt64(place &+ 1)
        tables[number].count = table.count &+ 1
        count &+= 1
        tombstones &+= isTombstone ? 1 : 0
        distinctBytes &+= RecordEncoding.encodedBytes(
            sortKeyBytes: key.count &+ RecordLimits.sortPrefixBytes, valueBytes: value.count)
    }

    @inline(__always)
    private mutating func overwrite(
        _ record: UnsafeMutableRawPointer, at slot: UnsafeMutablePointer<UInt64>, tag: UInt32, prefix: UInt32,
        key: UnsafeRawBufferPointer, revision: Revision, changed: LogIndex, expiry: LogTime, isTombstone: Bool,
        value: UnsafeRawBufferPointer
    ) {
        let oldFlags = record.load(fromByteOffset: Field.flags, as: UInt8.self)
        distinctBytes &+= value.count &- Int(record.load(fromByteOffset: Field.valueBytes, as: UInt32.self))
        tombstones &+= (isTombstone ? 1 : 0) &- Int(oldFlags & Self.tombstoneFlag)
        let flag: UInt8 = isTombstone ? Self.tombstoneFlag : 0
        if value.count <= Int(record.load(fromByteOffset: Field.valueCapacity, as: UInt32.self)) {
            Self.fill(record, revision, changed, expiry, flags: oldFlags & Self.movedFlag | flag, value)
            return
        }
        let (larger, place) = make(prefix: prefix, key: key, valueBytes: value.count)
        Self.fill(larger, revision, changed, expiry, flags: Self.movedFlag | flag, value)
        record.storeBytes(of: place &+ 1, toByteOffset: Field.forward, as: UInt32.self)
        slot.pointee = UInt64(tag) &<< 32 | UInt64(place &+ 1)
    }

    @inline(__always)
    private static func fill(
        _ record: UnsafeMutableRawPointer, _ revision: Revision, _ changed: LogIndex, _ expiry: LogTime,
        flags: UInt8, _ value: UnsafeRawBufferPointer
    ) {
        record.storeBytes(of: revision.rawValue, toByteOffset: Field.revision, as: UInt64.self)
        record.storeBytes(of: changed.rawValue, toByteOffset: Field.changed, as: UInt64.self)
        record.storeBytes(of: expiry.rawValue, toByteOffset: Field.expiry, as: UInt64.self)
        record.storeBytes(of: UInt32(truncatingIfNeeded: value.count), toByteOffset: Field.valueBytes, as: UInt32.self)
        record.storeBytes(of: flags, toByteOffset: Field.flags, as: UInt8.self)
        guard let source = value.baseAddress else { return }
        let keyBytes = Int(record.load(fromByteOffset: Field.keyBytes, as: UInt16.self))
        (record + (Field.key &+ keyBytes)).copyMemory(from: source, byteCount: value.count)
    }

    /// A record with its key, for a value of that size.
    @inline(__always)
    private mutating func make(
        prefix: UInt32, key: UnsafeRawBufferPointer,
        valueBytes: Int
    ) -> (UnsafeMutableRawPointer, UInt32) {
        precondition(
            key.count <= RecordLimits.keyBytesMax && valueBytes <= RecordLimits.valueBytesMax,
            "a record over its limits reached the memtable")
        let keyBytes = key.count &+ RecordLimits.sortPrefixBytes
        let size = (Field.key &+ keyBytes &+ valueBytes &+ 15) & ~15
        if current < 0 || blocks[current].capacity &- blocks[current].used < size {
            if size > Self.blockBytes / 4 { return makeAlone(prefix, key, size) }
            addBlock(size)
        }
        let place = UInt32(truncatingIfNeeded: current &<< Self.blockShift | blocks[current].used &>> Self.unitShift)
        let record = blocks[current].base + blocks[current].used
        blocks[current].used &+= size
        Self.begin(record, prefix, key, size)
        return (record, place)
    }

    /// Large values own blocks: one in a usual block would waste what is left of it.
    @inline(never)
    private mutating func makeAlone(
        _ prefix: UInt32, _ key: UnsafeRawBufferPointer,
        _ size: Int
    ) -> (UnsafeMutableRawPointer, UInt32) {
        let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
        append(Block(base: base, used: size, capacity: size, orderedBytes: 0))
        Self.begin(base, prefix, key, size)
        return (base, UInt32(truncatingIfNeeded: (blockCount &- 1) &<< Self.blockShift))
    }

    @inline(__always)
    private static func begin(
        _ record: UnsafeMutableRawPointer, _ prefix: UInt32, _ key: UnsafeRawBufferPointer, _ size: Int
    ) {
        let keyBytes = key.count &+ RecordLimits.sortPrefixBytes
        record.storeBytes(
            of: UInt32(truncatingIfNeeded: size &- Field.key &- keyBytes),
            toByteOffset: Field.valueCapacity, as: UInt32.self)
        record.storeBytes(of: 0, toByteOffset: Field.forward, as: UInt32.self)
        record.storeBytes(of: UInt16(truncatingIfNeeded: keyBytes), toByteOffset: Field.keyBytes, as: UInt16.self)
        record.storeBytes(of: prefix, toByteOffset: Field.key, as: UInt32.self)
        if let source = key.baseAddress {
            (record + (Field.key + RecordLimits.sortPrefixBytes)).copyMemory(from: source, byteCount: key.count)
        }
    }

    /// The first blocks are small, so that thousands of quiet replicas cost little.
    @inline(never)
    private mutating func addBlock(_ needed: Int) {
        if blockCount < 2 {
            let size = max(Self.blockBytes / (blockCount == 0 ? 16 : 4), needed)
            let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
            append(Block(base: base, used: 0, capacity: size, orderedBytes: 0))
        } else {
            append(Block(base: pool.takeBlock(), used: 0, capacity: Self.blockBytes, orderedBytes: 0))
        }
        current = blockCount - 1
    }

    private mutating func append(_ block: Block) {
        precondition(blockCount < Self.blocksMax, "a memtable grew to its 64 GiB and nobody froze it")
        if blockCount == blockCapacity {
            let larger = UnsafeMutablePointer<Block>.allocate(capacity: blockCapacity * 2)
            larger.moveInitialize(from: blocks, count: blockCount)
            blocks.deallocate()
            blocks = larger
            blockCapacity *= 2
        }
        (blocks + blockCount).initialize(to: block)
        blockCount += 1
        arenaBytes += block.capacity
    }

    mutating func markOrdered(block index: Int) { blocks[index].orderedBytes = blocks[index].used }

    /// Doubles one table. The tags are the hashes: no record is touched.
    @inline(never)
    private mutating func grow(_ number: Int) {
        let old = tables[number]
        let exponent = old.slots == nil ? firstExponent : Int(old.exponent) + 1
        precondition(exponent <= 26, "a memtable took 2^32 keys and nobody froze it")
        let slots = pool.takeTable(exponent: exponent)
        if let oldSlots = old.slots {
            let mask = 1 << exponent - 1
            for index in 0..<(1 << Int(old.exponent)) where oldSlots[index] != 0 {
                var target = Int(oldSlots[index] >> 32) & mask
                while slots[target] != 0 { target = (target + 1) & mask }
                slots[target] = oldSlots[index]
            }
            pool.give(table: oldSlots, exponent: Int(old.exponent))
        }
        tables[number] = Table(slots: slots, exponent: UInt8(exponent), count: old.count)
    }

    /// The record that stands for the one at this place now.
    @inline(__always)
    func latest(_ record: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        var record = record
        while true {
            let forward = record.load(fromByteOffset: Field.forward, as: UInt32.self)
            if forward == 0 { return record }
            record = address(forward &- 1)
        }
    }

    /// Calls `body` for the records that stand, in no order that means anything.
    func forEachStanding(_ body: (UnsafeMutableRawPointer) -> Void) {
        for index in 0..<blockCount {
            let block = blocks[index]
            var offset = 0
            while offset < block.used {
                let record = block.base + offset
                if record.load(fromByteOffset: Field.forward, as: UInt32.self) == 0 { body(record) }
                offset +=
                    Field.key + Int(record.load(fromByteOffset: Field.keyBytes, as: UInt16.self))
                    + Int(record.load(fromByteOffset: Field.valueCapacity, as: UInt32.self))
            }
        }
    }

    /// Reads a record in place.
    @inline(__always)
    static func view(_ record: UnsafeMutableRawPointer) -> RecordView {
        let keyBytes = Int(record.load(fromByteOffset: Field.keyBytes, as: UInt16.self))
        return RecordView(
            sortKey: UnsafeRawBufferPointer(start: record + Field.key, count: keyBytes),
            revision: Revision(record.load(fromByteOffset: Field.revision, as: UInt64.self)),
            changed: LogIndex(record.load(fromByteOffset: Field.changed, as: UInt64.self)),
            expiry: LogTime(record.load(fromByteOffset: Field.expiry, as: UInt64.self)),
            isTombstone: record.load(fromByteOffset: Field.flags, as: UInt8.self) & tombstoneFlag != 0,
            value: UnsafeRawBufferPointer(
                start: record + (Field.key &+ keyBytes),
                count: Int(record.load(fromByteOffset: Field.valueBytes, as: UInt32.self))))
    }
}
