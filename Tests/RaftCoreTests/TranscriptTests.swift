// Golden transcripts: testdata/*.txt tell stories about a small cluster, one paragraph of prose and then blocks of
//
//     commands, one per line
//     ----
//     what happened
//
// which must come out byte by byte. BIFROST_REWRITE_TRANSCRIPTS=1 writes what happened into the files instead: read the
// difference before you believe it.

import Foundation
import Primitives
import RaftCore
import Testing

@Suite struct TranscriptTests {
    /// The sources' folder, so that rewriting changes the files that are committed.
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "testdata")

    static var names: [String] {
        let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return files.filter { $0.hasSuffix(".txt") }.sorted()
    }

    @Test func thereAreTranscripts() { #expect(Self.names.count >= 30) }

    @Test(arguments: names) func transcript(name: String) throws {
        let file = Self.folder.appending(path: name)
        let text = try String(contentsOf: file, encoding: .utf8)
        let blocks = text.split(separator: "\n\n", omittingEmptySubsequences: true).map {
            String($0).trimmingCharacters(in: .newlines)
        }
        var stage = Stage()
        var output: [String] = []
        for (number, block) in blocks.enumerated() {
            guard number > 0, !block.hasPrefix("#") else {
                output.append(block)
                continue
            }
            let commands = block.split(separator: "\n").prefix { $0 != "----" }.map(String.init)
            for command in commands { try stage.perform(command) }
            let happened = (commands + ["----"] + stage.takeLines()).joined(separator: "\n")
            output.append(happened)
            if happened != block, ProcessInfo.processInfo.environment["BIFROST_REWRITE_TRANSCRIPTS"] == nil {
                Issue.record("\(name), expected:\n\(block)\nhappened:\n\(happened)")
                return
            }
        }
        if ProcessInfo.processInfo.environment["BIFROST_REWRITE_TRANSCRIPTS"] != nil {
            try (output.joined(separator: "\n\n") + "\n").write(to: file, atomically: true, encoding: .utf8)
        }
    }
}

struct BadCommand: Error { var text: String }

/// Performs a transcript's commands on a cluster and writes down what happens.
struct Stage {
    private var cluster = Cluster(voters: 1, settings: RaftSettings())
    private var lines: [String] = []
    private var isQuiet = false
    private var parts: [Set<UInt64>] = []
    /// The configuration that each replica was last seen in, and who was seen to know that it is removed.
    private var shown: [Configuration] = []
    private var told: Set<Int> = []
    private var now: UInt64 = 0

    mutating func takeLines() -> [String] {
        defer { lines = [] }
        return lines.isEmpty ? ["nothing"] : lines
    }

    mutating func perform(_ command: String) throws {
        var words = command.split(separator: " ").map(String.init)
        isQuiet = words.first == "quietly"
        if isQuiet { words.removeFirst() }
        var options: [String: String] = [:]
        words.removeAll { word in
            let pieces = word.split(separator: "=", maxSplits: 1).map(String.init)
            guard pieces.count == 2 else { return false }
            options[pieces[0]] = pieces[1]
            return true
        }
        func number(_ place: Int) throws -> UInt64 {
            guard place < words.count, let value = UInt64(words[place]) else { throw BadCommand(text: command) }
            return value
        }
        func position(_ place: Int) throws -> Int {
            guard let position = cluster.position(of: ReplicaID(try number(place))) else {
                throw BadCommand(text: command)
            }
            return position
        }
        func list(_ name: String) -> [ReplicaID] {
            (options[name] ?? "").split(separator: ",").compactMap { UInt64($0) }.map { ReplicaID($0) }
        }
        switch words.first {
        case "cluster":
            var settings = RaftSettings()
            settings.electionTicks = options["election"].flatMap(Int.init) ?? settings.electionTicks
            settings.heartbeatTicks = options["heartbeat"].flatMap(Int.init) ?? settings.heartbeatTicks
            settings.appendBytesMax = options["appendBytes"].flatMap(Int.init) ?? settings.appendBytesMax
            settings.inflightMessagesMax = options["window"].flatMap(Int.init) ?? settings.inflightMessagesMax
            settings.promotionLagMax = options["promotionLag"].flatMap(Int.init) ?? settings.promotionLagMax
            cluster = Cluster(
                voters: Int(try number(1)), spectators: options["spectators"].flatMap(Int.init) ?? 0, settings: settings
            )
            cluster.checks = Checks(replicas: cluster.replicas.count, configuration: cluster.configuration)
            shown = cluster.replicas.map { $0.core!.configuration }
            told = []
            now = 0
            cluster.isAutomaticallyDurable = !words.contains("manual")
            parts = []
            for position in cluster.replicas.indices {
                var ignored = RaftEffects()
                cluster.replicas[position].core!.ready(into: &ignored)
            }
        case "durability": cluster.isAutomaticallyDurable = words[1] == "automatic"
        case "tick":
            let position = try position(1)
            for _ in 0..<(words.count > 2 ? try number(2) : 1) {
                cluster.replicas[position].core?.tick()
                turn(position)
            }
        case "campaign":
            cluster.replicas[try position(1)].core?.campaign()
            turn(try position(1))
        case "propose":
            let position = try position(1)
            for text in words.dropFirst(2) {
                let result = cluster.replicas[position].core?.propose(
                    kind: .command, payload: Bytes(text), logTime: .zero)
                switch result {
                case .accepted(let index, let term): lines.append("\(words[1]) accepts \(text) as \(index)/\(term)")
                case let other?: lines.append("\(words[1]) refuses \(text): \(other)")
                case nil: lines.append("\(words[1]) is down")
                }
            }
            turn(position)
        case "configure":
            let position = try position(1)
            var writer = ByteWriter()
            Configuration(voters: list("voters"), outgoing: list("outgoing"), learners: list("learners")).encode(
                into: &writer)
            let result = cluster.replicas[position].core!.propose(
                kind: .configuration, payload: writer.take(), logTime: .zero)
            if case .accepted(let index, let term) = result {
                lines.append("\(words[1]) accepts a configuration as \(index)/\(term)")
            } else {
                lines.append("\(words[1]) refuses the configuration: \(result)")
            }
            turn(position)
        case "change":
            let position = try position(1)
            let core = cluster.replicas[position].core!
            let expecting = options["at"].flatMap { UInt64($0) }.map { LogIndex($0) } ?? core.configuration.index
            let result = cluster.replicas[position].core!.change(
                to: Configuration(
                    voters: list("voters"), outgoing: list("outgoing"), learners: list("learners")),
                expecting: expecting)
            switch result {
            case .accepted(let index, let term): lines.append("\(words[1]) begins the change with \(index)/\(term)")
            case .refused(let refusal): lines.append("\(words[1]) refuses the change: \(refusal)")
            }
            turn(position)
        case "transfer":
            let position = try position(1)
            let result = cluster.replicas[position].core!.transfer(to: ReplicaID(try number(2)))
            switch result {
            case .accepted: lines.append("\(words[1]) begins to hand over to \(words[2])")
            case .refused(let refusal): lines.append("\(words[1]) does not hand over to \(words[2]): \(refusal)")
            }
            turn(position)
        case "lease":
            let position = try position(1)
            let core = cluster.replicas[position].core!
            let index = core.leaseReadIndex(now: now)
            lines.append(
                "\(words[1]): a lease \(core.mayUseLease ? "may" : "may not") be used"
                    + (core.leaseExpiry > 0 ? ", ends at \(core.leaseExpiry)" : "")
                    + (index.map { ", reads may be served at \($0)" } ?? ""))
        case "clock":
            now = try number(1)
            for position in cluster.replicas.indices { cluster.replicas[position].core?.observe(now: now) }
        case "promise":
            let position = try position(1)
            let isPromised = cluster.promise(position, until: try number(2))
            lines.append("\(words[1]) \(isPromised ? "promises its vote" : "promises nothing") until \(words[2])")
        case "read":
            let position = try position(1)
            for place in 2..<words.count {
                cluster.checks!.asked(try number(place))
                cluster.replicas[position].core?.read(context: try number(place))
            }
            turn(position)
        case "deliver": for message in take(words) { deliver(message) }
        case "drop": for message in take(words) where !isQuiet { lines.append("lost: \(show(message))") }
        case "duplicate":
            cluster.flight += cluster.flight.filter { matches($0, words) }
        case "flight": for message in cluster.flight { lines.append(show(message)) }
        case "settle": settle()
        case "cut":
            parts = words.dropFirst().joined(separator: " ").split(separator: "|").map {
                Set($0.split(separator: " ").compactMap { UInt64($0) })
            }
        case "heal": parts = []
        case "persist":
            let position = try position(1)
            for _ in 0..<(words.count > 2 ? try number(2) : 1) { finishWrite(position) }
        case "crash":
            told.remove(try position(1))
            cluster.crash(try position(1))
        case "restart":
            let position = try position(1)
            told.remove(position)
            cluster.crash(position)
            cluster.start(position)
            turn(position)
        case "disk":
            // A replica's disk as some earlier history left it.
            let position = try position(1)
            cluster.crash(position)
            let terms = (options["terms"] ?? "").split(separator: ",").compactMap { UInt64($0) }
            cluster.replicas[position].log = terms.enumerated().map { offset, term in
                LogEntry(
                    index: LogIndex(UInt64(offset + 1)), term: Term(term), logTime: .zero, kind: .command,
                    payload: Bytes("t\(term)"))
            }
            cluster.replicas[position].hardState = HardState(
                term: Term(options["term"].flatMap { UInt64($0) } ?? terms.last ?? 0),
                commit: LogIndex(options["commit"].flatMap { UInt64($0) } ?? 0))
        case "start":
            for position in cluster.replicas.indices where cluster.replicas[position].core == nil {
                cluster.start(position)
                turn(position)
            }
        case "heard":
            cluster.replicas[try position(1)].core?.heard(from: ReplicaID(try number(2)))
            turn(try position(1))
        case "checkpoint":
            let position = try position(1)
            cluster.replicas[position].checkpoint = cluster.replicas[position].core!.appliedIndex
        case "install":
            let position = try position(1)
            guard let other = cluster.position(of: ReplicaID(try number(2))) else { throw BadCommand(text: command) }
            told.remove(position)
            cluster.install(position, from: other)
            turn(position)
        case "evict": cluster.replicas[try position(1)].core?.evict(through: LogIndex(try number(2)))
        case "discard":
            let position = try position(1)
            cluster.replicas[position].core?.discard(through: LogIndex(try number(2)))
        case "supply":
            let position = try position(1)
            cluster.answerLogRead(position)
            turn(position)
        case "send":
            guard words.count == 4,
                let kind = (1...13).map({ RaftMessageKind(rawValue: $0) }).first(where: {
                    "\($0)" == words[1] || "kind\($0.rawValue)" == words[1]
                })
            else { throw BadCommand(text: command) }
            func option(_ name: String) -> UInt64 { options[name].flatMap { UInt64($0) } ?? 0 }
            deliver(
                RaftMessage(
                    kind: kind, from: ReplicaID(try number(2)), to: ReplicaID(try number(3)),
                    term: Term(option("term")),
                    index: LogIndex(option("index")), logTerm: Term(option("logTerm")),
                    commit: LogIndex(option("commit")), context: option("context"),
                    reject: options["reject"] != nil,
                    hintIndex: LogIndex(option("hintIndex")), hintTerm: Term(option("hintTerm")),
                    entries: (options["entries"] ?? "").split(separator: ",").enumerated().compactMap { offset, text in
                        let pieces = text.split(separator: ":").map(String.init)
                        guard pieces.count == 2, let term = UInt64(pieces[0]) else { return nil }
                        return LogEntry(
                            index: LogIndex(option("index")) + (offset + 1), term: Term(term), logTime: .zero,
                            kind: .command, payload: Bytes(pieces[1]))
                    }))
        case "status": for position in cluster.replicas.indices { lines.append(status(position)) }
        case "log": for position in cluster.replicas.indices { lines.append(log(position)) }
        case "progress":
            let position = try position(1)
            for other in cluster.replicas {
                guard let progress = cluster.replicas[position].core?.progress(of: other.id),
                    other.id.rawValue != (try number(1))
                else { continue }
                lines.append(
                    "\(words[1]) on \(other.id): match \(progress.match) next \(progress.next) \(progress.state)")
            }
        case "counts":
            if let counts = cluster.replicas[try position(1)].core?.statistics {
                lines.append(
                    "\(words[1]): misaddressed \(counts.misaddressed), unknown kinds \(counts.unknownKinds), unknown senders "
                        + "\(counts.unknownSenders), stale \(counts.stale), refused for the leader \(counts.refusedForLeader)"
                        + (counts.unprovenRemovals > 0 ? ", unproven removals \(counts.unprovenRemovals)" : "")
                )
            }
        default: throw BadCommand(text: command)
        }
        if let violation = cluster.checks?.violation { lines.append("VIOLATION: \(violation)") }
    }

    // MARK: The network

    private func matches(_ message: RaftMessage, _ words: [String]) -> Bool {
        var words = words.dropFirst()
        if let link = words.first, link.contains("->") {
            let ends = link.components(separatedBy: "->")
            if ends[0] != "*", ends[0] != "\(message.from)" { return false }
            if ends[1] != "*", ends[1] != "\(message.to)" { return false }
            words = words.dropFirst()
        }
        return words.isEmpty || words.contains("\(message.kind)")
    }

    private mutating func take(_ words: [String]) -> [RaftMessage] {
        if words.last == "first" {
            let words = Array(words.dropLast())
            guard let place = cluster.flight.firstIndex(where: { matches($0, words) }) else { return [] }
            return [cluster.flight.remove(at: place)]
        }
        let chosen = cluster.flight.filter { matches($0, words) }
        cluster.flight = cluster.flight.filter { !matches($0, words) }
        return chosen
    }

    private func isCut(_ message: RaftMessage) -> Bool {
        !parts.isEmpty && !parts.contains { $0.contains(message.from.rawValue) && $0.contains(message.to.rawValue) }
    }

    private mutating func deliver(_ message: RaftMessage) {
        if isCut(message) {
            if !isQuiet { lines.append("cut off: \(show(message))") }
            return
        }
        guard let position = cluster.deliver(message) else {
            if !isQuiet { lines.append("to nobody: \(show(message))") }
            return
        }
        if !isQuiet { lines.append(show(message)) }
        turn(position)
    }

    private mutating func settle() {
        for _ in 0..<200 {
            for position in cluster.replicas.indices {
                while !cluster.replicas[position].writes.isEmpty { finishWrite(position) }
            }
            let flight = cluster.flight
            cluster.flight = []
            for message in flight { deliver(message) }
            if cluster.flight.isEmpty, cluster.replicas.allSatisfy({ $0.writes.isEmpty }) { return }
        }
        lines.append("does not settle")
    }

    // MARK: What a turn brings

    private mutating func finishWrite(_ position: Int) {
        guard let write = cluster.replicas[position].writes.first else { return }
        _ = cluster.finishWrite(position)
        if !cluster.isAutomaticallyDurable, !isQuiet {
            lines.append("  \(cluster.replicas[position].id): write \(write.sequence) is durable")
        }
        turn(position)
    }

    private mutating func turn(_ position: Int) {
        guard let core = cluster.replicas[position].core, core.hasReady else { return }
        let name = "  \(core.replica):"
        let appliedBefore = core.appliedIndex
        cluster.turn(position)
        let effects = cluster.effects
        if effects.roleChanged, let core = cluster.replicas[position].core {
            lines.append(
                "\(name) \(core.role), term \(core.term), leader \(core.leader == .none ? "unknown" : "\(core.leader)")"
            )
        }
        showConfiguration(position)
        if !cluster.isAutomaticallyDurable, !isQuiet, let sequence = effects.persistSequence {
            var parts: [String] = []
            if let state = effects.hardState { parts.append("term \(state.term) vote \(state.vote)") }
            if !effects.entries.isEmpty { parts.append(show(effects.entries)) }
            lines.append("\(name) write \(sequence) begins: \(parts.joined(separator: ", "))")
        }
        for read in effects.readsReady { lines.append("\(name) read \(read.context) may be served at \(read.index)") }
        for context in effects.readsFailed { lines.append("\(name) read \(context) failed") }
        for read in effects.logReads {
            lines.append("\(name) reads \(read.from)...\(read.through) from its journal for \(read.replica)")
        }
        for replica in effects.snapshotsNeeded { lines.append("\(name) \(replica) needs a snapshot") }
        if let core = cluster.replicas[position].core, core.appliedIndex > appliedBefore {
            lines.append("\(name) applies \(appliedBefore.next)...\(core.appliedIndex)")
        }
        if cluster.isAutomaticallyDurable { while !cluster.replicas[position].writes.isEmpty { finishWrite(position) } }
    }

    private mutating func showConfiguration(_ position: Int) {
        guard cluster.effects.configurationChanged, let core = cluster.replicas[position].core else { return }
        if core.configuration != shown[position] {
            shown[position] = core.configuration
            lines.append("  \(core.replica): configuration \(core.configuration.index): \(show(core.configuration))")
        }
        if let index = core.removedAt, told.insert(position).inserted {
            lines.append("  \(core.replica): is removed by configuration \(index)")
        }
    }

    // MARK: How it looks

    private func show(_ configuration: Configuration) -> String {
        func names(_ list: [ReplicaID]) -> String { list.map { "\($0)" }.joined(separator: " ") }
        return "voters \(names(configuration.voters))"
            + (configuration.isJoint ? " from \(names(configuration.outgoing))" : "")
            + (configuration.learners.isEmpty ? "" : " learners \(names(configuration.learners))")
    }

    private func show(_ entries: [LogEntry]) -> String {
        "["
            + entries.map { entry in
                var content = entry.kind == .empty ? "-" : entry.payload.string
                var reader = ByteReader(entry.payload)
                if entry.kind == .configuration, let configuration = try? Configuration(from: &reader) {
                    content = show(configuration)
                }
                return "\(entry.index)/\(entry.term) \(content)"
            }.joined(separator: ", ") + "]"
    }

    private func show(_ message: RaftMessage) -> String {
        var text = "\(message.from)->\(message.to) \(message.kind) term \(message.term)"
        switch message.kind {
        case .preVote, .vote:
            text += " last \(message.index)/\(message.logTerm)" + (message.isByTransfer ? " by transfer" : "")
        case .removed:
            text += " at \(message.index)"
            text += message.reject ? "" : ", if \(message.hintIndex)/\(message.hintTerm) is there"
        case .preVoteReply, .voteReply: text += message.reject ? " refused" : " granted"
        case .append:
            text += " after \(message.index)/\(message.logTerm) commit \(message.commit) \(show(message.entries))"
        case .appendReply:
            text +=
                message.reject
                ? " rejects \(message.index), try \(message.hintIndex)/\(message.hintTerm)" : " has \(message.index)"
            text += " commit \(message.commit)"
        case .heartbeat, .heartbeatReply: text += " commit \(message.commit) round \(message.context)"
        case .readIndexReply: text += message.reject ? " refused" : " index \(message.index)"
        default: break
        }
        return text
    }

    private func status(_ position: Int) -> String {
        let replica = cluster.replicas[position]
        guard let core = replica.core else { return "\(replica.id): down" }
        let leader = core.leader == .none ? "unknown" : "\(core.leader)"
        return
            "\(replica.id): \(core.role), term \(core.term), leader \(leader), commit \(core.commit), last \(core.lastIndex)/\(core.lastTerm)"
            + ", stable \(core.stableIndex)" + (core.isSettled() ? ", settled" : "")
    }

    private func log(_ position: Int) -> String {
        let replica = cluster.replicas[position]
        guard let core = replica.core else { return "\(replica.id): down" }
        let terms =
            core.lastIndex == core.base
            ? ""
            : ((core.base.rawValue + 1)...core.lastIndex.rawValue)
                .map { core.term(at: LogIndex($0)).map { "\($0)" } ?? "?" }.joined(separator: " ")
        return "\(replica.id): after \(core.base): \(terms) | commit \(core.commit)"
    }
}
