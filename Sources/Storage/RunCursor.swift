// Walks through runs in order: for pages, and for merges.

import Primitives

/// One run's records in order. Loads a block at a time (pages) or a chunk at a time (merges), verified and copied, so
/// that the transaction may end between two loads.
final class RunCursor {
    let run: Run
    private let loadsChunks: Bool
    private var chunk = 0
    private var block = 0
    private var buffer = Bytes()
    private var offset = 0
    /// The chunk that the buffer is from.
    private var bufferChunk = 0
    /// Records passed, when the walk began at the run's first.
    private var passed: UInt64? = 0
    /// The record that the cursor stands at; nil at the end, or when a load is due. Valid until the cursor moves.
    private(set) var current: RecordView?
    private(set) var needsLoad = true

    init(_ run: Run, loadsChunks: Bool) {
        self.run = run
        self.loadsChunks = loadsChunks
    }

    /// Goes to the first record whose key is not below.
    func seek<Reader: DiskReader>(_ sortKey: UnsafeRawBufferPointer, _ reader: Reader) throws {
        (chunk, block) = try run.locate(sortKey, reader)
        passed = nil
        needsLoad = true
        try load(reader)
        while let record = current, compareBytes(record.sortKey, sortKey) < 0 { try advance(reader) }
    }

    /// Goes to the first record whose key is above.
    func seek<Reader: DiskReader>(behind sortKey: Bytes, _ reader: Reader) throws {
        try sortKey.withUnsafeBytes { sortKey in
            try seek(sortKey, reader)
            if let record = current, compareBytes(record.sortKey, sortKey) == 0 { try advance(reader) }
        }
    }

    /// Moves on by one; the next load may be due then.
    @inline(__always)
    func advance() throws {
        let bytes = buffer.withUnsafeBytes { $0 }
        // Valid beyond the closure: the storage is alive and at rest as long as `buffer` holds it.
        if offset < bytes.count {
            guard let (record, end) = RecordEncoding.decode(bytes, at: offset) else {
                throw run.corrupt(bufferChunk, "no record at offset \(offset)")
            }
            current = record
            offset = end
            if passed != nil { passed! += 1 }
        } else {
            current = nil
            needsLoad = true
        }
    }

    func advance<Reader: DiskReader>(_ reader: Reader) throws {
        try advance()
        if needsLoad { try load(reader) }
    }

    /// Loads what comes next. At the run's end, checks that all its records came by.
    func load<Reader: DiskReader>(_ reader: Reader) throws {
        while needsLoad {
            guard chunk < Int(run.descriptor.dataChunks) else {
                needsLoad = false
                current = nil
                if let passed, passed != run.descriptor.records {
                    throw run.corrupt(chunk, "expected \(run.descriptor.records) records in the run, found \(passed)")
                }
                return
            }
            try run.withChunk(chunk, reader) { head in
                switch head.kind {
                case .overflow:
                    chunk += 1
                    block = 0
                case .records:
                    guard let bytes = loadsChunks && block == 0 ? head.allBlocks() : head.block(block) else {
                        throw run.corrupt(chunk, "a block's checksum does not match")
                    }
                    buffer = Bytes(copying: bytes)
                    offset = 0
                    bufferChunk = chunk
                    block = loadsChunks && block == 0 ? head.blocks : block + 1
                    if block >= head.blocks {
                        chunk += 1
                        block = 0
                    }
                    needsLoad = false
                case .index, .filter:
                    throw run.corrupt(chunk, "expected records, found \(head.kind)")
                }
            }
            if !needsLoad { try advance() }
        }
    }

    /// The record's value when it lies in chunks of its own.
    func overflowValue<Reader: DiskReader>(_ reader: Reader) throws -> Bytes? {
        guard let overflow = current?.overflow else { return nil }
        return try run.overflowValue(overflow, reader)
    }

    /// The record, copied out.
    func copy<Reader: DiskReader>(_ reader: Reader) throws -> Record? {
        guard let current else { return nil }
        var record = current.copy()
        if let value = try overflowValue(reader) { record.value = value }
        return record
    }
}

/// Several runs as one: of records with the same key only the newest shows.
struct RunMerge {
    /// Newest first.
    let cursors: [RunCursor]
    /// The cursor that stands at the least key; nil at the end.
    private(set) var winner: RunCursor?

    init(newestFirst cursors: [RunCursor]) { self.cursors = cursors }

    /// Finds the next record. Every cursor has loaded.
    mutating func choose() {
        var best: RunCursor?
        var bestKey = UnsafeRawBufferPointer(start: nil, count: 0)
        for cursor in cursors {
            guard let key = cursor.current?.sortKey else { continue }
            if best == nil || compareBytes(key, bestKey) < 0 {
                best = cursor
                bestKey = key
            }
        }
        winner = best
    }

    /// Moves every cursor past the winner's key; loads may be due then.
    mutating func pass() throws {
        guard let winner, let key = winner.current?.sortKey else { return }
        for cursor in cursors where cursor !== winner {
            if let other = cursor.current?.sortKey, other.count == key.count, compareBytes(other, key) == 0 {
                try cursor.advance()
            }
        }
        try winner.advance()
    }

    mutating func load<Reader: DiskReader>(_ reader: Reader) throws {
        for cursor in cursors where cursor.needsLoad { try cursor.load(reader) }
    }

    var needsLoad: Bool {
        for cursor in cursors where cursor.needsLoad { return true }
        return false
    }
}
