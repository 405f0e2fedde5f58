// Keys with times to live, under simulation: who lives too short, who lives for ever, and who is ended though it was
// written again. Owns what clients were told of these keys and when; other keys know nothing of them.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines

/// A key that is written once with a time to live, and perhaps once more.
struct SimulatedLease {
    enum Again { case never, forEver, forLonger }
    var key: Bytes
    var again: Again
    /// Milliseconds.
    var timeToLive: UInt64
    /// Virtual time before which it is there for certain, by whatever host's clock; nil: nobody knows that it was written.
    var alive: UInt64?
    /// It was written to stay, for certain.
    var isKept = false
    /// It may have been.
    var mayBeKept = false
}

extension SimulatedCluster {
    private static let leasePrefix: Bytes = "lease/"
    /// Log time goes on while a majority answers; and a leader looks once per second.
    private static let leasesNanosecondsMax: UInt64 = 120_000_000_000

    static func isLease(_ key: Bytes) -> Bool {
        key.count > leasePrefix.count && key[0..<leasePrefix.count] == leasePrefix
    }

    /// Puts a key that was never there.
    func submitLease(through client: SimulatedClient, nanoseconds: UInt64, _ ended: @escaping () -> Void) {
        let place = leases.count
        let random = world.random.below(4)
        leases.append(
            SimulatedLease(
                key: Bytes("\(Self.leasePrefix)\(place)"),
                again: random == 0 ? .forEver : random == 1 ? .forLonger : .never,
                timeToLive: 1 + world.random.below(world.random.below(2) == 0 ? 2_000 : world.plan.delayMillisecondsMax)
            ))
        mark(.leaseSet)
        let called = now
        put(leases[place].timeToLive, place, through: client, nanoseconds: nanoseconds) { [unowned self] isDone in
            guard isDone == true else { return ended() }
            leases[place].alive = called + leastNanoseconds(leases[place].timeToLive)
            // Now and then when it is just about to end.
            let pause =
                world.random.below(2) == 0
                ? 0 : world.random.below(leases[place].timeToLive * 1_100_000 + 1)
            world.schedule(
                after: pause, "client %h comes back to key %b that lives for a time", UInt64(client.place),
                UInt64(place)
            ) {
                [unowned self] in writeAgain(place, through: client, nanoseconds: nanoseconds, ended)
            }
        }
    }

    /// That the leaders' clocks let pass, at most so much sooner.
    private func leastNanoseconds(_ milliseconds: UInt64) -> UInt64 {
        milliseconds * 1_000_000 * 1_000_000 / (1_000_000 + world.plan.clockDriftMillionths)
    }

    private func writeAgain(
        _ place: Int, through client: SimulatedClient, nanoseconds: UInt64, _ ended: @escaping () -> Void
    ) {
        guard leases[place].again != .never else { return look(place, through: client, nanoseconds, ended) }
        let isForEver = leases[place].again == .forEver
        let timeToLive = isForEver ? 0 : leases[place].timeToLive * 2 + 1_000
        // It may be written over from now on.
        leases[place].mayBeKept = isForEver
        let called = now
        put(timeToLive, place, through: client, nanoseconds: nanoseconds) { [unowned self] isDone in
            if isDone == true {
                leases[place].isKept = isForEver
                leases[place].alive = isForEver ? .max : called + leastNanoseconds(timeToLive)
            } else if isDone == false {
                leases[place].mayBeKept = false
            } else if !isForEver {
                // Written over or not, it is there until the sooner end.
                leases[place].alive = min(leases[place].alive ?? 0, called + leastNanoseconds(timeToLive))
            }
            look(place, through: client, nanoseconds, ended)
        }
    }

    private func look(
        _ place: Int, through client: SimulatedClient, _ nanoseconds: UInt64, _ ended: @escaping () -> Void
    ) {
        get(place, through: client, nanoseconds: nanoseconds) { [unowned self] isThere in
            if isThere == false, let alive = leases[place].alive, now < alive {
                fail("times to live", "\(leases[place].key) is gone, \((alive - now) / 1_000) µs too soon")
            }
            if isThere == false { mark(.leaseEnded) }
            ended()
        }
    }

    /// - Parameter ended: whether it was done; nil: nobody knows.
    private func put(
        _ timeToLive: UInt64, _ place: Int, through client: SimulatedClient, nanoseconds: UInt64,
        _ ended: @escaping (Bool?) -> Void
    ) {
        let key = leases[place].key
        let number = operations.count
        let header = CommandHeader(machine: .keyValue, sequence: nextSequence)
        nextSequence += 1
        // Older hosts take one for a mistake.
        let isTransaction = world.random.below(3) == 0 && world.plan.featureLevels.isEmpty
        let payload =
            isTransaction
            ? KeyValueTransaction(then: [.put(key: key, value: Bytes("\(number)"), timeToLiveMillis: timeToLive)])
                .payload(header: header)
            : KeyValueCommand.put(key: key, value: Bytes("\(number)"), timeToLiveMillis: timeToLive).payload(
                header: header)
        operations.append(SimulatedOperation(client: client.place, key: key, kind: .machine, called: now))
        client.submit(
            kind: .command, target: .slot(slot(of: key)), payload: payload, nanoseconds: nanoseconds, number: number
        ) { [unowned self] result in
            end(number, result)
            switch result {
            case .success: ended(true)
            case .failure(let failure): ended(failure.mayHaveHappened ? nil : false)
            }
        }
    }

    private func get(
        _ place: Int, through client: SimulatedClient, nanoseconds: UInt64, _ ended: @escaping (Bool?) -> Void
    ) {
        let key = leases[place].key
        client.submit(
            kind: .query, target: .slot(slot(of: key)), payload: KeyValueQuery.get(key: key).encoded(),
            nanoseconds: nanoseconds
        ) { result in
            guard case .success(let bytes) = result, let result = try? DataResult(decoding: bytes),
                let reading = try? KeyValueReading(decoding: result.body)
            else { return ended(nil) }
            if case .absent = reading { ended(false) } else { ended(true) }
        }
    }

    /// When nothing fails any more: all that was not written to stay ends, and nothing else does.
    func awaitLeases() throws(SimulationFailure) {
        var left = Array(leases.indices)
        let end = now + Self.leasesNanosecondsMax
        while !left.isEmpty {
            var open = left.count
            var still: [Int] = []
            for place in left {
                get(place, through: clients[place % clients.count], nanoseconds: 25_000_000_000) {
                    [unowned self] isThere in
                    open -= 1
                    if isThere == false, leases[place].isKept {
                        fail("times to live", "\(leases[place].key) was written to stay, and is gone")
                    }
                    if isThere != false, !leases[place].isKept, !leases[place].mayBeKept { still.append(place) }
                }
            }
            try expect(
                try pass(Self.operationsNanosecondsMax, until: { open == 0 }), "operations end",
                "\(open) keys with times to live can't be read back")
            if let failure { throw failure }
            left = still
            guard !left.isEmpty else { break }
            try expect(now < end, "times to live", "\(left.map { leases[$0].key }) are still there")
            try pass(2_000_000_000)
        }
    }
}
