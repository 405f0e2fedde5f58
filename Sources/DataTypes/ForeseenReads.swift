// What the commands of values, numbers, maps and sets read: for who fetches it ahead.

package import Primitives
package import StateMachines

extension ValueSet: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes]? {
        let place = ObjectKey(name).record(ValueMachine.entry)
        return records.hasTimer(place) ? nil : records.missing(place)
    }
}

extension NumberChange: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes]? {
        records.missing(ObjectKey(name).record(NumberMachine.record))
    }
}

extension MapPut: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes]? {
        let missing = records.missing(name, [element])
        guard missing.isEmpty,
            let head = records.value(of: ObjectKey(name).record(), as: CollectionHead.self)
        else { return missing }
        return records.hasTimer(ObjectKey(name).element(element, of: head.generation)) ? nil : []
    }
}

extension SetAdd: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes]? { records.missing(named.name, named.elements) }
}

extension SetRemove: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes]? { records.missing(named.name, named.elements) }
}

extension ForeseenRecords {
    /// The deadline of what is there is read too.
    fileprivate func hasTimer(_ key: Bytes) -> Bool {
        bytes(of: key).flatMap { try? EntryRecord(decoding: $0) }?.timer != nil
    }

    /// Of a collection's head and elements. Of an empty one the elements can't be told: they are of a generation that
    /// begins with the command.
    fileprivate func missing(_ name: Bytes, _ elements: [Bytes]) -> [Bytes] {
        let key = ObjectKey(name)
        let head = key.record()
        if isElsewhere(head) { return [head] }
        guard let generation = value(of: head, as: CollectionHead.self)?.generation else { return [] }
        return missing(elements.map { key.element($0, of: generation) })
    }
}
