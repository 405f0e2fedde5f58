// A move of slots from a group to another, as the map knows it: what is decided, and what both groups reported. Owns the
// order of the steps between groups; what a group does at each of them is its own machine's.
//
//   created ──► copying ──► committed ──► released ──► activated ──► gone
//                  │ the target has all,   │ the source  │ the target   │ the source has
//                  │ frozen: the map       │ answers     │ serves       │ cleaned up
//                  │ decides at once       │ `moved`
//                  └──► aborting ──► gone
//                        both have forgotten it
//
//   settling ──► gone      where a recovery found that something of it is lost
//            both have settled it

public import Primitives

/// How fast slots may move, and for how long their writers may wait. As whoever began it wants it.
public struct MigrationLimits: Hashable, Sendable {
    /// That the target fetches in a second while the source serves; 0: as much as the source's host gives.
    public var bytesPerSecondMax: UInt64
    /// The target asks for the freeze only when it expects to have the rest in this time; 0: when little is left.
    public var pauseMillisMax: UInt32

    public init(bytesPerSecondMax: UInt64 = 0, pauseMillisMax: UInt32 = 0) {
        self.bytesPerSecondMax = bytesPerSecondMax
        self.pauseMillisMax = pauseMillisMax
    }

    /// What is wrong with them, in words; nil if nothing is.
    public var problem: String? {
        bytesPerSecondMax < ClusterMap.counterMax ? nil : "a migration's bytes per second are not below 2^62"
    }

    /// `bytes per second u64 | pause u32, milliseconds`
    public func encode(into writer: inout ByteWriter) {
        writer.write(bytesPerSecondMax)
        writer.write(pauseMillisMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        bytesPerSecondMax = try reader.read()
        pauseMillisMax = try reader.read()
    }
}

/// For how long a source's log time stood still while slots were copied, where nothing comes of their migration for that: what
/// ends in time would end early at the target. It is begun anew, and may come about then.
public struct LostTime: Hashable, Sendable {
    /// 0: that is not why.
    public var millis: UInt32

    public static let none = LostTime(millis: 0)

    /// Above 49 days it does not matter how much it was.
    public init(millis: UInt64) { self.millis = UInt32(min(millis, UInt64(UInt32.max))) }

    /// To the tenth of a second, rounded down, as part of a sentence. Part of the format: it stands in the records of
    /// rebalancings (`Rebalancing.note`).
    public func words(of source: GroupID) -> String {
        "group \(source) was led by nobody for \(millis / 1_000).\(millis % 1_000 / 100) s meanwhile"
    }

    /// `milliseconds u32`
    public func encode(into writer: inout ByteWriter) { writer.write(millis) }

    public init(from reader: inout ByteReader) throws(DecodingFailure) { millis = try reader.read() }
}

/// One migration. The slots are the source's until it is committed, and the target's from then on: in one version of the
/// map with that decision.
public struct MigrationRecord: Hashable, Sendable {
    /// Numbers are part of the format.
    public enum State: UInt8, Hashable, Sendable, CaseIterable {
        /// The target fetches what the source has, round by round; the source serves. In the last round the source is
        /// frozen for these slots.
        case copying = 1
        /// The ring names the target. The source has to release the slots: it answers nothing of them from then on. Until
        /// the map says that it did, the target serves nothing.
        case committed = 2
        /// The target has to activate the slots: it serves them from then on.
        case released = 3
        /// The source has to clean up.
        case activated = 4
        /// The source goes on serving, and both groups have to forget what they did for it.
        case aborting = 5
        /// Only a recovery begins it: some of what the groups or the map knew of slots on the move is lost, and it has settled
        /// whose they are. They are the target's, as that has them; the source has to delete what it has.
        case settling = 6
    }

    public var id: MigrationID
    /// Ascending; one at least.
    public var slots: [Slot]
    public var source: GroupID
    public var target: GroupID
    public var limits: MigrationLimits
    public var state: State
    /// Of the source's log: where these slots were frozen, and from `released` on, where they were released; 0 before.
    public var sourceIndex: LogIndex
    /// From `released` on: nobody was told of a higher one of the source for these slots; 0 before.
    public var sourceRevision: Revision
    /// Over all that the target has of the slots, as the source has it when they are frozen; 0 before.
    public var digest: UInt64
    /// While aborting: who has forgotten it. While settling: who has settled it.
    public var isSourceDone: Bool
    public var isTargetDone: Bool
    /// While aborting: why, if it is that.
    public var lostTime = LostTime.none

    public init(
        id: MigrationID, slots: [Slot], source: GroupID, target: GroupID,
        limits: MigrationLimits = MigrationLimits(), state: State = .copying,
        sourceIndex: LogIndex = .zero, sourceRevision: Revision = .zero, digest: UInt64 = 0, isSourceDone: Bool = false,
        isTargetDone: Bool = false
    ) {
        self.id = id
        self.slots = slots
        self.source = source
        self.target = target
        self.limits = limits
        self.state = state
        self.sourceIndex = sourceIndex
        self.sourceRevision = sourceRevision
        self.digest = digest
        self.isSourceDone = isSourceDone
        self.isTargetDone = isTargetDone
    }

    /// Whose slots they are by the ring.
    public var owner: GroupID { state == .copying || state == .aborting ? source : target }

    /// Nothing is decided yet: it can be aborted.
    public var canAbort: Bool { state == .copying }
}

extension MigrationRecord {
    public static let formatVersion: UInt16 = 1
    static let encodedBytesMin = 68
    /// Of one migration: what moves in one go should be little, so that writes wait shortly for its last round.
    public static let slotsMax = 4_096

    /// `version u16 = 1 | id u64 | source u32 | target u32 | limits | state u8 | source index u64 | source revision u64 | digest
    /// u64 | done u8 (bit 0: the source, bit 1: the target) | lost time u32, milliseconds | runs u32 | each: first u16, count
    /// u16`. The runs ascend, with a slot between them that is not among these.
    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(id)
        writer.write(source)
        writer.write(target)
        limits.encode(into: &writer)
        writer.write(state.rawValue)
        writer.write(sourceIndex)
        writer.write(sourceRevision)
        writer.write(digest)
        writer.write((isSourceDone ? 1 : 0) | (isTargetDone ? 2 : 0) as UInt8)
        lostTime.encode(into: &writer)
        writer.write(slots: slots)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let version = try reader.read(UInt16.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "a migration's record of version 1", found: "version \(version)")
        }
        id = try reader.read()
        source = try reader.read()
        target = try reader.read()
        limits = try MigrationLimits(from: &reader)
        let state = try reader.read(UInt8.self)
        guard let state = State(rawValue: state) else {
            throw DecodingFailure(expected: "a migration's state, 1 to 6", found: "\(state)")
        }
        self.state = state
        sourceIndex = try reader.read()
        sourceRevision = try reader.read()
        digest = try reader.read()
        let done = try reader.read(UInt8.self)
        guard done < 4 else { throw DecodingFailure(expected: "who is done, 0 to 3", found: "\(done)") }
        (isSourceDone, isTargetDone) = (done & 1 != 0, done & 2 != 0)
        lostTime = try LostTime(from: &reader)
        slots = try reader.readSlots()
    }
}

extension ByteWriter {
    /// Ascending slots, as runs: `runs u32 | each: first u16, count u16`.
    public mutating func write(slots: [Slot]) {
        var runs: [(first: UInt16, count: UInt16)] = []
        for slot in slots {
            if let last = runs.last, last.first &+ last.count == slot.rawValue {
                runs[runs.count - 1].count += 1
            } else {
                runs.append((slot.rawValue, 1))
            }
        }
        write(UInt32(runs.count))
        for run in runs {
            write(run.first)
            write(run.count)
        }
    }
}

extension ByteReader {
    /// Ascending slots of the ring, at least one and at most `MigrationRecord.slotsMax`, written as runs.
    public mutating func readSlots() throws(DecodingFailure) -> [Slot] {
        let count = Int(try read(UInt32.self))
        guard count > 0, count <= MigrationRecord.slotsMax else {
            throw DecodingFailure(expected: "1 to \(MigrationRecord.slotsMax) runs of slots", found: "\(count)")
        }
        try check(count: count, ofSize: 4)
        var slots: [Slot] = []
        for _ in 0..<count {
            let (first, count) = (Int(try read(UInt16.self)), Int(try read(UInt16.self)))
            // A run that only goes on where the last one ended is one with it: each list has one form.
            guard count > 0, first + count <= Slot.count, slots.last.map({ Int($0.rawValue) + 1 < first }) ?? true
            else {
                throw DecodingFailure(
                    expected: "a run of slots behind \(slots.last.map { "\($0)" } ?? "none")",
                    found: "\(count) from \(first)")
            }
            guard slots.count + count <= MigrationRecord.slotsMax else {
                throw DecodingFailure(
                    expected: "at most \(MigrationRecord.slotsMax) slots in one migration",
                    found: "\(slots.count + count)")
            }
            for slot in first..<first + count { slots.append(Slot(UInt16(slot))) }
        }
        return slots
    }
}

extension ClusterMap {
    /// Under way at a time.
    public static let migrationsMax = 1_024

    /// By binary search.
    public func migration(_ id: MigrationID) -> MigrationRecord? {
        let place = migrations.place { $0.id < id }
        return place < migrations.count && migrations[place].id == id ? migrations[place] : nil
    }

    /// Replaces the record of this id, or adds it.
    public mutating func replace(_ migration: MigrationRecord) {
        let place = migrations.place { $0.id < migration.id }
        migrations.replaceSubrange(
            place..<(place < migrations.count && migrations[place].id == migration.id ? place + 1 : place),
            with: [migration])
    }

    public mutating func removeMigration(_ id: MigrationID) { migrations.removeAll { $0.id == id } }

    /// The migration that a slot is part of; nil: none. Reads all migrations.
    public func migration(of slot: Slot) -> MigrationRecord? {
        migrations.first { migration in
            let place = migration.slots.place { $0 < slot }
            return place < migration.slots.count && migration.slots[place] == slot
        }
    }

    /// What is wrong with the migrations, in words; nil if nothing is.
    func problemOfMigrations() -> String? {
        guard migrations.count <= Self.migrationsMax else { return "more than \(Self.migrationsMax) migrations" }
        var isTaken = Array(repeating: false, count: migrations.isEmpty ? 0 : Slot.count)
        for (position, migration) in migrations.enumerated() {
            let id = migration.id
            guard position == 0 || migrations[position - 1].id < id else { return "migration \(id) is out of order" }
            guard id != .none, id.rawValue <= version else {
                return "migration \(id) is not between 1 and the map's version \(version)"
            }
            guard migration.source != migration.target, migration.source != .meta, migration.target != .meta,
                group(migration.source) != nil, group(migration.target) != nil
            else { return "migration \(id) goes from group \(migration.source) to \(migration.target), which can't be" }
            guard migration.sourceIndex.rawValue < Self.counterMax, migration.sourceRevision.rawValue < Self.counterMax
            else { return "the source's index or revision of migration \(id) is not below 2^62" }
            if let problem = migration.limits.problem { return problem }
            guard
                !migration.isSourceDone && !migration.isTargetDone || migration.state == .aborting
                    || migration.state == .settling
            else { return "migration \(id) is forgotten by one of its groups, though it is not aborted" }
            guard migration.lostTime == .none || migration.state == .aborting else {
                return "migration \(id) has lost time, though it is not aborted"
            }
            guard !migration.slots.isEmpty, migration.slots.count <= MigrationRecord.slotsMax else {
                return "migration \(id) has \(migration.slots.count) slots, not 1 to \(MigrationRecord.slotsMax)"
            }
            for (place, slot) in migration.slots.enumerated() {
                guard place == 0 || migration.slots[place - 1] < slot else {
                    return "slot \(slot) of migration \(id) is out of order"
                }
                guard owner(of: slot) == migration.owner else {
                    return "slot \(slot) of migration \(id) is not group \(migration.owner)'s"
                }
                guard !isTaken[Int(slot.rawValue)] else { return "slot \(slot) is in two migrations" }
                isTaken[Int(slot.rawValue)] = true
            }
        }
        return nil
    }
}
