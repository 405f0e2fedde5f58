// A group's logs as Raft makes them, members that change included, without messages or clocks: elections, appends that
// reach whom they reach, commits. What comes of it is what survivors of any crash may have.

import Primitives
import Recovery

struct LogCluster {
    struct Entry: Equatable {
        var term: UInt64
        var configuration: Configuration?
    }

    struct Member {
        var log: [Entry] = []
        var term: UInt64 = 0
        var commit = 0
        /// Of its log: what its state has.
        var applied = 0
        var first: Configuration
        /// It leads its term, and this is what it knows the others to have.
        var match: [ReplicaID: Int]?
        var isGone = false
        /// It keeps its log and votes, and stands for no election.
        var isImpaired = false

        func configuration(through last: Int) -> Configuration {
            for index in stride(from: min(last, log.count), to: 0, by: -1) {
                if let found = log[index - 1].configuration { return found }
            }
            return first
        }
        var configuration: Configuration { configuration(through: log.count) }
        var last: (UInt64, Int) { (log.last?.term ?? 0, log.count) }
    }

    var members: [ReplicaID: Member] = [:]
    let ids: [ReplicaID]
    /// No term has two leaders.
    var lastTerm: UInt64 = 0
    /// What was committed, and so may have been acknowledged.
    var committed: [Entry] = []
    /// A rule of Raft was broken: two entries committed at one index.
    var isBroken = false
    var random: SeededRandom

    init(_ ids: [ReplicaID], founders: [ReplicaID], seed: UInt64) {
        self.ids = ids
        random = SeededRandom(seed: seed)
        for id in ids { members[id] = Member(first: Configuration(voters: founders.contains(id) ? founders : [])) }
    }

    static func isMajority(_ list: [ReplicaID], _ holds: (ReplicaID) -> Bool) -> Bool {
        list.count { holds($0) } * 2 > list.count
    }

    static func isQuorum(_ configuration: Configuration, _ holds: (ReplicaID) -> Bool) -> Bool {
        isMajority(configuration.voters, holds)
            && (configuration.outgoing.isEmpty || isMajority(configuration.outgoing, holds))
    }

    mutating func pick<Element>(_ list: [Element]) -> Element { list[Int(random.below(UInt64(list.count)))] }
    mutating func chance(_ percent: UInt64) -> Bool { random.below(100) < percent }

    /// One of the things that happen, among the replicas in reach of each other. Returns who was elected, if anybody.
    @discardableResult mutating func step(among reach: [ReplicaID], changesMembers: Bool = true) -> ReplicaID? {
        let actor = pick(reach)
        switch random.below(10) {
        case 0: return elect(actor, among: reach) ? actor : nil
        case 1...3: append(actor, changesMembers: changesMembers)
        default: replicate(from: actor, to: pick(reach))
        }
        return nil
    }

    mutating func elect(_ candidate: ReplicaID, among reach: [ReplicaID]) -> Bool {
        let own = members[candidate]!
        guard !own.isImpaired else { return false }
        guard own.configuration.voters.contains(candidate) || own.configuration.outgoing.contains(candidate) else {
            return false
        }
        let term = lastTerm + 1
        var votes: Set<ReplicaID> = []
        for voter in reach where voter == candidate || chance(80) {
            guard members[voter]!.last <= own.last else { continue }
            votes.insert(voter)
        }
        guard Self.isQuorum(own.configuration, votes.contains) else { return false }
        lastTerm = term
        if Array(own.log.prefix(committed.count)) != committed { isBroken = true }
        for voter in votes {
            members[voter]!.term = term
            members[voter]!.match = nil
        }
        members[candidate]!.match = [:]
        write(Entry(term: term), at: candidate)
        return true
    }

    mutating func write(_ entry: Entry, at leader: ReplicaID) {
        members[leader]!.log.append(entry)
        let last = members[leader]!.log.count
        members[leader]!.match?[leader] = last
        advance(leader)
    }

    mutating func append(_ leader: ReplicaID, changesMembers: Bool) {
        guard let member = members[leader], member.match != nil else { return }
        var configuration: Configuration?
        let current = member.configuration
        let place = member.log.lastIndex { $0.configuration != nil }.map { $0 + 1 } ?? 0
        if changesMembers, place <= member.commit, member.commit > 0,
            member.log[member.commit - 1].term == member.term, chance(30)
        {
            if current.isJoint {
                configuration = Configuration(voters: current.voters)
            } else {
                let wanted = ids.filter { _ in chance(55) }
                if !wanted.isEmpty { configuration = Configuration(voters: wanted, outgoing: current.voters) }
            }
            configuration?.index = LogIndex(UInt64(member.log.count + 1))
        }
        write(Entry(term: member.term, configuration: configuration), at: leader)
    }

    mutating func replicate(from leader: ReplicaID, to follower: ReplicaID) {
        guard leader != follower, let source = members[leader], source.match != nil, let target = members[follower],
            target.term <= source.term
        else { return }
        members[follower]!.term = source.term
        members[follower]!.match = nil
        var common = 0
        while common < min(source.log.count, target.log.count), source.log[common] == target.log[common] { common += 1 }
        let through = common + Int(random.below(UInt64(source.log.count - common + 1)))
        // What conflicts goes, and only if something is sent that conflicts.
        if through > common { members[follower]!.log = Array(source.log[..<through]) }
        let match = max(through, common)
        let known = source.match?[follower] ?? 0
        members[leader]!.match?[follower] = max(match, known)
        advance(leader)
        let commit = min(members[leader]!.commit, match)
        members[follower]!.commit = max(members[follower]!.commit, commit)
    }

    private mutating func advance(_ leader: ReplicaID) {
        guard let member = members[leader], let match = member.match else { return }
        var index = member.log.count
        while index > member.commit {
            if member.log[index - 1].term == member.term,
                Self.isQuorum(member.configuration, { match[$0] ?? 0 >= index })
            {
                break
            }
            index -= 1
        }
        guard index > member.commit else { return }
        members[leader]!.commit = index
        for place in 0..<index {
            if place == committed.count {
                committed.append(member.log[place])
            } else if committed[place] != member.log[place] {
                isBroken = true
            }
        }
    }

    /// What its host would report: a state somewhere at or below what it knows to be committed, a log that begins
    /// somewhere at or below the state; of one that is impaired no state, and a log that begins somewhere below that.
    mutating func report(_ replica: ReplicaID, group: GroupID) -> ReplicaReport {
        let member = members[replica]!
        let saved = Int(random.below(UInt64(member.commit + 1)))
        let base = Int(random.below(UInt64(saved + 1)))
        let applied = member.isImpaired ? 0 : saved
        var configurations = [member.isImpaired ? member.first : member.configuration(through: applied)]
        for index in base..<member.log.count {
            guard let found = member.log[index].configuration, found.index != configurations[0].index else { continue }
            configurations.append(found)
        }
        var terms: [TermRun] = []
        for index in base..<member.log.count where terms.last?.term.rawValue != member.log[index].term {
            terms.append(TermRun(first: LogIndex(UInt64(index + 1)), term: Term(member.log[index].term)))
        }
        return ReplicaReport(
            group: group, replica: replica, term: Term(member.term), applied: LogIndex(UInt64(applied)),
            commit: LogIndex(UInt64(member.commit)), base: LogIndex(UInt64(base)),
            baseTerm: Term(base > 0 ? member.log[base - 1].term : 0), terms: terms,
            last: LogIndex(UInt64(member.log.count)), configurations: configurations.sorted { $0.index < $1.index },
            impairment: member.isImpaired ? "its state can't be read" : nil)
    }
}
