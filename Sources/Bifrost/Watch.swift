// Watches as programs see them: what there is, then what changes, in the order of the group's revisions. Owns the way from
// one answer to the next; what is asked is KeyValueWatch's and MachineEvents' affair.

import ClientCore
import Messages
public import Primitives
import RPC
import Ring
import StateMachines

/// Where a watch begins.
public enum WatchStart: Hashable, Sendable {
    /// With all that is there, then what changes.
    case snapshot
    /// With what changes from now on: behind the moment at which the watch was ready.
    case now
    /// With what changed behind this revision of the group: `resume` of what was seen last. Throws `compacted` if some of
    /// that is not kept any more.
    case after(Revision)
}

/// Changes of one range of one sub state machine, answer by answer. Goes on where it was, whoever leads meanwhile.
struct WatchFeed: Sendable {
    let cluster: Cluster
    let slot: Slot
    let machine: SubMachineNumber
    let from: Bytes
    let end: Bytes?
    /// How long it goes on while no host can be asked; nil: for ever.
    let patience: Duration?
    /// All up to here was given out.
    var through: Revision
    /// Whose revision that is; `.meta`: not known.
    private var group = GroupID.meta
    private var hasBeenAnswered = false

    /// A host waits so long for something to tell, and then says up to where there is nothing.
    private static let waitMillis: UInt32 = 5_000
    init(
        cluster: Cluster, slot: Slot, machine: SubMachineNumber, from: Bytes, end: Bytes?, patience: Duration?,
        through: Revision
    ) {
        self.cluster = cluster
        self.slot = slot
        self.machine = machine
        self.from = from
        self.end = end
        self.patience = patience
        self.through = through
    }

    /// Goes on behind a revision that came from elsewhere, perhaps of another group: the slot may have moved.
    mutating func restart(behind revision: Revision) {
        through = revision
        group = .meta
    }

    /// For one attempt, with all that the client does to find the leader.
    private static let timeout = Duration.seconds(20)

    /// The next changes; none, but another `through`, if nothing happened for some seconds.
    ///
    /// - Parameter waits: false: what is there now.
    mutating func next(waits: Bool = true) async throws(BifrostError) -> [Change] {
        let patience = Patience(patience)
        while true {
            let range = WatchRange(
                after: through, of: group, waitMillis: waits ? Self.waitMillis : 0, from: from, end: end)
            do throws(BifrostError) {
                let bytes = try await cluster.perform(
                    kind: .watch, target: .slot(slot), machine: machine, payload: range.encoded(), timeout: Self.timeout
                )
                do throws(DecodingFailure) {
                    let result = try DataResult(decoding: bytes)
                    let answer = try WatchAnswer(decoding: result.body)
                    through = max(through, result.revision)
                    group = answer.group
                    hasBeenAnswered = true
                    return answer.changes
                } catch {
                    throw BifrostError(malformed: error)
                }
            } catch {
                // Another leader may be of a version that knows no watches, for as long as hosts are upgraded.
                let isOlder = error.code == .invalid && hasBeenAnswered
                try await patience.pause(after: error, isPassing: isOlder)
            }
        }
    }
}

/// For how long something is asked again that no host could answer, from now on.
struct Patience {
    private static let pause = Duration.milliseconds(100)
    private let limit: Duration?
    private let began = RPCClock.now()

    /// - Parameter limit: nil: for ever.
    init(_ limit: Duration?) { self.limit = limit }

    /// Returns when it may be asked again.
    ///
    /// - Throws: the error, where another attempt would not help, and when the time is over.
    func pause(after error: BifrostError, isPassing: Bool = false) async throws(BifrostError) {
        guard isPassing || error.isRetrySafe, error.code != .cancelled, !Task.isCancelled else { throw error }
        if let limit, RPCClock.now().since(began) >= limit.nanoseconds { throw error }
        do { try await Task.sleep(for: Self.pause) } catch {
            throw BifrostError(.cancelled, "the task was cancelled", cause: error)
        }
    }

    /// Asks until there is an answer.
    func ask<Answer>(_ attempt: () async throws(BifrostError) -> Answer) async throws(BifrostError) -> Answer {
        while true {
            do throws(BifrostError) { return try await attempt() } catch { try await pause(after: error) }
        }
    }
}

extension [Change] {
    /// Whether the change here is the last of its revision: a command's changes come together.
    func isLastOfRevision(_ place: Int) -> Bool {
        place + 1 >= count || self[place + 1].revision != self[place].revision
    }
}
