// What a run is told beside its seed.

/// What kind of trouble a run is made of.
public enum SimulationProfile: String, CaseIterable, Sendable {
    /// Many short faults of all kinds at once, some seconds apart: looks for what must never happen.
    case safety
    /// Few, long faults, each followed by calm: looks for what must happen again once all is well.
    case liveness
    /// As `safety`, and one host's disks lose bits or everything: what is damaged must be noticed, and nothing wrong
    /// served.
    case rot
    /// As `safety`, and meanwhile replicas, groups and hosts come and go.
    case membership
    /// As `membership`, and slots move from group to group.
    case moves
    /// As `moves`, and most of it by plans of rebalancing that the meta group's leaders carry out.
    case rebalance

    /// Replicas, groups and hosts come and go.
    var changesMembers: Bool { self == .membership || movesSlots }
    /// Slots go from group to group.
    var movesSlots: Bool { self == .moves || self == .rebalance }
}

/// What a run is told beside its seed. The same seed with other settings is another run.
public struct SimulationSettings: Hashable, Sendable {
    public var profile: SimulationProfile
    /// Virtual seconds with load and faults; those in which all is mended and read back come on top.
    public var seconds: Int

    public static let secondsStandard = 60
    public static let secondsMax = 86_400

    /// - Parameter seconds: 1 to `secondsMax`.
    public init(profile: SimulationProfile = .safety, seconds: Int = secondsStandard) {
        precondition(seconds >= 1 && seconds <= Self.secondsMax, "1 to \(Self.secondsMax) seconds")
        self.profile = profile
        self.seconds = seconds
    }
}
