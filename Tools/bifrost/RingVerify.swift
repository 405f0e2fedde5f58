// `bifrost ring verify`: asks every replica what its group's log says of slots and of which it has records, and has the proof
// made of it (Ring/RingProof.swift). Owns asking, and that all answers are of one state of the ring.

import ArgumentParser
import Messages
package import Primitives
import RPC
import Ring
import StateMachines

/// How far a group is, by what its hosts say. Pure.
package enum RingBound {
    /// All that the group had committed when its leader was asked lies up to there: a leader's log has it, also what it does
    /// not know yet to be committed. Followers may be behind by any number. nil: its leader is not among those who answered.
    package static func index(of group: GroupID, _ accounts: [HostAccount]) -> LogIndex? {
        let replicas = accounts.compactMap { account in account.status?.replicas.first { $0.group == group } }
        let leader = replicas.filter { $0.role == .leader && $0.isQuorumActive }.max { $0.term < $1.term }
        // One that is followed by another, and does not know it yet, may have less.
        guard let leader, !replicas.contains(where: { $0.term > leader.term }) else { return nil }
        return leader.lastIndex
    }
}

struct RingVerify: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Proves from the hosts' own states that each slot is in one place.",
        discussion: """
            Every replica is asked what its group's log says of slots, and of which slots it has records; nothing is \
            changed. Proven is then: each slot is served by exactly one group, and no record lies outside its owner's slots. \
            Slots of migrations that are under way are named: between two steps they have records at both ends. It \
            costs each replica a look-up for each slot that has records, on threads that may wait. It needs hosts that know \
            feature level 11.

            A host that does not answer is waited for some ten to twenty seconds, a replica that is behind and a ring that \
            changes until the time is over.

            EXIT CODES: 0 proven, 1 something speaks against it, and is named, 4 not proven: a host or a replica does not \
            answer or is behind, or the ring changed all the time.

            EXAMPLES:
              bifrost ring verify
              bifrost ring verify --timeout 5m --json
            """)

    @Flag(
        inversion: .prefixedNo,
        help: "Show on standard error which replicas are still asked. (default: if that is a terminal)")
    var progress: Bool?

    @OptionGroup var options: ClientOptions

    private struct Report: Encodable {
        struct Violation: Encodable {
            var slots: [UInt16]
            var what: String
        }
        struct Moving: Encodable {
            var migration: UInt64
            var source: UInt32
            var target: UInt32
            var slots: Int
            var state: String
        }
        var proven: Bool
        var mapVersion: UInt64
        var epoch: UInt64
        var slots: Int
        var groups: Int
        var replicas: Int
        /// Of each group, counted once.
        var slotsWithRecords: Int
        var moving: [Moving]
        var violations: [Violation]
        /// Replicas of which nothing is known, and why.
        var unproven: [String]
        /// Hosts that do not answer.
        var silentHosts: [UInt64]
    }

    /// A replica of which nothing is known.
    private struct Unproven {
        var host: HostID
        var text: String
    }

    private static let timeout = Duration.seconds(60)
    private static let answerNanoseconds: UInt64 = 30_000_000_000
    /// For all groups' leaders to say how far these are: one may just be elected.
    private static let boundNanoseconds: UInt64 = 10_000_000_000
    private static let pause = Duration.milliseconds(200)
    private static let tickPause = Duration.seconds(1)
    /// Replicas that are asked at the same time.
    private static let asksMax = 16

    private struct Asked: Sendable {
        var group: GroupID
        var host: HostRecord
        /// What it has to have applied at least; nil: nobody knows.
        var index: LogIndex?
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: Self.timeout)
        defer { administrator.close() }
        let meter = StandingMeter(
            "asking what is where", counting: "replica", isShown: progress ?? Output.isErrorTerminal)
        defer { meter.finish() }
        let silence = HostSilence(administrator)
        let looks = Task { await silence.run() }
        defer { looks.cancel() }
        var last: (map: ClusterMap, replicas: Int)?
        repeat {
            let map = try await administrator.map()
            silence.look(at: map)
            let asked = try await asked(map, administrator)
            let (statements, unproven) = try await statements(asked, administrator, silence, meter)
            let after = try await administrator.map()
            // Whatever changed in between, an answer before it and one behind it prove nothing together.
            guard after.ring == map.ring, after.migrations == map.migrations,
                after.groups.map(\.id) == map.groups.map(\.id)
            else {
                last = (after, asked.count)
                continue
            }
            meter.finish()
            return try report(map, asked.count, statements, unproven, silence)
        } while !administrator.isOver
        meter.finish()
        // No answers: some are of before a change, and some of after it.
        guard let last else { return }
        let why = "the ring changed while replicas were asked, each time within the time; try again when less moves"
        try report(last.map, last.replicas, [], [Unproven(host: HostID(0), text: why)], silence)
    }

    /// All replicas that are members, and how far their groups were after the map was read.
    private func asked(_ map: ClusterMap, _ administrator: Administrator) async throws -> [Asked] {
        var bounds: [LogIndex?] = map.dataGroups.map { _ in nil }
        let end = administrator.share(Self.boundNanoseconds)
        let meter = StandingMeter(
            "asking leaders how far they are", counting: "group", isShown: progress ?? Output.isErrorTerminal)
        defer { meter.finish() }
        while true {
            let accounts = try await administrator.accounts(map)
            for (place, group) in map.dataGroups.enumerated() where bounds[place] == nil {
                bounds[place] = RingBound.index(of: group.id, accounts)
            }
            guard bounds.contains(nil), RPCClock.now() < end else { break }
            let silent = accounts.filter { $0.status == nil }.map { "host \($0.host.id)" }.joined(separator: ", ")
            meter.show(
                zip(map.dataGroups, bounds).filter { $1 == nil }.map { group, _ in
                    group.id.words + (silent.isEmpty ? "" : "; there is no answer from \(silent)")
                })
            try await administrator.sleep(Self.pause)
        }
        var asked: [Asked] = []
        for (group, bound) in zip(map.dataGroups, bounds) {
            for replica in group.replicas where replica.membership != .absent {
                guard let host = map.host(replica.host) else { continue }
                asked.append(Asked(group: group.id, host: host, index: bound))
            }
        }
        return asked
    }

    private enum Event: Sendable {
        case answered(place: Int, Result<RingProof.Statement, ToolError>)
        /// Time to say anew who has not answered.
        case tick
    }

    private func statements(
        _ asked: [Asked], _ administrator: Administrator, _ silence: HostSilence, _ meter: StandingMeter
    ) async throws -> (statements: [RingProof.Statement], unproven: [Unproven]) {
        var answers: [Result<RingProof.Statement, ToolError>?] = Array(repeating: nil, count: asked.count)
        func show() {
            let open = asked.indices.filter { answers[$0] == nil }.map { asked[$0] }
            // Those that are waited for longest come first.
            let silent = open.filter { silence.isSilent($0.host.id) }
            let others = open.filter { !silence.isSilent($0.host.id) }
            meter.show(
                silent.map { "\($0.group.words) on host \($0.host.id), which does not answer" }
                    + others.map { "\($0.group.words) on host \($0.host.id)" })
        }
        show()
        await withTaskGroup(of: Event.self) { tasks in
            var (next, open) = (0, 0)
            tasks.addTask { await Self.tick() }
            while next < asked.count || open > 0 {
                while next < asked.count, open < Self.asksMax {
                    let (place, replica) = (next, asked[next])
                    tasks.addTask {
                        .answered(place: place, await Self.answer(of: replica, administrator, silence))
                    }
                    (next, open) = (next + 1, open + 1)
                }
                switch await tasks.next() {
                case .answered(let place, let answer)?:
                    answers[place] = answer
                    open -= 1
                case .tick?: tasks.addTask { await Self.tick() }
                case nil: break
                }
                show()
            }
            tasks.cancelAll()
        }
        var statements: [RingProof.Statement] = []
        var unproven: [Unproven] = []
        for (replica, answer) in zip(asked, answers) {
            switch answer {
            case .success(let statement)?: statements.append(statement)
            case .failure(let error)?:
                if error.status == .fault { throw error }
                let text = "\(replica.group.words) on host \(replica.host.id): \(error.message)"
                unproven.append(Unproven(host: replica.host.id, text: text))
            case nil: break
            }
        }
        return (statements, unproven)
    }

    private static func tick() async -> Event {
        try? await Task.sleep(for: tickPause)
        return .tick
    }

    private static func answer(
        of asked: Asked, _ administrator: Administrator, _ silence: HostSilence
    ) async -> Result<RingProof.Statement, ToolError> {
        do throws(ToolError) { return .success(try await statement(of: asked, administrator, silence)) } catch {
            return .failure(error)
        }
    }

    /// What a replica says, as soon as it is as far as its group was.
    private static func statement(
        of asked: Asked, _ administrator: Administrator, _ silence: HostSilence
    ) async throws(ToolError) -> RingProof.Statement {
        guard let bound = asked.index else {
            throw ToolError(.unavailable, "its group's leader does not say how far the group is")
        }
        var statement = RingProof.Statement(group: asked.group, host: asked.host.id)
        var next = Bytes()
        var isFirst = true
        var why = "it does not answer"
        repeat {
            if let silent = silence.isGone(asked.host.id) {
                throw ToolError(.unavailable, "its host does not answer (\(silent))")
            }
            let request = QueryRequest(
                group: asked.group, epoch: .zero, slot: .group, machine: .slotOwnership, consistency: .local,
                query: SlotContentsQuery(from: next).encoded())
            do throws(RPCError) {
                let bytes = try await administrator.probe(asHost: asked.host).data(
                    DataMethod.query, request.encoded(), deadline: administrator.share(answerNanoseconds))
                switch try decoded(bytes, asked.host.id) {
                case .answered(let index, let contents):
                    if isFirst {
                        guard index >= bound else {
                            why = "it has applied \(index) entries, and its group \(bound)"
                            break
                        }
                        (statement.gates, statement.tasks) = (contents.gates, contents.tasks)
                        isFirst = false
                    }
                    statement.filled += contents.filled
                    next = contents.next
                    if next.isEmpty { return statement }
                    continue
                case .refused(let text): why = text
                }
            } catch {
                why = error.message
                if error.code == .unknownMethod { throw ToolError(.unavailable, why) }
            }
            do { try await Task.sleep(for: pause) } catch { throw ToolError(error) }
        } while !administrator.isOver
        throw ToolError(.unavailable, why)
    }

    private enum Answer {
        case answered(LogIndex, SlotContents)
        case refused(String)
    }

    private static func decoded(_ bytes: Bytes, _ host: HostID) throws(RPCError) -> Answer {
        do throws(DecodingFailure) {
            switch try Response<DataResult>(decoding: bytes) {
            case .done(let result): return .answered(result.index, try SlotContents(decoding: result.body))
            case .refused(.invalid(let text)): return .refused("its version does not say: \(text)")
            case .refused(.unavailable(let text)): return .refused(text)
            case .refused(let other): return .refused("\(other)")
            }
        } catch {
            return .refused("its answer can't be read: \(error)")
        }
    }

    private func report(
        _ map: ClusterMap, _ asked: Int, _ statements: [RingProof.Statement], _ unproven: [Unproven],
        _ silence: HostSilence
    ) throws {
        let violations = RingProof.violations(map, statements)
        var filled = Array(repeating: false, count: Slot.count)
        for statement in statements {
            for slot in statement.filled where map.owner(of: slot) == statement.group {
                filled[Int(slot.rawValue)] = true
            }
        }
        let silent = map.hosts.compactMap { host in silence.isGone(host.id).map { (host: host, why: $0) } }
        let report = Report(
            proven: violations.isEmpty && unproven.isEmpty, mapVersion: map.version, epoch: map.ring.epoch.rawValue,
            slots: Slot.count, groups: map.dataGroups.count, replicas: asked,
            slotsWithRecords: filled.reduce(0) { $0 + ($1 ? 1 : 0) },
            moving: map.migrations.map {
                Report.Moving(
                    migration: $0.id.rawValue, source: $0.source.rawValue, target: $0.target.rawValue,
                    slots: $0.slots.count, state: "\($0.state)")
            },
            violations: violations.map {
                Report.Violation(slots: $0.slots.map(\.rawValue), what: $0.description)
            }, unproven: unproven.map(\.text), silentHosts: silent.map(\.host.id.rawValue))
        if options.common.json {
            try Output.json(report)
        } else {
            try Output.line(text(report, map))
        }
        if let first = violations.first {
            let more = violations.count > 1 ? ", and \(violations.count - 1) more" : ""
            throw ToolError(.negative, "not so: \(first)\(more)")
        }
        guard let first = unproven.first else { return }
        // Who is gone takes all its replicas along: that is said once, and beside it what else is not known.
        let others = unproven.filter { one in !silent.contains { $0.host.id == one.host } }
        let known =
            others.first.map { ", and \($0.text)\(others.count > 1 ? ", and \(others.count - 1) more" : "")" }
            ?? "; nothing that the others have speaks against it"
        if let gone = silent.first(where: { one in unproven.contains { $0.host == one.host.id } }) {
            let more = silent.count > 1 ? ", and \(HumanText.count(silent.count - 1, "host")) more" : ""
            throw ToolError(
                .unavailable,
                "not proven: host \(gone.host.id) at \(gone.host.address) does not answer (\(gone.why))\(more), so that "
                    + "nothing is known of \(HumanText.count(unproven.count - others.count, "replica"))\(known)")
        }
        let more = unproven.count > 1 ? ", and \(unproven.count - 1) more" : ""
        throw ToolError(.unavailable, "not proven: \(first.text)\(more)")
    }

    private func text(_ report: Report, _ map: ClusterMap) -> String {
        var lines = [
            "\(HumanText.grouped(UInt64(report.slots))) slots at ring epoch \(report.epoch), "
                + "\(HumanText.count(report.groups, "group")), \(HumanText.count(report.replicas, "replica")): "
                + (report.proven
                    ? "each slot is served by one group, and no record lies outside its owner's slots"
                    : report.violations.isEmpty ? "not proven" : "not so")
        ]
        lines += report.moving.map { moving in
            "migration \(moving.migration) is \(moving.state): \(HumanText.count(moving.slots, "slot")) from group "
                + "\(moving.source) to group \(moving.target), between whose ends nothing is said of where records lie"
        }
        lines += report.violations.map { "  \($0.what)" }
        lines += report.unproven.map { "  \($0)" }
        return lines.joined(separator: "\n")
    }
}

extension Administrator {
    /// A host of the map, whose address was read a moment ago.
    fileprivate func probe(asHost host: HostRecord) throws(RPCError) -> HostProbe {
        do throws(ToolError) { return try probe(host.address) } catch {
            throw RPCError(.notConnected, error.message)
        }
    }
}
