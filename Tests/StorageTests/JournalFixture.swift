import Primitives
import Storage
import Testing

let sampleIdentity = HostIdentity(
    cluster: ClusterID(high: 1, low: 2), host: HostID(3), incarnation: Incarnation(4), bootCounter: 5, featureLevel: 6,
    journal: 0x1122_3344_5566_7788)

func entry(_ index: UInt64, term: UInt64 = 1, _ text: String = "", bytes: Int = 0) -> LogEntry {
    LogEntry(
        index: LogIndex(index), term: Term(term), logTime: LogTime(index * 10), kind: .command,
        payload: bytes > 0
            ? Bytes(Array(repeating: UInt8(truncatingIfNeeded: index &+ term), count: bytes))
            : Bytes(text.isEmpty ? "\(index).\(term)" : text))
}

func entries(_ range: ClosedRange<UInt64>, term: UInt64 = 1, bytes: Int = 0) -> [LogEntry] {
    range.map { entry($0, term: term, bytes: bytes) }
}

/// Replica r of group r.
func append(_ replica: UInt64, _ range: ClosedRange<UInt64>, term: UInt64 = 1, bytes: Int = 0) -> JournalRecord {
    .append(GroupID(UInt32(replica)), ReplicaID(replica), entries(range, term: term, bytes: bytes))
}
func state(_ replica: UInt64, term: UInt64, vote: UInt64 = 0, commit: UInt64 = 0) -> JournalRecord {
    .hardState(
        GroupID(UInt32(replica)), ReplicaID(replica),
        HardState(term: Term(term), vote: ReplicaID(vote), commit: LogIndex(commit)))
}
func base(_ replica: UInt64, _ index: UInt64, term: UInt64) -> JournalRecord {
    .base(GroupID(UInt32(replica)), ReplicaID(replica), LogIndex(index), Term(term))
}
func truncate(_ replica: UInt64, from: UInt64) -> JournalRecord {
    .truncate(GroupID(UInt32(replica)), ReplicaID(replica), from: LogIndex(from))
}
func tombstone(_ replica: UInt64) -> JournalRecord { .tombstone(GroupID(UInt32(replica)), ReplicaID(replica)) }

extension Journal {
    /// All entries of a replica that can be read.
    func all(_ replica: UInt64, bytesMax: Int = .max) throws -> [LogEntry] {
        guard let log = log(of: ReplicaID(replica)) else { return [] }
        var found: [LogEntry] = []
        var next = log.base.next
        while next <= log.last {
            let some = try entries(of: ReplicaID(replica), from: next, through: log.last, bytesMax: bytesMax)
            if some.isEmpty { break }
            found += some
            next = some[some.count - 1].index.next
        }
        return found
    }
    func trim(_ pairs: (UInt64, UInt64)...) throws -> (values: Int, bytes: Int) {
        try trim(superfluousThrough: pairs.map { (ReplicaID($0.0), LogIndex($0.1)) })
    }
}

/// The code of the `DiskError` that `body` throws; nil when it throws nothing.
func failure<Result>(_ body: () throws -> Result) -> DiskError.Code? {
    do {
        _ = try body()
        return nil
    } catch let error as DiskError {
        return error.code
    } catch {
        Issue.record(error)
        return nil
    }
}
