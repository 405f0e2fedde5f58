// The least of many keys, also of a range of them, while keys change one by one.

/// A winner tree (Knuth, The Art of Computer Programming, volume 3, 5.4.1) over numbered keys. Of equal keys the one
/// with the lower number wins; an infinite key never does. A change and a question cost O(log n).
///
/// Keys are quotients of whole numbers: one IEEE 754 division each, the same on every machine.
struct Tournament {
    private let width: Int
    private var keys: [Double]
    /// By node of the tree; -1: nobody.
    private var winners: [Int]

    init(_ keys: [Double]) {
        self.keys = keys
        var width = 1
        while width < keys.count { width *= 2 }
        self.width = width
        winners = Array(repeating: -1, count: 2 * width)
        for leaf in keys.indices where keys[leaf] < .infinity { winners[width + leaf] = leaf }
        for node in (1..<width).reversed() { winners[node] = better(winners[2 * node], winners[2 * node + 1]) }
    }

    mutating func set(_ leaf: Int, _ key: Double) {
        keys[leaf] = key
        var node = width + leaf
        winners[node] = key < .infinity ? leaf : -1
        node /= 2
        while node >= 1 {
            winners[node] = better(winners[2 * node], winners[2 * node + 1])
            node /= 2
        }
    }

    var count: Int { keys.count }
    func key(_ leaf: Int) -> Double { keys[leaf] }

    /// The number of the least key in the range.
    func least(in range: Range<Int>) -> Int? {
        var best = -1
        var left = range.lowerBound + width
        var right = range.upperBound + width
        while left < right {
            if left & 1 == 1 {
                best = better(best, winners[left])
                left += 1
            }
            if right & 1 == 1 {
                right -= 1
                best = better(best, winners[right])
            }
            left /= 2
            right /= 2
        }
        return best < 0 ? nil : best
    }

    func least() -> Int? { winners[1] < 0 ? nil : winners[1] }

    private func better(_ first: Int, _ second: Int) -> Int {
        if first < 0 { return second }
        if second < 0 { return first }
        if keys[first] != keys[second] { return keys[first] < keys[second] ? first : second }
        return min(first, second)
    }
}
