// A digest of what a state is, whichever way it came about: whoever sends a state and whoever has taken it compare theirs.
// The rolling digest of a replica is another one: it is over all effects of its log.

import Primitives

/// A digest over live records that are taken in ascending order. Starts as that of no record.
public struct StateDigest: Hashable, Sendable {
    public private(set) var value: UInt64 = 0
    /// How many it has taken.
    public private(set) var records: UInt64 = 0

    public init() {}

    /// Takes the next record, with its value in place.
    mutating func add(_ record: RecordView) {
        let place =
            UInt64(record.slot.rawValue) | UInt64(record.machine.rawValue) << 16 | (record.isTombstone ? 0 : 1 << 32)
        let seed =
            (place ^ mix(record.revision.rawValue) ^ mix(~record.changed.rawValue))
            &+ record.expiry.rawValue &* 0x9e37_79b9_7f4a_7c15
        var hash = hash64(record.keyBytes, seed: seed)
        if !record.isTombstone { hash = hash64(record.value, seed: hash) }
        value = mix(value ^ hash)
        records += 1
    }
}
