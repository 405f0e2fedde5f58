// What must hold at every step, judged from outside: from what hosts ask of their disks, say to each other, and show
// between two turns. It keeps a model of every log, in memory and on disk, and of what each group has committed.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Storage

final class Invariants {
    // It owns this, and outlives it.
    unowned(unsafe) let cluster: SimulatedCluster
    private let world: SimulatedWorld
    // Unchecked, as in the models.
    @exclusivity(unchecked) private(set) var groups: [GroupModel] = []
    /// By the replica's number, which the planner counts from 1.
    @exclusivity(unchecked) private var models: [ReplicaModel?] = []
    /// Batches of a commit that was reported as failed, and the journal's sequence before it, by host.
    private var doubtful: [(batches: [JournalBatch], after: UInt64)]
    private var owners = SlotOwners()
    /// Who serves slots that moved; `.meta`: nobody just now.
    private var servers: [Slot: GroupID] = [:]
    /// By which groups' committed entries are known that have not been taken for done yet: one replica of each.
    private var unsettled: [ReplicaModel] = []
    private let firstMap: ClusterMap

    init(cluster: SimulatedCluster) {
        self.cluster = cluster
        world = cluster.world
        doubtful = Array(repeating: ([], 0), count: world.plan.hosts)
        firstMap = cluster.map
        learn(cluster.map)
    }

    /// Groups and replicas that a map names first.
    private func learn(_ map: ClusterMap) {
        for group in map.groups {
            while groups.count <= group.id.rawValue { groups.append(GroupModel()) }
            let model = groups[Int(group.id.rawValue)]
            for record in group.replicas {
                let host = Int(record.host.rawValue) - 1
                if let known = self.model(of: record.id) {
                    if known.group != group.id || known.host != host {
                        fail("ids are never used again", known, "the map has it on host \(record.host), in \(group.id)")
                    }
                    continue
                }
                let replica = ReplicaModel(group: group.id, replica: record.id, host: host)
                model.replicas.append(replica)
                while models.count <= record.id.rawValue { models.append(nil) }
                models[Int(record.id.rawValue)] = replica
            }
            if model.configurations.isEmpty { _ = model.place(of: Configuration(voters: group.founders)) }
        }
    }

    private func model(of replica: ReplicaID) -> ReplicaModel? {
        replica.rawValue < UInt64(models.count) ? models[Int(replica.rawValue)] : nil
    }

    private func fail(_ name: String, _ model: ReplicaModel, _ text: String) {
        world.fail(name, "group \(model.group), replica \(model.replica) on host \(model.host + 1): \(text)")
    }

    // MARK: Journal

    private func apply(_ batch: JournalBatch, isDurable: Bool) {
        for record in batch.records {
            guard let model = model(of: record.replica) else {
                world.fail("placement", "replica \(record.replica) is in no map")
                continue
            }
            apply(record, to: model, isDurable: isDurable)
        }
    }

    private func apply(_ record: JournalRecord, to model: ReplicaModel, isDurable: Bool) {
        if isDurable ? model.isGone : model.isBuried {
            // A host that went by an older map may have begun it again, and buries it again.
            if case .tombstone = record { return }
            return fail("what is removed is gone", model, "\(record) behind its tombstone")
        }
        switch record {
        case .append(_, _, let entries):
            guard let first = entries.first else { return }
            let kept = Int(first.index.rawValue) - 1
            let count = isDurable ? model.durable.marks.count : model.written.marks.count
            guard kept <= count else { return fail("log without gaps", model, "entry \(first.index) after \(count)") }
            if kept < count { cut(model, keeping: kept, isDurable: isDurable) }
            let group = groups[Int(model.group.rawValue)]
            if isDurable {
                for entry in entries {
                    // It was asked for before.
                    guard let mark = group.entries.mark(at: entry.index, of: entry.term) else {
                        return fail("log model", model, "entry \(entry.index) is durable, and nobody wrote it")
                    }
                    model.durable.marks.append(mark)
                }
            } else {
                for entry in entries {
                    if let migration = cluster.migration { migration.appended(entry, in: model.group) }
                    var configuration: Int?
                    if entry.kind == .configuration {
                        configuration = place(ofConfigurationIn: entry, group)
                        guard let configuration else {
                            return fail("members", model, "\(entry) names who is in no map")
                        }
                        if model.role == .leader {
                            cluster.changes(group.configurations[configuration], by: model)
                        }
                    }
                    let mark = EntryMark(entry, after: model.written.marks.last, configuration: configuration)
                    if let last = model.written.marks.last, mark.logTime < last.logTime {
                        return fail("log time never falls", model, "\(mark.logTime) after \(last.logTime) in its log")
                    }
                    model.written.marks.append(mark)
                    if !group.entries.insert(mark, at: entry.index) {
                        return fail(
                            "log matching", model,
                            "entry \(entry.index) of term \(entry.term), or one before it, is another than elsewhere")
                    }
                }
            }
        case .truncate(_, _, let from): cut(model, keeping: Int(from.rawValue) - 1, isDurable: isDurable)
        case .hardState(_, _, let state):
            let known = isDurable ? model.durable.hardState : model.written.hardState
            if state.term < known.term
                || state.term == known.term && known.vote != .none && state.vote != known.vote
            {
                fail("one vote per term", model, "\(state) after \(known)")
            }
            if isDurable { model.durable.hardState = state } else { model.written.hardState = state }
        case .base: fail("no lost disk", model, "\(record) is written though nothing was lost")
        case .tombstone: bury(model, isDurable: isDurable)
        }
    }

    private func place(ofConfigurationIn entry: LogEntry, _ group: GroupModel) -> Int? {
        var reader = ByteReader(entry.payload)
        guard let configuration = try? Configuration(from: &reader) else { return nil }
        if configuration.isJoint { world.mark(.membersChange) }
        return group.place(of: configuration)
    }

    /// Members of a group that was deleted go one by one, and with them what they had: nothing is owed any more.
    private func isWanted(_ group: GroupID) -> Bool { cluster.map.group(group) != nil }

    /// Nobody goes who still has a say: what he acknowledged would be gone with him.
    private func bury(_ model: ReplicaModel, isDurable: Bool) {
        if isDurable {
            model.isGone = true
            model.durable = LogModel()
            model.manifestIndex = .zero
            model.doubtfulManifest = nil
            return
        }
        world.mark(.replicaRemoved)
        model.isBuried = true
        model.buriedAt = world.now
        model.written = LogModel()
        let group = groups[Int(model.group.rawValue)]
        guard isWanted(model.group), !cluster.hosts[model.host].isRotten else { return }
        if group.committedConfiguration.counts(model) {
            fail(
                "who counts stays", model, "is deleted, and has a say in \(group.committedConfiguration.configuration)")
        }
        for leader in group.replicas
        where leader.role == .leader && leader.term == group.newestTerm
            && group.configuration(of: leader.written).counts(model)
        {
            fail(
                "who counts stays", model,
                "is deleted, and has a say in \(group.configuration(of: leader.written).configuration)")
        }
    }

    private func cut(_ model: ReplicaModel, keeping count: Int, isDurable: Bool) {
        world.mark(.logTruncated)
        guard !isDurable else { return model.durable.marks.removeSubrange(min(count, model.durable.marks.count)...) }
        model.written.marks.removeSubrange(min(count, model.written.marks.count)...)
        model.cutInTerm = model.written.hardState.term
        if model.cutInTerm == model.ledTerm {
            fail("leaders only append", model, "cuts its log behind \(count) in term \(model.ledTerm), which it leads")
        }
    }

    /// A host asks for a batch to be made durable.
    func asked(_ host: SimulatedHost, _ batch: JournalBatch) { apply(batch, isDurable: false) }

    /// Batches are durable.
    func committed(_ host: SimulatedHost, _ batches: [JournalBatch]) {
        for batch in batches { apply(batch, isDurable: true) }
    }

    /// - Parameter sequence: the journal's before.
    func perhapsCommitted(_ host: SimulatedHost, _ batches: [JournalBatch], after sequence: UInt64) {
        doubtful[host.place] = (batches, sequence)
    }

    func crashed(_ host: SimulatedHost) {
        for group in groups {
            for model in group.replicas where model.host == host.place { model.forgetProcess() }
        }
    }

    /// The journal was opened again: what was durable is there, and nothing else.
    func restarted(_ host: SimulatedHost, _ journal: Journal<SimulatedDisk>) {
        let logs = journal.recovered()
        let (batches, sequence) = doubtful[host.place]
        doubtful[host.place] = ([], 0)
        // Keys are never damaged, so this also tells of a rotten host.
        if !batches.isEmpty, journal.lastSequence > sequence {
            world.mark(.failedCommitWasThere)
            committed(host, batches)
        }
        for group in groups {
            for model in group.replicas where model.host == host.place {
                model.written = model.durable
                model.isBuried = model.isGone
                let log = logs.first { $0.replica == model.replica }
                let installed = max(model.installedIndex, model.doubtfulInstallation)
                // A damaged disk may have lost a later hard state: that replica is mute.
                if let log, installed > .zero, log.base == installed, log.last == log.base, !model.isGone,
                    !host.isRotten || log.hardState == model.durable.hardState
                {
                    model.installedIndex = installed
                    // The process ended between what is said below, in `restored`, and this.
                    beginBehindSnapshot(model, log.hardState)
                }
                if host.isRotten { continue }
                if log?.isTombstone ?? false != model.isGone {
                    fail("durable means durable", model, "its tombstone is \(model.isGone ? "gone" : "there")")
                }
                if model.isGone { continue }
                guard let log else {
                    if model.durable.last > .zero || model.durable.hardState.term > .zero {
                        fail("durable means durable", model, "its log is gone; it had \(model.durable.last)")
                    }
                    continue
                }
                if log.isDamaged { fail("durable means durable", model, "its log is damaged") }
                if log.last != model.durable.last || log.hardState != model.durable.hardState {
                    fail(
                        "durable means durable", model,
                        "it has \(log.last) and \(log.hardState) after a restart, not \(model.durable.last) and \(model.durable.hardState)"
                    )
                }
                for run in log.termRuns where model.durable.mark(at: run.first)?.term != run.term.rawValue {
                    fail("durable means durable", model, "entry \(run.first) has term \(run.term) after a restart")
                }
            }
        }
    }

    func restored(_ host: SimulatedHost, _ replica: RestoredReplica) {
        guard let model = model(of: replica.view.replica) else { return }
        // Behind a snapshot it begins anew though its process goes on.
        model.forgetProcess()
        model.isHere = true
        if let impairment = replica.plan.impairment {
            // Its host goes by an older map.
            if model.isGone { return }
            if !host.isRotten { fail("no lost disk", model, "impaired: \(impairment)") }
            if replica.plan.isMute { world.mark(.damageMadeMute) }
        }
        let header = replica.view.manifest.header
        if let doubtful = model.doubtfulManifest, header.index == doubtful.index {
            world.mark(.failedCheckpointWasThere)
            published(doubtful, of: model)
        }
        model.doubtfulManifest = nil
        if model.doubtfulInstallation > .zero, header.index == model.doubtfulInstallation {
            model.manifestIndex = header.index
            model.installedIndex = header.index
        }
        model.doubtfulInstallation = .zero
        if host.isRotten { model.manifestIndex = header.index }
        if header.index != model.manifestIndex {
            fail(
                "durable means durable", model,
                "its manifest is at \(header.index) after a restart, not \(model.manifestIndex)")
        }
        if model.installedIndex == header.index, !replica.plan.records.isEmpty {
            beginBehindSnapshot(model, replica.plan.start.hardState)
        }
        model.installedIndex = .zero
        for entry in replica.plan.start.entries
        where EntryMark.hash(of: entry) != model.durable.mark(at: entry.index)?.hash {
            fail("durable means durable", model, "entry \(entry.index) is another after a restart")
        }
        checkDigest(model, header.index, header.digest)
    }

    /// Its log is void, and begins anew behind a snapshot, whose entries are committed.
    private func beginBehindSnapshot(_ model: ReplicaModel, _ state: HardState) {
        let known = model.durable.hardState
        if state.term < known.term || state.term == known.term && state.vote != known.vote {
            fail("one vote per term", model, "\(state) behind a snapshot, after \(known)")
        }
        model.begunBehind = model.installedIndex
        let marks = Array(groups[Int(model.group.rawValue)].committed.prefix(Int(model.installedIndex.rawValue)))
        model.durable.marks = marks
        model.written.marks = marks
        model.durable.hardState = state
        model.written.hardState = state
    }

    // MARK: Store

    /// A checkpoint or a merge is durable.
    func published(_ host: SimulatedHost, _ manifest: Manifest) {
        guard let model = model(of: manifest.replica) else { return }
        published(manifest.header, of: model)
        if let doubtful = model.doubtfulManifest, doubtful.index == manifest.index { model.doubtfulManifest = nil }
    }

    /// Another host's state took the place of the replica's: it is of what is committed.
    func installed(_ host: SimulatedHost, _ manifest: Manifest) {
        guard let model = model(of: manifest.replica) else { return }
        let index = manifest.header.index
        if index < model.manifestIndex { fail("manifests only grow", model, "\(index) after \(model.manifestIndex)") }
        if index.rawValue > UInt64(groups[Int(model.group.rawValue)].committed.count) {
            fail("state machine safety", model, "a snapshot at \(index) of what is not committed")
        }
        model.manifestIndex = index
        model.installedIndex = index
        model.doubtfulInstallation = .zero
        checkDigest(model, index, manifest.header.digest)
        cluster.migration?.installed(manifest, at: host.place)
    }

    func perhapsInstalled(_ replica: ReplicaID, _ index: LogIndex) { model(of: replica)?.doubtfulInstallation = index }

    func perhapsPublished(_ host: SimulatedHost, _ header: ManifestHeader) {
        model(of: header.replica)?.doubtfulManifest = header
    }

    private func published(_ header: ManifestHeader, of model: ReplicaModel) {
        let index = header.index
        if index < model.manifestIndex { fail("manifests only grow", model, "\(index) after \(model.manifestIndex)") }
        if index > model.durable.last {
            fail(
                "checkpoints behind the journal", model,
                "checkpoint at \(index), the journal is durable up to \(model.durable.last)")
        }
        model.manifestIndex = index
        let committed = groups[Int(model.group.rawValue)].committed
        if index.rawValue > UInt64(committed.count) {
            fail("state machine safety", model, "checkpoint at \(index) of what is not committed")
        }
        checkDigest(model, index, header.digest)
    }

    func willTrim(_ host: SimulatedHost, _ superfluous: [(replica: ReplicaID, through: LogIndex)]) {
        for (replica, through) in superfluous {
            guard let model = model(of: replica), !model.isBuried else { continue }
            // A replica without its state has lost those entries before; it says so, and serves nothing.
            if through > model.manifestIndex, !host.isRotten {
                fail(
                    "journal kept", model,
                    "entries through \(through) are called superfluous, its manifest ends at \(model.manifestIndex)")
            }
            // A laggard gets a snapshot where that is so soon.
            let group = groups[Int(model.group.rawValue)]
            guard world.plan.settings.journalBytesForLaggards == .max, group.configurations.count == 1,
                through > model.begunBehind
            else { continue }
            for other in group.replicas
            where !other.isBuried && group.configurations[0].counts(other) && other.durable.last < through {
                fail(
                    "journal kept", model,
                    "entries through \(through) are called superfluous, replica \(other.replica) has \(other.durable.last)"
                )
            }
        }
    }

    func trimmed(_ host: SimulatedHost, _ journal: Journal<SimulatedDisk>) {
        for group in groups {
            for model in group.replicas where model.host == host.place && !model.isBuried {
                guard let log = journal.log(of: model.replica) else { continue }
                if log.base > model.manifestIndex, !host.isRotten {
                    fail(
                        "journal kept", model,
                        "its log begins after \(log.base), its manifest ends at \(model.manifestIndex)")
                }
            }
        }
    }

    // MARK: Messages

    /// What a host says to another: promises only of what is durable.
    func sent(_ host: SimulatedHost, _ payload: Bytes) {
        do throws(DecodingFailure) {
            var batch = try PeerBatchReader(payload)
            while let (_, message) = try batch.next() { check(message) }
        } catch {
            world.fail("wire", "host \(host.id) sends what can't be read: \(error)")
        }
    }

    private func check(_ message: RaftMessage) {
        guard let model = model(of: message.from) else { return }
        let state = model.durable.hardState
        switch message.kind {
        case .appendReply where !message.reject && message.term == state.term:
            if message.index > model.durable.last {
                fail(
                    "acknowledged is durable", model, "acknowledges \(message.index), \(model.durable.last) is durable")
            }
        case .voteReply where !message.reject:
            if state.term < message.term || state.term == message.term && state.vote != message.to {
                fail(
                    "acknowledged is durable", model,
                    "votes for \(message.to) in term \(message.term); durable is \(state)")
            }
        case .vote:
            if state.term < message.term || state.term == message.term && state.vote != message.from {
                fail("acknowledged is durable", model, "stands in term \(message.term); durable is \(state)")
            }
        case .appendReply, .heartbeatReply:
            if state.term < message.term {
                fail(
                    "acknowledged is durable", model,
                    "speaks of term \(message.term) in \(message.kind); durable is \(state)\(model.isGone ? ", it is gone" : "")"
                )
            }
        default: break
        }
    }

    // MARK: Answers

    /// A host answers a client's call by what stands in the log up to `index`: there and then all of it is durable on a
    /// majority, and the entry is the command's, if it was one.
    ///
    /// - Parameter answer: a hash of it.
    func answered(_ host: SimulatedHost, _ call: SimulatedCall, _ index: LogIndex, _ answer: UInt64) {
        // Leadership is handed over by no entry.
        if call.group == nil, call.answered != nil { return }
        let group = call.group.map { groups[Int($0.rawValue)] }
        let models = group?.replicas.filter { $0.host == host.place } ?? []
        // What a read finds on disk was decided on before the replica was removed, whether or not another one is to come
        // or is there by now. It was asked for before.
        if call.command == nil,
            models.contains(where: { $0.isHere && $0.isBuried && call.received <= $0.buriedAt })
        {
            return
        }
        guard let group, let model = models.last(where: { $0.isHere && !$0.isBuried }) else {
            return world.fail("placement", "host \(host.id) answers for a group that it has no replica of")
        }
        guard let mark = model.written.mark(at: index) else {
            // A read of a group where nothing was ever committed.
            if index == .zero, call.command == nil { return }
            return fail("answered is durable", model, "answers by entry \(index), which it does not have")
        }
        if !group.isDurable(mark, at: index), isWanted(model.group) {
            fail("answered is durable", model, "answers by entry \(index), which is durable on no majority")
        }
        guard let command = call.command else { return }
        if mark.command != EntryMark.command(of: command) {
            fail("answered is durable", model, "answers a command by entry \(index), which is another")
        }
        // What is about sessions themselves is said again at each attempt, and about the present.
        if case .other? = mark.call { return }
        if model.group != .meta, answer != group.answers[index.rawValue, default: answer] {
            fail("the same answer", model, "entry \(index) is answered in another way than before")
        }
        group.answers[index.rawValue] = answer
    }

    /// What a host gets is of a version that its own has.
    func received(_ host: SimulatedHost, _ payload: Bytes, from sender: HostID) {
        let known: UInt8 =
            host.featureLevel >= FeatureLevel.silence ? 3 : host.featureLevel >= FeatureLevel.membership ? 2 : 1
        let version = payload.isEmpty ? 0 : payload[0]
        if version > known {
            world.fail("wire", "host \(host.id) gets a batch of version \(version) from \(sender) and knows \(known)")
        }
    }

    // MARK: Maps

    /// A host goes by this map from now on.
    func adopted(_ host: SimulatedHost, _ map: ClusterMap) {
        if map.version > cluster.map.version {
            learn(map)
            if map.featureLevel < cluster.map.featureLevel {
                world.fail("levels only grow", "\(map.featureLevel) after \(cluster.map.featureLevel)")
            }
            if map.featureLevel > cluster.map.featureLevel, world.areFaultsOn { world.mark(.levelRaised) }
            for record in map.hosts {
                let known = cluster.hosts[cluster.place(of: record.id)].featureLevel
                if map.featureLevel > record.featureLevel || record.featureLevel > known {
                    world.fail(
                        "every host knows the cluster's level",
                        "\(map.featureLevel); host \(record.id) registers \(record.featureLevel) and knows \(known)")
                }
            }
        } else if map.version == cluster.map.version, map != cluster.map {
            world.fail("one map per version", "host \(host.id) has another one of version \(map.version)")
        }
        if let (slot, epoch, owner, other) = owners.insert(map.ring) {
            world.fail(
                "one owner per slot and epoch",
                "at host \(host.id) slot \(slot) belongs to group \(owner) at epoch \(epoch), before to group \(other)")
        }
    }

    // MARK: Replicas

    /// After a turn.
    func observe(_ host: SimulatedHost, _ core: HostCore) {
        core.inspectStepped { replica in
            guard let model = model(of: replica.replica) else { return }
            observe(replica, model, isRotten: host.isRotten)
        }
    }

    private func observe(_ replica: ReplicaInspection, _ model: ReplicaModel, isRotten: Bool) {
        if replica.statistics.surprises > 0 { fail("Raft's promises", model, "\(replica.statistics)") }
        if replica.isInstalling { return }
        if model.isGone || replica.isRemoving {
            if replica.role == .leader { fail("what is removed does not lead", model, "\(replica)") }
            model.role = .follower
            return
        }
        if replica.isImpaired || replica.isStopped, isRotten {
            if replica.role == .leader { fail("what is damaged does not lead", model, "\(replica)") }
            return
        }
        if replica.isStopped || replica.isImpaired { fail("no lost disk", model, "it stopped or is impaired") }
        if replica.term < model.term { fail("terms only grow", model, "\(replica.term) after \(model.term)") }
        if replica.commit < model.commit { fail("commits only grow", model, "\(replica.commit) after \(model.commit)") }
        if replica.applied < model.applied {
            fail("applied only grows", model, "\(replica.applied) after \(model.applied)")
        }
        if replica.base < model.base { fail("bases only grow", model, "\(replica.base) after \(model.base)") }
        if replica.manifestIndex > replica.applied || replica.applied > replica.commit || replica.commit > replica.last
            || replica.base > replica.manifestIndex || replica.stable > replica.last
            || replica.digestIndex != replica.applied
        {
            fail("base ≤ manifest ≤ applied ≤ commit ≤ last", model, "\(replica)")
        }
        if replica.last != model.written.last {
            fail("log model", model, "its log ends at \(replica.last), it wrote \(model.written.last)")
        }
        let configuration = groups[Int(model.group.rawValue)].configuration(of: model.written).configuration
        if replica.configurationIndex != configuration.index {
            fail(
                "the last configuration in the log counts", model,
                "goes by the one at \(replica.configurationIndex), its log has \(configuration)")
        }
        if replica.stable > model.durable.last {
            fail("acknowledged is durable", model, "stable \(replica.stable), durable \(model.durable.last)")
        }
        // Who leads anew begins where its log ends.
        if replica.logTime < model.logTime, replica.term == model.term, model.role == .leader {
            fail("log time never falls", model, "\(replica.logTime) after \(model.logTime)")
        }
        model.logTime = replica.logTime
        if replica.role == .leader, model.role != .leader || model.term != replica.term {
            elected(replica, model, groups[Int(model.group.rawValue)])
            model.commitWhenElected = replica.commit
        }
        if replica.role != .leader, model.role == .leader {
            world.note(
                "host %h: replica %b no longer leads group %c, in term %d", UInt64(model.host),
                replica.replica.rawValue,
                UInt64(replica.group.rawValue), replica.term.rawValue)
        }
        model.role = replica.role
        model.term = replica.term
        if replica.role == .leader {
            let newest = groups[Int(model.group.rawValue)].newestTerm
            // An answer to a heartbeat may come late.
            if replica.term < newest { checkLease(of: model, before: newest) }
        }
        model.base = replica.base
        if replica.commit > model.commit {
            commit(replica, model, groups[Int(model.group.rawValue)])
            model.commit = replica.commit
        }
        if replica.applied > model.applied {
            model.applied = replica.applied
            checkDigest(model, replica.digestIndex, replica.digest)
        }
    }

    /// Another replica leads a later term: this one must have no lease any more, whether it runs just now or not.
    private func checkLease(of model: ReplicaModel, before term: Term) {
        let host = cluster.hosts[model.host]
        guard host.isRunning, host.inspection(of: model.group)?.replica == model.replica else { return }
        let end = host.loop(of: model.group).core.leaseExpiry(of: model.group)
        let clock = host.clock.rawValue
        if end > clock {
            fail(
                "leases end before elections", model,
                "its lease of term \(model.term) lasts \((end - clock) / 1_000) µs longer, and term \(term) has a leader"
            )
        }
    }

    private func elected(_ replica: ReplicaInspection, _ model: ReplicaModel, _ group: GroupModel) {
        world.report.elections += 1
        if let other = group.leaders[replica.term.rawValue], other != replica.replica {
            fail("election safety", model, "leads term \(replica.term), and so does replica \(other)")
        }
        world.note(
            "host %h: replica %b leads group %c in term %d", UInt64(model.host), replica.replica.rawValue,
            UInt64(replica.group.rawValue), replica.term.rawValue)
        for other in group.replicas where other !== model && other.role == .leader {
            world.mark(.twoLeaders)
            if other.term < replica.term { checkLease(of: other, before: replica.term) }
        }
        group.newestTerm = max(group.newestTerm, replica.term)
        group.leaders[replica.term.rawValue] = replica.replica
        model.ledTerm = replica.term
        if model.cutInTerm == model.ledTerm {
            fail("leaders only append", model, "leads term \(replica.term), in which it cut its log")
        }
        // Of what earlier terms committed: an election may also be won late, when a later term has got on already.
        // Equal chains mean equal logs up to there.
        var place = group.committed.count - 1
        while place >= 0, group.committedIn[place] >= replica.term.rawValue { place -= 1 }
        guard place >= 0 else { return }
        if place >= model.written.marks.count || !model.written.marks[place].isSame(group.committed[place]) {
            fail("leader completeness", model, "leads term \(replica.term) without the committed entry \(place + 1)")
        }
    }

    private func commit(_ replica: ReplicaInspection, _ model: ReplicaModel, _ group: GroupModel) {
        let count = Int(replica.commit.rawValue)
        if replica.role == .leader, replica.commit > model.commitWhenElected,
            model.written.mark(at: replica.commit)?.term != replica.term.rawValue
        {
            fail(
                "a leader commits entries of its term", model,
                "\(replica.commit) in term \(replica.term), its entry is of another (Raft paper, figure 8)")
        }
        world.note(
            "host %h: group %c is committed up to %b", UInt64(model.host), replica.commit.rawValue,
            UInt64(model.group.rawValue))
        guard count <= model.written.marks.count else { return }
        var place = Int(model.commit.rawValue)
        while place < count {
            let mark = model.written.marks[place]
            if place < group.committed.count {
                if !group.committed[place].isSame(mark) {
                    fail(
                        "committed entries never change", model,
                        "entry \(place + 1) is another one than committed before")
                    return
                }
            } else {
                if !group.isDurable(mark, at: LogIndex(UInt64(place + 1))), isWanted(model.group) {
                    fail(
                        "committed on a durable majority", model,
                        "entry \(place + 1) is durable on no majority; \(describeConfigurations(model.group))")
                    return
                }
                // What other groups have released comes before this entry: it may activate that, and be applied already.
                guard model.group == .meta || settle() else { return }
                group.committed.append(mark)
                group.committedIn.append(replica.term.rawValue)
                // Two leaders may both bring the first map; clients' commands are all different.
                if model.group != .meta, group.takesEffect.count == place, !takeEffects(of: model, group) { return }
            }
            place += 1
        }
    }

    /// A migration's step. False: a rule is broken.
    private func take(
        _ step: MigrationStep, at logTime: LogTime, _ model: ReplicaModel, _ group: GroupModel
    ) -> Bool {
        switch group.slots.commit(step, at: logTime) {
        case .nothing, .begun: break
        case .released(let slots):
            world.mark(.slotsReleased)
            world.note(
                "group %c releases %a slots, migration %b", UInt64(slots.count), step.migration.rawValue,
                UInt64(model.group.rawValue))
            for slot in slots {
                guard servers[slot] ?? firstMap.owner(of: slot) == model.group else {
                    fail("one group serves a slot", model, "releases slot \(slot), which it does not serve")
                    return false
                }
                servers[slot] = .meta
            }
        case .activated(let slots):
            world.mark(.slotsActivated)
            world.note(
                "group %c activates %a slots, migration %b", UInt64(slots.count), step.migration.rawValue,
                UInt64(model.group.rawValue))
            for slot in slots {
                guard servers[slot] == .meta else {
                    fail("one group serves a slot", model, "activates slot \(slot), which another serves")
                    return false
                }
                servers[slot] = model.group
            }
        }
        return true
    }

    /// What committed entries do. Where slots move, and sessions hold something in them, which sessions end goes by what the
    /// models of objects say: those wait until some replica has applied the entry. False: a rule is broken.
    private func takeEffects(of model: ReplicaModel, _ group: GroupModel) -> Bool {
        while group.takesEffect.count < group.committed.count {
            let index = LogIndex(UInt64(group.takesEffect.count + 1))
            if let objects = objectsInMotion?.model(model.group), objects.last < index {
                if !unsettled.contains(where: { $0 === model }) { unsettled.append(model) }
                return true
            }
            guard takeEffect(group.committed[group.takesEffect.count], at: index, model, group) else { return false }
        }
        return true
    }

    /// The same for all groups that waited: what one group has released comes before what another one does with it.
    private func settle() -> Bool {
        guard !unsettled.isEmpty else { return true }
        let models = unsettled
        unsettled = []
        for model in models where !takeEffects(of: model, groups[Int(model.group.rawValue)]) { return false }
        return true
    }

    /// nil: no slots move, or nobody holds anything.
    private var objectsInMotion: DataTypeWorkload? {
        guard let objects = cluster.dataTypes, objects.slotsMove else { return nil }
        return objects
    }

    /// What a committed entry does, by the model of sessions. False: a rule is broken.
    private func takeEffect(_ mark: EntryMark, at index: LogIndex, _ model: ReplicaModel, _ group: GroupModel) -> Bool {
        var isDone = false
        if case .step(let step)? = mark.call {
            guard take(step, at: mark.logTime, model, group) else { return false }
            cluster.migration?.committed(step, at: index, in: model.group)
        }
        let isGated = mark.slot.map { group.slots.isGated($0) } ?? false
        let effect =
            objectsInMotion?.model(model.group).effect(at: index)
            ?? group.sessions.commit(mark, at: index, isGated: isGated)
        switch effect {
        case .done: isDone = true
        case .repeated: world.mark(.commandRepeated)
        case .void: world.mark(.sessionGone)
        case .none(let expired): if expired > 0 { world.mark(.sessionExpired) }
        }
        group.takesEffect.append(isDone)
        guard isDone else { return true }
        if let slot = mark.slot, let server = servers[slot] ?? firstMap.owner(of: slot), server != model.group {
            fail(
                "one group serves a slot", model,
                "entry \(index) takes effect in slot \(slot), which group \(server) serves")
            return false
        }
        // The client's own, and no operation.
        if case .takeOver? = mark.call {
            world.mark(.sessionTakenOver)
            return true
        }
        guard group.commands.insert(mark.command).inserted else {
            fail("at most once", model, "entry \(index) repeats a command")
            return false
        }
        return cluster.takesEffect(CommandName(group: model.group, hash: mark.command), at: index)
    }

    private func checkDigest(_ model: ReplicaModel, _ index: LogIndex, _ digest: UInt64) {
        let group = groups[Int(model.group.rawValue)]
        let place = Int(index.rawValue)
        if place == 0 { return }
        while group.digests.count <= place { group.digests.append(0) }
        if group.digests[place] == 0 {
            group.digests[place] = digest
        } else if group.digests[place] != digest {
            fail("state machine safety", model, "its digest at \(index) differs from another replica's")
        }
    }

    /// Whether the host's replica of the slot's group leads.
    func leads(_ host: HostID, _ slot: Slot) -> Bool {
        guard let owner = cluster.map.owner(of: slot) else { return false }
        let place = cluster.place(of: host)
        return groups[Int(owner.rawValue)].replicas.contains { $0.host == place && $0.role == .leader }
    }

    /// Who votes and learns by what is committed, and by what the leader has in its log.
    func describeConfigurations(_ group: GroupID) -> String {
        let model = groups[Int(group.rawValue)]
        var configurations = [model.committedConfiguration.configuration]
        if let leader = model.replicas.first(where: { $0.role == .leader && $0.term == model.newestTerm }) {
            configurations.append(model.configuration(of: leader.written).configuration)
        }
        if configurations.last == configurations.first { configurations.removeLast(configurations.count - 1) }
        return configurations.map {
            "at \($0.index) voters \($0.voters)\($0.isJoint ? " from \($0.outgoing)" : "") learners \($0.learners)"
        }.joined(separator: ", then ")
    }

    // MARK: At the end

    /// What took effect is what clients were told.
    func judgeAnswers() {
        guard settle() else { return }
        for (number, group) in groups.enumerated() where number != Int(GroupID.meta.rawValue) {
            for index in group.answers.keys.sorted()
            where index <= UInt64(group.takesEffect.count) && !group.takesEffect[Int(index) - 1] {
                world.fail("at most once", "group \(number): entry \(index) is answered, and has no effect")
                return
            }
        }
    }
}
