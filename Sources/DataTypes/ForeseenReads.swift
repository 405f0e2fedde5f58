// What the commands of values, numbers, maps and sets read: for who fetches it ahead.

package import Primitives
package import StateMachines

extension ValueSet: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes] {
        records.missing(ObjectKey(name).record(ValueMachine.entry))
    }
}

extension NumberChange: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes] {
        records.missing(ObjectKey(name).record(NumberMachine.record))
    }
}

extension MapPut: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes] { records.missing(name, [element]) }
}

extension SetAdd: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes] { records.missing(named.name, named.elements) }
}

extension SetRemove: ForeseeingCommand {
    package func missing(in records: ForeseenRecords) -> [Bytes] { records.missing(named.name, named.elements) }
}

extension ForeseenRecords {
    /// Of a collection's head and elements. Of an empty one only the head is read: none has elements of a generation that
    /// begins now.
    fileprivate func missing(_ name: Bytes, _ elements: [Bytes]) -> [Bytes] {
        let key = ObjectKey(name)
        let head = key.record()
        if isElsewhere(head) { return [head] }
        guard let generation = value(of: head, as: CollectionHead.self)?.generation else { return [] }
        return missing(elements.map { key.element($0, of: generation) })
    }
}
