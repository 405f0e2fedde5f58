// Slots that move while somebody begins to save the cluster: what moves is brought to an end first, so that the saved map and
// the saved states agree about who has what. Owns what is asked for and how long it goes on; asking is Administrator's.

import Messages
package import Primitives
import RPC
package import Ring
import StateMachines
import Synchronization

/// What a save does about migrations, look by look at the map. Pure.
package struct MigrationEnding: Sendable {
    package enum Step: Sendable, Equatable {
        /// None is under way.
        case over
        /// Nothing is decided yet of this one.
        case abort(MigrationRecord)
        /// What those that are under way wait for.
        case wait(String)
        /// New ones come again and again.
        case endless(String)
    }

    /// Whose migrations it is about; nil: all.
    private let group: GroupID?
    private var last: [MigrationRecord]?
    /// Those that were there at the first look, or begun since.
    private var seen: Set<MigrationID> = []
    private var begun = 0

    private var looks = 0
    /// Looks at which those of which nothing is decided are left to come to their end.
    private let patience: Int

    /// How many may be begun by others while this waits.
    package static let begunMax = 32

    package init(of group: GroupID? = nil, patience: Int = 0) {
        self.group = group
        self.patience = patience
    }

    /// - Returns: and whether anything came further since the last look.
    package mutating func next(_ map: ClusterMap) -> (step: Step, isProgress: Bool) {
        let present = map.migrations.filter { group == nil || $0.source == group || $0.target == group }
        let isProgress = last != present
        if last != nil { begun += present.count { !seen.contains($0.id) } }
        seen.formUnion(present.map(\.id))
        last = present
        guard let first = present.first else { return (.over, isProgress) }
        guard begun <= Self.begunMax else {
            return (.endless("\(begun) migrations were begun while those before were waited for"), isProgress)
        }
        looks += 1
        if looks > patience, let open = present.first(where: \.canAbort) { return (.abort(open), isProgress) }
        let more = present.count > 1 ? ", \(present.count - 1) more are under way" : ""
        return (.wait(Self.words(first) + more), isProgress)
    }

    package static func words(_ migration: MigrationRecord) -> String {
        let name = "migration \(migration.id) of \(HumanText.count(migration.slots.count, "slot"))"
        return switch migration.state {
        case .copying: "\(name) is copying"
        case .committed: "\(name) waits for \(migration.source.words) to release them"
        case .released: "\(name) waits for \(migration.target.words) to serve them"
        case .activated: "\(name) waits for \(migration.source.words) to delete what it had"
        case .settling: "\(name) waits for both groups to settle what a recovery decided"
        case .aborting:
            (migration.lostTime == .none
                ? "\(name) is aborted" : "\(name) is called off, as \(migration.lostTime.words(of: migration.source))")
                + ", and waits for both groups to forget it"
        }
    }
}

extension SnapshotSave {
    /// Some seconds of looks: moves that are small come to their end, so that no step of a rebalancing is taken back for a save.
    private static let looksOfPatience = 50

    /// Returns when no migration is under way: they are waited for, and those that nothing is decided of after some seconds are
    /// aborted.
    ///
    /// - Parameter patience: how long it goes on while nothing comes further.
    /// - Returns: the map as it is then.
    /// - Throws: 4 when that is over, with what is waited for; nothing was saved by then.
    func endMigrations(
        _ administrator: Administrator, _ patience: Duration, _ meter: ProgressMeter
    ) async throws(ToolError) -> ClusterMap {
        var ending = MigrationEnding(of: group?.id, patience: Self.looksOfPatience)
        let nanoseconds = UInt64(max(0, patience / .nanoseconds(1)))
        var progressed = RPCClock.now()
        while true {
            let map = try await administrator.map(until: RPCClock.now() + nanoseconds)
            let (step, isProgress) = ending.next(map)
            if isProgress { progressed = RPCClock.now() }
            var text: String
            switch step {
            case .over:
                meter.set(notes: "")
                return map
            case .endless(let why):
                throw ToolError(
                    .unavailable,
                    "\(why): slots have to stay where they are while a cluster is saved. Stop whoever moves them, and run the "
                        + "same command again")
            case .wait(let what): text = what
            case .abort(let migration):
                text = "aborts migration \(migration.id)"
                meter.set(notes: text)
                let asker = Administrator(options, timeout: patience)
                defer { asker.close() }
                do throws(ToolError) {
                    _ = try await asker.bring(about: .abortMigration(migration.id), from: map)
                } catch {
                    // Decided in that moment, or lost on the way: the next map tells.
                    guard error.status == .negative || error.status == .outcomeUnknown else { throw error }
                    text = "\(MigrationEnding.words(migration)) (\(error.message))"
                }
            }
            meter.set(notes: text)
            guard RPCClock.now().since(progressed) < nanoseconds else {
                throw ToolError(
                    .unavailable,
                    "\(text): slots have to stay where they are while a cluster is saved, and this did not end within the "
                        + "time. Run the same command again when the hosts are steady")
            }
            do { try await Task.sleep(for: .milliseconds(100)) } catch { throw ToolError(error) }
        }
    }
}

/// Lets no step of a rebalancing begin while a cluster is saved, and go on afterwards. Nothing is done where none is under way, or
/// somebody has paused it already.
final class RebalancingHold: Sendable {
    private let options: ClientOptions
    private let paused = Mutex<RebalancingID?>(nil)
    private static let lookNanoseconds: UInt64 = 5_000_000_000

    init(_ options: ClientOptions) { self.options = options }

    /// What can't be paused goes on: then a save may find that slots have moved, and says so.
    func begin(_ map: ClusterMap) async {
        guard map.featureLevel >= FeatureLevel.migrations else { return }
        let administrator = Administrator(options, timeout: .nanoseconds(Int64(Self.lookNanoseconds)))
        defer { administrator.close() }
        do throws(ToolError) {
            let end = RPCClock.now() + Self.lookNanoseconds
            _ = try await administrator.map(until: end)
            guard let record = try await administrator.rebalancing(until: end)?.rebalancing, !record.isOver,
                !record.isPaused, !record.isCancelled
            else { return }
            // Also if it is not known whether that was done.
            paused.withLock { $0 = record.id }
            try await administrator.set(record.id, .pause)
        } catch {}
    }

    /// - Returns: false: it stays paused, as nobody could be told.
    func end() async -> Bool {
        guard let id = paused.withLock({ (id: inout RebalancingID?) in id.take() }) else { return true }
        let administrator = Administrator(options, timeout: .nanoseconds(Int64(Self.lookNanoseconds)))
        defer { administrator.close() }
        do throws(ToolError) {
            let end = RPCClock.now() + Self.lookNanoseconds
            _ = try await administrator.map(until: end)
            guard let record = try await administrator.rebalancing(until: end)?.rebalancing, record.id == id,
                record.isPaused, !record.isOver, !record.isCancelled
            else { return true }
            try await administrator.set(id, .resume)
            return true
        } catch { return false }
    }

    static let note =
        "the rebalancing stays paused, as nobody could be told to go on: 'bifrost rebalance resume' does it"
}
