// Watches under simulation: whether any misses a change, hears of one twice, or of one that was none. Owns what watches
// were told. Of the plain store that is judged at the end, by what clients were told of their own changes; of data types at
// once, by what their models tell of committed entries.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines

/// A client that watches a key, the keys of a tag, or something of an object.
final class SimulatedWatch {
    /// Told without a gap: all changes behind `after`, up to `through`.
    struct Segment {
        var after: Revision
        var through: Revision
        var changes: [Change] = []
    }
    let client: Int
    let slot: Slot
    let from: Bytes
    let end: Bytes?
    /// nil: it watches the plain store.
    let object: WatchedObject?
    var segments: [Segment] = []
    /// The last one goes on.
    var isOpen = false
    /// Whose revisions they are, as the last answer said.
    var group = GroupID.meta

    init(client: Int, slot: Slot, from: Bytes, end: Bytes?) {
        self.client = client
        self.slot = slot
        self.from = from
        self.end = end
        object = nil
    }

    init(client: Int, slot: Slot, _ object: WatchedObject) {
        self.client = client
        self.slot = slot
        from = object.from
        end = object.end
        self.object = object
    }

    var machine: SubMachineNumber { object?.machine ?? .keyValue }

    func contains(_ key: Bytes) -> Bool { key >= from && end.map { key < $0 } ?? true }
}

extension SimulatedCluster {
    func startWatches() {
        for number in 0..<world.plan.watches {
            let key = keys[Int(world.random.below(UInt64(keys.count)))]
            let tag = Self.tags.first { key.count > $0.count && key[0..<$0.count] == $0 }
            let isRange = tag != nil && world.random.below(2) == 0
            let from = isRange ? tag ?? key : key
            let end = isRange ? Bytes(from.array.dropLast() + [UInt8(ascii: "0")]) : Bytes(from.array + [0])
            let watch = SimulatedWatch(client: number % clients.count, slot: slot(of: key), from: from, end: end)
            begin(watch)
        }
        guard let dataTypes else { return }
        for number in 0...world.random.below(12) {
            let object = dataTypes.nextWatch(random: &world.random)
            begin(
                SimulatedWatch(client: Int(number) % clients.count, slot: slot(of: object.name), object))
        }
    }

    private func begin(_ watch: SimulatedWatch) {
        watches.append(watch)
        world.schedule(after: world.random.below(3_000_000_000), "watch %h begins", UInt64(watches.count - 1)) {
            [unowned self] in goOn(watch)
        }
    }

    private func goOn(_ watch: SimulatedWatch) {
        guard isLoadOn else { return }
        guard watch.object == nil || map.featureLevel >= FeatureLevel.gatherings else {
            return world.schedule(after: 300_000_000, "a watch of client %h goes on", UInt64(watch.client)) {
                [unowned self] in goOn(watch)
            }
        }
        let isShort = world.random.below(3) == 0
        let bytesMax = UInt32(1 + world.random.below(world.random.below(2) == 0 ? 300 : 100_000))
        let wait = UInt32(world.random.below(2_000))
        // Some take their time, so that what they have not seen is gone.
        let pause = world.random.below(8) == 0 ? world.random.below(8_000_000_000) : world.random.below(20_000_000)
        step(watch, waitMillis: wait, bytesMax: bytesMax, nanoseconds: isShort ? 400_000_000 : 10_000_000_000) {
            [unowned self] in
            world.schedule(after: pause + 1, "a watch of client %h goes on", UInt64(watch.client)) { [unowned self] in
                goOn(watch)
            }
        }
    }

    /// Asks once, where it is; where it has nothing to go on from, for where to begin.
    private func step(
        _ watch: SimulatedWatch, waitMillis: UInt32, bytesMax: UInt32 = .max, nanoseconds: UInt64,
        _ ended: @escaping () -> Void
    ) {
        guard watch.isOpen, let segment = watch.segments.last else {
            return askForMoment(of: watch, nanoseconds: nanoseconds) { [unowned self] result in
                if let now = result?.revision {
                    // As one that was told up to some revision before.
                    let resumes = watch.object != nil && world.random.below(4) == 0
                    let after = resumes ? Revision(world.random.below(now.rawValue + 1)) : now
                    watch.segments.append(.init(after: after, through: after))
                    // Whose revision that is was not said.
                    watch.group = .meta
                    watch.isOpen = true
                }
                ended()
            }
        }
        let range = WatchRange(
            after: segment.through, of: watch.group, waitMillis: waitMillis, bytesMax: bytesMax, from: watch.from,
            end: watch.end)
        clients[watch.client].submit(
            kind: .watch, target: .slot(watch.slot), machine: watch.machine, payload: range.encoded(),
            nanoseconds: nanoseconds
        ) { [unowned self] result in
            take(result, watch)
            ended()
        }
    }

    /// - Parameter asked: is given an answer that says at which revision the watch's group is; nil: there is none.
    private func askForMoment(
        of watch: SimulatedWatch, nanoseconds: UInt64, _ asked: @escaping (DataResult?) -> Void
    ) {
        let scan = KeyValueScan(from: watch.from, end: Bytes(watch.from.array + [0]), recordsMax: 1)
        clients[watch.client].submit(
            kind: .query, target: .slot(watch.slot), machine: watch.machine,
            payload: watch.object?.moment.encoded() ?? KeyValueQuery.scan(scan).encoded(), nanoseconds: nanoseconds
        ) { result in
            asked((try? result.get()).flatMap { bytes in try? DataResult(decoding: bytes) })
        }
    }

    private func take(_ result: Result<Bytes, OperationFailure>, _ watch: SimulatedWatch) {
        let last = watch.segments.count - 1
        switch result {
        case .failure(let failure):
            guard failure.code == .compacted else { return }
            mark(watch.object == nil ? .watchCompacted : .objectWatchCompacted)
            watch.isOpen = false
        case .success(let bytes):
            do throws(DecodingFailure) {
                let result = try DataResult(decoding: bytes)
                var before = watch.segments[last].through
                let answer = try WatchAnswer(decoding: result.body)
                if let object = watch.object { return take(answer, through: result.revision, of: object, watch) }
                for change in answer.changes {
                    let isFirst = before == watch.segments[last].through
                    if change.revision < before || isFirst && change.revision == before
                        || change.revision > result.revision || !watch.contains(change.key)
                    {
                        fail("watches", "behind \(before), up to \(result.revision), of \(watch.from): \(change)")
                    }
                    before = change.revision
                    watch.segments[last].changes.append(change)
                    mark(.watchTold)
                }
                if result.revision < watch.segments[last].through {
                    fail("watches", "the answer goes back from \(watch.segments[last].through) to \(result.revision)")
                }
                watch.segments[last].through = result.revision
                watch.group = answer.group
            } catch {
                fail("wire", "an answer to a watch that can't be read: \(error)")
            }
        }
    }

    /// All that the model tells of the object behind what was told before is in the answer, in order, and nothing else.
    private func take(
        _ answer: WatchAnswer, through revision: Revision, of object: WatchedObject, _ watch: SimulatedWatch
    ) {
        let last = watch.segments.count - 1
        let before = watch.segments[last].through
        guard revision >= before else {
            return fail("watches of data types", "the answer goes back from \(before) to \(revision)")
        }
        if let problem = dataTypes?.problem(
            of: answer.changes, object, after: before, through: revision, in: answer.group)
        {
            fail(
                "watches of data types", "client \(watch.client), \(object.name), machine \(object.machine): \(problem)"
            )
        }
        if !answer.changes.isEmpty { mark(.objectWatchTold) }
        report.watchedEvents += answer.changes.count
        watch.segments[last].through = revision
        watch.group = answer.group
    }

    /// When nothing changes any more: what was told last of each key is what is there, and watches of objects come to where
    /// their group is.
    func finishWatches() throws(SimulationFailure) {
        var open = 0
        for watch in watches where watch.isOpen {
            open += 1
            guard watch.object == nil else {
                askForMoment(of: watch, nanoseconds: 25_000_000_000) { [unowned self] result in
                    goOn(watch, to: result?.revision ?? .zero) { open -= 1 }
                }
                continue
            }
            let query = KeyValueQuery.scan(KeyValueScan(from: watch.from, end: watch.end))
            clients[watch.client].submit(
                kind: .query, target: .slot(watch.slot), payload: query.encoded(), nanoseconds: 25_000_000_000
            ) { [unowned self] result in
                guard case .success(let bytes) = result, let result = try? DataResult(decoding: bytes),
                    let page = try? KeyValueScanPage(decoding: result.body)
                else {
                    open -= 1
                    return
                }
                step(watch, waitMillis: 0, nanoseconds: 25_000_000_000) { [unowned self] in
                    open -= 1
                    compare(watch, page, at: result.revision)
                }
            }
        }
        try expect(
            try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
            "\(open) watches got no last answer")
        judgeWatches()
        if let failure { throw failure }
    }

    private func goOn(_ watch: SimulatedWatch, to end: Revision, _ ended: @escaping () -> Void) {
        guard watch.isOpen, let through = watch.segments.last?.through, through < end else { return ended() }
        step(watch, waitMillis: 0, nanoseconds: 25_000_000_000) { [unowned self] in
            world.schedule(after: 50_000_000, "a watch of client %h comes to its end", UInt64(watch.client)) {
                [unowned self] in goOn(watch, to: end, ended)
            }
        }
    }

    private func compare(_ watch: SimulatedWatch, _ page: KeyValueScanPage, at revision: Revision) {
        guard watch.isOpen, let segment = watch.segments.last, page.next == nil else { return }
        // Its answers may be of less bytes than all of it.
        guard segment.through >= page.records.map(\.revision).max() ?? .zero else { return }
        var told: [Bytes: Change] = [:]
        for change in segment.changes { told[change.key] = change }
        for record in page.records where record.revision > segment.after {
            let change = told[record.key]
            if change?.kind != .put || change?.revision != record.revision || change?.value != record.value {
                fail(
                    "watches",
                    "\(record.key) has \(record), and the last that was told is \(String(describing: change))")
            }
        }
        let there = Set(page.records.map(\.key))
        for change in segment.changes where change.kind == .put && told[change.key] == change {
            if !there.contains(change.key) { fail("watches", "\(change) was told last, and the key is gone") }
        }
    }

    /// Every change that a client made is told once, with its revision; and all watches are told the same.
    private func judgeWatches() {
        struct Place: Hashable {
            /// Revisions of one key go on growing where its slot moves.
            var slot: Slot
            var revision: Revision
            var key: Bytes
        }
        var known: [Place: Change] = [:]
        var judged = 0
        for watch in watches where watch.object == nil {
            for segment in watch.segments {
                var told: [Place: Change] = [:]
                for change in segment.changes {
                    let place = Place(slot: watch.slot, revision: change.revision, key: change.key)
                    // One transaction of these clients changes a key once.
                    if told.updateValue(change, forKey: place) != nil { fail("watches", "\(change) was told twice") }
                    if known.updateValue(change, forKey: place) ?? change != change {
                        fail("watches", "two watches were told different things: \(change)")
                    }
                }
                for operation in operations where watch.contains(operation.key) {
                    guard case .done(let number?) = operation.outcome else { continue }
                    let revision = Revision(number)
                    guard revision > segment.after, revision <= segment.through else { continue }
                    let value: Bytes?
                    switch operation.kind {
                    case .put(let new): value = new
                    case .putIf(_, let new), .putIfRevision(_, _, let new): value = new
                    default: continue
                    }
                    judged += 1
                    let change = told[Place(slot: watch.slot, revision: revision, key: operation.key)]
                    if change?.kind != (value == nil ? .deleted : .put) || change?.value != value ?? Bytes() {
                        fail(
                            "watches",
                            "a watch behind \(segment.after) was told \(String(describing: change)) of \(operation)")
                        return
                    }
                }
            }
        }
        report.watchedChanges += judged
    }
}
