// Waits for something to become of one record: a place among those who wait, a member, a latch. Owns the way from the watch
// of it to the object itself and back, where the watch can't tell any more what was; what is waited for is said by others.

import Messages
import Primitives
import Ring

/// One record of an object, for who waits for something to become of it.
struct RecordWatch: Sendable {
    let object: ReliableObject
    let machine: SubMachineNumber
    let key: Bytes
    /// Goes on whatever the hosts answer: of who has something, and must not give it up for a host that can't tell.
    var isSteadfast = false

    /// Before a host that can't tell is asked again.
    private static let pause = Duration.seconds(1)

    /// What is said by the first change that says something.
    ///
    /// - Parameters:
    ///   - revision: all up to here is known; nil: nothing is, and the object is asked first.
    ///   - told: what a change says; nil: nothing.
    ///   - asked: the same of the object itself, and the group's revision at that moment. Asked again as long as no host can
    ///     be reached.
    /// - Throws: what these two throw, unless it is steadfast; `cancelled`; `closed`.
    func first<Answer: Sendable>(
        behind revision: Revision? = nil, told: (Change) throws(BifrostError) -> Answer?,
        asked: () async throws(BifrostError) -> (Answer?, Revision)
    ) async throws(BifrostError) -> Answer {
        var feed = WatchFeed(
            cluster: object.cluster, slot: Ring.slot(of: object.name), machine: machine, from: key,
            end: Bytes(key.array + [0]), patience: nil, through: revision ?? .zero)
        var asks = revision == nil
        // An answer has come since the object was asked.
        var isTold = true
        while true {
            if asks {
                do throws(BifrostError) {
                    let (answer, revision) = try await Patience(nil).ask(asked)
                    if let answer { return answer }
                    feed.restart(behind: revision)
                } catch {
                    try await pause(after: error)
                    continue
                }
                (asks, isTold) = (false, false)
            }
            let changes: [Change]
            do throws(BifrostError) { changes = try await feed.next() } catch {
                asks = true
                // Too late for what was told: the object itself knows. At once, but not again and again.
                let isLate = error.code == .compacted || error.code == .malformedAnswer
                if !isLate { try await pause(after: error) } else if !isTold { try await sleep() }
                continue
            }
            isTold = true
            for change in changes {
                if let answer = try told(change) { return answer }
            }
        }
    }

    /// - Throws: the error, where nothing better can come of it.
    private func pause(after error: BifrostError) async throws(BifrostError) {
        guard isSteadfast, error.code != .cancelled, error.code != .closed else { throw error }
        try await sleep()
    }

    private func sleep() async throws(BifrostError) {
        do { try await Task.sleep(for: Self.pause) } catch {
            throw BifrostError(.cancelled, "the task was cancelled", cause: error)
        }
    }
}
