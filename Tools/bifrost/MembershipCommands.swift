// `bifrost members …`: who belongs to a membership, who is online, who leads; and commands that run as a member.

import ArgumentParser
import Bifrost
import DataTypes
import Foundation
import Messages
import Primitives
import StateMachines

/// A member's id.
private struct MemberID: ParsableArguments {
    @Argument(help: "The membership's name.") var name: KeyArgument
    @Argument(help: ArgumentHelp("The member's id.", valueName: "id")) var id: KeyArgument
}

private struct MemberReport: Encodable {
    var member: String?
    var memberBase64: String?
    var isOnline: Bool
    var leads: Bool
    /// As long as it is online.
    var token: UInt64?
    var session: String?
    var joined: UInt64
    var changed: UInt64
    var value: String?
    var valueBase64: String?

    init(_ entry: MembershipMember, leads: Bool) {
        (member, memberBase64) = entry.id.forJSON
        (isOnline, self.leads) = (entry.isOnline, leads)
        token = entry.isOnline ? entry.token : nil
        session = entry.isOnline ? "\(entry.session)" : nil
        (joined, changed) = (entry.joined, entry.changed)
        (value, valueBase64) = entry.metadata.forJSON
    }
}

struct MembershipCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "members",
        abstract: "Memberships of clients: join, leave, look who is online and who leads.",
        discussion: """
            A member is one until it leaves, and online as long as the process lives with which it came. Of those online \
            the one leads that has been so for the longest time. Not the members of Raft groups: see 'bifrost group'.

            EXAMPLES:
              bifrost members join workers "$(hostname)" -- ./work
              bifrost members list workers --online
              bifrost members watch workers
            """,
        subcommands: [
            Create.self, Delete.self, Join.self, Leave.self, Offline.self, List.self, Leader.self, Watch.self,
        ])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Makes a membership.",
            discussion: "Who joins makes it as well, unless told otherwise. Exit code 1: it was there.")
        @Argument(help: "Its name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let isNew = try await cluster.membership(name.bytes).create()
            await cluster.close()
            try ObjectReport(found: !isNew).end(
                isNew, options, yes: "created", no: "there is a membership \(HumanText.quoted(name.bytes))")
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Deletes a membership, with all its members.", discussion: "Exit code 1: there was none.")
        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Also if members are online: these lose their places.") var force = false
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let wasThere = try await cluster.membership(name.bytes).delete(force: force)
            await cluster.close()
            try ObjectReport(found: wasThere).end(
                wasThere, options, yes: "deleted", no: "there is no membership \(HumanText.quoted(name.bytes))")
        }
    }

    struct Join: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a command while this process is online as a member.",
            discussion: HeldCommandOptions.words + """
                 What is held here is the member's place: --value is what others see of it.
                """)
        @Argument(help: "The membership's name.") var name: KeyArgument
        @Argument(help: ArgumentHelp("The member's id.", valueName: "id")) var id: KeyArgument
        @Argument(
            parsing: .postTerminator,
            help: ArgumentHelp("What to run, behind --, with its arguments.", valueName: "command"))
        var command: [String] = []
        @Option(
            help: ArgumentHelp(
                "So long it is a member behind the command's end, offline. (default: until 'members leave')",
                valueName: "time"),
            transform: TimeSpan.init(parsing:))
        var stays: TimeSpan?
        @Flag(help: "It leaves with the command's end, and is no offline member.") var leaves = false
        @Flag(help: "Ends with 1 if the membership was not created before.") var noCreate = false
        @Flag(help: "Ends with 1 if a member with this id is online already, instead of taking its place.")
        var noTakeOver = false
        @OptionGroup var held: HeldCommandOptions

        func validate() throws {
            guard !command.isEmpty else {
                throw ValidationError("expected a command behind --, as in NAME ID -- ./work")
            }
            guard !leaves || stays == nil else {
                throw ValidationError("--leaves and --stays are two ends: leave one of them out")
            }
        }

        func run() async throws {
            let (name, id, stays) = (name.bytes, id.bytes, leaves ? .zero : stays?.duration)
            let (creates, takesOver) = (!noCreate, !noTakeOver)
            try await held.run(command) { (cluster, value) async throws(BifrostError) in
                try await cluster.membership(name).join(
                    id, metadata: value, stays: stays, creating: creates, takingOver: takesOver)
            }
        }
    }

    struct Leave: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Has a member leave, online or not.", discussion: "Exit code 1: there is no such member.")
        @OptionGroup fileprivate var member: MemberID
        @OptionGroup var options: ClientOptions

        func run() async throws {
            try await change(options, member, "left") { (cluster) async throws(BifrostError) in
                try await cluster.membership(member.name.bytes).leave(member.id.bytes)
            }
        }
    }

    struct Offline: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts a member offline: the command that it runs is ended.",
            discussion: "Exit code 1: no such member is online.")
        @OptionGroup fileprivate var member: MemberID
        @OptionGroup var options: ClientOptions

        func run() async throws {
            try await change(options, member, "offline") { (cluster) async throws(BifrostError) in
                try await cluster.membership(member.name.bytes).putOffline(member.id.bytes)
            }
        }
    }

    private static func change(
        _ options: ClientOptions, _ member: MemberID, _ word: String,
        _ body: (Cluster) async throws(BifrostError) -> Bool
    ) async throws {
        let cluster = try await options.cluster()
        let wasThere = try await body(cluster)
        await cluster.close()
        try ObjectReport(found: wasThere).end(
            wasThere, options, yes: word,
            no: "\(HumanText.quoted(member.name.bytes)) has no such member\(word == "left" ? "" : " online"): "
                + HumanText.quoted(member.id.bytes))
    }

    struct List: AsyncParsableCommand {
        private struct Report: Encodable {
            var version: UInt64
            var members: UInt32
            var online: UInt32
            var epoch: UInt64?
            var entries: [MemberReport]
        }

        static let configuration = CommandConfiguration(
            abstract:
                "Prints a membership's members: id, online or offline, leader or not, and what each says of itself.",
            discussion: """
                With tabs between; by their ids, or with --online in the order in which they came. Read in pages, each of \
                one moment. Exit code 1: there is none, or nobody to show.
                """)
        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Those alone that are online.") var online = false
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let membership = cluster.membership(name.bytes)
            func page(_ from: Bytes) async throws(BifrostError) -> MembershipListing {
                online ? try await membership.online(from: from) : try await membership.members(from: from)
            }
            var listing = try await page(Bytes())
            while let next = listing.next {
                let more = try await page(next)
                listing.entries += more.entries
                listing.next = more.next
            }
            await cluster.close()
            let leader = listing.leader?.token
            if options.common.json {
                try Output.json(
                    Report(
                        version: listing.version, members: listing.members, online: listing.online,
                        epoch: listing.epoch > 0 ? listing.epoch : nil,
                        entries: listing.entries.map { MemberReport($0, leads: $0.isOnline && $0.token == leader) }))
            } else {
                for entry in listing.entries {
                    let leads = entry.isOnline && entry.token == leader
                    try Output.write(
                        RecordFormat.line([
                            entry.id, Bytes(entry.isOnline ? "online" : "offline"), Bytes(leads ? "leader" : "-"),
                            entry.metadata,
                        ]))
                }
            }
            guard listing.state == .absent || listing.entries.isEmpty else { return }
            throw ToolError(
                .negative,
                listing.state == .absent
                    ? "there is no membership \(HumanText.quoted(name.bytes))"
                    : "\(HumanText.quoted(name.bytes)) has no members\(online ? " online" : "")")
        }
    }

    struct Leader: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prints who leads: its id, epoch, and what it says of itself.",
            discussion: "With tabs between. Exit code 1: nobody is online.")
        @Argument(help: "The membership's name.") var name: KeyArgument
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let cluster = try await options.cluster()
            let listing = try await cluster.membership(name.bytes).members()
            await cluster.close()
            guard let leader = listing.leader else {
                try ObjectReport.endEmpty(options, "nobody leads \(HumanText.quoted(name.bytes))")
            }
            if options.common.json { return try Output.json(Report(epoch: listing.epoch, leader)) }
            try Output.write(RecordFormat.line([leader.id, Bytes("\(listing.epoch)"), leader.metadata]))
        }

        private struct Report: Encodable {
            var epoch: UInt64
            var leader: MemberReport
            init(epoch: UInt64, _ leader: MembershipMember) {
                self.epoch = epoch
                self.leader = MemberReport(leader, leads: true)
            }
        }
    }

    struct Watch: AsyncParsableCommand {
        private struct Line: Encodable {
            var change: String
            var member: String?
            var memberBase64: String?
            var version: UInt64?
            var reason: String?
            var value: String?
            var valueBase64: String?
            var revision: UInt64
            var resume: UInt64?
        }

        static let configuration = CommandConfiguration(
            abstract: "Prints what becomes of a membership.",
            discussion: """
                First who leads (leads) and its members (present), then each event, until Ctrl-C or --limit, and to the end \
                of that revision: joined, online, offline, updated, left, leaderChanged, deleted (without a version); with \
                its version, the member's id, what it says of itself, and why it is offline or has left (sessionEnded, \
                asked, takenOver, timeOver, deleted), with tabs between. Versions grow, and not by one: a gap is no event \
                that was missed. With --json also progress, where nothing happens for some seconds.
                """)
        @Argument(help: "Its name.") var name: KeyArgument
        @Flag(help: "Not what is there: only what changes from now on.") var now = false
        @OptionGroup var watch: WatchOptions
        @OptionGroup var options: ClientOptions

        func run() async throws {
            let start = try watch.start(now: now)
            let cluster = try await options.cluster()
            var left = watch.limit ?? .max
            var position = watch.after.map { Revision($0) }
            let reader = OutputReader()
            defer { reader.end() }
            do throws(BifrostError) {
                for try await event in cluster.membership(name.bytes).watch(from: start) {
                    position = event.resume ?? position
                    guard event.kind != .progress || options.common.json else { continue }
                    do { try print(event) } catch { throw BifrostError(.closed, "", cause: error) }
                    if ![.ready, .present, .leads, .progress].contains(event.kind) { left -= 1 }
                    // Of one revision all are told, so that who goes on behind it misses none and gets none twice.
                    if left <= 0, event.resume == event.revision { break }
                }
            } catch {
                throw error.cause as? ToolError ?? error.ofWatch(at: position)
            }
            reader.end()
            await cluster.close()
        }

        private func print(_ event: MembershipEvent) throws {
            if options.common.json {
                var line = Line(
                    change: event.kind.rawValue, version: event.version > 0 ? event.version : nil,
                    reason: event.reason?.rawValue, revision: event.revision.rawValue,
                    resume: event.resume.map(\.rawValue))
                if let member = event.member {
                    (line.member, line.memberBase64) = member.id.forJSON
                    (line.value, line.valueBase64) = member.metadata.forJSON
                }
                return try Output.jsonLine(line)
            }
            var fields = [Bytes(event.kind.rawValue)]
            if event.version > 0 { fields.append(Bytes("\(event.version)")) }
            if let member = event.member { fields += [member.id, member.metadata] }
            if let reason = event.reason { fields.append(Bytes(reason.rawValue)) }
            try Output.write(RecordFormat.line(fields))
        }
    }
}
