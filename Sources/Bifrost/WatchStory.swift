// The records that are there, then what becomes of them, as one story. Owns how a snapshot, which is read page by page, and
// the changes behind it come together; whose records they are, and what their keys mean, is the watches' affair.

import ClientCore
import Messages
import Primitives
import StateMachines

/// What a story is about.
struct WatchSource: Sendable {
    let cluster: Cluster
    let slot: Slot
    let machine: SubMachineNumber
    let from: Bytes
    let end: Bytes?
    let start: WatchStart
    /// How long it goes on while no host can be asked; nil: for ever.
    let patience: Duration?
    /// Why there is none.
    let problem: BifrostError?
    /// The group's revision now.
    let moment: @Sendable () async throws(BifrostError) -> Revision
    /// The first records from this key on.
    let page: @Sendable (Bytes) async throws(BifrostError) -> ScanPage
}

/// One piece of it.
struct ToldRecord: Sendable {
    enum Kind: Hashable, Sendable {
        case present, ready, progress
        case change(Change.Kind)
    }
    var kind: Kind
    var key = Bytes()
    var value = Bytes()
    var revision: Revision
    var resume: Revision?
}

struct WatchStory: Sendable {
    private enum Phase { case new, reading, catchingUp, live }

    private let source: WatchSource
    private var phase = Phase.new
    private var feed: WatchFeed
    /// Of the snapshot's pages, ascending: where each ends, and of which moment it is.
    private var pages: [(end: Bytes?, revision: Revision)] = []
    private var hasLooked = false
    private var told: [ToldRecord] = []
    private var place = 0

    init(_ source: WatchSource) {
        self.source = source
        feed = WatchFeed(
            cluster: source.cluster, slot: source.slot, machine: source.machine, from: source.from, end: source.end,
            patience: source.patience, through: .zero)
    }

    mutating func next() async throws(BifrostError) -> ToldRecord {
        while place >= told.count {
            told.removeAll(keepingCapacity: true)
            place = 0
            try await goOn()
        }
        place += 1
        return told[place - 1]
    }

    private mutating func goOn() async throws(BifrostError) {
        switch phase {
        case .new:
            if let problem = source.problem { throw problem }
            switch source.start {
            case .after(let revision):
                feed.through = revision
                phase = .live
            case .now:
                let revision = try await Patience(source.patience).ask(source.moment)
                feed.through = revision
                told.append(ToldRecord(kind: .ready, revision: revision, resume: revision))
                phase = .live
            case .snapshot:
                phase = .reading
            }
        case .reading: try await read()
        case .catchingUp: try await catchUp()
        case .live:
            let before = feed.through
            let changes = try await feed.next()
            for (place, change) in changes.enumerated() {
                tell(change, resume: changes.isLastOfRevision(place) ? change.revision : change.revision.previous)
            }
            if changes.isEmpty, feed.through > before {
                told.append(ToldRecord(kind: .progress, revision: feed.through, resume: feed.through))
            }
        }
    }

    private mutating func read() async throws(BifrostError) {
        let (source, from) = (source, pages.last?.end ?? source.from)
        let page = try await Patience(source.patience).ask { () async throws(BifrostError) in
            try await source.page(from)
        }
        pages.append((page.next, page.revision))
        for record in page.records {
            told.append(
                ToldRecord(
                    kind: .present, key: record.key, value: record.value, revision: record.revision, resume: nil))
        }
        // What each page misses is behind its own moment, and so behind the first one's.
        if pages.count == 1 { feed.through = page.revision }
        guard page.next != nil else {
            phase = .catchingUp
            return beReady()
        }
        // Hosts don't keep for long what changes meanwhile. What is not read yet will be as it is then.
        for change in try await feed.next(waits: false) {
            guard change.kind != .cleared else {
                clear(change)
                if pages.isEmpty { return }
                continue
            }
            guard let known = pageOf(change.key), change.revision > known.revision else { continue }
            tell(change, resume: nil)
        }
    }

    /// The snapshot is that of its last page's moment once all changes up to there are told.
    private mutating func catchUp() async throws(BifrostError) {
        guard let last = pages.last?.revision else { preconditionFailure("a snapshot has pages") }
        // The last page's moment has passed: nothing has to happen first, but for a leader that is new.
        let changes = try await feed.next(waits: hasLooked)
        hasLooked = true
        for (place, change) in changes.enumerated() {
            if change.revision > last { beReady(at: last) }
            let resume = changes.isLastOfRevision(place) ? change.revision : change.revision.previous
            if change.kind == .cleared, phase != .live {
                clear(change)
                if pages.isEmpty { return }
                continue
            }
            guard change.revision > pageOf(change.key)?.revision ?? .zero else { continue }
            tell(change, resume: phase == .live ? resume : nil)
        }
        beReady()
    }

    /// All that the snapshot has read is gone. Where some of it was read behind that, it is read anew.
    private mutating func clear(_ change: Change) {
        guard let last = pages.last?.revision, let first = pages.first?.revision, change.revision > first else {
            return
        }
        tell(change, resume: nil)
        guard change.revision <= last else { return }
        pages = []
        hasLooked = false
        phase = .reading
    }

    private func pageOf(_ key: Bytes) -> (end: Bytes?, revision: Revision)? {
        pages.first { $0.end.map { key < $0 } ?? true }
    }

    private mutating func beReady() {
        guard let last = pages.last?.revision, feed.through >= last else { return }
        beReady(at: last)
    }

    private mutating func beReady(at revision: Revision) {
        guard phase == .catchingUp else { return }
        told.append(ToldRecord(kind: .ready, revision: revision, resume: revision))
        phase = .live
    }

    private mutating func tell(_ change: Change, resume: Revision?) {
        told.append(
            ToldRecord(
                kind: .change(change.kind), key: change.key, value: change.value, revision: change.revision,
                resume: resume))
    }
}
