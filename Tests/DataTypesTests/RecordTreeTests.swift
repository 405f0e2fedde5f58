// Counted trees of records against plain arrays, what they cost, and what they do with damaged nodes.

import DataTypes
import Messages
import Primitives
import TestSupport
import Testing

private let key = ObjectKey("tree")
private let nodes = RecordPrefix(key.record(1))
private let places = RecordPrefix(key.record(2))

/// A tree that is read from its records anew by each command.
private struct Bench {
    let order: RecordTree.Order
    var root = RecordTreeRoot()
    var space = DictionarySpace()
    var cost = Cost()

    init(_ order: RecordTree.Order) { self.order = order }

    var tree: RecordTree {
        order == .sorted
            ? RecordTree(sorted: root, nodes: nodes) : RecordTree(positional: root, nodes: nodes, places: places)
    }

    mutating func command<Result>(
        _ body: (inout RecordTree, inout DictionarySpace) throws -> Result
    ) throws -> Result {
        space.beginCommand()
        var tree = tree
        let result = try body(&tree, &space)
        try tree.flush(into: &space)
        root = try RecordTreeRoot(decoding: tree.root.encoded())
        space.endCommand(&cost)
        return result
    }

    func walk(_ root: RecordTreeRoot? = nil) -> TreeWalk {
        TreeWalk(
            root ?? self.root, order, nodes: nodes, places: order == .positional ? places : nil, in: space.records)
    }

    /// All invariants; the records are those that can be reached, no more.
    func expect(_ entries: [UInt64], place: SourceLocation = #_sourceLocation) {
        let walk = walk()
        #expect(walk.problems.prefix(3).isEmpty, sourceLocation: place)
        #expect(walk.entries == entries, sourceLocation: place)
        #expect(walk.records.count == space.records.count, sourceLocation: place)
        if entries.isEmpty { #expect(space.records.isEmpty, sourceLocation: place) }
    }
}

@Suite(.serialized, .ownExecutor) struct RecordTreeTests {
    @Test(arguments: [(200, 20_000), (3_000, 20_000), (30_000, 40_000)])
    func aPositionalTreeIsAnArray(size: Int, operations: Int) throws {
        var bench = Bench(.positional)
        var random = SeededRandom(seed: UInt64(size))
        var model: [UInt64] = []
        var next: UInt64 = 1
        for operation in 0..<operations {
            // It grows to the size, stays about there, and becomes empty.
            let third = operation * 3 / operations
            let grows = third == 0 ? random.below(10) < 8 : third == 1 ? random.below(2) == 0 : random.below(10) < 1
            let edge = random.below(4)
            if grows {
                let index = edge == 0 ? model.count : edge == 1 ? 0 : random.below(model.count + 1)
                try bench.command { tree, space in try tree.insert(next, at: UInt64(index), in: &space) }
                model.insert(next, at: index)
                next += 1
            } else if !model.isEmpty {
                let index = edge == 0 ? model.count - 1 : edge == 1 ? 0 : random.below(model.count)
                let entry = model.remove(at: index)
                try bench.command { tree, space in
                    if random.isOne(of: 2) {
                        let found = try tree.remove(entry: entry, in: &space)
                        #expect(found == UInt64(index))
                    } else {
                        let found = try tree.remove(at: UInt64(index), in: &space)
                        #expect(found == entry)
                    }
                }
            }
            if operation % 8 == 0, !model.isEmpty {
                let index = random.below(model.count)
                try bench.command { tree, space in
                    #expect(try tree.entry(at: UInt64(index), in: &space) == model[index])
                    #expect(try tree.index(of: model[index], in: &space) == UInt64(index))
                    #expect(try tree.index(of: next, in: &space) == nil)
                    let limit = random.below(300)
                    let slice = try tree.entries(from: UInt64(index), limit: limit, in: &space)
                    #expect(slice == Array(model[index..<min(index + limit, model.count)]))
                }
            }
            if (operation + 1) % (operations / 12) == 0 { bench.expect(model) }
        }
        while !model.isEmpty {
            let index = random.below(model.count)
            let entry = model.remove(at: index)
            #expect(try bench.command { try $0.remove(at: UInt64(index), in: &$1) } == entry)
        }
        bench.expect([])
    }

    @Test(arguments: [(200, 20_000), (3_000, 20_000), (30_000, 40_000)])
    func aSortedTreeIsASortedArray(size: Int, operations: Int) throws {
        var bench = Bench(.sorted)
        var random = SeededRandom(seed: UInt64(size) + 1)
        var model: [UInt64] = []
        func place(_ key: UInt64) -> Int {
            var (low, high) = (0, model.count)
            while low < high {
                let middle = (low + high) / 2
                if model[middle] < key { low = middle + 1 } else { high = middle }
            }
            return low
        }
        var top: UInt64 = 1 << 32
        for operation in 0..<operations {
            let third = operation * 3 / operations
            let grows = third == 0 ? random.below(10) < 8 : third == 1 ? random.below(2) == 0 : random.below(10) < 1
            let edge = random.below(4)
            if grows {
                // Some twice; some ever higher, as of a queue.
                top += 1
                let key = edge == 0 ? top : edge == 1 && !model.isEmpty ? model[0] &- 1 : random.below(UInt64(size) * 4)
                let index = place(key)
                let isNew = index == model.count || model[index] != key
                #expect(try bench.command { try $0.insert(key, in: &$1) } == isNew)
                if isNew { model.insert(key, at: index) }
            } else if !model.isEmpty {
                let index = edge == 0 ? model.count - 1 : edge == 1 ? 0 : random.below(model.count)
                let key = model.remove(at: index)
                #expect(try bench.command { try $0.remove(key: key, in: &$1) })
                #expect(try bench.command { try $0.remove(key: key, in: &$1) } == false)
            }
            if operation % 8 == 0, !model.isEmpty {
                let key = random.below(UInt64(size) * 4)
                let index = place(key)
                try bench.command { tree, space in
                    let isThere = index < model.count && model[index] == key
                    let above = index + (isThere ? 1 : 0)
                    #expect(try tree.first(in: &space) == model.first)
                    #expect(try tree.rank(of: key, in: &space) == UInt64(index))
                    #expect(try tree.contains(key, in: &space) == isThere)
                    #expect(try tree.first(above: key, in: &space) == (above < model.count ? model[above] : nil))
                    let limit = random.below(300)
                    let page = try tree.entries(above: key, limit: limit, in: &space)
                    #expect(page == Array(model[above..<min(above + limit, model.count)]))
                }
            }
            if (operation + 1) % (operations / 12) == 0 { bench.expect(model) }
        }
        while !model.isEmpty {
            let key = model.remove(at: random.below(model.count))
            #expect(try bench.command { try $0.remove(key: key, in: &$1) })
        }
        bench.expect([])
    }

    @Test func aTreeIsCutInTwo() throws {
        for seed in 0..<50 as Range<UInt64> {
            var random = SeededRandom(seed: seed)
            var bench = Bench(.positional)
            let count = seed < 40 ? random.below(3_000) : random.below(40_000)
            var model: [UInt64] = []
            try bench.command { tree, space in
                for entry in 1...UInt64(count + 1) {
                    let index = random.isOne(of: 3) ? random.below(model.count + 1) : model.count
                    try tree.insert(entry, at: UInt64(index), in: &space)
                    model.insert(entry, at: index)
                }
            }
            let index = random.isOne(of: 10) ? 0 : random.below(model.count + 2)
            let (writes, rest) = try bench.command { tree, space in
                space.beginCommand()
                let rest = try tree.cut(at: UInt64(index), in: &space)
                try tree.flush(into: &space)
                return (space.writes, rest)
            }
            #expect(writes <= 160)
            let (left, right) = (bench.walk(), bench.walk(rest))
            #expect((left.problems + right.problems).isEmpty)
            let middle = min(index, model.count)
            #expect(left.entries == Array(model[..<middle]))
            #expect(right.entries == Array(model[middle...]))
            #expect(left.records.isDisjoint(with: right.records))
            #expect(left.records.count + right.records.count == bench.space.records.count)
            // Neither has what is in the other; both still do all that a tree does.
            for part in [(left.entries, right.entries, bench.root), (right.entries, left.entries, rest)] {
                bench.root = part.2
                if let entry = part.0.randomElement(using: &random) {
                    #expect(try bench.command { try $0.index(of: entry, in: &$1) != nil })
                }
                if let entry = part.1.randomElement(using: &random) {
                    #expect(try bench.command { try $0.index(of: entry, in: &$1) == nil })
                    #expect(try bench.command { try $0.remove(entry: entry, in: &$1) == nil })
                }
                var entries = part.0
                try bench.command { tree, space in
                    while !entries.isEmpty {
                        let index = random.isOne(of: 2) ? 0 : random.below(entries.count)
                        let entry = try tree.remove(at: UInt64(index), in: &space)
                        #expect(entry == entries.remove(at: index))
                    }
                }
            }
            #expect(bench.space.records.isEmpty)
        }
    }

    @Test func oneCommandWritesEachRecordOnce() throws {
        var bench = Bench(.positional)
        try bench.command { tree, space in
            for entry in 0..<20_000 as Range<UInt64> { try tree.insert(entry, at: entry, in: &space) }
        }
        // What is appended fills the leaves.
        #expect(bench.space.records.count < 20_000 + 20_000 / 64 + 20_000 / 64 / 30 + 3)
        bench.cost = Cost()
        try bench.command { tree, space in
            for entry in 20_000..<20_256 as Range<UInt64> { try tree.insert(entry, at: 7_000, in: &space) }
        }
        #expect(bench.cost.writes < 256 + 64 + 40)
        bench.cost = Cost()
        try bench.command { tree, space in
            for entry in 20_256..<20_512 as Range<UInt64> {
                try tree.insert(entry, at: 9_000, in: &space)
                #expect(try tree.remove(at: 9_000, in: &space) == entry)
            }
        }
        #expect(bench.cost.writes < 64)
    }

    /// Measured: at most so many records read and written by one operation, at 100,000 entries in an order by chance.
    @Test(arguments: [RecordTree.Order.positional, .sorted])
    func manyEntriesCostSomeRecordsEach(order: RecordTree.Order) throws {
        var bench = Bench(order)
        var random = SeededRandom(seed: 9)
        let count: UInt64 = 100_000
        bench.space.records.reserveCapacity(120_000)
        try bench.command { tree, space in
            for entry in 0..<count {
                if order == .sorted {
                    _ = try tree.insert(mix(entry) >> 1, in: &space)
                } else {
                    let index = entry < count / 2 ? entry : random.below(entry + 1)
                    try tree.insert(entry, at: index, in: &space)
                }
            }
        }
        #expect(bench.root.height <= 5)
        var (insertions, removals, look) = (Cost(), Cost(), Cost())
        for step in 0..<10_000 as Range<UInt64> {
            bench.cost = insertions
            if order == .sorted {
                #expect(try bench.command { try $0.insert(mix(count + step) >> 1, in: &$1) })
            } else {
                let index = random.below(bench.root.count + 1)
                try bench.command { try $0.insert(count + step, at: index, in: &$1) }
            }
            insertions = bench.cost
            bench.cost = look
            if order == .sorted {
                _ = try bench.command { try $0.rank(of: random.next(), in: &$1) }
            } else {
                let entry = random.below(step)
                _ = try bench.command { try $0.index(of: entry, in: &$1) }
            }
            look = bench.cost
        }
        // So far that nodes run empty and are joined.
        try bench.command { tree, space in
            while tree.count > 40_000 { _ = try tree.remove(at: random.below(tree.count), in: &space) }
        }
        for _ in 0..<20_000 {
            bench.cost = removals
            let index = random.below(bench.root.count)
            #expect(try bench.command { try $0.remove(at: index, in: &$1) } != nil)
            removals = bench.cost
        }
        print("\(order), height \(bench.root.height): insertion: \(insertions)")
        print("\(order): removal: \(removals)")
        print("\(order): index or rank: \(look)")
        // A path, and at each level but the first a node that is cut with the children that move, or its neighbour.
        let moved = order == .positional ? 20 : 0
        #expect(insertions.reads <= 5 + 3 * moved && removals.reads <= 5 + 4 + 3 * moved)
        #expect(insertions.writes <= 5 + 5 + 33 + 3 * moved && removals.writes <= 5 + 4 + 33 + 3 * moved)
        #expect(insertions.allWrites <= 8 * insertions.commands && removals.allWrites <= 8 * removals.commands)
        #expect(look.reads <= 7 && look.writes == 0)
        #expect(bench.walk().problems.prefix(3).isEmpty)
    }

    @Test func damagedNodesAreErrors() throws {
        for order in [RecordTree.Order.positional, .sorted] {
            var whole = Bench(order)
            try whole.command { tree, space in
                for entry in 0..<6_000 as Range<UInt64> {
                    if order == .sorted {
                        _ = try tree.insert(entry &* 7_919 % 6_000, in: &space)
                    } else {
                        try tree.insert(entry, at: entry / 2, in: &space)
                    }
                }
            }
            let keys = whole.space.records.keys.sorted()
            var errors = 0
            for (number, key) in keys.enumerated() where number < 100 || number % 60 == 0 {
                let original = whole.space.records[key]!
                var round: UInt64 = 0
                mutate(original, seed: UInt64(number), rounds: 12) { bytes in
                    round += 1
                    errors += whole.tryAll(round, damage: key, as: round % 20 == 0 ? nil : bytes)
                }
                // Another node in its place: cycles and strangers.
                for other in keys.prefix(40) where other < nodes.record(UInt64.max) {
                    errors += whole.tryAll(3, damage: key, as: whole.space.records[other])
                }
            }
            #expect(errors > 2_000)
        }
    }

    @Test func damagedRootsAreErrors() throws {
        var bench = Bench(.sorted)
        try bench.command { tree, space in
            for entry in 0..<500 as Range<UInt64> { _ = try tree.insert(entry, in: &space) }
        }
        mutate(bench.root.encoded(), seed: 5) { bytes in
            guard let root = try? RecordTreeRoot(decoding: bytes) else { return }
            var damaged = bench
            damaged.root = root
            _ = damaged.tryAll(1, damage: "", as: nil)
        }
        for (root, height, count) in [(3, 0, 0), (0, 1, 0), (0, 0, 5), (3, 2, 0), (3, 17, 900), (9, 2, 900)] {
            var writer = ByteWriter()
            writer.write(UInt64(root))
            writer.write(UInt8(height))
            writer.write(UInt64(count))
            writer.write(9 as UInt64)
            let bytes = writer.take()
            #expect(throws: DecodingFailure.self) { try RecordTreeRoot(decoding: bytes) }
        }
    }
}

extension Bench {
    /// Every operation once.
    ///
    /// - Returns: how many threw.
    fileprivate func tryAll(_ seed: UInt64, damage key: Bytes, as damaged: Bytes?) -> Int {
        var random = SeededRandom(seed: seed)
        var errors = 0
        func attempt(_ body: (inout RecordTree, inout DamagedSpace) throws -> Void) {
            var tree = tree
            var space = DamagedSpace(records: space.records, key: key, damaged: damaged)
            do {
                try body(&tree, &space)
                try tree.flush(into: &space)
                #expect(space.reads < 500)
            } catch {
                #expect(error is RecordDamage || error is DecodingFailure)
                errors += 1
            }
        }
        let entry = random.below(6_000 as UInt64)
        let index = random.below(max(min(root.count, 6_000), 1))
        attempt { _ = try $0.entry(at: index, in: &$1) }
        attempt { _ = try $0.entries(from: index, limit: 100, in: &$1) }
        attempt { _ = try $0.remove(at: index, in: &$1) }
        if order == .positional {
            attempt { _ = try $0.index(of: entry, in: &$1) }
            attempt { _ = try $0.remove(entry: entry, in: &$1) }
            attempt { try $0.insert(9_000, at: index, in: &$1) }
            attempt { _ = try $0.cut(at: index, in: &$1) }
        } else {
            attempt { _ = try $0.rank(of: entry, in: &$1) }
            attempt { _ = try $0.remove(key: entry, in: &$1) }
            attempt { _ = try $0.insert(9_000 + entry, in: &$1) }
            attempt { _ = try $0.entries(above: entry, limit: 5, in: &$1) }
        }
        return errors
    }
}
