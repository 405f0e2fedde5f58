// What the demo showed: one object for programs, tables for people.

import Primitives
import Ring

struct DemoReport: Encodable {
    struct Input: Encodable {
        var name: String
        var format: String
        var lines: Int
        var records: Int
        var bytes: Int
        /// Of the sorted lines.
        var sha256: String
    }

    struct Host: Encodable {
        var host: UInt64
        var address: String
        /// Data groups.
        var leads: Int
    }

    struct Group: Encodable {
        var group: UInt32
        var slots: Int
        var leader: UInt64
        var hosts: [UInt64]
        var term: UInt64
        /// Of the import.
        var records: Int
        var putsPerSecond: Double
        /// Applied by all replicas.
        var index: UInt64
        /// In the order of `hosts`.
        var digests: [String]
        var agrees: Bool
    }

    struct Import: Encodable {
        var records: Int
        /// Without the wait for the restarted host.
        var seconds: Double
        var putsPerSecond: Double { Double(records) / max(seconds, 1e-6) }
        var window: Int
        /// Puts that were repeated because their outcome was unknown.
        var repeated: Int
        /// Puts that were refused, certainly without effect, and submitted again.
        var refused: Int
        var killedHost: UInt64
        var killedAfterRecords: Int
        var underWayAtKill: Int
        var groupsLedByKilled: Int
        /// Acknowledged between kill and restart.
        var recordsWithoutKilled: Int
        /// From the kill until every group had acknowledged a put that was submitted after it.
        var recoverySeconds: Double?
        /// From the start of the killed host until it had everything.
        var catchUpSeconds: Double
        var perGroup: [(group: GroupID, records: Int)]

        enum CodingKeys: String, CodingKey {
            case records, seconds, putsPerSecond, window, repeated, refused, killedHost, killedAfterRecords,
                underWayAtKill
            case groupsLedByKilled, recordsWithoutKilled, recoverySeconds, catchUpSeconds
        }

        func encode(to encoder: any Encoder) throws {
            var values = encoder.container(keyedBy: CodingKeys.self)
            try values.encode(records, forKey: .records)
            try values.encode(seconds, forKey: .seconds)
            try values.encode(putsPerSecond, forKey: .putsPerSecond)
            try values.encode(window, forKey: .window)
            try values.encode(repeated, forKey: .repeated)
            try values.encode(refused, forKey: .refused)
            try values.encode(killedHost, forKey: .killedHost)
            try values.encode(killedAfterRecords, forKey: .killedAfterRecords)
            try values.encode(underWayAtKill, forKey: .underWayAtKill)
            try values.encode(groupsLedByKilled, forKey: .groupsLedByKilled)
            try values.encode(recordsWithoutKilled, forKey: .recordsWithoutKilled)
            try values.encodeIfPresent(recoverySeconds, forKey: .recoverySeconds)
            try values.encode(catchUpSeconds, forKey: .catchUpSeconds)
        }
    }

    struct Restart: Encodable {
        /// The others ended cleanly.
        var killedHost: UInt64
        /// Until every group had a leader and all its replicas.
        var seconds: Double
    }

    struct Export: Encodable {
        var host: UInt64
        var address: String
        var records: Int
        var sha256: String
        /// To the input, byte for byte.
        var equal: Bool
        /// The first record that differs.
        var difference: String?
    }

    /// Every export is the input, and all replicas of every group agree.
    var proved: Bool
    var cluster: String
    var input: Input
    var hosts: [Host]
    var groups: [Group]
    var imported: Import
    var restart: Restart
    var exports: [Export]
    var seconds: Double
    /// Of the hosts' data and logs, if they were kept.
    var directory: String?

    enum CodingKeys: String, CodingKey {
        case proved, cluster, input, hosts, groups, restart, exports, seconds, directory
        case imported = "import"
    }

    init(
        input: DemoInput, hosts: LocalCluster, map: ClusterMap, imported: Import, restart: Restart, exports: [Export],
        replicas: DemoProof.Replicas, seconds: Double, directory: String?
    ) {
        proved =
            exports.count == hosts.hosts.count && exports.allSatisfy(\.equal) && replicas.groups.allSatisfy(\.agrees)
        cluster = map.cluster.description
        self.input = Input(
            name: input.name, format: input.format.rawValue, lines: input.lines, records: input.records.count,
            bytes: input.bytes,
            sha256: input.digest)
        self.hosts = replicas.leads.map {
            Host(host: $0.host.rawValue, address: map.host($0.host)?.address ?? "", leads: $0.groups)
        }
        groups = replicas.groups.map { group in
            let records = imported.perGroup.first { $0.group == group.group }?.records ?? 0
            return Group(
                group: group.group.rawValue, slots: group.slots, leader: group.leader.rawValue,
                hosts: group.hosts.map(\.rawValue),
                term: group.term.rawValue, records: records,
                putsPerSecond: Double(records) / max(imported.seconds, 1e-6),
                index: group.index.rawValue, digests: group.digests.map(hexadecimal), agrees: group.agrees)
        }
        self.imported = imported
        self.restart = restart
        self.exports = exports
        self.seconds = seconds
        self.directory = directory
    }
}

extension DemoReport {
    /// The ring with leaders (*), each group's part of the import, and what was proved.
    var text: String {
        var table = Table([
            ("group", .right), ("slots", .right), ("share", .right), ("hosts", .left), ("term", .right),
            ("records", .right),
            ("puts/s", .right), ("index", .right), ("state digest", .left), ("replicas", .left),
        ])
        for group in groups {
            table.add([
                group.group == 0 ? "meta" : "\(group.group)", "\(group.slots)",
                "\(HumanText.fixed(100 * Double(group.slots) / Double(Slot.count), 2)) %",
                group.hosts.map { $0 == group.leader ? "\($0)*" : "\($0)" }.joined(separator: " "), "\(group.term)",
                HumanText.grouped(UInt64(group.records)), HumanText.grouped(UInt64(group.putsPerSecond)),
                "\(group.index)",
                group.agrees ? group.digests[0] : group.digests.joined(separator: " "),
                group.agrees ? "agree" : "DIFFER",
            ])
        }
        table.add([
            "all", "\(groups.reduce(0) { $0 + $1.slots })", "", "", "", HumanText.grouped(UInt64(imported.records)),
            HumanText.grouped(UInt64(imported.putsPerSecond)), "", "", "",
        ])
        var lines = [
            "cluster \(cluster); * leads. Hosts: "
                + hosts.map { "\($0.host) = \($0.address), leads \($0.leads)" }.joined(separator: "; "),
            table.text, "",
            "import    \(HumanText.grouped(UInt64(imported.records))) records in \(HumanText.fixed(imported.seconds, 2)) s, without the wait for "
                + "the restarted host; \(HumanText.grouped(UInt64(imported.window))) puts under way at a time",
            "kill      host \(imported.killedHost) by SIGKILL after \(HumanText.grouped(UInt64(imported.killedAfterRecords))) records; "
                + "\(HumanText.grouped(UInt64(imported.recordsWithoutKilled))) records without it; "
                + "\(HumanText.count(imported.repeated, "put")) with unknown outcome repeated, \(imported.refused) refused and sent again",
        ]
        if let recovery = imported.recoverySeconds {
            lines.append("          every group took puts again \(HumanText.fixed(recovery, 2)) s after the kill")
        }
        lines.append("          started again, it had caught up after \(HumanText.fixed(imported.catchUpSeconds, 2)) s")
        lines.append(
            "restart   of all hosts, host \(restart.killedHost) after SIGKILL, the others after SIGTERM: all groups had leaders and all "
                + "replicas after \(HumanText.fixed(restart.seconds, 2)) s")
        lines.append("input     \(input.sha256)  SHA-256 of \(HumanText.count(input.records, "sorted line"))")
        for export in exports {
            lines.append(
                "host \(export.host)    \(export.sha256)  exported by a fresh process: "
                    + (export.equal ? "equal" : "DIFFERENT, \(export.difference ?? "")"))
        }
        let agreeing = groups.count { $0.agrees }
        lines.append(
            "replicas  \(agreeing) of \(groups.count) groups have one state digest on all \(groups[0].hosts.count) replicas"
        )
        lines.append("")
        lines.append(
            (proved ? "PROVED: every record is there, through every host" : "NOT PROVED: see above")
                + "; \(HumanText.fixed(seconds, 1)) s in all")
        return lines.joined(separator: "\n")
    }
}
