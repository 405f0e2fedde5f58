// The client for programs that are not async: each call waits on the thread that makes it.

import Dispatch
import NIOPosix
public import Primitives
public import StateMachines
import Synchronization

/// A connection to a Bifrost cluster whose functions return when their operation has ended.
///
///     let cluster = try BlockingCluster.connect(to: ["127.0.0.1:7001"])
///     try cluster.put("greeting", "hello")
///     print(try cluster.get("greeting")?.value.string ?? "nothing")
///     cluster.close()
///
/// Any number of threads may use it at once. Never call it from an async function or an event loop: it stops the thread
/// that others wait for, its own answer among them, and may never return. On an event loop it ends the program instead.
/// What it does not offer by name, `wait` does with the async client. Errors and guarantees are those of `Cluster`.
///
/// `BlockingCluster.open(directory:)` of the module `BifrostEmbedded` opens a cluster in the program itself.
public final class BlockingCluster: Sendable {
    private let cluster: Cluster

    package init(_ cluster: Cluster) { self.cluster = cluster }

    /// As `Cluster.connect`.
    public static func connect(
        to addresses: [String], options: ClusterOptions = ClusterOptions()
    ) throws(BifrostError) -> BlockingCluster {
        BlockingCluster(
            try waiting { () async throws(BifrostError) in try await Cluster.connect(to: addresses, options: options) })
    }

    /// As `Cluster.close`. Watches end.
    public func close() {
        Self.untilDone { [cluster] in await cluster.close() }
    }

    /// Does something with the async client, and waits for its end.
    ///
    /// Cost: one task, and two switches of threads.
    public func wait<Value: Sendable>(
        _ body: @escaping @Sendable (Cluster) async throws(BifrostError) -> Value
    ) throws(BifrostError) -> Value {
        let cluster = cluster
        return try Self.waiting { () async throws(BifrostError) in try await body(cluster) }
    }

    /// As `KeyValueStore.put`.
    @discardableResult
    public func put(_ key: Bytes, _ value: Bytes, timeout: Duration? = nil) throws(BifrostError) -> Revision {
        try wait { cluster throws(BifrostError) in try await cluster.kv.put(key, value, timeout: timeout) }
    }

    /// As `KeyValueStore.delete`.
    @discardableResult
    public func delete(_ key: Bytes, timeout: Duration? = nil) throws(BifrostError) -> Revision {
        try wait { cluster throws(BifrostError) in try await cluster.kv.delete(key, timeout: timeout) }
    }

    /// As `KeyValueStore.get`.
    public func get(
        _ key: Bytes, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) throws(BifrostError) -> (value: Bytes, revision: Revision)? {
        try wait { cluster throws(BifrostError) in try await cluster.kv.get(key, consistency, timeout: timeout) }
    }

    /// As `KeyValueStore.watch`: what becomes of one key, for a thread that waits for it. Does not wait itself; `ready`
    /// is told when nothing is missed any more.
    ///
    /// - Parameter patience: it fails when no host could be asked for so long; nil: it goes on until it is cancelled.
    public func watch(
        _ key: Bytes, from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> BlockingWatch<KeyValueChange> {
        BlockingWatch(cluster.kv.watch(key, from: start, patience: patience))
    }

    /// The same for all keys that begin with `prefix`, which has a whole tag in it, such as `{user:7}/`.
    public func watch(
        prefix: Bytes, from start: WatchStart = .snapshot, patience: Duration? = nil
    ) -> BlockingWatch<KeyValueChange> {
        BlockingWatch(cluster.kv.watch(prefix: prefix, from: start, patience: patience))
    }

    /// As `KeyValueStore.transaction`.
    public func transaction(
        if conditions: [KeyValueTransaction.Condition], then: [KeyValueTransaction.Operation],
        otherwise: [KeyValueTransaction.Operation] = [], timeout: Duration? = nil
    ) throws(BifrostError) -> TransactionResult {
        try wait { cluster throws(BifrostError) in
            try await cluster.kv.transaction(if: conditions, then: then, otherwise: otherwise, timeout: timeout)
        }
    }

    /// As `KeyValueStore.page`.
    public func page(
        prefix: Bytes, from first: Bytes? = nil, recordsMax: Int = 1_000, timeout: Duration? = nil
    ) throws(BifrostError) -> ScanPage {
        try wait { cluster throws(BifrostError) in
            try await cluster.kv.page(prefix: prefix, from: first, recordsMax: recordsMax, timeout: timeout)
        }
    }

    /// As `MachineClient.submit`.
    @discardableResult
    public func submit<Command: MachineCommand>(
        _ command: Command, timeout: Duration? = nil
    ) throws(BifrostError) -> Command.Answer {
        try wait { cluster throws(BifrostError) in
            try await cluster.machine(Command.Machine.self).submit(command, timeout: timeout)
        }
    }

    /// As `MachineClient.query`.
    public func query<Query: MachineQuery>(
        _ query: Query, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) throws(BifrostError) -> Query.Answer {
        try wait { cluster throws(BifrostError) in
            try await cluster.machine(Query.Machine.self).query(query, consistency, timeout: timeout)
        }
    }

    /// As `MachineClient.events`. Returns when the watch stands: it misses nothing that happens afterwards.
    public func events<Event: MachineEvent>(
        _: Event.Type, of key: Bytes, from start: WatchStart = .now, patience: Duration? = nil
    ) throws(BifrostError) -> BlockingWatch<MachineEvents<Event>.Element> {
        let events = try wait { cluster throws(BifrostError) in
            try await cluster.machine(Event.Machine.self).events(
                Event.self, of: key, from: start, patience: patience
            ).standing()
        }
        return BlockingWatch(events)
    }

    package static func waiting<Value: Sendable>(
        _ body: @escaping @Sendable () async throws(BifrostError) -> Value
    ) throws(BifrostError) -> Value {
        let outcome = Outcome<Value>()
        untilDone {
            do throws(BifrostError) { outcome.set(.success(try await body())) } catch { outcome.set(.failure(error)) }
        }
        return try outcome.get()
    }

    private static func untilDone(_ body: @escaping @Sendable () async -> Void) {
        preconditionMayWait()
        let done = DispatchSemaphore(value: 0)
        Task.detached {
            await body()
            done.signal()
        }
        done.wait()
    }

    /// Set by the task before the waiting thread reads it.
    private final class Outcome<Value: Sendable>: Sendable {
        private let result = Mutex<Result<Value, BifrostError>?>(nil)
        func set(_ result: Result<Value, BifrostError>) { self.result.withLock { $0 = result } }
        func get() throws(BifrostError) -> Value {
            guard let result = result.withLock({ $0 }) else { preconditionFailure("the task has ended") }
            return try result.get()
        }
    }
}

/// An event loop that waits is one that the answer may wait for.
func preconditionMayWait() {
    precondition(
        MultiThreadedEventLoopGroup.currentEventLoop == nil,
        "a BlockingCluster can't be waited for on an event loop, which its answers may need: use Cluster there")
}
