// The calls in flight on one connection, by their number. Pure. Owns its entries; refuses to know what a call is.

import Primitives

/// A hash table with open addressing for call numbers: insert and remove without an allocation per call.
/// Numbers come from the network: they are spread with a seed that the peer does not know.
package struct CallTable<Value> {
    private var keys: [UInt64]  // 0 is an empty place
    private var values: [Value?]
    private var mask: Int
    private let seed: UInt64
    package private(set) var count = 0

    package init(seed: UInt64) {
        self.seed = seed
        keys = Array(repeating: 0, count: 64)
        values = Array(repeating: nil, count: 64)
        mask = 63
    }

    package var isEmpty: Bool { count == 0 }

    package subscript(call: UInt64) -> Value? {
        guard let place = place(of: call) else { return nil }
        return values[place]
    }

    /// False, and nothing done, when the number is 0 or in the table.
    @discardableResult public mutating func insert(_ call: UInt64, _ value: consuming Value) -> Bool {
        guard call != 0 else { return false }
        if count * 2 > mask { grow() }
        var place = home(of: call)
        while keys[place] != 0 {
            if keys[place] == call { return false }
            place = (place &+ 1) & mask
        }
        keys[place] = call
        values[place] = consume value
        count += 1
        return true
    }

    package mutating func update(_ call: UInt64, _ body: (inout Value) -> Void) {
        guard let place = place(of: call) else { return }
        body(&values[place]!)
    }

    package mutating func remove(_ call: UInt64) -> Value? {
        guard let found = place(of: call) else { return nil }
        let value = values[found].take()
        // Entries behind the hole move up when that brings them no further than their home (Knuth, volume 3, 6.4 R).
        var hole = found
        var next = (hole &+ 1) & mask
        while keys[next] != 0 {
            let home = home(of: keys[next])
            if (next &- home) & mask >= (next &- hole) & mask {
                keys[hole] = keys[next]
                values[hole] = values[next].take()
                hole = next
            }
            next = (next &+ 1) & mask
        }
        keys[hole] = 0
        count -= 1
        return value
    }

    /// All numbers, ascending. Cost: the table's size.
    package var calls: [UInt64] { keys.filter { $0 != 0 }.sorted() }

    /// Every entry once, in no order: for sums and minima only.
    package func forEach(_ body: (UInt64, Value) -> Void) {
        for (place, key) in keys.enumerated() where key != 0 { body(key, values[place]!) }
    }

    /// Empties the table; returns the entries by ascending number.
    package mutating func removeAll() -> [(call: UInt64, value: Value)] {
        let all = calls.map { (call: $0, value: self[$0]!) }
        self = CallTable(seed: seed)
        return all
    }

    @inline(__always) private func home(of call: UInt64) -> Int { Int(truncatingIfNeeded: mix(call ^ seed)) & mask }

    @inline(__always) private func place(of call: UInt64) -> Int? {
        guard call != 0 else { return nil }
        var place = home(of: call)
        while keys[place] != call {
            if keys[place] == 0 { return nil }
            place = (place &+ 1) & mask
        }
        return place
    }

    private mutating func grow() {
        let (oldKeys, oldValues) = (keys, values)
        keys = Array(repeating: 0, count: oldKeys.count * 2)
        values = Array(repeating: nil, count: oldKeys.count * 2)
        mask = keys.count - 1
        for (old, key) in oldKeys.enumerated() where key != 0 {
            var place = home(of: key)
            while keys[place] != 0 { place = (place &+ 1) & mask }
            keys[place] = key
            values[place] = oldValues[old]
        }
    }
}
