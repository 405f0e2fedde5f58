// What keeps the cluster's map and the groups together: newer maps go to all hosts, reports of what has come about go to
// the meta group's leader, and that one begins the next steps of moves. People's commands for the meta group come in here
// too. What a command does is the meta machine's affair, what is to be moved the planner's.

import Messages
public import Primitives
import RaftCore
import Ring
public import StateMachines

extension HostCore {
    /// This host leads the meta group, and knows the newest map.
    var isMetaLeader: Bool {
        guard loop.isFirst, let replica = replica(of: .meta) else { return false }
        return replica.role == .leader && replica.core.isEstablished
    }

    func tickMeta() {
        guard loop.isFirst else { return }
        // A move has several steps, and each is a change of the map: the next follows soon.
        let period = max(secondTicks / Self.stepsPerSecond, 1)
        if tickCount % period == 0 { planMoves() }
        if tickCount % period == period / 2 { driveRebalancing() }
        guard tickCount % secondTicks == 0 else { return }
        askForMachines()
        spreadMap()
        renewLevels()
        keepBalance()
    }

    private static var stepsPerSecond: UInt64 { 5 }

    // MARK: Maps

    /// The meta group's leader tells hosts at once that have an older map; others wait whether it does.
    private func spreadMap() {
        guard let map else { return }
        for peer in peers {
            guard peer.isConnected, peer.isBulkConnected, peer.knowsMembership, let known = peer.mapVersion,
                known < map.version
            else {
                peer.olderMapSeconds = 0
                continue
            }
            peer.olderMapSeconds += 1
            guard isMetaLeader || peer.olderMapSeconds > 2 else { continue }
            write(to: peer, over: .bulk, bytes: 64 * map.groups.count) { $0.append(.map(map)) }
        }
    }

    func receive(_ word: ClusterWord, from host: HostID) {
        switch word {
        case .map(let newer): adopt(newer)
        case .report(let payload): receiveReport(payload, from: host)
        case .machines(let commands, let asks):
            machinesTold(commands, by: host)
            tell(.machines(commands, of: host))
            if asks, let peer = peer(host) { tellMachines(to: peer, asks: false) }
        case .digest(let word): receive(word, from: host)
        case .migration(let word): receive(word, from: host)
        case .load(let word): receive(word, from: host)
        case .unknown: strayMessages += 1
        }
    }

    // MARK: Reports

    /// Tells whoever leads the meta group. Nothing is lost if nobody hears it: it is said again as long as it is so.
    func report(_ change: MapChange) {
        guard let meta = map?.group(.meta) else { return }
        let payload = MetaCommand.change(change).payload()
        for member in meta.replicas {
            if member.host == host {
                guard !loop.isFirst else { receiveReport(payload, from: host); continue }
                effects.loopMessages.append((0, LoopMessage(kind: .report(payload))))
            } else if let peer = peer(member.host), peer.isConnected, peer.knowsMembership {
                write(to: peer, over: .consensus, bytes: payload.count) { $0.append(.report(payload)) }
            }
        }
    }

    /// On loop 0. Who does not lead the meta group leaves it to the one who does.
    func receiveReport(_ payload: Bytes, from reporter: HostID) {
        guard isMetaLeader, let replica = replica(of: .meta), let map = replica.machine.meta.map,
            let command = try? MetaCommand(payload: payload), case .change(let change, _) = command
        else { return }
        let group: GroupID
        switch change {
        case .settled(let its, _, _, _): group = its
        case .replaceReplica(let its, let lost):
            // Of its own replicas only.
            guard map.group(its)?.host(of: lost) == reporter else { return }
            group = its
        case .commitMigration, .migrationReleased, .migrationActivated, .abortMigration, .migrationDone:
            return receiveReport(change, payload, map, replica, from: reporter)
        default:
            strayMessages += 1
            return
        }
        // Said again and again until the map shows it: one proposal is enough.
        if let tick = reportTicks[group], tickCount - tick < 2 * secondTicks { return }
        guard replica.machine.meta.isChanged(by: change) else { return }
        reportTicks[group] = tickCount
        _ = propose(payload, to: replica)
    }

    /// Of a migration: writers wait for it, so it goes into the log at once, and once.
    private func receiveReport(
        _ change: MapChange, _ payload: Bytes, _ map: ClusterMap, _ replica: Replica, from reporter: HostID
    ) {
        guard let (id, sides) = change.migrationReported, let migration = map.migration(id),
            sides.contains(where: {
                map.group($0 == .source ? migration.source : migration.target)?.replica(on: reporter) != nil
            })
        else { return }
        if let known = migrationReports[id], known.change == change, tickCount - known.tick < 2 * secondTicks { return }
        guard change.refusal(by: map) == nil, replica.machine.meta.isChanged(by: change) else { return }
        migrationReports[id] = (change, tickCount)
        if migrationReports.count > 2 * ClusterMap.migrationsMax {
            migrationReports = migrationReports.filter { map.migration($0.key) != nil }
        }
        _ = propose(payload, to: replica)
    }

    /// Those that take part in what changed hear of it at once: writers wait for what they do next.
    func spreadMigrations(_ map: ClusterMap, before older: ClusterMap?) {
        guard isMetaLeader else { return }
        var groups: Set<GroupID> = []
        for migration in map.migrations where older?.migration(migration.id) != migration {
            groups.insert(migration.source)
            groups.insert(migration.target)
        }
        for peer in peers {
            guard peer.isConnected, peer.isBulkConnected, peer.knowsMigrations, peer.mapVersion ?? 0 < map.version,
                map.groups.contains(where: { groups.contains($0.id) && $0.replica(on: peer.host) != nil })
            else { continue }
            write(to: peer, over: .bulk, bytes: 64 * map.groups.count) { $0.append(.map(map)) }
        }
    }

    // MARK: Feature levels

    /// Records that are renewed in one second.
    private static var renewalsMax: Int { 16 }

    /// A host that was started with a newer version says so in every handshake. Where its record has less, who leads the
    /// meta group writes it down: until it stands there, and nothing afterwards. All else of a record stays as it is, also
    /// if somebody registers the host anew at the same time: nothing is on its way into the log while this is decided.
    private func renewLevels() {
        guard isMetaLeader, let replica = replica(of: .meta), replica.core.appliedIndex == replica.core.lastIndex
        else { return }
        let meta = replica.machine.meta
        var renewals: [HostRegistration] = []
        if let own = meta.renewal(of: host, featureLevel: settings.featureLevel) { renewals.append(own) }
        for peer in peers where peer.isConnected && renewals.count < Self.renewalsMax {
            if let its = meta.renewal(of: peer.host, featureLevel: peer.namedLevel) { renewals.append(its) }
        }
        for renewal in renewals {
            effects.notices.append("host \(renewal.name) knows feature level \(renewal.featureLevel) by now")
            guard case .accepted = propose(MetaCommand.registerHost(renewal).payload(), to: replica) else { return }
        }
    }

    // MARK: Moves

    /// The next step of what is under way, if nothing is still on its way into the log.
    func planMoves() {
        guard isMetaLeader, let replica = replica(of: .meta), let map = replica.machine.meta.map,
            map.featureLevel >= FeatureLevel.membership, replica.core.appliedIndex == replica.core.lastIndex,
            map.hosts.contains(where: { $0.state == .draining })
                || map.groups.contains(where: { $0.replicas.contains { $0.successorOf != .none } })
        else { return }
        // One that the map refuses must not hold up the others: a replica without which nobody would vote stays.
        let (away, lost) = awayHosts()
        let plan = Planner.moves(map, movesMax: settings.movesMax, away: away, lost: lost)
        let changes = plan.steps.lazy.map { MapChange($0) }
        guard let change = changes.first(where: { $0.refusal(by: map) == nil }) else { return }
        _ = propose(MetaCommand.change(change, expecting: map.version).payload(), to: replica)
    }

    // MARK: Commands

    /// A command for the meta group. Its answer comes as a reply of a later turn, or of this one if it is refused; a
    /// command's result is the body.
    public func administer(_ payload: Bytes, call: CallToken) {
        guard let replica = replica(of: .meta) else { return refuse(call, .unknownGroup) }
        if let stopped = replica.stopped { return refuse(call, .unavailable(stopped)) }
        guard replica.role == .leader else { return refuse(call, notLeader(replica)) }
        if let refusal = replica.machine.meta.check(payload) { return refuse(call, refusal) }
        submit(payload, to: replica, call)
    }

    /// A host registers: as `administer`, but for what hosts alone say.
    public func register(_ host: HostRegistration, call: CallToken) {
        guard let replica = replica(of: .meta) else { return refuse(call, .unknownGroup) }
        if let stopped = replica.stopped { return refuse(call, .unavailable(stopped)) }
        guard replica.role == .leader else { return refuse(call, notLeader(replica)) }
        var host = host
        if let known = replica.machine.meta.map?.hosts.first(where: { $0.incarnation == host.incarnation }) {
            // Said before it was started with a newer version, and late: a host's level does not fall.
            host.featureLevel = max(host.featureLevel, known.featureLevel)
        }
        submit(MetaCommand.registerHost(host).payload(), to: replica, call)
    }

    private func submit(_ payload: Bytes, to replica: Replica, _ call: CallToken) {
        guard space < .out else { return refuse(call, .unavailable(spaceRefusal)) }
        guard replica.proposals.count < settings.waitingCallsMax,
            case .accepted(let index, let term) = propose(payload, to: replica)
        else { return refuse(call, .overloaded(retryAfterMillis: 100)) }
        replica.proposals.append(Replica.Proposal(index: index, term: term, call: call))
    }

    func propose(_ payload: Bytes, to replica: Replica) -> ProposeResult {
        advanceLogTime(replica)
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let result = replica.core.propose(kind: .command, payload: payload, logTime: replica.logTime.current)
        markReady(replica)
        return result
    }

    /// Hands the leadership of a group over. Answered at once: it has begun, or why not.
    ///
    /// - Parameter target: `.none`: to the voter that can take it soonest.
    public func transfer(_ group: GroupID, to target: ReplicaID, call: CallToken) {
        guard let replica = replica(of: group) else { return refuse(call, .unknownGroup) }
        guard replica.role == .leader else { return refuse(call, notLeader(replica)) }
        if target == replica.id {
            effects.replies.append(HostReply(call: call, response: .done(DataResult(index: .zero, revision: .zero))))
            return
        }
        guard let successor = target == .none ? successor(of: replica, where: { _ in true }) : target else {
            return refuse(
                call, .invalid("no other voter of group \(group) is connected: there is nobody to hand it to"))
        }
        switch replica.core.transfer(to: successor) {
        case .accepted:
            markReady(replica)
            effects.replies.append(HostReply(call: call, response: .done(DataResult(index: .zero, revision: .zero))))
        case .refused(.inFlight(let other)):
            refuse(call, .invalid("leadership of group \(group) is being handed to replica \(other): wait a moment"))
        case .refused(.notVoter): refuse(call, .invalid("replica \(successor) of group \(group) does not vote"))
        case .refused(.unknown): refuse(call, .invalid("group \(group) has no member \(successor)"))
        case .refused(.notLeader), .refused(.alreadyLeader): refuse(call, notLeader(replica))
        }
    }

    /// The voter on a connected host, not named silent there, that can take leadership soonest, on a host that passes; each
    /// has its turn.
    func successor(of replica: Replica, where isGood: (HostID) -> Bool) -> ReplicaID? {
        let candidates = replica.core.configuration.voters.compactMap { voter -> HandOverCandidate? in
            guard voter != replica.id, let host = replica.host(of: voter), isGood(host),
                isHeard(voter, of: replica), let progress = replica.core.progress(of: voter)
            else { return nil }
            return HandOverCandidate(
                replica: voter, isActive: progress.isRecentlyActive, isCurrent: progress.state == .replicate,
                lastTurn: replica.lastTurns[voter] ?? 0, match: progress.match)
        }
        return candidates.max()?.replica
    }
}
