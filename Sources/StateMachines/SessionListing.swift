// What a group says of its sessions to whoever asks: a query of sub state machine 3, and its answer, in pages.

public import Messages
public import Primitives

/// The sessions of a group, ascending by id.
///
/// `1 u8 | from u64 | sessions u32`
public struct SessionQuery: Message, Hashable {
    /// The page begins here, this id included if there is one.
    public var from: SessionID
    /// Of a page. A server takes its own bound where it is lower, and one session always fits.
    public var sessionsMax: UInt32

    static let number: UInt8 = 1
    /// Of a page: some 27 KB.
    public static let pageSessionsMax = 512

    public init(from: SessionID = .none, sessionsMax: UInt32 = UInt32(pageSessionsMax)) {
        self.from = from
        self.sessionsMax = sessionsMax
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.number)
        writer.write(from)
        writer.write(sessionsMax)
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard number == Self.number else {
            throw DecodingFailure(expected: "a query about sessions of kind \(Self.number)", found: "kind \(number)")
        }
        from = try reader.read()
        sessionsMax = try reader.read()
    }
}

/// One session as its group has it.
public struct SessionStanding: Hashable, Sendable {
    public var id: SessionID
    /// Milliseconds of log time.
    public var timeToLive: UInt64
    /// The log time and the index of the entry that was its client's last word.
    public var activeAt: LogTime
    public var activeIndex: LogIndex
    /// The client asks for no answer below this call any more.
    public var firstUnacknowledged: UInt64
    /// From that one to the last that came.
    public var calls: UInt32
    /// Of these: the others have not come yet.
    public var answers: UInt32
    /// Of the answers' bodies.
    public var bytes: UInt32

    static let encodedBytes = 52

    public init(
        id: SessionID, timeToLive: UInt64, activeAt: LogTime, activeIndex: LogIndex, firstUnacknowledged: UInt64,
        calls: UInt32, answers: UInt32, bytes: UInt32
    ) {
        self.id = id
        self.timeToLive = timeToLive
        self.activeAt = activeAt
        self.activeIndex = activeIndex
        self.firstUnacknowledged = firstUnacknowledged
        self.calls = calls
        self.answers = answers
        self.bytes = bytes
    }

    /// Milliseconds until its leader may end it, at this log time; 0: it may now.
    public func left(at logTime: LogTime) -> UInt64 {
        let (deadline, isBeyond) = activeAt.rawValue.addingReportingOverflow(timeToLive)
        return isBeyond ? .max : deadline - min(deadline, logTime.rawValue)
    }
}

/// Some of a group's sessions, as they stood when it had applied the entry that the answer names.
///
/// `log time u64 | all u32 | has next u8 | next u64 | sessions u32 | each: id u64, time to live u64, active at u64, active
/// index u64, first unacknowledged u64, calls u32, answers u32, bytes u32`
public struct SessionPage: Message, Hashable {
    /// Of the replica that answers: a leader's runs on, any other's is that of the last entry applied.
    public var logTime: LogTime
    /// How many the group has.
    public var count: UInt32
    /// Ascending by id.
    public var sessions: [SessionStanding]
    /// Where the next page begins; nil: there is none.
    public var next: SessionID?

    public init(logTime: LogTime, count: UInt32, sessions: [SessionStanding], next: SessionID?) {
        self.logTime = logTime
        self.count = count
        self.sessions = sessions
        self.next = next
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(logTime)
        writer.write(count)
        writer.write(next != nil)
        writer.write(next ?? .none)
        writer.write(UInt32(sessions.count))
        for session in sessions {
            writer.write(session.id)
            writer.write(session.timeToLive)
            writer.write(session.activeAt)
            writer.write(session.activeIndex)
            writer.write(session.firstUnacknowledged)
            writer.write(session.calls)
            writer.write(session.answers)
            writer.write(session.bytes)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        logTime = try reader.read()
        count = try reader.read()
        let hasNext = try reader.readBool()
        let following = try reader.read(SessionID.self)
        next = hasNext ? following : nil
        let number = Int(try reader.read(UInt32.self))
        try reader.check(count: number, ofSize: SessionStanding.encodedBytes)
        sessions = []
        sessions.reserveCapacity(number)
        for _ in 0..<number {
            sessions.append(
                SessionStanding(
                    id: try reader.read(), timeToLive: try reader.read(), activeAt: try reader.read(),
                    activeIndex: try reader.read(), firstUnacknowledged: try reader.read(), calls: try reader.read(),
                    answers: try reader.read(), bytes: try reader.read()))
        }
    }
}

extension SessionTable {
    /// What `query` asks for.
    ///
    /// Cost: looks at all sessions and sorts those from there on: a millisecond if there are as many as there may be.
    public func page(_ query: SessionQuery, logTime: LogTime) -> SessionPage {
        let places = sessions.indices.filter { sessions[$0].id >= query.from }.sorted {
            sessions[$0].id < sessions[$1].id
        }
        let most = min(max(Int(query.sessionsMax), 1), SessionQuery.pageSessionsMax)
        return SessionPage(
            logTime: logTime, count: UInt32(sessions.count),
            sessions: places.prefix(most).map { SessionStanding(sessions[$0]) },
            next: places.count > most ? sessions[places[most]].id : nil)
    }
}

extension SessionStanding {
    init(_ session: Session) {
        self.init(
            id: session.id, timeToLive: session.timeToLive, activeAt: session.activeAt,
            activeIndex: session.activeIndex, firstUnacknowledged: session.firstUnacknowledged,
            calls: UInt32(session.answers.count), answers: UInt32(session.answers.count { $0 != nil }),
            bytes: UInt32(session.bodyBytes))
    }
}
