// What a reader sees: one manifest's runs, and the memtable that was frozen last.

public import Primitives

/// One replica's durable state at a moment, for readers on any thread. Its runs are pinned as long as a copy of the
/// view
/// is alive; a reader begins its transaction after it took the view.
public struct StoreView: Sendable {
    public let manifest: Manifest
    /// Newer than all runs; set by who has one.
    public var frozen: FrozenMemtable?
    /// Oldest first, as in the manifest.
    let runs: [Run]

    public var replica: ReplicaID { manifest.replica }
}
