// What a save consists of, for people and for scripts.

import Foundation
import Primitives
import Ring
import SnapshotFiles
import Storage

struct SaveReport: Encodable {
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

        init(_ saved: SavedGroup, problem: String?) {
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
    var groups: [Group]

    init(
        _ saved: SavedCluster, _ directory: String, problems: [GroupID: String] = [:], seconds: Double? = nil,
        kept: UInt64? = nil
    ) {
        self.directory = directory
        cluster = saved.map.cluster.description
        whole = saved.isWhole
        sound = problems.isEmpty
        featureLevel = saved.map.featureLevel
        mapVersion = saved.map.version
        ringEpoch = saved.map.ring.epoch.rawValue
        began = Self.time(saved.beganMilliseconds)
        ended = Self.time(saved.endedMilliseconds)
        groups = saved.groups.map { Group($0, problem: problems[$0.group]) }
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
        try Output.line((lines + [Self.table(groups)]).joined(separator: "\n"))
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
