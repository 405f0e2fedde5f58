// A log's terms without its entries: what consensus needs to know of the part that is only on disk.

/// Entries from `first` on, until the next run's first, have this term.
public struct TermRun: Hashable, Sendable {
    public var first: LogIndex
    public var term: Term
    public init(first: LogIndex, term: Term) {
        self.first = first
        self.term = term
    }
}
