// What somebody may have meant who mistyped a word. Pure.

package enum Nearest {
    /// The word that differs from `word` in the fewest letters, if that is few enough for a slip of the fingers.
    package static func word(to word: String, among words: [String]) -> String? {
        let bound = max(1, min(2, word.count / 3))
        let best = words.map { (distance: distance(word, $0), word: $0) }.min { $0.distance < $1.distance }
        if let best, best.distance <= bound { return best.word }
        // Or what was cut short, or has something behind it.
        let cut = words.filter { candidate in
            let shorter = min(candidate.count, word.count)
            return shorter >= 3 && candidate.prefix(shorter) == word.prefix(shorter)
        }
        return cut.count == 1 ? cut[0] : nil
    }

    /// Letters to insert, remove, replace, or swap with their neighbour, to make one of the other.
    package static func distance(_ left: String, _ right: String) -> Int {
        let (left, right) = (Array(left), Array(right))
        var earlier: [Int] = []
        var last = Array(0...right.count)
        for row in left.indices {
            var next = [row + 1]
            for column in right.indices {
                var cost = min(last[column + 1], next[column]) + 1
                cost = min(cost, last[column] + (left[row] == right[column] ? 0 : 1))
                if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
                    cost = min(cost, earlier[column - 1] + 1)
                }
                next.append(cost)
            }
            (earlier, last) = (last, next)
        }
        return last[right.count]
    }
}
