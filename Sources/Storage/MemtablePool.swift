// Memory that memtables hand on to each other: fresh pages cost more than the records put into them.

import Synchronization

/// Keeps the blocks and hash tables of memtables that are done, for the next ones. Shared by the replicas of a host.
public final class MemtablePool: Sendable {
    /// Kept at most; what comes beyond it is freed.
    public let bytesMax: Int
    private let free: Mutex<Free>

    private struct Free: @unchecked Sendable {
        // @unchecked: memory in here has no other owner, and the mutex guards the lists.
        var blocks: [UnsafeMutableRawPointer] = []
        /// By the binary logarithm of the number of slots.
        var tables: [[UnsafeMutablePointer<UInt64>]] = Array(repeating: [], count: 32)
        var bytes = 0
    }

    public init(bytesMax: Int = 128 << 20) {
        self.bytesMax = bytesMax
        free = Mutex(Free())
    }

    deinit {
        free.withLock { free in
            for block in free.blocks { block.deallocate() }
            for table in free.tables.joined() { table.deallocate() }
        }
    }

    /// Bytes kept for the next ones.
    public var bytes: Int { free.withLock { $0.bytes } }

    func takeBlock() -> UnsafeMutableRawPointer {
        let kept = free.withLock { free -> Block? in
            guard let block = free.blocks.popLast() else { return nil }
            free.bytes -= MemtableArena.blockBytes
            return Block(base: block)
        }
        return kept?.base ?? .allocate(byteCount: MemtableArena.blockBytes, alignment: 64)
    }

    func give(block: UnsafeMutableRawPointer) {
        let given = Block(base: block)
        let isKept = free.withLock { free in
            guard free.bytes + MemtableArena.blockBytes <= bytesMax else { return false }
            free.blocks.append(given.base)
            free.bytes += MemtableArena.blockBytes
            return true
        }
        if !isKept { block.deallocate() }
    }

    /// A table of 2^`exponent` empty slots.
    func takeTable(exponent: Int) -> UnsafeMutablePointer<UInt64> {
        let kept = free.withLock { free -> Table? in
            guard let table = free.tables[exponent].popLast() else { return nil }
            free.bytes -= 8 << exponent
            return Table(base: table)
        }
        if let kept { return kept.base }
        let table = UnsafeMutablePointer<UInt64>.allocate(capacity: 1 << exponent)
        table.initialize(repeating: 0, count: 1 << exponent)
        return table
    }

    /// Takes a table back, with whatever is in it. Cleared here, so that the one who takes it does not wait.
    func give(table: UnsafeMutablePointer<UInt64>, exponent: Int) {
        table.update(repeating: 0, count: 1 << exponent)
        let given = Table(base: table)
        let isKept = free.withLock { free in
            guard free.bytes + 8 << exponent <= bytesMax else { return false }
            free.tables[exponent].append(given.base)
            free.bytes += 8 << exponent
            return true
        }
        if !isKept { table.deallocate() }
    }

    private struct Block: @unchecked Sendable { var base: UnsafeMutableRawPointer }
    private struct Table: @unchecked Sendable { var base: UnsafeMutablePointer<UInt64> }
    // @unchecked: both carry memory in or out of the mutex, one owner before and one after.
}
