// Emptying buffers that are used again.

extension Array {
    /// Removes all and keeps the memory, at the cost of one look when nothing is there: for buffers of effects, which are
    /// emptied after each turn and mostly are empty.
    @inlinable package mutating func clear() { if !isEmpty { removeAll(keepingCapacity: true) } }
}
