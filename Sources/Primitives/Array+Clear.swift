// Emptying buffers that are used again.

extension Array {
    /// Removes all and keeps the memory, at the cost of one look when nothing is there: for buffers of effects, which are
    /// emptied after each turn and mostly are empty.
    @inlinable package mutating func clear() { if !isEmpty { removeAll(keepingCapacity: true) } }

    /// Appends all to another buffer, and is empty afterwards. Where the other one is empty, the two are exchanged.
    @inlinable package mutating func move(to other: inout [Element]) {
        if isEmpty { return }
        if other.isEmpty { return swap(&self, &other) }
        other.append(contentsOf: self)
        removeAll(keepingCapacity: true)
    }
}
