// A rebalancing's bytes: in the meta group's log, in its records (a head, and each step by itself, so that what becomes of
// one writes little), and in answers.

public import Primitives

extension Rebalancing {
    public static let formatVersion: UInt8 = 1

    /// All but the steps: `version u8 = 1 | id u64 | token u64 | planned version u64 | limits | flags u8 (bit 0: paused, bit
    /// 1: cancelled, bit 2: automatic) | steps u32`
    public func encodeHead(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(id)
        writer.write(token)
        writer.write(plannedVersion)
        limits.encode(into: &writer)
        writer.write((isPaused ? 1 : 0) | (isCancelled ? 2 : 0) | (isAutomatic ? 4 : 0) as UInt8)
        writer.write(UInt32(steps.count))
    }

    /// A head, and how many steps belong to it.
    public static func readHead(
        _ reader: inout ByteReader
    ) throws(DecodingFailure) -> (head: Rebalancing, steps: Int) {
        let version = try reader.read(UInt8.self)
        guard version == formatVersion else {
            throw DecodingFailure(expected: "a rebalancing of version \(formatVersion)", found: "version \(version)")
        }
        let (id, token) = (try reader.read(RebalancingID.self), try reader.read(UInt64.self))
        let planned = try reader.read(UInt64.self)
        let limits = try Limits(from: &reader)
        let flags = try reader.read(UInt8.self)
        guard flags < 8 else { throw DecodingFailure(expected: "a rebalancing's flags, 0 to 7", found: "\(flags)") }
        let count = Int(try reader.read(UInt32.self))
        guard count > 0, count <= stepsMax else {
            throw DecodingFailure(expected: "1 to \(stepsMax) steps", found: "\(count)")
        }
        let head = Rebalancing(
            id: id, token: token, plannedVersion: planned, limits: limits, isPaused: flags & 1 != 0,
            isCancelled: flags & 2 != 0, isAutomatic: flags & 4 != 0, steps: [])
        return (head, count)
    }

    /// From its parts.
    public init(head: Rebalancing, steps: [Step]) throws(DecodingFailure) {
        self = head
        self.steps = steps
        if let problem { throw DecodingFailure(expected: "a consistent rebalancing", found: problem) }
    }

    /// The head, then all steps.
    public func encode(into writer: inout ByteWriter) {
        encodeHead(into: &writer)
        for step in steps { step.encode(into: &writer) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let (head, count) = try Self.readHead(&reader)
        try reader.check(count: count, ofSize: Step.encodedBytesMin)
        var steps: [Step] = []
        steps.reserveCapacity(count)
        for _ in 0..<count { steps.append(try Step(from: &reader)) }
        try self.init(head: head, steps: steps)
    }
}

extension Rebalancing.Limits {
    /// `moves at a time u32 | bytes per second u64 | pause u32, milliseconds`
    public func encode(into writer: inout ByteWriter) {
        writer.write(concurrentMax)
        writer.write(bytesPerSecondMax)
        writer.write(pauseMillisMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        self.init(
            concurrentMax: try reader.read(), bytesPerSecondMax: try reader.read(), pauseMillisMax: try reader.read())
        if let problem { throw DecodingFailure(expected: "limits of a rebalancing", found: problem) }
    }
}

extension Rebalancing.Step {
    static let encodedBytesMin = 33

    /// `state u8 | reason u8 | attempts u8 | bytes u64 | begun u64 | word: length u32, bytes | kind u8 | fields`. Kind 1, slots:
    /// `from u32 | to u32 | slots`; 2, a replica: `group u32 | replica u64 | from u64 | to u64`; 3, a lead: `group u32 | from
    /// u64 | to u64`.
    public func encode(into writer: inout ByteWriter) {
        writer.write(state.rawValue)
        writer.write(reason.number)
        writer.write(attempts)
        writer.write(bytes)
        writer.write(begun)
        writer.writeWithLength(word)
        switch move {
        case .slots(let slots, let from, let to):
            writer.write(1 as UInt8)
            writer.write(from)
            writer.write(to)
            writer.write(slots: slots)
        case .replica(let group, let replica, let from, let to):
            writer.write(2 as UInt8)
            writer.write(group)
            writer.write(replica)
            writer.write(from)
            writer.write(to)
        case .leader(let group, let from, let to):
            writer.write(3 as UInt8)
            writer.write(group)
            writer.write(from)
            writer.write(to)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let state = try reader.read(UInt8.self)
        guard let state = State(rawValue: state) else {
            throw DecodingFailure(expected: "a step's state, 1 to 5", found: "\(state)")
        }
        let reason = try reader.read(UInt8.self)
        guard let reason = RebalancePlan.Reason(number: reason) else {
            throw DecodingFailure(expected: "a step's reason, 1 to 9", found: "\(reason)")
        }
        let (attempts, bytes) = (try reader.read(UInt8.self), try reader.read(UInt64.self))
        let begun = try reader.read(UInt64.self)
        let word = try reader.readStringWithLength(limit: Rebalancing.wordBytesMax)
        let kind = try reader.read(UInt8.self)
        let move: RebalancePlan.Move
        switch kind {
        case 1:
            let (from, to) = (try reader.read(GroupID.self), try reader.read(GroupID.self))
            move = .slots(try reader.readSlots(), from: from, to: to)
        case 2:
            let (group, replica) = (try reader.read(GroupID.self), try reader.read(ReplicaID.self))
            move = .replica(group, replica, from: try reader.read(), to: try reader.read())
        case 3:
            let group = try reader.read(GroupID.self)
            move = .leader(group, from: try reader.read(), to: try reader.read())
        default: throw DecodingFailure(expected: "a step of kind 1 to 3", found: "kind \(kind)")
        }
        self.init(move, reason, bytes: bytes, state: state, begun: begun, attempts: attempts, word: word)
    }

    /// As `encode` writes it.
    public var encodedBytes: Int {
        var writer = ByteWriter()
        encode(into: &writer)
        return writer.take().count
    }
}

extension Rebalancing.Wish {
    /// `1 u8` pause, `2 u8` resume, `3 u8` cancel, `4 u8 | limits`.
    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .pause: writer.write(1 as UInt8)
        case .resume: writer.write(2 as UInt8)
        case .cancel: writer.write(3 as UInt8)
        case .limits(let limits):
            writer.write(4 as UInt8)
            limits.encode(into: &writer)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 1: self = .pause
        case 2: self = .resume
        case 3: self = .cancel
        case 4: self = .limits(try Rebalancing.Limits(from: &reader))
        default: throw DecodingFailure(expected: "a wish of a rebalancing, 1 to 4", found: "\(kind)")
        }
    }
}

extension Rebalancing.Report {
    /// `1 u8` begun, `2 u8` done, `3 u8 | word` failed, `4 u8 | word` again, `5 u8` cancelled; a word is `length u32, bytes`.
    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .begun: writer.write(1 as UInt8)
        case .done: writer.write(2 as UInt8)
        case .failed(let word):
            writer.write(3 as UInt8)
            writer.writeWithLength(Rebalancing.cut(word))
        case .again(let word):
            writer.write(4 as UInt8)
            writer.writeWithLength(Rebalancing.cut(word))
        case .cancelled: writer.write(5 as UInt8)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let kind = try reader.read(UInt8.self)
        switch kind {
        case 1: self = .begun
        case 2: self = .done
        case 3: self = .failed(try reader.readStringWithLength(limit: Rebalancing.wordBytesMax))
        case 4: self = .again(try reader.readStringWithLength(limit: Rebalancing.wordBytesMax))
        case 5: self = .cancelled
        default: throw DecodingFailure(expected: "a report of a step, 1 to 5", found: "\(kind)")
        }
    }
}

extension RebalancePlan.Reason {
    /// Part of the format.
    var number: UInt8 {
        switch self {
        case .groupLeaves: 1
        case .groupIsNew: 2
        case .groupIsUneven: 3
        case .hostDrains: 4
        case .hostHasNoWeight: 5
        case .zones: 6
        case .hostIsFull: 7
        case .hostIsEmpty: 8
        case .leads: 9
        }
    }

    init?(number: UInt8) {
        guard let reason = Self.allCases.first(where: { $0.number == number }) else { return nil }
        self = reason
    }
}
