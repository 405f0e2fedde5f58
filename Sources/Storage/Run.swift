// A run as readers use it: its descriptor, and the parts of index and filter that are in memory. Owns lookup inside of
// one run; which runs make up a state is the manifest's affair.

import Primitives
import Synchronization

/// One run of one manifest. Who holds it pins it: when it is replaced and the last holder lets go, its chunks go to
/// the graveyard, and only then may the store delete them.
final class Run: Sendable {
    let descriptor: RunDescriptor
    let replica: ReplicaID
    private let cache: RunCache
    private let graveyard: RunGraveyard
    /// No manifest names it any more.
    private let isReplaced = Atomic<Bool>(false)
    private let parts: Mutex<Parts>

    private struct Parts {
        var nodes: [RunIndexNode?]
        var filters: [Bytes?]
        /// Used since the cache looked last: index first, then filter.
        var isUsed: [Bool]
    }

    init(_ descriptor: RunDescriptor, replica: ReplicaID, cache: RunCache, graveyard: RunGraveyard) {
        self.descriptor = descriptor
        self.replica = replica
        self.cache = cache
        self.graveyard = graveyard
        // Arrays by number of index and filter chunks: a thousandth of the run.
        parts = Mutex(
            Parts(
                nodes: Array(repeating: nil, count: Int(descriptor.indexChunks)),
                filters: Array(repeating: nil, count: Int(descriptor.filterChunks)),
                isUsed: Array(repeating: false, count: Int(descriptor.indexChunks) + Int(descriptor.filterChunks))))
    }

    deinit {
        cache.forgetTheDead()
        if isReplaced.load(ordering: .acquiring) { graveyard.bury(descriptor.id) }
    }

    func markReplaced() {
        isReplaced.store(true, ordering: .releasing)
        if isPlanted("unpinned-view") { graveyard.bury(descriptor.id) }
    }

    func corrupt(_ chunk: Int, _ what: String) -> DiskError { Chunk.corrupt(replica, descriptor.id, chunk, what) }

    /// Calls `body` with a chunk's verified head.
    @inline(__always)
    func withChunk<Reader: DiskReader, Result>(
        _ chunk: Int, _ reader: Reader,
        _ body: (ChunkHead) throws -> Result
    ) throws -> Result {
        try reader.withValue(for: Chunk.key(descriptor.id, chunk)) { value in
            try body(try ChunkHead(value, of: descriptor.id, replica: replica, chunk: chunk))
        }
    }

    /// The content of a chunk of one block, copied out.
    private func single<Reader: DiskReader>(_ kind: ChunkKind, _ chunk: Int, _ reader: Reader) throws -> (
        Bytes, level: Int
    ) {
        try withChunk(chunk, reader) { head in
            guard head.kind == kind, head.blocks == 1 else {
                throw corrupt(chunk, "expected a chunk of kind \(kind), found \(head.kind)")
            }
            guard let block = head.block(0) else { throw corrupt(chunk, "the block's checksum does not match") }
            return (Bytes(copying: block), Int(head.level))
        }
    }

    private func node<Reader: DiskReader>(_ number: Int, _ reader: Reader) throws -> RunIndexNode {
        let known = parts.withLock { parts in
            parts.isUsed[number] = true
            return parts.nodes[number]
        }
        if let known { return known }
        let chunk = Int(descriptor.dataChunks) + number
        let (payload, level) = try single(.index, chunk, reader)
        guard let node = RunIndexNode(level: level, payload: payload) else {
            throw corrupt(chunk, "the index does not parse")
        }
        parts.withLock { $0.nodes[number] = node }
        cache.admit(self, part: number, bytes: payload.count)
        return node
    }

    /// The same for who looks at all of them once: it is not kept in memory, nor does it keep others out of it.
    func passingNode<Reader: DiskReader>(_ number: Int, _ reader: Reader) throws -> RunIndexNode {
        if let known = parts.withLock({ $0.nodes[number] }) { return known }
        let chunk = Int(descriptor.dataChunks) + number
        let (payload, level) = try single(.index, chunk, reader)
        guard let node = RunIndexNode(level: level, payload: payload) else {
            throw corrupt(chunk, "the index does not parse")
        }
        return node
    }

    private func filter<Reader: DiskReader>(_ number: Int, _ reader: Reader) throws -> Bytes {
        let part = Int(descriptor.indexChunks) + number
        let known = parts.withLock { parts in
            parts.isUsed[part] = true
            return parts.filters[number]
        }
        if let known { return known }
        let chunk = Int(descriptor.dataChunks) + part
        let lines = try single(.filter, chunk, reader).0
        guard !lines.isEmpty, lines.count % RunFilter.lineBytes == 0 else {
            throw corrupt(chunk, "the filter has broken lines")
        }
        parts.withLock { $0.filters[number] = lines }
        cache.admit(self, part: part, bytes: lines.count)
        return lines
    }

    /// The cache asks for the memory: false if the part was used since it asked last.
    func evict(_ part: Int) -> Bool {
        parts.withLock { parts in
            if parts.isUsed[part] {
                parts.isUsed[part] = false
                return false
            }
            if part < parts.nodes.count {
                parts.nodes[part] = nil
            } else {
                parts.filters[part - parts.nodes.count] = nil
            }
            return true
        }
    }

    /// Where a key is if it is in this run.
    func locate<Reader: DiskReader>(_ sortKey: UnsafeRawBufferPointer, _ reader: Reader) throws -> (
        chunk: Int, block: Int
    ) {
        var number = Int(descriptor.indexChunks) - 1
        var level: Int?
        while true {
            let chunk = Int(descriptor.dataChunks) + number
            let node = try node(number, reader)
            guard level == nil || node.level == level! - 1, let entry = node.find(sortKey) else {
                throw corrupt(chunk, "the index leads nowhere")
            }
            if node.level == 0 {
                guard entry.chunk < Int(descriptor.dataChunks) else {
                    throw corrupt(chunk, "the index names chunk \(entry.chunk)")
                }
                return entry
            }
            level = node.level
            number = entry.chunk - Int(descriptor.dataChunks)
            guard number >= 0, number < Int(descriptor.indexChunks) else {
                throw corrupt(chunk, "the index names chunk \(entry.chunk)")
            }
        }
    }

    /// What this run says about a key. Verifies one chunk's head and one block. nil: nothing.
    func get<Reader: DiskReader>(
        _ key: RecordKey, _ sortKey: UnsafeRawBufferPointer, _ hash: UInt64,
        _ reader: Reader
    ) throws -> Record? {
        let filter = try filter(RunFilter.part(hash, of: Int(descriptor.filterChunks)), reader)
        guard filter.withUnsafeBytes({ RunFilter.mayHold(hash, $0) }) else { return nil }
        let (chunk, block) = try locate(sortKey, reader)
        var overflow: (bytes: Int, chunk: UInt32)?
        var record = try withChunk(chunk, reader) { head -> Record? in
            guard head.kind == .records else { throw corrupt(chunk, "expected records, found \(head.kind)") }
            guard let bytes = head.block(block) else {
                throw corrupt(chunk, "block \(block)'s checksum does not match")
            }
            var offset = 0
            while offset < bytes.count {
                guard let (record, end) = RecordEncoding.decode(bytes, at: offset) else {
                    throw corrupt(chunk, "block \(block) has no record at offset \(offset)")
                }
                let order = compareBytes(record.sortKey, sortKey)
                if order == 0 {
                    overflow = record.overflow
                    return record.record(key: key)
                }
                if order > 0 { return nil }
                offset = end
            }
            return nil
        }
        if let overflow { record?.value = try overflowValue(overflow, reader) }
        return record
    }

    /// A value that lies in chunks of its own.
    func overflowValue<Reader: DiskReader>(_ reference: (bytes: Int, chunk: UInt32), _ reader: Reader) throws -> Bytes {
        try Bytes(count: reference.bytes) { place in
            var chunk = Int(reference.chunk)
            var offset = 0
            while offset < place.count {
                guard chunk < Int(descriptor.dataChunks) else { throw corrupt(chunk, "a value goes on behind the run") }
                try withChunk(chunk, reader) { head in
                    guard head.kind == .overflow, head.blocks == 1, let block = head.block(0), !block.isEmpty,
                        block.count <= place.count - offset
                    else {
                        throw corrupt(chunk, "expected \(place.count - offset) more bytes of a value")
                    }
                    UnsafeMutableRawBufferPointer(rebasing: place[offset...]).copyMemory(from: block)
                    offset += block.count
                }
                chunk += 1
            }
        }
    }
}

/// Runs that no manifest names and no reader holds: their chunks are to be deleted.
final class RunGraveyard: Sendable {
    private let runs = Mutex<[RunID]>([])

    func bury(_ run: RunID) { runs.withLock { $0.append(run) } }
    var first: RunID? { runs.withLock { $0.first } }
    var isEmpty: Bool { runs.withLock { $0.isEmpty } }
    func remove(_ run: RunID) { runs.withLock { runs in runs.removeAll { $0 == run } } }
}
