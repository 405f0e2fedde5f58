// A migration's target: fetches what the source has, round by round, asks it to freeze the slots when little is left, compares,
// and serves them when the map says that the source does not any more.

import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Storage

extension HostCore {
    /// A question that was not answered is asked again after so long. The first may come to a host that does not know of the
    /// migration yet, as maps go from host to host.
    private func askTicks(_ drive: MigrationDrive) -> UInt64 { drive.standing == nil ? 1 : max(1, secondTicks / 2) }
    /// More than a source gives.
    private static var pageBytesMax: Int { 3 << 20 }
    /// Rounds after which a migration that does not converge is given up.
    private static var roundsMax: Int { 24 }
    /// Answers of a source that is frozen whose times are looked at before nothing comes of it: one may have been on its way
    /// for long.
    private static var seenMax: Int { 3 }

    func driveTarget(_ drive: MigrationDrive, _ migration: MigrationRecord, _ map: ClusterMap) {
        let replica = drive.replica
        let task = replica.machine.ownership.task(migration.id)
        drive.wait = .map
        switch (migration.state, task?.phase) {
        case (.copying, nil):
            guard !hasForgotten(migration, replica) else { return }
            begin(drive, migration)
        case (.copying, .importing): if let task { copy(drive, task, migration) }
        case (.copying, .sealed): if let task { compare(drive, task, migration) }
        case (.committed, .sealed) where isPlanted("activated-before-release"), (.released, .sealed):
            guard let epoch = migration.slots.first.map({ map.ring.epoch(of: $0) }) else { return }
            propose(.activate(migration.id, epoch, migration.sourceRevision), drive)
        case (.released, nil) where hasForgotten(migration, replica):
            report(.migrationActivated(migration.id), drive)
        case (.aborting, nil) where hasForgotten(migration, replica):
            if !migration.isTargetDone { report(.migrationDone(migration.id, .target), drive) }
        case (.aborting, nil), (.aborting, .importing), (.aborting, .sealed):
            propose(.forget(migration.id, migration.slots), drive)
        case (.aborting, .dropping): clear(drive, migration)
        case (.settling, nil) where hasForgotten(migration, replica):
            if !migration.isTargetDone { report(.migrationDone(migration.id, .target), drive) }
        case (.settling, nil): settle(drive, migration, map, other: migration.source, owns: true)
        default: break
        }
    }

    private func begin(_ drive: MigrationDrive, _ migration: MigrationRecord) {
        guard let standing = drive.standing, standing.phase == .exporting || standing.phase == .frozen else {
            return ask(.howFar, drive, migration)
        }
        propose(
            .beginImport(
                migration.id, migration.slots, source: migration.source, sourceTime: standing.logTime), drive)
    }

    private func copy(_ drive: MigrationDrive, _ task: MigrationTask, _ migration: MigrationRecord) {
        // One that led the source once may have answered that it knows of nothing.
        guard let standing = drive.standing, standing.phase == .exporting || standing.phase == .frozen else {
            return ask(.howFar, drive, migration)
        }
        let progress = task.progress
        let isComplete = progress.next.isEmpty && progress.page > 0
        if isComplete, standing.phase == .frozen, progress.start >= standing.frozen {
            return seal(drive, task, standing, migration)
        }
        // While writers wait there is no other limit than what the source gives. Before that the last page's bytes are waited
        // for, too: whoever comes next begins with none.
        if standing.phase == .exporting, !drive.pace.mayFetch(at: now, migration.limits) {
            drive.wait = .pace
            return
        }
        if isComplete, standing.phase == .exporting, drive.rounds > 0,
            drive.lastRoundBytes <= settings.migrationLittleBytes,
            drive.pace.isShort(bytes: drive.lastRoundBytes, of: migration.limits)
        {
            ask(.freeze, drive, migration)
            drive.wait = .freeze
            return
        }
        guard drive.rounds < Self.roundsMax else {
            if drive.rounds == Self.roundsMax {
                drive.rounds += 1
                effects.notices.append(
                    "migration \(migration.id) does not converge: \(drive.lastRoundBytes) bytes changed in its last round"
                )
            }
            return report(.abortMigration(migration.id), drive)
        }
        drive.pace.asked(at: now)
        ask(
            progress.next.isEmpty
                ? .fetch(base: progress.start, start: .zero, next: Bytes())
                : .fetch(base: progress.base, start: progress.start, next: progress.next), drive, migration)
    }

    /// All is here. Where something ends, times of both logs tell whether nothing of it ends early.
    private func seal(
        _ drive: MigrationDrive, _ task: MigrationTask, _ standing: MigrationStanding, _ migration: MigrationRecord
    ) {
        guard let seen = drive.seen else { return ask(.howFar, drive, migration) }
        guard !task.keepsEnds(seen) else {
            return propose(.seal(migration.id, frozen: standing.frozen, standing.revision, seen: seen), drive)
        }
        // What the source's time has lost does not come back, but an answer that was late looks the same.
        guard drive.seenCount >= Self.seenMax else { return ask(.howFar, drive, migration) }
        let lost = LostTime(millis: task.clock.lostMillis(seen))
        if !drive.hasSaidLoss {
            drive.hasSaidLoss = true
            effects.notices.append(
                "migration \(migration.id) is called off: \(lost.words(of: migration.source)), and what ends in time "
                    + "would end early")
        }
        report(.abortMigration(migration.id, lost), drive)
    }

    /// - Parameter isLast: it answers the last question: what comes late, or twice, is not counted.
    private func note(_ standing: MigrationStanding, _ drive: MigrationDrive, isLast: Bool) {
        drive.standing = standing
        guard standing.phase == .frozen else { return }
        let replica = drive.replica
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        // The source's time is one that has passed for certain: as much as this one may be behind is in that.
        let seen = MigrationClock(sourceTime: standing.logTime, ownTime: replica.logTime.current)
        if isLast { drive.seenCount += 1 }
        if let best = drive.seen, !seen.isEarly(best) { return }
        drive.seen = seen
    }

    private func compare(_ drive: MigrationDrive, _ task: MigrationTask, _ migration: MigrationRecord) {
        if drive.sourceDigest == nil {
            ask(.compare(sourceTime: task.sourceTime, ownTime: task.ownTime), drive, migration)
        }
        if !drive.hasDigest {
            drive.wait = .digest
            guard !drive.isReading, tickCount >= drive.notBefore else { return }
            return read(
                drive, .digest(nil), MigrationRanges(slots: migration.slots, hasDeadlines: false), from: drive.walk)
        }
        guard let theirs = drive.sourceDigest else { return drive.wait = .digest }
        guard theirs == drive.digest.value || isPlanted("digests-not-compared") else {
            if drive.rounds <= Self.roundsMax {
                drive.rounds = Self.roundsMax + 1
                effects.notices.append(
                    "migration \(migration.id) is given up: group \(migration.target) has not what group "
                        + "\(migration.source) has")
            }
            return report(.abortMigration(migration.id), drive)
        }
        report(.commitMigration(migration.id, frozen: task.frozenIndex, digest: theirs), drive)
    }

    // MARK: Asking

    private func ask(_ kind: MigrationWord.Kind, _ drive: MigrationDrive, _ migration: MigrationRecord) {
        drive.wait = .source
        if let tick = drive.askedTick {
            guard tickCount - tick >= askTicks(drive) << min(drive.silences, 4) else { return }
            drive.silences += 1
            // Whoever leads it now: another one, as long as there is one. Writers may be waiting.
            drive.silent = drive.source ?? drive.silent
            drive.source = nil
        }
        guard tickCount >= drive.notBefore else { return }
        guard
            let source = drive.source ?? someHost(of: migration.source, but: drive.silent)
                ?? someHost(of: migration.source, but: nil)
        else { return }
        drive.source = source
        drive.asked += 1
        drive.askedTick = tickCount
        say(kind, to: migration.source, migration.id, drive.asked, on: source)
    }

    /// Who may lead a group: known here, or any.
    private func someHost(of group: GroupID, but silent: HostID?) -> HostID? {
        if let replica = replica(of: group), let leader = replica.host(of: replica.core.leader), leader != silent {
            return leader
        }
        guard let record = map?.group(group) else { return nil }
        let hosts = record.replicas.map(\.host).filter {
            $0 != silent && ($0 == host || peer($0)?.isConnected == true)
        }
        return hosts.isEmpty ? nil : hosts[Int(random.below(UInt64(hosts.count)))]
    }

    func answered(_ word: MigrationWord, by other: HostID) {
        guard let drive = drive(of: word.migration, .target), drive.replica.group == word.group,
            word.number > drive.askedBefore, word.number <= drive.asked, drive.replica.role == .leader,
            let migration = map?.migration(word.migration),
            map?.group(migration.source)?.replica(on: other) != nil
        else { return strayMessages += 1 }
        if word.number == drive.asked { drive.askedTick = nil }
        if case .refused(.notLeader, _) = word.kind {
            // One that is slow is not asked more often for that others name it.
        } else {
            drive.silences = 0
            drive.silent = nil
        }
        drive.source = other
        switch word.kind {
        case .standing(let standing):
            note(standing, drive, isLast: word.number == drive.asked)
            if standing.phase == nil { drive.notBefore = tickCount + 1 }
        case .page(let page): take(page, drive, migration)
        case .digest(let digest): drive.sourceDigest = digest
        case .refused(.deletionsForgotten, _):
            effects.notices.append(
                "migration \(migration.id) is given up: group \(migration.source) has forgotten deletions")
            report(.abortMigration(migration.id), drive)
            drive.notBefore = tickCount + secondTicks
        case .refused(.notLeader, let leader):
            drive.source = leader == HostID(0) || leader == other ? nil : leader
            drive.notBefore = tickCount + 1
        case .refused(.notNow, _): drive.notBefore = tickCount + 1
        case .howFar, .fetch, .freeze, .compare: break
        }
        driveMigrations(of: drive.replica)
    }

    private func take(_ page: MigrationPage, _ drive: MigrationDrive, _ migration: MigrationRecord) {
        // One that is under way is not applied yet: what comes twice is no other.
        guard drive.proposed == nil, let task = drive.replica.machine.ownership.task(migration.id),
            task.phase == .importing
        else { return }
        var page = page
        page.number = task.progress.page + 1
        guard task.progress.isContinued(by: page) else { return }
        // Nothing that would stop the group goes into its log, nor what does not fit into a frame.
        guard task.problem(of: page) == nil, page.bytes <= Self.pageBytesMax else {
            effects.notices.append(
                "migration \(migration.id) is given up: group \(migration.source) gives a page that can't be: "
                    + "\(task.problem(of: page) ?? "\(page.bytes) bytes")")
            return report(.abortMigration(migration.id), drive)
        }
        if task.progress.next.isEmpty { drive.roundBytes = 0 }
        drive.roundBytes += page.bytes
        counts.migrationBytesTaken += UInt64(page.bytes)
        drive.pace.took(page.bytes, at: now)
        propose(.page(migration.id, page), drive)
        // Of a page that is not proposed nothing is remembered: it is asked for again.
        guard drive.proposed != nil else { return }
        drive.takenBytes += UInt64(page.bytes)
        guard page.next.isEmpty else { return }
        drive.lastRoundBytes = drive.roundBytes
        drive.rounds += 1
        // The last round's last page: the source's slots do not change any more, and it can read them while the page and the
        // seal go into the log here, one behind the other. Its answer is looked at when the slots are sealed. If the times
        // turn out not to do for what the page brought, the seal is no step, and `copy` finds that.
        if let standing = drive.standing, standing.phase == .frozen, page.start >= standing.frozen {
            if let seen = drive.seen, settings.sealsWithLastPage {
                propose(
                    .seal(migration.id, frozen: standing.frozen, standing.revision, seen: seen), drive, isBehind: true)
            }
            ask(.compare(sourceTime: task.sourceTime, ownTime: task.ownTime), drive, migration)
        }
    }
}
