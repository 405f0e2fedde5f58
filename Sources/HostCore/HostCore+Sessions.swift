// Ending sessions whose time is over: each group's leader proposes it, and the state machine decides when the entry comes
// whether it is still so. Showing them. What sessions are is the state machine's affair.

import Messages
package import Primitives
import RaftCore
import StateMachines

extension HostCore {
    /// Sessions that one entry ends at most, each second.
    private static var expiriesMax: Int { SessionCommand.countMax }
    /// Objects that they hold together: each is as much as a command.
    private static var holdingsMax: Int { 512 }
    /// How long until what was proposed and not applied is proposed again.
    private static var expirySeconds: UInt64 { 3 }

    /// The replica has sessions, perhaps its first ones.
    func noteSessions(of replica: Replica) {
        guard !replica.isWatchedForSessions, replica.machine.sessions.count > 0 else { return }
        replica.isWatchedForSessions = true
        withSessions.append(replica)
    }

    /// Once per second. A group at rest is looked at too: its log time goes on while its members are heard.
    func expireSessions() {
        guard !withSessions.isEmpty, tickCount % secondTicks == 0 else { return }
        var kept = 0
        for place in withSessions.indices {
            let replica = withSessions[place]
            guard replica.machine.sessions.count > 0 else {
                replica.isWatchedForSessions = false
                continue
            }
            withSessions[kept] = replica
            kept += 1
            expireSessions(of: replica)
        }
        withSessions.removeSubrange(kept...)
    }

    private func expireSessions(of replica: Replica) {
        guard replica.role == .leader, replica.stopped == nil, replica.impairment == nil else { return }
        passLogTime(replica)
        guard !turnsSessionsDown(replica), replica.core.isEstablished,
            tickCount >= replica.expiryTick || replica.core.appliedIndex >= replica.expiryIndex
        else { return }
        replica.logTime.follow(replica.withCore { $0.lastLogTime })
        let due = replica.machine.sessionsDue(
            at: replica.logTime.certain, countMax: Self.expiriesMax, holdingsMax: Self.holdingsMax)
        guard !due.isEmpty else { return }
        // What is proposed and not applied yet would be proposed again.
        replica.expiryTick = tickCount + Self.expirySeconds * secondTicks
        let proposed = replica.core.propose(
            kind: .command, payload: SessionCommand.expire(due).payload(), logTime: replica.logTime.current)
        if case .accepted(let index, _) = proposed { replica.expiryIndex = index } else { replica.expiryIndex = .zero }
        markReady(replica)
    }
}

extension HostCore {
    /// A page of the group's sessions: of its leader's, or of this replica's, as the consistency says.
    func querySessions(_ request: QueryRequest, _ replica: Replica, _ call: CallToken) {
        guard replica.group != .meta else { return refuse(call, .invalid("group \(GroupID.meta) has no sessions")) }
        guard request.slot == .group else {
            return refuse(call, .invalid("sessions belong to the group as a whole: ask in slot \(Slot.group)"))
        }
        do throws(DecodingFailure) {
            wait(
                WaitingRead(call: call, kind: .sessions(try SessionQuery(decoding: request.query))), in: replica,
                consistency: request.consistency, bound: request.bound)
        } catch {
            refuse(call, .invalid("\(error)"))
        }
    }

    func serve(_ query: SessionQuery, call: CallToken, from replica: Replica) {
        var logTime = replica.machine.logTime
        if replica.role == .leader {
            passLogTime(replica)
            logTime = max(logTime, replica.logTime.current)
        }
        let body = replica.machine.sessions.page(query, logTime: logTime).encoded()
        // All of them are looked at, however few are shown: no more of that in a turn than of bytes.
        repliedBytes += max(body.count, replica.machine.sessions.count * Self.bytesOfLookingAtASession)
        let result = DataResult(index: replica.core.appliedIndex, revision: replica.machine.revision, body: body)
        effects.replies.append(HostReply(call: call, response: .done(result), isRead: true))
    }

    private static var bytesOfLookingAtASession: Int { 64 }

    /// For tests and status: nil if there is no replica of the group here.
    package func sessionCount(of group: GroupID) -> Int? { replica(of: group)?.machine.sessions.count }
}
