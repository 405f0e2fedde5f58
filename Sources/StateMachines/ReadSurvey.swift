// What entries that wait will read, found out about once for each: many wait at a time, their records come in rounds, and
// to look through all of them in each round would cost more than to apply them.

public import Messages
public import Primitives
import Ring

/// Of entries that wait for records: what is still missing. A guess, by which records are fetched ahead; nothing of it
/// decides.
public struct ReadSurvey {
    /// They had all they read in memory when they were looked at. What is applied before them may change that: they say so
    /// when their turn comes.
    private var ready: [Bool] = []
    /// The first one of these.
    private var first = LogIndex.zero
    /// What is fetched in this round.
    private var named: Set<RecordPosition> = []
    /// Objects one of whose commands lacks nothing but what others lack: so will those behind it, whatever they read then.
    /// With what they may read then.
    private var waiting: [RecordPosition: ArraySlice<RecordPosition>] = [:]

    public init() {}

    /// A round begins: what was missing in the last one has come. It goes on with the entries behind the first one.
    ///
    /// - Parameter places: what the first entry lacks.
    public mutating func begin(_ places: [RecordPosition]) {
        named = Set(places)
        waiting.removeAll(keepingCapacity: true)
    }

    /// What has to be fetched for an entry, as it looks now, and is not yet.
    public mutating func missing(
        of entry: LogEntry, _ machine: MasterStateMachine, _ store: any RecordStore
    ) -> [RecordPosition] {
        guard !isReady(entry.index) else { return [] }
        let object = machine.objectToTry(of: entry)
        if let object, waiting[object] != nil { return next(of: object) }
        let lacking = machine.lacking(of: entry, store)
        let places = lacking.places.filter { store.isElsewhere($0) }
        let new = places.filter { named.insert($0).inserted }
        if places.isEmpty {
            noteReady(entry.index)
        } else if new.isEmpty, let object {
            waiting[object] = lacking.along[...]
            return next(of: object)
        }
        return new
    }

    private mutating func next(of object: RecordPosition) -> [RecordPosition] {
        guard let place = waiting[object]?.popFirst(), named.insert(place).inserted else { return [] }
        return [place]
    }

    private func isReady(_ index: LogIndex) -> Bool {
        guard index >= first, index.rawValue - first.rawValue < UInt64(ready.count) else { return false }
        return ready[Int(index.rawValue - first.rawValue)]
    }

    /// The entries of a round stand one behind the other, and no later round begins before them.
    private mutating func noteReady(_ index: LogIndex) {
        if ready.isEmpty { first = index }
        guard index >= first else { return }
        let place = Int(index.rawValue - first.rawValue)
        while ready.count <= place { ready.append(false) }
        ready[place] = true
    }
}

extension MasterStateMachine {
    /// The object of a command that has to be tried to know what it reads; nil: it can tell, or is of no object.
    fileprivate func objectToTry(of entry: LogEntry) -> RecordPosition? {
        guard entry.kind == .command, group != .meta,
            let machine = entry.payload.withUnsafeBytes({ CommandHeader(of: $0)?.machine })
        else { return nil }
        if machine == .guards {
            return (try? GuardedCommand(payload: entry.payload)).flatMap { objectToTry(of: entry.with($0.payload)) }
        }
        guard machine.isRegistered, machine.isDataType, let request = try? MachineRequest(payload: entry.payload),
            let command = machines.command(request.number, of: machine), command.foresee == nil
        else { return nil }
        return RecordPosition(slot: Ring.slot(of: request.key), machine: machine, key: request.key)
    }
}
