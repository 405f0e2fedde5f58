// Bifrost's data types on real hosts, as a program uses them.

import Bifrost
import BifrostHost
import DataTypes
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

private struct User: JSONMessage, Equatable {
    var name: String
    var age: Int
}

@Suite(.ownExecutor) struct DataTypeTests {
    private func failure(
        _ body: () async throws(BifrostError) -> Void
    ) async -> BifrostError? {
        do throws(BifrostError) {
            try await body()
            return nil
        } catch { return error }
    }

    @Test(.timeLimit(.minutes(15)))
    func valuesAreSetSwappedComparedAndEnd() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let owner = cluster.value("{ledger}/owner", of: User.self)
            let (ada, bob) = (User(name: "Ada", age: 36), User(name: "Bob", age: 7))
            #expect(try await owner.get() == nil)
            let revision = try await owner.set(ada, if: .absent)
            #expect(try await owner.get() == Versioned(ada, at: revision))
            let failed = await failure { () async throws(BifrostError) in
                _ = try await owner.set(bob, if: .absent)
            }
            #expect(failed?.code == .conditionFailed && failed?.foundEntry?.revision == revision)
            #expect(failed?.foundEntry?.value == ada.encoded())
            #expect(try await owner.swap(bob) == Versioned(ada, at: revision))
            #expect(try await owner.compareAndSet(ada, to: bob) == false)
            #expect(try await owner.compareAndSet(bob, to: ada))
            #expect(try await owner.delete())
            #expect(try await owner.delete() == false)
            // A time to live is a least one, and a later set takes it back.
            try await owner.set(ada, timeToLive: .milliseconds(50))
            try await owner.set(bob)
            let brief = cluster.value("{ledger}/brief", of: String.self)
            var kinds: [ObjectChange<String>.Kind] = []
            for try await change in brief.watch(patience: .seconds(120)) where change.kind != .progress {
                kinds.append(change.kind)
                // Before, it might be gone when the watch begins.
                if change.kind == .ready { try await brief.set("soon gone", timeToLive: .milliseconds(50)) }
                if change.kind == .expired { break }
            }
            #expect(kinds == [.ready, .put, .expired])
            #expect(try await brief.get() == nil)
            #expect(try await owner.get()?.value == bob)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func numbersComputeWithinTheirBounds() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let stock = cluster.number("{shop}/stock", of: Int.self)
            #expect(try await stock.get() == nil)
            #expect(try await stock.add(5) == 5)
            #expect(try await stock.multiply(by: 7) == 35)
            #expect(try await stock.divide(by: -4) == -8)
            #expect(try await stock.subtract(-18) == 10)
            try await stock.bound(atLeast: 0, atMost: 100)
            let tooMuch = await failure { () async throws(BifrostError) in _ = try await stock.subtract(11) }
            #expect(tooMuch?.code == .outOfBounds)
            #expect(tooMuch?.foundNumber?.state?.value == .integer(10))
            let zero = await failure { () async throws(BifrostError) in _ = try await stock.divide(by: 0) }
            #expect(zero?.code == .divisionByZero)
            #expect(try await stock.compareAndSet(11, to: 1) == false)
            #expect(try await stock.compareAndSet(10, to: 1))
            let new = cluster.number("{shop}/new", of: Int.self)
            #expect(try await new.compareAndSet(1, to: 2) == false)
            #expect(try await new.compareAndSet(0, to: 2))
            let wrong = await failure { () async throws(BifrostError) in try await new.bound(atLeast: 5, atMost: 4) }
            #expect(wrong?.code == .invalid)
            let large = cluster.number("{shop}/large", of: Int64.self)
            try await large.set(.max)
            let beyond = await failure { () async throws(BifrostError) in _ = try await large.add(1) }
            #expect(beyond?.code == .overflow)
            let price = cluster.number("{shop}/price", of: Double.self)
            #expect(try await price.add(1.25) == 1.25)
            let mixed = await failure { () async throws(BifrostError) in
                _ = try await cluster.number("{shop}/price", of: Int.self).add(1)
            }
            #expect(mixed?.code == .invalid)
            #expect(try await price.get() == 1.25)
            #expect(try await stock.delete() == 1)
            #expect(try await stock.get() == nil)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func aMapIsOrderedCountedAndClearedAtOnce() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let users = cluster.map("users", of: Int.self)
            for batch in 0..<8 {
                let operations = (0..<200).map { number in
                    let number = batch * 200 + number
                    return MapTransaction.Operation.put(Bytes("\(10_000 + number)"), number.encoded())
                }
                #expect(try await users.transaction(then: operations).results.count == 200)
            }
            // Some entries are in other layers than others: hosts begin again with what is on disk.
            await hosts.stop(0)
            try await hosts.start(0, loops: 1)
            for number in stride(from: 0, to: 1_600, by: 3) {
                try await users.put(Bytes("\(10_000 + number)"), -number)
            }
            #expect(try await users.count() == 1_600)
            var seen: [Bytes] = []
            for try await entry in users.entries() {
                let number = (Int(entry.key.string) ?? 0) - 10_000
                #expect(entry.value == (number % 3 == 0 ? -number : number))
                seen.append(entry.key)
            }
            #expect(seen == (0..<1_600).map { Bytes("\(10_000 + $0)") })
            let page = try await users.page(prefix: "100", before: "10050", entriesMax: 7)
            #expect(page.entries.map(\.key) == (0..<7).map { Bytes("\(10_000 + $0)") } && page.next == "10007")
            #expect(
                try await users.get(["10001", "nothing", "10002"]).map { $0?.value } == [1, nil, 2])

            #expect(try await users.clear() == 1_600)
            #expect(try await users.count() == 0)
            #expect(try await users.get("10001") == nil)
            #expect(try await users.page().entries.isEmpty)
            try await users.put("10001", 5)
            // What is not needed any more goes, and what came since stays: head and entry.
            var records = -1
            while records != 2 {
                records = 0
                for group in 1...2 {
                    for try await page in cluster.pages(of: GroupID(UInt32(group))) {
                        records += page.records.count { $0.position.machine == MapMachine.number }
                    }
                }
            }
            #expect(try await users.get("10001")?.value == 5)
            #expect(try await users.count() == 1)
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func setsOfOneSlotAreCombinedAndMovedBetween() async throws {
        try await withHosts(loops: [1, 1, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let (on, off) = (cluster.set("{team}/on"), cluster.set("{team}/off"))
            #expect(try await on.add(["ada", "bob", "ada"]) == [true, true, false])
            #expect(try await off.add(["bob", "cy"]) == [true, true])
            #expect(try await on.contains(["ada", "cy"]) == [true, false])
            #expect(try await on.combined(.union, with: ["{team}/off"]).elements == ["ada", "bob", "cy"])
            #expect(try await on.combined(.intersection, with: ["{team}/off"]).elements == ["bob"])
            #expect(try await on.combined(.difference, with: ["{team}/off"]).elements == ["ada"])
            #expect(try await on.move("ada", to: "{team}/off"))
            #expect(try await on.move("ada", to: "{team}/off") == false)
            #expect(try await on.count() == 1)
            #expect(try await off.page().elements == ["ada", "bob", "cy"])
            #expect(try await off.remove(["cy", "dee"]) == [true, false])
            let apart = await failure { () async throws(BifrostError) in _ = try await on.move("bob", to: "elsewhere") }
            #expect(apart?.code == .invalid)
            #expect(try await off.clear() == 2)
            #expect(try await off.count() == 0)
        }
    }

    /// A snapshot, and then all that happens: of a map that others change, and now and then empty, while hosts end.
    @Test(.timeLimit(.minutes(15)))
    func aWatchOfAMapTellsWhatItBecomes() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let map = cluster.map("watched", of: Int.self)
            for batch in 0..<6 {
                let operations = (0..<200).map { number in
                    MapTransaction.Operation.put(Bytes("a\(batch * 200 + number)"), number.encoded())
                }
                _ = try await map.transaction(then: operations)
            }
            // The rest comes when the snapshot is there.
            let (gate, opener) = AsyncStream.makeStream(of: Void.self)
            let writer = Task {
                for number in 0..<300 {
                    if number == 170 { for await _ in gate { break } }
                    switch number % 60 {
                    case 59: try await map.clear(timeout: .seconds(120))
                    case let rest where rest % 5 == 4:
                        try await map.remove(Bytes("a\(number * 7 % 40)"), timeout: .seconds(120))
                    default: try await map.put(Bytes("a\(number * 7 % 40)"), number, timeout: .seconds(120))
                    }
                }
                try await map.put("a end", 0, timeout: .seconds(120))
            }
            var state: [Bytes: Int] = [:]
            var cleared = 0
            var resume: Revision?
            var hasEnded = false
            watch: while true {
                let start = resume.map { WatchStart.after($0) } ?? .snapshot
                do {
                    var seen = 0
                    for try await change in map.watch(prefix: "a", from: start, patience: .seconds(120)) {
                        switch change.kind {
                        case .present, .put: state[change.element] = change.value
                        case .deleted, .expired: state[change.element] = nil
                        case .cleared:
                            state = [:]
                            cleared += 1
                        case .ready: opener.yield()
                        case .progress: break
                        }
                        resume = change.resume ?? resume
                        if change.element == "a end" { break watch }
                        seen += 1
                        if cleared == 2, !hasEnded {
                            hasEnded = true
                            await hosts.stop(1)
                            try await hosts.start(1, loops: 1)
                        }
                        if resume != nil, seen % 70 == 69 { continue watch }
                    }
                } catch let error as BifrostError where error.code == .compacted {
                    (state, resume) = ([:], nil)
                }
            }
            try await writer.value
            var expected: [Bytes: Int] = [:]
            for try await entry in map.entries() { expected[entry.key] = entry.value }
            #expect(state == expected)
            #expect(cleared >= 1)
        }
    }

    @Test func namesAndElementsHaveBounds() async throws {
        try await withHosts(loops: [1], groups: 1, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let long = Bytes([UInt8](repeating: 65, count: 3_000))
            let named = await failure { () async throws(BifrostError) in
                try await cluster.value(long, of: Int.self).set(1)
            }
            #expect(named?.code == .tooLarge)
            let nameless = await failure { () async throws(BifrostError) in
                _ = try await cluster.map("", of: Int.self).count()
            }
            #expect(nameless?.code == .invalid)
            let key = await failure { () async throws(BifrostError) in
                try await cluster.map("m", of: Int.self).put(long, 1)
            }
            #expect(key?.code == .tooLarge)
            let value = Bytes([UInt8](repeating: 1, count: ObjectLimits.valueBytesMax))
            try await cluster.map("m", of: Bytes.self).put("k", value)
            #expect(try await cluster.map("m", of: Bytes.self).get("k")?.value == value)
            let more = await failure { () async throws(BifrostError) in
                try await cluster.map("m", of: Bytes.self).put("k", Bytes(value.array + [1]))
            }
            #expect(more?.code == .tooLarge)
        }
    }

    /// Before all hosts know them nothing of it is taken, and nothing is written.
    @Test func belowItsFeatureLevelNobodyUsesThem() async throws {
        try await withHosts(loops: [1], groups: 1, featureLevel: FeatureLevel.deadlines) { hosts in
            let cluster = try await hosts.client()
            let refused = await failure { () async throws(BifrostError) in
                try await cluster.value("v", of: Int.self).set(1, timeout: .seconds(3))
            }
            #expect(refused?.message.contains("feature level 9") == true, "\(String(describing: refused))")
        }
    }
}
