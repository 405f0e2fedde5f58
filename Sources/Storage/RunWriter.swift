// Turns sorted records into the chunks of a run. Owns no transaction: whoever drives it takes the chunks and writes
// them, and makes them true by a manifest edit.

import Primitives

/// Writes one run. Memory: the chunks not taken yet, the filter (10 bits per record), the index.
struct RunWriter: ~Copyable {
    let run: RunID
    let replica: ReplicaID
    /// Chunks that are complete, ascending, for the caller to write and remove.
    var complete: [(key: DiskKey, bytes: Bytes)] = []
    private(set) var completeBytes = 0

    private var chunk = ChunkBuilder()
    private var index = RunIndexBuilder()
    private let filter: RunFilterBuilder
    private var lastKey: UnsafeMutableRawBufferPointer
    private var lastKeyBytes = 0
    /// Number of the next chunk. Overflow chunks take theirs at once, the chunk of records when it is complete.
    private var nextChunk = 0
    /// Index entries of the chunk that is open: its number comes last.
    private var separators: [Bytes] = []
    private(set) var records: UInt64 = 0
    private(set) var tombstones: UInt64 = 0
    private var bytes: UInt64 = 0

    /// - Parameter recordsMax: how many records will come at most; sizes the filter.
    init(run: RunID, replica: ReplicaID, recordsMax: Int) {
        self.run = run
        self.replica = replica
        filter = RunFilterBuilder(keysMax: recordsMax)
        lastKey = .allocate(byteCount: RecordLimits.sortKeyBytesMax, alignment: 16)
    }

    deinit { lastKey.deallocate() }

    /// Adds the next record, in ascending order. Throws `.corrupt` if it is not above the last one (then what was
    /// merged
    /// was not sorted).
    /// - Parameter value: in place of the record's own, for one that came from overflow chunks.
    mutating func add(_ record: RecordView, value: UnsafeRawBufferPointer? = nil) throws(DiskError) {
        var record = record
        if let value { record.value = value }
        let key = record.sortKey
        let last = UnsafeRawBufferPointer(rebasing: lastKey[0..<lastKeyBytes])
        guard records == 0 || compareBytes(last, key) < 0 else {
            throw Chunk.corrupt(replica, run, nextChunk, "records to write are not in order")
        }
        let size = RecordEncoding.encodedBytes(sortKeyBytes: key.count, valueBytes: record.value.count)
        if size <= Chunk.singleBlockBytesMax {
            let place = room(size, key, last)
            RecordEncoding.encode(record, overflow: nil, into: place)
        } else {
            let reference = writeOverflow(record.value)
            let place = room(RecordEncoding.headBytes + key.count + RecordEncoding.overflowBytes, key, last)
            RecordEncoding.encode(record, overflow: reference, into: place)
        }
        filter.insert(RunFilter.hash(key))
        lastKey.copyMemory(from: key)
        lastKeyBytes = key.count
        records += 1
        if record.isTombstone { tombstones += 1 }
    }

    /// Completes the last chunk, index and filter. nil if no record came: then there is no run.
    mutating func finish(from: LogIndex, to: LogIndex) -> RunDescriptor? {
        guard records > 0 else { return nil }
        completeChunk()
        let dataChunks = nextChunk
        var contents: [(level: Int, payload: Bytes, entries: Int)] = []
        let indexChunks = index.finish(from: dataChunks) { contents.append(($0, $1, $2)) }
        for node in contents {
            node.payload.withUnsafeBytes { single(.index, level: node.level, $0, records: node.entries) }
        }
        var lines: [Bytes] = []
        let filterChunks = filter.finish { lines.append(Bytes(copying: $0)) }
        for part in lines { part.withUnsafeBytes { single(.filter, $0, records: 0) } }
        return RunDescriptor(
            id: run, from: from, to: to, dataChunks: UInt32(dataChunks), indexChunks: UInt32(indexChunks),
            filterChunks: UInt32(filterChunks), records: records, tombstones: tombstones, bytes: bytes)
    }

    /// The complete chunks, which are no longer kept here.
    mutating func takeComplete() -> [(key: DiskKey, bytes: Bytes)] {
        defer {
            complete = []
            completeBytes = 0
        }
        return complete
    }

    @inline(__always)
    private mutating func room(
        _ size: Int, _ key: UnsafeRawBufferPointer,
        _ last: UnsafeRawBufferPointer
    ) -> UnsafeMutableRawBufferPointer {
        let opensBlock = chunk.blockBytes + size > Chunk.blockBytesMax
        if !chunk.fits(size, opensBlock: opensBlock) { completeChunk() }
        if chunk.isEmpty { chunk.begin(run, nextChunk) }
        if opensBlock { chunk.closeBlock() }
        if chunk.blockBytes == 0 { separators.append(separator(last, key)) }
        return chunk.extend(by: size)
    }

    /// The shortest beginning of `key` that is above `last`; empty for the run's first.
    private func separator(_ last: UnsafeRawBufferPointer, _ key: UnsafeRawBufferPointer) -> Bytes {
        guard records > 0 else { return Bytes() }
        var shared = 0
        while shared < last.count, shared < key.count, last[shared] == key[shared] { shared += 1 }
        return Bytes(copying: UnsafeRawBufferPointer(rebasing: key[0..<min(shared + 1, key.count)]))
    }

    private mutating func completeChunk() {
        guard !chunk.isEmpty else { return }
        let number = nextChunk
        append(chunk.finish(.records, run: run, replica: replica, chunk: number))
        for (block, separator) in separators.enumerated() {
            separator.withUnsafeBytes { index.append(separator: $0, chunk: number, block: block) }
        }
        separators.removeAll(keepingCapacity: true)
    }

    private mutating func writeOverflow(_ value: UnsafeRawBufferPointer) -> (bytes: Int, chunk: UInt32) {
        // The checksums of a chunk are seeded with its number: the one that is open is completed first.
        completeChunk()
        let first = nextChunk
        var offset = 0
        while offset < value.count {
            let size = min(Chunk.singleBlockBytesMax, value.count - offset)
            single(.overflow, UnsafeRawBufferPointer(rebasing: value[offset..<offset + size]), records: 0)
            offset += size
        }
        return (value.count, UInt32(first))
    }

    /// A chunk of one block.
    private mutating func single(_ kind: ChunkKind, level: Int = 0, _ content: UnsafeRawBufferPointer, records: Int) {
        let number = nextChunk
        chunk.begin(run, number)
        chunk.extend(by: content.count, records: records).copyMemory(from: content)
        append(chunk.finish(kind, level: level, run: run, replica: replica, chunk: number))
    }

    private mutating func append(_ content: Bytes) {
        complete.append((Chunk.key(run, nextChunk), content))
        completeBytes += content.count
        bytes += UInt64(content.count)
        nextChunk += 1
        precondition(nextChunk < Int(UInt32.max), "a run has at most 2^32 chunks")
    }
}
