// A client against a model cluster that loses, delays, repeats and lies within what the protocol allows. From a seed.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines
import Testing

/// What is under way in the virtual network, ordered by time and then by number.
private enum Event {
    case request(ClientSend, connection: Int)
    case answer(CallID, CallAnswer, host: Int, connection: Int)
    case callFailed(CallID, CallFailure)
    case connectionUp(Int)
    case mapAnswer(UInt64, MapAnswer)
    case disturb
    case submit
    case hold
    case letGoOfAll
}

/// Three hosts, two groups, slots that move between them. Every command's executions are counted.
private struct ModelCluster {
    var random: SeededRandom
    var router: ClientRouter
    var effects = ClientEffects()
    var now = Instant(1_000_000_000)
    var queue: [(at: UInt64, number: UInt64, event: Event)] = []
    var nextNumber: UInt64 = 0

    var isUp = [true, true, true]
    var isFrozen = [false, false, false]
    var connection = [0, 0, 0]
    /// By group; -1 is none.
    var leaders = [0, 1]
    var terms: [UInt64] = [1, 1]
    /// Owner of slot 0 and of slot 1.
    var owners: [UInt32] = [1, 2]
    var epoch: UInt64 = 1
    var version: UInt64 = 1
    /// The hosts know sessions. By group: those that are there, and what was answered in them.
    let hasSessions: Bool
    var sessions: [Set<UInt64>] = [[], []]
    var answers: [[CommandHeader: CallAnswer]] = [[:], [:]]
    /// By group: their numbers meet.
    var nextSession: [UInt64] = [1, 1]
    var repeated = 0
    /// Slots are held and let go; then the groups' numbers don't meet, and it is known when sessions ended.
    let holds: Bool
    var held = [0, 0]
    var sessionEnds: [UInt64: Instant] = [:]
    /// Of the slots that were held in the end: those whose session was lately answered in, for nothing but that.
    var keptInTheEnd = 0
    /// Calls that went out on a connection and were not answered on it.
    var open: [(call: CallID, connection: Int, host: Int)] = []

    struct Operation {
        var isCommand: Bool
        var deadline: UInt64
        var executions = 0
        var result: Result<Bytes, OperationFailure>?
    }
    var operations: [Operation] = []
    var problems: [String] = []

    init(seed: UInt64, settings: ClientSettings, hasSessions: Bool, holds: Bool = false) {
        self.hasSessions = hasSessions
        self.holds = holds
        if holds { nextSession = [1_000, 2_000] }
        random = SeededRandom(seed: seed)
        router = ClientRouter(settings: settings, seedCount: 1, seed: seed &+ 1)
    }

    mutating func chance(_ percent: UInt64) -> Bool { random.below(100) < percent }

    mutating func schedule(_ event: Event, inMicroseconds delay: UInt64) {
        queue.append((now.rawValue + delay * 1_000, nextNumber, event))
        nextNumber += 1
    }

    var map: ClusterMap {
        var map = exampleMap(version: version)
        if hasSessions { map.featureLevel = FeatureLevel.sessions }
        map.ring = SlotTable(epoch: Epoch(epoch), owners: (0..<Slot.count).map { GroupID(owners[$0 % 2]) })
        return map
    }

    mutating func run(operationCount: Int) {
        router.connectionUp(.seed(0), now: now, into: &effects)
        carryOut()
        for host in 0..<3 { schedule(.connectionUp(host), inMicroseconds: 3_000) }
        for _ in 0..<operationCount { schedule(.submit, inMicroseconds: random.below(3_000_000)) }
        for _ in 0..<60 { schedule(.disturb, inMicroseconds: random.below(3_000_000)) }
        if holds {
            for _ in 0..<40 { schedule(.hold, inMicroseconds: random.below(3_000_000)) }
            schedule(.letGoOfAll, inMicroseconds: 5_000_000)
        }
        var nextTick = now.rawValue
        // The router's own operations may go on for ten seconds.
        let end = now.rawValue + (hasSessions ? 16_000_000_000 : 6_000_000_000)
        while now.rawValue < end {
            let next = queue.indices.min { (queue[$0].at, queue[$0].number) < (queue[$1].at, queue[$1].number) }
            if let next, queue[next].at <= nextTick {
                let event = queue.remove(at: next)
                now = Instant(max(now.rawValue, event.at))
                handle(event.event)
            } else {
                now = Instant(nextTick)
                nextTick += 5_000_000
                router.tick(now: now, into: &effects)
            }
            carryOut()
            if holds { checkLives() }
        }
    }

    /// Whatever the client takes for a session's last word was sent before the session ended.
    mutating func checkLives() {
        for slot in 0...1 as ClosedRange<UInt16> {
            guard let life = router.sessionLife(of: Slot(slot)), let end = sessionEnds[life.id.rawValue] else {
                continue
            }
            if life.aliveAt > end { problems.append("session \(life.id) ended at \(end), alive at \(life.aliveAt)") }
        }
    }

    mutating func hold() {
        let slot = Int(random.below(2))
        if held[slot] > 0, chance(45) {
            held[slot] -= 1
            router.letGoOfSession(of: Slot(UInt16(slot)))
        } else {
            held[slot] += 1
            router.holdSession(of: Slot(UInt16(slot)), now: now)
        }
    }

    mutating func letGoOfAll() {
        for slot in 0...1 {
            let life = router.sessionLife(of: Slot(UInt16(slot)))
            if held[slot] > 0, let life, now.since(life.aliveAt) < 500_000_000, sessionEnds[life.id.rawValue] == nil {
                keptInTheEnd += 1
            }
            while held[slot] > 0 {
                held[slot] -= 1
                router.letGoOfSession(of: Slot(UInt16(slot)))
            }
        }
    }

    mutating func carryOut() {
        while !effects.isEmpty {
            let work = effects
            effects.removeAll()
            if work.mapChanged {
                // The shell connects to hosts as it learns of them; here they are told again.
                for host in 0..<3 where isUp[host] {
                    router.connectionUp(.host(HostID(UInt64(host + 1))), now: now, into: &effects)
                }
            }
            for send in work.sends { transmit(send) }
            for completion in work.completions { complete(completion) }
            if let fetch = work.mapFetch {
                let answer: MapAnswer = chance(20) ? .failed : .map(map)
                if !chance(10) {
                    schedule(.mapAnswer(fetch.number, answer), inMicroseconds: 200 + random.below(20_000))
                }
            }
        }
    }

    mutating func complete(_ completion: ClientCompletion) {
        let tag = Int(completion.tag)
        if operations[tag].result != nil { problems.append("\(tag) completed twice") }
        operations[tag].result = completion.result
        let late = now.rawValue > operations[tag].deadline ? now.rawValue - operations[tag].deadline : 0
        if late > 10_000_000 { problems.append("\(tag) completed \(late) ns after its deadline") }
        switch completion.result {
        case .success:
            if operations[tag].isCommand, operations[tag].executions != 1 {
                problems.append("\(tag) is done but was executed \(operations[tag].executions) times")
            }
        case .failure(let failure):
            if failure.mayHaveHappened != (failure.code == .outcomeUnknown) { problems.append("\(tag): \(failure)") }
            if !operations[tag].isCommand, failure.mayHaveHappened {
                problems.append("\(tag): a read that may have happened")
            }
        }
    }

    mutating func transmit(_ send: ClientSend) {
        let host = Int(send.host.rawValue) - 1
        guard isUp[host] else {
            schedule(.callFailed(send.call, .notSent), inMicroseconds: 1)
            return
        }
        if chance(1) {
            schedule(.callFailed(send.call, chance(50) ? .congested : .notSent), inMicroseconds: 1)
            return
        }
        open.append((send.call, connection[host], host))
        schedule(.request(send, connection: connection[host]), inMicroseconds: 100 + random.below(3_000))
    }

    mutating func handle(_ event: Event) {
        switch event {
        case .submit: submit()
        case .hold: hold()
        case .letGoOfAll: letGoOfAll()
        case .disturb: disturb()
        case .request(let send, let connection): serve(send, connection)
        case .answer(let call, let answer, let host, let connection):
            guard connection == self.connection[host] else { return }
            open.removeAll { $0.call == call }
            router.answered(call, answer, now: now, into: &effects)
            if chance(5) { router.answered(call, answer, now: now, into: &effects) }
        case .callFailed(let call, let failure): router.callFailed(call, failure, now: now, into: &effects)
        case .connectionUp(let host):
            isUp[host] = true
            router.connectionUp(.host(HostID(UInt64(host + 1))), now: now, into: &effects)
        case .mapAnswer(let number, let answer): router.mapAnswered(number, answer, now: now, into: &effects)
        }
    }

    mutating func submit() {
        let deadline = now.rawValue + (5 + random.below(1_200)) * 1_000_000
        let isCommand = chance(70)
        let isPinned = !isCommand && chance(20)
        let tag = operations.count
        operations.append(Operation(isCommand: isCommand, deadline: deadline))
        router.submit(
            ClientRequest(
                tag: UInt64(tag), kind: isCommand ? .command : .query, target: .slot(Slot(UInt16(random.below(2)))),
                pinned: HostID(isPinned ? 1 + random.below(3) : 0), payload: Bytes("\(tag)"),
                deadline: Instant(deadline)),
            now: now, into: &effects)
    }

    mutating func disturb() {
        let host = Int(random.below(3))
        let group = Int(random.below(2))
        switch random.below(hasSessions ? 7 : 6) {
        case 6:  // Its time is over, as the group counts it.
            for id in sessions[group] { sessionEnds[id] = now }
            sessions[group].removeAll()
            answers[group].removeAll()
        case 0:  // A connection breaks; what was under way on it is lost in either direction.
            guard isUp[host] else { return }
            isUp[host] = false
            router.connectionDown(.host(HostID(UInt64(host + 1))), now: now, into: &effects)
            let lost = open.filter { $0.host == host }
            open.removeAll { $0.host == host }
            connection[host] += 1
            for entry in lost { router.callFailed(entry.call, .perhapsSent, now: now, into: &effects) }
            schedule(.connectionUp(host), inMicroseconds: 1_000 + random.below(300_000))
        case 1: leaders[group] = -1
        case 2, 3:
            leaders[group] = host
            terms[group] += 1
        case 4:
            owners[Int(random.below(2))] = UInt32(1 + random.below(2))
            epoch += 1
            version += 1
        default: isFrozen[host].toggle()
        }
    }

    mutating func serve(_ send: ClientSend, _ connection: Int) {
        let host = Int(send.host.rawValue) - 1
        let group = Int(send.group.rawValue) - 1
        // What is no number is about sessions.
        let tag = Int(send.payload.string)
        // Also what arrives after the connection broke may be executed, and after the deadline.
        guard !isFrozen[host] || chance(20) else { return }
        var answer: CallAnswer
        if chance(4) {
            answer = .refused(
                [
                    .overloaded(retryAfterMillis: UInt32(random.below(60))), .noQuorum, .unknownGroup,
                    .unavailable("stopping"), .moved(group: GroupID(2), epoch: .zero),
                ][Int(random.below(5))])
        } else if let tag, owners[Int(send.slot.rawValue)] != send.group.rawValue {
            precondition(tag == Int(send.tag))
            answer = .refused(.moved(group: GroupID(owners[Int(send.slot.rawValue)]), epoch: Epoch(epoch)))
        } else if leaders[group] != host, send.kind == .command || !chance(30) {
            let hint = chance(60) ? UInt64(leaders[group] + 1) : random.below(4)
            answer = .refused(.notLeader(leader: HostID(hint), term: Term(terms[group])))
        } else if send.kind == .command, chance(3) {
            if chance(50) { _ = execute(send, tag, group) }
            answer = chance(50) ? .refused(.outcomeUnknown) : .malformed("test")
        } else {
            answer = execute(send, tag, group)
        }
        if chance(2) { return }
        if send.kind == .query, chance(2) { answer = .malformed("test") }
        schedule(
            .answer(send.call, answer, host: host, connection: connection), inMicroseconds: 100 + random.below(5_000))
    }
}

extension ModelCluster {
    mutating func execute(_ send: ClientSend, _ tag: Int?, _ group: Int) -> CallAnswer {
        guard let tag else {
            let command = try? SessionCommand(payload: send.payload)
            var body = ByteWriter()
            switch command {
            case .open:
                sessions[group].insert(nextSession[group])
                body.write(nextSession[group])
                nextSession[group] += 1
            case .keepAlive(let words):
                for word in words where !sessions[group].contains(word.id.rawValue) { body.write(word.id) }
            default: problems.append("\(command as Any)")
            }
            return .done(DataResult(index: LogIndex(1), revision: Revision(1), body: body.take()).encoded())
        }
        guard send.sequence > 0 else {
            if hasSessions, send.kind == .command { problems.append("\(tag) goes without a number") }
            operations[tag].executions += 1
            return .done(exampleResult())
        }
        guard sessions[group].contains(send.session.rawValue) else { return .refused(.sessionExpired) }
        if send.sequence < send.firstUnacknowledged { problems.append("\(tag) is acknowledged, and sent") }
        let name = CommandHeader(machine: .keyValue, session: send.session, sequence: send.sequence)
        if let answer = answers[group][name] {
            repeated += 1
            guard case .done(let bytes) = answer, let result = try? DataResult(decoding: bytes),
                result.index == LogIndex(UInt64(tag))
            else {
                problems.append("\(tag) got another's number")
                return answer
            }
            return answer
        }
        operations[tag].executions += 1
        let answer = CallAnswer.done(
            DataResult(index: LogIndex(UInt64(tag)), revision: Revision(1)).encoded())
        answers[group][name] = answer
        return answer
    }
}

@Suite struct ModelClusterTests {
    @Test(arguments: 1...60)
    func everyOperationEndsOnceInTimeAndWithTheTruth(seed: Int) { run(seed, hasSessions: false) }

    @Test func commandsOfSessionsAreDoneOnce() {
        var (repeated, unknown) = (0, 0)
        for seed in 1...100 {
            let counts = run(seed, hasSessions: true)
            repeated += counts.repeated
            unknown += counts.unknown
        }
        #expect(repeated > 100 && unknown > 100, "\(repeated), \(unknown): too little was in doubt")
    }

    @Test func sessionsThatAreHeldAreKeptAndNoneIsTakenToLiveThatEnded() {
        var kept = 0
        for seed in 1...100 { kept += run(seed, hasSessions: true, holds: true).kept }
        #expect(kept > 30, "\(kept): too few were kept to the end")
    }

    @discardableResult private func run(
        _ seed: Int, hasSessions: Bool, holds: Bool = false
    ) -> (repeated: Int, unknown: Int, kept: Int) {
        var settings = ClientSettings()
        settings.queryAttemptNanoseconds = 100_000_000
        settings.silenceNanoseconds = 200_000_000
        settings.mapFetchNanoseconds = 50_000_000
        settings.operationsMax = 150
        settings.commandAttemptNanoseconds = 100_000_000
        settings.sessionTimeToLiveMilliseconds = 1_000
        var cluster = ModelCluster(seed: UInt64(seed), settings: settings, hasSessions: hasSessions, holds: holds)
        cluster.run(operationCount: 500)
        for (tag, operation) in cluster.operations.enumerated() {
            switch operation.result {
            case nil: cluster.problems.append("\(tag) never ended")
            case .success:
                if operation.isCommand && operation.executions != 1 {
                    cluster.problems.append("\(tag) executed \(operation.executions) times")
                }
            case .failure(let failure):
                if operation.isCommand, !failure.mayHaveHappened, operation.executions != 0 {
                    cluster.problems.append("\(tag) was executed, but its caller was told: \(failure)")
                }
            }
            if operation.isCommand, operation.executions > 1 {
                cluster.problems.append("\(tag) executed more than once")
            }
        }
        #expect(cluster.problems == [], "seed \(seed)")
        #expect(cluster.router.operationCount == 0, "seed \(seed)")
        let succeeded = cluster.operations.count { if case .success = $0.result { true } else { false } }
        #expect(succeeded > (hasSessions ? 5 : 20), "too few succeed for a test: \(succeeded)")
        // No busy loops: a bounded number of attempts for each operation, though leaders are missing for long times.
        #expect(cluster.router.statistics.sends < 500 * 8, "\(cluster.router.statistics)")
        let unknown = cluster.operations.count {
            if case .failure(let failure) = $0.result { failure.mayHaveHappened } else { false }
        }
        return (cluster.repeated, unknown, cluster.keptInTheEnd)
    }
}
