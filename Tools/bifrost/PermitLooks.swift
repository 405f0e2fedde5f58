// Looks at who holds a lock, permits, leadership or a lease, and the command that takes it away.

import ArgumentParser
import Bifrost
import DataTypes
import Foundation
import Messages
import Primitives
import StateMachines

private struct PermitReport: Encodable {
    struct Entry: Encodable {
        var token: UInt64?
        /// The same, of an election.
        var epoch: UInt64?
        var ticket: UInt64?
        var session: String
        var permits: UInt32
        var value: String?
        var valueBase64: String?

        init<Kind: PermitKind>(_ entry: PermitEntry, of _: Kind.Type, isWaiter: Bool) {
            if isWaiter { ticket = entry.number } else { token = entry.number }
            epoch = Kind.epoch(token)
            session = "\(entry.session)"
            permits = entry.permits
            (value, valueBase64) = entry.value.forJSON
        }
    }
    var limit: UInt32
    var out: UInt32
    var waiters: UInt32
    var entries: [Entry]
}

struct PermitShow<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "show", abstract: "Prints who has it: \(Kind.number), permits, and what he says of himself.",
            discussion: "With tabs between. Exit code 1: nobody has it.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @OptionGroup var options: ClientOptions

    func run() async throws { try await list(Kind.self, name.bytes, waiters: false, options) }
}

struct PermitWaiting<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "\(Kind.waiter)\(Kind.waiter == "candidate" ? "s" : "")",
            abstract: "Prints who waits, in the order of their turns: ticket, permits, and what each says of himself.",
            discussion: "With tabs between. Exit code 1: nobody waits.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @OptionGroup var options: ClientOptions

    func run() async throws { try await list(Kind.self, name.bytes, waiters: true, options) }
}

private func list<Kind: PermitKind>(
    _: Kind.Type, _ name: Bytes, waiters: Bool, _ options: ClientOptions
) async throws {
    let cluster = try await options.cluster()
    let object = PermitObject<Kind.Machine>(cluster, name)
    var listing = try await object.listing(waiters: waiters, .linearizable, timeout: nil)
    while let next = listing.next {
        let more = try await object.listing(waiters: waiters, from: next, .linearizable, timeout: nil)
        listing.entries += more.entries
        listing.next = more.next
    }
    await cluster.close()
    if options.common.json {
        try Output.json(
            PermitReport(
                limit: listing.limit, out: listing.out, waiters: listing.waiters,
                entries: listing.entries.map { PermitReport.Entry($0, of: Kind.self, isWaiter: waiters) }))
    } else {
        for entry in listing.entries {
            try Output.write(RecordFormat.line([Bytes("\(entry.number)"), Bytes("\(entry.permits)"), entry.value]))
        }
    }
    if listing.entries.isEmpty {
        throw ToolError(
            .negative,
            waiters
                ? "nobody waits for \(Kind.word) \(HumanText.quoted(name))"
                : "nobody has \(Kind.word) \(HumanText.quoted(name))")
    }
}

struct PermitRevoke<Kind: PermitKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: Kind.number == "epoch" ? "depose" : "revoke",
            abstract: "Takes it away from whoever has it with this \(Kind.number).",
            discussion: "Exit code 1: nobody has it with that.")
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @Argument(help: "The \(Kind.number) that 'show' prints.") var number: UInt64
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let cluster = try await options.cluster()
        let wasHeld = try await PermitObject<Kind.Machine>(cluster, name.bytes).release(token: number, timeout: nil)
        await cluster.close()
        try ObjectReport(found: wasHeld).end(
            wasHeld, options, yes: "revoked", no: "nobody has it with \(Kind.number) \(number)")
    }
}

struct PermitWatcher<Kind: PermitKind>: AsyncParsableCommand {
    private struct Line: Encodable {
        var change: String
        var token: UInt64?
        var epoch: UInt64?
        var permits: UInt32?
        var value: String?
        var valueBase64: String?
        var revision: UInt64
        var resume: UInt64?
    }

    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: Kind.number == "epoch" ? "observe" : "watch", abstract: "Prints who gets it and loses it.",
            discussion: """
                First who has it, then each change, until Ctrl-C or --limit: a word (present, ready, put, deleted, \
                expired), the \(Kind.number), permits, and what the holder says of himself, with tabs between.
                """)
    }
    @Argument(help: "Its name.") var name: KeyArgument
    @Flag(help: "Not who has it: only what changes from now on.") var now = false
    @OptionGroup var watch: WatchOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let start = try watch.start(now: now)
        let cluster = try await options.cluster()
        var left = watch.limit ?? .max
        var position = watch.after.map { Revision($0) }
        let reader = OutputReader()
        defer { reader.end() }
        let changes = PermitObject<Kind.Machine>(cluster, name.bytes).watch(from: start, patience: nil)
        do throws(BifrostError) {
            for try await change in changes {
                position = change.resume ?? position
                guard change.kind != .progress || options.common.json else { continue }
                do { try print(change) } catch { throw BifrostError(.closed, "", cause: error) }
                if ![.ready, .present, .progress].contains(change.kind) { left -= 1 }
                if left == 0 { break }
            }
        } catch {
            throw error.cause as? ToolError ?? error.ofWatch(at: position)
        }
        reader.end()
        await cluster.close()
    }

    private func print(_ change: PermitChange) throws {
        let hasToken = change.kind != .ready && change.kind != .progress
        if options.common.json {
            var line = Line(
                change: change.kind.rawValue, token: hasToken ? change.token : nil, permits: change.holder?.permits,
                revision: change.revision.rawValue, resume: change.resume.map(\.rawValue))
            line.epoch = Kind.epoch(line.token)
            if let holder = change.holder { (line.value, line.valueBase64) = holder.value.forJSON }
            return try Output.jsonLine(line)
        }
        var fields = [Bytes(change.kind.rawValue)]
        if hasToken { fields.append(Bytes("\(change.token)")) }
        if let holder = change.holder { fields += [Bytes("\(holder.permits)"), holder.value] }
        try Output.write(RecordFormat.line(fields))
    }
}
