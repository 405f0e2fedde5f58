// 100,000 increments by a production client on three production hosts, in virtual time: answers and requests are lost,
// hosts are parted from each other and from the client, leaders change, and the sum is exact.
//
// What counts is each group's revision: a put that is applied adds one to it, whatever it writes. These puts have no
// condition that would keep a second one from taking effect, so whatever is done twice, or is answered and not done, is
// in the sum for ever.
//
// `BIFROST_INCREMENT_SEEDS=200` makes a long run of it.

import ClientCore
import Glibc
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct ExactlyOnceHostTests {
    /// A client, its connections to the hosts of a trio, and what is lost on them.
    private final class Run {
        let trio: Trio
        let groups: Int
        var router: ClientRouter
        var effects = ClientEffects()
        var random: SeededRandom
        /// Calls that a host has and has not answered, or whose answers were held back, by host.
        var open: [[(call: CallID, late: Int)]]
        var isUp: [Bool]
        var tick = 0
        var submitted: UInt64 = 0
        var done = 0
        var problems: [String] = []
        /// How often each revision was answered. An answer does not name its group.
        private var seen: [UInt64: Int] = [:]
        /// Revisions that were answered more often than there are groups.
        var answeredTooOften: Int { seen.values.count { $0 > groups } }
        // What happened, so that it is known to have happened.
        var answersLost = 0
        var answersLate = 0
        var requestsLost = 0
        var partings = 0
        private var slots: [(key: String, slot: Slot)] = []

        init(seed: UInt64, groups: Int) throws {
            self.groups = groups
            trio = try Trio(groups: groups) {
                $0.journalBytesForLaggards = 1 << 20
                $0.memtableBytesTrigger = 40_000
            }
            random = SeededRandom(seed: seed)
            var settings = ClientSettings()
            settings.commandAttemptNanoseconds = 1_000_000_000
            settings.silenceNanoseconds = 700_000_000
            router = ClientRouter(settings: settings, seedCount: 0, seed: seed)
            open = Array(repeating: [], count: 3)
            isUp = Array(repeating: false, count: 3)
            router.mapReceived(trio.map, now: now, into: &effects)
            for place in 0..<3 { connect(place) }
            slots = (0..<64).map { ("key \($0)", slot(of: Bytes("key \($0)"))) }
        }

        var now: Instant { trio.hosts[0].now }

        func connect(_ place: Int) {
            guard !isUp[place] else { return }
            isUp[place] = true
            router.connectionUp(.host(trio.hosts[place].id), now: now, into: &effects)
        }

        func disconnect(_ place: Int) {
            guard isUp[place] else { return }
            isUp[place] = false
            router.connectionDown(.host(trio.hosts[place].id), now: now, into: &effects)
            let lost = open[place]
            open[place] = []
            for call in lost { router.callFailed(call.call, .perhapsSent, now: now, into: &effects) }
        }

        func submit() {
            submitted += 1
            let (key, slot) = slots[Int(random.below(UInt64(slots.count)))]
            router.submit(
                ClientRequest(
                    tag: submitted, kind: .command, target: .slot(slot),
                    payload: KeyValueCommand.put(key: Bytes(key), value: Bytes("\(submitted)")).payload(),
                    deadline: now + 3_600_000_000_000),
                now: now, into: &effects)
        }

        func carryOut() {
            while !effects.isEmpty {
                let work = effects
                effects = ClientEffects()
                for send in work.sends { carryOut(send) }
                if let fetch = work.mapFetch {
                    router.mapAnswered(fetch.number, .unchanged, now: now, into: &effects)
                }
                for completion in work.completions {
                    do {
                        let result = try DataResult(decoding: try completion.result.get())
                        done += 1
                        seen[result.revision.rawValue, default: 0] += 1
                    } catch {
                        problems.append("put \(completion.tag): \(error)")
                    }
                }
            }
        }

        private func carryOut(_ send: ClientSend) {
            let place = Int(send.host.rawValue) - 1
            guard isUp[place] else {
                return router.callFailed(send.call, .notSent, now: now, into: &effects)
            }
            if random.below(40) == 0 {
                // The connection holds; the host never sees it, and the client does not know.
                requestsLost += 1
                return
            }
            var writer = ByteWriter()
            send.encodeCommand(into: &writer)
            trio.hosts[place].core.execute(
                ExecuteRequest(group: send.group, epoch: send.epoch, slot: send.slot, payload: writer.take()),
                call: CallToken(rawValue: send.call.rawValue))
            open[place].append((send.call, random.below(12) == 0 ? tick + Int(random.below(40)) : 0))
        }

        /// Answers that are there: told, lost, or held back for some time.
        func answer() {
            for place in 0..<3 {
                var left: [(call: CallID, late: Int)] = []
                let calls = open[place]
                open[place] = []
                for call in calls {
                    guard let answer = trio.hosts[place].answer(call.call.rawValue), call.late <= tick else {
                        left.append(call)
                        continue
                    }
                    if call.late > 0 { answersLate += 1 }
                    if random.below(10) == 0 {
                        answersLost += 1
                        if random.below(2) == 0 {
                            router.callFailed(call.call, .perhapsSent, now: now, into: &effects)
                        }
                        continue
                    }
                    switch answer {
                    case .done(let result):
                        router.answered(call.call, .done(result.encoded()), now: now, into: &effects)
                    case .refused(let refusal):
                        router.answered(call.call, .refused(refusal), now: now, into: &effects)
                    }
                }
                open[place] += left
            }
        }

        func step() throws {
            tick += 1
            try trio.tick()
            answer()
            router.tick(now: now, into: &effects)
            carryOut()
        }
    }

    private static let seeds: ClosedRange<UInt64> =
        1...max(getenv("BIFROST_INCREMENT_SEEDS").flatMap { UInt64(String(cString: $0)) } ?? 3, 1)

    @Test(arguments: seeds)
    func aHundredThousandIncrementsGiveTheExactSumThoughAnswersAreLostAndLeadersChange(seed: UInt64) throws {
        let goal: UInt64 = 100_000
        let run = try Run(seed: seed, groups: 3)
        for _ in 0..<40 { try run.step() }
        var terms: Set<UInt64> = []
        var parted: (place: Int, until: Int)?
        while run.done < goal, run.problems.isEmpty {
            try #require(run.tick < 60_000, "\(run.done) of \(goal) are done")
            while run.submitted < goal, run.router.operationCount < 1_000 { run.submit() }
            if let (place, until) = parted, run.tick >= until {
                run.trio.join(place)
                run.connect(place)
                parted = nil
            }
            if parted == nil, run.random.below(60) == 0 {
                let place = Int(run.random.below(3))
                run.trio.cut(place)
                // A leader that only its followers have lost goes on to hear the client for a while.
                if run.random.below(2) == 0 { run.disconnect(place) }
                run.partings += 1
                parted = (place, run.tick + 10 + Int(run.random.below(100)))
            }
            if run.random.below(50) == 0 { run.disconnect(Int(run.random.below(3))) }
            if run.random.below(20) == 0 {
                for place in 0..<3 where parted?.place != place { run.connect(place) }
            }
            if run.random.below(100) == 0 { for host in run.trio.hosts { host.core.checkpointAll() } }
            try run.step()
            for host in run.trio.hosts {
                for group in 1...3 as ClosedRange<UInt32> {
                    guard let term = host.inspection(of: GroupID(group))?.term else { continue }
                    terms.insert(term.rawValue * 4 + UInt64(group))
                }
            }
        }
        #expect(run.problems == [])
        if let parted { run.trio.join(parted.place) }
        try run.trio.tick(400)
        // Each replica of each group has the same, and their revisions are the sum.
        var sum: UInt64 = 0
        for group in run.trio.map.dataGroups {
            let statuses = run.trio.hosts.map { host in
                host.core.replicaStatuses().first { $0.group == group.id }
            }
            #expect(Set(statuses.map { $0?.digest }).count == 1 && Set(statuses.map { $0?.revision }).count == 1)
            sum += statuses[0]?.revision.rawValue ?? 0
        }
        #expect(sum == goal, "increments that were done, of \(goal) that were asked for")
        #expect(run.done == goal && run.answeredTooOften == 0)
        let statistics = run.router.statistics
        #expect(statistics.outcomesUnknown == 0)
        // Otherwise it has shown little.
        #expect(run.answersLost > 8_000 && run.requestsLost > 2_000 && run.answersLate > 4_000)
        #expect(statistics.resends > 10_000 && run.partings >= 3 && terms.count > 5)
        print(
            "seed \(seed): \(sum) increments, \(statistics.sends) sends, \(run.answersLost) answers lost, "
                + "\(run.answersLate) late, \(run.requestsLost) requests lost, \(run.partings) hosts cut off, "
                + "\(terms.count) terms, in \(run.tick / 20) s of virtual time")
    }
}
