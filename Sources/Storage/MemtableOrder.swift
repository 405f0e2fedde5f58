// The order of a memtable's records, made when somebody asks: sorting is no part of a put.

import Primitives

/// Places of records, sorted by key. New records are sorted by themselves and merged in.
struct MemtableOrder {
    /// The first 24 bytes of the sort key, big-endian and padded with zeros, so that few comparisons touch the record.
    struct Item {
        var words: (UInt64, UInt64, UInt64)
        var record: UnsafeMutableRawPointer
    }

    private(set) var items: [Item] = []

    var count: Int { items.count }

    /// Takes in what came since the last time. Costs a sort of the new ones and one pass over all.
    mutating func update(_ arena: inout MemtableArena) {
        guard items.count < arena.count else { return }
        var fresh: [Item] = []
        fresh.reserveCapacity(arena.count - items.count)
        for index in 0..<arena.blockCount {
            let block = arena.blocks[index]
            var offset = block.orderedBytes
            while offset < block.used {
                let record = block.base + offset
                let keyBytes = Int(record.load(fromByteOffset: MemtableArena.Field.keyBytes, as: UInt16.self))
                offset +=
                    MemtableArena.Field.key + keyBytes
                    + Int(record.load(fromByteOffset: MemtableArena.Field.valueCapacity, as: UInt32.self))
                let flags = record.load(fromByteOffset: MemtableArena.Field.flags, as: UInt8.self)
                if flags & MemtableArena.movedFlag == 0 {
                    fresh.append(Item(words: Self.words(record + MemtableArena.Field.key, keyBytes), record: record))
                }
            }
            arena.markOrdered(block: index)
        }
        Self.sort(&fresh)
        if items.isEmpty {
            items = fresh
        } else {
            var merged: [Item] = []
            merged.reserveCapacity(arena.count)
            var next = 0
            for item in items {
                while next < fresh.count, Self.precedes(fresh[next], item) {
                    merged.append(fresh[next])
                    next += 1
                }
                merged.append(item)
            }
            merged.append(contentsOf: fresh[next...])
            items = merged
        }
        precondition(items.count == arena.count, "the memtable's order misses records")
    }

    /// Position of the first record whose key is not below.
    func position(of sortKey: UnsafeRawBufferPointer) -> Int {
        var low = 0
        var high = items.count
        while low < high {
            let middle = (low + high) / 2
            if compareBytes(Self.sortKey(items[middle].record), sortKey) < 0 { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private static func sortKey(_ record: UnsafeMutableRawPointer) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: record + MemtableArena.Field.key,
            count: Int(record.load(fromByteOffset: MemtableArena.Field.keyBytes, as: UInt16.self)))
    }

    @inline(__always)
    private static func words(_ key: UnsafeMutableRawPointer, _ count: Int) -> (UInt64, UInt64, UInt64) {
        (word(key, 0, count), word(key, 8, count), word(key, 16, count))
    }

    @inline(__always)
    private static func word(_ key: UnsafeMutableRawPointer, _ offset: Int, _ count: Int) -> UInt64 {
        if offset + 8 <= count { return UInt64(bigEndian: key.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
        var value: UInt64 = 0
        var position = offset
        while position < count {
            value |= UInt64(key.load(fromByteOffset: position, as: UInt8.self)) << UInt64(56 - 8 * (position - offset))
            position += 1
        }
        return value
    }

    @inline(__always)
    private static func precedes(_ left: Item, _ right: Item) -> Bool {
        if left.words.0 != right.words.0 { return left.words.0 < right.words.0 }
        if left.words.1 != right.words.1 { return left.words.1 < right.words.1 }
        if left.words.2 != right.words.2 { return left.words.2 < right.words.2 }
        return compareBytes(sortKey(left.record), sortKey(right.record)) < 0
    }

    /// Distributes by slot first: most keys then sort among a few.
    private static func sort(_ items: inout [Item]) {
        guard items.count > 512 else {
            items.sort(by: precedes)
            return
        }
        var low = UInt64.max
        var high: UInt64 = 0
        for item in items {
            low = min(low, item.words.0 >> 48)
            high = max(high, item.words.0 >> 48)
        }
        var ends = [Int](repeating: 0, count: Int(high - low) + 1)
        for item in items { ends[Int(item.words.0 >> 48 - low)] += 1 }
        var sum = 0
        for bucket in ends.indices {
            let count = ends[bucket]
            ends[bucket] = sum
            sum += count
        }
        let count = items.count
        let source = items
        items = [Item](unsafeUninitializedCapacity: count) { target, initialized in
            for item in source {
                let bucket = Int(item.words.0 >> 48 - low)
                (target.baseAddress! + ends[bucket]).initialize(to: item)
                ends[bucket] += 1
            }
            initialized = count
            var start = 0
            for end in ends {
                if end - start > 1 {
                    var bucket = UnsafeMutableBufferPointer(rebasing: target[start..<end])
                    bucket.sort(by: precedes)
                }
                start = end
            }
        }
    }
}
