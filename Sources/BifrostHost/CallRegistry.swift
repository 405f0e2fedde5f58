// The calls that wait for the host's core, by small numbers that name them there.

import HostCore
import RPC

/// A table of waiting calls. A token names a place and the time it was used for, so that a late answer to a token that
/// was given again can't reach another call. Bounded by the connections' bounds on calls in flight.
struct CallRegistry {
    private var replies: [CallReply?] = []
    private var uses: [UInt32] = []
    private var free: [UInt32] = []

    /// Calls that wait.
    var count: Int { replies.count - free.count }

    mutating func add(_ reply: CallReply) -> CallToken {
        if let place = free.popLast() {
            replies[Int(place)] = reply
            return CallToken(rawValue: UInt64(uses[Int(place)]) << 32 | UInt64(place))
        }
        replies.append(reply)
        uses.append(0)
        return CallToken(rawValue: UInt64(replies.count - 1))
    }

    /// The call's reply, once.
    mutating func take(_ token: CallToken) -> CallReply? {
        let place = Int(token.rawValue & 0xffff_ffff)
        guard place < replies.count, UInt64(uses[place]) == token.rawValue >> 32, let reply = replies[place] else {
            return nil
        }
        replies[place] = nil
        uses[place] &+= 1
        free.append(UInt32(place))
        return reply
    }
}
