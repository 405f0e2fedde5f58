// The sessions of a group: who may ask for what he asked before, and get the same answer. Owns their windows, bounds and
// bytes; what a command does is other machines' affair, and when a session's time is over the leader's to propose.

import DequeModule
public import Messages
public import Primitives

/// What a command came to, as it is kept for whoever asks again.
public struct SessionAnswer: Hashable, Sendable {
    public enum Outcome: Hashable, Sendable {
        case done(Bytes)
        /// It took effect, and its answer was too large to be kept.
        case doneWithoutBody
        case refused(Refusal)
    }
    /// Of the command's entry.
    public var index: LogIndex
    /// Of the command's keys: who gets the slot needs the answers, too.
    public var slot: Slot
    public var revision: Revision
    public var outcome: Outcome

    public init(index: LogIndex, slot: Slot, revision: Revision, outcome: Outcome) {
        self.index = index
        self.slot = slot
        self.revision = revision
        self.outcome = outcome
    }
}

/// One client's session in one group.
struct Session: Hashable, Sendable {
    let id: SessionID
    /// Milliseconds of log time without a word from the client, after which it may be ended.
    var timeToLive: UInt64
    /// The log time and the index of the last entry that was a sign of life.
    var activeAt: LogTime
    var activeIndex: LogIndex
    /// Of the last entry that changed anything here.
    var changed: LogIndex
    var revision: Revision
    /// The client asks for no answer below this call any more.
    var firstUnacknowledged: UInt64 = 1
    /// From `firstUnacknowledged` on; nil: that call has not come yet.
    var answers: Deque<SessionAnswer?> = []
    /// Of the bodies that are kept.
    var bodyBytes = 0
    /// Ascending.
    var holdings: [SessionHolding] = []
    /// It came with slots from another group, and takes no calls: what was done in one of this number before is not known.
    var isAdopted = false
    /// Its client knows that slots move, and asks where what it holds has gone. What others hold keeps its slot here.
    var followsSlots = false
    /// Of one that came with slots: the session of the same client here that stands for it, and with which it lives and ends;
    /// none: nobody has said so yet.
    var owner = SessionID.none
    /// Those for which this one stands, ascending.
    var owned: [SessionID] = []
    /// How many answers there were at most since the memory for them was given back.
    var room = 0

    var deadline: LogTime { LogTime(activeAt.rawValue &+ timeToLive) }

    /// Forgets the answers below a call. Returns how many calls and bytes those were.
    mutating func acknowledge(through first: UInt64) -> (calls: Int, bytes: Int) {
        guard firstUnacknowledged < first else { return (0, 0) }
        var (calls, bytes) = (0, 0)
        while firstUnacknowledged < first, let answer = answers.popFirst() {
            firstUnacknowledged += 1
            calls += 1
            bytes += answer?.bodyBytes ?? 0
        }
        firstUnacknowledged = first
        bodyBytes -= bytes
        // Many sessions that were busy once must not keep the memory of then.
        if room > 256, answers.count * 4 < room {
            answers = Deque(Array(answers))
            room = answers.count
        }
        return (calls, bytes)
    }

    /// Keeps an answer. Returns by how many calls the window has grown.
    mutating func keep(_ answer: SessionAnswer, of sequence: UInt64) -> Int {
        bodyBytes += answer.bodyBytes
        let offset = Int(sequence - firstUnacknowledged)
        guard offset >= answers.count else {
            answers[offset] = answer
            return 0
        }
        let grown = offset + 1 - answers.count
        while answers.count < offset { answers.append(nil) }
        answers.append(answer)
        room = max(room, answers.count)
        return grown
    }

    mutating func touch(at index: LogIndex, _ revision: Revision, _ logTime: LogTime) {
        activeAt = max(activeAt, logTime)
        activeIndex = index
        changed = index
        self.revision = revision
    }
}

/// All sessions of a group. The same entries make the same sessions on every replica.
public struct SessionTable: Sendable {
    /// Bounds that decide are part of the format: all replicas must agree on them.
    public enum Limits {
        /// Calls of one session that may be without an acknowledged answer.
        public static let window: UInt64 = 4_096
        /// Of one answer's body, in bytes; of a larger one only the revision is kept.
        public static let bodyBytesMax = 4_096
        /// Of all bodies of a session.
        public static let sessionBytesMax = 262_144
        /// Of all bodies of a group.
        public static let groupBytesMax = 67_108_864
        /// Of a group, but for those that come with slots which they hold something in.
        public static let sessionsMax = 16_384
        static let restoredMax = 1 << 20
        /// Of all sessions of a group: calls from the first unacknowledged to the last that came. What one call brings
        /// may be beyond it by a window.
        public static let groupCallsMax = 1_048_576
        /// So many a session may have whatever others have.
        public static let callsMin: UInt64 = 16
        /// A call's number. No client gets there.
        public static let sequenceMax: UInt64 = 1 << 62
        /// So many bytes of memory an answer's body may take beside its own.
        static let slackMax = 64
        /// Of a refusal's text that is kept, in bytes.
        static let textMax = 64
        /// Milliseconds.
        public static let timeToLiveMin: UInt64 = 1_000
        public static let timeToLiveMax: UInt64 = 3_600_000
        /// Objects that a session holds, but for those that came with slots.
        public static let holdingsMax = 256
        /// Of such an object's name, in bytes.
        public static let holdingBytesMax = 1_024
    }

    /// In no order: who was restored from records may have another one. Nothing that is decided goes by it.
    var sessions: [Session] = []
    private var places: [SessionID: Int] = [:]
    var bodyBytes = 0
    var calls = 0
    /// Sessions that came with slots, or were taken over.
    private(set) var adopted = 0
    /// Nobody's time is over before. Owed to no entry: what finds it out is asked by leaders only.
    private var nobodyBefore = LogTime.zero
    /// Where the last one that was asked for stands.
    private var recent = 0

    init() {}

    /// Of the session that an entry opens. By its place in the log alone a late copy of the entry's command opens another
    /// one, in which nothing of the first is done again; by the client's number no other client's session gets the same id
    /// in a log that people let begin anew at an earlier index.
    public static func id(term: Term, index: LogIndex, nonce: UInt64) -> SessionID {
        let id = mix(mix(mix(nonce) ^ term.rawValue) ^ index.rawValue)
        return SessionID(id == SessionID.none.rawValue ? 1 : id)
    }

    /// As they stood in a manifest's records, in any order.
    init(restoring records: some Sequence<SessionRecord>) throws(DecodingFailure) {
        for record in records {
            guard let value = record.value else { continue }
            sessions.append(
                try Session(key: record.key, changed: record.changed, revision: record.revision, value: value))
        }
        for place in sessions.indices {
            guard places.updateValue(place, forKey: sessions[place].id) == nil else {
                throw DecodingFailure(expected: "each session once", found: "session \(sessions[place].id) twice")
            }
        }
        for place in sessions.indices { sessions[place].room = sessions[place].answers.count }
        try findOwned()
        guard sessions.count <= Limits.restoredMax else {
            throw DecodingFailure(expected: "at most \(Limits.restoredMax) sessions", found: "\(sessions.count)")
        }
        bodyBytes = sessions.reduce(0) { $0 + $1.bodyBytes }
        calls = sessions.reduce(0) { $0 + $1.answers.count }
        adopted = sessions.count { $0.isAdopted }
    }

    /// Those that something changed behind this entry, as records.
    func records(changedAfter index: LogIndex) -> [SessionRecord] {
        sessions.filter { $0.changed > index }.map {
            SessionRecord(
                key: Session.key(of: $0.id), changed: $0.changed, revision: $0.revision, value: $0.encoded())
        }
    }

    public var count: Int { sessions.count }

    /// Calls whose answers, or places for them, are kept.
    public var callCount: Int { calls }

    /// No other can be opened. Those that came with slots do not count: their clients need one here to take them over.
    public var isFull: Bool { sessions.count - adopted >= Limits.sessionsMax }

    func place(of id: SessionID) -> Int? {
        recent < sessions.count && sessions[recent].id == id ? recent : places[id]
    }

    // MARK: Calls

    /// Where a call stands.
    enum Standing {
        /// It is to be applied, and its answer kept.
        case new(place: Int)
        case answered(SessionAnswer)
        case refused(Refusal)
        /// There is no room for its answer. What it acknowledges counts all the same: see `noteRefused`.
        case full(place: Int, Refusal)
    }

    /// What is known of a call that is not to be applied any more.
    public enum Known: Sendable {
        case answered(SessionAnswer)
        /// Nobody can tell: why.
        case unknown(Refusal)
    }

    /// nil: it was never applied.
    public func answer(to header: CommandHeader) -> Known? {
        var copy = self
        switch copy.standing(of: header) {
        case .new, .full: return nil
        case .answered(let answer): return .answered(answer)
        case .refused(let refusal): return .unknown(refusal)
        }
    }

    mutating func standing(of header: CommandHeader) -> Standing {
        guard let place = place(of: header.session) else { return .refused(.sessionExpired) }
        recent = place
        guard !sessions[place].isAdopted else { return .refused(.sessionExpired) }
        guard header.sequence >= 1, header.sequence <= Limits.sequenceMax else {
            return .refused(.invalid("a call's number is 1 to 2^62, not \(header.sequence)"))
        }
        let first = max(sessions[place].firstUnacknowledged, header.firstUnacknowledged)
        guard header.sequence >= first else {
            return .refused(
                .invalid(
                    "call \(header.sequence) of session \(header.session) is below \(first), which is acknowledged"))
        }
        guard header.sequence - first < Limits.window else {
            return .refused(
                .invalid(
                    "call \(header.sequence) of session \(header.session) is beyond its window of \(Limits.window) from "
                        + "\(first) on"))
        }
        let offset = header.sequence - sessions[place].firstUnacknowledged
        // Compared as it came: whatever a client writes there, it is no place until it is found to be one.
        if offset < UInt64(sessions[place].answers.count), let answer = sessions[place].answers[Int(offset)],
            !isPlanted("repeated-command-done-again")
        {
            return .answered(answer)
        }
        // What it acknowledges makes room.
        let freed = min(UInt64(sessions[place].answers.count), first - sessions[place].firstUnacknowledged)
        guard calls - Int(freed) < Limits.groupCallsMax || header.sequence - first < Limits.callsMin else {
            return .full(
                place: place, .quotaExceeded("a group keeps the answers of \(Limits.groupCallsMax) calls"))
        }
        return .new(place: place)
    }

    /// Keeps a call's answer. `place` and `header` are those of its standing.
    ///
    /// - Returns: the answer as it is kept, but for its body; and what a digest has to know of what is kept.
    mutating func keep(
        _ answer: SessionAnswer, _ header: CommandHeader, at place: Int, logTime: LogTime
    ) -> (outcome: SessionAnswer.Outcome, mark: UInt64) {
        let given = answer.outcome
        acknowledge(through: header.firstUnacknowledged, at: place)
        var answer = answer
        if case .refused(let refusal) = answer.outcome { answer.outcome = .refused(refusal.shortened) }
        if case .done(let body) = answer.outcome, !body.isEmpty {
            if body.count > Limits.bodyBytesMax || sessions[place].bodyBytes + body.count > Limits.sessionBytesMax
                || bodyBytes + body.count > Limits.groupBytesMax
            {
                answer.outcome = .doneWithoutBody
            } else {
                // Not a slice of something larger that it would keep in memory.
                if body.storageBytes > body.count + Limits.slackMax { answer.outcome = .done(body.compacted()) }
            }
        }
        bodyBytes += answer.bodyBytes
        calls += sessions[place].keep(answer, of: header.sequence)
        touch(place, at: answer.index, answer.revision, logTime)
        if case .refused = answer.outcome { return (answer.outcome, answer.mark) }
        return (given, answer.mark)
    }

    /// A command that there was no room for: its client lives, and asks no more for what it acknowledges.
    mutating func noteRefused(
        _ header: CommandHeader, at place: Int, index: LogIndex, _ revision: Revision, _ logTime: LogTime
    ) {
        acknowledge(through: header.firstUnacknowledged, at: place)
        touch(place, at: index, revision, logTime)
    }

    /// A command that came again: its client lives, and asks no more for what it acknowledges.
    mutating func noteRepeated(_ header: CommandHeader, at index: LogIndex, _ revision: Revision, _ logTime: LogTime) {
        guard let place = place(of: header.session) else { return }
        acknowledge(through: header.firstUnacknowledged, at: place)
        touch(place, at: index, revision, logTime)
    }

    private mutating func acknowledge(through first: UInt64, at place: Int) {
        let freed = sessions[place].acknowledge(through: first)
        calls -= freed.calls
        bodyBytes -= freed.bytes
    }

    mutating func touch(_ place: Int, at index: LogIndex, _ revision: Revision, _ logTime: LogTime) {
        sessions[place].touch(at: index, revision, logTime)
    }

    /// A place's session holds an object, or lets go of it. No sign of life: others may have done that.
    mutating func noteHold(
        _ holding: SessionHolding, isHeld: Bool, at place: Int, index: LogIndex, _ revision: Revision
    ) {
        guard sessions[place].noteHold(holding, isHeld: isHeld) else { return }
        sessions[place].changed = index
        sessions[place].revision = revision
        // From now on it is no other's time that it lives for.
        if !isHeld, sessions[place].endsByItself { nobodyBefore = min(nobodyBefore, sessions[place].deadline) }
    }

    // MARK: Life

    mutating func open(
        _ id: SessionID, timeToLive: UInt64, followsSlots: Bool, at index: LogIndex, _ revision: Revision,
        _ logTime: LogTime
    ) -> Refusal? {
        guard !isFull else {
            return .quotaExceeded("a group has at most \(Limits.sessionsMax) sessions")
        }
        // One of some 2^50 or less.
        guard places[id] == nil else { return .unavailable("the session's number is another one's: open it again") }
        let place = insert(id, timeToLive: timeToLive, at: index, revision, logTime)
        sessions[place].followsSlots = followsSlots
        return nil
    }

    /// Returns the place of the session; one that is there stays.
    mutating func insert(
        _ id: SessionID, timeToLive: UInt64, at index: LogIndex, _ revision: Revision, _ logTime: LogTime,
        isAdopted: Bool = false
    ) -> Int {
        if let place = places[id] { return place }
        places[id] = sessions.count
        var session = Session(
            id: id, timeToLive: timeToLive, activeAt: logTime, activeIndex: index, changed: index, revision: revision)
        session.isAdopted = isAdopted
        if isAdopted { adopted += 1 }
        sessions.append(session)
        nobodyBefore = min(nobodyBefore, session.deadline)
        return sessions.count - 1
    }

    /// Notes a sign of life, and what is acknowledged with it. Returns those that are not there (any more): also those that
    /// only came with slots, as a client that has one of this number knows another, which is over.
    mutating func keepAlive(
        _ words: [SessionCommand.Life], at index: LogIndex, _ revision: Revision, _ logTime: LogTime
    ) -> [SessionID] {
        var missing: [SessionID] = []
        for word in words {
            guard let place = place(of: word.id), !sessions[place].isAdopted else {
                missing.append(word.id)
                continue
            }
            acknowledge(through: word.firstUnacknowledged, at: place)
            touch(place, at: index, revision, logTime)
        }
        return missing
    }

    /// The client of this session has said that it knows that slots move.
    mutating func noteFollowing(_ id: SessionID) {
        guard let place = place(of: id), !sessions[place].isAdopted else { return }
        sessions[place].followsSlots = true
    }

    /// Counts one more that takes no calls.
    mutating func noteAdopted() { adopted += 1 }

    /// Ends a session, whoever asks for it, but not those for which it stands. False: there is none.
    mutating func close(_ id: SessionID) -> Bool {
        guard let place = place(of: id) else { return false }
        if let owner = self.place(of: sessions[place].owner) { sessions[owner].owned.removeAll { $0 == id } }
        bodyBytes -= sessions[place].bodyBytes
        calls -= sessions[place].answers.count
        if sessions[place].isAdopted { adopted -= 1 }
        places[id] = nil
        // The last one takes its place.
        sessions.swapAt(place, sessions.count - 1)
        sessions.removeLast()
        if place < sessions.count { places[sessions[place].id] = place }
        return true
    }

    /// Those whose time was over when the entry was made, and that have given no sign of life since it was decided, each
    /// once: what an old leader proposes too late is void, and what it found out of one that another stands for by now.
    func over(_ expiries: [SessionCommand.Expiry], logTime: LogTime) -> [SessionID] {
        var over: [SessionID] = []
        var known: Set<SessionID> = []
        for expiry in expiries {
            guard let place = place(of: expiry.id),
                sessions[place].activeIndex == expiry.activeIndex && sessions[place].deadline <= logTime
                    && sessions[place].endsByItself || isPlanted("living-session-ended"),
                known.insert(expiry.id).inserted
            else { continue }
            over.append(expiry.id)
        }
        return over
    }

    /// Those whose time is over at `logTime`, and the index of their last sign of life.
    ///
    /// Cost: looks at all sessions, once in the time that the first of them has left.
    ///
    /// - Parameters:
    ///   - holdingsMax: of all of them together, but for one of them.
    ///   - ownership: who holds something in a slot that is on the move does not end.
    mutating func due(
        at logTime: LogTime, countMax: Int, holdingsMax: Int = .max, _ ownership: SlotOwnership = SlotOwnership()
    ) -> [SessionCommand.Expiry] {
        guard logTime >= nobodyBefore, !sessions.isEmpty else { return [] }
        var due: [SessionCommand.Expiry] = []
        var first = LogTime(.max)
        var holdings = 0
        for session in sessions where session.endsByItself {
            first = min(first, session.deadline)
            guard session.deadline <= logTime, due.count < countMax, !isHeldUp(session.id, by: ownership) else {
                continue
            }
            let count = holdingsCount(of: session)
            guard due.isEmpty || holdings + count <= holdingsMax else { continue }
            holdings += count
            due.append(SessionCommand.Expiry(id: session.id, activeIndex: session.activeIndex))
        }
        nobodyBefore = first
        return due
    }
}

extension Refusal {
    /// With as much of its text as is kept.
    fileprivate var shortened: Refusal {
        switch self {
        case .invalid(let text): .invalid(Self.shortened(text))
        case .tooLarge(let text): .tooLarge(Self.shortened(text))
        case .quotaExceeded(let text): .quotaExceeded(Self.shortened(text))
        case .unavailable(let text): .unavailable(Self.shortened(text))
        default: self
        }
    }

    /// Such texts are ASCII; of any other no part is kept that would have to be cut inside a character.
    private static func shortened(_ text: String) -> String {
        text.utf8.count <= SessionTable.Limits.textMax
            ? text
            : String(text.unicodeScalars.prefix(SessionTable.Limits.textMax).filter(\.isASCII).map(Character.init))
    }
}

extension SessionAnswer {
    /// Of what is kept beside numbers.
    var bodyBytes: Int {
        switch outcome {
        case .done(let body): body.count
        case .doneWithoutBody: 0
        case .refused(let refusal): refusal.encoded().count
        }
    }

    /// For the digest: what is given to whoever asks again.
    var mark: UInt64 {
        switch outcome {
        case .done(let body): UInt64(body.count) << 2
        case .doneWithoutBody: 1
        case .refused: 2
        }
    }
}
