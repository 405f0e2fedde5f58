// What waits for the journal: batches of all event loops and what they call superfluous; what goes into the next commit,
// and when something is deleted. The order of the journal's writer, without its thread and its clock.

package import Primitives
package import Storage

/// Group commit: while one commit is in its fsync, batches of all groups on all event loops queue up; the next one takes
/// them. One step at a time: `next`, `Step.perform`, `ended`, and again until there is none.
package struct JournalQueue: Sendable {
    package typealias Superfluous = [(replica: ReplicaID, through: LogIndex)]

    /// One commit, and one piece of trimming.
    package struct Step: Sendable {
        /// Oldest first.
        package fileprivate(set) var batches: [(loop: Int, batch: JournalBatch)]
        /// Nil: nothing is to be trimmed.
        fileprivate let superfluous: [Superfluous]?
        fileprivate let lists: UInt64

        /// Writes what is in it. A step that finds no space has written nothing of its batches, and deletes even so.
        ///
        /// - Parameters:
        ///   - commit: makes records durable, all or none, tells the loops, and returns the number of the commit.
        ///   - trim: one bounded piece, as `Journal.trim`; returns the values deleted.
        /// - Throws: what they throw but for `DiskError.full`: then nothing may be believed any more.
        package func perform(
            commit: ([JournalRecord]) throws -> UInt64, trim: (Superfluous) throws -> Int
        ) throws -> Outcome {
            var outcome = Outcome()
            if !batches.isEmpty {
                do {
                    outcome.sequence = try commit(records)
                } catch let error as DiskError where error.code == .full {
                    outcome.commitFull = error
                }
            }
            // One bounded piece after each commit, so that nobody's commit waits long for the cleaning, until nothing is
            // left of the newest lists.
            if let superfluous {
                do { outcome.isTrimmed = try trim(Array(superfluous.joined())) == 0 } catch let error as DiskError
                    where error.code == .full
                {
                    outcome.isTrimFull = true
                }
            }
            return outcome
        }

        package var records: [JournalRecord] {
            guard var records = batches.first?.batch.records else { return [] }
            for (_, batch) in batches.dropFirst() { records += batch.records }
            return records
        }

        /// The last batch of a loop that is in it.
        package func ticket(ofLoop loop: Int) -> UInt64? { batches.last { $0.loop == loop }?.batch.ticket }
    }

    /// What became of a step.
    package struct Outcome: Sendable {
        /// The commit's number, if there was one.
        package fileprivate(set) var sequence: UInt64?
        fileprivate var commitFull: DiskError?
        fileprivate var isTrimFull = false
        fileprivate var isTrimmed = false
    }

    /// What to do when a step has ended.
    package struct Verdict: Sendable {
        /// Some time passes before the next step: there was no space.
        package let pauses: Bool
        /// The first commit that found no space, or the first that found some again (nil).
        package let news: News?
    }

    package enum News: Sendable {
        case full(DiskError)
        case roomAgain
    }

    /// Of entries in one commit, but for a batch that has more: a queue that grew behind a slow disk must not make one
    /// commit that all who come later wait for, nor a value that can only be trimmed as a whole.
    package static let commitBytesMax = 16 << 20

    private let commitBytesMax: Int
    /// For the next commit: after one that found no space half as much is tried, down to one batch. A small one may fit
    /// into pages that trimming freed where a large one does not.
    private var commitBytes: Int
    /// Bounded by the cores' bounds on undurable bytes: each counts what it handed in until it is told of it.
    private var batches: [(loop: Int, batch: JournalBatch)] = []
    /// The newest list of what is superfluous that each loop gave. A loop that gave none yet pins all of its groups:
    /// what is in no list is not trimmed.
    private var superfluous: [Superfluous]
    /// Lists that came so far.
    private var lists: UInt64 = 0
    /// There is more to trim, as far as is known.
    private var isTrimDue = false
    private var isRunning = false
    package private(set) var hasFailed = false
    /// The last commit found no space.
    package private(set) var isFull = false

    package init(loops: Int, commitBytesMax: Int = commitBytesMax) {
        superfluous = Array(repeating: [], count: loops)
        self.commitBytesMax = commitBytesMax
        commitBytes = commitBytesMax
    }

    /// Queues a loop's batch. Tickets of one loop come in ascending order.
    ///
    /// - Parameter superfluous: if not empty, all that this loop knows to be superfluous: it takes the place of the
    ///   loop's earlier list.
    /// - Returns: whether the writer rests, and has to begin.
    package mutating func add(_ batch: JournalBatch?, superfluous news: Superfluous, from loop: Int) -> Bool {
        guard !hasFailed else { return false }
        if let batch { batches.append((loop, batch)) }
        if !news.isEmpty {
            superfluous[loop] = news
            lists += 1
            isTrimDue = true
        }
        guard !isRunning, !batches.isEmpty || isTrimDue else { return false }
        isRunning = true
        return true
    }

    /// What to do now; nil: nothing, the writer rests.
    package mutating func next() -> Step? {
        guard !hasFailed else { return nil }
        guard !batches.isEmpty || isTrimDue else {
            isRunning = false
            return nil
        }
        return Step(batches: takeBatches(), superfluous: isTrimDue ? superfluous : nil, lists: lists)
    }

    /// What goes into the next commit: the oldest, at least one.
    private mutating func takeBatches() -> [(loop: Int, batch: JournalBatch)] {
        var bytes = 0
        let end = batches.firstIndex { next in
            defer { bytes += next.batch.bytes }
            return bytes + next.batch.bytes > commitBytes && bytes > 0
        }
        guard let end else {
            defer { batches = [] }
            return batches
        }
        defer { batches.removeFirst(end) }
        return Array(batches[..<end])
    }

    package mutating func ended(_ step: Step, _ outcome: Outcome) -> Verdict {
        if outcome.isTrimmed, lists == step.lists { isTrimDue = false }
        var news: News?
        if let error = outcome.commitFull {
            // Nothing of it was written: it is first again.
            batches.insert(contentsOf: step.batches, at: isPlanted("full-commit-overtaken") ? batches.count : 0)
            if !isFull { news = .full(error) }
            isFull = true
            commitBytes = max(1, min(commitBytes, step.batches.reduce(0) { $0 + $1.batch.bytes }) / 2)
        } else if outcome.sequence != nil {
            if isFull { news = .roomAgain }
            isFull = false
            commitBytes = min(commitBytesMax, max(commitBytes * 2, 1 << 16))
        }
        return Verdict(pauses: outcome.commitFull != nil || outcome.isTrimFull, news: news)
    }

    /// A step failed: nothing is ever written again. Returns false if that was known.
    package mutating func fail() -> Bool {
        defer {
            hasFailed = true
            isRunning = true
            batches = []
        }
        return !hasFailed
    }
}
