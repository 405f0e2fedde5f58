// Records in a dictionary, for structures of records: counts what a command costs.

import DataTypes
import Messages
import Primitives

struct DictionarySpace: RecordSpace {
    var records: [Bytes: Bytes] = [:]
    var reads = 0
    var writes = 0
    var writtenBytes = 0
    var readBytes = 0
    /// Requests for records that stand behind one another: where nothing is in memory, each is a wait.
    var rounds = 0

    mutating func value(of key: Bytes) -> Bytes? {
        rounds += 1
        return read(key)
    }

    mutating func values(of keys: [Bytes]) -> [Bytes?] {
        rounds += 1
        return keys.map { read($0) }
    }

    private mutating func read(_ key: Bytes) -> Bytes? {
        reads += 1
        let found = records[key]
        readBytes += found?.count ?? 0
        return found
    }

    mutating func set(_ key: Bytes, to value: Bytes) {
        writes += 1
        writtenBytes += key.count + value.count
        records[key] = value
    }

    mutating func remove(_ key: Bytes) {
        writes += 1
        writtenBytes += key.count
        records[key] = nil
    }

    mutating func beginCommand() { (reads, writes, writtenBytes, readBytes, rounds) = (0, 0, 0, 0, 0) }

    /// Keeps the largest of what commands cost.
    mutating func endCommand(_ most: inout Cost) {
        most.reads = max(most.reads, reads)
        most.writes = max(most.writes, writes)
        most.bytes = max(most.bytes, writtenBytes)
        most.rounds = max(most.rounds, rounds)
        most.commands += 1
        most.allReads += reads
        most.allWrites += writes
    }
}

/// The records of a dictionary but for one; what is written to it is counted and forgotten.
struct DamagedSpace: RecordSpace {
    var records: [Bytes: Bytes]
    var key: Bytes
    var damaged: Bytes?
    var reads = 0

    mutating func value(of key: Bytes) -> Bytes? {
        reads += 1
        return key == self.key ? damaged : records[key]
    }
    mutating func set(_ key: Bytes, to value: Bytes) {}
    mutating func remove(_ key: Bytes) {}
}

struct Cost: CustomStringConvertible {
    var (reads, writes, bytes, rounds, commands, allReads, allWrites) = (0, 0, 0, 0, 0, 0, 0)

    var description: String {
        let all = max(commands, 1)
        return """
            at most \(reads) reads in \(rounds) rounds, \(writes) writes of \(bytes) bytes; on average \
            \((allReads * 10 / all).tenths) reads, \((allWrites * 10 / all).tenths) writes
            """
    }
}

extension Int {
    fileprivate var tenths: String { "\(self / 10).\(self % 10)" }
}

extension SeededRandom {
    mutating func below(_ bound: Int) -> Int { bound > 0 ? Int(below(UInt64(bound))) : 0 }
    mutating func isOne(of many: Int) -> Bool { below(many) == 0 }
}

/// What a walk over all nodes of a tree found.
struct TreeWalk {
    var entries: [UInt64] = []
    /// Keys of all records that belong to it.
    var records: Set<Bytes> = []
    var problems: [String] = []

    init(
        _ root: RecordTreeRoot, _ order: RecordTree.Order, nodes: RecordPrefix, places: RecordPrefix? = nil,
        in records: [Bytes: Bytes]
    ) {
        guard root.height > 0 else {
            if root.count != 0 || root.root != 0 { problems.append("an empty tree with \(root)") }
            return
        }
        func visit(
            _ id: UInt64, level: Int, parent: UInt64, isFirst: Bool, isLast: Bool, bounds: ClosedRange<UInt64>
        ) -> UInt64 {
            let key = nodes.record(id)
            guard let bytes = records[key], let node = try? RecordTreeNode(decoding: bytes) else {
                problems.append("node \(id) is not there")
                return 0
            }
            self.records.insert(key)
            if bytes.count > 1_024 { problems.append("node \(id) has \(bytes.count) bytes") }
            let most = RecordTreeNode.itemsMax(level: node.level)
            let least = level == Int(root.height) - 1 && level > 0 ? 2 : isFirst || isLast ? 1 : most / 4
            if !(least...most).contains(node.items.count) {
                problems.append("node \(id) of level \(level) has \(node.items.count) items")
            }
            if Int(node.level) != level || node.order != order { problems.append("node \(id) is of another kind") }
            if order == .positional, node.parent != parent { problems.append("node \(id) has parent \(node.parent)") }
            if level == 0 {
                entries += node.items
                if order == .sorted, !node.items.allSatisfy(bounds.contains) {
                    problems.append("leaf \(id) has keys outside of \(bounds)")
                }
                if let places {
                    for entry in node.items {
                        let place = places.record(entry)
                        self.records.insert(place)
                        var writer = ByteWriter()
                        writer.write(id)
                        if records[place] != writer.take() { problems.append("entry \(entry) is not in \(id)") }
                    }
                }
                return UInt64(node.items.count)
            }
            var sum: UInt64 = 0
            for slot in node.items.indices {
                var below = bounds
                if order == .sorted {
                    if node.keys[slot] < bounds.lowerBound { problems.append("node \(id) has a key too low") }
                    let end = slot + 1 < node.keys.count ? node.keys[slot + 1] - 1 : bounds.upperBound
                    below = node.keys[slot]...max(end, node.keys[slot])
                }
                let count = visit(
                    node.items[slot], level: level - 1, parent: id, isFirst: isFirst && slot == 0,
                    isLast: isLast && slot == node.items.count - 1, bounds: below)
                if count != node.counts[slot] { problems.append("node \(id) says \(node.counts[slot]) for \(count)") }
                sum += count
            }
            return sum
        }
        let count = visit(
            root.root, level: Int(root.height) - 1, parent: 0, isFirst: true, isLast: true, bounds: 0...UInt64.max)
        if count != root.count { problems.append("the root says \(root.count) for \(count)") }
    }
}
