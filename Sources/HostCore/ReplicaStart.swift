// What a replica may believe of its disk when the host starts: pure rules over the manifest and the recovered log.

public import Primitives
public import RaftCore
public import Storage

/// A replica as the disk has it, or as placement first asks for it.
public struct ReplicaOnDisk: Sendable {
    public var group: GroupID
    public var replica: ReplicaID
    /// Nil when the store has none: the replica never started here, or its store was lost.
    public var manifest: Manifest?
    /// Nil when the journal has none.
    public var log: RecoveredLog?
    /// Something of the journal as a whole can't be read: all that it knew of this replica may have stood there.
    public var isJournalDamaged: Bool

    public init(
        group: GroupID, replica: ReplicaID, manifest: Manifest?, log: RecoveredLog?, isJournalDamaged: Bool = false
    ) {
        self.isJournalDamaged = isJournalDamaged
        self.group = group
        self.replica = replica
        self.manifest = manifest
        self.log = log
    }
}

/// What to do with a `ReplicaOnDisk` before it takes part.
public struct ReplicaStartPlan: Sendable {
    /// Journal records to make durable first.
    public var records: [JournalRecord] = []
    /// Entries to read from the journal into memory: those above the manifest's index, if any.
    public var entriesFrom: LogIndex
    public var entriesThrough: LogIndex
    /// Consensus' start, but for `entries`.
    public var start: RaftStart
    /// It was here before this start: a promise to some leader may be running.
    public internal(set) var mayHavePromised = true
    /// The log may lack what it promised, votes among it: the replica says nothing at all until it is rebuilt.
    public var isMute = false
    /// Why the replica may neither campaign nor serve, in words for the operator; nil when it is sound.
    public var impairment: String?
    /// Not all of the state on disk can be read: another member's takes its place as a whole.
    public var isStateDamaged = false

    /// The log's suffix stays when it continues the manifest; where the log's entry at the
    /// manifest's index is missing or has another term, a `base` is written ahead of any later append; a manifest
    /// older than the log's base, or a damaged log, makes an impaired replica.
    ///
    /// - Parameter configuration: the group's first configuration, used when the manifest has none.
    public init(_ disk: ReplicaOnDisk, configuration: Configuration) {
        let manifest = disk.manifest?.header
        let applied = manifest?.index ?? .zero
        let appliedTerm = manifest?.term ?? .zero
        let hardState = disk.log?.hardState ?? HardState()
        let base = disk.log?.base ?? .zero
        let baseTerm = disk.log?.baseTerm ?? .zero
        let last = disk.log?.last ?? .zero
        let runs = disk.log?.termRuns ?? []

        func term(at index: LogIndex) -> Term? {
            if index == base { return baseTerm }
            guard index > base, index <= last else { return nil }
            return runs.last { $0.first <= index }?.term
        }

        var start = RaftStart(
            replica: disk.replica, hardState: hardState, configuration: manifest?.configuration ?? configuration,
            base: base, baseTerm: baseTerm, last: last, termRuns: runs, applied: applied,
            appliedLogTime: manifest?.logTime ?? .zero)
        entriesFrom = applied.next
        entriesThrough = last

        if disk.log?.isTombstone == true {
            // Created again under an id that was removed: it would vote a second time in terms that it forgot.
            isMute = true
            impairment = "this replica was removed from here: its id is never used again"
        } else if disk.log?.isDamaged ?? disk.isJournalDamaged, !isPlanted("damaged-log-believed") {
            isMute = true
            impairment =
                "the journal has a damaged record of this replica; its peers have whole copies, and this version can't rebuild one from them"
        } else if applied < base {
            impairment = "its state ends at \(applied), before the log begins at \(base): it needs a snapshot"
        } else if term(at: applied) != appliedTerm {
            // The log does not continue the state (it was lost, or ends earlier): the state is the truth up to its
            // index, and nothing of the log may come back to life behind it.
            records.append(.base(disk.group, disk.replica, applied, appliedTerm))
            if hardState.term < appliedTerm || hardState.commit > applied {
                // A vote in that term may have been forgotten with the log: no vote is given in it again. And what the
                // old log was known to have says nothing of the entries that will stand there: with that hint kept, a
                // later start would take them for committed.
                var state = hardState
                if hardState.term < appliedTerm { state = HardState(term: appliedTerm, vote: disk.replica) }
                state.commit = applied
                records.append(.hardState(disk.group, disk.replica, state))
                start.hardState = state
            }
            start.base = applied
            start.baseTerm = appliedTerm
            start.last = applied
            start.termRuns = []
            entriesThrough = applied
        }
        if impairment != nil {
            start.isImpaired = true
            entriesFrom = last.next
        }
        self.start = start
    }

    /// What the state machine keeps in memory can't be read from the disk.
    mutating func stateCanNotBeRead(_ why: String) {
        isStateDamaged = true
        impairment = impairment ?? "its state on disk is damaged: \(why)"
        start.isImpaired = true
        start.entries = []
        entriesFrom = start.last.next
    }

    /// Whether there is something to read.
    public var hasEntries: Bool { entriesFrom <= entriesThrough }
}
