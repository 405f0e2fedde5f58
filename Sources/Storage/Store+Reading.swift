// Reads through a view, on any thread: the frozen memtable, then runs, newest first. What the live memtable says comes
// before all this, on the replica's event loop.

public import Primitives

extension Store {
    /// What the view says about a key. `.absent`: no layer knows it. Cost: nothing read for the runs whose filter says
    /// no; for the others a head and one block, verified. Throws `.corrupt` rather than answer from damaged bytes.
    @_specialize(where Storage == LMDBDisk)
    public func get(_ key: RecordKey, in view: StoreView) throws -> Lookup {
        if let frozen = view.frozen {
            let lookup = frozen.get(key)
            if lookup != .absent { return lookup }
        }
        if view.runs.isEmpty { return .absent }
        return try withExtendedLifetime(view) {
            try disk.read { reader in try lookUp(key, view, reader) }
        }
    }

    /// Several keys in one read transaction: what reader threads do with a batch.
    @_specialize(where Storage == LMDBDisk)
    public func get(_ keys: [RecordKey], in view: StoreView) throws -> [Lookup] {
        try withExtendedLifetime(view) {
            try disk.read { reader in
                var lookups: [Lookup] = []
                lookups.reserveCapacity(keys.count)
                for key in keys {
                    let frozen = view.frozen?.get(key) ?? .absent
                    lookups.append(frozen == .absent ? try lookUp(key, view, reader) : frozen)
                }
                return lookups
            }
        }
    }

    private func lookUp(_ key: RecordKey, _ view: StoreView, _ reader: Storage.Reader) throws -> Lookup {
        let sortKey = key.sortKey
        return try sortKey.withUnsafeBytes { sortKey in
            let hash = RunFilter.hash(sortKey)
            for run in view.runs.reversed() {
                if let record = try run.get(key, sortKey, hash, reader) { return Lookup(record) }
            }
            return .absent
        }
    }

    /// The view's records from a key on and before `end`, in order: live ones only, or with tombstones. At most `recordsMax` and, but
    /// for a
    /// single large one, `bytesMax` (bound both: a page is one read transaction). A page over many tombstones may be
    /// empty and yet have a `next`.
    ///
    /// - Parameter base: only what changed behind it is shown, and runs that have nothing of that are not looked at.
    @_specialize(where Storage == LMDBDisk)
    public func page(
        in view: StoreView, from first: RecordKey? = nil, end: RecordKey? = nil, recordsMax: Int = 10_000,
        bytesMax: Int = 1 << 20, tombstones keepsTombstones: Bool = false, changedAfter base: LogIndex = .zero
    ) throws -> RecordPage {
        let endSortKey = end?.sortKey
        return try withExtendedLifetime(view) {
            try disk.read { reader in
                var page = RecordPage(records: [], next: nil)
                var bytes = 0
                let cursors = view.runs.reversed().filter { $0.descriptor.to > base }
                    .map { RunCursor($0, loadsChunks: false) }
                if let first {
                    try first.sortKey.withUnsafeBytes { sortKey in
                        for cursor in cursors { try cursor.seek(sortKey, reader) }
                    }
                }
                var merge = RunMerge(newestFirst: cursors)
                try merge.load(reader)
                merge.choose()
                view.frozen?.sort()
                var position = view.frozen?.position(of: first) ?? 0
                let frozenEnd = view.frozen?.count ?? 0
                // Tombstones count too, so that a page over nothing but tombstones ends.
                var passed = 0
                let passedMax = max(recordsMax, 1) * 4 + 1_024
                while true {
                    let newer = position < frozenEnd ? view.frozen?.record(at: position) : nil
                    let older = merge.winner?.current
                    let order: Int
                    switch (newer, older) {
                    case (nil, nil): return page
                    case (_?, nil): order = -1
                    case (nil, _?): order = 1
                    case (let newer?, let older?): order = compareBytes(newer.sortKey, older.sortKey)
                    }
                    guard let record = order <= 0 ? newer : older else { return page }
                    if let endSortKey, endSortKey.withUnsafeBytes({ compareBytes(record.sortKey, $0) }) >= 0 {
                        return page
                    }
                    let size = RecordEncoding.encodedBytes(
                        sortKeyBytes: record.sortKey.count, valueBytes: record.overflow?.bytes ?? record.value.count)
                    let isShown = (keepsTombstones || !record.isTombstone) && record.changed > base
                    if passed > 0,
                        page.records.count >= recordsMax || passed >= passedMax
                            || isShown && bytes > 0 && bytes + size > bytesMax
                    {
                        page.next = record.key
                        return page
                    }
                    if isShown {
                        if order <= 0 {
                            page.records.append(record.copy())
                        } else if let copy = try merge.winner?.copy(reader) {
                            page.records.append(copy)
                        }
                        bytes += size
                    }
                    passed += 1
                    if order <= 0 { position += 1 }
                    if order >= 0 {
                        try merge.pass()
                        try merge.load(reader)
                        merge.choose()
                    }
                }
            }
        }
    }
}
