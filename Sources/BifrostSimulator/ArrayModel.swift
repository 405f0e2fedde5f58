// Arrays as the rules know them: plain Swift arrays, to which each committed command is done once.

import DataTypes
import Messages
import Primitives
import StateMachines

/// All arrays of one group.
struct ArrayModel: WatchedModel {
    struct Item: Equatable {
        var id: UInt64
        var entry: DataTypeModel.Entry

        var found: ObjectEntry { entry.found }
    }

    private var arrays: [Bytes: DataTypeModel.Past<[Item]>] = [:]
    /// Given to elements so far.
    private var lastIDs: [Bytes: UInt64] = [:]
    /// Trims that cut something off, and arrays that were emptied.
    private(set) var trimmed = 0
    private(set) var cleared = 0
    var events: [ObjectEvent] = []

    func items(_ name: Bytes, at index: LogIndex) -> [Item] { arrays[name]?.state(at: index) ?? [] }
    func lastID(_ name: Bytes) -> UInt64 { lastIDs[name] ?? 0 }

    /// Those with such names are here no longer: their elements, and how many ids were given to some.
    mutating func takeArrays(
        at index: LogIndex, where isMeant: (Bytes) -> Bool
    ) -> [Bytes: (items: [Item], lastID: UInt64)] {
        var taken: [Bytes: (items: [Item], lastID: UInt64)] = [:]
        for name in lastIDs.keys.filter(isMeant) {
            taken[name] = (arrays[name]?.now ?? [], lastID(name))
            arrays[name]?.become([], at: index)
            lastIDs[name] = nil
        }
        return taken
    }

    mutating func insert(_ moved: [Bytes: (items: [Item], lastID: UInt64)], at index: LogIndex) {
        for (name, array) in moved {
            arrays[name, default: DataTypeModel.Past([])].become(array.items, at: index)
            lastIDs[name] = array.lastID
        }
    }

    /// What a command comes to: its answer, or why it fails.
    ///
    /// - Throws: it is none, or not modelled.
    mutating func apply(_ request: MachineRequest, at index: LogIndex, _ revision: Revision) throws -> Bytes {
        let name = request.key
        var items = arrays[name]?.now ?? []
        let before = items
        defer { if items != before { arrays[name, default: DataTypeModel.Past([])].become(items, at: index) } }
        switch request.number {
        case ArrayInsert.number:
            let command = try ArrayInsert(decoding: request.body)
            let place = try place(of: command.point, in: items)
            let first = lastID(name) + 1
            lastIDs[name] = lastID(name) + UInt64(command.values.count)
            let new = command.values.enumerated().map { number, value in
                Item(id: first + UInt64(number), entry: DataTypeModel.Entry(value: value, revision: revision))
            }
            items.insert(contentsOf: new, at: place)
            for (number, item) in new.enumerated() {
                tell(.put, item.id, .inserted(at: UInt64(place + number), item.entry.value))
            }
            return ArrayInsert.Answer(
                index: UInt64(place), ids: first..<first + UInt64(new.count), count: UInt64(items.count)
            ).encoded()
        case ArraySet.number:
            let command = try ArraySet(decoding: request.body)
            let place = try place(of: command.place, in: items)
            let old = items[place]
            guard command.condition?.isTrue(of: old.entry) ?? true else { throw Self.failure(.conditionFailed) }
            items[place].entry = DataTypeModel.Entry(value: command.value, revision: revision)
            tell(.put, old.id, .set(at: UInt64(place), command.value))
            return found(old, at: place, hasValue: command.answersPrevious)
        case ArrayRemove.number:
            let command = try ArrayRemove(decoding: request.body)
            let place = try place(of: command.place, in: items)
            guard command.condition?.isTrue(of: items[place].entry) ?? true else {
                throw Self.failure(.conditionFailed)
            }
            let old = items.remove(at: place)
            tell(.deleted, old.id, .removed(at: UInt64(place)))
            return found(old, at: place, hasValue: command.answersPrevious)
        case ArrayRemoveRange.number:
            let range = try range(try ArrayRemoveRange(decoding: request.body).range, in: items)
            for item in items[range] { tell(.deleted, item.id, .removed(at: UInt64(range.lowerBound))) }
            items.removeSubrange(range)
            return ObjectCount(UInt64(range.count)).encoded()
        case ArrayTrim.number:
            let kept: Range<Int>
            switch try ArrayTrim(decoding: request.body).kept {
            case .range(let range): kept = try self.range(range, in: items)
            case .first(let count): kept = items.prefix(Int(clamping: count)).indices
            case .last(let count): kept = items.suffix(Int(clamping: count)).indices
            }
            items = Array(items[kept])
            if items.isEmpty {
                tellCleared(before)
            } else if items.count < before.count {
                trimmed += 1
                let change = ArrayChange.trimmed(to: UInt64(kept.lowerBound)..<UInt64(kept.upperBound))
                events.append(ObjectEvent(.deleted, part: Self.elements, value: change.encoded()))
            }
            return ObjectCount(UInt64(before.count - items.count)).encoded()
        case ArrayClear.number:
            if !items.isEmpty { cleared += 1 }
            tellCleared(items)
            items = []
            return ObjectCount(UInt64(before.count)).encoded()
        // Nobody sees what it does.
        case ArraySweep.number: return Done().encoded()
        default: throw MachineFailure(0, "command \(request.number) of arrays is not modelled")
        }
    }

    private static let elements: UInt8 = 1

    private mutating func tell(_ kind: Change.Kind, _ id: UInt64, _ change: ArrayChange) {
        events.append(ObjectEvent(kind, part: Self.elements, number: id, value: change.encoded()))
    }

    private mutating func tellCleared(_ before: [Item]) {
        if !before.isEmpty { events.append(ObjectEvent(.cleared, part: Self.elements)) }
    }

    private enum Reason { case noIndex, noElement, conditionFailed }

    private static func failure(_ reason: Reason) -> MachineFailure {
        switch reason {
        case .noIndex: MachineFailure(ObjectFailure.noIndex, "")
        case .noElement: MachineFailure(ObjectFailure.noElement, "")
        case .conditionFailed: MachineFailure(ObjectFailure.conditionFailed, "")
        }
    }

    private func place(of id: ArrayElementID, in items: [Item]) throws(MachineFailure) -> Int {
        guard let place = items.firstIndex(where: { $0.id == id.rawValue }) else { throw Self.failure(.noElement) }
        return place
    }

    private func place(of place: ArrayPlace, in items: [Item]) throws(MachineFailure) -> Int {
        switch place {
        case .index(let index):
            guard index < items.count else { throw Self.failure(.noIndex) }
            return Int(index)
        case .element(let id): return try self.place(of: id, in: items)
        }
    }

    private func place(of point: ArrayPoint, in items: [Item]) throws(MachineFailure) -> Int {
        switch point {
        case .index(let index):
            guard index <= items.count else { throw Self.failure(.noIndex) }
            return Int(index)
        case .before(let id): return try place(of: id, in: items)
        case .behind(let id): return try place(of: id, in: items) + 1
        case .end: return items.count
        }
    }

    private func range(_ range: Range<UInt64>, in items: [Item]) throws(MachineFailure) -> Range<Int> {
        guard range.upperBound <= items.count else { throw Self.failure(.noIndex) }
        return Int(range.lowerBound)..<Int(range.upperBound)
    }

    private func found(_ item: Item, at place: Int, hasValue: Bool) -> Bytes {
        ArrayFound(
            index: UInt64(place), id: item.id, previous: PreviousEntry(item.found, hasValue: hasValue)
        ).encoded()
    }
}
