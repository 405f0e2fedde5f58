// The commands of `bifrost group` that change something. Each reads the map, asks for one change, and waits until it has
// come about.

import ArgumentParser
import Foundation
import Messages
import Primitives
import Ring
import StateMachines

/// A group and one of its replicas, by its id or by its host.
struct ReplicaChoice: ParsableArguments {
    @Argument(help: ArgumentHelp("The group's number, or meta.", valueName: "group"))
    var group: GroupArgument

    @Argument(help: ArgumentHelp("The replica's id.", valueName: "replica"))
    var replica: UInt64?

    @Option(help: ArgumentHelp("The replica on this host: its id, name or address.", valueName: "host"))
    var host: String?

    func validate() throws {
        guard (replica == nil) != (host == nil) else {
            throw ValidationError(
                replica == nil
                    ? "name the replica by its id, or by its host with --host"
                    : "the replica is named twice, by its id and with --host: name it once")
        }
    }

    func record(in map: ClusterMap) throws(ToolError) -> (group: GroupRecord, replica: ReplicaRecord) {
        let group = try MapNames.group(group.id, in: map)
        if let replica { return (group, try MapNames.replica(ReplicaID(replica), of: group)) }
        return (group, try MapNames.replica(on: try MapNames.host(host ?? "", in: map), of: group))
    }
}

/// The result of a change. What it was not about is left out.
struct ChangeReport: Encodable {
    var group: UInt32?
    var replica: UInt64?
    var host: UInt64?
    var mapVersion: UInt64
    /// False: it was so already, or somebody else was faster.
    var changed: Bool
    /// It was waited for, and has come about.
    var done: Bool
}

extension Administrator {
    /// One wish from beginning to end.
    /// - Parameters:
    ///   - goal: what to wait for, given what the change was about.
    ///   - begun: the result in words if nobody waits, and the end of the error if the time is over: "replica 9 …".
    ///   - done: the result in words.
    fileprivate func carryOut(
        _ wish: MapWish, from map: ClusterMap, replica: ReplicaRecord?, host: HostID?, wait options: WaitOptions,
        json: Bool, goal: (MapWish.Subject) -> MapGoal, begun: (MapWish.Subject) -> String,
        done: (MapWish.Subject) -> String
    ) async throws {
        let change = try await bring(about: wish, from: map)
        let subject = change.subject
        if !options.noWait {
            let name = "replica \(subject.replica) of \(subject.group.words)"
            try await wait(
                for: [goal(subject)], since: change.mapVersion, what: name,
                hint: "bifrost group members \(subject.group.name)", meter: options.meter(name))
        }
        if json {
            return try Output.json(
                ChangeReport(
                    group: subject.group.rawValue, replica: subject.replica.rawValue,
                    host: (replica?.host ?? host)?.rawValue, mapVersion: change.mapVersion, changed: change.isChanged,
                    done: !options.noWait))
        }
        let before = change.isChanged ? "" : "; that was asked for before"
        try Output.line((options.noWait ? begun(subject) : done(subject)) + before)
    }
}

/// How long to wait for one group, if the command line says nothing.
private let groupTimeout = Duration.seconds(60)

struct GroupAddReplica: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add-replica", abstract: "Gives a group another replica.",
        discussion: """
            The new replica first learns: it gets the group's state and log, and votes as soon as it has caught up. With \
            --successor-of another replica leaves the group then, and with it the preference as leader: that is a move.

            EXAMPLES:
              bifrost group add-replica 3 --host 4
              bifrost group add-replica 3 --host 10.0.0.4:7001 --successor-of 7
              bifrost group add-replica 3 --host 4 --learner --no-wait
            """)

    @Argument(help: ArgumentHelp("The group's number, or meta.", valueName: "group"))
    var group: GroupArgument

    @Option(help: ArgumentHelp("Where it is to be: a host's id, name or address.", valueName: "host"))
    var host: String

    @Flag(help: "It is never to vote.")
    var learner = false

    @Option(help: ArgumentHelp("The replica that leaves when this one is there.", valueName: "replica"))
    var successorOf: UInt64?

    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let group = try MapNames.group(group.id, in: map)
        let host = try MapNames.host(host, in: map)
        let predecessor = successorOf.map { ReplicaID($0) }
        // Once the move is over, the host has the one and the group not the other any more: the wish knows.
        if let predecessor, group.replica(on: host.id) == nil { _ = try MapNames.replica(predecessor, of: group) }
        let role = learner ? ReplicaRecord.Role.learner : .voter
        try await administrator.carryOut(
            .addReplica(group.id, host: host.id, role: role, successorOf: predecessor ?? .none), from: map,
            replica: nil, host: host.id, wait: wait, json: options.common.json,
            goal: { .settled($0.group, $0.replica) },
            begun: { "replica \($0.replica) of \($0.group.words) is to be a \(role.word) on host \(host.id)" },
            done: {
                "replica \($0.replica) of \($0.group.words) is a \(role.word) on host \(host.id)"
                    + (predecessor.map { ", and replica \($0) has left" } ?? "")
            })
    }
}

struct GroupRemoveReplica: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove-replica", abstract: "Lets a replica leave its group, for good.",
        discussion: """
            The group's majority is then one of those that stay. A group keeps at least one replica that votes. To have \
            as many as before, add another first, or move it: 'bifrost group add-replica --successor-of'.

            EXAMPLES:
              bifrost group remove-replica 3 7
              bifrost group remove-replica 3 --host 10.0.0.2:7001
            """)

    @OptionGroup var choice: ReplicaChoice
    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let (group, replica) = try choice.record(in: map)
        try await administrator.carryOut(
            .setRole(group.id, replica.id, .leaving), from: map, replica: replica, host: nil, wait: wait,
            json: options.common.json,
            goal: { .gone($0.group, $0.replica) },
            begun: { "replica \($0.replica) on host \(replica.host) is to leave \($0.group.words)" },
            done: { "replica \($0.replica) on host \(replica.host) has left \($0.group.words)" })
    }
}

struct GroupPromote: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "promote", abstract: "Lets a learner vote, as soon as it has caught up.",
        discussion: """
            EXAMPLES:
              bifrost group promote 3 49
              bifrost group promote 3 --host 4
            """)

    @OptionGroup var choice: ReplicaChoice
    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        try await administrator.setRole(.voter, of: choice, wait: wait, json: options.common.json)
    }
}

struct GroupDemote: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demote", abstract: "Takes a replica's vote: it goes on as a learner.",
        discussion: """
            EXAMPLES:
              bifrost group demote 3 49
              bifrost group demote 3 --host 4
            """)

    @OptionGroup var choice: ReplicaChoice
    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        try await administrator.setRole(.learner, of: choice, wait: wait, json: options.common.json)
    }
}

extension Administrator {
    /// To a role in which the replica stays.
    fileprivate func setRole(
        _ role: ReplicaRecord.Role, of choice: ReplicaChoice, wait: WaitOptions, json: Bool
    ) async throws {
        let map = try await map()
        let (group, replica) = try choice.record(in: map)
        try await carryOut(
            .setRole(group.id, replica.id, role), from: map, replica: replica, host: nil, wait: wait, json: json,
            goal: { .settled($0.group, $0.replica) },
            begun: { "replica \($0.replica) of \($0.group.words) is to be a \(role.word) on host \(replica.host)" },
            done: { "replica \($0.replica) of \($0.group.words) is a \(role.word) on host \(replica.host)" })
    }
}

struct GroupReplaceReplica: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replace-replica",
        abstract: "Puts a new replica in the place of one that is damaged, on its host.",
        discussion: """
            For a voter whose journal is damaged or gone: it leaves, and when it has left a new one, under a new id, \
            begins on the same host and gets the group's state from the others.

            EXAMPLES:
              bifrost group replace-replica 3 7
              bifrost group replace-replica 3 --host 10.0.0.2:7001
            """)

    @OptionGroup var choice: ReplicaChoice
    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let (group, replica) = try choice.record(in: map)
        try await administrator.carryOut(
            .replaceReplica(group.id, replica.id), from: map, replica: replica, host: nil, wait: wait,
            json: options.common.json,
            goal: { .replaced($0.group, $0.replica, on: replica.host) },
            begun: { "replica \($0.replica) of \($0.group.words) is to be replaced on host \(replica.host)" },
            done: { "replica \($0.replica) of \($0.group.words) is replaced by a new one on host \(replica.host)" })
    }
}

struct GroupTransferLeader: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transfer-leader", abstract: "Lets a group's leader hand over to another replica.",
        discussion: """
            Without --to and --host the leader chooses. Writes pause for a moment, and none is lost. It is asked for \
            again until another leads. Later, leadership may go back to the replica that the map prefers, if \
            that can lead; --prefer makes the new leader the preferred one.

            EXAMPLES:
              bifrost group transfer-leader 3
              bifrost group transfer-leader 3 --to 7 --prefer
              bifrost group transfer-leader meta --host 10.0.0.2:7001
            """)

    @Argument(help: ArgumentHelp("The group's number, or meta.", valueName: "group"))
    var group: GroupArgument

    @Option(help: ArgumentHelp("The replica that is to lead.", valueName: "replica"))
    var to: UInt64?

    @Option(help: ArgumentHelp("The host whose replica is to lead: its id, name or address.", valueName: "host"))
    var host: String?

    @Flag(help: "It is to lead from now on, whenever it can.")
    var prefer = false

    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    /// A leader whose target is silent takes proposals again after an election timeout; by then it can be asked again.
    private static let attempt = Duration.seconds(3)
    private static let pause = Duration.milliseconds(50)

    func validate() throws {
        guard to == nil || host == nil else {
            throw ValidationError("the replica is named twice, with --to and with --host: name it once")
        }
        guard !prefer || to != nil || host != nil else {
            throw ValidationError("--prefer needs to know whom: name the replica with --to or --host")
        }
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: .seconds(15))
        defer { administrator.close() }
        let map = try await administrator.map()
        let group = try MapNames.group(group.id, in: map)
        var target = ReplicaID.none
        if let to { target = try MapNames.replica(ReplicaID(to), of: group).id }
        if let host { target = try MapNames.replica(on: try MapNames.host(host, in: map), of: group).id }
        let former = GroupReplicas(group, try await administrator.accounts(map)).leader.flatMap {
            group.host(of: $0.replica)
        }
        let goal = MapGoal.leads(group.id, target, from: former)
        // First, or the old leader's host would ask for it back.
        if prefer { _ = try await administrator.bring(about: .preferLeader(group.id, target), from: map) }
        if target != .none, group.host(of: target) == former {
            return try report(group.id, target, former, map.version, changed: false)
        }
        let meter = wait.meter("\(group.id.words)", counting: "handover")
        defer { meter.finish() }
        var hasBegun = false
        while true {
            do throws(ToolError) {
                try await administrator.transfer(group.id, to: target)
                hasBegun = true
            } catch {
                // The attempt before this one may still be under way.
                guard hasBegun, error.status == .negative else { throw error }
            }
            if wait.noWait { return try report(group.id, target, group.host(of: target), map.version, changed: true) }
            let end = ContinuousClock.now + Self.attempt
            repeat {
                let map = try await administrator.map()
                let accounts = try await administrator.accounts(map)
                switch goal.standing(map, accounts) {
                case .done:
                    guard let record = map.group(group.id) else { continue }
                    let leader = GroupReplicas(record, accounts).leader?.replica ?? .none
                    return try report(group.id, leader, record.host(of: leader), map.version, changed: true)
                case .open(let lines): meter.show(lines)
                case .failed(let text): throw ToolError(.negative, text)
                }
                guard !administrator.isOver else {
                    throw ToolError(
                        prefer ? .outcomeUnknown : .unavailable,
                        "\(group.id.words): its leader did not hand over within the time, and leads on; does the other "
                            + "replica's host answer, and is it behind? see 'bifrost group members \(group.id.name)'"
                            + (prefer ? "; it is preferred from now on, and gets to lead when it can" : ""))
                }
                try await Task.sleep(for: Self.pause)
            } while ContinuousClock.now < end
        }
    }

    private func report(
        _ group: GroupID, _ replica: ReplicaID, _ host: HostID?, _ version: UInt64, changed: Bool
    ) throws {
        if options.common.json {
            return try Output.json(
                ChangeReport(
                    group: group.rawValue, replica: replica == .none ? nil : replica.rawValue, host: host?.rawValue,
                    mapVersion: version, changed: changed, done: !changed || !wait.noWait))
        }
        if changed, wait.noWait { return try Output.line("the leader of \(group.words) is asked to hand over") }
        try Output.line(
            "replica \(replica)\(host.map { " on host \($0)" } ?? "") leads \(group.words)"
                + (changed ? "" : "; it did before"))
    }
}

/// What is to be known of a number of replicas. Pure.
package enum ReplicaCount {
    /// What that many voters bear is less than one would think; nil: it is what the number says.
    package static func note(_ count: Int) -> String? {
        switch count {
        case 1: "one replica tolerates no loss: the group is gone while its host is, and for good with its disk"
        case 2: "two replicas tolerate no loss: a majority of two is both. Three tolerate the loss of one"
        case _ where count % 2 == 0:
            "\(count) replicas tolerate the loss of \(count / 2 - 1), as \(count - 1) do: a majority is \(count / 2 + 1)"
        default: nil
        }
    }
}

struct GroupCreate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Makes new groups, without slots.",
        discussion: """
            Each has a replica on each of the hosts; of one or two, and of even numbers, it is said what they tolerate. \
            With --count the hosts take turns as preferred leaders. If it ends half-way, it says which groups are there.

            EXAMPLES:
              bifrost group create --hosts 1,2,3
              bifrost group create --hosts 10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001 --count 4 --json
            """)

    @Option(help: ArgumentHelp("Where their replicas are to be: ids, names or addresses.", valueName: "host,…"))
    var hosts: String

    @Option(help: ArgumentHelp("Their share of the slots, in proportion to other groups'.", valueName: "number"))
    var weight: UInt32 = 100

    @Option(help: ArgumentHelp("How many to make, 1 to 1000.", valueName: "count"))
    var count = 1

    @OptionGroup var wait: WaitOptions
    @OptionGroup var options: ClientOptions

    private static let countMax = 1_000

    private struct Report: Encodable {
        var groups: [UInt32]
        var mapVersion: UInt64
        var done: Bool
        /// What else is to be known, as standard error has it.
        var notes: [String]
    }

    private var words: [String] { hosts.split(separator: ",", omittingEmptySubsequences: false).map(String.init) }

    func validate() throws {
        guard (1...Self.countMax).contains(count) else {
            throw ValidationError("--count is 1 to \(Self.countMax), not \(count)")
        }
        guard !words.contains(where: { $0.allSatisfy(\.isWhitespace) }) else {
            throw ValidationError("expected hosts with commas between them, found '\(hosts)'")
        }
    }

    func run() async throws {
        let administrator = Administrator(options, timeout: groupTimeout)
        defer { administrator.close() }
        var map = try await administrator.map()
        let hosts = try MapNames.hosts(words.map { $0.trimmingCharacters(in: .whitespaces) }, in: map).map(\.id)
        var made: [GroupID] = []
        var version: UInt64 = 0
        do throws(ToolError) {
            for number in 0..<count {
                let turn = number % hosts.count
                let places = Array(hosts[turn...] + hosts[..<turn])
                let change = try await administrator.bring(
                    about: .createGroup(weight: weight, hosts: places), from: map)
                made.append(change.subject.group)
                version = change.mapVersion
                // Where nobody else changed anything the next map is known: of thousands of groups it is large.
                let next = MapChange.createGroup(weight: weight, hosts: places, preferred: 0).applied(to: map)
                if let next, next.version == version, next.group(change.subject.group) != nil {
                    map = next
                } else {
                    map = try await administrator.map()
                }
            }
        } catch {
            guard !made.isEmpty else { throw error }
            throw ToolError(
                error.status, "\(error.message); before that \(made.count) of \(count) were made: \(list(made))")
        }
        if !wait.noWait {
            let name = made.count == 1 ? made[0].words : "groups \(list(made))"
            try await administrator.wait(
                for: [.led(made)], since: version, what: name, hint: "bifrost group list",
                meter: wait.meter(name, counting: "group"))
        }
        let note = ReplicaCount.note(hosts.count)
        if let note { Output.note(note) }
        if options.common.json {
            return try Output.json(
                Report(
                    groups: made.map(\.rawValue), mapVersion: version, done: !wait.noWait,
                    notes: note.map { [$0] } ?? []))
        }
        try Output.line(
            (made.count == 1 ? "group \(made[0]) is made" : "groups \(list(made)) are made")
                + (wait.noWait ? "" : made.count == 1 ? " and has a leader" : " and have leaders"))
    }

    private func list(_ groups: [GroupID]) -> String { groups.map { "\($0)" }.joined(separator: ", ") }
}

struct GroupDelete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Deletes a group that has no slots.",
        discussion: """
            Refused as long as slots are on their way to it or from it, or are to be, as a rebalancing that is under way \
            says: wait until that is over, or cancel it.
            Numbers of groups are given once: one that was deleted before stays so, and nothing is changed.

            EXAMPLES:
              bifrost group delete 17
            """)

    @Argument(help: ArgumentHelp("The group's number.", valueName: "group"))
    var group: GroupArgument

    @OptionGroup var options: ClientOptions

    func run() async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let change = try await administrator.bring(about: .deleteGroup(group.id), from: map)
        if options.common.json {
            return try Output.json(
                ChangeReport(
                    group: group.id.rawValue, mapVersion: change.mapVersion, changed: change.isChanged, done: true))
        }
        try Output.line("\(group.id.words) is deleted" + (change.isChanged ? "" : "; it was before"))
    }
}

struct GroupStop: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "Lets a group take no commands and answer no reads.",
        discussion: """
            Its replicas stay where they are, with what they have, and can still be moved; saves have it too. Calls for \
            it wait for 'bifrost group start', each until its own time is over. The meta group can't be stopped.

            EXAMPLES:
              bifrost group stop 17
            """)

    @Argument(help: ArgumentHelp("The group's number.", valueName: "group"))
    var group: GroupArgument

    @OptionGroup var options: ClientOptions

    func run() async throws { try await GroupStart.set(group.id, .stopped, options) }
}

struct GroupStart: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start", abstract: "Lets a group that was stopped serve again.",
        discussion: """
            EXAMPLES:
              bifrost group start 17
            """)

    @Argument(help: ArgumentHelp("The group's number.", valueName: "group"))
    var group: GroupArgument

    @OptionGroup var options: ClientOptions

    func run() async throws { try await Self.set(group.id, .running, options) }

    fileprivate static func set(_ group: GroupID, _ state: GroupRecord.State, _ options: ClientOptions) async throws {
        let administrator = Administrator(options, timeout: ClientOptions.timeout)
        defer { administrator.close() }
        let map = try await administrator.map()
        let change = try await administrator.bring(about: .setGroupState(group, state), from: map)
        if options.common.json {
            return try Output.json(
                ChangeReport(
                    group: group.rawValue, mapVersion: change.mapVersion, changed: change.isChanged, done: true))
        }
        try Output.line(
            "\(group.words) is \(state == .stopped ? "stopped" : "started")"
                + (change.isChanged ? "" : "; it was before"))
    }
}
