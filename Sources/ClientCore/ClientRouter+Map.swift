// The cluster's map: when it is fetched and from whom, and how a newer one takes the old one's place.

public import Primitives
public import Ring

/// One fetch at a time, from one host after the other.
struct MapFetchState: Sendable {
    /// A map is wanted from the beginning.
    var isWanted = true
    /// Wanted until a map of at least this epoch is here.
    var wantedEpoch = Epoch.zero
    var number: UInt64 = 0
    var source: MapSource?
    var askedUntil: Instant?
    var notBefore = Instant.zero
    /// Position among seeds, then hosts, of the next one to ask.
    var cursor = 0
    /// Fetches since the last one that helped.
    var failures = 0
    /// The last host that answered belongs to no cluster.
    var sawNotInitialised = false
}

extension ClientRouter {
    /// The answer to a `MapFetch`. One that comes too late is dropped, but for a newer map.
    public mutating func mapAnswered(
        _ number: UInt64, _ answer: MapAnswer, now: Instant, into effects: inout ClientEffects
    ) {
        let isAwaited = fetch.source != nil && fetch.number == number
        var helped = false
        switch answer {
        case .map(let newer):
            fetch.sawNotInitialised = false
            helped = mapReceived(newer, now: now, into: &effects)
        case .unchanged: helped = map != nil
        case .notInitialised: if map == nil { fetch.sawNotInitialised = true }
        case .failed: break
        }
        guard isAwaited else { return }
        let isSatisfied = map != nil && fetch.wantedEpoch <= ring.epoch && unrouted.count == 0 && helped
        endFetch(wantMore: !isSatisfied, now: now)
        fetchMapIfWanted(now: now, into: &effects)
    }

    /// A map from anywhere. Takes it only if it is newer and of the same cluster; returns whether it did.
    @discardableResult
    public mutating func mapReceived(_ newer: ClusterMap, now: Instant, into effects: inout ClientEffects) -> Bool {
        if let map {
            guard newer.cluster == map.cluster, newer.version >= map.version, newer.ring.epoch >= ring.epoch else {
                statistics.mapsRefused += 1
                return false
            }
            guard newer.version > map.version else { return true }
        }
        adopt(newer, now: now)
        effects.mapChanged = true
        let queued = takeQueued()
        for place in queued { route(place, now: now, into: &effects) }
        takeOverHolds(now: now, into: &effects)
        return true
    }

    mutating func wantMap(epoch wanted: Epoch = .zero) {
        fetch.isWanted = true
        fetch.wantedEpoch = max(fetch.wantedEpoch, wanted)
    }

    mutating func fetchMapIfWanted(now: Instant, into effects: inout ClientEffects) {
        guard fetch.isWanted, fetch.source == nil, fetch.notBefore <= now else { return }
        let count = seedIsUp.count + hosts.count
        for step in 0..<count {
            let position = (fetch.cursor + step) % count
            let source: MapSource
            if position < seedIsUp.count {
                guard seedIsUp[position] else { continue }
                source = .seed(position)
            } else {
                guard hosts[position - seedIsUp.count].isUp else { continue }
                source = .host(hosts[position - seedIsUp.count].id)
            }
            fetch.cursor = (position + 1) % count
            fetch.number += 1
            fetch.source = source
            fetch.askedUntil = now + settings.mapFetchNanoseconds
            statistics.mapFetches += 1
            effects.mapFetch = MapFetch(number: fetch.number, source: source, knownVersion: map?.version ?? 0)
            return
        }
    }

    /// The fetch under way is over. More are made after a pause, which grows after each round of all sources.
    mutating func endFetch(wantMore: Bool, now: Instant) {
        fetch.source = nil
        fetch.askedUntil = nil
        fetch.isWanted = wantMore
        fetch.failures = wantMore ? fetch.failures + 1 : 0
        let round = fetch.failures / max(seedIsUp.count + hosts.count, 1)
        fetch.notBefore = now + jitteredPause(doublings: round)
    }

    // MARK: the new map

    /// Takes all queued operations out of their lists, in the order of groups and of arrival.
    private mutating func takeQueued() -> [Int] {
        var places: [Int] = []
        for group in groups.indices {
            while let place = table.takeOldest(from: &groups[group].waiting) { places.append(place) }
        }
        while unrouted.head >= 0 {
            let place = Int(unrouted.head)
            table.remove(place, from: &unrouted)
            places.append(place)
        }
        while let place = takeParked() { places.append(place) }
        return places
    }

    /// Queues keep their places: the lists of groups that are gone are handed to `unrouted`.
    private mutating func adopt(_ newer: ClusterMap, now: Instant) {
        let (oldHosts, oldGroups) = (hosts, groups)
        let holders = holds.map { ownSession(of: $0) }
        map = newer
        mayUseSessions =
            settings.sessionTimeToLiveMilliseconds > 0 && newer.featureLevel >= FeatureLevel.sessions
        mayReadInSession = newer.featureLevel >= FeatureLevel.deadlines
        if mayUseSessions, newer.featureLevel >= FeatureLevel.migrations, !usesMigrations { beginMigrations() }
        ring.merge(newer.ring)

        // Hosts and groups ascend by id: an invariant of the map.
        hosts = newer.hosts.map { record in
            HostState(id: record.id, isUp: oldHosts.first { $0.id == record.id }?.isUp ?? false)
        }

        groups = newer.groups.map { record in
            var state = GroupState(id: record.id, window: settings.groupWindowMax)
            state.replicas = record.replicas.compactMap { hostIndex($0.host) }
            if let preferred = record.host(of: record.preferredLeader).flatMap({ hostIndex($0) }),
                let position = state.replicas.firstIndex(of: preferred)
            {
                state.candidate = position
            }
            return state
        }

        // Old index → new index, and what was learned about each group.
        var moves = [Int](repeating: -1, count: oldGroups.count)
        for (old, state) in oldGroups.enumerated() {
            guard let new = groupIndex(state.id) else {
                handOver(state)
                continue
            }
            moves[old] = new
            groups[new].waiting = state.waiting
            groups[new].inFlight = state.inFlight
            groups[new].window = state.window
            groups[new].notBefore = state.notBefore
            groups[new].reason = state.reason
            groups[new].candidacy = state.candidacy &+ 1
            groups[new].term = state.term
            groups[new].session = state.session
            groups[new].seen = state.seen
            groups[new].retryAfterMilliseconds = state.retryAfterMilliseconds
            guard !state.replicas.isEmpty else { continue }
            let leader = oldHosts[state.replicas[state.candidate]].id
            if let position = groups[new].replicas.firstIndex(where: { hosts[$0].id == leader }) {
                groups[new].candidate = position
                groups[new].candidacy = state.candidacy
                groups[new].asked = state.asked
                groups[new].heard = state.heard
                groups[new].isSettled = state.isSettled
                groups[new].probe = state.probe
                groups[new].failures = state.failures
            }
        }
        for place in table.operations.indices where table[place].state != .free && table[place].groupIndex >= 0 {
            table[place].groupIndex = Int32(truncatingIfNeeded: moves[Int(table[place].groupIndex)])
        }
        waiting.removeAll(keepingCapacity: true)

        routes = (0..<UInt16(Slot.count)).map { number in
            let slot = Slot(number)
            let group = ring.owner(of: slot).flatMap { groupIndex($0) } ?? -1
            return SlotRoute(epoch: ring.epoch(of: slot), group: Int32(truncatingIfNeeded: group))
        }
        countHolds(of: holders)
    }

    private mutating func handOver(_ gone: GroupState) {
        var gone = gone
        while let place = table.takeOldest(from: &gone.waiting) { table.append(place, to: &unrouted) }
    }
}
