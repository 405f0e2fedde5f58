// One replica's part of a journal's index: where its entries are, and what else is known of it. The rules of the
// records (what truncates, what voids) are here, the same for a record just written and for one read at start.

internal import Primitives

/// Consecutive entries that lie in one body.
struct JournalSegment {
    /// The live ones.
    var first: LogIndex
    var last: LogIndex
    /// The index of the body's first entry; below `first` when the base has passed it.
    var bodyFirst: LogIndex
    /// How many entries the body has.
    var bodyCount: UInt32
    var place: JournalPlace
    /// The body's, within its value.
    var offset: UInt32
    var length: UInt32
    var checksum: UInt32

    /// The bytes of live entries, in proportion.
    var liveBytes: Int {
        let count = last - first + 1
        return count == Int(bodyCount) ? Int(length) : Int(length) * count / max(Int(bodyCount), 1)
    }
}

struct ReplicaLog {
    var group: GroupID
    var replica: ReplicaID
    var hardState = HardState()
    var base = LogIndex.zero
    var baseTerm = Term.zero
    /// Ascending by index, hence by place too. Contiguous, but for what is read at start: there entries may stand
    /// behind
    /// a gap as long as a later record is still to overwrite them.
    var segments: [JournalSegment] = []
    var terms: [TermRun] = []
    var isDamaged = false
    var isTombstone = false

    /// The base table's row was written when this was the last sequence: records up to it count in the row's hard state
    /// and base already, and only their entries are still to be found.
    var coveredThrough: UInt64 = 0
    /// Chunks of the base table that exist on disk, and the number of the next.
    var chunkRows: [UInt32] = []
    var nextRow: UInt32 = 1
    var hasRow = false
    /// Bodies whose terms were read at start: a chunk that is missing shows by its absence here.
    var chunksRead = 0

    /// What a batch that is being checked makes of the log; valid while `plannedSequence` is that batch's.
    var plannedSequence: UInt64 = 0
    var plannedBase = LogIndex.zero
    var plannedLast = LogIndex.zero
    var plannedTombstone = false

    /// The last value with a record of this replica.
    private var touched = JournalPlace(sequence: 0, part: 0)

    init(group: GroupID, replica: ReplicaID) {
        self.group = group
        self.replica = replica
    }

    var last: LogIndex { segments.last?.last ?? base }

    /// Whether this is the first record of the replica in a value.
    mutating func touch(_ place: JournalPlace) -> Bool {
        guard touched != place else { return false }
        touched = place
        return true
    }

    // MARK: What records do

    /// Removes entries at or above `from`.
    mutating func truncate(from: LogIndex) {
        while let segment = segments.last, segment.last >= from {
            if segment.first >= from {
                segments.removeLast()
            } else {
                segments[segments.count - 1].last = from.previous
                break
            }
        }
        while let run = terms.last, run.first >= from { terms.removeLast() }
    }

    /// Adds entries in place of whatever was at or above their first. Their terms are added by `add(term:)`.
    mutating func append(_ segment: JournalSegment) {
        let revived = isPlanted("suffix-revived") ? segments.filter { $0.last > segment.last } : []
        truncate(from: segment.first)
        guard segment.last > base else { return }
        var segment = segment
        segment.first = max(segment.first, base.next)
        segments.append(segment)
        for var old in revived {
            old.first = max(old.first, segment.last.next)
            segments.append(old)
        }
    }

    /// Entries from `first` on have this term.
    mutating func add(term: Term, first: LogIndex, last: LogIndex) {
        guard last > base, terms.last?.term != term else { return }
        terms.append(TermRun(first: max(first, base.next), term: term))
    }

    /// Everything earlier is void. A record that the base table's row counts in voids entries only.
    mutating func begin(after index: LogIndex, term: Term, sequence: UInt64) {
        segments.removeAll()
        terms.removeAll()
        guard sequence > coveredThrough else { return }
        base = index
        baseTerm = term
    }

    mutating func set(_ state: HardState, sequence: UInt64) {
        if sequence > coveredThrough { hardState = state }
    }

    mutating func bury() {
        segments.removeAll()
        terms.removeAll()
        isTombstone = true
        isDamaged = false
    }

    /// Raises the base to an index that the log has, and forgets what is below.
    mutating func discard(through index: LogIndex) {
        guard index > base, let term = term(at: index) else { return }
        base = index
        baseTerm = term
        segments.removeFirst(segments.prefix { $0.last <= index }.count)
        if !segments.isEmpty { segments[0].first = max(segments[0].first, index.next) }
        terms.removeFirst(max(terms.prefix { $0.first <= index.next }.count - 1, 0))
        if segments.isEmpty { terms.removeAll() }
        if !terms.isEmpty { terms[0].first = max(terms[0].first, index.next) }
    }

    // MARK: What it says

    func term(at index: LogIndex) -> Term? {
        if index == base { return baseTerm }
        guard index > base, index <= last else { return nil }
        return terms.last { $0.first <= index }?.term
    }

    /// The number of the first segment that reaches `index`.
    func position(of index: LogIndex) -> Int {
        var low = 0
        var high = segments.count
        while low < high {
            let middle = (low + high) / 2
            if segments[middle].last < index { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Every index after the base is there once.
    var isContiguous: Bool {
        var expected = base.next
        for segment in segments {
            guard segment.first == expected else { return false }
            expected = segment.last.next
        }
        return true
    }

    func summary(isDamaged allDamaged: Bool) -> RecoveredLog {
        RecoveredLog(
            group: group, replica: replica, hardState: hardState, base: base, baseTerm: baseTerm, last: last,
            termRuns: terms, isDamaged: isDamaged || allDamaged, isTombstone: isTombstone)
    }
}
