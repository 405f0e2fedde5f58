// What the benchmark writes and reads of each type: keys and values, or one of the data types.

import ArgumentParser
import DataTypes
import Messages
import Primitives
import Ring
import StateMachines

enum BenchType: String, CaseIterable, ExpressibleByArgument, Sendable {
    case kv, value, number, map, set, array, queue, lock

    /// Keys that a map, set, array or queue has to do with.
    static let keysOfObject = 1_000

    /// What lies in one slot with all that a key's operations touch.
    func object(of key: Int, _ name: Bytes) -> Bytes {
        switch self {
        case .kv, .value, .number, .lock: name
        case .map, .set, .array, .queue: Bytes("~bench/\(rawValue) \(key / Self.keysOfObject)")
        }
    }

    /// What is counted as one operation that writes: always one command.
    var operation: String {
        switch self {
        case .kv: "a put of the plain store"
        case .value: "a set of a value"
        case .number: "an addition of 1 to a number"
        case .map: "a put of an entry"
        case .set: "an add or a remove of an element, in turn"
        case .array: "an append of one value"
        case .queue: "a push or a takeAndAck of one item, in turn"
        case .lock: "an acquire (without a wait) or a release of a lock, in turn"
        }
    }

    /// Keys of a group that may be written at a time: a session holds so many locks of one group, and no more.
    var lanesOfGroupMax: Int { self == .lock ? SessionTable.Limits.holdingsMax / 2 : .max }

    /// A key's next command follows at once: what is got in this version is given back in the next one.
    func isHalfDone(version: UInt32) -> Bool { self == .lock && version % 2 == 1 }

    /// The command for a key's next version, whole; nil: it is a put of the key-value store.
    ///
    /// - Parameters:
    ///   - value: of values, maps, arrays and queues.
    ///   - mark: what the answer to the version before said (`mark(of:version:)`).
    func command(_ key: Int, _ name: Bytes, version: UInt32, value: Bytes, mark: UInt64) -> Bytes? {
        func payload<Command: MachineCommand>(_ command: Command) -> Bytes {
            MachineRequest(command).payload(machine: Command.Machine.number)
        }
        let object = object(of: key, name)
        switch self {
        case .kv: return nil
        case .value: return payload(ValueSet(object, value))
        case .number: return payload(NumberChange(object, .add, .integer(1)))
        case .map: return payload(MapPut(object, name, value))
        case .set: return version % 2 == 1 ? payload(SetAdd(object, [name])) : payload(SetRemove(object, [name]))
        case .array: return payload(ArrayInsert(object, [value]))
        case .queue:
            return version % 2 == 1
                ? payload(QueuePush(object, [ObjectQueue.Push(value)])) : payload(QueueTakeAndAck(object, 1))
        case .lock:
            return version % 2 == 1
                ? payload(PermitAcquire<LockMachine>(object))
                : payload(PermitRelease<LockMachine>(object, token: mark))
        }
    }

    /// What an array, a queue or a lock answered to a key's command.
    ///
    /// - Returns: what later operations with the key need to know of it: the element's id, or the lock's token.
    /// - Throws: it was not done.
    func mark(of answer: Bytes, version: UInt32) throws -> UInt64 {
        let outcome = try MachineOutcome(decoding: try DataResult(decoding: answer).body)
        let body: Bytes
        switch outcome {
        case .answer(let bytes): body = bytes
        case .failure(let failure): throw failure
        }
        switch self {
        case .kv, .value, .number, .map, .set: return 0
        case .array: return try ArrayInsert.Answer(decoding: body).first.rawValue
        case .queue where version % 2 == 1:
            guard try QueuePushed(decoding: body).pushed.count == 1 else { throw NotDone("nothing was pushed") }
            return 0
        case .queue:
            guard try QueueTaken(decoding: body).taken.deliveries.count == 1 else { throw NotDone("nothing was taken") }
            return 0
        case .lock where version % 2 == 1:
            let answer = try PermitAnswer(decoding: body)
            guard answer.state == .granted else { throw NotDone("the lock was not granted") }
            return answer.token
        case .lock:
            guard try Bool(decoding: body) else { throw NotDone("the lock was not held any more") }
            return 0
        }
    }

    /// Why a command's answer is none that it should have.
    private struct NotDone: Error, CustomStringConvertible {
        let description: String
        init(_ description: String) { self.description = description }
    }

    /// The question what a key has, and of which machine; nil: it is a get of the key-value store.
    func query(_ key: Int, _ name: Bytes, mark: UInt64) -> (machine: SubMachineNumber, payload: Bytes)? {
        func asked<Query: MachineQuery>(_ query: Query) -> (SubMachineNumber, Bytes) {
            (Query.Machine.number, MachineRequest(query).encoded())
        }
        let object = object(of: key, name)
        switch self {
        case .kv: return nil
        case .value: return asked(ValueGet(object))
        case .number: return asked(NumberGet(object))
        case .map: return asked(MapGet(object, [name]))
        case .set: return asked(SetContains(object, [name]))
        case .array: return asked(ArrayGet(object, .element(ArrayElementID(mark))))
        case .queue: return asked(QueueCount(object))
        case .lock: return asked(PermitList<LockMachine>(object))
        }
    }

    /// Whether the answer is what a key has in this version.
    ///
    /// - Parameter items: how many its queue has.
    func isRight(
        _ result: DataResult, version: UInt32, value: Bytes, items: ClosedRange<Int>
    ) throws(DecodingFailure) -> Bool {
        guard self != .kv else {
            switch try KeyValueReading(decoding: result.body) {
            case .absent: return version == 0
            case .found(let found, _, _): return version > 0 && found == value
            }
        }
        guard case .answer(let body) = try MachineOutcome(decoding: result.body) else { return false }
        let found: ObjectEntry?
        switch self {
        case .kv, .value: found = try PossibleEntry(decoding: body).entry
        case .map: found = try MapGet.Answer(decoding: body).entries.first ?? nil
        case .number:
            let number = try NumberFound(decoding: body).state?.value
            return number == (version == 0 ? nil : .integer(Int64(version)))
        case .set: return try SetAnswer(decoding: body).isTrue == [version % 2 == 1]
        case .array:
            let element = try ArrayGet.Answer(decoding: body).element
            return version == 0 || element?.value == value
        case .queue: return items.contains(Int(clamping: try QueueCounts(decoding: body).ready))
        case .lock: return try PermitListing(decoding: body).out == (version % 2 == 1 ? 1 : 0)
        }
        return version == 0 ? found == nil : found?.value == value
    }
}
