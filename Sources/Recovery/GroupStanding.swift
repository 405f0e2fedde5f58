// What one group's survivors could still do by themselves, and which of them has most. The arithmetic that a recovery's
// safety rests on (Documentation/Recovery.md); decides nothing.

internal import Primitives
internal import RaftCore
internal import Ring

extension Configuration {
    /// Whether those for whom `holds` is true are a majority of each half.
    func isQuorum(_ holds: (ReplicaID) -> Bool) -> Bool {
        let members = members
        return Quorum.holds(
            members.count,
            seat: { Seat(isVoter: voters.contains(members[$0]), isOutgoing: outgoing.contains(members[$0])) },
            { holds(members[$0]) })
    }
}

/// A replica that the map places on a host that survived.
struct Survivor {
    var replica: ReplicaID
    var host: HostID
    /// Nil: its disk knows nothing of it yet, and it would begin with `configurations` and an empty log.
    var report: ReplicaReport?
    /// Not empty; the last is in effect.
    var configurations: [Configuration]

    init(_ record: ReplicaRecord, of group: GroupRecord, report: ReplicaReport?) {
        replica = record.id
        host = record.host
        self.report = report
        configurations = report?.configurations ?? [group.firstConfiguration(of: record.id)]
    }

    var isMute: Bool { report?.isMute ?? false }
    /// The group can begin with it again.
    var isSound: Bool { report?.isSound ?? false }
    var lastTerm: Term { report?.lastTerm ?? .zero }
    var last: LogIndex { report?.last ?? .zero }
    var configuration: Configuration { configurations[configurations.count - 1] }
    var placed: PlacedReplica { PlacedReplica(replica: replica, host: host) }

    /// Its log is at least as up to date (Raft §5.4.1): whoever's is not gives it its vote.
    func hasAllOf(_ other: Survivor) -> Bool { (lastTerm, last) >= (other.lastTerm, other.last) }
}

struct GroupStanding {
    var record: GroupRecord
    var survivors: [Survivor]

    /// Whether somebody can be elected by those that are left, as consensus would do it: then nothing is to be done.
    var hasQuorum: Bool {
        survivors.contains { candidate in
            guard !candidate.isMute, candidate.report?.impairment == nil,
                candidate.configuration.voters.contains(candidate.replica)
                    || candidate.configuration.outgoing.contains(candidate.replica)
            else { return false }
            return candidate.configuration.isQuorum { voter in
                survivors.contains { $0.replica == voter && !$0.isMute && candidate.hasAllOf($0) }
            }
        }
    }

    /// The sound survivor whose log the group goes on from; nil if there is none.
    var base: Survivor? {
        let known = KnownCommit(survivors.compactMap(\.report))
        return survivors.filter { $0.isSound && known.isIn($0.report) }.max {
            // Among equals one that votes, then the one with the lowest id.
            let (left, right) = (
                $0.configuration.voters.contains($0.replica), $1.configuration.voters.contains($1.replica)
            )
            if ($0.lastTerm, $0.last) != ($1.lastTerm, $1.last) { return !$0.hasAllOf($1) }
            return left == right ? $0.replica > $1.replica : right
        }
    }

    /// Whether the base has whatever this one helped to commit. It has if its log is as up to date; and the log of one
    /// that contradicts what is known to be committed has nothing more that was.
    private func covers(_ base: Survivor, _ other: Survivor) -> Bool {
        !other.isMute && (base.hasAllOf(other) || !KnownCommit(survivors.compactMap(\.report)).isIn(other.report))
    }

    private var configurations: [Configuration] { survivors.flatMap(\.configurations) }

    /// Whether under some configuration that may be in effect on a survivor the others could elect one of them without
    /// the base. Then they must not go on under their ids.
    func couldElect(without base: Survivor) -> Bool {
        configurations.contains { configuration in
            configuration.isQuorum { voter in
                voter != base.replica && survivors.contains { $0.replica == voter }
            }
        }
    }

    /// Whether no entry can have been committed without a replica whose log the base's covers. A configuration that no
    /// survivor has can't have come about either: it would have needed a majority of one that they have. A base that
    /// came late, and has not heard yet who votes, proves nothing.
    func isComplete(with base: Survivor) -> Bool {
        // If a joint one was never committed, the one before it decided alone; if it was, the next one did.
        let halves = configurations.filter(\.isJoint).flatMap {
            [Configuration(voters: $0.outgoing), Configuration(voters: $0.voters)]
        }
        return !base.configuration.voters.isEmpty && !survivors.contains { knowsMore($0, than: base) }
            && !(configurations + halves).contains { configuration in
                configuration.isQuorum { voter in
                    !survivors.contains { $0.replica == voter && covers(base, $0) }
                }
            }
    }

    /// It knows something to be committed that the base does not have: one that is impaired, or a sound one of another
    /// history. It will never follow a leader that goes on from the base: what is committed it replaces by nothing, so
    /// it would acknowledge entries that are not the leader's, and apply what is given up here.
    func knowsMore(_ survivor: Survivor, than base: Survivor) -> Bool {
        guard survivor.replica != base.replica, let own = survivor.report, let base = base.report else { return false }
        guard own.commit <= base.last else { return true }
        // What is below a log's base is committed, and was then committed to both.
        return own.commit >= base.base && own.term(at: own.commit) != base.term(at: own.commit)
    }

    /// The greatest index that is known to be committed and that the base has.
    var certain: LogIndex { KnownCommit(survivors.compactMap(\.report)).index }

    /// Where the longest log ends that can't be gone on from and that the base does not cover.
    func impairedLast(beyond base: Survivor) -> LogIndex? {
        survivors.filter { !$0.isSound && (!covers(base, $0) || knowsMore($0, than: base)) }.map(\.last).max()
    }
}

/// The last entry that a sound survivor knows to be committed. It may have more terms behind it than that survivor's log
/// shows: an entry is committed by a later one of its leader's term (Raft §5.4.2), and a follower that catches up knows
/// it before it has that one. Meanwhile the log of a leader that was left behind may end in a term between. So the best
/// log (last term, last index) has all that a *majority* must have had, and not all that is *known*; what a group goes on
/// from is the best among those that have this entry.
struct KnownCommit {
    var index: LogIndex = .zero
    var term: Term = .zero

    init(_ reports: [ReplicaReport]) {
        for report in reports where report.isSound && report.commit > index {
            index = report.commit
            term = report.term(at: index) ?? .zero
        }
    }

    /// A log that begins behind it has it: what is below a base is committed.
    func isIn(_ report: ReplicaReport?) -> Bool {
        guard index > .zero else { return true }
        guard let report else { return false }
        return report.base > index || report.term(at: index) == term
    }
}
