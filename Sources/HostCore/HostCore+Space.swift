// What a host does when the space for its files runs out: puts are refused while there is still room for deletes, for
// what other hosts' leaders write, and for the merges that give space back; its groups go to leaders with more room.

import Primitives
import RaftCore

/// How much space there is for a host's files.
public enum SpaceLevel: UInt8, Comparable, Sendable {
    case ample
    /// Leaders here refuse commands that bring data in, and hand their groups over.
    case low
    /// Nothing of other hosts is taken either.
    case out

    /// - Parameters:
    ///   - freeBytes: what can still be written: of the file system, and free pages inside of the file.
    ///   - capacityBytes: of the file system.
    ///   - previous: is left upwards only when there is an eighth more than where it begins, so that it does not flutter.
    public static func of(freeBytes: Int, capacityBytes: Int, previous: SpaceLevel) -> SpaceLevel {
        func isBelow(_ bound: Int, _ level: SpaceLevel) -> Bool {
            freeBytes < (previous >= level ? bound + bound / 8 : bound)
        }
        if isBelow(min(capacityBytes / 20, outBytesMax), .out) { return .out }
        return isBelow(min(capacityBytes / 20 * 3, lowBytesMax), .low) ? .low : .ample
    }

    /// Of a large file system 85 % and 95 % would leave more unused than anybody needs.
    private static var lowBytesMax: Int { 4 << 30 }
    private static var outBytesMax: Int { 1 << 30 }

    public static func < (left: SpaceLevel, right: SpaceLevel) -> Bool { left.rawValue < right.rawValue }
}

extension HostCore {
    /// As the shell last measured it. Takes effect with the next input.
    public func spaceChanged(_ level: SpaceLevel) {
        guard level != space else { return }
        space = level
        for replica in replicas { replica.handOverTick = tickCount }
    }

    /// Why a command can't be taken, if it can't.
    var spaceRefusal: String {
        "the disk of host \(host) is nearly full: "
            + (space == .out
                ? "nothing is written until there is space on it again"
                : "only deletes are taken until there is space on it again")
    }

    private var handOverTicks: UInt64 { max(1, 30_000_000_000 / settings.tickNanoseconds) }

    /// Asks the follower that is furthest to lead, again and again while space is low. It may have no more room: then
    /// the group changes hands each half minute, and puts are refused by all.
    func handOverForSpace() {
        guard space > .ample else { return }
        for replica in replicas
        where replica.role == .leader && tickCount >= replica.handOverTick && replica.core.transferee == nil {
            replica.handOverTick = tickCount + handOverTicks
            let others = replica.core.configuration.voters.filter { voter in
                voter != replica.id && hostOfReplica[voter].flatMap { peer($0) }?.isConnected == true
            }
            let furthest = others.max { left, right in
                guard let left = replica.core.progress(of: left), let right = replica.core.progress(of: right) else {
                    return false
                }
                // One that says nothing stands still perhaps, and a transfer to it stops proposals for nothing.
                guard left.isRecentlyActive == right.isRecentlyActive else { return right.isRecentlyActive }
                return left.match < right.match
            }
            guard let furthest, replica.core.transfer(to: furthest) == .accepted else { continue }
            activate(replica)
            markReady(replica)
        }
    }
}
