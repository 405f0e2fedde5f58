// What a group's leader says of the migrations in which its group is the target: a query of sub state machine 5, and its answer.

public import Messages
public import Primitives

/// Asks a group's leader how far the slots are that come to it.
///
/// `2 u8`
public struct MigrationsQuery: Message, Hashable {
    package static let number: UInt8 = 2

    public init() {}

    public func encode(into writer: inout ByteWriter) { writer.write(Self.number) }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let number = try reader.read(UInt8.self)
        guard number == Self.number else {
            throw DecodingFailure(expected: "a query about slots of kind \(Self.number)", found: "kind \(number)")
        }
    }
}

/// What a target's leader waits for. Numbers are part of the protocol.
public enum MigrationWait: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case nothing = 0
    /// Its question to the source's leader has no answer yet.
    case source = 1
    /// It may fetch no more for a moment.
    case pace = 2
    /// The source is asked to freeze the slots.
    case freeze = 3
    /// Both ends read all of the slots.
    case digest = 4
    /// It has said what is to be known, and waits for the map to show it; or it is the source's turn.
    case map = 5
    /// An entry of its own log.
    case log = 6
    /// It has not begun, or does not lead long enough.
    case beginning = 7

    public var description: String {
        switch self {
        case .nothing: "nothing"
        case .source: "the other group's answer"
        case .pace: "the limit of bytes per second"
        case .freeze: "the other group to freeze the slots"
        case .digest: "both groups to compare what they have"
        case .map: "the cluster's map"
        case .log: "its own log"
        case .beginning: "its leader to begin"
        }
    }
}

/// How far a target is with one migration, as its leader knows it: bytes and rounds since it began to lead.
public struct MigrationReport: Hashable, Sendable {
    public var id: MigrationID
    public var source: GroupID
    /// nil: it has not begun, or is done here.
    public var phase: MigrationTask.Phase?
    public var rounds: UInt32
    /// That it put into its log.
    public var bytes: UInt64
    /// Of the last round that is complete; 0 before.
    public var lastRoundBytes: UInt64
    /// While it fetched; 0: not known.
    public var bytesPerSecond: UInt64
    public var wait: MigrationWait

    public init(
        id: MigrationID, source: GroupID, phase: MigrationTask.Phase?, rounds: UInt32 = 0, bytes: UInt64 = 0,
        lastRoundBytes: UInt64 = 0, bytesPerSecond: UInt64 = 0, wait: MigrationWait = .beginning
    ) {
        self.id = id
        self.source = source
        self.phase = phase
        self.rounds = rounds
        self.bytes = bytes
        self.lastRoundBytes = lastRoundBytes
        self.bytesPerSecond = bytesPerSecond
        self.wait = wait
    }

    static let encodedBytes = 42
}

/// The answer; ascending by migration.
///
/// `count u32 | each: migration u64, source u32, phase u8 (0: none), rounds u32, bytes u64, last round u64, bytes per second
/// u64, wait u8`
public struct GroupMigrations: Message, Hashable {
    public var reports: [MigrationReport]

    public init(_ reports: [MigrationReport]) { self.reports = reports }

    public func encode(into writer: inout ByteWriter) {
        writer.write(UInt32(reports.count))
        for report in reports {
            writer.write(report.id)
            writer.write(report.source)
            writer.write(report.phase?.rawValue ?? 0)
            writer.write(report.rounds)
            writer.write(report.bytes)
            writer.write(report.lastRoundBytes)
            writer.write(report.bytesPerSecond)
            writer.write(report.wait.rawValue)
        }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let count = Int(try reader.read(UInt32.self))
        try reader.check(count: count, ofSize: MigrationReport.encodedBytes)
        reports = []
        for _ in 0..<count {
            let (id, source) = (try reader.read(MigrationID.self), try reader.read(GroupID.self))
            let phase = try reader.read(UInt8.self)
            guard phase == 0 || MigrationTask.Phase(rawValue: phase) != nil else {
                throw DecodingFailure(expected: "a migration's phase, 0 to 6", found: "\(phase)")
            }
            var report = MigrationReport(id: id, source: source, phase: MigrationTask.Phase(rawValue: phase))
            report.rounds = try reader.read()
            report.bytes = try reader.read()
            report.lastRoundBytes = try reader.read()
            report.bytesPerSecond = try reader.read()
            let wait = try reader.read(UInt8.self)
            guard let wait = MigrationWait(rawValue: wait) else {
                throw DecodingFailure(expected: "what a migration waits for, 0 to 7", found: "\(wait)")
            }
            report.wait = wait
            reports.append(report)
        }
    }
}
