// Watches over real hosts, as a program uses them: a snapshot and then the changes, through ends of hosts.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import StateMachines
import TestSupport
import Testing

private enum Bell: StateMachine {
    static let number = SubMachineNumber(5_100)
    static let commands: [any MachineCommand<Bell>.Type] = [Ring.self]
}

private struct Rung: MachineEvent, JSONMessage, Equatable {
    typealias Machine = Bell
    static let number: UInt16 = 1
    var bell: String
    var stroke: Int
    var key: Bytes { Bytes("{\(bell)}") }
}

private struct Ring: MachineCommand, JSONMessage {
    typealias Machine = Bell
    static let number: UInt16 = 1
    var bell: String
    var strokes: Int
    var fails = false
    var key: Bytes { Bytes("{\(bell)}") }

    func apply(in context: inout MachineContext) throws -> Done {
        for stroke in 0..<strokes { try context.emit(Rung(bell: bell, stroke: stroke)) }
        if fails { throw MachineFailure(1, "cracked") }
        return Done()
    }
}

@Suite(.ownExecutor) struct WatchClientTests {
    @Test(.timeLimit(.minutes(5)))
    func aSnapshotAndTheChangesBehindItAreOneStoryThroughEndsOfHosts() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let large = Bytes(Array(repeating: 65, count: 20_000))
            for number in 0..<120 { try await cluster.kv.put(Bytes("{w}\(1_000 + number)"), large) }
            let writes = 400
            let writer = Task {
                for number in 0..<writes {
                    let key = Bytes("{w}\(1_000 + number * 7 % 150)")
                    if number % 5 == 4 {
                        try await cluster.kv.delete(key, timeout: .seconds(120))
                    } else {
                        try await cluster.kv.put(key, Bytes("\(number)"), timeout: .seconds(120))
                    }
                }
                try await cluster.kv.put("{w}end", "end", timeout: .seconds(120))
            }
            var state: [Bytes: Bytes] = [:]
            var last = Revision.zero
            var isReady = false
            var total = 0
            // By so many changes a host ends, and comes back.
            var ends = [60, 150]
            var resume: Revision?
            watch: while true {
                // Now and then from the beginning of what was seen, as after the watcher's own end.
                let start = resume.map { WatchStart.after($0) } ?? .snapshot
                do {
                    var seen = 0
                    for try await change in cluster.kv.watch(prefix: "{w}", from: start, patience: .seconds(120)) {
                        switch change.kind {
                        case .present, .put: state[change.key] = change.value
                        case .deleted, .expired: state[change.key] = nil
                        case .ready: isReady = true
                        case .progress: break
                        }
                        if isReady, change.kind != .ready, change.kind != .progress {
                            #expect(change.revision > last, "\(change)")
                            last = change.revision
                        }
                        if let at = change.resume { resume = at }
                        if change.key == "{w}end" { break watch }
                        seen += 1
                        total += change.kind == .present ? 0 : 1
                        if ends.first.map({ total >= $0 }) == true {
                            ends.removeFirst()
                            await hosts.stop(ends.count)
                            try await hosts.start(ends.count, loops: 1)
                        }
                        if isReady, seen % 50 == 49 { continue watch }
                    }
                } catch let error as BifrostError where error.code == .compacted {
                    // A host that was just started has not all of it.
                    #expect(error.cause is CompactedFailure)
                    (state, last, isReady, resume) = ([:], .zero, false, nil)
                }
            }
            try await writer.value
            var there: [Bytes: Bytes] = [:]
            for try await record in cluster.kv.scan(prefix: "{w}") { there[record.key] = record.value }
            #expect(there == state)
            await cluster.close()
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func keysWithTimesToLiveEndAndWhoWatchesIsTold() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            var changes = cluster.kv.watch("k", from: .now).makeAsyncIterator()
            #expect(try await changes.next(isolation: nil)?.kind == .ready)
            try await cluster.kv.put("k", "1", timeToLive: .milliseconds(800))
            try await cluster.kv.put("k", "2", if: .value("1"), timeToLive: .milliseconds(1_200))
            var kinds: [KeyValueChange.Kind] = []
            while kinds.last != .expired { kinds.append(try #require(await changes.next(isolation: nil)).kind) }
            #expect(kinds.filter { $0 != .progress } == [.put, .put, .expired])
            #expect(try await cluster.kv.get("k") == nil)
            await #expect(throws: BifrostError.self) { try await cluster.kv.put("k", "", timeToLive: .zero) }
            await cluster.close()
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func eventsOfAMachineAreToldOnceTheyTookEffect() async throws {
        let machines = try StateMachineRegistry([Bell.self])
        try await withHosts(
            loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current, { $0.machines = machines }
        ) { hosts in
            let cluster = try await hosts.client()
            let bell = cluster.machine(Bell.self)
            var events = bell.events(Rung.self, of: "{big}").makeAsyncIterator()
            try await events.begin()
            try await bell.submit(Ring(bell: "small", strokes: 1))
            await #expect(throws: BifrostError.self) {
                try await bell.submit(Ring(bell: "big", strokes: 2, fails: true))
            }
            try await bell.submit(Ring(bell: "big", strokes: 3))
            await #expect(throws: BifrostError.self) { try await bell.submit(Ring(bell: "big", strokes: 257)) }
            var told: [MachineEvents<Rung>.Element] = []
            while told.count < 3 { told.append(try #require(await events.next(isolation: nil))) }
            #expect(told.map(\.event) == (0..<3).map { Rung(bell: "big", stroke: $0) })
            #expect(Set(told.map(\.revision)).count == 1)
            // Behind the second of three, all three come again: they belong together.
            #expect(told[1].resume < told[2].resume && told[2].resume == told[2].revision)
            var again = bell.events(of: "{big}", from: .after(told[1].resume)).makeAsyncIterator()
            for stroke in 0..<3 {
                let record = try #require(await again.next(isolation: nil))
                #expect(try Rung(decoding: record.body).stroke == stroke)
            }
            try await hosts.waitForEqualStates()
            await cluster.close()
        }
    }
}
