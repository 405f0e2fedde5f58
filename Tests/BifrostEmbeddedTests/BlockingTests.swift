// Programs that are not async: clusters, and watches, for threads that wait.

import Bifrost
import BifrostEmbedded
import BifrostHost
import Foundation
import NIOCore
import NIOPosix
import Primitives
import Ring
import StateMachines
import Synchronization
import TestSupport
import Testing

private enum Gong: StateMachine {
    static let number = SubMachineNumber(5_002)
    static let commands: [any MachineCommand<Gong>.Type] = [Strike.self]
}

private struct Struck: MachineEvent, JSONMessage, Equatable {
    typealias Machine = Gong
    static let number: UInt16 = 1
    var gong: String
    var stroke: Int
    var key: Bytes { Bytes("{\(gong)}") }
}

private struct Strike: MachineCommand, JSONMessage {
    typealias Machine = Gong
    static let number: UInt16 = 1
    var gong: String
    var strokes: Int
    var key: Bytes { Bytes("{\(gong)}") }

    func apply(in context: inout MachineContext) throws -> Done {
        for stroke in 0..<strokes { try context.emit(Struck(gong: gong, stroke: stroke)) }
        return Done()
    }
}

/// What a thread without tasks makes of it.
private func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    let result = await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: Result { try body() }) }
    }
    return try result.get()
}

private func openWaiting(
    _ directory: String, machines: [any StateMachine.Type] = [], groups: Int? = nil
) throws(BifrostError) -> BlockingCluster {
    var options = ClusterOptions()
    options.timeout = .seconds(180)
    return try BlockingCluster.open(
        directory: directory, machines: machines, groups: groups, logger: quiet, options: options,
        configure: { small(&$0) })
}

/// On a thread; whatever comes of it, the cluster is closed at the end.
private func withWaiting<Value: Sendable>(
    machines: [any StateMachine.Type] = [], _ body: @escaping @Sendable (BlockingCluster) throws -> Value
) async throws -> Value {
    let directory = TestDirectory()
    return try await onThread {
        let cluster = try openWaiting(directory.path, machines: machines)
        defer { cluster.close() }
        return try body(cluster)
    }
}

private let patient = Duration.seconds(180)

@Suite(.ownExecutor) struct BlockingTests {
    @Test func aProgramWithoutTasksOpensADirectoryAndFindsItAgain() async throws {
        let directory = TestDirectory()
        try await onThread {
            let cluster = try openWaiting(directory.path, groups: 2)
            try cluster.put("a", "1")
            let twice = #expect(throws: BifrostError.self) { try openWaiting(directory.path) }
            #expect(twice?.code == .directory)
            cluster.close()
            let closed = #expect(throws: BifrostError.self) { try cluster.put("a", "2") }
            #expect(closed?.code == .closed)
            let again = try openWaiting(directory.path)
            #expect(try again.get("a")?.value == "1")
            #expect(try again.wait { cluster throws(BifrostError) in try await cluster.map().dataGroups.count } == 2)
            again.close()
        }
    }

    /// More than is fetched ahead, of many threads that write.
    @Test(.timeLimit(.minutes(15))) func aThreadIsToldAllThatHappensInItsOrder() async throws {
        try await withWaiting { cluster in
            for number in 0..<40 { try cluster.put(Bytes("{w}\(number)"), "before") }
            let watch = cluster.watch(prefix: "{w}")
            let writers = 4
            for writer in 0..<writers {
                Thread.detachNewThread {
                    do {
                        for number in 0..<100 { try cluster.put(Bytes("{w}\(number % 50)"), Bytes("\(writer)")) }
                        try cluster.delete(Bytes("{w}\(writer)"))
                        try cluster.put("{w}end", "")
                    } catch {
                        Issue.record("\(error)")
                    }
                }
            }
            var (state, ends, ready, last): ([Bytes: Bytes], Int, Int, Revision) = ([:], 0, 0, .zero)
            for change in watch where change.kind != .progress {
                if change.kind == .ready { ready += 1 }
                guard change.kind != .ready else { continue }
                if ready > 0 {
                    #expect(change.revision > last)
                    last = change.revision
                }
                state[change.key] = change.kind == .deleted ? nil : change.value
                if change.key == "{w}end" { ends += 1 }
                if ends == writers { break }
            }
            #expect(ready == 1)
            var there: [Bytes: Bytes] = [:]
            for record in try cluster.page(prefix: "{w}").records { there[record.key] = record.value }
            #expect(there == state)
            // One of a key is of that key alone, and a second loop goes on where the first one stopped.
            let one = cluster.watch("{w}1x", from: .now)
            for change in one where change.kind == .ready { break }
            for key in ["{w}1x", "{w}1", "{w}1x", "{w}1xx"] as [Bytes] { try cluster.put(key, key) }
            var revisions: [Revision] = []
            for _ in 0..<2 {
                for change in one where change.kind != .progress {
                    #expect(change.kind == .put && change.key == "{w}1x" && change.value == "{w}1x")
                    revisions.append(change.revision)
                    break
                }
            }
            #expect(revisions.count == 2 && revisions == Set(revisions).sorted())
        }
    }

    @Test(.timeLimit(.minutes(15)), arguments: [true, false])
    func aWatchEndsByCancelFromAnotherThreadAndWithItsCluster(byCancel: Bool) async throws {
        try await withWaiting { cluster in
            let watch = cluster.watch("k", from: .now)
            // Some threads wait for the same.
            let ready = DispatchSemaphore(value: 0)
            let ended = DispatchSemaphore(value: 0)
            for _ in 0..<3 {
                Thread.detachNewThread {
                    for change in watch where change.kind == .ready { ready.signal() }
                    ended.signal()
                }
            }
            ready.wait()
            if byCancel { watch.cancel() } else { cluster.close() }
            for _ in 0..<3 { ended.wait() }
            #expect(watch.next() == nil && watch.failure == nil)
            #expect(try watch.next(within: .zero) == nil)
            watch.cancel()
            // What was not taken is forgotten.
            guard byCancel else { return }
            try cluster.put("k", "1")
            let other = cluster.watch("k")
            #expect(other.next()?.kind == .present)
            // In all likelihood the next one waits by now.
            Thread.sleep(forTimeInterval: 0.2)
            other.cancel()
            #expect(other.next() == nil)
            #expect(try cluster.get("k")?.value == "1")
        }
    }

    @Test(.timeLimit(.minutes(15))) func whoWaitsNoLongerThanSoMuchMissesNothing() async throws {
        try await withWaiting { cluster in
            let watch = cluster.watch("k", from: .now)
            #expect(try watch.next(within: patient)?.kind == .ready)
            for number in 0..<3 {
                // `progress` comes after five seconds at the earliest.
                let late = #expect(throws: BifrostError.self) { try watch.next(within: .milliseconds(20)) }
                #expect(late?.code == .deadlineExceeded && late?.mayHaveHappened == false)
                #expect(watch.failure == nil)
                try cluster.put("k", Bytes("\(number)"))
                var change: KeyValueChange?
                repeat { change = try watch.next(within: patient) } while change?.kind == .progress
                #expect(change?.value == Bytes("\(number)"))
            }
        }
    }

    @Test(.timeLimit(.minutes(15))) func aWatchThatCanNotGoOnSaysWhy() async throws {
        try await withWaiting { cluster in
            let wrong = cluster.watch(prefix: "no tag")
            for change in wrong { Issue.record("\(change)") }
            #expect(wrong.failure?.code == .invalid)
            #expect(throws: BifrostError(.invalid, "")) { try wrong.next(within: patient) }

            // Little is fetched ahead; hosts have a megabyte, and no more is kept for a thread that does not take it.
            let slow = cluster.watch(prefix: "{s}", from: .now)
            #expect(slow.next()?.kind == .ready)
            let block = Bytes([UInt8](repeating: 1, count: 60_000))
            for number in 0..<200 { try cluster.put(Bytes("{s}\(number)"), block) }
            let told = slow.filter { $0.kind != .progress }
            #expect((1..<150).contains(told.count), "\(told.count)")
            #expect(told.map(\.key) == told.indices.map { Bytes("{s}\($0)") })
            #expect(slow.failure?.code == .compacted && slow.failure?.cause is CompactedFailure)
        }
    }

    @Test(.timeLimit(.minutes(15))) func eventsStandWhenTheyAreReturned() async throws {
        try await withWaiting(machines: [Gong.self]) { cluster in
            for round in 0..<20 {
                let gong = "gong \(round)"
                let events = try cluster.events(Struck.self, of: Bytes("{\(gong)}"))
                try cluster.submit(Strike(gong: "other", strokes: 1))
                try cluster.submit(Strike(gong: gong, strokes: 2))
                let first = try events.next(within: patient)
                #expect(first?.event == Struck(gong: gong, stroke: 0))
                #expect(try events.next(within: patient)?.event == Struck(gong: gong, stroke: 1))
                // Later, behind a revision.
                let resume = try #require(first?.resume)
                let again = try cluster.events(Struck.self, of: Bytes("{\(gong)}"), from: .after(resume))
                #expect(again.prefix(2).map(\.event.stroke) == [0, 1])
            }
            #expect(throws: BifrostError(.invalid, "")) { try cluster.events(Struck.self, of: "", from: .now) }
        }
    }

    @Test(.timeLimit(.minutes(15))) func aWatchThatNobodyHasKeepsNoCluster() async throws {
        let directory = TestDirectory()
        try await onThread {
            let cluster = try openWaiting(directory.path)
            try cluster.put("a", "1")
            for change in cluster.watch("a") where change.kind == .ready { break }
            // One whose task waits for room.
            for number in 0..<100 { try cluster.put(Bytes("{f}\(number)"), "") }
            let watch = cluster.watch(prefix: "{f}")
            #expect(watch.next()?.key == "{f}0")
            // In all likelihood it does by now.
            Thread.sleep(forTimeInterval: 0.2)
            watch.cancel()
        }
        try await wait(for: "a directory that nobody holds") {
            do throws(BifrostError) {
                let again = try await Cluster.open(directory: directory.path, logger: quiet, configure: small)
                await again.close()
                return true
            } catch {
                #expect(error.code == .directory)
                return false
            }
        }
    }

    /// It would wait for itself, for ever.
    @Test(.timeLimit(.minutes(15))) func onAnEventLoopItEndsTheProgram() async throws {
        await #expect(processExitsWith: .failure) {
            let ended = try? await MultiThreadedEventLoopGroup.singleton.next().submit {
                try? BlockingCluster.connect(to: ["nowhere"])
            }.get()
            _ = ended
        }
    }
}
