// LMDB's error codes as a type, each with what the caller has to do about it. Nothing else translates codes.

import CLMDB
import Glibc

/// A call into LMDB, or one around it, failed.
public struct LMDBError: Error, CustomStringConvertible {
    /// Which failure it was. Every code of lmdb.h has a case of its own, and so have those of errno that call for an
    /// action.
    public enum Code: Hashable, Sendable {
        case keyExists, notFound, pageNotFound, corrupted, panic, versionMismatch, invalid, mapFull, databasesFull
        case readersFull, threadKeysFull, transactionFull, cursorFull, pageFull, mapResized, incompatible
        case badReaderSlot, badTransaction, badValueSize, badDatabase
        /// errno EIO: a write or sync failed, or LMDB wrote less than it meant to.
        case inputOutput
        /// errno ENOSPC or EDQUOT.
        case noSpace
        /// errno EACCES, EPERM or EROFS.
        case notPermitted
        /// errno ENOMEM.
        case noMemory
        /// errno EINVAL: an argument that LMDB does not take.
        case badArgument
        /// Another process, or another part of this one, has the directory open.
        case inUse
        /// Any other errno; `number` says which.
        case system
    }

    public var code: Code
    /// As LMDB or the operating system returned it; 0 when this module found the fault itself.
    public var number: Int32
    /// What was being done, as in "commit".
    public var operation: String
    /// The environment's directory.
    public var path: String
    /// More than the code says, or empty.
    public var detail: String

    public init(_ code: Code, number: Int32 = 0, operation: String, path: String, detail: String = "") {
        self.code = code
        self.number = number
        self.operation = operation
        self.path = path
        self.detail = detail
    }

    init(number: Int32, operation: String, path: String) {
        self.init(Self.code(of: number), number: number, operation: operation, path: path)
    }

    static func code(of number: Int32) -> Code {
        switch number {
        case MDB_KEYEXIST: .keyExists
        case MDB_NOTFOUND: .notFound
        case MDB_PAGE_NOTFOUND: .pageNotFound
        case MDB_CORRUPTED: .corrupted
        case MDB_PANIC: .panic
        case MDB_VERSION_MISMATCH: .versionMismatch
        case MDB_INVALID: .invalid
        case MDB_MAP_FULL: .mapFull
        case MDB_DBS_FULL: .databasesFull
        case MDB_READERS_FULL: .readersFull
        case MDB_TLS_FULL: .threadKeysFull
        case MDB_TXN_FULL: .transactionFull
        case MDB_CURSOR_FULL: .cursorFull
        case MDB_PAGE_FULL: .pageFull
        case MDB_MAP_RESIZED: .mapResized
        case MDB_INCOMPATIBLE: .incompatible
        case MDB_BAD_RSLOT: .badReaderSlot
        case MDB_BAD_TXN: .badTransaction
        case MDB_BAD_VALSIZE: .badValueSize
        case MDB_BAD_DBI: .badDatabase
        case EIO: .inputOutput
        case ENOSPC, EDQUOT: .noSpace
        case EACCES, EPERM, EROFS: .notPermitted
        case ENOMEM: .noMemory
        case EINVAL: .badArgument
        default: .system
        }
    }

    /// What to do about it, in a sentence.
    public var remedy: String {
        switch code {
        case .keyExists: "the key is there already, or an append was not above all keys: check the caller"
        case .notFound: "no such key: go on without it"
        case .pageNotFound, .corrupted, .invalid:
            "the file is damaged: keep the directory as it is; the other hosts have whole copies of its replicas"
        case .panic: "an earlier write of LMDB's meta page failed: stop the process and open anew"
        case .versionMismatch: "the file was written by another version of LMDB: use that one"
        case .mapFull: "end all transactions, enlarge the map and repeat the transaction"
        case .databasesFull, .badDatabase, .incompatible: "only the unnamed database is used here: a programmer's error"
        case .readersFull: "more than \(Environment.readersMax) read transactions at once: pool or end them"
        case .threadKeysFull: "environments are opened without thread-local readers: a programmer's error"
        case .transactionFull: "too many dirty pages: split the transaction"
        case .cursorFull, .pageFull: "a tree too deep or a page too full: report it as a defect"
        case .mapResized: "another process enlarged the map: directories are locked against that; report it as a defect"
        case .badReaderSlot, .badTransaction:
            "a transaction was used after it failed or on the wrong thread: a programmer's error"
        case .badValueSize: "keys have 1 to 511 bytes and values less than 4 GiB: a programmer's error"
        case .inputOutput: "nothing not acknowledged before may be believed: stop the process and open anew"
        case .noSpace: "the file system is full: free space; deletes may still work"
        case .notPermitted: "check owner and mode of the directory (0700) and its files (0600)"
        case .noMemory: "memory or address space ran out: check the process's limits"
        case .badArgument: "an argument was out of range: a programmer's error"
        case .inUse: "stop the other process or use another directory"
        case .system: "see the operating system's message"
        }
    }

    public var description: String {
        let cause: String
        if !detail.isEmpty {
            cause = detail
        } else if let text = mdb_strerror(number) {
            cause = String(cString: text)
        } else {
            cause = "error \(number)"
        }
        return "\(path): \(operation): \(cause); \(remedy)"
    }
}

/// errno as an error.
func systemError(_ operation: String, path: String, number: Int32 = errno) -> LMDBError {
    LMDBError(number: number, operation: operation, path: path)
}
