// What clients do with values and numbers, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    func changeValue(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.values, &random)
        let condition = someCondition(on: name, &random)
        if random.below(4) == 0 {
            return command(ValueDelete(name, if: condition, answersPrevious: random.below(2) == 0))
        }
        return command(
            ValueSet(
                name, someValue(&random), if: condition, timeToLiveMillis: someTime(&random),
                answersPrevious: random.below(2) == 0))
    }

    func changeNumber(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.numbers, &random)
        func numeral() -> Numeral {
            if random.below(8) == 0 { return .double(Double(random.below(100)) / 8) }
            if random.below(10) == 0 { return .integer(random.below(2) == 0 ? .max : .min) }
            return .integer(Int64(random.below(20)) - 5)
        }
        switch random.below(20) {
        case 0: return command(NumberDelete(name))
        case 1:
            return command(
                NumberBound(
                    name, lower: random.below(2) == 0 ? .integer(-Int64(random.below(200))) : nil,
                    upper: random.below(2) == 0 ? .integer(Int64(random.below(300))) : nil))
        default:
            let operations = NumberChange.Operation.allCases
            let operation: NumberChange.Operation =
                random.below(2) == 0 ? .add : operations[Int(random.below(UInt64(operations.count)))]
            return command(
                NumberChange(name, operation, numeral(), ifEqual: random.below(6) == 0 ? numeral() : nil))
        }
    }

    func get(value name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(ValueGet(name), consistency, bound) { answer, model, index in
            let expected = model.value(name, at: index)?.found
            return answer.entry == expected
                ? nil : "\(String(describing: answer.entry)), not \(String(describing: expected))"
        }
    }

    func get(number name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(NumberGet(name), consistency, bound) { answer, model, index in
            let expected = model.number(name, at: index)
            return answer.state == expected
                ? nil : "\(String(describing: answer.state)), not \(String(describing: expected))"
        }
    }
}
