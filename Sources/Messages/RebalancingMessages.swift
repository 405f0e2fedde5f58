// What the meta group's leader says of the rebalancing that it drives.

public import Primitives
public import Ring

/// Asks for the rebalancing that is under way, or the last one there was. Goes to the host that leads the meta group.
///
/// `version u16 = 1`
public struct RebalancingRequest: Message {
    public init() {}
    public func encode(into writer: inout ByteWriter) { writer.write(1 as UInt16) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a request for the rebalancing")
    }
}

/// The answer. `version u16 = 1 | kind u8`, then by kind: 0 nothing: `by itself`; 1 there: `map version u64 | rebalancing | for
/// each step: waits u8, and if that is 1, for what | by itself`; 2 notLeader: `address text`; 3 refused: `text`. By itself:
/// `is on u8 | if it is: an order | waits u8, and if that is 1, for what`.
public enum RebalancingReply: Message {
    /// There was none yet, or none since the cluster was recovered. But it may be that the meta group keeps the balance by
    /// itself.
    case nothing(AutoStanding?)
    case there(RebalancingStanding)
    /// Ask at this address; an empty one means that the leader is unknown at the moment: try again.
    case notLeader(address: String)
    case refused(String)

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        switch self {
        case .nothing(let auto):
            writer.write(0 as UInt8)
            AutoStanding.encode(auto, into: &writer)
        case .there(let standing):
            writer.write(1 as UInt8)
            writer.write(standing.mapVersion)
            standing.rebalancing.encode(into: &writer)
            for wait in standing.waits {
                writer.write(wait != nil)
                wait?.encode(into: &writer)
            }
            AutoStanding.encode(standing.auto, into: &writer)
        case .notLeader(let address):
            writer.write(2 as UInt8)
            writer.write(text: address)
        case .refused(let text):
            writer.write(3 as UInt8)
            writer.write(text: text)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "an answer about the rebalancing")
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 0: self = .nothing(try AutoStanding.read(&reader))
        case 1:
            let version = try reader.read(UInt64.self)
            let rebalancing = try Rebalancing(from: &reader)
            var waits: [RebalanceWait?] = []
            for _ in rebalancing.steps { waits.append(try reader.readBool() ? RebalanceWait(from: &reader) : nil) }
            self = .there(
                RebalancingStanding(
                    mapVersion: version, rebalancing: rebalancing, waits: waits, auto: try AutoStanding.read(&reader)))
        case 2: self = .notLeader(address: try reader.readText())
        case 3: self = .refused(try reader.readText())
        default: throw DecodingFailure(expected: "an answer about the rebalancing, 0 to 3", found: "kind \(kind)")
        }
    }
}

/// That the meta group keeps the balance by itself, and what it waits for.
public struct AutoStanding: Hashable, Sendable {
    public var auto: AutoRebalancing
    /// nil: nothing, it is looking; or it was told only now.
    public var wait: AutoWait?

    public init(auto: AutoRebalancing, wait: AutoWait?) {
        self.auto = auto
        self.wait = wait
    }

    static func encode(_ standing: AutoStanding?, into writer: inout ByteWriter) {
        writer.write(standing != nil)
        guard let standing else { return }
        standing.auto.encode(into: &writer)
        writer.write(standing.wait != nil)
        standing.wait?.encode(into: &writer)
    }

    static func read(_ reader: inout ByteReader) throws(DecodingFailure) -> AutoStanding? {
        guard try reader.readBool() else { return nil }
        let auto = try AutoRebalancing(from: &reader)
        return AutoStanding(auto: auto, wait: try reader.readBool() ? try AutoWait(from: &reader) : nil)
    }
}

/// The rebalancing, and what each of its steps waits for.
public struct RebalancingStanding: Hashable, Sendable {
    /// Of the map that goes with it.
    public var mapVersion: UInt64
    public var rebalancing: Rebalancing
    /// By step; nil: it is over, or goes on at once.
    public var waits: [RebalanceWait?]
    /// nil: the meta group begins none by itself.
    public var auto: AutoStanding?

    /// - Precondition: as many waits as steps.
    public init(
        mapVersion: UInt64, rebalancing: Rebalancing, waits: [RebalanceWait?], auto: AutoStanding? = nil
    ) {
        self.auto = auto
        precondition(waits.count == rebalancing.steps.count, "each step has what it waits for, or nothing")
        self.mapVersion = mapVersion
        self.rebalancing = rebalancing
        self.waits = waits
    }

    /// It is not over, and nothing goes on until somebody does something: each step waits for that, or for another one.
    public var isBlocked: Bool { isBlocked { _ in false } }

    /// The same where some steps are known, by their places, to wait in vain for something that the meta group's leader does
    /// not see.
    public func isBlocked(besides isInVain: (Int) -> Bool) -> Bool {
        guard !rebalancing.isOver else { return false }
        return rebalancing.steps.indices.allSatisfy { place in
            guard !rebalancing.steps[place].isOver, !isInVain(place) else { return true }
            guard let wait = waits[place] else { return false }
            switch wait {
            case .step: return true
            // As many as may are under way, and none of them goes on.
            case .turn: return true
            default: return wait.needsSomebody
            }
        }
    }
}
