// Moves of slots: the leaders of both groups carry out what the map says of each migration, and report what has come about;
// the meta group decides (Ring/MigrationRecord.swift), the groups' own machines know how far they are (StateMachines/
// SlotOwnership.swift). Whoever comes to lead goes on from there: nothing that matters is kept here. What a source does is in
// HostCore+MigrationSource.swift, what a target does in HostCore+MigrationTarget.swift.
//
//     source                            meta                           target
//     beginExport                       copying                        beginImport
//        │   ◄────────── fetch ────────────────────────────────────────── page, page, …, round after round
//     freeze ◄────────── freeze ─────────────────────────────────────────  little is left
//        │   ◄────────── fetch, compare ──────────────────────────────────  the last round; seal
//        │                              committed ◄────────────────────── the digests are equal
//     release ──────────────────────►   released
//        │                                 └──────────────────────────►  activate
//     clear, cleared ◄────────────────  activated ◄───────────────────────┘
//        └──────────────────────────►   gone

import Messages
package import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

/// What the leader of one of a migration's groups is at.
final class MigrationDrive {
    let id: MigrationID
    let replica: Replica
    let side: MigrationSide
    /// Of this leadership: what was asked before it is not gone on with.
    let term: Term
    /// Its last command, until it is applied.
    var proposed: LogIndex?
    /// Of the group's task when it was looked at last: gates change with it.
    var phase: MigrationTask.Phase?
    /// The last report and the map's version then: said again while that is so.
    var saidTick: UInt64?
    var saidVersion: UInt64 = 0
    /// Of the last read: what another one brings is not taken.
    var number: UInt64
    /// Of the last question to the source, and before the first; whoever is answered late may be answered all the same.
    var asked: UInt64
    let askedBefore: UInt64
    var askedTick: UInt64?
    /// Questions without an answer, one after the other.
    var silences: UInt64 = 0
    var isReading = false
    /// A digest's walk through all records goes on here, and that of who deletes them.
    var walk: RecordKey?
    var clearingWalk: RecordKey?
    /// The latter has found something, so that another one has to follow.
    var hasFound = false

    // A source.
    var brake = WriterBrake()
    var frozenSinceTick: UInt64?
    var hasEndedWatches = false
    /// Since when somebody holds something who does not know that slots move, and whether this host's log says who.
    var unawareSinceTick: UInt64?
    var hasNamedUnaware = false
    /// Who waits for what.
    var freezeAsked: (host: HostID, number: UInt64)?
    /// Who waits for a digest, and how far that is.
    var compareAsked: (host: HostID, number: UInt64, clock: MigrationClock)?
    var digest = MigrationDigest()
    var digestClock: MigrationClock?

    // A target.
    /// The source's leader is there, as far as is known.
    var source: HostID?
    /// It did not answer when it was asked last.
    var silent: HostID?
    var standing: MigrationStanding?
    /// Of a source that is frozen: what both logs' times were, by that of its answers by which the least was lost; and how
    /// many answers said that it is.
    var seen: MigrationClock?
    var seenCount = 0
    /// That nothing comes of it for that, in this host's log.
    var hasSaidLoss = false
    var hasDigest = false
    var sourceDigest: UInt64?
    /// Of this round so far, and of the one before.
    var roundBytes = 0
    var lastRoundBytes = Int.max
    var rounds = 0
    var notBefore: UInt64 = 0
    var pace = MigrationPace()
    /// Of pages that this leadership put into its log.
    var takenBytes: UInt64 = 0
    /// What a target waits for; of a source nobody is told.
    var wait = MigrationWait.nothing

    init(_ id: MigrationID, _ replica: Replica, _ side: MigrationSide, number: UInt64) {
        self.id = id
        self.replica = replica
        self.side = side
        term = replica.core.term
        self.number = number
        asked = number
        askedBefore = number
    }
}

extension HostCore {
    /// Each tick, and whenever something happened to one of them.
    func driveMigrations() {
        areMigrationsDue = false
        guard let map, !map.migrations.isEmpty || !drives.isEmpty else { return }
        for migration in map.migrations {
            if loop.owns(migration.source) { drive(migration, .source, map) }
            if loop.owns(migration.target) { drive(migration, .target, map) }
        }
        // What is over, and what this host leads no more.
        drives.removeAll { drive in
            let isOver =
                map.migration(drive.id) == nil || drive.replica.role != .leader || drive.replica.core.term != drive.term
            if isOver { drive.replica.drives -= 1 }
            return isOver
        }
    }

    /// Something was applied that may be the next step's turn.
    func driveMigrations(of replica: Replica) {
        guard let map else { return }
        for drive in drives where drive.replica === replica {
            if let migration = map.migration(drive.id) { self.drive(migration, drive.side, map) }
        }
    }

    func drive(of id: MigrationID, _ side: MigrationSide) -> MigrationDrive? {
        drives.first { $0.id == id && $0.side == side }
    }

    private func drive(_ migration: MigrationRecord, _ side: MigrationSide, _ map: ClusterMap) {
        let group = side == .source ? migration.source : migration.target
        guard let replica = replica(of: group), replica.role == .leader, replica.core.isEstablished,
            replica.impairment == nil, replica.stopped == nil
        else { return }
        let drive: MigrationDrive
        if let known = self.drive(of: migration.id, side), known.replica === replica, known.term == replica.core.term {
            drive = known
        } else {
            drives.removeAll {
                guard $0.id == migration.id, $0.side == side else { return false }
                $0.replica.drives -= 1
                return true
            }
            drive = MigrationDrive(migration.id, replica, side, number: random.next() >> 2)
            drives.append(drive)
            replica.drives += 1
        }
        // Nothing that may not be applied yet is decided on. Where there is something it is looked at again when that is
        // applied, as the replica has a drive now.
        guard replica.core.appliedIndex >= replica.core.commit else { return }
        let phase = replica.machine.ownership.task(migration.id)?.phase
        if phase != drive.phase {
            drive.phase = phase
            lookAtGates(of: replica)
        }
        if let index = drive.proposed {
            guard replica.core.appliedIndex >= index else { return }
            drive.proposed = nil
        }
        if side == .source, replica.machine.ownership.task(migration.id)?.phase == .released, !drive.hasEndedWatches {
            drive.hasEndedWatches = true
            endWatchesOfGone(replica)
        }
        if side == .source { driveSource(drive, migration, map) } else { driveTarget(drive, migration, map) }
    }

    // MARK: Both

    /// The group never begins what this migration asks for, or has ended it.
    func hasForgotten(_ migration: MigrationRecord, _ replica: Replica) -> Bool {
        replica.machine.ownership.task(migration.id) == nil
            && replica.machine.ownership.hasSeen(migration.id, migration.slots)
    }

    /// What a recovery has settled: see `MigrationRecord.State.settling`.
    func settle(
        _ drive: MigrationDrive, _ migration: MigrationRecord, _ map: ClusterMap, other: GroupID, owns: Bool
    ) {
        guard let epoch = migration.slots.first.map({ map.ring.epoch(of: $0) }) else { return }
        propose(.settle(migration.id, migration.slots, other: other, epoch, owns: owns), drive)
    }

    /// - Parameter isBehind: whatever of this migration is under way, which the log has before it.
    func propose(_ command: SlotCommand, _ drive: MigrationDrive, isBehind: Bool = false) {
        let replica = drive.replica
        guard isBehind || drive.proposed == nil else { return }
        switch command {
        // They bring data in. The rest is little, and makes room in the end.
        case .page, .beginImport: guard !turnsSessionsDown(replica) else { return }
        default: break
        }
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let outcome = replica.core.propose(
            kind: .command, payload: command.payload(), logTime: replica.logTime.current)
        if case .accepted(let index, _) = outcome { drive.proposed = index }
        markReady(replica)
    }

    /// A command that another leader has proposed before, or this one: as those that come late, and twice. For simulations.
    package func proposeAgain(_ payload: Bytes, in group: GroupID) {
        guard let replica = replica(of: group), replica.role == .leader, replica.core.isEstablished else { return }
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        _ = replica.core.propose(kind: .command, payload: payload, logTime: replica.logTime.current)
        markReady(replica)
    }

    /// Until the map shows it.
    func report(_ change: MapChange, _ drive: MigrationDrive) {
        let version = map?.version ?? 0
        if let tick = drive.saidTick, drive.saidVersion == version, tickCount - tick < secondTicks { return }
        drive.saidTick = tickCount
        drive.saidVersion = version
        report(change)
    }

    /// Deletes what the group has of the slots: records, and what is due there. A leader names them, as it finds them.
    func clear(_ drive: MigrationDrive, _ migration: MigrationRecord) {
        guard !drive.isReading, drive.proposed == nil else { return }
        read(drive, .clearing, MigrationRanges(slots: migration.slots, hasDeadlines: true), from: drive.clearingWalk)
    }

    private func cleared(_ drive: MigrationDrive, _ result: MigrationReadResult) {
        let replica = drive.replica
        guard let task = replica.machine.ownership.task(drive.id), task.isClearing else { return }
        let places = result.records.compactMap { record -> RecordPosition? in
            let place = RecordPosition(slot: record.key.slot, machine: record.key.machine, key: record.key.key)
            guard record.key.slot == .group else { return place }
            // What ends a record finds none. What is to be applied, or swept, must not be when the slot comes back.
            guard let deadline = try? Deadline(key: record.key.key, value: record.value ?? Bytes()),
                !deadline.endsARecord, let slot = deadline.slot, task.has(slot)
            else { return nil }
            return place
        }
        if !places.isEmpty {
            drive.hasFound = true
            propose(.clear(drive.id, Array(places.prefix(SlotCommand.clearedMax))), drive)
            // What was not proposed is found by the next walk.
        }
        drive.clearingWalk = result.next
        guard result.next == nil else { return }
        // A walk that finds nothing ends it.
        if !drive.hasFound { propose(.cleared(drive.id), drive) }
        drive.hasFound = false
    }

    // MARK: Reading

    func read(
        _ drive: MigrationDrive, _ purpose: MigrationRead.Purpose, _ ranges: MigrationRanges, from: RecordKey?,
        base: LogIndex = .zero
    ) {
        let replica = drive.replica
        let (all, rest) = ranges.ranges(from: from)
        drive.number += 1
        drive.isReading = true
        let isDigest = if case .digest = purpose { true } else { false }
        var read = MigrationRead(
            group: replica.group, replica: replica.id, migration: drive.id, number: drive.number, purpose: purpose,
            pieces: [], rest: rest, base: base,
            recordsMax: isDigest ? settings.migrationDigestRecords : settings.migrationPageRecords,
            bytesMax: isDigest ? settings.migrationDigestBytes : settings.migrationPageBytes, view: replica.coldView)
        var bytesLeft = read.bytesMax
        for range in all {
            guard bytesLeft > 0 else {
                read.rest = range.from
                break
            }
            let live = replica.memtable.page(
                from: range.from, end: range.end, recordsMax: read.recordsMax, bytesMax: read.bytesMax)
            bytesLeft -= live.keyAndValueBytes
            read.pieces.append(MigrationRead.Piece(from: range.from, end: range.end, live: live))
        }
        effects.migrationReads.append(read)
    }

    /// A `MigrationRead` has ended.
    public func migrationRead(_ result: MigrationReadResult) {
        guard let drive = reading(result.read) else { return }
        drive.isReading = false
        guard drive.replica.role == .leader, drive.replica.core.term == drive.term else { return }
        switch result.read.purpose {
        case .clearing: cleared(drive, result)
        case .page(let asked): give(drive, asked, result)
        case .digest:
            drive.digest.add(result.digest)
            drive.walk = result.next
            if result.next == nil { drive.hasDigest = true }
        }
        driveMigrations(of: drive.replica)
        markReady(drive.replica)
    }

    /// It could not be read: it is tried again.
    public func migrationUnread(_ read: MigrationRead) {
        guard let drive = reading(read) else { return }
        drive.isReading = false
        drive.notBefore = tickCount + secondTicks
    }

    private func reading(_ read: MigrationRead) -> MigrationDrive? {
        drives.first {
            $0.id == read.migration && $0.replica.id == read.replica && $0.isReading && $0.number == read.number
        }
    }

    // MARK: Words

    func say(_ kind: MigrationWord.Kind, to group: GroupID, _ id: MigrationID, _ number: UInt64, on other: HostID) {
        let word = MigrationWord(to: group, id, number, kind)
        if other == host {
            guard loop.owns(group) else {
                return effects.loopMessages.append(
                    (LoopPlace.owner(of: group, loops: loop.count), LoopMessage(kind: .migration(word, from: host))))
            }
            // In another turn: whoever hears it may say something at once.
            migrationWords.append(word)
            return
        }
        guard let peer = peer(other), peer.isConnected, peer.isBulkConnected, peer.knowsMigrations else { return }
        let bytes: Int
        if case .page(let page) = kind {
            bytes = 1_024 + 64 * page.records.count + page.bytes
        } else {
            bytes = 64
        }
        // Pages are large; the rest is what writers wait for.
        write(to: peer, over: bytes > 4_096 ? .bulk : .consensus, bytes: bytes) { $0.append(.migration(word)) }
    }

    func receive(_ word: MigrationWord, from other: HostID) {
        switch word.kind {
        case .howFar, .fetch, .freeze, .compare: asked(word, by: other)
        case .standing, .page, .digest, .refused: answered(word, by: other)
        }
    }

    /// What groups of this loop say to each other.
    func hearOwnMigrations() {
        guard !migrationWords.isEmpty else { return }
        let words = migrationWords
        migrationWords = []
        for word in words { receive(word, from: host) }
    }
}

extension HostCore {
    func tickMigrations() {
        let perSecond = settings.migrationBytesPerSecond
        migrationBytesLeft = min(migrationBytesLeft + max(perSecond / Int(secondTicks), 1), perSecond)
        driveMigrations()
    }
}
