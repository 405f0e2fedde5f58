// Is a key's history one that a single copy could have produced? Wing and Gong's search (JPDC 1993) with Lowe's cache
// of
// visited configurations (2017), for a register with put, delete and get. Knows nothing of clusters.

import BifrostSimulator
import Primitives

/// One operation on one key. Unknown outcomes stay open for ever: `ended` is `.max`.
struct RegisterOperation {
    enum Kind: Hashable { case write(Bytes?), read(Bytes?) }
    var kind: Kind
    var called: UInt64
    var ended: UInt64
    var isKnown: Bool { ended != .max }
}

/// Searches an order of the operations in which each takes effect between its call and its end, and reads see the last
/// write.
struct RegisterChecker {
    private struct Configuration: Hashable {
        var done: [UInt64]
        var value: Int
    }

    /// Known operations by call, then the unknown ones by call.
    private var operations: [RegisterOperation]
    private var knownCount: Int
    /// Values by number, so that they compare cheaply; 0 is absent.
    private var value: [Int]
    /// Configurations looked at, as a bound on the time that a bad history takes.
    static let configurationsMax = 2_000_000

    init(_ history: [RegisterOperation]) {
        // A write of unknown outcome whose value nobody read is never needed: all else stands in the same order without
        // it.
        var seen: Set<Bytes> = []
        for operation in history { if case .read(let value?) = operation.kind { seen.insert(value) } }
        let needed = history.filter { operation in
            if operation.isKnown { return true }
            guard case .write(let value) = operation.kind else { return false }
            return value.map { seen.contains($0) } ?? true
        }
        let known = needed.filter(\.isKnown).sorted { ($0.called, $0.ended) < ($1.called, $1.ended) }
        operations = known + needed.filter { !$0.isKnown }.sorted { $0.called < $1.called }
        knownCount = known.count
        var numbers: [Bytes: Int] = [:]
        value = operations.map { operation in
            let bytes: Bytes? =
                switch operation.kind {
                case .write(let bytes): bytes;
                case .read(let bytes): bytes
                }
            guard let bytes else { return 0 }
            if let number = numbers[bytes] { return number }
            numbers[bytes] = numbers.count + 1
            return numbers.count
        }
    }

    /// Nil when there is such an order; else the operation that no order reaches.
    func violation() -> RegisterOperation? {
        guard knownCount > 0 else { return nil }
        let words = (operations.count + 63) / 64
        var done = [UInt64](repeating: 0, count: words)
        var current = 0
        var visited: Set<Configuration> = []
        /// Choices made: which operation, and the value before it.
        var path: [(operation: Int, before: Int, low: Int)] = []
        var low = 0
        var next = 0
        var deepest = 0
        func isDone(_ place: Int) -> Bool { done[place / 64] & 1 << UInt64(place % 64) != 0 }

        while true {
            while low < knownCount, isDone(low) { low += 1 }
            if low == knownCount { return nil }
            // Until when an operation may have been called to come next: the first end of those that are not done.
            var horizon = UInt64.max
            var place = low
            while place < knownCount, operations[place].called <= horizon {
                if !isDone(place) { horizon = min(horizon, operations[place].ended) }
                place += 1
            }
            var chosen: Int?
            var candidate = max(next, low)
            while candidate < operations.count {
                if operations[candidate].called > horizon {
                    if candidate >= knownCount { break }
                    candidate = knownCount
                    continue
                }
                if !isDone(candidate) {
                    let isPossible =
                        switch operations[candidate].kind {
                        case .write: true
                        case .read: value[candidate] == current
                        }
                    if isPossible {
                        let after = isWrite(candidate) ? value[candidate] : current
                        done[candidate / 64] |= 1 << UInt64(candidate % 64)
                        if visited.insert(Configuration(done: done, value: after)).inserted {
                            chosen = candidate
                            break
                        }
                        done[candidate / 64] &= ~(1 << UInt64(candidate % 64))
                    }
                }
                candidate += 1
            }
            if let chosen {
                path.append((chosen, current, low))
                deepest = max(deepest, low)
                if isWrite(chosen) { current = value[chosen] }
                next = 0
                continue
            }
            guard let last = path.popLast(), visited.count < Self.configurationsMax else {
                return operations[min(deepest, knownCount - 1)]
            }
            done[last.operation / 64] &= ~(1 << UInt64(last.operation % 64))
            current = last.before
            low = last.low
            next = last.operation + 1
        }
    }

    private func isWrite(_ place: Int) -> Bool {
        if case .write = operations[place].kind { true } else { false }
    }
}

/// Splits clients' operations by key and judges each key.
func linearizabilityViolation(of operations: [SimulatedOperation]) -> String? {
    var byKey: [Bytes: [RegisterOperation]] = [:]
    for operation in operations {
        let kind: RegisterOperation.Kind
        switch (operation.kind, operation.outcome) {
        case (_, .failed), (.get, .unknown): continue
        case (.get, .found(let value)): kind = .read(value)
        case (.put(let value), _): kind = .write(value)
        case (.delete, _): kind = .write(nil)
        case (.get, .done): continue
        }
        byKey[operation.key, default: []].append(
            RegisterOperation(kind: kind, called: operation.called, ended: operation.ended))
    }
    for key in byKey.keys.sorted() {
        guard let history = byKey[key], let stuck = RegisterChecker(history).violation() else { continue }
        let near = history.filter { $0.called <= stuck.ended && $0.ended >= stuck.called }
        let text = near.map { "  \($0.called)...\($0.ended == .max ? "?" : "\($0.ended)") \(short($0.kind))" }.joined(
            separator: "\n")
        return "\(key) is not linearizable around \(stuck.called) (\(short(stuck.kind))):\n\(text)"
    }
    return nil
}

private func short(_ kind: RegisterOperation.Kind) -> String {
    func name(_ value: Bytes?) -> String { value.map { String($0.string.prefix { $0 != " " }) } ?? "absent" }
    return switch kind {
    case .write(let value): "write \(name(value))"
    case .read(let value): "read \(name(value))"
    }
}
