// `bifrost snapshot restore`: the data directories of a new cluster, from a save.

import ArgumentParser
import BifrostHost
import Foundation
import Primitives
import RPC
import Ring
import SnapshotFiles
import Storage

struct SnapshotRestore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Makes the data directories of a new cluster from a save. Offline.",
        discussion: """
            The new cluster has another id, other hosts and other replicas, the same groups, the same ring and all \
            records: hosts of the saved one and of this never take each other for their own. Each --host is an \
            address that the host is to be served at, and its data directory, which has to be missing or empty. Then \
            start 'bifrost serve' with each directory at its address. A directory may be moved to another machine \
            before it is served for the first time; never serve two copies of one.

            All that is read is checked first and last: a save that is damaged or not whole makes no cluster. If it is \
            interrupted, run it again with the same directories.

            With --group the new cluster has these groups only, which may also come from a save of one group. Keys of \
            other groups have no owner in it, and questions for them are refused: it is for reading what is there.

            EXAMPLES:
              bifrost snapshot restore backup/2026-11-27 --host 127.0.0.1:7001=data/a --host 127.0.0.1:7002=data/b \
            --host 127.0.0.1:7003=data/c
              bifrost serve --directory data/a --listen 127.0.0.1:7001
              bifrost snapshot restore --group 3 backup/2026-11-27 --host 127.0.0.1:7009=data/rescue
            """)

    @Argument(help: ArgumentHelp("The directory of a whole save.", valueName: "directory"), completion: .directory)
    var directory: String

    @Option(
        help: ArgumentHelp(
            "A host of the new cluster, and its new data directory. Once for each.", valueName: "host:port=directory"),
        transform: NewHost.init(parsing:))
    var host: [NewHost]

    @Option(
        help: ArgumentHelp("The zone of a host that is named with --host.", valueName: "host:port=zone"),
        transform: NewHost.init(parsing:))
    var zone: [NewHost] = []

    @Option(
        help: ArgumentHelp("Replicas of each group, 1 to 15. (default: 3, or as many as hosts)", valueName: "count"))
    var replicas: Int?

    @Option(help: ArgumentHelp("Only this group, by its number. Once for each. (default: all)", valueName: "group"))
    var group: [GroupArgument] = []

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var trial: TrialLevel
    @OptionGroup var common: CommonOptions

    private struct Report: Encodable {
        struct Member: Encodable {
            var host: UInt64
            var address: String
            var directory: String
            var zone: String
            var replicas: Int
        }
        var cluster: String
        var savedCluster: String
        var groups: Int
        /// Of the ring: whose keys are refused, as their groups were not restored.
        var slotsWithoutOwner: Int
        var replicasPerGroup: Int
        var records: UInt64
        var seconds: Double
        var hosts: [Member]
    }

    func validate() throws {
        guard !host.isEmpty else { throw ValidationError("expected at least one --host host:port=directory") }
        if let replicas, replicas < 1 || replicas > min(ClusterMap.replicasPerGroupMax, host.count) {
            throw ValidationError(
                "--replicas is 1 to \(ClusterMap.replicasPerGroupMax) and at most as many as hosts, not \(replicas)")
        }
        var directories: [String: String] = [:]
        for host in host {
            let path = URL(fileURLWithPath: host.text).resolvingSymlinksInPath().standardizedFileURL.path
            if let other = directories.updateValue(host.address, forKey: path) {
                throw ValidationError(
                    "\(other) and \(host.address) have the same directory, \(host.text): each host needs its own")
            }
        }
        for zone in zone where !host.contains(where: { $0.address == zone.address }) {
            throw ValidationError("--zone names \(zone.address), and no --host does")
        }
    }

    func run() async throws {
        let saved = try SaveDirectory.list(of: directory)
        guard saved.isWhole || !group.isEmpty else {
            throw ToolError(
                .badData,
                "\(directory) has \(HumanText.count(saved.groups.count, "group")) of \(saved.map.groups.count): a cluster is "
                    + "made of a save of all groups; name those that it is to have with --group to go without the others"
            )
        }
        for wanted in group {
            guard wanted.id != .meta else {
                throw ToolError(.usage, "--group names groups of data: the meta group is always made anew")
            }
            guard saved.groups.contains(where: { $0.group == wanted.id }) else {
                throw ToolError(
                    .usage,
                    "\(directory) has no state of group \(wanted.id); expected one of "
                        + saved.groups.filter { $0.group != .meta }.prefix(20).map { "\($0.group)" }.joined(
                            separator: ", "))
            }
        }
        let map: ClusterMap
        do throws(PlannerError) { map = try plan(saved.map) } catch { throw ToolError(.usage, "\(error)") }
        let meter = ProgressMeter(verb: "restore", total: UInt64(saved.groups.count), isShown: progress.isShown)
        let outcome: Result<Void, ToolError>
        do throws(ToolError) { outcome = .success(try restore(saved, map, meter)) } catch { outcome = .failure(error) }
        meter.finish()
        do throws(ToolError) { try outcome.get() } catch {
            // One that is refused may be whole, and a host's.
            guard error.status != .badDirectory else { throw error }
            throw ToolError(error.status, "\(error.message); no host starts in a directory that is not whole")
        }
        do throws(ToolError) { try report(saved, map, meter) } catch {
            throw error.after("the directories are made")
        }
    }

    private func plan(_ saved: ClusterMap) throws(PlannerError) -> ClusterMap {
        var cluster: ClusterID
        repeat {
            cluster = ClusterID(high: UInt64.random(in: 1...UInt64.max), low: UInt64.random(in: 0...UInt64.max))
        } while cluster == saved.cluster
        let records = host.enumerated().map { position, host in
            HostRecord(
                id: HostID(UInt64(position + 1)), name: host.address, address: host.address,
                zone: zone.first { $0.address == host.address }?.text ?? "",
                incarnation: Incarnation(UInt64.random(in: 1...UInt64.max)), featureLevel: trial.level)
        }
        return try RestorationPlan.map(
            of: saved, cluster: cluster, hosts: records, replicas: replicas ?? min(3, host.count),
            groups: group.isEmpty ? nil : Set(group.map(\.id)), level: trial.level)
    }

    private func restore(_ saved: SavedCluster, _ map: ClusterMap, _ meter: ProgressMeter) throws(ToolError) {
        let room = Room(saved, map)
        let hosts = try room.written {
            try zip(map.hosts, host).map { record, host in
                (record.id, try HostRestoration(directory: host.text, host: record.id, map: map))
            }
        }
        for (done, group) in saved.groups.enumerated() {
            // One that is not wanted is not looked at: what is wanted may be what is left.
            guard map.group(group.group) != nil else { continue }
            if group.group == .meta {
                // Its records are the map, and the new cluster has its own.
                try SaveDirectory.verify(group, of: saved, in: directory)
            } else {
                try restore(group, of: saved, map, hosts, room, meter)
            }
            meter.set(done: UInt64(done + 1))
        }
        for (_, host) in hosts { try room.written { try host.complete() } }
    }

    private func restore(
        _ group: SavedGroup, of saved: SavedCluster, _ map: ClusterMap, _ hosts: [(HostID, HostRestoration)],
        _ room: Room, _ meter: ProgressMeter
    ) throws(ToolError) {
        guard let record = map.group(group.group) else { preconditionFailure("the new map has the same groups") }
        let description = RestorationPlan.description(group.description, of: record)
        let targets = hosts.compactMap { id, host in record.replica(on: id).map { (host, $0) } }
        let name = directory + "/" + group.fileName
        try SaveDirectory.read(name) { reader, bytes in
            try saved.check(reader.head, of: group, file: name)
            for (host, replica) in targets { try room.written { try host.begin(description, replica: replica) } }
            var before: UInt64 = 0
            var owners = OwnershipCheck(saved.map, of: group.group)
            while let (received, piece) = try reader.nextWithBytes() {
                owners.note(received)
                for (host, _) in targets { try room.written { try host.accept(piece) } }
                meter.add(records: Int(reader.digest.records - before), bytes: piece.count)
                before = reader.digest.records
            }
            try saved.check(try reader.finish(), of: group, bytes: bytes, file: name)
            try owners.expectNoProblem(name)
            for (host, _) in targets { try room.written { try host.finishGroup() } }
        }
    }

    /// What the new directories take, for who has too little.
    private struct Room {
        /// Of all replicas' states.
        private let bytes: UInt64

        init(_ saved: SavedCluster, _ map: ClusterMap) {
            bytes = saved.groups.reduce(0) { sum, group in
                sum &+ group.bytes &* UInt64(map.group(group.group)?.replicas.count ?? 0)
            }
        }

        /// Errors of writing are what they are wherever they come from: a directory that is not as it should be, or a file
        /// that can't be written, with what is needed.
        func written<Result>(_ body: () throws -> Result) throws(ToolError) -> Result {
            do {
                return try body()
            } catch let error as HostError where error.code == .disk || error.code == .exhausted {
                throw ToolError(.fileTrouble, error.message + need)
            } catch {
                let error = ToolError(error)
                throw ToolError(error.status, error.message + (error.status == .fileTrouble ? need : ""))
            }
        }

        private var need: String {
            "; the states take some \(HumanText.bytes(bytes)) in all directories together, and each directory some 64 MiB "
                + "besides: make room, and restore again"
        }
    }

    private func report(_ saved: SavedCluster, _ map: ClusterMap, _ meter: ProgressMeter) throws(ToolError) {
        let members = zip(map.hosts, host).map { record, host in
            Report.Member(
                host: record.id.rawValue, address: record.address, directory: host.text, zone: record.zone,
                replicas: map.replicas(on: record.id).count)
        }
        let report = Report(
            cluster: map.cluster.description, savedCluster: saved.map.cluster.description, groups: map.dataGroups.count,
            slotsWithoutOwner: Slot.count - map.ring.counts().reduce(0) { $0 + $1.slots },
            replicasPerGroup: map.groups.first?.replicas.count ?? 0, records: meter.records,
            seconds: meter.elapsedSeconds, hosts: members)
        if common.json { return try Output.json(report) }
        var table = Table([
            ("host", .right), ("address", .left), ("directory", .left), ("zone", .left), ("replicas", .right),
        ])
        for member in members {
            table.add([
                "\(member.host)", member.address, member.directory, member.zone.isEmpty ? "-" : member.zone,
                "\(member.replicas)",
            ])
        }
        let lost =
            group.isEmpty
            ? ""
            : "\n\(HumanText.count(report.slotsWithoutOwner, "slot")) have no owner: keys of other groups are refused"
        try Output.line(
            """
            cluster \(report.cluster) is made of a save of cluster \(report.savedCluster)
            \(HumanText.count(report.groups, "group")) and the meta group, \
            \(HumanText.count(report.replicasPerGroup, "replica")) of each, \(HumanText.grouped(report.records)) \
            records, in \(HumanText.fixed(report.seconds, 2)) s\(lost)
            \(table.text)
            """)
    }
}

/// "host:port=text".
struct NewHost: Sendable {
    var address: String
    var text: String

    init(parsing text: String) throws {
        guard let place = text.firstIndex(of: "="), text.index(after: place) < text.endIndex else {
            throw ValidationError("expected host:port=…, as in 127.0.0.1:7001=data/a, found '\(text)'")
        }
        let list = try AddressList(parsing: String(text[..<place]))
        guard list.addresses.count == 1 else { throw ValidationError("expected one address in '\(text)'") }
        address = list.addresses[0]
        self.text = String(text[text.index(after: place)...])
    }
}
