// What changed last in a group: for watches, which ask for all changes behind a revision. Owns its memory and which of it
// goes first; what is watched is the watches' affair. Not part of the state: each replica has what it applied itself.

package import Messages
package import Primitives
import StateMachines

/// The last changes of one replica, in the order in which they were applied, in some kilobytes of memory.
///
/// Cost of a change: a copy of key and value, and nothing else on most; chunks are taken as they fill, twice as large each
/// time, and the oldest ones go when all together are above the bound.
package final class ChangeHistory {
    /// Changes of some revisions in a row; no revision is in two of them.
    private struct Chunk {
        /// In `bytes`: where each begins.
        var places: [Place] = []
        var bytes: UnsafeMutableRawBufferPointer
        var used = 0

        /// As many places at most as would fill it: they count as much as it does.
        func hasRoom(for size: Int) -> Bool {
            bytes.count - used >= size && (places.count + 1) * MemoryLayout<Place>.stride <= max(bytes.count, 64)
        }
    }
    private struct Place {
        var revision: Revision
        var offset: UInt32
        var keyBytes: UInt32
        var valueBytes: UInt32
        var number: UInt16
        var slot: Slot
        var machine: SubMachineNumber
        var kind: Change.Kind
        var expiry: LogTime
    }

    /// Ascending.
    private var chunks: [Chunk] = []
    /// All changes at higher revisions are here.
    package private(set) var floor: Revision
    /// Of the last change here, or `floor`.
    package private(set) var last: Revision
    package private(set) var bytes = 0

    private static let chunkBytesMin = 1 << 10
    private static let chunkBytesMax = 64 << 10

    package init(floor: Revision) {
        self.floor = floor
        last = floor
    }

    deinit { for chunk in chunks { chunk.bytes.deallocate() } }

    /// The state is another one: nothing is known of what changed before this revision.
    func begin(at revision: Revision) {
        for chunk in chunks { chunk.bytes.deallocate() }
        chunks = []
        bytes = 0
        floor = revision
        last = revision
    }

    /// - Parameter bytesMax: of all of it; the changes of the newest revision stay.
    package func append(
        _ kind: Change.Kind, number: UInt16 = 0, slot: Slot, machine: SubMachineNumber, revision: Revision,
        expiry: LogTime = .zero, key: UnsafeRawBufferPointer, value: Bytes?, bytesMax: Int
    ) {
        guard bytesMax > 0 else { return begin(at: revision) }
        let size = key.count + (value?.count ?? 0)
        if chunks.isEmpty || !chunks[chunks.count - 1].hasRoom(for: size) {
            addChunk(size, for: revision, bytesMax: bytesMax)
        }
        let place = chunks.count - 1
        let offset = chunks[place].used
        chunks[place].places.append(
            Place(
                revision: revision, offset: UInt32(offset), keyBytes: UInt32(key.count),
                valueBytes: UInt32(value?.count ?? 0), number: number, slot: slot, machine: machine, kind: kind,
                expiry: expiry))
        let target = UnsafeMutableRawBufferPointer(rebasing: chunks[place].bytes[offset...])
        target.copyMemory(from: key)
        if let value, value.count > 0 {
            value.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: target[key.count...]).copyMemory(from: $0)
            }
        }
        chunks[place].used = offset + size
        last = revision
    }

    private func addChunk(_ size: Int, for revision: Revision, bytesMax: Int) {
        // What goes with a revision that goes on stays with it.
        var moved: ArraySlice<Place> = []
        var movedBytes = 0
        if let chunk = chunks.last {
            let first = chunk.places.firstIndex { $0.revision == revision } ?? chunk.places.count
            moved = chunk.places[first...]
            movedBytes = chunk.used - Int(moved.first?.offset ?? UInt32(chunk.used))
        }
        let previous = chunks.last?.bytes.count ?? Self.chunkBytesMin / 2
        let usual = min(previous * 2, Self.chunkBytesMax, max(bytesMax / 4, Self.chunkBytesMin))
        // Twice what a long revision has, so that it is not moved again with each of its changes.
        let wanted = max(usual, movedBytes > 0 ? (size + movedBytes) * 2 : size)
        var new = Chunk(bytes: .allocate(byteCount: wanted, alignment: 8))
        if let first = moved.first {
            let old = chunks[chunks.count - 1]
            let start = Int(first.offset)
            new.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: old.bytes[start..<old.used]))
            new.used = movedBytes
            new.places = moved.map {
                var place = $0
                place.offset -= first.offset
                return place
            }
            chunks[chunks.count - 1].used = start
            chunks[chunks.count - 1].places.removeSubrange(moved.indices)
            if chunks[chunks.count - 1].places.isEmpty {
                bytes -= 2 * old.bytes.count
                chunks.removeLast().bytes.deallocate()
            }
        }
        bytes += 2 * wanted
        chunks.append(new)
        while chunks.count > 1, bytes > bytesMax {
            let oldest = chunks.removeFirst()
            if let last = oldest.places.last { floor = last.revision }
            bytes -= 2 * oldest.bytes.count
            oldest.bytes.deallocate()
        }
    }

    /// The changes at higher revisions than `after` that `isWanted`, up to about `bytesMax` bytes as encoded, but all of a
    /// revision together; and up to which revision these are all. Cost: one look at each change behind `after`.
    ///
    /// - Returns: nil if some behind `after` are not here any more.
    package func changes(
        after: Revision, slot: Slot, machine: SubMachineNumber, in range: WatchRange, bytesMax: Int
    ) -> (changes: [Change], through: Revision)? {
        guard after >= floor else { return nil }
        var found: [Change] = []
        var bytes = 0
        var revision = after
        for chunk in chunks[firstChunk(after: after)...] {
            for place in chunk.places[firstPlace(in: chunk, after: after)...] {
                if place.revision != revision {
                    if bytes >= bytesMax { return (found, revision) }
                    revision = place.revision
                }
                guard place.slot == slot, place.machine == machine else { continue }
                let start = chunk.bytes.baseAddress.map { UnsafeRawPointer($0) + Int(place.offset) }
                let raw = UnsafeRawBufferPointer(start: start, count: Int(place.keyBytes) + Int(place.valueBytes))
                let key = UnsafeRawBufferPointer(rebasing: raw[..<Int(place.keyBytes)])
                let isGone = place.kind == .cleared && range.begins(with: key) && !isPlanted("clearing-untold")
                guard range.contains(key) || isGone else { continue }
                let change = Change(
                    place.kind, number: place.number, revision: place.revision, expiry: place.expiry,
                    key: Bytes(copying: key),
                    value: Bytes(copying: UnsafeRawBufferPointer(rebasing: raw[Int(place.keyBytes)...])))
                bytes += change.encodedBytes
                found.append(change)
            }
        }
        return (found, last)
    }

    /// Calls back for each change behind a revision: whose it is, and its key.
    func forEach(after: Revision, _ body: (Change.Kind, Slot, SubMachineNumber, UnsafeRawBufferPointer) -> Void) {
        for chunk in chunks[firstChunk(after: after)...] {
            for place in chunk.places[firstPlace(in: chunk, after: after)...] {
                let start = chunk.bytes.baseAddress.map { UnsafeRawPointer($0) + Int(place.offset) }
                body(
                    place.kind, place.slot, place.machine,
                    UnsafeRawBufferPointer(start: start, count: Int(place.keyBytes)))
            }
        }
    }

    private func firstChunk(after: Revision) -> Int {
        var place = chunks.count
        while place > 0, let last = chunks[place - 1].places.last, last.revision > after { place -= 1 }
        return place
    }

    private func firstPlace(in chunk: Chunk, after: Revision) -> Int {
        var (low, high) = (0, chunk.places.count)
        while low < high {
            let middle = (low + high) / 2
            if chunk.places[middle].revision > after { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

extension WatchRange {
    fileprivate func begins(with key: UnsafeRawBufferPointer) -> Bool {
        from.withUnsafeBytes {
            $0.count >= key.count && compareBytes(UnsafeRawBufferPointer(rebasing: $0[..<key.count]), key) == 0
        }
    }

    fileprivate func contains(_ key: UnsafeRawBufferPointer) -> Bool {
        from.withUnsafeBytes { compareBytes(key, $0) >= 0 }
            && end.map { $0.withUnsafeBytes { compareBytes(key, $0) < 0 } } ?? true
    }
}
