// A migration's source: gives what it has, freezes the slots when the target asks for it, releases them when the map has given
// them away, and deletes what is left.

import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

extension HostCore {
    func driveSource(_ drive: MigrationDrive, _ migration: MigrationRecord, _ map: ClusterMap) {
        let replica = drive.replica
        let task = replica.machine.ownership.task(migration.id)
        switch (migration.state, task?.phase) {
        case (.copying, nil):
            guard !hasForgotten(migration, replica) else { return }
            propose(.beginExport(migration.id, migration.slots, target: migration.target), drive)
        case (.copying, .frozen):
            if let asked = drive.freezeAsked {
                drive.freezeAsked = nil
                sayStanding(drive, to: asked.host, asked.number, migration)
            }
            compare(drive, migration)
            // The target does not come to an end, and writers wait.
            let since = drive.frozenSinceTick ?? tickCount
            drive.frozenSinceTick = since
            if tickCount - since >= secondTicks, isPlanted("source-opens-by-itself") {
                propose(.forget(migration.id, migration.slots), drive)
            }
            if tickCount - since >= frozenTicksMax { report(.abortMigration(migration.id), drive) }
        case (.committed, .frozen):
            guard let epoch = migration.slots.first.map({ map.ring.epoch(of: $0) }) else { return }
            propose(.release(migration.id, epoch), drive)
        case (.committed, .released):
            report(.migrationReleased(migration.id, replica.machine.applied, replica.machine.revision), drive)
        case (.activated, .released): clear(drive, migration)
        case (.activated, nil): report(.migrationDone(migration.id, .source), drive)
        case (.aborting, nil) where hasForgotten(migration, replica):
            if !migration.isSourceDone { report(.migrationDone(migration.id, .source), drive) }
        case (.aborting, nil), (.aborting, .exporting), (.aborting, .frozen):
            propose(.forget(migration.id, migration.slots), drive)
        case (.settling, nil) where hasForgotten(migration, replica):
            if !migration.isSourceDone { report(.migrationDone(migration.id, .source), drive) }
        case (.settling, nil):
            settle(drive, migration, map, other: migration.target, owns: false)
        case (.settling, .released): clear(drive, migration)
        default: break
        }
    }

    private var frozenTicksMax: UInt64 { 15 * secondTicks }
    /// For longer than a client that knows that slots move takes to say so.
    private var unawareTicksMax: UInt64 { 30 * secondTicks }

    /// Somebody who holds something in these slots and does not know that slots move. Said once in this host's log.
    private func unaware(of task: MigrationTask, _ drive: MigrationDrive) -> SessionID? {
        guard let (session, holding) = drive.replica.machine.sessions.unaware(of: task) else { return nil }
        if !drive.hasNamedUnaware {
            drive.hasNamedUnaware = true
            effects.notices.append(
                "migration \(task.id) waits: session \(session) holds '\(holding.name)' in slot "
                    + "\(holding.slot), and its client does not know that slots move; it is of an earlier version, or has to "
                    + "hear of the cluster's new feature level")
        }
        return session
    }

    func asked(_ word: MigrationWord, by other: HostID) {
        guard let replica = replica(of: word.group) else { return }
        func refuse(_ reason: MigrationRefusal) {
            guard let target = map?.migration(word.migration)?.target else { return }
            let leader = replica.host(of: replica.core.leader) ?? HostID(0)
            say(.refused(reason, leader: leader), to: target, word.migration, word.number, on: other)
        }
        guard let migration = map?.migration(word.migration), migration.source == word.group,
            map?.group(migration.target)?.replica(on: other) != nil
        else { return strayMessages += 1 }
        guard replica.role == .leader, replica.core.isEstablished else { return refuse(.notLeader) }
        driveMigrations()
        guard let drive = drive(of: migration.id, .source), drive.replica === replica else { return refuse(.notNow) }
        let task = replica.machine.ownership.task(migration.id)
        switch word.kind {
        case .howFar: sayStanding(drive, to: other, word.number, migration)
        case .freeze:
            guard migration.state == .copying, let task else { return refuse(.notNow) }
            if task.phase == .frozen { return sayStanding(drive, to: other, word.number, migration) }
            guard unaware(of: task, drive) == nil else {
                let since = drive.unawareSinceTick ?? tickCount
                drive.unawareSinceTick = since
                if tickCount - since >= unawareTicksMax { report(.abortMigration(migration.id), drive) }
                return refuse(.notNow)
            }
            drive.unawareSinceTick = nil
            drive.freezeAsked = (other, word.number)
            propose(.freeze(migration.id), drive)
        case .fetch(let base, let start, let next):
            guard let task, task.phase == .exporting || task.phase == .frozen else { return refuse(.notNow) }
            if start == .zero, next.isEmpty, task.phase == .exporting { noteRound(drive, behind: base, migration) }
            give(drive, task, migration, base: base, start: start, next: next, to: other, word.number)
        case .compare(let sourceTime, let ownTime):
            guard let task, task.phase == .frozen else { return refuse(.notNow) }
            // It came by something between the question for the freeze and that. Without the digest nothing is committed.
            guard unaware(of: task, drive) == nil else {
                report(.abortMigration(migration.id), drive)
                return refuse(.notNow)
            }
            drive.compareAsked = (other, word.number, MigrationClock(sourceTime: sourceTime, ownTime: ownTime))
            compare(drive, migration)
        case .standing, .page, .digest, .refused: break
        }
    }

    private func sayStanding(
        _ drive: MigrationDrive, to other: HostID, _ number: UInt64, _ migration: MigrationRecord
    ) {
        let replica = drive.replica
        let task = replica.machine.ownership.task(migration.id)
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let standing = MigrationStanding(
            phase: task?.phase, frozen: task?.frozenIndex ?? .zero, revision: task?.revision ?? .zero,
            // No later than it is for certain: the target's own time, when it begins to count, may be behind by as much.
            logTime: replica.logTime.certain)
        say(.standing(standing), to: migration.target, migration.id, number, on: other)
    }

    // MARK: Pages

    private func give(
        _ drive: MigrationDrive, _ task: MigrationTask, _ migration: MigrationRecord, base: LogIndex, start: LogIndex,
        next: Bytes, to other: HostID, _ number: UInt64
    ) {
        func refuse(_ reason: MigrationRefusal) {
            say(.refused(reason, leader: host), to: migration.target, migration.id, number, on: other)
        }
        let replica = drive.replica
        let applied = replica.core.appliedIndex
        // Another leader may have been further.
        guard applied >= max(start, base), applied >= task.begun else { return refuse(.notNow) }
        guard !drive.isReading else { return refuse(.notNow) }
        guard base == .zero || replica.view.manifest.horizon <= base else {
            return refuse(.deletionsForgotten)
        }
        // Writers wait for what comes behind the freeze: it counts, and does not wait for the next tick.
        guard migrationBytesLeft > 0 || task.phase == .frozen else { return refuse(.notNow) }
        migrationBytesLeft -= settings.migrationPageBytes
        let place = next.isEmpty ? nil : try? RecordPosition(decoding: next)
        let asked = MigrationPageAsked(
            host: other, number: number, base: base, start: start == .zero ? applied : start, from: next,
            revision: replica.machine.revision, isFrozen: task.phase == .frozen)
        if let place, place.slot == .group, place.machine == .sessions {
            // All but holders was given.
            return send(drive, asked, task, MigrationPage(asked, next: Bytes()), behind: place, migration)
        }
        read(
            drive, .page(asked), MigrationRanges(slots: task.slots, hasDeadlines: true),
            from: place.map { RecordKey(slot: $0.slot, machine: $0.machine, key: $0.key) }, base: base)
    }

    /// It was read.
    func give(_ drive: MigrationDrive, _ asked: MigrationPageAsked, _ result: MigrationReadResult) {
        guard let task = drive.replica.machine.ownership.task(drive.id), let migration = map?.migration(drive.id) else {
            return
        }
        var page = MigrationPage(
            asked,
            next: result.next.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key).encoded() }
                ?? Bytes())
        for record in result.records {
            let place = RecordPosition(slot: record.key.slot, machine: record.key.machine, key: record.key.key)
            guard record.key.slot == .group else {
                page.records.append(
                    MigrationPage.Record(
                        place: place, revision: record.revision, expiry: record.expiry, value: record.value))
                continue
            }
            guard let key = try? DeadlineKey(key: record.key.key) else { continue }
            guard let value = record.value else {
                page.dues.append(MigrationPage.Due(key: key, value: nil))
                continue
            }
            guard let deadline = try? Deadline(key: record.key.key, value: value), !deadline.endsARecord,
                let slot = deadline.slot, task.has(slot)
            else { continue }
            page.dues.append(MigrationPage.Due(key: key, value: value))
        }
        counts.migrationBytesGiven += UInt64(page.bytes)
        drive.brake.give(page.bytes)
        guard asked.isFrozen, result.next == nil else {
            return say(.page(page), to: migration.target, migration.id, asked.number, on: asked.host)
        }
        send(drive, asked, task, page, behind: nil, migration)
    }

    /// With as many of those that hold something as fit: they are the last that comes.
    private func send(
        _ drive: MigrationDrive, _ asked: MigrationPageAsked, _ task: MigrationTask, _ page: MigrationPage,
        behind place: RecordPosition?, _ migration: MigrationRecord
    ) {
        var page = page
        let (holders, next) = drive.replica.machine.sessions.holders(
            in: task, behind: place?.key, bytesMax: max(settings.migrationPageBytes - page.bytes, 1))
        page.holders = holders
        if let next { page.next = RecordPosition(slot: .group, machine: .sessions, key: next).encoded() }
        say(.page(page), to: migration.target, migration.id, asked.number, on: asked.host)
    }

    // MARK: Digest

    private func compare(_ drive: MigrationDrive, _ migration: MigrationRecord) {
        guard let asked = drive.compareAsked, !drive.isReading, tickCount >= drive.notBefore else { return }
        // Frozen slots do not change: who asks again goes on where he was.
        if drive.digestClock != asked.clock {
            drive.digestClock = asked.clock
            drive.digest = MigrationDigest()
            drive.hasDigest = false
            drive.walk = nil
        }
        guard drive.hasDigest else {
            return read(
                drive, .digest(asked.clock), MigrationRanges(slots: migration.slots, hasDeadlines: false),
                from: drive.walk)
        }
        drive.compareAsked = nil
        say(.digest(drive.digest.value), to: migration.target, migration.id, asked.number, on: asked.host)
    }
}

extension MigrationPage {
    init(_ asked: MigrationPageAsked, next: Bytes) {
        self.init(
            number: 0, base: asked.base, start: asked.start, from: asked.from, next: next, revision: asked.revision)
    }

    var bytes: Int {
        records.reduce(0) { $0 + $1.place.key.count + ($1.value?.count ?? 0) }
            + dues.reduce(0) { $0 + 32 + ($1.value?.count ?? 0) }
            + holders.reduce(0) { $1.holdings.reduce($0 + 18) { $0 + 8 + $1.name.count } }
    }
}
