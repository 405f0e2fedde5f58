// Watches over real hosts, as a program uses them: a snapshot and then the changes, through ends of hosts.

import Bifrost
import BifrostHost
import HostCore
import Messages
import Primitives
import Ring
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

/// Of another number, and otherwise the same.
private struct Cracked: MachineEvent, JSONMessage, Equatable {
    typealias Machine = Bell
    static let number: UInt16 = 2
    var bell: String
    var stroke = 0
    var key: Bytes { Bytes("{\(bell)}") }
}

private struct Ring: MachineCommand, JSONMessage {
    typealias Machine = Bell
    static let number: UInt16 = 1
    var bell: String
    var strokes: Int
    var fails = false
    var cracks = false
    var key: Bytes { Bytes("{\(bell)}") }

    func apply(in context: inout MachineContext) throws -> Done {
        if cracks { try context.emit(Cracked(bell: bell)) }
        for stroke in 0..<strokes { try context.emit(Rung(bell: bell, stroke: stroke)) }
        if fails { throw MachineFailure(1, "cracked") }
        return Done()
    }
}

@Suite(.ownExecutor) struct WatchClientTests {
    @Test(.timeLimit(.minutes(15)))
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

    @Test(.timeLimit(.minutes(15)))
    func keysWithTimesToLiveEndAndWhoWatchesIsTold() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            var changes = cluster.kv.watch("k", from: .now).makeAsyncIterator()
            #expect(try await changes.next(isolation: nil)?.kind == .ready)
            try await cluster.kv.put("k", "1", timeToLive: .seconds(600))
            try await cluster.kv.put("k", "2", if: .value("1"), timeToLive: .milliseconds(1_200))
            var kinds: [KeyValueChange.Kind] = []
            while kinds.last != .expired { kinds.append(try #require(await changes.next(isolation: nil)).kind) }
            #expect(kinds.filter { $0 != .progress } == [.put, .put, .expired])
            #expect(try await cluster.kv.get("k") == nil)
            await #expect(throws: BifrostError.self) { try await cluster.kv.put("k", "", timeToLive: .zero) }
            await cluster.close()
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func eventsOfAMachineAreToldOnceTheyTookEffect() async throws {
        let machines = try StateMachineRegistry([Bell.self])
        try await withHosts(
            loops: [1, 1, 1], groups: 2, featureLevel: FeatureLevel.current, { $0.machines = machines }
        ) { hosts in
            let cluster = try await hosts.client()
            let bell = cluster.machine(Bell.self)
            // Those before it began are not told, nor those of another tag, though it is one of the same slot.
            try await bell.submit(Ring(bell: "big", strokes: 1))
            let wanted = slot(of: "{big}")
            let other = try #require(
                (0..<1_000_000).lazy.map { "\($0)" }.first { slot(of: Bytes("{\($0)}")) == wanted })
            var events = bell.events(Rung.self, of: "{big}").makeAsyncIterator()
            try await events.begin()
            try await bell.submit(Ring(bell: other, strokes: 1))
            try await bell.submit(Ring(bell: "big", strokes: 0, cracks: true))
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
            // One of another type alone; and of what there is no snapshot.
            let began = try #require(told.first).revision
            var cracked = bell.events(Cracked.self, of: "{big}", from: .after(.zero)).makeAsyncIterator()
            let first = try #require(await cracked.next(isolation: nil))
            #expect(first.event == Cracked(bell: "big") && first.resume == first.revision && first.revision < began)
            var snapshot = bell.events(of: "{big}", from: .snapshot).makeAsyncIterator()
            await #expect(throws: BifrostError(.invalid, "")) { try await snapshot.begin() }
            try await hosts.waitForEqualStates()
            await cluster.close()
        }
    }

    /// A snapshot of three pages, with writes behind each: to what was read, to what is read later, and to neither.
    @Test(.timeLimit(.minutes(15)))
    func whatChangesWhileASnapshotIsReadIsToldOnceAndInOrder() async throws {
        try await withHosts(loops: [1], groups: 1, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            // Two of them fill a page.
            func long(_ mark: String) -> Bytes { Bytes(mark + String(repeating: " ", count: 400_000)) }
            for number in 0..<9 { try await cluster.kv.put(Bytes("{p}\(number)"), long("old")) }
            var lines: [String] = []
            var ready: Revision?
            var changes = cluster.kv.watch(prefix: "{p}").makeAsyncIterator()
            func line(_ change: KeyValueChange) -> String {
                let place = change.resume.map { $0 == change.revision ? "" : " (\($0 == change.revision.previous))" }
                return "\(change.kind) \(change.key) \(change.value.string.prefix { $0 != " " })\(place ?? " …")"
            }
            func next(_ count: Int) async throws {
                let wanted = lines.count + count
                while lines.count < wanted {
                    let change = try #require(await changes.next(isolation: nil))
                    if change.kind == .ready { ready = change.revision }
                    if change.kind != .progress { lines.append(line(change)) }
                }
            }
            try await next(1)
            try await cluster.kv.put("{p}0", "second")
            try await cluster.kv.put("{p}3", "second")
            try await cluster.kv.delete("{p}4")
            try await cluster.kv.put("{p}0b", "new")
            try await cluster.kv.put("{p}7", "second")
            try await next(2)
            try await cluster.kv.put("{p}2", "third")
            try await cluster.kv.delete("{p}1")
            try await cluster.kv.put("{p}7", "third")
            try await next(5)
            let last = try await cluster.kv.page(prefix: "{p}").revision
            try await cluster.kv.put("{p}3", "fourth")
            let both = try await cluster.kv.transaction(
                if: [], then: [.put(key: "{p}9", value: "one"), .put(key: "{p}9b", value: "two")])
            try await next(8)
            #expect(
                lines == [
                    "present {p}0 old …", "present {p}1 old …", "present {p}2 old …", "present {p}3 second …",
                    "present {p}5 old …", "put {p}0 second …", "put {p}0b new …", "present {p}6 old …",
                    "present {p}7 third …", "present {p}8 old …", "put {p}2 third …", "deleted {p}1  …", "ready  ",
                    "put {p}3 fourth", "put {p}9 one (true)", "put {p}9b two",
                ])
            #expect(ready == last)
            // What happens elsewhere in the group moves it on, too, after some seconds.
            try await cluster.kv.put("{q}", "")
            let progress = try #require(await changes.next(isolation: nil))
            #expect(progress.kind == .progress && progress.revision > both.revision && progress.resume != nil)

            // Of one transaction, the first is no place to go on behind.
            lines = []
            _ = try await cluster.kv.transaction(
                if: [], then: [.put(key: "{p}9", value: "three"), .put(key: "{p}9b", value: "four")])
            try await next(2)
            #expect(lines == ["put {p}9 three (true)", "put {p}9b four"])

            // From now on; one key; and behind a revision, the same again.
            var one = cluster.kv.watch("{p}0", from: .now).makeAsyncIterator()
            let begin = try #require(await one.next(isolation: nil))
            #expect(begin.kind == .ready && begin.resume == begin.revision)
            for key in ["{p}", "{p}00", "{p}0", "{p}1"] as [Bytes] { try await cluster.kv.put(key, "last") }
            let told = try #require(await one.next(isolation: nil))
            #expect(line(told) == "put {p}0 last")
            var behind = cluster.kv.watch(prefix: "{p}", from: .after(begin.revision)).makeAsyncIterator()
            for key in ["{p}", "{p}00", "{p}0", "{p}1"] as [Bytes] {
                #expect(try await behind.next(isolation: nil)?.key == key)
            }
            var untagged = cluster.kv.watch(prefix: "p").makeAsyncIterator()
            await #expect(throws: BifrostError(.invalid, "")) { try await untagged.next(isolation: nil) }
            await cluster.close()
        }
    }

    /// One operation at a time: a second watch is turned down for as long as the first one waits.
    @Test(.timeLimit(.minutes(15)))
    func aWatchThatIsTurnedDownComesBackAsLongAsItsPatienceLasts() async throws {
        try await withHosts(loops: [1], groups: 1, featureLevel: FeatureLevel.current) { hosts in
            let writer = try await hosts.client()
            let revision = try await writer.kv.put("k", "1")
            var options = ClusterOptions()
            options.operationsMax = 1
            let cluster = try await Cluster.connect(to: hosts.addresses, options: options)
            let first = Task {
                for try await _ in cluster.kv.watch("a", from: .after(revision)) {}
            }
            try await wait(for: "a watch that waits") {
                do throws(BifrostError) { _ = try await cluster.kv.get("k") } catch { return error.code == .overloaded }
                return false
            }
            var impatient = cluster.kv.watch("k", from: .after(revision), patience: .milliseconds(300))
                .makeAsyncIterator()
            await #expect(throws: BifrostError(.overloaded, "")) { try await impatient.next(isolation: nil) }
            let patient = Task {
                var changes = cluster.kv.watch("k", from: .after(revision)).makeAsyncIterator()
                return try await changes.next(isolation: nil)
            }
            await OwnExecutor.pause(milliseconds: 300)
            first.cancel()
            try await writer.kv.put("k", "2")
            #expect(try await patient.value?.value == "2")
            await cluster.close()
            await writer.close()
        }
    }
}
