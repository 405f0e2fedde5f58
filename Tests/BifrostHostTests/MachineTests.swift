// Users' state machines over real hosts, as a program uses them: typed, from async code and from threads that wait.

import Bifrost
import BifrostHost
import Foundation
import HostCore
import Messages
import Primitives
import StateMachines
import TestSupport
import Testing

/// A till: what comes in, what goes out, never more than there is.
private enum Till: StateMachine {
    static let number = SubMachineNumber(5_000)
    static let commands: [any MachineCommand<Till>.Type] = [Pay.self]
    static let queries: [any MachineQuery<Till>.Type] = [Balance.self]

    struct Account: JSONMessage {
        var cents = 0
        var notes: [String: Double] = [:]
    }
}

private struct Pay: MachineCommand, JSONMessage {
    typealias Machine = Till
    static let number: UInt16 = 1
    var till: String
    var cents: Int
    var key: Bytes { Bytes("{\(till)}") }

    func apply(in context: inout MachineContext) throws -> Till.Account {
        var account = try context.get(key, as: Till.Account.self) ?? Till.Account()
        account.cents += cents
        account.notes["z\(cents % 3)"] = .infinity
        guard account.cents >= 0 else { throw MachineFailure(1, "there are only \(account.cents - cents) cents") }
        try context.put(key, account)
        return account
    }
}

private struct Balance: MachineQuery, JSONMessage {
    typealias Machine = Till
    static let number: UInt16 = 1
    var tills: [String]
    var key: Bytes { Bytes("{\(tills[0])}") }

    struct Answer: JSONMessage { var cents: [Int] }

    func answer(in view: inout MachineView) throws -> Answer {
        Answer(cents: try tills.map { try view.get(Bytes("{\($0)}"), as: Till.Account.self)?.cents ?? 0 })
    }
}

/// The same, in a program that counts otherwise.
private enum OddTill: StateMachine {
    static let number = Till.number
    static let commands: [any MachineCommand<OddTill>.Type] = [OddPay.self]
    static let queries: [any MachineQuery<OddTill>.Type] = []
}

private struct OddPay: MachineCommand, JSONMessage {
    typealias Machine = OddTill
    static let number = Pay.number
    var till: String
    var cents: Int
    var key: Bytes { Bytes("{\(till)}") }

    func apply(in context: inout MachineContext) throws -> Till.Account {
        var account = try context.get(key, as: Till.Account.self) ?? Till.Account()
        account.cents += cents + 1
        try context.put(key, account)
        return account
    }
}

@Suite(.ownExecutor) struct MachineTests {
    private func withTills(
        loops: [Int] = [1, 2, 1], level: UInt32 = FeatureLevel.current, _ body: (TestHosts) async throws -> Void
    ) async throws {
        let machines = try StateMachineRegistry([Till.self])
        try await withHosts(loops: loops, groups: 4, featureLevel: level, { $0.machines = machines }, body)
    }

    @Test func aProgramUsesItsMachineAndFindsItAsItWasAfterARestartOfAllHosts() async throws {
        try await withTills { hosts in
            let cluster = try await hosts.client()
            let till = cluster.machine(Till.self)
            for number in 0..<20 {
                let account = try await till.submit(Pay(till: "\(number % 5)", cents: 100))
                #expect(account.cents == 100 * (number / 5 + 1) && account.notes.values.contains(.infinity))
            }
            let error = await #expect(throws: BifrostError.self) { try await till.submit(Pay(till: "1", cents: -401)) }
            #expect(error?.code == .machineFailed && error?.mayHaveHappened == false)
            #expect((error?.cause as? MachineFailure) == MachineFailure(1, "there are only 400 cents"))
            for consistency in [ReadConsistency.linearizable, .lease, .stale(max: .seconds(5))] {
                #expect(try await till.query(Balance(tills: ["1", "1"]), consistency).cents == [400, 400])
            }
            let elsewhere = await #expect(throws: BifrostError.self) {
                try await till.query(Balance(tills: ["1", "2"]))
            }
            #expect(elsewhere?.code == .machineFailed && elsewhere?.message.contains("{…}") == true)
            try await hosts.waitForEqualStates()
            await hosts.stopAll()
            for (number, loops) in [2, 1, 1].enumerated() { try await hosts.start(number, loops: loops) }
            #expect(try await till.submit(Pay(till: "1", cents: -400)).cents == 0)
            #expect(try await till.query(Balance(tills: ["1"])).cents == [0])
            await cluster.close()
        }
    }

    /// It may lead: then the others go on.
    @Test func aHostWhoseProgramDoesAnotherThingStopsAndNamesTheMachine() async throws {
        let (sound, odd) = (try StateMachineRegistry([Till.self]), try StateMachineRegistry([OddTill.self]))
        var starts = 0
        func adapt(_ settings: inout HostSettings) {
            starts += 1
            settings.machines = starts == 3 ? odd : sound
            settings.digestInterval = 16
        }
        try await withHosts(loops: [1, 2, 1], groups: 1, featureLevel: FeatureLevel.current, adapt) { hosts in
            let cluster = try await hosts.client()
            let till = cluster.machine(Till.self)
            func replica(_ place: Int) async throws -> ReplicaStatus? {
                try await hosts.status(place).replicas.first { $0.group == GroupID(1) }
            }
            try await wait(seconds: 180, for: "the odd one to stop") {
                _ = try? await till.submit(Pay(till: "1", cents: 100))
                return try await replica(2)?.role == .stopped
            }
            let problem = try await replica(2)?.problem ?? ""
            #expect(problem.contains("in what is OddTill (sub machine 5000)'s; replace it"), "\(problem)")
            // Nobody else, however long it goes on.
            for _ in 0..<40 { _ = try await till.submit(Pay(till: "1", cents: 100)) }
            for place in 0..<2 {
                let other = try await replica(place)
                #expect(other?.role != .stopped && other?.problem == "", "\(other?.problem ?? "none")")
            }
            await cluster.close()
        }
    }

    @Test func belowItsFeatureLevelAMachineIsNotUsed() async throws {
        try await withTills(loops: [1], level: FeatureLevel.sessions) { hosts in
            let cluster = try await hosts.client()
            // One that is under way at its deadline says that and no more.
            try await wait(seconds: 180, for: "the word of why") {
                let error = await #expect(throws: BifrostError.self) {
                    try await cluster.machine(Till.self).submit(Pay(till: "1", cents: 1), timeout: .seconds(1))
                }
                guard error?.mayHaveHappened == false else { return false }
                return error?.message.contains("feature level 7") == true
            }
            await cluster.close()
        }
    }

    @Test func threadsThatWaitHaveTheSame() async throws {
        try await withTills(loops: [1, 1, 1]) { hosts in
            let addresses = hosts.addresses
            let found = await withCheckedContinuation { continuation in
                Thread.detachNewThread {
                    continuation.resume(returning: Result { try Self.block(addresses) })
                }
            }
            let numbers = try found.get()
            #expect(numbers == [300, 3])
        }
    }

    private static func block(_ addresses: [String]) throws -> [Int] {
        let cluster = try BlockingCluster.connect(to: addresses)
        defer { cluster.close() }
        try cluster.put("{b}1", "one")
        try cluster.put("{b}2", "two")
        try cluster.delete("{b}2")
        let (one, two) = (try cluster.get("{b}1"), try cluster.get("{b}2"))
        #expect(one?.value == "one" && two == nil)
        let result = try cluster.transaction(
            if: [.init("{b}1", .value("one"))], then: [.put(key: "{b}1", value: "ONE"), .put(key: "{b}3", value: "3")])
        #expect(result.holds)
        #expect(try cluster.page(prefix: "{b}").records.map(\.value) == ["ONE", "3"])
        for _ in 0..<3 { try cluster.submit(Pay(till: "b", cents: 100)) }
        #expect(throws: BifrostError.self) { try cluster.submit(Pay(till: "b", cents: -1_000)) }
        let calls = try cluster.wait { cluster throws(BifrostError) in
            var count = 0
            for try await _ in cluster.kv.scan(prefix: "{b}") { count += 1 }
            return count + 1
        }
        let cents = try cluster.query(Balance(tills: ["b"])).cents
        #expect(throws: BifrostError.self) { try BlockingCluster.connect(to: ["nowhere"]) }
        return [cents[0], calls]
    }
}
