// How a client behaves, and the words of other modules that its users need.

public import Logging
public import Messages
public import NIOCore
public import Primitives
public import RPC
public import Ring
import StateMachines

public typealias Bytes = Primitives.Bytes
public typealias Revision = Primitives.Revision
public typealias GroupID = Primitives.GroupID
public typealias HostID = Primitives.HostID
public typealias ClusterMap = Ring.ClusterMap
public typealias HostStatus = Messages.HostStatus
public typealias Limits = Messages.Limits

/// A client's settings.
public struct ClusterOptions: Sendable {
    /// How long an operation may take where the call says nothing else.
    public var timeout: Duration = .seconds(10)
    /// How long `connect` looks for a host with a map.
    public var connectTimeout: Duration = .seconds(10)
    /// How long `connect` goes on looking while every address refuses connections; nil: no shorter than for others.
    public var refusalGrace: Duration?
    /// How long a group keeps what this client has in it (answers to commands that may come again, and what it holds)
    /// after the client's last word, as the group counts time. What a client holds that ended without a word is free for
    /// others after that time; one that reaches nobody has lost it after nine tenths of it, by its own clock. While
    /// something is held, each group concerned gets a word in each third of the time. 1 s to 1 h, in whole milliseconds,
    /// rounded down; else `connect` throws `invalid`.
    public var sessionTimeToLive: Duration = .seconds(30)
    /// All commands are done only while this token stands, whatever they are about.
    package var guardToken: FencingToken?
    /// false: commands are in no session, and those about sessions can be sent. For measurements.
    package var hasSessions = true
    /// Operations queued and in flight together. Beyond: `overloaded`.
    public var operationsMax = 65_536
    /// Where the client lives: one event loop of it. Nil: the process's own group.
    public var eventLoopGroup: (any EventLoopGroup)?
    /// How hosts name this client in their logs.
    public var name = "client"
    public var logger: Logger
    /// A host of the cluster in this process (a `BifrostHost.Host`): what is for it goes to its event loops at once, and
    /// not through a socket. Bounds, errors and guarantees are the same. When it has stopped, its address is tried.
    public var host: (any InProcessHost)?
    /// Decides the jitter of back-offs; nil: drawn at random.
    public var seed: UInt64?

    public init() {
        logger = Logger(label: "bifrost.client")
        logger.logLevel = .error
    }

    /// Why no client can be made with them.
    var problem: BifrostError? {
        let milliseconds = sessionTimeToLive.nanoseconds / 1_000_000
        let (least, most) = (SessionTable.Limits.timeToLiveMin, SessionTable.Limits.timeToLiveMax)
        guard milliseconds < least || milliseconds > most else { return nil }
        return BifrostError(
            .invalid, "sessionTimeToLive is \(sessionTimeToLive); expected \(least / 1_000) s to \(most / 1_000) s")
    }
}

/// Who answers a read, and what it may miss.
public enum ReadConsistency: Hashable, Sendable {
    /// The leader, which asks a majority first: the read sees every write that was acknowledged before it began.
    case linearizable
    /// As new, and answered by the leader at once while a majority's promises make it sure that no other leads: one way
    /// to it and back. As long as no host's clock runs more than a twentieth too fast or too slow; the others rely on no
    /// clock.
    case lease
    /// As new, but answered by the replica on this host.
    case linearizableAt(HostID)
    /// Misses nothing that was acknowledged so long before the read began, or earlier. Any replica answers, each in turn;
    /// at once if it made sure of its state within that time, else as `linearizableAt`. One round of confirmation in that
    /// time serves all such reads of a replica. Relies on the clock of the host that answers alone. In whole
    /// milliseconds, rounded down, at most 49 days.
    case stale(max: Duration)
    /// All that this `Cluster` has been told: what it wrote and was acknowledged, and whatever its reads and watches
    /// showed, is there, and reads one after the other never go back. What others wrote may be missing, for as long as the
    /// replica that answers is behind. Any replica answers, each in turn; at once if it is that far, else as
    /// `linearizableAt`. Clusters below feature level 8 answer as new. For pages of a whole group: as `linearizableAt`.
    /// What ended with an unknown outcome it says nothing of: read as new before you decide.
    case session
    /// As stale, by the replica on this host.
    case staleAt(HostID, max: Duration)
    /// What the replica on this host has applied, however old.
    case localAt(HostID)

    var host: HostID {
        switch self {
        case .linearizable, .lease, .stale, .session: HostID(0)
        case .linearizableAt(let host), .localAt(let host), .staleAt(let host, _): host
        }
    }

    var onWire: Consistency {
        switch self {
        case .linearizable: .linearizable
        case .lease: .lease
        case .linearizableAt: .linearizableAnywhere
        case .stale, .staleAt: .stale
        case .session: .session
        case .localAt: .local
        }
    }

    /// Of what may be stale: milliseconds.
    var bound: UInt32 {
        guard case .stale(let max) = self else {
            guard case .staleAt(_, let max) = self else { return 0 }
            return max.wholeMilliseconds
        }
        return max.wholeMilliseconds
    }
}

extension Duration {
    /// 0 for negative ones; a century at most.
    var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        guard seconds < 3_200_000_000 else { return 3_200_000_000_000_000_000 }
        return UInt64(seconds) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }
}

extension Duration {
    fileprivate var wholeMilliseconds: UInt32 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (whole, isBeyond) = seconds.multipliedReportingOverflow(by: 1_000)
        return isBeyond ? .max : UInt32(clamping: whole + attoseconds / 1_000_000_000_000_000)
    }
}
