// What clients do with maps and sets, and what they have to find there.

import DataTypes
import Messages
import Primitives
import StateMachines

extension DataTypeWorkload {
    func changeMap(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.maps, &random)
        let key = someKey(&random)
        switch random.below(20) {
        case 0: return command(MapClear(name))
        case 1:
            // Many at once, so that more than one step sweeps. Not in all of them, for the sake of snapshots.
            let first = random.below(40)
            return command(
                MapTransaction(
                    Self.maps[0],
                    then: (0..<(1 + random.below(20))).map { .put(Bytes("many \(first + $0)"), Bytes("\($0)")) }))
        case 2...5:
            var conditions: [MapTransaction.Condition] = []
            for _ in 0..<random.below(3) {
                guard let condition = someCondition(on: name, &random) else { continue }
                conditions.append(MapTransaction.Condition(someKey(&random), condition))
            }
            // One time to live in each: by its entry the model knows which one is over.
            var then: [MapTransaction.Operation] = [
                .put(key, someValue(&random), timeToLiveMillis: someTime(&random)), .get(someKey(&random)),
                .remove(someKey(&random)),
            ]
            if random.below(2) == 0 { then.append(.get(key)) }
            return command(
                MapTransaction(name, if: conditions, then: then, otherwise: [.get(key), .remove(someKey(&random))]))
        case 6...9:
            return command(
                MapRemove(name, key, if: someCondition(on: name, &random), answersPrevious: random.below(2) == 0))
        default:
            return command(
                MapPut(
                    name, key, someValue(&random), if: someCondition(on: name, &random),
                    timeToLiveMillis: someTime(&random), answersPrevious: random.below(2) == 0))
        }
    }

    func changeSet(random: inout SeededRandom) -> SimulatedRequest {
        let name = pick(Self.sets, &random)
        var elements: [Bytes] = []
        for _ in 0...random.below(3) { elements.append(someKey(&random)) }
        switch random.below(12) {
        case 0: return command(SetClear(name))
        case 1:
            let first = random.below(40)
            return command(SetAdd(Self.sets[0], (0..<(1 + random.below(20))).map { Bytes("many \(first + $0)") }))
        case 2, 3: return command(SetMove(elements[0], from: name, to: pick(Self.sets, &random)))
        case 4...6: return command(SetRemove(name, elements))
        default: return command(SetAdd(name, elements))
        }
    }

    func count(map name: Bytes, _ consistency: Consistency, _ bound: UInt32) -> SimulatedRequest {
        query(MapCount(name), consistency, bound) { answer, model, index in
            let expected = model.map(name, at: index).count
            return answer.count == UInt64(expected) ? nil : "\(answer.count) entries, not \(expected)"
        }
    }

    func get(
        map name: Bytes, _ keys: [Bytes], _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(MapGet(name, keys), consistency, bound) { answer, model, index in
            let map = model.map(name, at: index)
            return answer.entries == keys.map { map[$0]?.found } ? nil : "other entries than \(map.count) of the model"
        }
    }

    func page(
        map name: Bytes, from: Bytes, end: Bytes?, entriesMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(MapPage(name, from: from, end: end, entriesMax: entriesMax), consistency, bound) { answer, model, index in
            let map = model.map(name, at: index)
            guard answer.entries.count <= entriesMax else { return "\(answer.entries.count) of at most \(entriesMax)" }
            let keys = Self.range(map.keys.sorted(), from: from, end: answer.next ?? end)
            guard answer.entries.map(\.key) == keys, answer.entries.map(\.entry) == keys.map({ map[$0]?.found }) else {
                return "a page of \(answer.entries.count) entries up to \(answer.next ?? "the end"), not \(keys)"
            }
            return Self.problem(next: answer.next, behind: keys.last ?? from)
        }
    }

    private static func range(_ sorted: [Bytes], from: Bytes, end: Bytes?) -> [Bytes] {
        sorted.filter { key in key >= from && end.map { key < $0 } ?? true }
    }

    private static func problem(next: Bytes?, behind last: Bytes) -> String? {
        guard let next, next <= last else { return nil }
        return "the next page begins at \(next), behind \(last)"
    }

    func contains(
        set name: Bytes, _ elements: [Bytes], _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetContains(name, elements), consistency, bound) { answer, model, index in
            let set = model.set(name, at: index)
            return answer.isTrue == elements.map { set.contains($0) } ? nil : "\(answer.isTrue) of \(elements)"
        }
    }

    func page(
        set name: Bytes, from: Bytes, elementsMax: UInt32, _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetPage(name, from: from, end: nil, elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            guard answer.elements.count <= elementsMax else {
                return "\(answer.elements.count) of at most \(elementsMax)"
            }
            let elements = Self.range(model.set(name, at: index).sorted(), from: from, end: answer.next)
            guard answer.elements == elements else { return "\(answer.elements), not \(elements)" }
            return Self.problem(next: answer.next, behind: elements.last ?? from)
        }
    }

    func combine(
        _ combination: SetCombine.Combination, _ names: [Bytes], from: Bytes, elementsMax: UInt32,
        _ consistency: Consistency, _ bound: UInt32
    ) -> SimulatedRequest {
        query(SetCombine(combination, of: names, from: from, elementsMax: elementsMax), consistency, bound) {
            answer, model, index in
            let sets = names.map { model.set($0, at: index) }
            let others = sets.dropFirst()
            let combined =
                switch combination {
                case .union: others.reduce(sets[0]) { $0.union($1) }
                case .intersection: others.reduce(sets[0]) { $0.intersection($1) }
                case .difference: others.reduce(sets[0]) { $0.subtracting($1) }
                }
            let elements = Self.range(combined.sorted(), from: from, end: answer.next)
            guard answer.elements == elements else {
                return "the \(combination) of \(names): \(answer.elements), not \(elements)"
            }
            return Self.problem(next: answer.next, behind: elements.last ?? from)
        }
    }
}
