// What the benchmark writes and reads of each type: keys and values, or one of the data types.

import ArgumentParser
import DataTypes
import Messages
import Primitives
import Ring
import StateMachines

enum BenchType: String, CaseIterable, ExpressibleByArgument, Sendable {
    case kv, value, number, map, set

    /// Of a map or set.
    private static let elementsOfObject = 1_000

    /// What lies in one slot with all that a key's operations touch.
    func object(of key: Int, _ name: Bytes) -> Bytes {
        switch self {
        case .kv, .value, .number: name
        case .map, .set: Bytes("~bench/\(rawValue) \(key / Self.elementsOfObject)")
        }
    }

    /// The command for a key's next version, whole; nil: it is a put of the key-value store.
    ///
    /// - Parameter value: of maps and values.
    func command(_ key: Int, _ name: Bytes, version: UInt32, value: Bytes) -> Bytes? {
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
        }
    }

    /// The question what a key has, and of which machine; nil: it is a get of the key-value store.
    func query(_ key: Int, _ name: Bytes) -> (machine: SubMachineNumber, payload: Bytes)? {
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
        }
    }

    /// Whether the answer is what a key has in this version.
    func isRight(_ result: DataResult, version: UInt32, value: Bytes) throws(DecodingFailure) -> Bool {
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
        }
        return version == 0 ? found == nil : found?.value == value
    }
}
