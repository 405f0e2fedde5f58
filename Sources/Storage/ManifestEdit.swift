// How manifests change: by edits only, each applied inside the write transaction to the manifest as it then stands on
// disk. A thread that works from an older manifest cannot write that one back.

public import Primitives

/// An edit does not fit the manifest as it stands: what it was based on is no longer true. Nothing was changed.
public struct ManifestConflict: Error, Hashable, CustomStringConvertible {
    public var replica: ReplicaID
    public var expected: String
    public var found: String
    public var description: String { "manifest of replica \(replica): expected \(expected), found \(found)" }
}

enum ManifestEdit {
    /// A new replica begins, with nothing.
    case create(ManifestHeader)
    /// A checkpoint: what changed since `base`, and where the replica now stands. No run when nothing changed.
    case add(RunDescriptor?, base: LogIndex, ManifestHeader)
    /// A merge: these runs, adjacent and in this order, become one, or none when nothing was left of them.
    /// With `horizon`, tombstones through that index were dropped: then the oldest run must be among them.
    case replace([RunID], by: RunDescriptor?, horizon: LogIndex?)
    /// A snapshot takes the place of all runs, or with a base above zero is what changed since then. No run when nothing
    /// is in it. `horizon`: at least so much is the horizon afterwards.
    case install(RunDescriptor?, base: LogIndex, ManifestHeader, horizon: LogIndex)
    /// The same where nothing can be read of what the store has of the replica: whatever that is, the snapshot takes its
    /// place.
    case installAnew(RunDescriptor?, ManifestHeader, horizon: LogIndex)
    /// The replica is gone.
    case delete

    /// Nothing of what was there stays.
    var replacesAll: Bool {
        switch self {
        case .install(_, let base, _, _): base == .zero
        case .installAnew, .delete: true
        case .create, .add, .replace: false
        }
    }

    /// What was there is not even looked at.
    var needsNothing: Bool {
        if case .installAnew = self { true } else { false }
    }

    /// The manifest after the edit; nil when it is deleted.
    func applied(to manifest: Manifest?, replica: ReplicaID) throws(ManifestConflict) -> Manifest? {
        func conflict(_ expected: String, _ found: String) -> ManifestConflict {
            ManifestConflict(replica: replica, expected: expected, found: found)
        }
        if case .create(let header) = self {
            guard manifest == nil else { throw conflict("no manifest", "one") }
            return Manifest(header: header)
        }
        if case .installAnew(let run, let header, let horizon) = self {
            var manifest = Manifest(header: header)
            manifest.horizon = horizon
            manifest.runs = run.map { [$0] } ?? []
            return manifest
        }
        guard var manifest else { throw conflict("a manifest", "none") }
        manifest.edits += 1
        switch self {
        case .create, .installAnew: preconditionFailure("handled above")
        case .add(let run, let base, let header):
            guard manifest.index == base else { throw conflict("the end at index \(base)", "index \(manifest.index)") }
            try manifest.moveOn(to: header)
            if let run {
                guard !manifest.runs.contains(where: { $0.id == run.id }) else {
                    throw conflict("a new run", "run \(run.id)")
                }
                manifest.runs.append(run)
            }
        case .replace(let old, let new, let horizon):
            guard let first = manifest.runs.firstIndex(where: { $0.id == old.first }),
                manifest.runs[first...].prefix(old.count).map(\.id) == old
            else {
                throw conflict("runs \(old.map(\.rawValue))", "\(manifest.runs.map(\.id.rawValue))")
            }
            if let horizon {
                guard first == 0 else {
                    throw conflict("the oldest run among those that lost tombstones", "an older one")
                }
                manifest.horizon = max(manifest.horizon, horizon)
            }
            manifest.runs.replaceSubrange(first..<first + old.count, with: new.map { [$0] } ?? [])
        case .install(let run, let base, let header, let horizon):
            // A whole one may also replace the same state, where what the disk has of that is damaged.
            let isSame = base == .zero && header.index == manifest.index && header.digest == manifest.digest
            guard header.index > manifest.index || isSame else {
                throw conflict("an end below the snapshot's index \(header.index)", "index \(manifest.index)")
            }
            guard base == .zero || manifest.index == base || isPlanted("increment-on-other-base") else {
                throw conflict("the end at the snapshot's base \(base)", "index \(manifest.index)")
            }
            try manifest.moveOn(to: header)
            manifest.horizon = max(manifest.horizon, horizon)
            if base == .zero, !isPlanted("snapshot-beside-old-runs") { manifest.runs = [] }
            #if BIFROST_PLANTED
                // So that the mistakes above make a manifest that can be read again.
                let run = run.map { run in
                    var run = run
                    run.from = max(run.from, manifest.runs.last?.to ?? .zero)
                    return run
                }
            #endif
            if let run { manifest.runs.append(run) }
        case .delete:
            return nil
        }
        return manifest
    }
}

extension Manifest {
    fileprivate mutating func moveOn(to header: ManifestHeader) throws(ManifestConflict) {
        guard header.group == group else {
            throw ManifestConflict(replica: replica, expected: "group \(group)", found: "group \(header.group)")
        }
        guard header.index >= index, header.term >= term, header.revision >= revision, header.logTime >= logTime else {
            throw ManifestConflict(
                replica: replica, expected: "index, term, revision and log time that do not fall", found: "lower ones")
        }
        self.header = header
    }
}
