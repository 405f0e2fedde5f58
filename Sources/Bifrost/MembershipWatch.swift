// Watches of memberships as programs see them: who is there, then who joins, comes online, goes offline, leaves and leads.

import ClientCore
public import DataTypes
import Messages
public import Primitives
import Ring
import StateMachines

/// What a watch of a membership tells.
public struct MembershipEvent: Sendable {
    public enum Kind: String, Hashable, Sendable {
        /// It was a member when the watch began.
        case present
        /// It led when the watch came to it.
        case leads
        /// All that was there has been told. Or, for a watch that begins later: it stands.
        case ready
        case joined, online, offline
        /// It says something else of itself.
        case updated
        case left
        /// It leads from now on; without a member: nobody does.
        case leaderChanged
        /// The membership is gone, with all members that it had.
        case deleted
        /// Nothing happened up to `revision`, for some seconds.
        case progress
    }
    /// Why a member is offline, or has left.
    public enum Reason: String, Hashable, Sendable {
        /// Its client is gone, or was cut off.
        case sessionEnded
        /// It was asked for: by itself, most likely.
        case asked
        /// It came online from another client.
        case takenOver
        /// It was offline for longer than it stays.
        case timeOver
        /// The membership was deleted.
        case deleted
    }
    public var kind: Kind
    public var reason: Reason?
    public var member: MembershipMember?
    /// Of the membership: grows from event to event. Of a leader its epoch; of `present` that of what last became of the
    /// member; 0 of `ready`, `deleted` and `progress`.
    public var version: UInt64
    /// Of the group, at which it happened.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind what was told so far; nil while a snapshot is not complete, and where more of
    /// the same revision is still to be told.
    public var resume: Revision?
}

/// Events of a membership, one by one: in the order of versions, with no gap and no repetition, across changes of leaders
/// of its group, lost connections and restarts of hosts. Each iterator is a watch of its own. Throws `compacted` where what
/// it has to tell next is not kept any more: begin with a snapshot. That tells who leads first, and then the members, page
/// by page: a leader may be told of before it is told to be a member.
public struct MembershipWatch: AsyncSequence, Sendable {
    public typealias Element = MembershipEvent
    public typealias Failure = BifrostError

    let object: ReliableObject
    let start: WatchStart
    let patience: Duration?

    public func makeAsyncIterator() -> Iterator {
        let (object, name) = (object, object.name)
        let (leader, members) = (MembershipMachine.leaderKey(name), MembershipMachine.membersKey(name))
        let source = WatchSource(
            cluster: object.cluster, slot: Ring.slot(of: name), machine: MembershipMachine.number, from: leader,
            end: MembershipMachine.endOfWatch(name), start: start, patience: patience, problem: object.problem(),
            moment: { () async throws(BifrostError) in
                try await object.query(MembershipList(name, entriesMax: 1)).revision
            },
            page: { (from) async throws(BifrostError) in
                let id = from > members ? from[members.count..<from.count].compacted() : Bytes()
                let (listing, revision) = try await object.query(MembershipList(name, from: id))
                var records: [KeyValueScanPage.Record] = []
                func add(_ key: Bytes, _ told: MembershipTold) {
                    records.append(KeyValueScanPage.Record(key: key, value: told.encoded(), revision: revision))
                }
                if from <= leader, let found = listing.leader {
                    add(leader, MembershipTold(.leaderChanged, version: listing.epoch, found))
                }
                for member in listing.entries {
                    add(
                        Bytes(members.array + member.id.array),
                        MembershipTold(.present, version: member.changed, member))
                }
                return ScanPage(
                    records: records, next: listing.next.map { Bytes(members.array + $0.array) }, revision: revision)
            })
        return Iterator(story: WatchStory(source))
    }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        private var story: WatchStory

        init(story: WatchStory) { self.story = story }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> MembershipEvent? {
            while true {
                let told = try await story.next()
                var event = MembershipEvent(
                    kind: .progress, version: 0, revision: told.revision, resume: told.resume)
                switch told.kind {
                case .ready: event.kind = .ready
                case .progress: event.kind = .progress
                case .change(.cleared): event.kind = .deleted
                case .present, .change(.put):
                    let known: MembershipTold = try ReliableObject.value(told.value)
                    event.member = known.member
                    event.version = known.version
                    event.reason =
                        switch known.reason {
                        case .none: nil
                        case .sessionEnded: .sessionEnded
                        case .asked: .asked
                        case .takenOver: .takenOver
                        case .timeOver: .timeOver
                        case .deleted: .deleted
                        }
                    switch known.cause {
                    case .present: event.kind = .present
                    case .joined: event.kind = .joined
                    case .online: event.kind = .online
                    case .offline: event.kind = .offline
                    case .updated: event.kind = .updated
                    case .left: event.kind = .left
                    case .leaderChanged: event.kind = told.kind == .present ? .leads : .leaderChanged
                    }
                case .change: continue
                }
                return event
            }
        }
    }
}
