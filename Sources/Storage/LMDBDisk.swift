// The disk that is a disk: an LMDB environment behind the transaction interface. Owns the translation of keys and
// errors, growth of the map, and the latch that stops everything after a failed write. Decides nothing about bytes.

public import LMDB
import Synchronization

/// An LMDB environment as a `Disk`. Writers wait for one another; a write begins and commits on the calling thread.
public final class LMDBDisk: Disk {
    public struct Settings: Sendable {
        /// Address space taken at first; doubled whenever it is full. Not memory, and not space on the file system.
        public var mapBytes = 256 << 20
        /// Beyond this, writes fail with `.full`.
        public var mapBytesMax = 1 << 40
        /// Zeros are written behind the file's last page as long as fewer than this many are there; 0 writes none.
        /// Halves the time of a commit that would extend the file (see `Environment.preallocate`).
        public var preallocateBytes = 0
        /// As many at once, so that one commit is not held up for long.
        public var preallocateStepBytes = 1 << 20

        public init() {}
        public init(mapBytes: Int, mapBytesMax: Int = 1 << 40, preallocateBytes: Int = 0) {
            self.mapBytes = mapBytes
            self.mapBytesMax = mapBytesMax
            self.preallocateBytes = preallocateBytes
        }
    }

    public let settings: Settings
    private let environment: Environment
    /// Set once, by the first failed write or sync; its text is in `failure`.
    private let hasFailed = Atomic<Bool>(false)
    private let failure = Mutex<DiskError?>(nil)

    /// Opens, or makes, the environment in an existing directory (mode 0700 is the caller's care).
    public init(directory: String, settings: Settings = Settings()) throws {
        self.settings = settings
        do throws(LMDBError) {
            environment = try Environment(
                path: directory, mapBytes: settings.mapBytes, mapBytesMax: settings.mapBytesMax)
        } catch {
            throw DiskError(error)
        }
        if settings.preallocateBytes > 0 {
            environment.preallocate(aheadBytes: settings.preallocateBytes, stepBytes: settings.preallocateBytes)
        }
    }

    public var directory: String { environment.path }
    /// Bytes of the file that LMDB uses.
    public var usedBytes: Int { environment.usedBytes }
    public var mapBytes: Int { environment.mapBytes }

    /// To be called every 30 s: frees what readers of dead processes hold.
    public func checkReaders() throws {
        do throws(LMDBError) { try environment.checkReaders() } catch { throw note(error) }
    }

    public func read<Result>(_ body: (borrowing LMDBReader) throws -> Result) throws -> Result {
        try checkLatch()
        do {
            let transaction = try environment.beginRead()
            return try body(LMDBReader(environment: transaction.environment, raw: transaction.raw))
        } catch let error as LMDBError {
            throw note(error)
        }
    }

    /// `body` runs again, from its start, when the map was full and has been enlarged.
    public func write<Result>(_ body: (borrowing LMDBWriter) throws -> Result) throws -> Result {
        while true {
            try checkLatch()
            do {
                let result = try attempt(body)
                if settings.preallocateBytes > 0 {
                    environment.preallocate(
                        aheadBytes: settings.preallocateBytes, stepBytes: settings.preallocateStepBytes)
                }
                return result
            } catch let error as LMDBError where error.code == .mapFull {
                // The transaction is aborted and none is open on this thread.
                do throws(LMDBError) { try environment.growMap() } catch { throw note(error) }
            } catch let error as LMDBError {
                throw note(error)
            }
        }
    }

    private func attempt<Result>(_ body: (borrowing LMDBWriter) throws -> Result) throws -> Result {
        let transaction = try environment.beginWrite()
        let note = LMDBWriter.Note()
        let result: Result
        do {
            result = try body(LMDBWriter(transaction, note: note))
        } catch {
            // Whatever the body made of it: a full map is cured here.
            if let full = note.fullMap { throw full }
            throw error
        }
        if let full = note.fullMap { throw full }
        try transaction.commit()
        return result
    }

    public func flush() throws {
        try checkLatch()
        do throws(LMDBError) { try environment.sync() } catch { throw note(error) }
    }

    private func checkLatch() throws {
        guard hasFailed.load(ordering: .acquiring) else { return }
        throw failure.withLock { $0 } ?? DiskError(.failed, "\(environment.path): an earlier write failed")
    }

    /// Translates, and latches what must not be followed by anything.
    private func note(_ error: LMDBError) -> DiskError {
        let translated = DiskError(error)
        if translated.code == .failed {
            failure.withLock { if $0 == nil { $0 = translated } }
            hasFailed.store(true, ordering: .releasing)
        }
        return translated
    }
}

extension DiskError {
    /// What LMDB's codes mean to whoever stands on a disk.
    public init(_ error: LMDBError) {
        let code: Code =
            switch error.code {
            case .inputOutput, .panic, .system, .noMemory: .failed
            case .mapFull, .noSpace: .full
            case .pageNotFound, .corrupted, .invalid: .corrupt
            case .inUse, .versionMismatch, .notPermitted: .refused
            case .keyExists, .notFound, .databasesFull, .readersFull, .threadKeysFull, .transactionFull, .cursorFull,
                .pageFull, .mapResized, .incompatible, .badReaderSlot, .badTransaction, .badValueSize, .badDatabase,
                .badArgument:
                .misuse
            }
        self.init(code, error.description)
    }
}

/// A read transaction of an `LMDBDisk`. Borrows: the transaction itself stays in `read`.
public struct LMDBReader: DiskReader, Transaction {
    public let environment: Environment
    public let raw: RawTransaction
}

/// The write transaction of an `LMDBDisk`. Borrows: the transaction itself stays in `write`.
public struct LMDBWriter: DiskWriter, WritableTransaction {
    /// A full map is remembered here, beside the transaction, so that no `catch` in a body hides it.
    final class Note { var fullMap: LMDBError? }

    public let environment: Environment
    public let raw: RawTransaction
    private let note: Note

    init(_ transaction: borrowing WriteTransaction, note: Note) {
        environment = transaction.environment
        raw = transaction.raw
        self.note = note
    }

    public func put(
        _ key: DiskKey, count: Int, append: Bool, _ fill: (UnsafeMutableRawBufferPointer) throws -> Void
    ) throws {
        let place: UnsafeMutableRawBufferPointer
        do throws(LMDBError) {
            place = try key.withEncoded { key throws(LMDBError) in
                try reserve(key, count: count, append: append)
            }
        } catch {
            if error.code == .mapFull { note.fullMap = error }
            throw error
        }
        try fill(place)
    }

    @discardableResult public func delete(_ key: DiskKey) throws -> Bool {
        do throws(LMDBError) {
            return try key.withEncoded { key throws(LMDBError) in try delete(key) }
        } catch {
            if error.code == .mapFull { note.fullMap = error }
            throw error
        }
    }
}

extension Transaction {
    public func withValue<Result>(for key: DiskKey, _ body: (UnsafeRawBufferPointer?) throws -> Result) throws -> Result
    {
        try body(try key.withEncoded { key throws(LMDBError) in try get(key) })
    }

    public func scan(
        from first: DiskKey, through last: DiskKey, _ body: (DiskKey, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        let cursor = try openCursor()
        var item = try first.withEncoded { key throws(LMDBError) in try cursor.seek(key) }
        while let found = item {
            let key = try DiskKey(encoded: found.key)
            guard key <= last, try body(key, found.value) else { return }
            item = try cursor.next()
        }
    }

    public func lastKey(from first: DiskKey, through last: DiskKey) throws -> DiskKey? {
        let cursor = try openCursor()
        var item = try last.withEncoded { key throws(LMDBError) in try cursor.seek(key) }
        if let found = item {
            if try DiskKey(encoded: found.key) != last { item = try cursor.previous() }
        } else {
            item = try cursor.last()
        }
        guard let found = item else { return nil }
        let key = try DiskKey(encoded: found.key)
        return key < first ? nil : key
    }
}

extension DiskKey {
    /// Calls `body` with the key's 13 bytes.
    func withEncoded<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let words = (
            (UInt64(table) << 56 | high >> 8).bigEndian,
            (high << 56 | UInt64(low) << 24).bigEndian
        )
        return try withUnsafeBytes(of: words) { bytes throws(Failure) in
            try body(UnsafeRawBufferPointer(rebasing: bytes[..<Self.byteCount]))
        }
    }

    /// Reads what `withEncoded` gave. Other bytes mean that the file is damaged.
    init(encoded bytes: UnsafeRawBufferPointer) throws(DiskError) {
        guard bytes.count == Self.byteCount else {
            throw DiskError(.corrupt, "expected keys of \(Self.byteCount) bytes, found one of \(bytes.count)")
        }
        self.init(
            table: bytes[0],
            high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt64.self)),
            low: UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 9, as: UInt32.self)))
    }
}
