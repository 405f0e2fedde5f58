// Arrays on real hosts, as a program uses them.

import Bifrost
import BifrostHost
import DataTypes
import Messages
import Primitives
import StateMachines
import TestSupport
import Testing

@Suite(.ownExecutor) struct ArrayTests {
    private func code(_ body: () async throws(BifrostError) -> Void) async -> BifrostError.Code? {
        do throws(BifrostError) {
            try await body()
            return nil
        } catch { return error.code }
    }

    private func values(_ array: ReliableArray<Int>) async throws -> [Int] {
        var values: [Int] = []
        for try await element in array.elements() { values.append(element.value) }
        return values
    }

    @Test(.timeLimit(.minutes(15)))
    func elementsKeepTheirOrderAndTheirIDs() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let array = cluster.array("numbers", of: Int.self)
            #expect(try await array.count() == 0)
            #expect(try await array.get(at: 0) == nil)
            let five = try await array.append(5)
            let ids = try await array.insert([1, 2], at: 0)
            try await array.insert([3, 4], at: .before(five))
            try await array.insert([6], at: .behind(five))
            #expect(try await values(array) == [1, 2, 3, 4, 5, 6])
            #expect(try await array.index(of: five) == 4)
            #expect(try await array.remove(at: 0).id == ids[0])
            #expect(try await array.index(of: five) == 3)
            #expect(try await array.get(at: .element(five))?.value == 5)
            #expect(try await array.get(at: .element(ids[0])) == nil)

            let known = try #require(try await array.get(at: .element(five)))
            let revision = try await array.set(50, at: .element(five), if: .revision(known.revision))
            var found: FoundEntry?
            do throws(BifrostError) { try await array.set(51, at: 3, if: .revision(known.revision)) } catch {
                found = error.foundEntry
            }
            #expect(found?.revision == revision && found?.value == 50.encoded())
            #expect(await code { () async throws(BifrostError) in _ = try await array.set(0, at: 5) } == .noIndex)
            #expect(await code { () async throws(BifrostError) in _ = try await array.get(at: -1) } == .noIndex)
            #expect(
                await code { () async throws(BifrostError) in _ = try await array.remove(at: .element(ids[0])) }
                    == .noElement)
            #expect(
                await code { () async throws(BifrostError) in
                    try await array.append([Int](repeating: 0, count: 257))
                } == .tooLarge)
            #expect(
                await code { () async throws(BifrostError) in try await array.removeSubrange(4..<6) } == .noIndex)
            try await array.removeSubrange(0..<2)
            #expect(try await values(array) == [4, 50, 6])
            let slice = try await array.slice(from: .before(five), limit: 1)
            #expect(slice.index == 1 && slice.elements.map(\.value) == [50] && slice.count == 3 && slice.next == 2)
        }
    }

    /// Beside the lock, and elsewhere.
    @Test(.timeLimit(.minutes(15)), arguments: ["{l}numbers", "numbers"])
    func aTokenThatIsOverChangesNoArray(_ name: String) async throws {
        try await withHosts(loops: [1, 2, 1], groups: 3, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let lock = cluster.lock("{l}door")
            let held = try await lock.acquire()
            let plain = cluster.array(Bytes(name), of: Int.self)
            let array = plain.guarded(by: held.token)
            let id = try await array.append(2)
            try await array.append([3, 4, 5, 6, 7, 8])
            try await array.insert([0, 1], at: 0)
            try await array.insert([20], at: .behind(id))
            try await array.set(-1, at: 0)
            try await array.set(-2, at: .element(id))
            #expect(try await array.remove(at: 1).value == 1)
            #expect(try await array.remove(at: .element(id)).value == -2)
            try await array.removeSubrange(1..<3)
            #expect(try await array.trim(to: 0..<4) == 2)
            #expect(try await array.trim(toFirst: 3) == 1)
            #expect(try await array.trim(toLast: 2) == 1)
            #expect(try await values(plain) == [4, 5])
            #expect(try await array.clear() == 2)
            let stays = try await array.append([1, 2])[0]

            #expect(try await lock.revoke(token: held.token.number))
            let next = try await lock.acquire()
            try await plain.guarded(by: next.token).append(3)
            let commands: [() async throws -> Void] = [
                { _ = try await array.append(9) },
                { _ = try await array.append([9, 9]) },
                { _ = try await array.insert([9], at: 0) },
                { _ = try await array.insert([9], at: .before(stays)) },
                { _ = try await array.set(9, at: 0) },
                { _ = try await array.set(9, at: .element(stays)) },
                { _ = try await array.remove(at: 0) },
                { _ = try await array.remove(at: .element(stays)) },
                { _ = try await array.removeSubrange(0..<1) },
                { _ = try await array.trim(to: 0..<1) },
                { _ = try await array.trim(toFirst: 1) },
                { _ = try await array.trim(toLast: 1) },
                { _ = try await array.clear() },
            ]
            for (number, command) in commands.enumerated() {
                let error = await #expect(throws: BifrostError.self) { try await command() }
                #expect(error?.code == .lockLost && error?.mayHaveHappened == false, "\(number): \(error as Any)")
            }
            #expect(try await values(plain) == [1, 2, 3])
            try await next.release()
        }
    }

    @Test(.timeLimit(.minutes(15)))
    func anArrayOfManyElementsIsTrimmedAndClearedAtOnce() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let array = cluster.array("many", of: Int.self)
            for batch in 0..<12 { try await array.append((0..<250).map { batch * 250 + $0 }) }
            // Some records are in other layers than others, whoever leads now.
            for host in 0..<3 {
                await hosts.stop(host)
                try await hosts.start(host, loops: 1)
                try await array.set(-host, at: host * 1_000, timeout: .seconds(120))
            }
            var expected = Array(0..<3_000)
            for host in 0..<3 { expected[host * 1_000] = -host }
            #expect(try await values(array) == expected)
            #expect(try await array.trim(toLast: 40) == 2_960)
            #expect(try await values(array) == Array(expected.suffix(40)))
            // What was cut off goes, and what stays has its two records, and its head, and a leaf or two.
            func records() async throws -> Int {
                var count = 0
                for group in 1...2 {
                    for try await page in cluster.pages(of: GroupID(UInt32(group))) {
                        count += page.records.count { $0.position.machine == ArrayMachine.number }
                    }
                }
                return count
            }
            var count = Int.max
            while count > 40 * 2 + 1 + 3 { count = try await records() }
            #expect(count > 40 * 2 + 1)
            #expect(try await values(array) == Array(expected.suffix(40)))
            #expect(try await array.trim(to: 10..<20) == 30)
            #expect(try await array.clear() == 10)
            let id = try await array.append(7)
            #expect(id.rawValue == 3_001)
            while count != 4 { count = try await records() }
            #expect(try await values(array) == [7])
        }
    }

    /// A snapshot, and then all that happens, of an array that others change meanwhile; hosts end and begin again.
    @Test(.timeLimit(.minutes(15)))
    func aWatchOfAnArrayKeepsACopyOfIt() async throws {
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.current) { hosts in
            let cluster = try await hosts.client()
            let array = cluster.array("watched", of: Int.self)
            for batch in 0..<6 { try await array.append((0..<200).map { batch * 200 + $0 }) }
            // The rest comes when the last snapshot is there.
            let (gate, opener) = AsyncStream.makeStream(of: Void.self)
            let writer = Task {
                var random = SeededRandom(seed: 5)
                let patience = Duration.seconds(120)
                for number in 0..<400 {
                    if number == 220 { for await _ in gate { break } }
                    let count = try await array.count(timeout: patience)
                    let index = Int(random.below(UInt64(count) + 1))
                    switch random.below(20) {
                    case 0..<8: try await array.insert([number, -number], at: index, timeout: patience)
                    case 8..<12 where index < count: try await array.set(number, at: index, timeout: patience)
                    case 12..<18 where index < count: try await array.remove(at: index, timeout: patience)
                    case 18 where number % 3 == 0 && index < count:
                        try await array.removeSubrange(index..<min(count, index + 5), timeout: patience)
                    case 19 where number % 2 == 0:
                        try await array.trim(to: min(3, count)..<max(min(3, count), count - 10), timeout: patience)
                    default: try await array.append(number, timeout: patience)
                    }
                    if number == 250 { try await array.clear(timeout: patience) }
                }
                try await array.append(1_000_000, timeout: patience)
            }
            var copy: [ReliableArray<Int>.Element] = []
            var resume: Revision?
            let snapshots = 6
            var (since, ready, cleared) = (0, 0, 0)
            watch: while true {
                let start = resume.map { WatchStart.after($0) } ?? .snapshot
                do {
                    for try await event in array.watch(from: start, patience: .seconds(120)) {
                        try event.apply(to: &copy)
                        resume = event.resume ?? resume
                        if event.kind == .ready { ready += 1 }
                        if event.kind == .cleared { cleared += 1 }
                        if copy.last?.value == 1_000_000 { break watch }
                        if event.kind == .ready, ready <= snapshots {
                            // Anew, while the array goes on; the last time by other hosts.
                            if ready == snapshots {
                                for host in 0..<2 {
                                    await hosts.stop(host)
                                    try await hosts.start(host, loops: 1)
                                }
                            }
                            (copy, resume) = ([], nil)
                            continue watch
                        }
                        if event.kind == .ready { opener.yield() }
                        // Behind what it was told, from time to time.
                        since += 1
                        guard event.resume != nil, since > 80 else { continue }
                        since = 0
                        continue watch
                    }
                } catch let error as BifrostError where error.code == .compacted {
                    (copy, resume) = ([], nil)
                }
            }
            try await writer.value
            var expected: [(ArrayElementID, Int)] = []
            for try await element in array.elements() { expected.append((element.id, element.value)) }
            #expect(copy.map(\.id) == expected.map(\.0) && copy.map(\.value) == expected.map(\.1))
            #expect(ready > snapshots && cleared >= 1)
        }
    }
}
