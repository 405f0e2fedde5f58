// What the rules know of logs: each replica's in memory and on disk, each group's entries, whatever became of them, and
// what is committed. Owns the facts; what must hold of them stands in Invariants.

import HostCore
import Primitives
import RaftCore
import StateMachines
import Storage

/// An entry as the model keeps it.
struct EntryMark: Equatable {
    var term: UInt64
    /// Of all of the entry.
    var hash: UInt64
    /// Hash of a command's payload, as `command(of:)` makes it; 0 for other kinds.
    var command: UInt64
    /// What a command says to its group's sessions.
    var call: CallMark?
    /// Of a client's command.
    var slot: Slot?
    var logTime: LogTime
    /// Of this entry's hash and all before it: equal chains mean logs that are equal up to here.
    var chain: UInt64
    /// The configuration in effect from here on, as a position in its group's; 0 for the first.
    var configuration: Int

    /// - Parameters:
    ///   - previous: the entry before; nil for the first.
    ///   - configuration: the position of the one that the entry itself brings.
    init(_ entry: LogEntry, after previous: EntryMark?, configuration: Int?) {
        term = entry.term.rawValue
        command = entry.kind == .command ? Self.command(of: entry.payload) : 0
        call = entry.kind == .command ? CallMark(entry.payload) : nil
        slot = entry.kind == .command ? MasterStateMachine.slot(of: entry.payload) : nil
        logTime = entry.logTime
        hash = Self.hash(of: entry)
        chain = mix((previous?.chain ?? 0) ^ hash)
        self.configuration = configuration ?? previous?.configuration ?? 0
    }

    static func hash(of entry: LogEntry) -> UInt64 {
        entry.payload.withUnsafeBytes {
            hash64($0, seed: mix(entry.term.rawValue) ^ UInt64(entry.kind.rawValue) ^ mix(entry.logTime.rawValue))
        }
    }

    /// Without what a command acknowledges: that is another with each attempt.
    static func command(of payload: Bytes) -> UInt64 {
        payload.withUnsafeBytes { bytes in
            guard bytes.count >= CommandHeader.encodedBytes else { return hash64(bytes) }
            let header = hash64(UnsafeRawBufferPointer(rebasing: bytes[..<20]))
            return hash64(UnsafeRawBufferPointer(rebasing: bytes[CommandHeader.encodedBytes...]), seed: header)
        }
    }

    /// It and all before it are the same.
    func isSame(_ other: EntryMark) -> Bool { term == other.term && chain == other.chain }
}

/// One replica's log and hard state, as far as something was told.
struct LogModel {
    /// Of indexes 1, 2, …
    var marks: [EntryMark] = []
    var hardState = HardState()

    var last: LogIndex { LogIndex(UInt64(marks.count)) }
    func mark(at index: LogIndex) -> EntryMark? {
        index.rawValue >= 1 && index.rawValue <= UInt64(marks.count) ? marks[Int(index.rawValue) - 1] : nil
    }
}

final class ReplicaModel {
    let group: GroupID
    let replica: ReplicaID
    let host: Int
    // Unchecked: each access ends before anything else runs, and these are reached after every turn.
    /// What was given to the journal, and what of it is durable.
    @exclusivity(unchecked) var written = LogModel()
    @exclusivity(unchecked) var durable = LogModel()
    /// The manifest on disk, and one whose write was reported as failed: it may be there after a restart.
    @exclusivity(unchecked) var manifestIndex = LogIndex.zero
    @exclusivity(unchecked) var doubtfulManifest: ManifestHeader?
    /// The manifest came from another host, and its log does not lead to it yet.
    var installedIndex = LogIndex.zero
    /// Its log began anew behind a snapshot at this index: what is below is not in it.
    var begunBehind = LogIndex.zero
    /// One whose installation was reported as failed, or not at all: it may be there after a restart.
    var doubtfulInstallation = LogIndex.zero
    /// The latest term that it led, and the latest in which it took entries of its log back, over all its processes.
    @exclusivity(unchecked) var ledTerm = Term.zero
    @exclusivity(unchecked) var cutInTerm = Term.zero
    /// Of the process that runs; zero after a crash.
    @exclusivity(unchecked) var term = Term.zero
    @exclusivity(unchecked) var commit = LogIndex.zero
    @exclusivity(unchecked) var applied = LogIndex.zero
    @exclusivity(unchecked) var base = LogIndex.zero
    @exclusivity(unchecked) var role = RaftRole.follower
    /// Of its latest leadership: what is above was committed by counting.
    @exclusivity(unchecked) var commitWhenElected = LogIndex.zero
    @exclusivity(unchecked) var logTime = LogTime.zero
    /// Its host has it: it was born or restored in the process that runs.
    @exclusivity(unchecked) var isHere = false
    /// Its tombstone was given to the journal, at this time, and is durable: it never comes back.
    @exclusivity(unchecked) var isBuried = false
    @exclusivity(unchecked) var buriedAt: UInt64 = 0
    @exclusivity(unchecked) var isGone = false

    init(group: GroupID, replica: ReplicaID, host: Int) {
        self.group = group
        self.replica = replica
        self.host = host
    }

    /// What follows is of another.
    func forgetProcess() {
        term = .zero
        commit = .zero
        applied = .zero
        base = .zero
        role = .follower
        logTime = .zero
        isHere = false
    }
}

/// One of a group's configurations, with the models of those who have a say.
struct ConfigurationModel {
    let configuration: Configuration
    let voters: [ReplicaModel]
    let outgoing: [ReplicaModel]

    func counts(_ model: ReplicaModel) -> Bool {
        voters.contains { $0 === model } || outgoing.contains { $0 === model }
    }
}

final class GroupModel {
    // Unchecked, as those of a replica.
    @exclusivity(unchecked) var replicas: [ReplicaModel] = []
    @exclusivity(unchecked) var entries = EntryMarks()
    @exclusivity(unchecked) var committed: [EntryMark] = []
    /// Each was committed in this term or an earlier one.
    @exclusivity(unchecked) var committedIn: [UInt64] = []
    /// What took effect: nothing may twice.
    @exclusivity(unchecked) var commands: Set<UInt64> = []
    @exclusivity(unchecked) var sessions = SessionModel()
    @exclusivity(unchecked) var slots = SlotModel()
    /// Of clients' commands, by index: the entry took effect.
    @exclusivity(unchecked) var takesEffect: [Bool] = []
    /// Clients were answered that their command took effect in this entry, and in what way: hashes of the answers.
    @exclusivity(unchecked) var answers: [UInt64: UInt64] = [:]
    /// By index; 0 is unknown.
    @exclusivity(unchecked) var digests: [UInt64] = []
    @exclusivity(unchecked) var leaders: [UInt64: ReplicaID] = [:]
    /// The newest that anybody leads or led.
    @exclusivity(unchecked) var newestTerm = Term.zero

    /// All that anybody ever appended; the first is that of the founders.
    @exclusivity(unchecked) private(set) var configurations: [ConfigurationModel] = []

    /// The position of a configuration; nil if it has members that no map ever named.
    func place(of configuration: Configuration) -> Int? {
        if let known = configurations.firstIndex(where: { $0.configuration == configuration }) { return known }
        func models(_ members: [ReplicaID]) -> [ReplicaModel]? {
            let found = members.compactMap { id in replicas.first { $0.replica == id } }
            return found.count == members.count ? found : nil
        }
        guard let voters = models(configuration.voters), let outgoing = models(configuration.outgoing),
            models(configuration.learners) != nil
        else { return nil }
        configurations.append(
            ConfigurationModel(configuration: configuration, voters: voters, outgoing: outgoing))
        return configurations.count - 1
    }

    /// The one in effect at the end of a log.
    func configuration(of log: LogModel) -> ConfigurationModel { configurations[log.marks.last?.configuration ?? 0] }

    /// The newest of which it is known that it is committed.
    var committedConfiguration: ConfigurationModel { configurations[committed.last?.configuration ?? 0] }

    /// The entry, and so all before it, is durable on a majority of the configuration in effect there, or of one that
    /// came later: whoever commits it counts by the last in his log.
    func isDurable(_ mark: EntryMark, at index: LogIndex) -> Bool {
        let place = Int(index.rawValue) - 1
        func holds(_ members: [ReplicaModel]) -> Bool {
            var holders = 0
            for replica in members where place < replica.durable.marks.count {
                if replica.durable.marks[place].isSame(mark) { holders += 1 }
            }
            return holders * 2 > members.count
        }
        func holds(_ model: ConfigurationModel) -> Bool {
            holds(model.voters) && (model.outgoing.isEmpty || holds(model.outgoing))
        }
        return holds(configurations[mark.configuration])
            || configurations.contains { $0.configuration.index > index && holds($0) }
    }
}

/// Every entry that any replica of a group ever wrote, by index and term: both together name it and all before it, on
/// all replicas and for ever (Raft paper, figure 3: log matching).
struct EntryMarks {
    private struct Place: Hashable {
        var index: LogIndex
        var term: UInt64
    }

    /// By index, the first that was written there; entries of other terms stand in `others`.
    private var first: [EntryMark] = []
    private var others: [Place: EntryMark] = [:]

    func mark(at index: LogIndex, of term: Term) -> EntryMark? {
        let place = Int(index.rawValue) - 1
        guard place >= 0, place < first.count else { return nil }
        if first[place].term == term.rawValue { return first[place] }
        return others[Place(index: index, term: term.rawValue)]
    }

    /// False if another entry of this index and term is known, or this one behind others. Indexes come without gaps.
    mutating func insert(_ mark: EntryMark, at index: LogIndex) -> Bool {
        let place = Int(index.rawValue) - 1
        guard place < first.count else {
            first.append(mark)
            return true
        }
        if first[place].term == mark.term { return first[place] == mark }
        let key = Place(index: index, term: mark.term)
        if let known = others[key] { return known == mark }
        others[key] = mark
        return true
    }
}
