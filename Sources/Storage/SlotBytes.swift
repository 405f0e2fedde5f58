// How many bytes each slot has in a replica's state, about. Owns the estimate; refuses to read records for it: the runs'
// indexes say which slots a chunk begins and ends with, and the disk how large it is.
//
//     index   (chunk 0: 3|…) (chunk 0: 3|…) (chunk 3: 5) (chunk 3: 9|…) …
//     chunks  0: slot 3 │ 1, 2: a large value of slot 5 │ 3: slots 5 to 9, evenly │ …

public import Primitives

extension Store {
    /// Bytes that each slot takes in the view's runs and in its frozen memtable, by the slot's number; behind the 16,384
    /// the group's own. Records that hide each other count each, until they are merged, and so do tombstones. Indexes
    /// and filters, some hundredth of the whole, are nobody's.
    ///
    /// Of each run a slot's estimate is off by two chunks at most (128 KiB): those that it shares with other slots. Where
    /// slots are small, as many as a block may have share it evenly. The frozen memtable's part is exact.
    ///
    /// Reads the indexes, and beside them in each run one block for each 256 slots. One short transaction for each 64 KiB
    /// of index, which stand for some 12 MB of records; memory for one of them. Any thread that may wait: some hundred
    /// milliseconds for 10 GB, and as long as the disk takes for 50 MB.
    ///
    /// - Parameter slots: those that the group owns, ascending: a block between two others is shared among these.
    @_specialize(where Storage == LMDBDisk)
    public func slotBytes(in view: StoreView, among slots: [Slot]) throws -> [UInt64] {
        var shares = SlotShares(slots)
        try withExtendedLifetime(view) {
            for run in view.runs {
                var survey = RunSurvey(run)
                for number in 0..<Int(run.descriptor.indexChunks) {
                    // Level 0 comes first, and what is above it says the same.
                    guard try disk.read({ try survey.take(number, $0, &shares) }) else { break }
                }
                try disk.read { try survey.finish($0, &shares) }
            }
        }
        view.frozen?.add(toBytesOfSlots: &shares.bytes)
        return shares.bytes
    }
}

/// What slots have, as far as it is known.
private struct SlotShares {
    var bytes = [UInt64](repeating: 0, count: Slot.count + 1)
    private let slots: [Int]

    init(_ slots: [Slot]) { self.slots = slots.map { Int($0.rawValue) } }

    /// The first of the range has some of it; who else does is not known.
    mutating func add(_ size: UInt64, among range: ClosedRange<Int>) {
        let first = range.lowerBound
        guard range.upperBound > first else { return bytes[first] += size }
        var place = lowerBound(of: first + 1)
        let end = lowerBound(of: range.upperBound + 1)
        let part = size / UInt64(end - place + 1)
        bytes[first] += size - part * UInt64(end - place)
        while place < end {
            bytes[slots[place]] += part
            place += 1
        }
    }

    private func lowerBound(of slot: Int) -> Int {
        var low = 0
        var high = slots.count
        while low < high {
            let middle = (low + high) / 2
            if slots[middle] < slot { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

/// The blocks of one run, as its index names them one after the other.
private struct RunSurvey {
    private let run: Run
    /// The chunk of records whose blocks come by; nil before the first.
    private var chunk: Int?
    /// Slots that each of its blocks has or may have.
    private var blocks: [ClosedRange<Int>] = []
    /// The last block so far: its number, and its first slot. Where it ends the next one says.
    private var last: (block: Int, slot: Int)?

    init(_ run: Run) { self.run = run }

    /// False: this part of the index is none of level 0.
    mutating func take<Reader: DiskReader>(
        _ number: Int, _ reader: Reader, _ shares: inout SlotShares
    ) throws -> Bool {
        let node = try run.passingNode(number, reader)
        guard node.level == 0 else { return false }
        try node.forEach { try add($0, $1, $2, reader, &shares) }
        return true
    }

    private mutating func add<Reader: DiskReader>(
        _ chunk: Int, _ block: Int, _ separator: UnsafeRawBufferPointer, _ reader: Reader, _ shares: inout SlotShares
    ) throws {
        guard chunk >= self.chunk ?? 0, chunk < Int(run.descriptor.dataChunks) else {
            throw run.corrupt(chunk, "the index names it out of order")
        }
        let slot =
            try separator.count >= 2
            ? Int(UInt16(bigEndian: separator.loadUnaligned(as: UInt16.self)))
            : slots(of: block, in: chunk, reader).lowerBound
        guard slot <= Slot.count, slot >= last?.slot ?? 0 else {
            throw run.corrupt(chunk, "its slots are out of order")
        }
        // The separator is no longer than it takes to tell the two blocks apart.
        if let last { blocks.append(last.slot...max(last.slot, separator.count > 2 ? slot : slot - 1)) }
        last = (block, slot)
        guard chunk != self.chunk else { return }
        try share(reader, &shares)
        // Large values stand before the chunk of the record that they belong to, which is its first.
        for large in (self.chunk.map { $0 + 1 } ?? 0)..<chunk {
            shares.add(try size(of: large, reader), among: slot...slot)
        }
        self.chunk = chunk
    }

    /// Behind the whole index.
    mutating func finish<Reader: DiskReader>(_ reader: Reader, _ shares: inout SlotShares) throws {
        guard let chunk, let last else { return }
        blocks.append(last.slot...max(last.slot, try slots(of: last.block, in: chunk, reader).upperBound))
        try share(reader, &shares)
    }

    /// The chunk is complete.
    private mutating func share<Reader: DiskReader>(_ reader: Reader, _ shares: inout SlotShares) throws {
        guard let chunk, !blocks.isEmpty else { return }
        let size = try size(of: chunk, reader)
        let part = size / UInt64(blocks.count)
        // A block of more than one record is no larger.
        let isOfSingles = part > UInt64(Chunk.blockBytesMax + Chunk.headBytes(blocks: 1))
        for (place, block) in blocks.enumerated() {
            shares.add(
                place == 0 ? size - part * UInt64(blocks.count - 1) : part,
                among: isOfSingles ? block.lowerBound...block.lowerBound : block)
        }
        blocks.removeAll(keepingCapacity: true)
    }

    /// As the disk's own index tells it: the chunk is not touched.
    private func size<Reader: DiskReader>(of chunk: Int, _ reader: Reader) throws -> UInt64 {
        try reader.withValue(for: Chunk.key(run.descriptor.id, chunk)) { value in
            guard let value else { throw run.corrupt(chunk, "expected a chunk, found none") }
            return UInt64(value.count)
        }
    }

    /// The first and the last slot of a block's records, from these.
    private func slots<Reader: DiskReader>(of block: Int, in chunk: Int, _ reader: Reader) throws -> ClosedRange<Int> {
        try run.withChunk(chunk, reader) { head in
            guard head.kind == .records, let bytes = head.block(block) else {
                throw run.corrupt(chunk, "block \(block)'s checksum does not match")
            }
            var found: ClosedRange<Int>?
            var offset = 0
            while offset < bytes.count {
                guard let (record, end) = RecordEncoding.decode(bytes, at: offset) else {
                    throw run.corrupt(chunk, "block \(block) has no record at offset \(offset)")
                }
                let slot = Int(record.slot.rawValue)
                guard slot <= Slot.count, slot >= found?.upperBound ?? 0 else { break }
                found = (found?.lowerBound ?? slot)...slot
                offset = end
            }
            guard let found, offset == bytes.count else { throw run.corrupt(chunk, "its slots are out of order") }
            return found
        }
    }
}
