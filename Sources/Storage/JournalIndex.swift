// The journal's index in memory: per replica its log, and the values in order. Pure bookkeeping: what was written or
// read is told to it, and it answers where things are.

internal import Primitives

/// A value on disk, as prefix deletion needs to know it.
struct JournalValue {
    var place: JournalPlace
    var isLastPart: Bool
    var bytes: Int
    /// Those of its records' bodies: what may live, or else is garbage. The directory is neither.
    var bodyBytes: Int
    /// Positions in `JournalIndex.logs` of the replicas that have a record in it; each once.
    var logs: [Int]
}

struct JournalIndex {
    var identity: HostIdentity
    /// In order of appearance; a position never changes.
    var logs: [ReplicaLog] = [] { didSet { knownBaseBytes = nil } }
    private var positions: [ReplicaID: Int] = [:]
    /// Live values from `valuesHead` on, ascending.
    private var values: [JournalValue] = []
    private var valuesHead = 0
    /// Of all live values.
    private(set) var bodyBytes = 0
    var lastSequence: UInt64 = 0
    var deletedThrough: UInt64 = 0
    /// A directory could not be read, or a value is missing: nobody knows whose records are lost.
    private(set) var isDamaged = false
    /// No damage of this kind is behind this sequence; `.max` if it has no place.
    private(set) var damagedThrough: UInt64 = 0
    /// Records of replicas with greater ids are all behind its sequence.
    var mark: JournalLoss?
    var statistics = JournalStatistics()

    init(identity: HostIdentity) { self.identity = identity }

    func position(of replica: ReplicaID) -> Int? { positions[replica] }

    /// The replica's position; a new one gets an empty log.
    mutating func position(of replica: ReplicaID, group: GroupID) -> Int {
        if let position = positions[replica] { return position }
        return add(ReplicaLog(group: group, replica: replica))
    }

    @discardableResult mutating func add(_ log: ReplicaLog) -> Int {
        logs.append(log)
        positions[log.replica] = logs.count - 1
        return logs.count - 1
    }

    /// Forgets the logs from `count` on: their first batch was refused.
    mutating func removeLogs(from count: Int) {
        for log in logs[count...] { positions[log.replica] = nil }
        logs.removeSubrange(count...)
    }

    mutating func lose(through sequence: UInt64) {
        isDamaged = true
        damagedThrough = max(damagedThrough, sequence)
    }

    /// Whether the log of a replica may lack records that nobody can name.
    func mayLack(_ replica: ReplicaID) -> Bool {
        guard isDamaged else { return false }
        guard let mark, damagedThrough <= mark.sequence else { return true }
        return replica <= mark.replica
    }

    // MARK: Values

    var liveValues: ArraySlice<JournalValue> { values[valuesHead...] }

    mutating func add(_ value: JournalValue) {
        values.append(value)
        lastSequence = max(lastSequence, value.place.sequence)
        statistics.values += 1
        statistics.bytes += value.bytes
        bodyBytes += value.bodyBytes
    }

    mutating func removeValues(_ count: Int) {
        for value in values[valuesHead..<valuesHead + count] {
            statistics.values -= 1
            statistics.bytes -= value.bytes
            bodyBytes -= value.bodyBytes
            deletedThrough = max(deletedThrough, value.place.sequence)
        }
        valuesHead += count
        if valuesHead > values.count / 2 {
            values.removeSubrange(..<valuesHead)
            valuesHead = 0
        }
    }

    /// Of entries that prefix deletion kept. Asked for in each tick: looked up anew only after a log changed.
    var baseBytes: Int {
        mutating get {
            if let knownBaseBytes { return knownBaseBytes }
            let bytes = logs.reduce(0) { sum, log in
                log.segments.prefix { $0.place.sequence == 0 }.reduce(sum) { $0 + Int($1.length) }
            }
            knownBaseBytes = bytes
            return bytes
        }
    }

    private var knownBaseBytes: Int?
}
