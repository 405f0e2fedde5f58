// The machine loses power while a journal, or a store, is made, written, enlarged, trimmed, merged. A helper process
// does the work with a recorder in it; for each point where something becomes durable, images of what a disk may then
// hold are built and opened. What was acknowledged is there, whole transactions only, and work goes on.
//
// BIFROST_POWER_IMAGES: how many images (1,000 by itself; journal and store half each).
// BIFROST_POWER_IMAGE="journal 3 17": only this image, the 17th of the recording with seed 3; as a failure prints it.

import Foundation
import Primitives
import Storage
import Testing

/// What an image shows that must not be.
struct PowerFailureFinding: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// What a recording acknowledged, and how an image is held against it.
protocol PowerFailureSubject {
    static var name: String { get }
    /// Steps of the helper in one recording.
    static var steps: Int { get }
    init(_ recording: WriteRecording) throws
    /// Opens the image in `directory` after a failure before the event `point`; throws what is wrong with it.
    mutating func check(_ directory: String, point: Int, goesOn: Bool) throws
    /// The event that acknowledges something first.
    var firstAcknowledgement: Int { get }
}

@Suite struct PowerFailureTests {
    static let imagesUsually = 2_000
    static let images =
        ProcessInfo.processInfo.environment["BIFROST_POWER_IMAGES"].flatMap { Int($0) } ?? imagesUsually
    /// Of each subject; each with as many images as there are left for it.
    static let recordings = UInt64(max(6, images / 2 / 500))
    static let only = ProcessInfo.processInfo.environment["BIFROST_POWER_IMAGE"].map { $0.split(separator: " ") }

    @Test(arguments: 0..<recordings) func aJournalKeepsWhatItAcknowledged(seed: UInt64) throws {
        try Self.run(PowerFailureOfJournal.self, seed: seed)
    }

    @Test(arguments: 0..<recordings) func aStoreKeepsWhatItAcknowledged(seed: UInt64) throws {
        try Self.run(PowerFailureOfStore.self, seed: seed)
    }

    /// The tests' own test: a disk that says "durable" too early for the last page of a commit loses commits, and that
    /// must show.
    @Test func aDiskThatLiesIsCaught() throws {
        let work = try Scratch()
        let recording = try Self.record(PowerFailureOfJournal.self, seed: 0, work)
        var subject = try PowerFailureOfJournal(recording)
        var files = RecordedFiles(recording)
        files.liesAboutSynchronousWrites = true
        var random = SeededRandom(seed: 1)
        var findings = 0
        for point in recording.failurePoints.filter({ $0 > subject.firstAcknowledgement }).prefix(60) {
            files.advance(to: point)
            try work.write(files.image(&random))
            do { try subject.check(work.image, point: point, goesOn: false) } catch is PowerFailureFinding {
                findings += 1
            }
        }
        #expect(findings > 5)
    }

    private static func record<Subject: PowerFailureSubject>(
        _ type: Subject.Type, seed: UInt64, _ work: Scratch
    ) throws -> WriteRecording {
        try WriteRecording(
            of: "StorageKillHelper", [Subject.name, work.recorded, "\(seed)", "\(Subject.steps)"], root: work.recorded,
            log: work.log)
    }

    private static func run<Subject: PowerFailureSubject>(_ type: Subject.Type, seed: UInt64) throws {
        if let only, only.first.map(String.init) != Subject.name || UInt64(only[1]) != seed { return }
        let begin = ContinuousClock.now
        let work = try Scratch()
        let recording = try record(type, seed: seed, work)
        var subject = try Subject(recording)
        let points = recording.failurePoints
        // The points in order, each image with a seed of its own: any of them can be built alone.
        let early = points.filter { $0 <= subject.firstAcknowledgement }
        let count = (images / 2 + Int(recordings) - 1) / Int(recordings)
        let plan = (0..<count).map { number in
            var random = SeededRandom(seed: seed << 32 | UInt64(number))
            let some = number % 4 == 0 ? early : points
            return (point: some[Int(random.below(UInt64(some.count)))], number: number, random: random)
        }.sorted { ($0.point, $0.number) < ($1.point, $1.number) }
        var files = RecordedFiles(recording)
        var done = 0
        for var planned in plan {
            files.advance(to: planned.point)
            if let only, Int(only[2]) != planned.number { continue }
            let image = files.image(&planned.random)
            let line =
                "BIFROST_POWER_IMAGES=\(images) BIFROST_POWER_IMAGE=\"\(Subject.name) \(seed) \(planned.number)\" "
                + "swift test -c release --filter PowerFailureTests"
            // Before it is opened: an image that ends the process has left this line beside itself.
            try work.write(image, note: line)
            do {
                try subject.check(work.image, point: planned.point, goesOn: planned.number % 3 == 0)
            } catch {
                let kept = try work.keep(image, note: line)
                Issue.record(
                    """
                    power failure at event \(planned.point) of \(recording.events.count): \(error)
                    the image is in \(kept); to see it again: \(line)
                    """)
                return
            }
            done += 1
        }
        if images > imagesUsually {
            print(
                "power failure: \(Subject.name), recording \(seed + 1) of \(recordings): \(done) images at "
                    + "\(points.count) points, \(ContinuousClock.now - begin)")
        }
        if only == nil { #expect(done == count && points.count > Subject.steps) }
    }

    /// Directories for one recording and its images; in memory if the system has such a place: nothing here depends on
    /// what a disk does.
    private final class Scratch {
        let root: String
        var recorded: String { root + "/recorded" }
        var image: String { root + "/image" }
        var log: String { root + "/log" }
        private var isKept = false

        init() throws {
            root = scratchParent + "bifrost-power-\(UUID().uuidString)"
            for path in [recorded, image] {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            }
        }

        deinit { if !isKept { try? FileManager.default.removeItem(atPath: root) } }

        func write(_ files: [String: [UInt8]], note: String = "") throws {
            try write(files, to: image)
            if !note.isEmpty { try Data(note.utf8).write(to: URL(fileURLWithPath: root + "/reproduce")) }
        }

        private func write(_ files: [String: [UInt8]], to directory: String) throws {
            try? FileManager.default.removeItem(atPath: directory)
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            for (name, content) in files {
                try Data(content).write(to: URL(fileURLWithPath: directory + "/" + name))
            }
        }

        /// The image as it was before it was opened, and the log.
        func keep(_ files: [String: [UInt8]], note: String) throws -> String {
            isKept = true
            try write(files, to: image)
            return root
        }
    }
}

/// Acknowledgements of a recording: lines of one mark belong to one transaction.
private struct Acknowledgements<State> {
    /// Event, and the state that it acknowledges. The first is the empty state, before all events.
    private(set) var states: [(event: Int, state: State)]

    init(_ first: State) { states = [(-1, first)] }

    mutating func append(at event: Int, _ change: (inout State) -> Void) {
        var state = states[states.count - 1].state
        change(&state)
        states.append((event, state))
    }

    /// What was acknowledged last before the event, and what may be on its way.
    func around(_ event: Int) -> (State, next: State?) {
        let later = states.firstIndex { $0.event >= event }
        return (states[(later ?? states.count) - 1].state, later.map { states[$0].state })
    }
}

private struct Line {
    var word: Substring
    var numbers: [UInt64]

    static func all(in text: String) -> [Line] {
        text.split(separator: "\n").map { line in
            let words = line.split(separator: " ")
            return Line(word: words[0], numbers: words.dropFirst().compactMap { UInt64($0) })
        }
    }
}

struct PowerFailureOfJournal: PowerFailureSubject {
    static let name = "journal"
    static let steps = 80

    private struct End: Equatable {
        var last: UInt64
        var term: UInt64
    }
    private var ends = Acknowledgements<[UInt64: End]>([:])
    /// Bases: at least what a trim has acknowledged, at most what it was allowed.
    private var bases = Acknowledgements<[UInt64: UInt64]>([:])
    private var allowed = Acknowledgements<[UInt64: UInt64]>([:])
    let firstAcknowledgement: Int

    init(_ recording: WriteRecording) throws {
        for (event, what) in recording.events.enumerated() {
            guard case .marked(let text) = what else { continue }
            let lines = Line.all(in: text)
            switch lines[0].word {
            case "last":
                ends.append(at: event) { ends in
                    for line in lines { ends[line.numbers[0]] = End(last: line.numbers[1], term: line.numbers[2]) }
                }
            case "base":
                bases.append(at: event) { bases in for line in lines { bases[line.numbers[0]] = line.numbers[1] } }
            case "trim":
                allowed.append(at: event) { allowed in
                    for line in lines { allowed[line.numbers[0]] = line.numbers[1] }
                }
            default: throw PowerFailureFinding("the helper said \(text)")
            }
        }
        try #require(ends.states.count > Self.steps / 2 && bases.states.count > 3)
        firstAcknowledgement = ends.states[1].event
    }

    mutating func check(_ directory: String, point: Int, goesOn: Bool) throws {
        let (acknowledged, next) = ends.around(point)
        // A power failure before the journal was formatted leaves nothing, or all of it.
        let isNew: Bool
        do {
            isNew = try !verify(directory, point, [acknowledged] + (next.map { [$0] } ?? []))
        } catch let error as DiskError {
            throw PowerFailureFinding("the journal does not open: \(error)")
        }
        if isNew, !acknowledged.isEmpty { throw PowerFailureFinding("the journal is empty") }
        guard isNew || goesOn else { return }
        // Work goes on, and stays.
        var expected: [UInt64: End] = [:]
        do {
            let journal = try Journal(
                disk: LMDBDisk(directory: directory, settings: .init(mapBytes: 1 << 18)),
                formatting: HostIdentity(incarnation: Incarnation(1), journal: 42))
            var records: [JournalRecord] = []
            for replica in 1...4 as ClosedRange<UInt64> {
                let log = journal.log(of: ReplicaID(replica))
                let term = max(log?.termRuns.last?.term ?? .zero, log?.baseTerm ?? .zero).rawValue + 1
                let last = (log?.last.rawValue ?? 0) + 1
                let entry = killTestEntry(replica: replica, index: last, term: term)
                records.append(.append(GroupID(UInt32(replica)), ReplicaID(replica), [entry]))
                records.append(
                    .hardState(GroupID(UInt32(replica)), ReplicaID(replica), HardState(term: Term(term))))
                expected[replica] = End(last: last, term: term)
            }
            _ = try journal.append(records)
            while try journal.trim(superfluousThrough: []).values > 0 {}
        }
        guard try verify(directory, point, [expected]) else {
            throw PowerFailureFinding("the journal is empty after a commit")
        }
    }

    /// False if there is no journal yet.
    private func verify(_ directory: String, _ point: Int, _ possible: [[UInt64: End]]) throws -> Bool {
        let disk = try LMDBDisk(directory: directory, settings: .init(mapBytes: 1 << 18))
        let journal: Journal<LMDBDisk>
        do {
            journal = try Journal(disk: disk, formatting: nil)
        } catch let error as DiskError where error.code == .refused {
            return false
        }
        if journal.isDamaged { throw PowerFailureFinding("the journal is damaged") }
        var found: [UInt64: End] = [:]
        for log in journal.recovered() {
            let replica = log.replica.rawValue
            if log.isDamaged { throw PowerFailureFinding("the log of replica \(replica) is damaged") }
            let (floor, ceiling) = (bases.around(point).0[replica] ?? 0, allowed.around(point).0[replica] ?? 0)
            if log.base.rawValue < floor || log.base.rawValue > ceiling {
                throw PowerFailureFinding("replica \(replica) begins at \(log.base), not in \(floor)...\(ceiling)")
            }
            let entries = try journal.entries(of: log.replica, from: log.base.next, through: log.last, bytesMax: .max)
            if entries.count != log.last - log.base { throw PowerFailureFinding("replica \(replica) lacks entries") }
            for entry in entries
            where entry != killTestEntry(replica: replica, index: entry.index.rawValue, term: entry.term.rawValue) {
                throw PowerFailureFinding("entry \(entry.index) of replica \(replica) is another")
            }
            let term = max(log.termRuns.last?.term ?? .zero, log.baseTerm).rawValue
            if log.hardState.term.rawValue != term {
                throw PowerFailureFinding("replica \(replica) has term \(log.hardState.term) and entries of \(term)")
            }
            found[replica] = End(last: log.last.rawValue, term: term)
        }
        if !possible.contains(found) {
            throw PowerFailureFinding("found \(found), expected \(possible.map { "\($0)" }.joined(separator: " or "))")
        }
        return true
    }
}

struct PowerFailureOfStore: PowerFailureSubject {
    static let name = "store"
    static let steps = 40

    private var indexes = Acknowledgements<[UInt64: UInt64]>([:])
    private var models: [UInt64: StoreKillModel] = [1: StoreKillModel(replica: 1), 2: StoreKillModel(replica: 2)]
    /// By replica and index: the live records, sorted.
    private var contents: [UInt64: [UInt64: [Record]]] = [:]
    let firstAcknowledgement: Int

    init(_ recording: WriteRecording) throws {
        for (event, what) in recording.events.enumerated() {
            guard case .marked(let text) = what else { continue }
            indexes.append(at: event) { indexes in
                for line in Line.all(in: text) { indexes[line.numbers[0]] = line.numbers[1] }
            }
        }
        try #require(indexes.states.count > Self.steps / 2)
        firstAcknowledgement = indexes.states[1].event
    }

    mutating func check(_ directory: String, point: Int, goesOn: Bool) throws {
        let (acknowledged, next) = indexes.around(point)
        do {
            if try !verify(directory, [acknowledged] + (next.map { [$0] } ?? []), goesOn: goesOn) {
                if !acknowledged.isEmpty { throw PowerFailureFinding("the store is empty") }
                _ = try Store(
                    disk: LMDBDisk(directory: directory, settings: .init(mapBytes: 1 << 18)),
                    formatting: StoreIdentity(cluster: .none, host: HostID(1), journal: 42))
            }
        } catch let error as DiskError {
            throw PowerFailureFinding("\(error)")
        }
    }

    /// False if there is no store yet.
    private mutating func verify(_ directory: String, _ possible: [[UInt64: UInt64]], goesOn: Bool) throws -> Bool {
        let disk = try LMDBDisk(directory: directory, settings: .init(mapBytes: 1 << 18))
        let store: Store<LMDBDisk>
        do {
            store = try Store(disk: disk)
        } catch let error as DiskError where error.code == .refused {
            return false
        }
        if let damaged = store.damaged().first { throw damaged.error }
        var found: [UInt64: UInt64] = [:]
        for manifest in store.manifests() { found[manifest.replica.rawValue] = manifest.index.rawValue }
        if !possible.contains(found) {
            throw PowerFailureFinding("found \(found), expected \(possible.map { "\($0)" }.joined(separator: " or "))")
        }
        try expectContents(store)
        // Chunks that no manifest names were collected.
        var chunks = 0
        try disk.read { reader in
            try reader.scan(from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)) { _, _ in
                chunks += 1
                return true
            }
        }
        let named = store.manifests().reduce(0) { $0 + $1.chunks }
        if chunks != named { throw PowerFailureFinding("\(chunks) chunks, of which manifests name \(named)") }
        guard goesOn else { return true }
        for manifest in store.manifests() where manifest.runs.count > 1 {
            try store.merge(manifest.replica, range: 0..<manifest.runs.count)
        }
        while try store.reclaim() > 0 {}
        try expectContents(store)
        return true
    }

    private mutating func expectContents(_ store: Store<LMDBDisk>) throws {
        for manifest in store.manifests() {
            let expected = content(manifest.replica.rawValue, manifest.index.rawValue)
            let view = try #require(store.view(manifest.replica))
            if try allRecords(store, view, recordsMax: 1_000) != expected {
                throw PowerFailureFinding("replica \(manifest.replica) at \(manifest.index) has other records")
            }
        }
    }

    private mutating func content(_ replica: UInt64, _ index: UInt64) -> [Record] {
        if let known = contents[replica]?[index] { return known }
        if models[replica]!.index > index { models[replica] = StoreKillModel(replica: replica) }
        models[replica]!.advance(to: index)
        let records = models[replica]!.records.values.filter { !$0.isTombstone }.sorted { $0.key < $1.key }
        contents[replica, default: [:]][index] = records
        return records
    }
}
