// A replica's log as consensus sees it: the newest entries in memory, the terms of all that are on disk. Reads and
// writes no disk; what of it is durable is kept in `Persistence`.

internal import DequeModule
internal import Primitives

/// ```
///   base              firstInMemory           last
///    | terms only ......|== entries in memory ==|
/// ```
struct RaftLog: Sendable {
    private(set) var base: LogIndex
    private(set) var baseTerm: Term
    /// Terms of base + 1 ... last, ascending in both. As many as there were terms: few.
    private(set) var runs: [TermRun]
    private(set) var memory: Deque<LogEntry>
    /// Index of the first entry in memory; the next index when memory is empty.
    private(set) var firstInMemory: LogIndex
    /// Encoded bytes of the entries in memory.
    private(set) var memoryBytes = 0
    /// Memory behind their payloads: neighbours that are slices of the same storage count once.
    private(set) var pinnedBytes = 0
    /// Log time of the entry before `firstInMemory`.
    private var evictedTime: LogTime

    init(base: LogIndex, baseTerm: Term, last: LogIndex, runs: [TermRun], entries: [LogEntry], timeBefore: LogTime) {
        self.base = base
        self.baseTerm = baseTerm
        self.runs = runs
        memory = Deque(entries)
        firstInMemory = entries.first?.index ?? last.next
        evictedTime = timeBefore
        var before: Bytes?
        for entry in entries {
            memoryBytes += entry.encodedBytes
            pinnedBytes += Self.pinned(by: entry.payload, beside: before)
            before = entry.payload
        }
    }

    var last: LogIndex { firstInMemory + (memory.count - 1) }
    var lastTerm: Term { runs.last?.term ?? baseTerm }
    var lastTime: LogTime { memory.last?.logTime ?? evictedTime }

    /// The term of the entry at `index`; nil below the base and above the last.
    func term(at index: LogIndex) -> Term? {
        guard index >= base, index <= last else { return nil }
        if index == base { return baseTerm }
        var position = runs.count - 1
        while position >= 0 {
            if runs[position].first <= index { return runs[position].term }
            position -= 1
        }
        return nil
    }

    /// The entry at `index`, which must be in memory.
    subscript(index: LogIndex) -> LogEntry { memory[index - firstInMemory] }

    func isInMemory(_ index: LogIndex) -> Bool { index >= firstInMemory && index <= last }

    mutating func append(_ entry: LogEntry) {
        // `last` is read before the append: indexes and terms never skip or fall.
        precondition(entry.index == last.next && entry.term >= lastTerm, "a log grows by one index, in ascending terms")
        if runs.isEmpty || lastTerm != entry.term { runs.append(TermRun(first: entry.index, term: entry.term)) }
        memoryBytes += entry.encodedBytes
        pinnedBytes += Self.pinned(by: entry.payload, beside: memory.last?.payload)
        memory.append(entry)
    }

    /// Appends entries without a gap whose terms do not fall: checked by the caller. One copy for all of them.
    mutating func append(_ entries: ArraySlice<LogEntry>) {
        guard let first = entries.first else { return }
        precondition(first.index == last.next && first.term >= lastTerm, "a log grows by one index, in ascending terms")
        var before = memory.last?.payload
        for position in entries.indices {
            memoryBytes += entries[position].encodedBytes
            pinnedBytes += Self.pinned(by: entries[position].payload, beside: before)
            before = entries[position].payload
            let term = entries[position].term
            if runs.isEmpty || runs[runs.count - 1].term != term {
                runs.append(TermRun(first: entries[position].index, term: term))
            }
        }
        memory.append(contentsOf: entries)
    }

    /// Removes the entries from `index` on. They are in memory but for a damaged log, whose entries could not be read.
    mutating func truncate(from index: LogIndex) {
        precondition(index > base, "what is below the base was committed")
        while last >= index, let entry = memory.popLast() {
            memoryBytes -= entry.encodedBytes
            pinnedBytes -= Self.pinned(by: entry.payload, beside: memory.last?.payload)
        }
        if index < firstInMemory { firstInMemory = index }
        while let run = runs.last, run.first >= index { runs.removeLast() }
    }

    private static func pinned(by payload: Bytes, beside neighbour: Bytes?) -> Int {
        if let neighbour, neighbour.sharesStorage(with: payload) { return 0 }
        return payload.storageBytes
    }

    /// Entries up to `index` leave memory; their terms stay.
    mutating func evict(through index: LogIndex) {
        let count = min(index - firstInMemory + 1, memory.count)
        guard count > 0 else { return }
        for position in 0..<count {
            memoryBytes -= memory[position].encodedBytes
            pinnedBytes -= Self.pinned(
                by: memory[position].payload,
                beside: position + 1 < memory.count ? memory[position + 1].payload : nil)
        }
        evictedTime = memory[count - 1].logTime
        memory.removeFirst(count)
        firstInMemory = firstInMemory + count
    }

    /// The log begins after `index` from now on.
    mutating func discard(through index: LogIndex) {
        guard index > base, let term = term(at: index) else { return }
        evict(through: index)
        base = index
        baseTerm = term
        var dropped = 0
        while dropped < runs.count, dropped + 1 < runs.count ? runs[dropped + 1].first <= index.next : last == index {
            dropped += 1
        }
        runs.removeFirst(dropped)
        if let first = runs.first, first.first <= index { runs[0].first = index.next }
    }

    /// Entries in memory from `index` on, up to `bytesMax` encoded bytes, at least one. Shares payloads.
    func slice(from index: LogIndex, through end: LogIndex, bytesMax: Int) -> [LogEntry] {
        let start = index - firstInMemory
        let limit = min(end - firstInMemory + 1, memory.count)
        guard start >= 0, start < limit else { return [] }
        var bytes = 0
        var stop = start
        while stop < limit {
            bytes += memory[stop].encodedBytes
            if bytes > bytesMax, stop > start { break }
            stop += 1
        }
        return Array(memory[start..<stop])
    }

    /// The last index at or below `index` whose term is at most `term`: where a leader and a follower may still agree
    /// (Raft paper §5.3, the end). Goes by runs of a term, not by entries.
    func lastIndex(atOrBelow index: LogIndex, termAtMost term: Term) -> LogIndex {
        var candidate = min(index, last)
        var position = runs.count - 1
        while position >= 0, candidate > base {
            let run = runs[position]
            if run.first <= candidate {
                if run.term <= term { return candidate }
                candidate = run.first.previous
            }
            position -= 1
        }
        return candidate
    }
}
