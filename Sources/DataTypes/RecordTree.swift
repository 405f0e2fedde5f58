// A counted B+tree whose nodes are records: what arrays and queues of any length stand on. Owns its balance, and for
// each entry of a positional tree the record that says where it is. Knows nothing of what an entry stands for.
//
// Changes are kept until `flush` writes each record once; a command that throws before has changed nothing. Where nodes
// are cut and joined is part of the format: all replicas come to the same records.
//
// All leaves have the same depth. A node has `itemsMax` items at most, and a quarter of that at least; only those on the
// left and the right edge of the tree may have fewer, one at least. So what is appended fills each leaf before it begins
// the next, what is taken off in front moves nothing, and a tree can be cut in two without mending either part.

import Messages
import Primitives

/// A tree of unsigned numbers, each there once at most, with the count of those below each node.
///
/// *Positional*: entries stand where they are put (ids of an array's elements); of each there is a record with its place,
/// and nodes know their parents, so that its index is found from below. *Sorted*: entries stand by their size (a queue's
/// sort keys). Every operation reads and writes some few records for each level. A tree of 1 million entries has 4 levels,
/// 6 if all its nodes are as empty as they may be.
package struct RecordTree {
    package enum Order: UInt8, Sendable { case positional, sorted }

    package static let heightMax: UInt8 = 16
    /// Of entries.
    package static let countMax: UInt64 = 1 << 48

    package private(set) var root: RecordTreeRoot
    package let order: Order
    private var nodes: RecordTable<RecordTreeNode>
    private var places: RecordTable<RecordTreePlace>

    /// - Parameter places: of the records that say where entries are, in a positional tree.
    package init(positional root: RecordTreeRoot, nodes: RecordPrefix, places: RecordPrefix) {
        self.root = root
        order = .positional
        self.nodes = RecordTable(nodes)
        self.places = RecordTable(places)
    }

    package init(sorted root: RecordTreeRoot, nodes: RecordPrefix) {
        self.root = root
        order = .sorted
        self.nodes = RecordTable(nodes)
        places = RecordTable(nodes)
    }

    package var count: UInt64 { root.count }

    /// Writes all that has changed: each record once. The root is the owner's to write.
    package mutating func flush(into space: inout some RecordSpace) throws {
        try nodes.flush(into: &space)
        if order == .positional { try places.flush(into: &space) }
    }
}

// MARK: - Reading

extension RecordTree {
    /// A node of the way from the root to a leaf.
    fileprivate struct Step {
        var node: UInt64
        /// Of the child that the way goes on with; in a leaf, of the entry.
        var slot: Int
        var isFirst: Bool
        var isLast: Bool
    }

    /// - Parameter count: what its parent says of it; nil: not known.
    private mutating func node(
        _ id: UInt64, level: UInt8, count: UInt64?, in space: inout some RecordReading
    ) throws -> RecordTreeNode {
        guard id > 0, id < root.next else { throw RecordDamage(id, "no node has got this number") }
        guard let node = try nodes.value(of: id, in: &space) else { throw RecordDamage(id, "it is not there") }
        guard node.order == order, node.level == level else {
            throw RecordDamage(id, "it is of level \(node.level), \(node.order), not of \(level), \(order)")
        }
        guard count == nil || node.total == count else {
            throw RecordDamage(id, "it has \(node.total) entries, its parent says \(count ?? 0)")
        }
        return node
    }

    /// A node that was read, or made, before.
    private mutating func known(_ id: UInt64, in space: inout some RecordReading) throws -> RecordTreeNode {
        guard let node = try nodes.value(of: id, in: &space) else { throw RecordDamage(id, "it is not there") }
        return node
    }

    private mutating func change(_ id: UInt64, _ body: (inout RecordTreeNode) -> Void) throws {
        guard nodes.change(id, body) else { throw RecordDamage(id, "it is not there") }
    }

    /// The way to a leaf; `choose` tells which child to go on with. The leaf's slot is left at 0.
    private mutating func descend(
        in space: inout some RecordReading, choose: (RecordTreeNode) -> Int
    ) throws -> [Step] {
        var path: [Step] = []
        guard root.height > 0 else { return path }
        var (id, count, isFirst, isLast) = (root.root, root.count, true, true)
        for level in (0..<root.height).reversed() {
            let node = try node(id, level: level, count: count, in: &space)
            let slot = level > 0 ? choose(node) : 0
            path.append(Step(node: id, slot: slot, isFirst: isFirst, isLast: isLast))
            guard level > 0 else { break }
            isFirst = isFirst && slot == 0
            isLast = isLast && slot == node.items.count - 1
            (id, count) = (node.items[slot], node.counts[slot])
        }
        return path
    }

    /// To the entry at an index below the count; to insert, to the place behind the one before, too.
    private mutating func path(
        to index: UInt64, inserting: Bool = false, in space: inout some RecordReading
    ) throws -> [Step] {
        var rest = index
        var path = try descend(in: &space) { node in
            for slot in 0..<node.counts.count - 1 {
                if rest < node.counts[slot] || (inserting && rest == node.counts[slot]) { return slot }
                rest -= node.counts[slot]
            }
            return node.counts.count - 1
        }
        // Counts were compared all the way down, so what is left is within the leaf.
        if !path.isEmpty { path[path.count - 1].slot = Int(rest) }
        return path
    }

    /// To the place of a key: where it is, or where it would be.
    private mutating func path(
        toKey key: UInt64, in space: inout some RecordReading
    ) throws -> (path: [Step], isThere: Bool) {
        var path = try descend(in: &space) { $0.slot(of: key) }
        guard let last = path.last else { return (path, false) }
        let items = try known(last.node, in: &space).items
        let slot = items.partitionPoint { $0 >= key }
        path[path.count - 1].slot = slot
        return (path, slot < items.count && items[slot] == key)
    }

    /// To an entry of a positional tree, found from below.
    ///
    /// - Returns: nil: the tree has no such entry.
    private mutating func path(
        toEntry entry: UInt64, in space: inout some RecordReading
    ) throws -> (path: [Step], index: UInt64)? {
        precondition(order == .positional, "entries of a sorted tree are found by their keys")
        guard root.height > 0, let leaf = try places.value(of: entry, in: &space)?.leaf else { return nil }
        var (id, item, level, below) = (leaf, entry, 0 as UInt8, 0 as UInt64)
        var index: UInt64 = 0
        var path: [Step] = []
        var lasts: [Int] = []
        while true {
            let node = try node(id, level: level, count: nil, in: &space)
            guard let slot = node.items.firstIndex(of: item) else {
                throw RecordDamage(id, "it does not have \(item), which says that it is there")
            }
            guard level == 0 || node.counts[slot] == below else {
                throw RecordDamage(item, "it has \(below) entries, its parent says \(node.counts[slot])")
            }
            index += level == 0 ? UInt64(slot) : node.counts[..<slot].reduce(0, +)
            path.append(Step(node: id, slot: slot, isFirst: false, isLast: false))
            lasts.append(node.items.count - 1)
            below = node.total
            if id == root.root { break }
            // The root of another tree: one that was cut off.
            guard node.parent != 0 else { return nil }
            guard level + 1 < Self.heightMax else { throw RecordDamage(id, "it is not below the root") }
            (item, id, level) = (id, node.parent, level + 1)
        }
        guard level + 1 == root.height, below == root.count else {
            throw RecordDamage(id, "the root has \(below) entries at level \(level)")
        }
        path.reverse()
        lasts.reverse()
        var (isFirst, isLast) = (true, true)
        for place in path.indices {
            (path[place].isFirst, path[place].isLast) = (isFirst, isLast)
            isFirst = isFirst && path[place].slot == 0
            isLast = isLast && path[place].slot == lasts[place]
        }
        return (path, index)
    }

    /// The entry at an index; nil outside. One read for each level.
    package mutating func entry(at index: UInt64, in space: inout some RecordReading) throws -> UInt64? {
        guard index < root.count, let leaf = try path(to: index, in: &space).last else { return nil }
        return try known(leaf.node, in: &space).items[leaf.slot]
    }

    /// The entries from an index on that are in the same leaf. One read for each level.
    package mutating func leaf(from index: UInt64, in space: inout some RecordReading) throws -> ArraySlice<UInt64> {
        guard index < root.count, let leaf = try path(to: index, in: &space).last else { return [] }
        return try known(leaf.node, in: &space).items[leaf.slot...]
    }

    /// Up to `limit` entries from an index on. A level is read in one go: as many rounds as there are levels.
    package mutating func entries(
        from index: UInt64, limit: Int, in space: inout some RecordReading
    ) throws -> [UInt64] {
        guard index < root.count, limit > 0 else { return [] }
        let end = index + min(UInt64(limit), root.count - index)
        var parts: [(id: UInt64, first: UInt64, count: UInt64)] = [(root.root, 0, root.count)]
        var entries: [UInt64] = []
        for level in (0..<root.height).reversed() {
            try nodes.load(parts.map(\.id), in: &space)
            var below: [(id: UInt64, first: UInt64, count: UInt64)] = []
            for part in parts {
                let node = try node(part.id, level: level, count: part.count, in: &space)
                var first = part.first
                for slot in node.items.indices {
                    let count = level == 0 ? 1 : node.counts[slot]
                    if first < end, first + count > index {
                        if level == 0 { entries.append(node.items[slot]) }
                        if level > 0 { below.append((node.items[slot], first, count)) }
                    }
                    first += count
                }
            }
            parts = below
        }
        return entries
    }

    /// Where an entry of a positional tree stands; nil: it has none such. One read for each level, and one.
    package mutating func index(of entry: UInt64, in space: inout some RecordReading) throws -> UInt64? {
        try path(toEntry: entry, in: &space)?.index
    }

    package mutating func contains(_ key: UInt64, in space: inout some RecordReading) throws -> Bool {
        try path(toKey: key, in: &space).isThere
    }

    /// How many keys of a sorted tree are less.
    package mutating func rank(of key: UInt64, in space: inout some RecordReading) throws -> UInt64 {
        var rank: UInt64 = 0
        for step in try path(toKey: key, in: &space).path {
            let node = try known(step.node, in: &space)
            rank += node.level == 0 ? UInt64(step.slot) : node.counts[..<step.slot].reduce(0, +)
        }
        return rank
    }

    package mutating func first(in space: inout some RecordReading) throws -> UInt64? {
        try entry(at: 0, in: &space)
    }

    /// The least key of a sorted tree that is more.
    package mutating func first(above key: UInt64, in space: inout some RecordReading) throws -> UInt64? {
        try entries(above: key, limit: 1, in: &space).first
    }

    /// Up to `limit` keys of a sorted tree that are more.
    package mutating func entries(
        above key: UInt64, limit: Int, in space: inout some RecordReading
    ) throws -> [UInt64] {
        guard key < UInt64.max else { return [] }
        return try entries(from: try rank(of: key + 1, in: &space), limit: limit, in: &space)
    }
}

// MARK: - Inserting

extension RecordTree {
    /// Puts an entry, which the tree must not have yet, before the one at `index`, or behind all.
    ///
    /// - Precondition: the index is at most the count.
    package mutating func insert(_ entry: UInt64, at index: UInt64, in space: inout some RecordReading) throws {
        precondition(order == .positional, "keys of a sorted tree stand where they belong")
        precondition(index <= root.count, "an index outside of the tree")
        try insert(entry, along: try path(to: index, inserting: true, in: &space), in: &space)
    }

    /// Adds a key to a sorted tree.
    ///
    /// - Returns: false: it was there.
    package mutating func insert(_ key: UInt64, in space: inout some RecordReading) throws -> Bool {
        precondition(order == .sorted, "an entry of a positional tree needs an index")
        let (path, isThere) = try path(toKey: key, in: &space)
        guard !isThere else { return false }
        try insert(key, along: path, in: &space)
        return true
    }

    private mutating func number() throws -> UInt64 {
        guard root.next < UInt64.max else { throw RecordDamage(root.next, "there is no number behind it") }
        defer { root.next += 1 }
        return root.next
    }

    private mutating func insert(
        _ entry: UInt64, along path: [Step], in space: inout some RecordReading
    ) throws {
        guard root.count < Self.countMax else { throw RecordDamage(root.root, "the tree is full") }
        guard let last = path.last else {
            root.root = try number()
            (root.height, root.count) = (1, 1)
            nodes.add(root.root, RecordTreeNode(order, level: 0, items: [entry]))
            if order == .positional { places.add(entry, RecordTreePlace(root.root)) }
            return
        }
        for step in path.dropLast() {
            try change(step.node) { node in
                node.counts[step.slot] += 1
                if node.order == .sorted, entry < node.keys[step.slot] { node.keys[step.slot] = entry }
            }
        }
        try change(last.node) { $0.items.insert(entry, at: last.slot) }
        root.count += 1
        if order == .positional { places.add(entry, RecordTreePlace(last.node)) }
        try split(path, in: &space)
    }

    /// Cuts nodes that have too many items, from the leaf up.
    private mutating func split(_ path: [Step], in space: inout some RecordReading) throws {
        var depth = path.count - 1
        var newSlot = path[depth].slot
        while true {
            let step = path[depth]
            let node = try known(step.node, in: &space)
            let size = node.items.count
            guard size > node.itemsMax else { return }
            // At an edge what is there stays full.
            let cut =
                step.isLast && newSlot == size - 1 ? size - 1 : step.isFirst && newSlot == 0 ? 1 : size / 2
            let (left, right) = (node.part(0..<cut), node.part(cut..<size))
            // The smaller part moves.
            let isLeftNew = cut < size - cut
            let id = try number()
            nodes.set(step.node, to: isLeftNew ? right : left)
            nodes.add(id, isLeftNew ? left : right)
            try adopt(isLeftNew ? left : right, by: id, in: &space)
            let (leftID, rightID) = isLeftNew ? (id, step.node) : (step.node, id)
            guard depth > 0 else {
                guard root.height < Self.heightMax else { throw RecordDamage(step.node, "the tree is too high") }
                let top = RecordTreeNode(
                    order, level: root.height, items: [leftID, rightID], counts: [left.total, right.total],
                    keys: order == .sorted ? [left.firstKey, right.firstKey] : [])
                root.root = try number()
                root.height += 1
                nodes.add(root.root, top)
                try adopt(top, by: root.root, in: &space)
                return
            }
            depth -= 1
            newSlot = path[depth].slot
            var parent = try known(path[depth].node, in: &space)
            parent.items[newSlot] = leftID
            parent.counts[newSlot] = left.total
            parent.insertChild(rightID, count: right.total, key: right.firstKey, at: newSlot + 1)
            nodes.set(path[depth].node, to: parent)
            if !isLeftNew { newSlot += 1 }
        }
    }

    /// Says of all that is in a node, in a positional tree, that it is there now. Entries are not read for it; children
    /// are, in one go.
    private mutating func adopt(
        _ node: RecordTreeNode, by id: UInt64, in space: inout some RecordReading
    ) throws {
        guard order == .positional else { return }
        guard node.level > 0 else {
            for entry in node.items { places.set(entry, to: RecordTreePlace(id)) }
            return
        }
        try nodes.load(node.items, in: &space)
        for (child, count) in zip(node.items, node.counts) {
            var below = try self.node(child, level: node.level - 1, count: count, in: &space)
            below.parent = id
            nodes.set(child, to: below)
        }
    }
}

// MARK: - Removing

extension RecordTree {
    /// Takes the entry at an index out; nil: there is none.
    package mutating func remove(at index: UInt64, in space: inout some RecordReading) throws -> UInt64? {
        guard index < root.count else { return nil }
        return try remove(along: try path(to: index, in: &space), in: &space)
    }

    /// Takes an entry out of a positional tree, wherever it stands.
    ///
    /// - Returns: where it stood; nil: the tree has no such entry.
    package mutating func remove(entry: UInt64, in space: inout some RecordReading) throws -> UInt64? {
        guard let (path, index) = try path(toEntry: entry, in: &space) else { return nil }
        _ = try remove(along: path, in: &space)
        return index
    }

    /// Takes a key out of a sorted tree.
    ///
    /// - Returns: false: it was not there.
    package mutating func remove(key: UInt64, in space: inout some RecordReading) throws -> Bool {
        precondition(order == .sorted, "a positional tree has no keys")
        let (path, isThere) = try path(toKey: key, in: &space)
        guard isThere else { return false }
        _ = try remove(along: path, in: &space)
        return true
    }

    private mutating func remove(along path: [Step], in space: inout some RecordReading) throws -> UInt64? {
        guard let last = path.last else { return nil }
        for step in path.dropLast() {
            try change(step.node) { $0.counts[step.slot] -= 1 }
        }
        var entry: UInt64 = 0
        try change(last.node) { entry = $0.items.remove(at: last.slot) }
        root.count -= 1
        if order == .positional { places.remove(entry) }
        try mend(path, in: &space)
        root = try lowered(root, in: &space)
        return entry
    }

    /// Takes out nodes that are empty, and fills those with too few items from a neighbour or joins them with it, from
    /// the leaf up.
    private mutating func mend(_ path: [Step], in space: inout some RecordReading) throws {
        for depth in path.indices.dropFirst().reversed() {
            let (step, above) = (path[depth], path[depth - 1])
            let node = try known(step.node, in: &space)
            var parent = try known(above.node, in: &space)
            if node.items.isEmpty {
                nodes.remove(step.node)
                parent.removeItem(above.slot)
                nodes.set(above.node, to: parent)
                continue
            }
            guard node.items.count < node.itemsMin, !step.isFirst, !step.isLast else { return }
            let isRightOf = above.slot > 0
            let neighbour = isRightOf ? above.slot - 1 : 1
            guard neighbour < parent.items.count else { throw RecordDamage(above.node, "it has one child only") }
            let id = parent.items[neighbour]
            let other = try self.node(id, level: node.level, count: parent.counts[neighbour], in: &space)
            let size = node.items.count + other.items.count
            if size <= node.itemsMax * 3 / 4 {
                var joined = isRightOf ? other : node
                joined.append(isRightOf ? node : other)
                joined.parent = other.parent
                nodes.set(id, to: joined)
                nodes.remove(step.node)
                try adopt(node, by: id, in: &space)
                parent.counts[neighbour] = joined.total
                if order == .sorted, !isRightOf { parent.keys[neighbour] = parent.keys[above.slot] }
                parent.removeItem(above.slot)
                nodes.set(above.node, to: parent)
                continue
            }
            let (otherSize, moves) = (other.items.count, size / 2 - node.items.count)
            let moved = isRightOf ? otherSize - moves..<otherSize : 0..<moves
            let rest = other.part(isRightOf ? 0..<otherSize - moves : moves..<otherSize)
            var filled = isRightOf ? other.part(moved) : node
            filled.append(isRightOf ? node : other.part(moved))
            filled.parent = node.parent
            nodes.set(id, to: rest)
            nodes.set(step.node, to: filled)
            try adopt(other.part(moved), by: step.node, in: &space)
            parent.counts[neighbour] = rest.total
            parent.counts[above.slot] = filled.total
            if order == .sorted {
                if isRightOf { parent.keys[above.slot] = filled.firstKey }
                if !isRightOf { parent.keys[neighbour] = rest.firstKey }
            }
            nodes.set(above.node, to: parent)
            return
        }
    }

    /// Without the levels above that have one node with one child.
    private mutating func lowered(
        _ old: RecordTreeRoot, in space: inout some RecordReading
    ) throws -> RecordTreeRoot {
        var root = old
        while root.height > 0 {
            let node = try known(root.root, in: &space)
            guard node.items.count <= (root.height > 1 ? 1 : 0) else { break }
            nodes.remove(root.root)
            guard let child = node.items.first else {
                (root.root, root.height) = (0, 0)
                break
            }
            var below = try self.node(child, level: node.level - 1, count: root.count, in: &space)
            below.parent = 0
            if order == .positional { nodes.set(child, to: below) }
            root.root = child
            root.height -= 1
        }
        return root
    }

    /// Cuts the entries from an index on off. They are a tree of their own, with records under the same keys, from which
    /// may only be removed: this one gives numbers to nodes. As many records as for some insertions.
    package mutating func cut(at index: UInt64, in space: inout some RecordReading) throws -> RecordTreeRoot {
        var rest = RecordTreeRoot()
        rest.next = root.next
        guard index < root.count else { return rest }
        guard index > 0 else {
            let all = root
            (root.root, root.height, root.count) = (0, 0, 0)
            return all
        }
        rest.height = root.height
        rest.count = root.count - index
        // What became of the child: nil where nothing of it is on that side.
        typealias Part = (id: UInt64, count: UInt64, key: UInt64)
        var (childLeft, childRight): (Part?, Part?) = (nil, nil)
        for step in try path(to: index, in: &space).reversed() {
            let node = try known(step.node, in: &space)
            let isLeaf = node.level == 0
            var left = node.part(0..<step.slot)
            var right = node.part((isLeaf ? step.slot : step.slot + 1)..<node.items.count)
            if let childLeft {
                left.insertChild(childLeft.id, count: childLeft.count, key: childLeft.key, at: left.items.count)
            }
            if let childRight {
                right.insertChild(childRight.id, count: childRight.count, key: childRight.key, at: 0)
            }
            (left.parent, right.parent) = (0, 0)
            let isRightNew = right.items.count <= left.items.count
            let isCut = !left.items.isEmpty && !right.items.isEmpty
            let new = isCut ? try number() : step.node
            let leftID = isRightNew ? step.node : new
            let rightID = isRightNew ? new : step.node
            for (part, id) in [(left, leftID), (right, rightID)] where !part.items.isEmpty {
                nodes.set(id, to: part)
                if id == new, isCut { try adopt(part, by: id, in: &space) }
            }
            // Parts of the child may have come to another node than the one that they say.
            for (part, id) in [(childLeft, leftID), (childRight, rightID)] where order == .positional {
                guard let part else { continue }
                var below = try known(part.id, in: &space)
                below.parent = id
                nodes.set(part.id, to: below)
            }
            childLeft = left.items.isEmpty ? nil : (leftID, left.total, node.firstKey)
            childRight = right.items.isEmpty ? nil : (rightID, right.total, right.firstKey)
        }
        guard let childLeft, let childRight else { throw RecordDamage(root.root, "it can't be cut") }
        (root.root, root.count) = (childLeft.id, index)
        rest.root = childRight.id
        root = try lowered(root, in: &space)
        rest = try lowered(rest, in: &space)
        rest.next = root.next
        return rest
    }

    /// The entries of `other`, which was cut off this tree, become this tree's; its own ones become `other`'s.
    package mutating func exchange(with other: inout RecordTreeRoot) {
        let next = max(root.next, other.next)
        swap(&root, &other)
        (root.next, other.next) = (next, next)
    }
}
