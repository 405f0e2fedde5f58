import Primitives
import Testing

private func write(_ value: Bytes?, _ called: UInt64, _ ended: UInt64 = .max) -> RegisterOperation {
    RegisterOperation(kind: .write(value), called: called, ended: ended)
}
private func read(_ value: Bytes?, _ called: UInt64, _ ended: UInt64) -> RegisterOperation {
    RegisterOperation(kind: .read(value), called: called, ended: ended)
}

@Suite struct LinearizabilityCheckerTests {
    @Test func goodHistories() {
        #expect(RegisterChecker([]).violation() == nil)
        #expect(
            RegisterChecker([write("a", 0, 10), read("a", 11, 12), write(nil, 13, 14), read(nil, 15, 16)]).violation()
                == nil)
        // Concurrent writes may stand in either order, but all see the same one.
        #expect(
            RegisterChecker([write("a", 0, 10), write("b", 0, 10), read("a", 11, 12), read("a", 13, 14)]).violation()
                == nil)
        #expect(RegisterChecker([write("a", 0, 10), write("b", 0, 10), read("b", 11, 12)]).violation() == nil)
        // An unknown write may take effect much later, or never.
        #expect(
            RegisterChecker([write("a", 0, 1), write("b", 2), read("a", 10, 11), read("b", 12, 13)]).violation() == nil)
        #expect(RegisterChecker([write("a", 0, 1), write("b", 2), read("a", 10, 11)]).violation() == nil)
        #expect(
            RegisterChecker([write("a", 0, 1), write(nil, 2), read("a", 10, 11), read(nil, 12, 13)]).violation() == nil)
    }

    @Test func badHistories() {
        // A stale read, a lost write, a write that nobody wrote, a read from the future, a value that comes back.
        #expect(RegisterChecker([write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)]).violation() != nil)
        #expect(RegisterChecker([write("a", 0, 1), read(nil, 2, 3)]).violation() != nil)
        #expect(RegisterChecker([read("x", 0, 1)]).violation() != nil)
        #expect(RegisterChecker([read("a", 0, 1), write("a", 2, 3)]).violation() != nil)
        #expect(
            RegisterChecker([write("a", 0, 1), write("b", 2), read("b", 3, 4), read("a", 5, 6)]).violation() != nil)
        #expect(
            RegisterChecker([write("a", 0, 10), write("b", 0, 10), read("a", 11, 12), read("b", 13, 14)]).violation()
                != nil)
    }

    /// Every history of four operations over short intervals, against all permutations.
    @Test func smallHistoriesAgreeWithAllPermutations() {
        var random = SeededRandom(seed: 4)
        var bad = 0
        for _ in 0..<20_000 {
            let history = (0..<5).map { _ -> RegisterOperation in
                let called = random.below(8)
                let value: Bytes? = [nil, "a", "b"][Int(random.below(3))]
                if random.below(2) == 0 { return read(value, called, called + 1 + random.below(5)) }
                return write(value, called, random.below(4) == 0 ? .max : called + 1 + random.below(5))
            }
            let expected = hasOrder(history)
            if !expected { bad += 1 }
            #expect((RegisterChecker(history).violation() == nil) == expected, "\(history)")
        }
        #expect(bad > 1_000 && bad < 19_000)
    }

    private func hasOrder(_ left: [RegisterOperation], _ value: Bytes? = nil) -> Bool {
        if !left.contains(where: \.isKnown) { return true }
        let horizon = left.map(\.ended).min() ?? .max
        for (place, operation) in left.enumerated() where operation.called <= horizon {
            var rest = left
            rest.remove(at: place)
            switch operation.kind {
            case .write(let new): if hasOrder(rest, new) { return true }
            case .read(let seen): if seen == value, hasOrder(rest, value) { return true }
            }
        }
        return false
    }
}
