// The order of a memtable's records, made when somebody asks: sorting is no part of a put.

import Primitives

/// Places of records, sorted by key. Many new records are sorted by themselves and merged in; few are put where they
/// belong, so that a page after each put costs no pass over all.
struct MemtableOrder {
    /// The first 24 bytes of the sort key, big-endian and padded with zeros, so that few comparisons touch the record.
    struct Item {
        var words: (UInt64, UInt64, UInt64)
        var record: UnsafeMutableRawPointer
    }

    /// Of a chunk, unless it is the only one, with all.
    private static let chunkMax = 1_024

    /// None is empty.
    private var chunks: [[Item]] = []
    /// How many items stand before each chunk.
    private var starts: [Int] = []
    private(set) var count = 0

    /// Takes in what came since the last time. Costs a sort of the new ones; then one pass over all if they are many, and
    /// a search and a move within a chunk for each if they are few.
    ///
    /// - Parameter isLast: nothing comes any more, and all is read: it is best in one piece.
    mutating func update(_ arena: inout MemtableArena, isLast: Bool = false) {
        guard count < arena.count || (isLast && chunks.count > 1) else { return }
        var fresh = Self.unordered(in: &arena, expected: arena.count - count)
        Self.sort(&fresh)
        count += fresh.count
        precondition(count == arena.count, "the memtable's order misses records")
        if isLast || fresh.count >= count / 16 {
            let all = merged(with: fresh)
            chunks = isLast ? [all] : Self.cut(all)
        } else {
            for item in fresh { insert(item) }
        }
        starts.removeAll(keepingCapacity: true)
        var sum = 0
        for chunk in chunks {
            starts.append(sum)
            sum += chunk.count
        }
    }

    private static func unordered(in arena: inout MemtableArena, expected: Int) -> [Item] {
        var fresh: [Item] = []
        fresh.reserveCapacity(expected)
        for index in 0..<arena.blockCount {
            let block = arena.blocks[index]
            var offset = block.orderedBytes
            guard offset < block.used else { continue }
            while offset < block.used {
                let record = block.base + offset
                let keyBytes = Int(record.load(fromByteOffset: MemtableArena.Field.keyBytes, as: UInt16.self))
                offset +=
                    MemtableArena.Field.key + keyBytes
                    + Int(record.load(fromByteOffset: MemtableArena.Field.valueCapacity, as: UInt32.self))
                let flags = record.load(fromByteOffset: MemtableArena.Field.flags, as: UInt8.self)
                if flags & MemtableArena.movedFlag == 0 {
                    fresh.append(Item(words: words(record + MemtableArena.Field.key, keyBytes), record: record))
                }
            }
            arena.markOrdered(block: index)
        }
        return fresh
    }

    private func merged(with fresh: [Item]) -> [Item] {
        guard !chunks.isEmpty else { return fresh }
        var merged: [Item] = []
        merged.reserveCapacity(count)
        var next = 0
        for chunk in chunks {
            for item in chunk {
                while next < fresh.count, Self.precedes(fresh[next], item) {
                    merged.append(fresh[next])
                    next += 1
                }
                merged.append(item)
            }
        }
        merged.append(contentsOf: fresh[next...])
        return merged
    }

    private static func cut(_ items: [Item]) -> [[Item]] {
        stride(from: 0, to: items.count, by: chunkMax / 2).map {
            Array(items[$0..<min($0 + chunkMax / 2, items.count)])
        }
    }

    private mutating func insert(_ item: Item) {
        let chunk = max(Self.first(in: chunks.count) { Self.precedes(item, chunks[$0][0]) } - 1, 0)
        let place = Self.first(in: chunks[chunk].count) { Self.precedes(item, chunks[chunk][$0]) }
        chunks[chunk].insert(item, at: place)
        guard chunks[chunk].count > Self.chunkMax else { return }
        let upper = Array(chunks[chunk][(Self.chunkMax / 2)...])
        chunks[chunk].removeSubrange((Self.chunkMax / 2)...)
        chunks.insert(upper, at: chunk + 1)
    }

    /// The first of so many places for which it is true; it is so for all behind.
    @inline(__always)
    private static func first(in count: Int, where isTrue: (Int) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isTrue(middle) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// Position of the first record whose key is not below.
    func position(of sortKey: UnsafeRawBufferPointer) -> Int {
        func isNotBelow(_ item: Item) -> Bool { compareBytes(Self.sortKey(item.record), sortKey) >= 0 }
        let chunk = Self.first(in: chunks.count) { isNotBelow(chunks[$0][0]) } - 1
        guard chunk >= 0 else { return 0 }
        return starts[chunk] + Self.first(in: chunks[chunk].count) { isNotBelow(chunks[chunk][$0]) }
    }

    /// The record at a position below the count.
    @inline(__always)
    func record(at position: Int) -> UnsafeMutableRawPointer {
        if chunks.count == 1 { return chunks[0][position].record }
        let chunk = chunk(of: position)
        return chunks[chunk][position - starts[chunk]].record
    }

    private func chunk(of position: Int) -> Int { Self.first(in: starts.count) { starts[$0] > position } - 1 }

    /// Calls `body` for the records from a position on, in order, until it returns false.
    func forEach(from position: Int, _ body: (UnsafeMutableRawPointer) throws -> Bool) rethrows {
        guard position < count else { return }
        var chunk = chunk(of: position)
        var offset = position - starts[chunk]
        while chunk < chunks.count {
            while offset < chunks[chunk].count {
                guard try body(chunks[chunk][offset].record) else { return }
                offset += 1
            }
            (chunk, offset) = (chunk + 1, 0)
        }
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
