// Every seed that ever failed, with what it was run with: each run of many seeds begins with these. A change of what
// seeds draw makes other runs of them; they stay all the same, since they cost a second each.

/// The runs that ever failed.
public enum SimulationCorpus {
    public struct Entry: Sendable {
        public var seed: UInt64
        public var settings: SimulationSettings
        /// What was wrong.
        public var reason: String
    }

    private static func entry(
        _ seed: UInt64, _ profile: SimulationProfile = .safety, seconds: Int = 12, _ reason: String
    ) -> Entry {
        Entry(seed: seed, settings: SimulationSettings(profile: profile, seconds: seconds), reason: reason)
    }

    /// Oldest first.
    public static let entries: [Entry] = [
        entry(1714, seconds: 20, "convergence: catch-up by single entries, each 0.2 s on its way, took too long"),
        entry(2033, seconds: 20, "linearizability: too many operations of one key at a time to be judged"),
        entry(3135, seconds: 20, "linearizability: too many operations of one key at a time to be judged"),
        entry(23, .rot, seconds: 20, "journal kept: a rule of the simulator, for a replica whose store is lost"),
        entry(34, .rot, seconds: 20, "journal kept: a rule of the simulator, for a replica whose store is lost"),
        entry(
            2, .liveness, seconds: 60,
            "a leader within ten seconds: what a stop held up went on when it was foreseen, not when it ended"),
        entry(
            6, .liveness, seconds: 60,
            "a leader within ten seconds: what was sent over a narrow link stayed slow when it was wide again"),
        entry(
            19, .rot, seconds: 30,
            "convergence: a leader whose journal was damaged went on leading, and could not supply its follower"),
        entry(
            148, .rot, seconds: 30,
            "log model: a log that was lost whole in a damaged journal was begun anew, votes forgotten"),
        entry(
            73_611_103_931, seconds: 60,
            "durable means durable: a rule of the simulator, for a checkpoint that failed while its process was killed, and stayed"
        ),
        entry(
            12, seconds: 60,
            "durable means durable: the sync at a start failed, and the next start took the page cache for the disk"),
        entry(
            272, seconds: 60,
            "durable means durable: the sync at a start failed, and the next start took the page cache for the disk"),
        entry(
            1_073_721_969_314, seconds: 60,
            "convergence: a rule of the simulator, for 3,600 entries one by one over slow links"),
        entry(
            1_000_000_000_001_240, seconds: 60,
            "a leader within ten seconds: a rule of the simulator, for disks that sync for each entry"),
        entry(
            293_056_605_235, .rot, seconds: 60,
            "log model: a rule of the simulator, for a host that lost first its journal and then its store"),
        entry(
            686_998_991_688, .rot, seconds: 60,
            "log model: a rule of the simulator, for a host with a damaged disk that ended while a replica began behind a snapshot"
        ),
        entry(
            468_207_736_515, .rot, seconds: 60,
            "log model: the simulator started a host on another journal, whose only manifest of a replica was damaged, without the real host's look at the store's identity"
        ),
        entry(
            1_000_034, .rot, seconds: 60,
            "a leader within ten seconds: a rule of the simulator, for a group whose majority waits for a state in small pieces"
        ),
        entry(
            1_000_495, .rot, seconds: 60,
            "a leader within ten seconds: a replica whose state was damaged asked the leader of long ago and its neighbour only, both with no place left"
        ),
        entry(
            1_000_696, .rot, seconds: 60,
            "idle groups cost nothing: a replica that was replaced kept its place for a snapshot, and its successor waited"
        ),
        entry(
            1_001_246, .rot, seconds: 60,
            "journal kept: a rule of the simulator, for a log that began anew behind a snapshot"),
        entry(
            1_036_158_288_412, .membership, seconds: 60,
            "members settle: a rule of the simulator, whose operator looked for draining hosts before an old ask came about"
        ),
        entry(
            1316, .membership, seconds: 60,
            "a leader within ten seconds: the first groups got all places for checkpoints, and later ones took no entries"
        ),
        entry(
            158, .rot, seconds: 60,
            "a leader within ten seconds: a rule of the simulator, for a disk that stood still beyond the mending of all"
        ),
        entry(
            113, .rot, seconds: 60,
            "a leader within ten seconds: a rule of the simulator, for a replica that the scrubber found damaged meanwhile"
        ),
        entry(
            34_608_591_143, seconds: 60,
            "watches: two identical watch requests at a leader that is behind the asked revision"),
        entry(
            464_402_475, seconds: 60,
            "times to live: what was refused of what is due held up all that was due for seconds"),
        entry(
            419_410_449_625, seconds: 60,
            "convergence: a rule of the simulator, for a replica that gets its state in small pieces, which is waited for"
        ),
        entry(
            334, .moves, seconds: 60,
            "watches: one that came from a slot's former group, and waited, was taken to have seen what the new group had"
        ),
        entry(
            1_052_819_330_423, .rebalance, seconds: 60,
            "a trap: a plan for loads of slots that may not be moved, beside none of those that may"),
        entry(
            5076, .rebalance, seconds: 60,
            "a rule of the simulator: what a group released was taken in behind what another one did with it"),
    ]
}
