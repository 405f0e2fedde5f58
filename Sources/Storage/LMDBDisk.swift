// The disk that is a disk: an LMDB environment behind the transaction interface. Owns the translation of keys and
// errors, growth of the map, and the latch that stops everything after a failed write. Decides nothing about bytes.

import Glibc
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
        /// Space of the file system kept behind the file's last page for upkeep: writes that bring data in are refused
        /// with `.full` before they touch it. With it, a full file system shows before anything is written, and not as
        /// a write that failed in the middle. 0: no reserve, and LMDB finds out; some of what it finds is `.failed`.
        /// Otherwise more than upkeep takes in one transaction (8 MiB is); as much again is allocated ahead.
        public var reserveBytes = 0

        public init() {}
        public init(mapBytes: Int, mapBytesMax: Int = 1 << 40, preallocateBytes: Int = 0, reserveBytes: Int = 0) {
            self.mapBytes = mapBytes
            self.mapBytesMax = mapBytesMax
            self.preallocateBytes = preallocateBytes
            self.reserveBytes = reserveBytes
        }

        /// What is to lie behind the last page.
        var aheadBytes: Int { max(preallocateBytes, 2 * reserveBytes) }
    }

    public let settings: Settings
    let environment: Environment
    /// Set once, by the first failed write or sync; its text is in `failure`.
    private let hasFailed = Atomic<Bool>(false)
    private let failure = Mutex<DiskError?>(nil)

    /// This process has the environment in this directory open.
    package static func isOpen(directory: String) -> Bool { Environment.isOpen(path: directory) }

    /// Opens, or makes, the environment in an existing directory (mode 0700 is the caller's care).
    public init(directory: String, settings: Settings = Settings()) throws {
        self.settings = settings
        do throws(LMDBError) {
            environment = try Environment(
                path: directory, mapBytes: settings.mapBytes, mapBytesMax: settings.mapBytesMax)
        } catch {
            throw DiskError(error)
        }
        preallocate(settings.aheadBytes, settings.aheadBytes)
    }

    /// Zeros make later commits faster, at the price of being written: the setting decides. The reserve only has to be
    /// there.
    @discardableResult private func preallocate(_ aheadBytes: Int, _ stepBytes: Int) -> Int {
        guard aheadBytes > 0 else { return 0 }
        return environment.preallocate(
            aheadBytes: aheadBytes, stepBytes: stepBytes, writesZeros: settings.preallocateBytes > 0)
    }

    public var directory: String { environment.path }
    /// Bytes of the file that LMDB uses.
    public var usedBytes: Int { environment.usedBytes }
    public var mapBytes: Int { environment.mapBytes }
    /// Bytes of free pages inside of the file, which later writes use before the file grows. Cost: a walk over the list
    /// of them.
    public func reusableBytes() throws -> Int {
        do throws(LMDBError) { return try environment.reusableBytes() } catch { throw note(error) }
    }

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

    /// `body` runs again, from its start, when the map was full and has been enlarged, or when it takes more space than
    /// lies ready behind the last page.
    public func write<Result>(
        _ purpose: DiskPurpose, _ body: (borrowing LMDBWriter) throws -> Result
    ) throws -> Result {
        var reusableBytes = 0
        var mayCommitNothing = true
        while true {
            try checkLatch()
            let note = LMDBWriter.Note()
            do {
                let result = try attempt(purpose, reusableBytes, note, body)
                preallocate(settings.aheadBytes, max(settings.preallocateStepBytes, note.takenBytes))
                return result
            } catch let error as LMDBError where error.code == .mapFull {
                // The transaction is aborted and none is open on this thread.
                do throws(LMDBError) { try environment.growMap() } catch { throw self.note(error) }
            } catch is LMDBWriter.Short {
                reusableBytes = try makeRoom(note, purpose, &mayCommitNothing)
            } catch let error as LMDBError {
                throw self.note(error)
            }
        }
    }

    /// Allocates so many bytes, and the reserve, behind the last page. When the file system has no more, pages that are
    /// free inside of the file may do: says how many bytes they are. Throws `.full` if that is not enough either.
    private func makeRoom(
        _ note: LMDBWriter.Note, _ purpose: DiskPurpose, _ mayCommitNothing: inout Bool
    ) throws -> Int {
        let bytes = note.takenBytes
        // Twice: an attempt stops where it first has too little, the whole may need more.
        let ahead = 2 * bytes + settings.aheadBytes
        let spare = preallocate(ahead, ahead)
        if room(spare, 0, purpose) >= bytes { return 0 }
        let hasRoomBehind = spare - keptBehindBytes(purpose) >= note.behindBytes
        var reusable: Int
        do throws(LMDBError) {
            reusable = try environment.reusableBytes()
            if room(spare, reusable, purpose) < bytes || !hasRoomBehind, mayCommitNothing,
                spare >= Self.emptyCommitBytes
            {
                // What the last transaction gave back can be used when there was another one: one without effect.
                mayCommitNothing = false
                let later = try environment.reusableBytes(afterAnotherCommit: true)
                if later > reusable, room(spare, later, purpose) >= bytes {
                    try commitNothing()
                    reusable = try environment.reusableBytes()
                    return reusable
                }
            }
        } catch {
            throw self.note(error)
        }
        if room(spare, reusable, purpose) >= bytes, hasRoomBehind { return reusable }
        let isAtLimit = environment.usedBytes + spare + environment.pageBytes > environment.mapBytesMax
        throw DiskError(
            .full,
            "\(environment.path): "
                + (isAtLimit
                    ? "the file may not be larger than \(environment.mapBytesMax) bytes" : "the file system is full")
                + ": \(bytes) bytes are to be written, and the file has \(spare) behind its last page and \(reusable) "
                + "inside" + (hasRoomBehind ? "" : ", scattered in pieces that are too small")
                + ", of which \(settings.reserveBytes) are for deletes and merges only; free space")
    }

    /// More than a commit without effect takes.
    private static let emptyCommitBytes = 64 << 10

    private func commitNothing() throws(LMDBError) {
        let transaction = try environment.beginWrite()
        try DiskKey(table: .max, high: .max, low: .max).withEncoded {
            (key: UnsafeRawBufferPointer) throws(LMDBError) -> Void in
            // Nobody has this key; if somebody did, it would stay.
            guard try transaction.get(key) == nil else { return }
            _ = try transaction.reserve(key, count: 0)
            _ = try transaction.delete(key)
        }
        try transaction.commit()
    }

    /// What a transaction may take.
    private func room(_ spareBytes: Int, _ reusableBytes: Int, _ purpose: DiskPurpose) -> Int {
        spareBytes + reusableBytes - keptBytes(purpose)
    }

    /// What is kept for other purposes.
    private func keptBytes(_ purpose: DiskPurpose) -> Int {
        switch purpose {
        case .growth: settings.reserveBytes
        case .merge: settings.reserveBytes / 4
        case .upkeep: 0
        }
    }

    /// Free pages inside of a file may be scattered, and then a large value takes pages behind the last one all the same,
    /// which never come back. So much of these is left to upkeep, and to LMDB's own lists.
    private func keptBehindBytes(_ purpose: DiskPurpose) -> Int {
        purpose == .upkeep ? 0 : settings.reserveBytes / 4
    }

    public func roomBytes(for purpose: DiskPurpose) throws -> Int {
        try checkLatch()
        let spare = preallocate(settings.aheadBytes, settings.aheadBytes)
        do throws(LMDBError) {
            let reusable = try environment.reusableBytes(afterAnotherCommit: true)
            let untilLimit = max(0, environment.mapBytesMax - environment.usedBytes - spare)
            // A file never shrinks: what a merge takes of the file system is gone for all others, and it leaves them what
            // the journal needs.
            let kept = purpose == .merge ? min(environment.capacityBytes / 20, 256 << 20) : 0
            let free = max(0, environment.freeBytes - kept)
            return max(0, room(spare + min(free, untilLimit), reusable, purpose))
        } catch {
            throw note(error)
        }
    }

    private func attempt<Result>(
        _ purpose: DiskPurpose, _ reusableBytes: Int, _ note: LMDBWriter.Note,
        _ body: (borrowing LMDBWriter) throws -> Result
    ) throws -> Result {
        let transaction = try environment.beginWrite()
        if settings.reserveBytes > 0 {
            let spare = environment.spareBytes
            note.roomBytes = room(spare, reusableBytes, purpose)
            note.usedBytes = environment.usedBytes
            note.roomBehindBytes = spare - keptBehindBytes(purpose)
        }
        let result: Result
        do {
            result = try body(LMDBWriter(transaction, note: note))
        } catch {
            // Whatever the body made of it: a full map is cured here, and so is too little room.
            try note.check()
            throw error
        }
        try note.check()
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

    /// Translates, and latches what must not be followed by anything. A tree that leads nowhere is nobody's alone: what
    /// else hangs on the page is not known, and the next write may make it worse.
    private func note(_ error: LMDBError) -> DiskError {
        var translated = DiskError(error)
        if translated.code == .corrupt {
            translated.code = .failed
            environment.markDamaged(error.description)
        }
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

    /// By asking the kernel for the pages (Linux 5.14): what it can't read is an error here, and SIGBUS at an access.
    /// Kernels that can't be asked say yes.
    public func isReadable(_ value: UnsafeRawBufferPointer) -> Bool {
        guard let start = value.baseAddress, value.count > 0 else { return true }
        let mask = UInt(environment.pageBytes) - 1
        let first = UInt(bitPattern: start) & ~mask
        let end = (UInt(bitPattern: start) + UInt(value.count) + mask) & ~mask
        let populateRead: Int32 = 22
        guard madvise(UnsafeMutableRawPointer(bitPattern: first), Int(end - first), populateRead) != 0 else {
            return true
        }
        return errno != EFAULT && errno != EHWPOISON
    }
}

/// The write transaction of an `LMDBDisk`. Borrows: the transaction itself stays in `write`.
public struct LMDBWriter: DiskWriter, WritableTransaction {
    /// There is less space than the transaction takes.
    struct Short: Error {}

    /// A full map, or too little space, is remembered here, beside the transaction, so that no `catch` in a body hides
    /// it.
    final class Note {
        var fullMap: LMDBError?
        /// What may be taken, and what the transaction takes at most, by estimate: its values in whole pages, and the
        /// pages of the tree that lead to them, copied.
        var roomBytes = Int.max
        private(set) var takenBytes = 128 << 10
        /// Where the last page of the file ended, what may be taken behind it, and what a value took of that.
        var usedBytes = 0
        var roomBehindBytes = Int.max
        private(set) var behindBytes = 0
        private var isShort = false

        private static let pageBytes = 4_096

        /// Small values that are counted already, and how long each may be.
        private var expected = 0
        private var expectedBytes = 0

        /// Pages of a tree are half full at least; each that is touched is copied, with some of those above it.
        func expectSmall(_ count: Int, of total: Int, bytes: Int) throws {
            let pages = min(count, 2 * total * (bytes + 24) / Self.pageBytes + 1)
            expected = count
            expectedBytes = bytes
            try add(2 * pages * Self.pageBytes)
        }

        func take(_ bytes: Int) throws {
            if expected > 0, bytes <= expectedBytes {
                expected -= 1
                return
            }
            // A page's header comes on top; keys beside one another share their way from the root.
            try add((bytes + 16 + Self.pageBytes - 1) / Self.pageBytes * Self.pageBytes + Self.pageBytes)
        }

        /// Large values' pages lie where LMDB finds as many in a row.
        func place(through end: Int) throws {
            behindBytes = max(behindBytes, end - usedBytes)
            guard behindBytes > roomBehindBytes else { return }
            isShort = true
            throw Short()
        }

        func takeForDeletion() throws { try add(Self.pageBytes / 8) }

        private func add(_ bytes: Int) throws {
            takenBytes += bytes
            guard takenBytes > roomBytes else { return }
            isShort = true
            throw Short()
        }

        func check() throws {
            if let fullMap { throw fullMap }
            if isShort { throw Short() }
        }
    }

    public let environment: Environment
    public let raw: RawTransaction
    private let note: Note

    init(_ transaction: borrowing WriteTransaction, note: Note) {
        environment = transaction.environment
        raw = transaction.raw
        self.note = note
    }

    public func expectSmall(_ count: Int, of total: Int, bytes: Int) throws {
        try note.expectSmall(count, of: total, bytes: bytes)
    }

    public func put(
        _ key: DiskKey, count: Int, append: Bool, _ fill: (UnsafeMutableRawBufferPointer) throws -> Void
    ) throws {
        try note.take(count)
        let place: UnsafeMutableRawBufferPointer
        do throws(LMDBError) {
            place = try key.withEncoded { key throws(LMDBError) in
                try reserve(key, count: count, append: append)
            }
        } catch {
            if error.code == .mapFull { note.fullMap = error }
            throw error
        }
        if let end = try fileEnd(of: place) { try note.place(through: end) }
        try fill(place)
    }

    @discardableResult public func delete(_ key: DiskKey) throws -> Bool {
        try note.takeForDeletion()
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
