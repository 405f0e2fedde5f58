// Which hosts of a map say nothing, looked at beside whatever else is asked of them: who asks all hosts does not wait for
// one that is gone longer than it takes to know that. Owns the looks; what is asked, and what an end without that host
// means, is the asker's.

import Messages
import Primitives
import Ring
import Synchronization

/// Looks at all hosts each second until its task is cancelled.
final class HostSilence: Sendable {
    private struct State {
        var map: ClusterMap?
        /// Of hosts that did not answer when they were looked at last: how often in a row, and why.
        var silent: [HostID: (looks: Int, why: String)] = [:]
    }

    private let administrator: Administrator
    private let state = Mutex(State())

    /// Looks without an answer after which a host counts as gone: about as many seconds, twice as many if it takes
    /// connections and says nothing. By looks, and not by the clock: where this machine stands still, one look is missed.
    private static let looksMax = 10
    private static let pause = Duration.seconds(1)

    init(_ administrator: Administrator) { self.administrator = administrator }

    /// Whom to look at from now on.
    func look(at map: ClusterMap) { state.withLock { $0.map = map } }

    func run() async {
        while !Task.isCancelled {
            await look()
            do { try await Task.sleep(for: Self.pause) } catch { return }
        }
    }

    /// It did not answer at the last look.
    func isSilent(_ host: HostID) -> Bool { state.withLock { $0.silent[host] != nil } }

    /// Why it is not waited for any more; nil: it answers, or may yet.
    func isGone(_ host: HostID) -> String? {
        state.withLock { state in
            guard let silent = state.silent[host], silent.looks >= Self.looksMax else { return nil }
            return silent.why
        }
    }

    private func look() async {
        guard let map = state.withLock({ $0.map }), let accounts = try? await administrator.accounts(map) else {
            return
        }
        for account in accounts {
            let host = account.host
            if let status = account.status, status.cluster == map.cluster, status.host == host.id {
                state.withLock { $0.silent[host.id] = nil }
                continue
            }
            let why = account.status == nil ? account.problem : "another host answers there"
            let looks = state.withLock { state in
                let looks = (state.silent[host.id]?.looks ?? 0) + 1
                state.silent[host.id] = (looks, why)
                return looks
            }
            // What is asked of it ends now, however long it may take.
            if looks == Self.looksMax { administrator.hangUp(host.address) }
        }
    }
}
