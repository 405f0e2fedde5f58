// From what survived to a plan: which map counts, which groups go on by themselves, from whose log the others go on,
// and what the new map says. Pure; the new cluster's id is drawn outside.

public import Primitives
internal import Ring

public enum RecoveryPlanner {
    /// Hosts of the map without a report count as lost for ever, and so do those whose journal is damaged.
    ///
    /// - Parameters:
    ///   - reports: of all hosts that survived, made while none of them ran.
    ///   - cluster: the id that the survivors get; random, and new.
    ///   - acceptEmpty: groups that begin anew with nothing if nobody has anything of them.
    /// - Throws: `.reports` for those that don't belong together; `.refused` when a group would have to begin anew that is
    ///   not among `acceptEmpty`, and when nothing has lost its quorum.
    public static func plan(
        _ reports: [HostReport], cluster: ClusterID, acceptEmpty: Set<GroupID> = []
    ) throws(RecoveryError) -> RecoveryPlan {
        var draft = try Draft(reports.sorted { $0.host < $1.host }, acceptEmpty)
        try draft.recoverGroups()
        return try draft.finish(as: cluster)
    }
}

private struct Draft {
    /// Of all hosts, also of those that don't count.
    let reports: [HostReport]
    /// Of those that do.
    let survivors: [HostReport]
    let former: ClusterMap
    let acceptEmpty: Set<GroupID>
    var map: ClusterMap
    var groups: [GroupRecovery] = []
    var orders: [HostID: [ReplicaOrder]] = [:]
    /// What survivors have of each group, by host, also under ids that no map names.
    private let found: [GroupID: [(host: HostID, replica: ReplicaReport)]]
    /// How many replicas the new map gives each survivor, as far as it is made.
    private var load: [HostID: Int] = [:]
    /// What is left of each group's knowledge about slots.
    private var slots: [GroupID: SlotKnowledge] = [:]

    init(_ reports: [HostReport], _ acceptEmpty: Set<GroupID>) throws(RecoveryError) {
        guard let first = reports.first else {
            throw RecoveryError(.reports, "expected the reports of hosts, found none")
        }
        for (report, next) in zip(reports, reports.dropFirst()) where report.host == next.host {
            throw RecoveryError(.reports, "host \(report.host) has two reports: give the newer one only")
        }
        for report in reports where report.cluster != first.cluster {
            throw RecoveryError(
                .reports,
                "host \(first.host) belongs to cluster \(first.cluster), host \(report.host) to \(report.cluster): expected "
                    + "reports of one cluster. If one of them was recovered already, give it the others as new, empty hosts"
            )
        }
        survivors = reports.filter { !$0.isJournalDamaged }
        guard !survivors.isEmpty else {
            throw RecoveryError(.refused, "no host has a sound journal: nothing can be recovered from these reports")
        }
        self.reports = reports
        former = Self.newestMap(survivors)
        var found: [GroupID: [(host: HostID, replica: ReplicaReport)]] = [:]
        for report in survivors {
            for replica in report.replicas { found[replica.group, default: []].append((report.host, replica)) }
        }
        self.found = found
        for report in reports {
            guard let record = former.host(report.host), record.incarnation == report.incarnation else {
                throw RecoveryError(
                    .reports,
                    "host \(report.host) is not in the newest map (version \(former.version)), or under another incarnation: "
                        + "leave its report out")
            }
        }
        self.acceptEmpty = acceptEmpty
        map = former
        let maps = reports.flatMap { [$0.map] + ($0.metaMap.map { [$0] } ?? []) }
        let greatest = reports.map(\.greatestReplica.rawValue).max() ?? 0
        map.version = (maps.map(\.version).max() ?? 0) + 1
        map.nextHost = maps.map(\.nextHost).max() ?? map.nextHost
        let greatestGroup = found.keys.map(\.rawValue).max() ?? 0
        map.nextGroup = max(maps.map(\.nextGroup).max() ?? map.nextGroup, GroupID(greatestGroup + 1))
        // No id that may ever have been given is given again.
        map.nextReplica = max(maps.map(\.nextReplica).max() ?? map.nextReplica, ReplicaID(greatest + 1))
    }

    /// The newest copy, or what the meta group's best log makes of the map if that goes on from this copy. What a copy
    /// says was committed. A log may have changes that never were, of a leader that was left behind: under a higher
    /// version, and without what a copy has.
    private static func newestMap(_ reports: [HostReport]) -> ClusterMap {
        // As the group's base is chosen, of which there need not be a map yet to choose it by.
        let known = KnownCommit(reports.flatMap { $0.replicas.filter { $0.group == .meta } })
        let meta = reports.compactMap { report -> (ReplicaReport, HostReport)? in
            report.replicas.filter { $0.group == .meta && $0.isSound && known.isIn($0) }
                .max { ($0.lastTerm, $0.last) < ($1.lastTerm, $1.last) }.map { ($0, report) }
        }.max { ($0.0.lastTerm, $0.0.last) < ($1.0.lastTerm, $1.0.last) }?.1
        let copy = reports.map(\.map).max { $0.version < $1.version }!
        guard let meta, let map = meta.metaMap, map.cluster == copy.cluster, map.version > copy.version,
            let committed = meta.metaVersions.first,
            committed.version > copy.version || meta.metaVersions.contains(MapVersion(copy))
        else { return copy }
        return map
    }

    // MARK: Groups

    mutating func recoverGroups() throws(RecoveryError) {
        let standings = former.groups.map { record in
            GroupStanding(record: record, survivors: survivorReplicas(of: record))
        }
        guard standings.contains(where: { !$0.hasQuorum }) else {
            throw RecoveryError(
                .refused,
                "no group has lost its quorum: start these hosts as they are, and drain and remove the lost ones")
        }
        let hopeless = standings.filter { !$0.hasQuorum && $0.base == nil }.map(\.record.id)
        try refuseWithStoresAside(hopeless)
        let refused = hopeless.filter { !acceptEmpty.contains($0) }
        guard refused.isEmpty else {
            let names = refused.map { $0 == .meta ? "meta" : "\($0)" }
            throw RecoveryError(
                .refused,
                "nobody has anything sound of \(names.count == 1 ? "group" : "groups") \(names.joined(separator: ", ")): if "
                    + "all of it is to be given up for lost, and to begin anew empty, say so for each, as in --accept-empty "
                    + names[0])
        }
        for group in acceptEmpty.sorted() where !hopeless.contains(group) {
            throw RecoveryError(
                .refused, "group \(group) is not lost: it need not begin anew; leave out --accept-empty for it")
        }
        for replica in former.groups.flatMap(\.replicas) { load[replica.host, default: 0] += 1 }
        for standing in standings {
            // The meta group's state names the cluster, and that changes: it is written to in any case.
            if standing.hasQuorum, standing.record.id != .meta {
                keep(standing)
            } else if let base = standing.base {
                try recover(standing, from: base)
            } else {
                beginAnew(standing)
            }
        }
    }

    /// What a host put aside as damaged may be the last that there is of a group.
    private func refuseWithStoresAside(_ hopeless: [GroupID]) throws(RecoveryError) {
        for group in hopeless {
            let hosts = (former.group(group)?.replicas.map(\.host) ?? []) + (found[group] ?? []).map(\.host)
            for report in reports where hosts.contains(report.host) {
                guard let name = report.storesAside?.first else { continue }
                throw RecoveryError(
                    .refused,
                    "nothing sound is left of group \(group == .meta ? "meta" : "\(group)") but, perhaps, in \(name) beside "
                        + "the store of host \(report.host), which was put aside as damaged: put that back and make a new "
                        + "report (Recovery.md says how), or move it out of the directory if nothing can be got out of it, "
                        + "and make a new report, before the group begins anew empty")
            }
        }
    }

    private func survivorReplicas(of record: GroupRecord) -> [Survivor] {
        let found = found[record.id] ?? []
        return record.replicas.compactMap { replica in
            guard let report = survivors.first(where: { $0.host == replica.host }),
                !report.gone.contains(replica.id)
            else { return nil }
            return Survivor(
                replica, of: record,
                report: found.first { $0.host == replica.host && $0.replica.replica == replica.id }?.replica)
        }
    }

    private func lost(_ standing: GroupStanding) -> [PlacedReplica] {
        standing.record.replicas.filter { replica in !standing.survivors.contains { $0.replica == replica.id } }
            .map { PlacedReplica(replica: $0.id, host: $0.host) }
    }

    private mutating func keep(_ standing: GroupStanding) {
        let commit = standing.survivors.compactMap { $0.report?.commit }.max() ?? .zero
        let best = standing.survivors.max { !$0.hasAllOf($1) }
        slots[standing.record.id] = SlotKnowledge(traces: best?.report?.slots ?? [], isTouched: false)
        groups.append(
            GroupRecovery(
                group: standing.record.id, outcome: .kept, certain: commit, last: best?.last ?? .zero,
                lastTerm: best?.lastTerm ?? .zero, isComplete: true, members: standing.survivors.map(\.placed),
                buried: [],
                lost: lost(standing), hadQuorum: true))
    }

    /// The base alone votes: it writes an entry of a term above all that are known, and nobody else writes anything. The
    /// others are learners until they have what it has; their own logs' configurations name no quorum among them.
    private mutating func recover(_ standing: GroupStanding, from base: Survivor) throws(RecoveryError) {
        let record = standing.record
        slots[record.id] = SlotKnowledge(traces: base.report?.slots ?? [], isTouched: !standing.hasQuorum)
        let isOpen = standing.couldElect(without: base)
        let kept = standing.survivors.filter {
            $0.replica == base.replica || !isOpen && !standing.knowsMore($0, than: base)
        }
        let given = standing.survivors.filter { survivor in !kept.contains { $0.replica == survivor.replica } }
        let terms = (found[record.id] ?? []).map { max($0.replica.term, $0.replica.lastTerm).rawValue }
        let term = Term((terms.max() ?? 0) + 1)
        guard term.rawValue < ClusterMap.counterMax - 1, base.last.rawValue < ClusterMap.counterMax - 2 else {
            throw RecoveryError(
                .reports, "group \(record.id) has a term or an index that no log has: its report is damaged")
        }
        let configuration = Configuration(
            index: base.last.next, voters: [base.replica], learners: kept.map(\.replica).filter { $0 != base.replica })
        orders[base.host, default: []].append(
            ReplicaOrder(
                group: record.id, replica: base.replica,
                lead: ReplicaOrder.Lead(
                    last: base.last, lastTerm: base.lastTerm, term: term, logTime: base.report?.lastLogTime ?? .zero,
                    configuration: configuration)))

        var replicas = kept.map { survivor -> ReplicaRecord in
            var replica = record.record(of: survivor.replica)!
            let isBase = replica.id == base.replica
            if isBase { replica.role = .voter }
            replica.membership = isBase ? .voter : .learner
            if !kept.contains(where: { $0.replica == replica.successorOf }) { replica.successorOf = .none }
            return replica
        }
        for survivor in given {
            bury(survivor, of: record.id)
            replicas.append(
                ReplicaRecord(
                    id: drawReplica(), host: survivor.host,
                    role: record.record(of: survivor.replica)?.role == .learner ? .learner : .voter, membership: .absent
                ))
        }
        // Whoever is born from now on is no founder: it begins with an empty configuration, and founds nothing.
        map.replace(
            GroupRecord(
                id: record.id, weight: record.weight, replicas: replicas, preferredLeader: base.replica,
                founders: [base.replica], configurationIndex: configuration.index))
        groups.append(
            GroupRecovery(
                group: record.id, outcome: .recovered, base: base.placed, certain: standing.certain,
                last: base.last, lastTerm: base.lastTerm,
                isComplete: standing.hasQuorum || standing.isComplete(with: base),
                impairedLast: standing.impairedLast(beyond: base),
                members: replicas.map { PlacedReplica(replica: $0.id, host: $0.host) }.sorted {
                    $0.replica < $1.replica
                },
                buried: given.map(\.placed), lost: lost(standing), hadQuorum: standing.hasQuorum))
    }

    /// New replicas, founders all, on as many hosts as it had and are there: those with the fewest replicas.
    private mutating func beginAnew(_ standing: GroupStanding) {
        let record = standing.record
        slots[record.id] = SlotKnowledge(traces: [], isTouched: true, isEmptied: true)
        // What is there of it under any id, also what no map names.
        let buried = (found[record.id] ?? []).map { PlacedReplica(replica: $0.replica.replica, host: $0.host) }
        for replica in buried {
            orders[replica.host, default: []].append(ReplicaOrder(group: record.id, replica: replica.replica))
        }
        let voters = max(1, record.replicas.count { $0.role == .voter || $0.role == .replaced })
        let hosts = survivors.map(\.host).sorted { (load[$0] ?? 0, $0) < (load[$1] ?? 0, $1) }.prefix(voters)
        let replicas = hosts.map { ReplicaRecord(id: drawReplica(), host: $0) }
        for host in hosts { load[host, default: 0] += 1 }
        map.replace(
            GroupRecord(
                id: record.id, weight: record.weight, replicas: replicas, preferredLeader: replicas[0].id,
                founders: replicas.map(\.id)))
        groups.append(
            GroupRecovery(
                group: record.id, outcome: .emptied, certain: .zero, last: .zero, lastTerm: .zero, isComplete: false,
                members: replicas.map { PlacedReplica(replica: $0.id, host: $0.host) }, buried: buried,
                lost: lost(standing), hadQuorum: false))
    }

    private mutating func bury(_ survivor: Survivor, of group: GroupID) {
        if survivor.report != nil {
            orders[survivor.host, default: []].append(ReplicaOrder(group: group, replica: survivor.replica))
        }
    }

    private mutating func drawReplica() -> ReplicaID {
        defer { map.nextReplica = ReplicaID(map.nextReplica.rawValue + 1) }
        return map.nextReplica
    }

    // MARK: The whole

    /// What was on the move while some group, or the map, lost what it knew: the new map says whose it is, and that both groups
    /// have to take it so.
    private mutating func settleSlots() throws(RecoveryError) -> [SlotSettlement]? {
        guard former.featureLevel >= FeatureLevel.migrations else { return nil }
        let settling = SlotSettling(
            former, isMapTouched: slots[.meta]?.isTouched ?? true,
            former.dataGroups.map { ($0.id, slots[$0.id] ?? SlotKnowledge(traces: [], isTouched: true)) })
        // No number that any group ever heard of is given again.
        let reported = found.values.flatMap { $0.compactMap(\.replica.lastMigration) }.max() ?? .none
        map.version = max(map.version, reported.rawValue)
        let epochs = found.values.flatMap { $0.flatMap { ($0.replica.slots ?? []).map(\.epoch) } }
        map.ring.raise(beyond: epochs.max() ?? .zero)
        for (epoch, slots) in settling.epochsToLower() { map.ring.restore(slots, since: epoch) }
        map.migrations.removeAll { settling.isTouched($0) }
        let settlements = settling.settlements()
        guard map.migrations.count + settlements.count <= ClusterMap.migrationsMax else {
            throw RecoveryError(
                .refused, "\(settlements.count) settlements of slots are needed, which is more than a map can have")
        }
        for settlement in settlements {
            map.version += 1
            map.ring.renew(settlement.slots, for: settlement.owner)
            map.replace(
                MigrationRecord(
                    id: MigrationID(map.version), slots: settlement.slots, source: settlement.other,
                    target: settlement.owner, state: .settling))
        }
        return settlements.isEmpty ? nil : settlements
    }

    mutating func finish(as cluster: ClusterID) throws(RecoveryError) -> RecoveryPlan {
        map.cluster = cluster
        let settlements = try settleSlots()
        // The command that brings this map into the meta group's log is of this level, and so are all who go on.
        map.featureLevel = max(map.featureLevel, FeatureLevel.recovery)
        var lostHosts: [LostHost] = []
        let used = Set(map.groups.flatMap { $0.replicas.map(\.host) })
        for host in former.hosts {
            if survivors.contains(where: { $0.host == host.id }) {
                var record = host
                record.featureLevel = max(record.featureLevel, FeatureLevel.recovery)
                map.replace(record)
                continue
            }
            let isRemoved = !used.contains(host.id)
            if isRemoved { map.removeHost(host.id) }
            lostHosts.append(
                LostHost(
                    host: host.id, address: host.address, isRemoved: isRemoved,
                    isDamaged: reports.contains { $0.host == host.id }))
        }
        guard cluster != former.cluster else {
            throw RecoveryError(.refused, "expected a new id for the cluster, found the present one")
        }
        if let problem = map.problem() {
            throw RecoveryError(.reports, "the reports give no map that makes sense: \(problem)")
        }
        return RecoveryPlan(
            formerCluster: former.cluster, formerMapVersion: former.version, map: map,
            hosts: survivors.map { report in
                SurvivingHost(
                    host: report.host, address: former.host(report.host)?.address ?? "",
                    incarnation: report.incarnation, bootCounter: report.bootCounter, journal: report.journal,
                    journalSequence: report.journalSequence, orders: orders[report.host] ?? [])
            }, lostHosts: lostHosts, groups: groups, strays: strays(), settlements: settlements)
    }

    /// Those that are buried are not among them.
    private func strays() -> [StrayReplica] {
        let emptied = Set(groups.filter { $0.outcome == .emptied }.map(\.group))
        return survivors.flatMap { report in
            report.replicas.filter {
                former.group($0.group)?.host(of: $0.replica) != report.host && !emptied.contains($0.group)
            }
            .map {
                StrayReplica(
                    group: $0.group, replica: $0.replica, host: report.host, last: $0.last, lastTerm: $0.lastTerm)
            }
        }
    }
}
