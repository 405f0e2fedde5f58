// What a large collection is measured with: elements that can be told from each other, the order in which they have to
// stand, and the times of operations together with what was wrong about their answers. Pure, but for the clock.

import Primitives
import RPC

/// The bytes of an element say which one it is.
enum MarkedElement {
    /// Number and version take a word, and so does a key.
    static let bytesMin = 16
    /// From here on: elements that are there for one call only.
    static let passing = 1 << 38
    private static let numberBits: UInt64 = 40

    /// `number 40 bits, version 24 bits | filler, which depends on both`
    static func value(_ number: Int, version: Int = 0, bytes: Int) -> Bytes {
        let word = UInt64(number) | UInt64(version) << numberBits
        return Bytes(count: bytes) { place in
            place.storeBytes(of: word.littleEndian, as: UInt64.self)
            var filler = mix(word)
            for offset in 8..<max(place.count, 8) {
                place[offset] = UInt8(truncatingIfNeeded: filler)
                filler = filler &>> 8 == 0 ? mix(word &+ UInt64(offset)) : filler &>> 8
            }
        }
    }

    /// nil: these are no bytes of an element.
    static func number(of value: Bytes) -> (number: Int, version: Int)? {
        guard value.count >= 8 else { return nil }
        let word = value.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) }
        let (number, version) = (Int(word & (1 << numberBits - 1)), Int(word >> numberBits))
        return self.value(number, version: version, bytes: value.count) == value ? (number, version) : nil
    }

    /// Eight bytes; numbers that follow each other lie far apart.
    static func key(_ number: Int) -> Bytes {
        Bytes(count: 8) { $0.storeBytes(of: mix(UInt64(number)).bigEndian, as: UInt64.self) }
    }
}

/// Which elements stand where, of a collection that keeps the order in which they came: however many there are, it has no
/// more to remember than the stretches in which their numbers follow each other.
package struct ElementOrder: Sendable {
    private struct Stretch {
        /// Of its first element, among all that ever came.
        var place: Int
        var number: Int
    }
    private var stretches: [Stretch] = []
    private var came = 0
    private var went = 0

    package init() {}

    package var count: Int { came - went }

    package mutating func append(_ numbers: Range<Int>) {
        guard !numbers.isEmpty else { return }
        let last = stretches.last.map { $0.number + came - $0.place }
        if last != numbers.lowerBound { stretches.append(Stretch(place: came, number: numbers.lowerBound)) }
        came += numbers.count
    }

    package mutating func removeFirst() { went += 1 }

    /// The number of the element at an index that is there.
    package func number(at index: Int) -> Int {
        let place = went + index
        var (low, high) = (0, stretches.count)
        while high - low > 1 {
            let middle = (low + high) / 2
            if stretches[middle].place <= place { low = middle } else { high = middle }
        }
        return stretches[low].number + place - stretches[low].place
    }
}

/// Operations one after the other: how long each took, and whether what it answered was right.
struct CollectionTrial {
    struct Row {
        var operation: String
        var nanoseconds: [UInt64]
    }

    /// In the order in which they came first.
    private var rows: [Row] = []
    private(set) var checked = 0
    private(set) var wrong = 0
    private(set) var firstWrong: String?

    mutating func time<Result>(_ operation: String, _ body: () async throws -> Result) async throws -> Result {
        let begin = RPCClock.now()
        let result = try await body()
        let time = RPCClock.now().since(begin)
        if let place = rows.firstIndex(where: { $0.operation == operation }) {
            rows[place].nanoseconds.append(time)
        } else {
            rows.append(Row(operation: operation, nanoseconds: [time]))
        }
        return result
    }

    mutating func check(_ isRight: Bool, _ what: @autoclosure () -> String) {
        checked += 1
        guard !isRight else { return }
        wrong += 1
        if firstWrong == nil { firstWrong = what() }
    }

    /// Those since the last time that it was asked for.
    mutating func take() -> [Row] {
        defer { rows = [] }
        return rows
    }
}
