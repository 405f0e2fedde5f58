// What a save consists of, for people and for scripts.

import Foundation
import Primitives
import Ring
import SnapshotFiles
import StateMachines
import Storage

struct SaveReport: Encodable {
    /// Records of one sub state machine.
    struct Machine: Encodable {
        var machine: UInt16
        /// Of Bifrost's own; users' have none here.
        var name: String?
        var records: UInt64

        /// Ascending by number.
        static func list(_ counts: [SubMachineNumber: UInt64]) -> [Machine] {
            counts.sorted { $0.key < $1.key }.map {
                Machine(machine: $0.key.rawValue, name: $0.key.ownName, records: $0.value)
            }
        }
    }

    struct Group: Encodable {
        var group: UInt32
        var index: UInt64
        var term: UInt64
        var revision: UInt64
        var records: UInt64
        var bytes: UInt64
        /// Over all records, as the host and who saved it found it.
        var digest: String
        /// Over the effects of the whole log, as replicas compare it.
        var replicaDigest: String
        var configurationIndex: UInt64
        var voters: [UInt64]
        var learners: [UInt64]
        var host: UInt64
        var saved: String
        var problem: String?
        /// Whose records it has; nil: they were not looked through, or can't be.
        var machines: [Machine]?

        init(_ saved: SavedGroup, problem: String?, machines counts: [SubMachineNumber: UInt64]? = nil) {
            machines = counts.map(Machine.list)
            let description = saved.description
            group = description.group.rawValue
            index = description.index.rawValue
            term = description.term.rawValue
            revision = description.revision.rawValue
            records = description.records
            bytes = saved.bytes
            digest = hexadecimal(saved.digest)
            replicaDigest = hexadecimal(description.digest)
            configurationIndex = description.configuration.index.rawValue
            voters = description.configuration.voters.map(\.rawValue)
            learners = description.configuration.learners.map(\.rawValue)
            host = saved.host.rawValue
            self.saved = SaveReport.time(saved.savedMilliseconds)
            self.problem = problem
        }
    }

    var directory: String
    var cluster: String
    /// It has all groups.
    var whole: Bool
    /// Nothing that it has is damaged or missing.
    var sound: Bool
    var featureLevel: UInt32
    var mapVersion: UInt64
    var ringEpoch: UInt64
    var began: String
    var ended: String
    var records: UInt64
    var bytes: UInt64
    /// Of the run that ended it.
    var seconds: Double?
    /// Records that earlier runs had brought.
    var recordsKept: UInt64?
    /// Over all groups that are sound; nil: not looked through.
    var machines: [Machine]?
    var groups: [Group]

    init(
        _ saved: SavedCluster, _ directory: String, problems: [GroupID: String] = [:],
        machines counts: [GroupID: [SubMachineNumber: UInt64]]? = nil, seconds: Double? = nil, kept: UInt64? = nil
    ) {
        machines = counts.map {
            Machine.list($0.values.reduce(into: [:]) { sum, counts in sum.merge(counts) { $0 + $1 } })
        }
        self.directory = directory
        cluster = saved.map.cluster.description
        whole = saved.isWhole
        sound = problems.isEmpty
        featureLevel = saved.map.featureLevel
        mapVersion = saved.map.version
        ringEpoch = saved.map.ring.epoch.rawValue
        began = Self.time(saved.beganMilliseconds)
        ended = Self.time(saved.endedMilliseconds)
        groups = saved.groups.map { Group($0, problem: problems[$0.group], machines: counts?[$0.group]) }
        records = groups.reduce(0) { $0 &+ $1.records }
        bytes = groups.reduce(0) { $0 &+ $1.bytes }
        self.seconds = seconds
        recordsKept = kept
    }

    func show(asJSON: Bool) throws(ToolError) {
        if asJSON { return try Output.json(self) }
        var lines = [
            "cluster \(cluster), \(whole ? "all groups" : "not all groups")\(sound ? "" : ", damaged"), map \(mapVersion), feature level \(featureLevel)",
            "\(HumanText.count(groups.count, "group")), \(HumanText.grouped(records)) records, \(HumanText.bytes(bytes)), "
                + "from \(began) to \(ended)",
        ]
        if let seconds, let recordsKept {
            let kept = recordsKept > 0 ? ", \(HumanText.grouped(recordsKept)) records of earlier runs" : ""
            lines.append("saved into \(directory) in \(HumanText.fixed(seconds, 2)) s\(kept)")
        }
        if let machines { lines.append(Self.text(machines)) }
        try Output.line((lines + [Self.table(groups)]).joined(separator: "\n"))
    }

    /// `records of state machines: 1 (keys and values) 500, 1024 12`
    static func text(_ machines: [Machine]) -> String {
        let words = machines.map {
            "\($0.machine)\($0.name.map { " (\($0))" } ?? "") \(HumanText.grouped($0.records))"
        }
        return "records of state machines: " + (words.isEmpty ? "none" : words.joined(separator: ", "))
    }

    static func table(_ groups: [Group]) -> String {
        var table = Table([
            ("group", .right), ("index", .right), ("term", .right), ("revision", .right), ("records", .right),
            ("bytes", .right), ("digest", .left), ("host", .right), ("saved", .left), ("state", .left),
        ])
        for group in groups {
            table.add([
                GroupID(group.group).name, "\(group.index)", "\(group.term)", "\(group.revision)", "\(group.records)",
                HumanText.bytes(group.bytes), group.digest, "\(group.host)", group.saved, group.problem ?? "sound",
            ])
        }
        return table.text
    }

    static func time(_ milliseconds: UInt64) -> String {
        // What no clock says is shown as the latest time that there is.
        let seconds = min(milliseconds / 1_000, 253_402_300_799)
        return Date(timeIntervalSince1970: Double(seconds)).ISO8601Format()
    }
}

extension SubMachineNumber {
    /// What Bifrost's own machines are; nil of those of users.
    fileprivate var ownName: String? {
        switch self {
        case .keyValue: "keys and values"
        case .meta: "map"
        case .sessions: "sessions"
        case .deadlines: "deadlines"
        default: nil
        }
    }
}
