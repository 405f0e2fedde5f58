// Where structures of records read and write within a machine: a command's context and a query's view.

package import Primitives
package import StateMachines

/// Each record counts as one of the command's reads, and each change as one of its writes.
extension MachineContext: RecordSpace {
    package mutating func value(of key: Bytes) throws -> Bytes? { try get(key)?.value }

    package mutating func values(of keys: [Bytes]) throws -> [Bytes?] {
        // Those behind fail anyway, and need not be fetched for it.
        try prepare(Array(keys.prefix(Limits.readsMax)))
        var found: [Bytes?] = []
        found.reserveCapacity(keys.count)
        for key in keys { found.append(try get(key)?.value) }
        return found
    }

    package mutating func fetch(along keys: [Bytes]) { wait(along: keys) }

    package mutating func set(_ key: Bytes, to value: Bytes) throws { try put(key, value) }

    package mutating func remove(_ key: Bytes) throws { try delete(key) }
}

/// Each record counts as one of the query's reads.
extension MachineView: RecordReading {
    package mutating func value(of key: Bytes) throws -> Bytes? { try get(key)?.value }

    package mutating func values(of keys: [Bytes]) throws -> [Bytes?] {
        try prepare(Array(keys.prefix(MachineContext.Limits.readsMax)))
        var found: [Bytes?] = []
        found.reserveCapacity(keys.count)
        for key in keys { found.append(try get(key)?.value) }
        return found
    }
}
