// Users' own state machines: what one is, what its commands and queries are, and what they answer. Owns no state and
// no bytes but those of a failure: what commands see is a `MachineContext`, what queries see is a `MachineView`.

public import Messages
public import Primitives

/// A state machine of a program that uses Bifrost: a name for a number, and the commands and queries that belong to it.
/// No value of it is ever made; an `enum` without cases is its usual form.
///
///     enum Inventory: StateMachine {
///         static let number = SubMachineNumber(1_024)
///         static let commands: [any MachineCommand<Inventory>.Type] = [Restock.self, Reserve.self]
///         static let queries: [any MachineQuery<Inventory>.Type] = [Stock.self]
///     }
///
/// Its state is records, keys with values, in the slots of its keys: as many inventories as there are tags, spread over
/// all groups of the cluster, each one in one group. Hosts are given the type (`HostConfiguration.machines`), programs
/// use it through `Cluster.machine(_:)`.
public protocol StateMachine: SendableMetatype {
    /// Stands in log entries and records: 1,024 to 65,535. It is never given to another machine in the same cluster, not
    /// even when this one is gone.
    static var number: SubMachineNumber { get }
    static var commands: [any MachineCommand<Self>.Type] { get }
    static var queries: [any MachineQuery<Self>.Type] { get }
}

extension StateMachine {
    public static var queries: [any MachineQuery<Self>.Type] { [] }
}

/// Something that is done to a state machine, once, in one order on all replicas.
///
/// It comes as bytes, as a `Message` writes and reads them. What it does may depend on its own values and on what
/// `MachineContext` gives, on nothing else: no clock, no chance but the context's, no order of a `Set` or `Dictionary`, no
/// global. Replicas that apply it otherwise have different states from then on. A number is never given to a command that
/// does something else: one that has to change gets another number, and hosts keep the old one as long as it may be in
/// logs.
public protocol MachineCommand<Machine>: Message {
    associatedtype Machine: StateMachine
    associatedtype Answer: Message
    /// Among the machine's commands; it stays what it is.
    static var number: UInt16 { get }
    /// Says what it is about: all records that the command reads and writes have keys with the same part in `{…}`, or this
    /// key itself. 1 to `Limits.keyBytesMax` bytes.
    var key: Bytes { get }
    /// What is to be read from disk before `apply`, all in one go; what it reads beside these is fetched one after the
    /// other, and `apply` begins anew each time. Only this group waits meanwhile.
    var readKeys: [Bytes] { get }
    /// Whether it makes the state grow. Hosts that are short of space refuse what does, and do the rest as long as they
    /// can.
    static var bringsDataIn: Bool { get }
    /// Whether its answer tells what was there. Then whoever sends it needs to be allowed to read, too, and not to write alone.
    static var tellsWhatIsThere: Bool { get }
    /// What it is about beside `key`, as users name it: who may do it with `key` alone may not do it. All within one slot.
    var furtherKeys: [Bytes] { get }
    /// Does it. All that it writes is there together, or, if it throws, nothing.
    ///
    /// - Throws: `MachineFailure`, which the caller gets as it is, each time he asks; and whatever the context threw.
    func apply(in context: inout MachineContext) throws -> Answer
}

extension MachineCommand {
    public var readKeys: [Bytes] { [key] }
    public static var bringsDataIn: Bool { true }
    public static var tellsWhatIsThere: Bool { true }
    public var furtherKeys: [Bytes] { [] }
}

/// A question to a state machine. It is not logged, changes nothing, and is answered beside commands and other queries.
public protocol MachineQuery<Machine>: Message {
    associatedtype Machine: StateMachine
    associatedtype Answer: Message
    /// Among the machine's queries.
    static var number: UInt16 { get }
    /// Says what it is about, as for commands.
    var key: Bytes { get }
    /// What it reads, to be looked up in one go; what it reads beside these is looked up one after the other, and `answer`
    /// begins anew each time, at most `MachineView.roundsMax` times.
    var readKeys: [Bytes] { get }
    /// What it is about beside `key`, as for commands.
    var furtherKeys: [Bytes] { get }
    /// Answers it, on any thread.
    ///
    /// - Throws: `MachineFailure`, which the caller gets as it is; and whatever the view threw.
    func answer(in view: inout MachineView) throws -> Answer
}

extension MachineQuery {
    public var readKeys: [Bytes] { [key] }
    public var furtherKeys: [Bytes] { [] }
}

/// Something that a machine tells whoever watches: emitted by commands (`MachineContext.emit`), seen in the order of the
/// group's revisions.
public protocol MachineEvent<Machine>: Message {
    associatedtype Machine: StateMachine
    /// Among the machine's events; it stays what it is.
    static var number: UInt16 { get }
    /// Says what it is about, as for commands: who watches this key, or its tag, sees it.
    var key: Bytes { get }
}

/// Why a command was not done, or a query has no answer: the machine's own word. A command that failed has changed
/// nothing.
///
/// `code u32 | text: length u32, bytes | details: length u32, bytes`
public struct MachineFailure: Error, Message, CustomStringConvertible {
    /// The machine's own below 2^31; those above are the framework's, and go without text and details.
    public var code: UInt32
    /// For people; `textBytesMax` bytes of UTF-8 of it are kept.
    public var text: String
    /// For programs; `detailsBytesMax` bytes of it are kept.
    public var details: Bytes

    public static let textBytesMax = 256
    public static let detailsBytesMax = 1_024

    public init(_ code: UInt32, _ text: String, details: Bytes = Bytes()) {
        self.code = code
        self.text = text
        self.details = details
    }

    /// What a failure of the framework is about. Its code is replicated, and no words: these may be others in another
    /// version.
    public enum Rule: UInt32, Sendable, CaseIterable {
        /// It threw an error that is no `MachineFailure`.
        case otherError = 0x8000_0000
        case keyElsewhere
        case badKey
        case valueTooLarge
        case writesTooMuch
        case readsTooMuch
        case answerTooLarge
        case emitsTooMuch
        case commandElsewhere
        case scheduledTooLarge
        case badDelay
        case needsSession
        case holdsTooMuch
    }

    /// The framework's; nil: it is the machine's own word.
    public var rule: Rule? { Rule(rawValue: code) }

    init(_ rule: Rule) { self.init(rule.rawValue, "") }

    /// Whatever a machine threw.
    init(any error: any Error) {
        guard let failure = error as? MachineFailure, failure.code < Rule.otherError.rawValue else {
            self.init(.otherError)
            return
        }
        self = failure
    }

    public var description: String {
        switch rule {
        case nil: "\(text) (\(code))"
        case .otherError?: "the machine threw an error that is no MachineFailure"
        case .keyElsewhere?:
            "a record's key has the same part in {…} as the request's own key, or it may lie elsewhere"
        case .badKey?: "a key has 1 to \(Limits.keyBytesMax) bytes"
        case .valueTooLarge?: "a value has at most \(Limits.valueBytesMax) bytes"
        case .writesTooMuch?:
            "a command writes at most \(MachineContext.Limits.writesMax) records and "
                + "\(MachineContext.Limits.writtenBytesMax) bytes"
        case .readsTooMuch?:
            "a request reads at most \(MachineContext.Limits.readsMax) times and "
                + "\(MachineContext.Limits.readBytesMax) bytes"
        case .emitsTooMuch?:
            "a command emits at most \(MachineContext.Limits.eventsMax) events of "
                + "\(MachineContext.Limits.eventBytesMax) bytes together"
        case .commandElsewhere?: "a machine schedules commands of its own only"
        case .scheduledTooLarge?:
            "a scheduled command has at most \(MachineContext.Limits.scheduledBytesMax) bytes"
        case .badDelay?:
            "a command is scheduled 1 to \(MachineContext.Limits.delayMillisMax) milliseconds ahead"
        case .needsSession?: "this needs a session, and the client or the cluster has none"
        case .holdsTooMuch?:
            "a session holds at most \(SessionTable.Limits.holdingsMax) objects of one group"
        case .answerTooLarge?: "an answer has at most \(MachineContext.Limits.answerBytesMax) bytes"
        }
    }

    public func encode(into writer: inout ByteWriter) {
        writer.write(code)
        let isOwn = code < Rule.otherError.rawValue
        writer.writeWithLength(isOwn ? text.cutToUTF8(Self.textBytesMax) : "")
        writer.writeWithLength(isOwn ? details[0..<min(details.count, Self.detailsBytesMax)] : Bytes())
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        code = try reader.read()
        text = try reader.readStringWithLength(limit: Self.textBytesMax)
        details = try reader.readBytesWithLength(limit: Self.detailsBytesMax)
    }
}

extension String {
    /// As much of it as has so many bytes, whole characters.
    fileprivate func cutToUTF8(_ bytesMax: Int) -> String {
        guard utf8.count > bytesMax else { return self }
        var cut = String.UnicodeScalarView()
        var bytes = 0
        for scalar in unicodeScalars {
            bytes += UTF8.width(scalar)
            if bytes > bytesMax { break }
            cut.append(scalar)
        }
        return String(cut)
    }
}

/// Nothing, as an answer. No bytes.
public struct Done: Message {
    public init() {}
    public func encode(into writer: inout ByteWriter) {}
    public init(from reader: inout ByteReader) throws(DecodingFailure) {}
}
