// Commands about sessions themselves, and how sessions are kept among a group's records.

import DequeModule
public import Messages
public import Primitives

/// Sub state machine 3. The command stands behind a command header without a session. Needs feature level
/// `FeatureLevel.sessions`.
public enum SessionCommand: Hashable, Sendable {
    /// `1 u8 | version u8 = 1 | time to live u64 | nonce u64`. Milliseconds of log time; a number that the client draws at
    /// random. Its answer's body is the session's id: u64. Of version 2 by a client that knows that slots move, from
    /// `FeatureLevel.migrations` on: what it holds goes along with its slots. So does what one of version 1 holds that says
    /// `hold` later.
    case open(timeToLive: UInt64, nonce: UInt64, followsSlots: Bool = false)
    /// `2 u8 | version u8 = 1 | count u32 | each: id u64, first unacknowledged call u64`. Its answer's body are those that
    /// are not there: ids u64.
    case keepAlive([Life])
    /// `3 u8 | version u8 = 1 | id u64`. Done also if there is none.
    case close(SessionID)
    /// `4 u8 | version u8 = 1 | count u32 | each: id u64, index u64`. A leader's alone: ends sessions whose time is over,
    /// if the entry at this index was their last sign of life.
    case expire([Expiry])
    /// `5 u8 | version u8 = 1 | slot u16 | count u16 | each: id u64`. The one command about sessions that is a call of one, and
    /// a command on a slot: it came here, and these sessions of the same client, in other groups or here, may have something
    /// in it. From now on the calling one stands for those that are here. Its answer's body are these: ids u64. From
    /// `FeatureLevel.migrations` on, as the next.
    case takeOver(Slot, [SessionID])
    /// `6 u8 | version u8 = 1 | id u64 | first unacknowledged call u64 | count u16 | each: slot u16, epoch u64`. A sign of life of
    /// who holds something in these slots, since these epochs as far as he knows. Its answer's body is a `HeldSlotsAnswer`.
    case hold(Life, [HeldSlot])

    /// A client's word without a call.
    public struct Life: Hashable, Sendable {
        public var id: SessionID
        /// It asks for no answer below this call any more: 1 to 2^62.
        public var firstUnacknowledged: UInt64
        public init(id: SessionID, firstUnacknowledged: UInt64) {
            self.id = id
            self.firstUnacknowledged = firstUnacknowledged
        }
    }

    public struct Expiry: Hashable, Sendable {
        public var id: SessionID
        public var activeIndex: LogIndex
        public init(id: SessionID, activeIndex: LogIndex) {
            self.id = id
            self.activeIndex = activeIndex
        }
    }

    static let formatVersion: UInt8 = 1
    private static let versionFollowing: UInt8 = 2
    /// Sessions in one command, and slots that are held.
    public static let countMax = 4_096
    /// Sessions that one is asked to stand for, in one command.
    public static let takenMax = 64

    /// A whole payload.
    public func payload() -> Bytes {
        var writer = ByteWriter(capacity: 64)
        CommandHeader(machine: .sessions).encode(into: &writer)
        func begin(_ number: UInt8, version: UInt8 = Self.formatVersion) {
            writer.write(number)
            writer.write(version)
        }
        switch self {
        case .open(let timeToLive, let nonce, let followsSlots):
            begin(1, version: followsSlots ? Self.versionFollowing : Self.formatVersion)
            writer.write(timeToLive)
            writer.write(nonce)
        case .keepAlive(let words):
            begin(2)
            writer.write(UInt32(words.count))
            for word in words {
                writer.write(word.id)
                writer.write(word.firstUnacknowledged)
            }
        case .close(let id):
            begin(3)
            writer.write(id)
        case .expire(let expiries):
            begin(4)
            writer.write(UInt32(expiries.count))
            for expiry in expiries {
                writer.write(expiry.id)
                writer.write(expiry.activeIndex)
            }
        case .takeOver(let slot, let ids):
            begin(5)
            writer.write(slot)
            writer.write(UInt16(truncatingIfNeeded: ids.count))
            for id in ids { writer.write(id) }
        case .hold(let word, let slots):
            begin(6)
            writer.write(word.id)
            writer.write(word.firstUnacknowledged)
            writer.write(UInt16(truncatingIfNeeded: slots.count))
            for held in slots {
                writer.write(held.slot)
                writer.write(held.epoch)
            }
        }
        return writer.take()
    }

    /// Reads a whole payload, header included.
    public init(payload: Bytes) throws(DecodingFailure) {
        var reader = ByteReader(payload)
        _ = try reader.readBytes(count: CommandHeader.encodedBytes)
        let (number, version) = (try reader.read(UInt8.self), try reader.read(UInt8.self))
        guard version == Self.formatVersion || version == Self.versionFollowing && number == 1 else {
            throw DecodingFailure(
                expected: "a session command of version 1, or 2 of one that opens a session",
                found: "kind \(number) of version \(version)")
        }
        func check(_ count: Int, ofSize size: Int, most: Int = Self.countMax) throws(DecodingFailure) -> Int {
            guard count <= most else {
                throw DecodingFailure(expected: "at most \(most) sessions or slots", found: "\(count)")
            }
            try reader.check(count: count, ofSize: size)
            return count
        }
        func count(ofSize size: Int) throws(DecodingFailure) -> Int {
            try check(Int(try reader.read(UInt32.self)), ofSize: size)
        }
        switch number {
        case 1:
            self = .open(
                timeToLive: try reader.read(), nonce: try reader.read(),
                followsSlots: version == Self.versionFollowing)
        case 2:
            var words: [Life] = []
            for _ in 0..<(try count(ofSize: 16)) {
                words.append(Life(id: try reader.read(), firstUnacknowledged: try reader.read()))
            }
            self = .keepAlive(words)
        case 3: self = .close(try reader.read())
        case 4:
            var expiries: [Expiry] = []
            for _ in 0..<(try count(ofSize: 16)) {
                expiries.append(Expiry(id: try reader.read(), activeIndex: try reader.read()))
            }
            self = .expire(expiries)
        case 5:
            let slot = try reader.read(Slot.self)
            var ids: [SessionID] = []
            for _ in 0..<(try check(Int(try reader.read(UInt16.self)), ofSize: 8, most: Self.takenMax)) {
                ids.append(try reader.read())
            }
            self = .takeOver(slot, ids)
        case 6:
            let word = Life(id: try reader.read(), firstUnacknowledged: try reader.read())
            var slots: [HeldSlot] = []
            for _ in 0..<(try check(Int(try reader.read(UInt16.self)), ofSize: 10)) {
                slots.append(HeldSlot(slot: try reader.read(), epoch: try reader.read()))
            }
            self = .hold(word, slots)
        default: throw DecodingFailure(expected: "a session command of kind 1 to 6", found: "kind \(number)")
        }
        try reader.expectEnd()
    }

    /// Whether a payload opens a session. Cost: looks at its first bytes.
    public static func opens(_ payload: Bytes) -> Bool { isOne(payload, of: 1) }

    /// Whether a payload is the one command about sessions that is a call of one. Cost: looks at its first bytes.
    static func takesOver(_ payload: Bytes) -> Bool { isOne(payload, of: 5) }

    private static func isOne(_ payload: Bytes, of number: UInt8) -> Bool {
        payload.withUnsafeBytes {
            CommandHeader(of: $0)?.machine == .sessions && $0.count > CommandHeader.encodedBytes
                && $0[CommandHeader.encodedBytes] == number
        }
    }

    /// What the cluster has to be at.
    var featureLevel: UInt32 {
        switch self {
        case .open(_, _, false), .keepAlive, .close, .expire: FeatureLevel.sessions
        case .open(_, _, true), .takeOver, .hold: FeatureLevel.migrations
        }
    }

    /// Why a client's or a host's check turns it down; nil if it may be proposed.
    public func problem() -> Refusal? {
        switch self {
        case .open(let timeToLive, _, _):
            let (least, most) = (SessionTable.Limits.timeToLiveMin, SessionTable.Limits.timeToLiveMax)
            guard timeToLive < least || timeToLive > most else { return nil }
            return .invalid("a session lives for \(least) to \(most) ms without a word, not \(timeToLive)")
        case .keepAlive(let words):
            guard words.count <= Self.countMax else {
                return .tooLarge("at most \(Self.countMax) sessions, not \(words.count)")
            }
            return words.lazy.compactMap(Self.problem(of:)).first
        case .takeOver(let slot, let ids):
            guard slot < Slot.group, (1...Self.takenMax).contains(ids.count) else {
                return .invalid("1 to \(Self.takenMax) sessions are taken over in a slot, not \(ids.count) in \(slot)")
            }
            return nil
        case .hold(let word, let slots):
            guard slots.count <= Self.countMax, slots.allSatisfy({ $0.slot < Slot.group }) else {
                return .invalid("at most \(Self.countMax) slots are held with one word, not \(slots.count)")
            }
            return Self.problem(of: word)
        case .close: return nil
        case .expire: return .invalid("sessions are ended by their group's leader")
        }
    }

    private static func problem(of word: Life) -> Refusal? {
        (1...SessionTable.Limits.sequenceMax).contains(word.firstUnacknowledged)
            ? nil : .invalid("a call's number is 1 to 2^62, not \(word.firstUnacknowledged)")
    }
}

/// A session as a record of the group: in `Slot.group`, machine 3.
public struct SessionRecord: Hashable, Sendable {
    public var key: Bytes
    public var changed: LogIndex
    public var revision: Revision
    /// nil: it ended.
    public var value: Bytes?

    public static func key(of id: SessionID) -> Bytes { Session.key(of: id) }

    /// nil: it is none of a session's.
    public static func id(ofKey key: Bytes) -> SessionID? {
        key.count == 8 ? key.withUnsafeBytes { SessionID(UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self))) } : nil
    }

    public init(key: Bytes, changed: LogIndex, revision: Revision, value: Bytes?) {
        self.key = key
        self.changed = changed
        self.revision = revision
        self.value = value
    }
}

/// A session among the group's records: in `Slot.group`, machine 3, under its id as a big-endian u64.
///
/// `version u8 = 1 | time to live u64 | active at u64 | active index u64 | first unacknowledged u64 | answers u32 | each:
/// call u64, slot u16, index u64, revision u64, outcome u8 (0 done, 1 done without body, 2 refused), bytes: length u32`
///
/// One that holds objects is of version 2: behind all this `holdings u16 | each: a SessionHolding`. One that came with slots
/// is of version 3, which is otherwise as 2; and one of these for which another session of the same client stands is of version
/// 4: behind all this `owner u64`. One whose client knows that slots move, and that did not come with one, is of version 5,
/// which is otherwise as 2.
extension Session {
    static let formatVersion: UInt8 = 1
    private static let versionWithHoldings: UInt8 = 2
    private static let versionAdopted: UInt8 = 3
    private static let versionOwned: UInt8 = 4
    private static let versionFollowing: UInt8 = 5

    static func body(of ids: [SessionID]) -> Bytes {
        var writer = ByteWriter(capacity: max(1, ids.count * 8))
        for id in ids { writer.write(id) }
        return writer.take()
    }

    static func key(of id: SessionID) -> Bytes {
        Bytes(count: 8) { $0.storeBytes(of: id.rawValue.bigEndian, as: UInt64.self) }
    }

    func encoded() -> Bytes {
        var writer = ByteWriter(capacity: 64 + answers.count * 32 + bodyBytes)
        writer.write(version)
        writer.write(timeToLive)
        writer.write(activeAt)
        writer.write(activeIndex)
        writer.write(firstUnacknowledged)
        writer.write(UInt32(answers.count { $0 != nil }))
        for (offset, answer) in answers.enumerated() {
            guard let answer else { continue }
            writer.write(firstUnacknowledged + UInt64(offset))
            writer.write(answer.slot.rawValue)
            writer.write(answer.index)
            writer.write(answer.revision)
            switch answer.outcome {
            case .done(let body):
                writer.write(0 as UInt8)
                writer.writeWithLength(body)
            case .doneWithoutBody:
                writer.write(1 as UInt8)
                writer.writeWithLength(Bytes())
            case .refused(let refusal):
                writer.write(2 as UInt8)
                writer.writeWithLength(refusal.encoded())
            }
        }
        if version != Self.formatVersion {
            writer.write(UInt16(truncatingIfNeeded: holdings.count))
            for holding in holdings { holding.encode(into: &writer) }
        }
        if owner != .none { writer.write(owner) }
        return writer.take()
    }

    private var version: UInt8 {
        if owner != .none { return Self.versionOwned }
        if isAdopted { return Self.versionAdopted }
        if followsSlots { return Self.versionFollowing }
        return holdings.isEmpty ? Self.formatVersion : Self.versionWithHoldings
    }

    init(key: Bytes, changed: LogIndex, revision: Revision, value: Bytes) throws(DecodingFailure) {
        guard key.count == 8 else {
            throw DecodingFailure(expected: "a session's id of 8 bytes", found: "\(key.count)")
        }
        let id = key.withUnsafeBytes { UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self)) }
        var reader = ByteReader(value)
        let version = try reader.read(UInt8.self)
        guard (Self.formatVersion...Self.versionFollowing).contains(version) else {
            throw DecodingFailure(expected: "a session of version 1 to 5", found: "version \(version)")
        }
        let timeToLive = try reader.read(UInt64.self)
        let activeAt = try reader.read(LogTime.self)
        let activeIndex = try reader.read(LogIndex.self)
        self.init(
            id: SessionID(id), timeToLive: timeToLive, activeAt: activeAt, activeIndex: activeIndex, changed: changed,
            revision: revision)
        firstUnacknowledged = try reader.read()
        guard firstUnacknowledged >= 1, firstUnacknowledged <= SessionTable.Limits.sequenceMax else {
            throw DecodingFailure(expected: "a first call of 1 to 2^62", found: "\(firstUnacknowledged)")
        }
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: 31)
        for _ in 0..<count {
            let call = try reader.read(UInt64.self)
            guard call >= firstUnacknowledged + UInt64(answers.count),
                call - firstUnacknowledged < SessionTable.Limits.window
            else {
                throw DecodingFailure(
                    expected: "a call of the session's window, ascending", found: "call \(call) of session \(id)")
            }
            let slot = Slot(try reader.read(UInt16.self))
            let (index, revision) = (try reader.read(LogIndex.self), try reader.read(Revision.self))
            let kind = try reader.read(UInt8.self)
            let bytes = try reader.readBytesWithLength(limit: SessionTable.Limits.bodyBytesMax)
            let outcome: SessionAnswer.Outcome
            switch kind {
            case 0: outcome = .done(bytes.compacted())
            case 1: outcome = .doneWithoutBody
            case 2: outcome = .refused(try Refusal(decoding: bytes))
            default: throw DecodingFailure(expected: "an answer's outcome of 0 to 2", found: "\(kind)")
            }
            if isPlanted("answers-forgotten-at-restart") { continue }
            while firstUnacknowledged + UInt64(answers.count) < call { answers.append(nil) }
            let answer = SessionAnswer(index: index, slot: slot, revision: revision, outcome: outcome)
            bodyBytes += answer.bodyBytes
            answers.append(answer)
        }
        if version != Self.formatVersion { holdings = try Self.holdings(from: &reader) }
        isAdopted = version == Self.versionAdopted || version == Self.versionOwned
        followsSlots = version == Self.versionFollowing
        if version == Self.versionOwned {
            owner = try reader.read()
            guard owner != .none, owner != self.id else {
                throw DecodingFailure(expected: "another session that stands for \(id)", found: "\(owner)")
            }
        }
        try reader.expectEnd()
    }

    private static func holdings(from reader: inout ByteReader) throws(DecodingFailure) -> [SessionHolding] {
        let count = Int(try reader.read(UInt16.self))
        // More than `holdingsMax` where several slots came one after the other.
        try reader.check(count: count, ofSize: SessionHolding.encodedBytesMin)
        var holdings: [SessionHolding] = []
        for _ in 0..<count {
            let holding = try SessionHolding(from: &reader)
            guard holdings.last.map({ $0 < holding }) ?? true else {
                throw DecodingFailure(
                    expected: "what a session holds, ascending", found: "\(holding.name) out of order")
            }
            holdings.append(holding)
        }
        return holdings
    }
}
