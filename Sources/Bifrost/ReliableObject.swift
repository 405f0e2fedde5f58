// What the data types have in common as programs see them: a name, the way to its group, and what their failures mean.

public import DataTypes
import Messages
public import Primitives
import Ring
public import StateMachines

/// Something with the revision of its group at which it got there.
public struct Versioned<Value: Sendable>: Sendable {
    public var value: Value
    public var revision: Revision

    package init(_ value: Value, at revision: Revision) {
        self.value = value
        self.revision = revision
    }
}

extension Versioned: Equatable where Value: Equatable {}

/// What has commands that a fencing token can guard.
public protocol GuardableObject: Sendable {
    /// The same, but all its commands are done only while the token stands: else they throw `lockLost`, and nothing is
    /// changed. Where the lock's name has the same part in `{…}` as the object's, the token has to be held at that moment;
    /// else it must not be lower than any that its slot has seen of this lock. Cost: one record more to read, and where
    /// the lock is elsewhere, one to write with each new token.
    func guarded(by token: FencingToken) -> Self
}

extension FencingToken {
    /// What kind of object gave it.
    private var kind: String {
        switch machine {
        case LockMachine.number: "lock"
        case SemaphoreMachine.number: "semaphore"
        case ElectionMachine.number: "election"
        case LeaseMachine.number: "lease"
        case MembershipMachine.number: "membership"
        default: "object of machine \(machine)"
        }
    }

    /// The refusal of a command that it guarded, in words that name what it is of: the host's know of locks alone.
    func isOver(_ refusal: BifrostError) -> BifrostError {
        var refusal = refusal
        refusal.message = "\(kind) \(name): its token is over (\(number)); nothing was changed"
        return refusal
    }
}

/// An object of a cluster, by its name. The part of it in `{…}`, or all of it, says where it lives: objects with the same
/// part live together, each of them whole in one group.
struct ReliableObject: Sendable {
    let cluster: Cluster
    let name: Bytes
    /// Without which no command is done.
    var token: FencingToken?
    /// No token guards it, not that of all of a client's commands either.
    var isBare = false

    func guarded(by token: FencingToken) -> ReliableObject {
        ReliableObject(cluster: cluster, name: name, token: token)
    }

    /// For what gives back: that has to be done also when the token is over.
    var bare: ReliableObject { ReliableObject(cluster: cluster, name: name, isBare: true) }

    func submit<Command: MachineCommand>(
        _ command: Command, timeout: Duration?
    ) async throws(BifrostError) -> (answer: Command.Answer, revision: Revision) {
        try check()
        let (outcome, revision) = try await cluster.submit(
            MachineRequest(command), to: Command.Machine.number, guardedBy: token, isBare: isBare,
            timeout: timeout)
        return (try answer(outcome, isCommand: true), revision)
    }

    func query<Query: MachineQuery>(
        _ query: Query, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> (answer: Query.Answer, revision: Revision) {
        try check()
        let (outcome, revision) = try await cluster.query(
            MachineRequest(query), of: Query.Machine.number, consistency, timeout: timeout)
        return (try answer(outcome, isCommand: false), revision)
    }

    func problem() -> BifrostError? {
        guard name.isEmpty || name.count > ObjectLimits.nameBytesMax else { return nil }
        return BifrostError(
            name.isEmpty ? .invalid : .tooLarge,
            "an object's name has 1 to \(ObjectLimits.nameBytesMax) bytes, not \(name.count)")
    }

    private func check() throws(BifrostError) { if let problem = problem() { throw problem } }

    /// - Throws: `tooLarge`.
    func check(element: Bytes) throws(BifrostError) {
        guard element.count > ObjectLimits.elementBytesMax else { return }
        throw BifrostError(
            .tooLarge,
            "a map's key and a set's element have at most \(ObjectLimits.elementBytesMax) bytes, not \(element.count)")
    }

    /// - Throws: `tooLarge`.
    func check(value: Bytes) throws(BifrostError) {
        guard value.count > ObjectLimits.valueBytesMax else { return }
        throw BifrostError(
            .tooLarge, "a value has at most \(ObjectLimits.valueBytesMax) bytes, not \(value.count)")
    }

    private func answer<Answer: Message>(
        _ outcome: MachineOutcome, isCommand: Bool
    ) throws(BifrostError) -> Answer {
        switch outcome {
        case .answer(let body):
            do throws(DecodingFailure) { return try Answer(decoding: body) } catch {
                throw BifrostError(malformed: error, mayHaveHappened: isCommand)
            }
        case .failure(let failure):
            throw BifrostError(
                code(of: failure),
                "\(name): \(failure.text.isEmpty ? "\(failure)" : failure.text); nothing was changed",
                cause: failure)
        }
    }

    private func code(of failure: MachineFailure) -> BifrostError.Code {
        switch failure.code {
        case ObjectFailure.conditionFailed: .conditionFailed
        case ObjectFailure.overflow: .overflow
        case ObjectFailure.divisionByZero: .divisionByZero
        case ObjectFailure.outOfBounds: .outOfBounds
        case ObjectFailure.otherKind, ObjectFailure.otherSlot, ObjectFailure.tooManyPermits,
            ObjectFailure.badArgument:
            .invalid
        case ObjectFailure.noLimit, ObjectFailure.otherLimit: .conditionFailed
        case ObjectFailure.tooManyClaims, ObjectFailure.tooManyWaiters, ObjectFailure.tooManyMembers: .overloaded
        case ObjectFailure.noMembership, ObjectFailure.membersOnline, ObjectFailure.memberOnline,
            ObjectFailure.noLatch, ObjectFailure.otherRound:
            .conditionFailed
        case ObjectFailure.noIndex: .noIndex
        case ObjectFailure.noElement: .noElement
        default: .machineFailed
        }
    }

    /// - Throws: the stored bytes are none of `Value`.
    static func decoded<Value: Message>(_ entry: ObjectEntry) throws(BifrostError) -> Versioned<Value> {
        Versioned(try value(entry.value), at: entry.revision)
    }

    static func value<Value: Message>(_ bytes: Bytes) throws(BifrostError) -> Value {
        do throws(DecodingFailure) { return try Value(decoding: bytes) } catch { throw BifrostError(malformed: error) }
    }
}

extension BifrostError.Code {
    /// Of a number: the result is no 64-bit integer, or no finite double; nothing was changed.
    public static let overflow = BifrostError.Code(rawValue: "overflow")
    /// Of a number; nothing was changed.
    public static let divisionByZero = BifrostError.Code(rawValue: "divisionByZero")
    /// Of a number: the result lies outside of its bounds; nothing was changed.
    public static let outOfBounds = BifrostError.Code(rawValue: "outOfBounds")
}

extension BifrostError {
    /// Of a data type's `conditionFailed`: what was there instead.
    public var foundEntry: FoundEntry? {
        guard code == .conditionFailed, let failure = cause as? MachineFailure else { return nil }
        return try? FoundEntry(decoding: failure.details)
    }

    /// The same of a number.
    public var foundNumber: NumberFound? {
        guard let failure = cause as? MachineFailure, failure.rule == nil else { return nil }
        return try? NumberFound(decoding: failure.details)
    }
}
