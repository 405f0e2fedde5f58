// A walk over the pages of LMDB's trees that believes nothing: each page is held against what leads to it, and is met once.
// Reads with pread, so that a page that is not there, or can't be read, is an error.
//
//   branch   children in the order of their keys; the first key of a page is not looked at by anybody
//   leaf     keys that lie between those of the branches above, with their values or the first page of one
//   value    its first page has a header, with how many there are
//   free     the other tree: by transaction, a number u64 and so many pages u64, descending. None of them is in use

internal import CLMDB
import Glibc

struct TreeWalk {
    /// What a tree's keys are.
    struct Kind {
        /// nil: any number.
        var keyBytes: Int?
        fileprivate var isFreeList = false
        init(keyBytes: Int?) { self.keyBytes = keyBytes }
    }
    /// Numbers of transactions.
    static var freeList: Kind {
        var kind = Kind(keyBytes: 8)
        kind.isFreeList = true
        return kind
    }

    typealias Visit = (ArraySlice<UInt8>, ArraySlice<UInt8>?) throws(LMDBError) -> Void

    private let descriptor: Int32
    private let directory: String
    private let pageBytes: Int
    private let fileBytes: Int
    private let pages: UInt64
    private let lastPage: UInt64
    /// Values and lists of free pages too; else only what leads to them.
    private let readsAll: Bool
    /// A bit for each page of the file that was met.
    private var met: [UInt64]
    private var entries: UInt64 = 0

    private static let depthMax: UInt16 = 32
    private static let headerBytes = 16
    private static let nodeBytes = 8
    private static let pieceBytes = 1 << 20

    /// What leads to a page: the keys that it may have.
    private struct Bounds {
        var low: ArraySlice<UInt8>?
        var high: ArraySlice<UInt8>?
    }

    init(descriptor: Int32, directory: String, meta: EnvironmentFile.Meta, readsAll: Bool) throws(LMDBError) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw systemError("measure the file", path: directory) }
        self.descriptor = descriptor
        self.directory = directory
        self.readsAll = readsAll
        pageBytes = meta.pageBytes
        fileBytes = Int(status.st_size)
        pages = UInt64(fileBytes / pageBytes)
        lastPage = meta.lastPage
        met = Array(repeating: 0, count: fileBytes / pageBytes / 64 + 1)
        // Those of the meta pages.
        met[0] = 3
    }

    private func damaged(_ what: String) -> LMDBError {
        LMDBError(.corrupted, number: MDB_CORRUPTED, operation: "look through", path: directory, detail: what)
    }

    // MARK: Pages

    private mutating func meet(_ first: UInt64, count: UInt64 = 1) throws(LMDBError) {
        let (end, overflow) = first.addingReportingOverflow(count)
        guard !overflow, end <= pages else {
            throw EnvironmentFile.cutOff(directory, fileBytes, "page \(first) of \(pageBytes) bytes belongs to it")
        }
        guard end <= lastPage + 1 else {
            throw damaged("page \(first) is in the tree, and the last one is to be \(lastPage)")
        }
        for page in first..<end { try meetOne(page) }
    }

    private mutating func meetOne(_ page: UInt64) throws(LMDBError) {
        let (word, bit) = (Int(page / 64), UInt64(1) << (page % 64))
        guard met[word] & bit == 0 else { throw damaged("page \(page) is in the trees twice, or both in use and free") }
        met[word] |= bit
    }

    private func read(_ page: UInt64, from offset: Int = 0, count: Int) throws(LMDBError) -> [UInt8] {
        var number: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            let start = off_t(page) * off_t(pageBytes) + off_t(offset)
            let whole = UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: buffer[..<count]))
            (filled, number) = PatientRead.fill(whole, from: descriptor, at: start)
        }
        guard bytes.count == count else {
            if number == EIO { throw damaged("page \(page) can't be read: \(String(cString: strerror(number)))") }
            guard number == 0 else { throw systemError("read page \(page)", path: directory, number: number) }
            throw EnvironmentFile.cutOff(directory, fileBytes, "page \(page) of \(pageBytes) bytes belongs to it")
        }
        return bytes
    }

    // MARK: Trees

    /// Calls `body` for each key, ascending. Not the free list's: that has nothing to tell.
    mutating func visit(_ tree: EnvironmentFile.Tree, _ kind: Kind, _ body: Visit) throws(LMDBError) {
        entries = 0
        if tree.root != .max {
            guard tree.depth > 0, tree.depth <= Self.depthMax else {
                throw damaged("the tree is \(tree.depth) levels deep, and 1 to \(Self.depthMax) can be")
            }
            try visit(tree.root, level: tree.depth, kind, Bounds(), body)
        }
        guard entries == tree.entries else {
            throw damaged("the tree has \(entries) keys, and is to have \(tree.entries)")
        }
    }

    /// - Parameter level: 1 for leaves.
    private mutating func visit(
        _ page: UInt64, level: UInt16, _ kind: Kind, _ bounds: Bounds, _ body: Visit
    ) throws(LMDBError) {
        try meet(page)
        let content = try read(page, count: pageBytes)
        let nodes = try nodes(of: content, page, isBranch: level > 1)
        var before = bounds.low
        var keys: [ArraySlice<UInt8>] = []
        keys.reserveCapacity(nodes.count)
        for (number, node) in nodes.enumerated() {
            let start = node + Self.nodeBytes
            let end = start + Self.half(content, node + 6)
            guard end <= pageBytes else { throw damaged("a key of page \(page) does not lie in it") }
            let key = content[start..<end]
            keys.append(key)
            if level > 1, number == 0 { continue }
            if let keyBytes = kind.keyBytes, key.count != keyBytes {
                throw damaged("page \(page) has a key of \(key.count) bytes, and each has \(keyBytes)")
            }
            // The lower bound itself may be there.
            let isFirst = number == (level > 1 ? 1 : 0)
            if let before, isFirst ? precedes(key, before, kind) : !precedes(before, key, kind) {
                throw damaged("the keys of page \(page) are not in order")
            }
            if let high = bounds.high, !precedes(key, high, kind) {
                throw damaged("page \(page) has a key that belongs behind it")
            }
            before = key
        }
        for (number, node) in nodes.enumerated() {
            let size = UInt64(Self.half(content, node)) | UInt64(Self.half(content, node + 2)) << 16
            let flags = Self.half(content, node + 4)
            if level > 1 {
                let inner = Bounds(
                    low: number == 0 ? bounds.low : keys[number],
                    high: number + 1 < keys.count ? keys[number + 1] : bounds.high)
                try visit(size | UInt64(flags) << 32, level: level - 1, kind, inner, body)
                continue
            }
            entries += 1
            let place = keys[number].endIndex
            guard flags <= 1, place + (flags == 1 ? 8 : Int(size)) <= pageBytes else {
                throw damaged("a value of page \(page) does not lie in it")
            }
            if flags == 1 {
                try visitLarge(Self.word(content, place), bytes: Int(size), kind)
                if !kind.isFreeList { try body(keys[number], nil) }
            } else if kind.isFreeList {
                if readsAll { try visitFree(content[place..<place + Int(size)]) }
            } else {
                try body(keys[number], content[place..<place + Int(size)])
            }
        }
    }

    private func nodes(of content: [UInt8], _ page: UInt64, isBranch: Bool) throws(LMDBError) -> [Int] {
        guard Self.word(content, 0) == page else {
            throw damaged("page \(page) of the tree says that it is page \(Self.word(content, 0))")
        }
        let flags = Self.half(content, 10)
        guard flags == (isBranch ? 1 : 2) else {
            throw damaged(
                "page \(page) is to be a \(isBranch ? "branch" : "leaf") of the tree, and has the flags \(flags)")
        }
        let (lower, upper) = (Self.half(content, 12), Self.half(content, 14))
        guard lower > Self.headerBytes, lower % 2 == 0, lower <= upper, upper <= pageBytes else {
            throw damaged("page \(page) of the tree is broken")
        }
        var nodes: [Int] = []
        nodes.reserveCapacity((lower - Self.headerBytes) / 2)
        for slot in stride(from: Self.headerBytes, to: lower, by: 2) {
            let node = Self.half(content, slot)
            guard node >= upper, node + Self.nodeBytes <= pageBytes else {
                throw damaged("page \(page) of the tree is broken")
            }
            nodes.append(node)
        }
        return nodes
    }

    // MARK: Values of their own pages

    private mutating func visitLarge(_ first: UInt64, bytes: Int, _ kind: Kind) throws(LMDBError) {
        let needed = UInt64((bytes + Self.headerBytes - 1) / pageBytes + 1)
        guard readsAll else { return try meet(first, count: needed) }
        // Before it is read: it may be anywhere.
        guard first < pages else { return try meet(first, count: needed) }
        let header = try read(first, count: Self.headerBytes)
        let count = UInt64(Self.half(header, 12)) | UInt64(Self.half(header, 14)) << 16
        guard Self.word(header, 0) == first, Self.half(header, 10) == 4, count >= needed else {
            throw damaged("page \(first) is to be the first of \(needed) of a value, and is not")
        }
        try meet(first, count: count)
        var offset = 0
        var left: UInt64?
        var last: UInt64?
        while offset < bytes {
            let piece = try read(first, from: Self.headerBytes + offset, count: min(Self.pieceBytes, bytes - offset))
            offset += piece.count
            if kind.isFreeList { try visitFree(piece[...], &left, &last) }
        }
    }

    // MARK: Free pages

    private mutating func visitFree(_ list: ArraySlice<UInt8>) throws(LMDBError) {
        var left: UInt64?
        var last: UInt64?
        try visitFree(list, &left, &last)
    }

    /// A piece of a list: its number first, if `left` is not known yet.
    private mutating func visitFree(
        _ piece: ArraySlice<UInt8>, _ left: inout UInt64?, _ last: inout UInt64?
    ) throws(LMDBError) {
        guard piece.count % 8 == 0 else { throw damaged("a list of free pages has \(piece.count) bytes") }
        for place in stride(from: piece.startIndex, to: piece.endIndex, by: 8) {
            var page: UInt64 = 0
            for byte in (place..<place + 8).reversed() { page = page << 8 | UInt64(piece[byte]) }
            guard let count = left else {
                left = page
                continue
            }
            guard count > 0 else { return }
            guard page >= 2, page <= lastPage, last.map({ page < $0 }) ?? true else {
                throw damaged("the list of free pages names page \(page), and the last one is to be \(lastPage)")
            }
            // Behind the file's end are those that were never written.
            if page < pages { try meetOne(page) }
            left = count - 1
            last = page
        }
    }

    // MARK: Bytes

    private static func half(_ bytes: [UInt8], _ place: Int) -> Int {
        Int(bytes[place]) | Int(bytes[place + 1]) << 8
    }

    private static func word(_ bytes: [UInt8], _ place: Int) -> UInt64 {
        var word: UInt64 = 0
        for byte in (place..<place + 8).reversed() { word = word << 8 | UInt64(bytes[byte]) }
        return word
    }

    private func precedes(_ left: ArraySlice<UInt8>, _ right: ArraySlice<UInt8>, _ kind: Kind) -> Bool {
        kind.isFreeList
            ? left.reversed().lexicographicallyPrecedes(right.reversed()) : left.lexicographicallyPrecedes(right)
    }
}
