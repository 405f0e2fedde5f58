// A memtable that nobody writes any more: what a checkpoint turns into a run, and what readers see meanwhile.

public import Primitives
import Synchronization

/// Immutable contents of a memtable. Its memory goes back to the pool when the last holder lets go.
/// Sendable: nothing is written after the freeze but the order, once, under the mutex.
public final class FrozenMemtable: Sendable {
    private let contents: MemtableContents
    private let isOrdered = Mutex(false)

    init(_ contents: MemtableContents) { self.contents = contents }

    public var count: Int { contents.arena.count }
    public var isEmpty: Bool { contents.arena.count == 0 }
    public var tombstones: Int { contents.arena.tombstones }
    public var distinctBytes: Int { contents.arena.distinctBytes }

    public func get(_ key: RecordKey) -> Lookup { contents.get(key) }

    /// As of a `Memtable`.
    public func value(slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer) -> RecordValue? {
        contents.value(sortPrefix(slot, machine), key)
    }

    /// As of a `Memtable`.
    public func has(slot: Slot, machine: SubMachineNumber, key: UnsafeRawBufferPointer) -> Bool {
        contents.has(sortPrefix(slot, machine), key)
    }

    /// Calls `body` for the records from a key on, tombstones too, in order, until it returns false.
    /// The first who asks for order sorts: a background thread, not an event loop.
    public func forEach(from first: RecordKey? = nil, _ body: (RecordView) throws -> Bool) rethrows {
        sort()
        try contents.forEachOrdered(from: first, body)
    }

    /// As of a `Memtable`. Who sorts meanwhile waits.
    public func add(toBytesOfSlots bytes: inout [UInt64]) {
        isOrdered.withLock { _ in contents.add(toBytesOfSlots: &bytes) }
    }

    public func page(from first: RecordKey? = nil, recordsMax: Int, bytesMax: Int) -> RecordPage {
        sort()
        return contents.page(from: first, end: nil, recordsMax: recordsMax, bytesMax: bytesMax)
    }

    /// Sorts, unless that was done. The positions below need it.
    func sort() {
        isOrdered.withLock { isOrdered in
            if !isOrdered { contents.updateOrder(isLast: true) }
            isOrdered = true
        }
    }

    func position(of key: RecordKey?) -> Int { contents.position(of: key) }
    @inline(__always) func record(at position: Int) -> RecordView { contents.record(at: position) }
}
