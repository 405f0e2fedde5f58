// A small cluster of RaftCores with a network, disks and state machines of plain arrays. Everything that happens is
// asked for: nothing is delivered, written or ticked by itself. Transcripts and the random tests drive the same
// cluster.

import Primitives
import RaftCore

/// Rules that the surroundings of the core may break, to see that the checks notice.
enum PlantedBug: CaseIterable {
    /// Promises leave before what they promise is durable.
    case promiseBeforeDurable
    /// The disk forgets whom the replica voted for.
    case voteNotPersisted
    /// The disk forgets the term.
    case termNotPersisted
}

/// One replica: a core, and what its disk holds. A crash takes the core and all writes that are not finished.
struct TestReplica {
    struct Write {
        var sequence: UInt64
        var entries: [LogEntry]
        var hardState: HardState?
    }
    struct Held {
        var after: UInt64
        var message: RaftMessage
    }

    let id: ReplicaID
    var core: RaftCore?
    // The disk.
    var hardState = HardState()
    var base = LogIndex.zero
    var baseTerm = Term.zero
    var log: [LogEntry] = []
    /// The state machine's durable index.
    var checkpoint = LogIndex.zero
    // Under way to the disk, and waiting for it.
    var writes: [Write] = []
    var held: [Held] = []
    var logReads: [LogRead] = []
    var starts: UInt64 = 0
    /// What the host remembers across a restart.
    var promisedUntil: UInt64 = 0

    var last: LogIndex { base + log.count }

    func durableTerm(at index: LogIndex) -> Term? {
        if index == base { return baseTerm }
        guard index > base, index <= last else { return nil }
        return log[index - base - 1].term
    }

    mutating func finishWrite(_ bug: PlantedBug?) -> Write {
        let write = writes.removeFirst()
        if let first = write.entries.first {
            precondition(first.index <= last.next, "a write leaves a gap")
            log.removeSubrange((first.index - base - 1)...)
            log += write.entries
        }
        if var state = write.hardState {
            if bug == .voteNotPersisted { state.vote = .none }
            if bug == .termNotPersisted { state.term = Term(1) }
            hardState = state
        }
        return write
    }

    func start(configuration: Configuration) -> RaftStart {
        var runs: [TermRun] = []
        for entry in log where runs.last?.term != entry.term {
            runs.append(TermRun(first: entry.index, term: entry.term))
        }
        var configuration = configuration
        for entry in log where entry.index <= checkpoint && entry.kind == .configuration {
            var reader = ByteReader(entry.payload)
            if let read = try? Configuration(from: &reader) { configuration = read }
            configuration.index = entry.index
        }
        return RaftStart(
            replica: id, hardState: hardState, configuration: configuration, base: base, baseTerm: baseTerm, last: last,
            termRuns: runs, applied: checkpoint, entries: Array(log.filter { $0.index > checkpoint }))
    }
}

struct Cluster {
    var replicas: [TestReplica]
    /// The founders', in which they begin. Spectators begin in an empty one, as replicas do that come later.
    var configuration: Configuration
    var settings: RaftSettings
    let seed: UInt64
    /// Sent and neither delivered nor dropped, in the order of sending.
    var flight: [RaftMessage] = []
    var effects = RaftEffects()
    var bug: PlantedBug?
    var isAutomaticallyDurable = false
    var checks: Checks?

    init(voters: Int, spectators: Int = 0, settings: RaftSettings, seed: UInt64 = 1) {
        configuration = Configuration(voters: (1...voters).map { ReplicaID(UInt64($0)) })
        self.settings = settings
        self.seed = seed
        replicas = (1...(voters + spectators)).map { TestReplica(id: ReplicaID(UInt64($0))) }
        for position in replicas.indices { start(position) }
    }

    mutating func start(_ position: Int) {
        replicas[position].starts += 1
        let seed = mix(mix(seed &+ replicas[position].id.rawValue) &+ replicas[position].starts)
        let isFounder = configuration.voters.contains(replicas[position].id)
        replicas[position].core = RaftCore(
            start: replicas[position].start(configuration: isFounder ? configuration : Configuration(voters: [])),
            settings: settings, seed: seed)
        replicas[position].core!.keepPromise(until: replicas[position].promisedUntil)
        checks?.started(position)
    }

    /// A replica promises its vote to the leader it knows, which is told at once, if it is up.
    mutating func promise(_ position: Int, until: UInt64, isTold: Bool = true) -> Bool {
        guard let core = replicas[position].core,
            replicas[position].core!.promise(to: core.leader, term: core.term, until: until)
        else { return false }
        replicas[position].promisedUntil = max(replicas[position].promisedUntil, until)
        if isTold, let leader = self.position(of: core.leader) {
            replicas[leader].core?.promised(by: core.replica, term: core.term, until: until)
        }
        return true
    }

    /// A replica begins anew on another's checkpoint, once that is on its disk: its own log is void.
    mutating func install(_ position: Int, from other: Int) {
        crash(position)
        let source = replicas[other]
        replicas[position].base = source.checkpoint
        replicas[position].baseTerm = source.durableTerm(at: source.checkpoint) ?? .zero
        replicas[position].log = []
        replicas[position].checkpoint = source.checkpoint
        start(position)
    }

    mutating func crash(_ position: Int) {
        replicas[position].core = nil
        replicas[position].writes = []
        replicas[position].held = []
        replicas[position].logReads = []
    }

    /// Ends a replica's turn: takes the effects and carries them out. They stay in `effects` for whoever shows them.
    mutating func turn(_ position: Int) {
        guard replicas[position].core != nil else { return }
        replicas[position].core!.ready(into: &effects)
        flight += effects.messages
        flight += effects.bulkMessages
        if bug == .promiseBeforeDurable {
            flight += effects.durableMessages
        } else {
            replicas[position].held += effects.durableMessages.map {
                TestReplica.Held(after: effects.durableAfter, message: $0)
            }
        }
        replicas[position].logReads += effects.logReads
        if let sequence = effects.persistSequence {
            replicas[position].writes.append(
                TestReplica.Write(sequence: sequence, entries: effects.entries, hardState: effects.hardState))
        }
        checks?.turned(position, self)
        apply(position)
    }

    private mutating func apply(_ position: Int) {
        while let core = replicas[position].core, core.appliedIndex < core.commit {
            let entries = core.committedEntries(after: core.appliedIndex, bytesMax: 64)
            guard let last = entries.last else { return }
            checks?.applied(position, entries, self)
            replicas[position].core!.applied(through: last.index)
        }
    }

    /// Finishes the oldest write. False if there is none.
    mutating func finishWrite(_ position: Int) -> Bool {
        guard !replicas[position].writes.isEmpty else { return false }
        let write = replicas[position].finishWrite(bug)
        let before = replicas[position].core!.configuration
        replicas[position].core!.persisted(sequence: write.sequence)
        checks?.received(position, under: before, self)
        checks?.becameDurable(position, self)
        while let first = replicas[position].held.first, first.after <= write.sequence {
            flight.append(first.message)
            replicas[position].held.removeFirst()
        }
        return true
    }

    mutating func answerLogRead(_ position: Int) {
        guard !replicas[position].logReads.isEmpty else { return }
        let read = replicas[position].logReads.removeFirst()
        var bytes = 0
        let entries = replicas[position].log.filter { $0.index >= read.from && $0.index <= read.through }.prefix {
            entry in
            bytes += entry.encodedBytes
            return bytes <= read.bytesMax || entry.index == read.from
        }
        replicas[position].core!.supply(entries: Array(entries), for: read.replica)
    }

    func position(of id: ReplicaID) -> Int? { replicas.firstIndex { $0.id == id } }

    /// Hands a message to its receiver, if that is up.
    mutating func deliver(_ message: RaftMessage) -> Int? {
        guard let position = position(of: message.to), replicas[position].core != nil else { return nil }
        let before = replicas[position].core!.configuration
        checks?.delivered(message)
        replicas[position].core!.step(message)
        checks?.received(position, under: before, self)
        return position
    }

    /// The established leader of the highest term, if there is one.
    var leader: Int? {
        replicas.indices.filter { replicas[$0].core?.isEstablished == true }
            .max { replicas[$0].core!.term < replicas[$1].core!.term }
    }

    /// Nothing is lost: ticks, delivers and writes, with everybody who is up, until `isDone` says so after a round.
    /// False if that did not come about within `rounds`.
    mutating func calm(rounds: Int, isDone: (inout Cluster, Int) -> Bool) -> Bool {
        for round in 0..<rounds {
            for position in replicas.indices where replicas[position].core != nil {
                replicas[position].core!.tick()
                turn(position)
            }
            exchange()
            if checks?.violation != nil || isDone(&self, round) { return true }
        }
        return false
    }

    mutating func startAll() {
        for position in replicas.indices where replicas[position].core == nil { start(position) }
    }

    /// Delivers and writes until nothing is under way. Whoever is down gets nothing.
    mutating func exchange() {
        for _ in 0..<200 {
            var isQuiet = true
            for position in replicas.indices where replicas[position].core != nil {
                while finishWrite(position) { isQuiet = false }
                while !replicas[position].logReads.isEmpty { answerLogRead(position) }
                if replicas[position].core!.hasReady { turn(position); isQuiet = false }
            }
            let sent = flight
            flight = []
            for message in sent {
                if let position = deliver(message) { turn(position); isQuiet = false }
            }
            if isQuiet { return }
        }
    }
}
