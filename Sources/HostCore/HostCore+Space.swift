// What a host does when the space for its files runs out: puts are refused while there is still room for deletes, for
// what other hosts' leaders write, and for the merges that give space back; its groups go to leaders with more room.

package import Primitives
import RaftCore

/// How much space there is for a host's files.
public enum SpaceLevel: UInt8, Comparable, Sendable {
    case ample
    /// Leaders here refuse commands that bring data in, and hand their groups over.
    case low
    /// Nothing of other hosts is taken either.
    case out

    /// What there is for one of the two files.
    ///
    /// - Parameters:
    ///   - freeBytes: what can still be written: of the file system, and free pages inside of this file. Files never
    ///     shrink, so what deletes give back is inside of the store's.
    ///   - capacityBytes: of the file system.
    ///   - previous: is left upwards only when there is an eighth more than where it begins, so that it does not flutter.
    public static func of(_ use: SpaceUse, freeBytes: Int, capacityBytes: Int, previous: SpaceLevel) -> SpaceLevel {
        func isBelow(_ bound: Int, _ level: SpaceLevel) -> Bool {
            freeBytes < (previous >= level ? bound + bound / 8 : bound)
        }
        if isBelow(use.outBytes(of: capacityBytes), .out) { return .out }
        return isBelow(use.lowBytes(of: capacityBytes), .low) ? .low : .ample
    }

    /// What the writers found counts whatever was measured: a quota does not show in what the file system says, nor
    /// does a limit of the file's own.
    ///
    /// - Parameters:
    ///   - isJournalFull: a commit waits for space.
    ///   - isStoreFull: a checkpoint does. Its group takes no writes soon, and as leader would serve no reads then.
    public static func of(measured: SpaceLevel, isJournalFull: Bool, isStoreFull: Bool) -> SpaceLevel {
        max(measured, isJournalFull ? .out : .ample, isStoreFull ? .low : .ample)
    }

    public static func < (left: SpaceLevel, right: SpaceLevel) -> Bool { left.rawValue < right.rawValue }
}

/// What the space is for.
public enum SpaceUse: Sendable {
    /// Data: 85 % and 95 % of a file system may be taken. Of a large one, that would leave more unused than anybody
    /// needs.
    case store
    /// Passes: what it needs comes free again inside of it. If it had to have what the store has, a file system that
    /// filled up once would never have space again, whatever is deleted.
    case journal

    func lowBytes(of capacityBytes: Int) -> Int {
        switch self {
        case .store: min(capacityBytes / 20 * 3, 4 << 30)
        case .journal: min(capacityBytes / 20, 256 << 20)
        }
    }

    func outBytes(of capacityBytes: Int) -> Int {
        switch self {
        case .store: min(capacityBytes / 20, 1 << 30)
        case .journal: min(capacityBytes / 80, 64 << 20)
        }
    }
}

extension HostCore {
    /// As the shell last measured it. Takes effect with the next input.
    public func spaceChanged(_ level: SpaceLevel) {
        space = level
    }

    /// Why a command can't be taken, if it can't.
    var spaceRefusal: String {
        "the disk of host \(host) is nearly full: "
            + (space == .out
                ? "nothing is written until there is space on it again"
                : "only deletes are taken until there is space on it again")
    }

    private var handOverTicks: UInt64 { max(1, 30_000_000_000 / settings.tickNanoseconds) }

    /// Asks another member to lead, again and again while space is low. It may have no more room: then it asks the next
    /// one, and when none has any the group changes hands each half minute, and puts are refused by all.
    func handOverForSpace() {
        guard space > .ample else { return }
        for replica in replicas
        where replica.role == .leader && tickCount >= replica.handOverTick && replica.core.transferee == nil {
            replica.handOverTick = tickCount + handOverTicks
            guard let next = successor(of: replica, where: { _ in true }), replica.core.transfer(to: next) == .accepted
            else { continue }
            replica.lastTurns[next] = tickCount
            activate(replica)
            markReady(replica)
        }
    }
}

/// A follower that may be asked to lead; the greatest is. Whether it has more space is not known.
package struct HandOverCandidate: Comparable {
    package let replica: ReplicaID
    /// One that says nothing stands still perhaps, and a transfer to it stops proposals for nothing.
    let isActive: Bool
    /// It takes entries as they come. One that has no space does not, and one that is far behind makes others wait.
    let isCurrent: Bool
    /// The tick at which it was last asked, or last began to lead; 0: never. All have their turn, so that one with room
    /// among them gets it: of two without any, each would else ask the other for ever.
    let lastTurn: UInt64
    let match: LogIndex

    package init(replica: ReplicaID, isActive: Bool, isCurrent: Bool, lastTurn: UInt64, match: LogIndex) {
        self.replica = replica
        self.isActive = isActive
        self.isCurrent = isCurrent
        self.lastTurn = lastTurn
        self.match = match
    }

    package static func < (left: HandOverCandidate, right: HandOverCandidate) -> Bool {
        if left.isActive != right.isActive { return right.isActive }
        if left.isCurrent != right.isCurrent { return right.isCurrent }
        if left.lastTurn != right.lastTurn { return left.lastTurn > right.lastTurn }
        return left.match < right.match
    }
}
