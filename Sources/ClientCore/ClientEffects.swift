// What goes into and comes out of `ClientRouter`: plain values. Owns no behaviour.

public import Messages
public import Primitives
public import Ring
import StateMachines

/// What kind of request an operation is. It decides the method on the wire and whether a retry is safe.
public enum RequestKind: UInt8, Sendable {
    /// Changes state: sent again under its number in a session, or, without one, only while it is certain that it was not
    /// proposed.
    case command
    /// Reads: sent again freely.
    case query
    /// Reads a page of a group's records. The payload is the whole encoded request, as its group never changes.
    case page
    /// Waits for changes at a group's leader: sent again freely. The payload is an encoded `WatchRange`.
    case watch
}

/// Whose records an operation is about.
public enum RequestTarget: Hashable, Sendable {
    /// The group that owns this slot, whichever it is when the operation is sent.
    case slot(Slot)
    /// This group itself, as for pages and for records that belong to a group.
    case group(GroupID)
}

/// One operation as the caller submits it.
public struct ClientRequest: Sendable {
    /// The caller's name for it, given back with the completion.
    public var tag: UInt64
    public var kind: RequestKind
    public var target: RequestTarget
    /// The only host that may answer, leader or not; 0 for the leader, or for any in turn if it is `stale` or `session`. Not for
    /// commands.
    public var pinned: HostID
    /// The sub state machine of a query; commands carry it in their header.
    public var machine: SubMachineNumber
    public var consistency: Consistency
    /// Of `stale`: milliseconds.
    public var bound: UInt32
    /// Command header and command, or the query's bytes: encoded once, kept for a resend.
    public var payload: Bytes
    /// When the caller must have an answer.
    public var deadline: Instant

    @inlinable
    public init(
        tag: UInt64, kind: RequestKind, target: RequestTarget, pinned: HostID = HostID(0),
        machine: SubMachineNumber = SubMachineNumber(0), consistency: Consistency = .linearizable, bound: UInt32 = 0,
        payload: Bytes, deadline: Instant
    ) {
        self.tag = tag
        self.kind = kind
        self.target = target
        self.pinned = pinned
        self.machine = machine
        self.consistency = consistency
        self.bound = bound
        self.payload = payload
        self.deadline = deadline
    }
}

/// A request to be put on the connection to `host`.
public struct ClientSend: Sendable {
    public var call: CallID
    /// Of the operation; 0 if it is the router's own.
    public var tag: UInt64
    public var host: HostID
    public var kind: RequestKind
    public var machine: SubMachineNumber
    public var consistency: Consistency
    /// Of `stale`: milliseconds. Of `session`: the index of the latest state that the client was told of.
    public var bound: UInt64
    public var group: GroupID
    public var slot: Slot
    public var epoch: Epoch
    /// Of a command: what stands in its header instead of what the payload has there. None, 0: what it has there stays.
    public var session: SessionID
    public var sequence: UInt64
    public var firstUnacknowledged: UInt64
    public var payload: Bytes
    public var deadline: Instant
}

extension ClientSend {
    /// Writes a command's payload as it is sent. Cost: as many bytes.
    public func encodeCommand(into writer: inout ByteWriter) {
        guard sequence > 0, payload.count >= CommandHeader.encodedBytes,
            var header = payload.withUnsafeBytes({ CommandHeader(of: $0) })
        else { return writer.write(payload) }
        header.session = session
        header.sequence = sequence
        header.firstUnacknowledged = firstUnacknowledged
        header.encode(into: &writer)
        writer.write(payload[CommandHeader.encodedBytes..<payload.count])
    }
}

/// The end of an operation. Comes exactly once for each that was submitted.
public struct ClientCompletion: Sendable {
    public var tag: UInt64
    public var result: Result<Bytes, OperationFailure>

    @inlinable public init(tag: UInt64, result: Result<Bytes, OperationFailure>) {
        self.tag = tag
        self.result = result
    }
}

/// Whom to ask for the cluster's map.
public enum MapSource: Hashable, Sendable {
    /// The address with this position in the list that the client was given.
    case seed(Int)
    case host(HostID)
}

/// Ask `source` for its map, and answer with `ClientRouter.mapAnswered`.
public struct MapFetch: Hashable, Sendable {
    public var number: UInt64
    public var source: MapSource
    /// The host may answer "unchanged" if it has nothing newer. 0 when no map is known.
    public var knownVersion: UInt64
}

/// What a host said when it was asked for its map.
public enum MapAnswer: Sendable {
    case map(ClusterMap)
    case unchanged
    /// The host runs, but belongs to no cluster yet.
    case notInitialised
    /// No answer, or none that could be read.
    case failed
}

/// What a host's data service answered.
public enum CallAnswer: Sendable {
    /// Done. The bytes are the encoding of a `DataResult`, or of a `PageResult` for a page.
    case done(Bytes)
    case refused(Refusal)
    /// The answer's bytes could not be read: nobody knows.
    case malformed(String)

    /// Reads a `Response` without the result in it, which is the caller's to read. Cost: O(1), no allocation if done.
    public init(response: Bytes, to kind: RequestKind) {
        if response.count >= 17, response[0] == 0 {
            self = .done(response[1..<response.count])
            return
        }
        guard response.count > 0, response[0] != 0 else {
            self = .malformed("a result of \(response.count) bytes is too short")
            return
        }
        do {
            self = .refused(try Refusal(decoding: response))
        } catch {
            self = .malformed(error.description)
        }
    }
}

/// What became of a call that got no answer from its service.
public enum CallFailure: Hashable, Sendable {
    /// It certainly never left this process.
    case notSent
    /// The connection's own bound was reached; it never left this process.
    case congested
    /// The host turned it away before its service saw it.
    case refused
    /// It will never be carried out as it stands: unknown to the host, or too long for a frame. Nothing was done.
    case rejected(String)
    /// Nobody knows.
    case perhapsSent
}

/// Reused between turns: `removeAll` keeps the memory.
public struct ClientEffects: Sendable {
    public var sends: [ClientSend] = []
    public var completions: [ClientCompletion] = []
    /// Calls whose answers are no longer wanted.
    public var cancels: [CallID] = []
    public var mapFetch: MapFetch?
    /// `ClientRouter.map` is another one: connections are to be made to hosts that came, and given up to those that
    /// went.
    public var mapChanged = false

    public init() {}

    public var isEmpty: Bool {
        sends.isEmpty && completions.isEmpty && cancels.isEmpty && mapFetch == nil && !mapChanged
    }

    public mutating func removeAll() {
        sends.clear()
        completions.clear()
        cancels.clear()
        mapFetch = nil
        mapChanged = false
    }
}
