// What clients do with arrays, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    /// Some are there, some were, and some will be.
    private func someID(of name: Bytes, _ random: inout SeededRandom) -> ArrayElementID {
        let last = model(groupOf(name)).arrays.lastID(name) + 2
        return ArrayElementID(last - random.below(min(last, random.below(2) == 0 ? 12 : 80)))
    }

    private func somePlace(in name: Bytes, _ random: inout SeededRandom) -> ArrayPlace {
        random.below(2) == 0 ? .index(random.below(30)) : .element(someID(of: name, &random))
    }

    private func somePoint(in name: Bytes, _ random: inout SeededRandom) -> ArrayPoint {
        switch random.below(6) {
        case 0: .index(random.below(30))
        case 1: .before(someID(of: name, &random))
        case 2: .behind(someID(of: name, &random))
        case 3: .index(0)
        default: .end
        }
    }

    func changeArray(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.arrays, &random)
        switch random.below(24) {
        case 0: return command(ArrayClear(name))
        case 1: return command(ArraySweep(name: name))
        case 2...4:
            switch random.below(3) {
            case 0: return command(ArrayTrim(name, keeping: .first(random.below(40))))
            case 1: return command(ArrayTrim(name, keeping: .last(random.below(40))))
            default:
                let first = random.below(10)
                return command(ArrayTrim(name, keeping: .range(first..<first + random.below(30))))
            }
        case 5:
            let first = random.below(20)
            return command(ArrayRemoveRange(name, first..<first + random.below(12)))
        case 6...9:
            return command(
                ArrayRemove(
                    name, somePlace(in: name, &random), if: someCondition(on: name, &random),
                    answersPrevious: random.below(2) == 0))
        case 10...14:
            return command(
                ArraySet(
                    name, somePlace(in: name, &random), someValue(&random), if: someCondition(on: name, &random),
                    answersPrevious: random.below(2) == 0))
        case 15:
            // More than fit into one node of its tree, in some.
            return command(
                ArrayInsert(
                    name, (0..<(1 + random.below(40))).map { Bytes("\($0)") }, at: somePoint(in: name, &random)))
        case 16 where random.below(3) == 0:
            let large = Bytes([UInt8](repeating: UInt8(random.below(256)), count: 4_100))
            return command(ArrayInsert(name, [large], at: somePoint(in: name, &random)))
        default:
            var values: [Bytes] = []
            for _ in 0...random.below(3) { values.append(someValue(&random)) }
            return command(ArrayInsert(name, values, at: somePoint(in: name, &random)))
        }
    }

    func read(
        array name: Bytes, _ consistency: Consistency, _ bound: UInt32, _ random: inout SeededRandom
    ) -> SimulatedRequest {
        switch random.below(6) {
        case 0:
            return query(ArrayCount(name), consistency, bound) { answer, model, index in
                let expected = model.arrays.items(name, at: index).count
                return answer.count == UInt64(expected) ? nil : "\(answer.count) elements, not \(expected)"
            }
        case 1:
            let id = someID(of: name, &random)
            return query(ArrayIndex(name, of: id), consistency, bound) { answer, model, index in
                let expected = model.arrays.items(name, at: index).firstIndex { $0.id == id.rawValue }
                return answer.index == expected.map { UInt64($0) }
                    ? nil : "\(id) at \(String(describing: answer.index)), not \(String(describing: expected))"
            }
        case 2, 3: return get(array: name, somePlace(in: name, &random), consistency, bound)
        default:
            return page(
                array: name, from: random.below(20), elementsMax: UInt32(1 + random.below(60)), consistency, bound)
        }
    }

    func get(
        array name: Bytes, _ place: ArrayPlace, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(ArrayGet(name, place), consistency, bound) { answer, model, index in
            let items = model.arrays.items(name, at: index)
            let expected =
                switch place {
                case .index(let index): index < items.count ? items[Int(index)] : nil
                case .element(let id): items.first { $0.id == id.rawValue }
                }
            return answer.element.map { Self.item($0) } == expected
                ? nil : "\(place): \(String(describing: answer.element)), not \(String(describing: expected))"
        }
    }

    private static func item(_ element: ArrayElement) -> ArrayModel.Item {
        ArrayModel.Item(
            id: element.id.rawValue,
            entry: DataTypeModel.Entry(value: element.value, revision: element.revision))
    }

    func page(
        array name: Bytes, from first: UInt64, elementsMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(ArrayPage(name, from: .index(first), elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            let items = model.arrays.items(name, at: index)
            let expected = Array(items.dropFirst(Int(first)).prefix(Int(min(elementsMax, 256))))
            guard answer.index == first, answer.count == UInt64(items.count),
                answer.elements.map({ Self.item($0) }) == expected
            else { return "a page of \(answer.elements.count) from \(first) of \(answer.count), not \(expected.count)" }
            return nil
        }
    }
}
