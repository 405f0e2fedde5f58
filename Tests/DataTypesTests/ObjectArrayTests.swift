// Arrays of records against plain arrays.

import DataTypes
import Messages
import Primitives
import TestSupport
import Testing

private struct Bench {
    var head = ObjectArray.Head()
    var space = DictionarySpace()
    var cost = Cost()
    var revision: UInt64 = 0
    static let key = ObjectKey("list")

    /// What throws has written nothing.
    mutating func command<Result>(
        _ body: (inout ObjectArray, Revision, inout DictionarySpace) throws -> Result
    ) throws -> Result {
        space.beginCommand()
        revision += 1
        var array = ObjectArray(Self.key, head)
        let result = try body(&array, Revision(revision), &space)
        let head = try array.flush(into: &space)
        self.head = try ObjectArray.Head(decoding: head.encoded())
        space.endCommand(&cost)
        #expect(
            space.writes <= 1_024 && space.writtenBytes <= 4 << 20 && space.reads <= 4_096
                && space.readBytes <= 16 << 20)
        return result
    }

    mutating func fails(
        _ failure: ObjectArray.Failure, place: SourceLocation = #_sourceLocation,
        _ body: (inout ObjectArray, Revision, inout DictionarySpace) throws -> Void
    ) {
        let records = space.records
        #expect(throws: failure, sourceLocation: place) { try command(body) }
        #expect(space.records == records, sourceLocation: place)
    }

    /// All elements, and no record but theirs.
    mutating func expect(_ model: [ObjectArray.Element], place: SourceLocation = #_sourceLocation) throws {
        #expect(head.count == UInt64(model.count), sourceLocation: place)
        var all: [ObjectArray.Element] = []
        var next: UInt64? = 0
        while let index = next {
            let page = try command { array, _, space in try array.page(from: index, limit: 1_000, in: &space) }
            all += page.elements
            next = page.next
        }
        #expect(all == model, sourceLocation: place)
        let prefix = RecordPrefix(Self.key.record(1, head.generation))
        let walk = TreeWalk(
            try RecordTreeRoot(decoding: head.encoded()[9..<34]), .positional, nodes: prefix.kind(1),
            places: prefix.kind(2), in: space.records)
        #expect(walk.problems.prefix(3).isEmpty, sourceLocation: place)
        #expect(walk.entries == model.map(\.id), sourceLocation: place)
        if !head.needsSweep {
            let large = model.count { $0.value.count > ObjectArray.inlineBytesMax }
            #expect(space.records.count == walk.records.count + model.count + large, sourceLocation: place)
        }
    }
}

@Suite(.serialized, .ownExecutor) struct ObjectArrayTests {
    @Test(arguments: 0..<6 as Range<UInt64>)
    func anArrayOfRecordsIsAnArray(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var bench = Bench()
        var model: [ObjectArray.Element] = []
        var gone: [UInt64] = []
        let size = seed < 2 ? 40 : seed < 4 ? 1_500 : 20_000
        for step in 0..<2_500 {
            let (index, count) = (random.below(model.count + 1), model.count)
            let grows = count < size ? random.below(4) < 3 : random.below(4) < 1
            let value = random.isOne(of: 8) ? Bytes([UInt8](repeating: 7, count: 4_097 + step)) : Bytes("\(step)")
            switch random.below(12) {
            case 0..<4 where grows:
                let values = (0..<[1, 1, 2, 256][random.below(4)]).map { number in
                    number % 100 == 50 ? Bytes([UInt8](repeating: 9, count: 5_000)) : Bytes("\(step) \(number)")
                }
                let place = random.isOne(of: 3) ? count : index
                let ids = try bench.command { array, revision, space in
                    if place == count { return try array.append(values, revision: revision, in: &space) }
                    let id = model[place].id
                    return switch random.below(3) {
                    case 0: try array.insert(values, before: id, revision: revision, in: &space)
                    case 1 where place > 0:
                        try array.insert(values, after: model[place - 1].id, revision: revision, in: &space)
                    default: try array.insert(values, at: UInt64(place), revision: revision, in: &space)
                    }
                }
                #expect(ids.count == values.count)
                let revision = Revision(bench.revision)
                model.insert(
                    contentsOf: zip(ids, values).map { .init(id: $0, revision: revision, value: $1) }, at: place)
            case 4..<7 where index < count:
                let old = model[index]
                let expected = random.isOne(of: 2) ? old.revision : nil
                try bench.command { array, revision, space in
                    if random.isOne(of: 2) {
                        try array.set(old.id, to: value, expected: expected, revision: revision, in: &space)
                    } else {
                        let id = try array.set(
                            at: UInt64(index), to: value, expected: expected, revision: revision, in: &space)
                        #expect(id == old.id)
                    }
                }
                model[index] = .init(id: old.id, revision: Revision(bench.revision), value: value)
                bench.fails(.otherRevision(Revision(bench.revision))) { array, revision, space in
                    try array.set(old.id, to: value, expected: old.revision, revision: revision, in: &space)
                }
            case 7..<9 where index < count:
                let old = model.remove(at: index)
                let removed = try bench.command { array, _, space in
                    random.isOne(of: 2)
                        ? try array.remove(old.id, expected: old.revision, in: &space)
                        : try array.remove(at: UInt64(index), in: &space)
                }
                #expect(removed == old)
                gone.append(old.id)
            case 9 where !grows:
                let range = index..<min(count, index + random.below(257))
                _ = try bench.command { array, _, space in
                    try array.remove(UInt64(range.lowerBound)..<UInt64(range.upperBound), in: &space)
                }
                gone += model[range].prefix(2).map(\.id)
                model.removeSubrange(range)
            case 10 where random.isOne(of: 40):
                let end = index + random.below(count - index + 1)
                try bench.command { array, _, space in
                    try array.trim(to: UInt64(index)..<UInt64(end), in: &space)
                }
                gone += model[..<index].suffix(2).map(\.id) + model[end...].prefix(2).map(\.id)
                model = Array(model[index..<end])
                #expect(bench.space.writes < 300)
            case 10 where random.isOne(of: 60):
                let garbage = try bench.command { array, _, _ in try array.clear() }
                gone += model.prefix(3).map(\.id)
                model = []
                #expect(bench.space.reads + bench.space.writes == 0)
                for key in bench.space.records.keys where key.count > garbage.count {
                    if key[0..<garbage.count] == garbage { bench.space.remove(key) }
                }
                #expect(bench.space.records.isEmpty)
            case 11 where bench.head.needsSweep:
                let more = try bench.command { array, _, space in try array.sweep(in: &space) }
                #expect(more == bench.head.needsSweep)
            default: break
            }
            if let id = gone.randomElement(using: &random) {
                bench.fails(.noElement) { array, revision, space in
                    switch random.below(4) {
                    case 0: _ = try array.element(id, in: &space)
                    case 1: _ = try array.remove(id, in: &space)
                    case 2: _ = try array.insert([value], after: id, revision: revision, in: &space)
                    default: try array.set(id, to: value, revision: revision, in: &space)
                    }
                }
            }
            if let index = model.indices.randomElement(using: &random) {
                try bench.command { array, _, space in
                    let (byIndex, byID) = (
                        try array.element(at: UInt64(index), in: &space),
                        try array.element(model[index].id, in: &space)
                    )
                    #expect(byIndex == model[index] && byID == model[index])
                    let found = try array.index(of: model[index].id, in: &space)
                    #expect(found == UInt64(index))
                }
            }
            if step % 500 == 0 { try bench.expect(model) }
        }
        while bench.head.needsSweep { _ = try bench.command { array, _, space in try array.sweep(in: &space) } }
        try bench.expect(model)
        while !model.isEmpty {
            _ = try bench.command { array, _, space in
                try array.remove(0..<min(array.count, 256), in: &space)
            }
            model.removeFirst(min(model.count, 256))
        }
        #expect(bench.space.records.isEmpty)
    }

    /// What is read and written by one operation on an array of 250,000 elements.
    @Test func operationsOnManyElements() throws {
        var bench = Bench()
        var random = SeededRandom(seed: 4)
        let values = (0..<256).map { Bytes("value \($0)") }
        bench.space.records.reserveCapacity(600_000)
        while bench.head.count < 250_000 {
            let index = !random.isOne(of: 12) ? bench.head.count : random.below(bench.head.count + 1)
            _ = try bench.command { array, revision, space in
                try array.insert(values, at: index, revision: revision, in: &space)
            }
        }
        func measure(
            _ name: String, _ rounds: Int, reads: Int, waits: Int, writes: Int,
            _ body: (inout ObjectArray, Revision, inout DictionarySpace, inout SeededRandom) throws -> Void
        ) throws {
            bench.cost = Cost()
            for _ in 0..<rounds { try bench.command { try body(&$0, $1, &$2, &random) } }
            print("\(name): \(bench.cost)")
            #expect(bench.cost.reads <= reads && bench.cost.rounds <= waits && bench.cost.writes <= writes)
        }
        let one: [Bytes] = ["one"]
        try measure("append", 1_000, reads: 4, waits: 4, writes: 10) { array, revision, space, _ in
            _ = try array.append(one, revision: revision, in: &space)
        }
        try measure("insert at", 2_000, reads: 65, waits: 9, writes: 105) { array, revision, space, random in
            _ = try array.insert(one, at: random.below(array.count), revision: revision, in: &space)
        }
        try measure("insert 256 at", 100, reads: 65, waits: 9, writes: 256 * 2 + 105) {
            array, revision, space, random in
            _ = try array.insert(values, at: random.below(array.count), revision: revision, in: &space)
        }
        try measure("get at", 1_000, reads: 5, waits: 5, writes: 0) { array, _, space, random in
            _ = try array.element(at: random.below(array.count), in: &space)
        }
        try measure("page of 256", 50, reads: 300, waits: 6, writes: 0) { array, _, space, random in
            _ = try array.page(from: random.below(array.count), limit: 256, in: &space)
        }
        try measure("remove at", 1_000, reads: 65, waits: 9, writes: 105) { array, _, space, random in
            _ = try array.remove(at: random.below(array.count), in: &space)
        }
        try measure("remove 256", 100, reads: 356, waits: 25, writes: 256 * 2 + 105) { array, _, space, random in
            let index = random.below(array.count - 256)
            try array.remove(index..<index + 256, in: &space)
        }
        try measure("get by id", 1_000, reads: 1, waits: 1, writes: 0) { array, _, space, random in
            do { _ = try array.element(1 + random.below(220_000 as UInt64), in: &space) } catch ObjectArray.Failure
                .noElement
            {}
        }
        try measure("trim", 1, reads: 130, waits: 26, writes: 300) { array, _, space, random in
            try array.trim(to: 25_123..<225_321, in: &space)
        }
        try measure("sweep of 256", 100, reads: 286, waits: 11, writes: 256 * 2 + 30) { array, _, space, _ in
            _ = try array.sweep(in: &space)
        }
        try measure("get by id, to be swept", 1_000, reads: 6, waits: 6, writes: 0) { array, _, space, random in
            do { _ = try array.element(1 + random.below(220_000 as UInt64), in: &space) } catch ObjectArray.Failure
                .noElement
            {}
        }
        #expect(bench.head.count == 200_198)
    }

    @Test func aPageOfLargeValuesReadsNoMoreThanItHolds() throws {
        var bench = Bench()
        for _ in 0..<20 {
            _ = try bench.command { array, revision, space in
                try array.append(
                    [Bytes](repeating: Bytes([UInt8](repeating: 1, count: 300_000)), count: 10), revision: revision,
                    in: &space)
            }
        }
        let page = try bench.command { array, _, space in try array.page(from: 3, limit: 200, in: &space) }
        #expect(page.elements.count == 3 && page.next == 6)
        #expect(bench.space.readBytes < 1 << 20)
        // 256 elements with records of their own for their values.
        let values = [Bytes](repeating: Bytes([UInt8](repeating: 1, count: 5_000)), count: 256)
        _ = try bench.command { array, revision, space in
            try array.insert(values, at: 100, revision: revision, in: &space)
        }
        _ = try bench.command { array, _, space in try array.remove(100..<356, in: &space) }
        #expect(bench.space.readBytes < 200_000)
    }

    @Test func boundsAreFailures() throws {
        var bench = Bench()
        let large = Bytes([UInt8](repeating: 1, count: 1_000_000))
        let ids = try bench.command { array, revision, space in
            try array.append([large, large, large, "small"], revision: revision, in: &space)
        }
        #expect(ids == 1..<5)
        // A page ends where it becomes too large, and has one element at least.
        let pages = try bench.command { array, _, space in
            [try array.page(from: 0, limit: 10, in: &space), try array.page(from: 3, limit: 10, in: &space)]
        }
        #expect(pages.map { $0.elements.map(\.id) } == [[1], [4]])
        #expect(pages.map(\.next) == [1, nil])
        bench.fails(.noIndex(count: 4)) { array, _, space in _ = try array.element(at: 4, in: &space) }
        bench.fails(.noIndex(count: 4)) { array, _, space in _ = try array.element(at: UInt64.max, in: &space) }
        bench.fails(.noIndex(count: 4)) { array, _, space in try array.remove(2..<5, in: &space) }
        bench.fails(.noIndex(count: 4)) { array, _, space in try array.trim(to: 2..<5, in: &space) }
        bench.fails(.noIndex(count: 4)) { array, revision, space in
            _ = try array.insert(["x"], at: 5, revision: revision, in: &space)
        }
        bench.fails(.tooManyElements(max: 256)) { array, revision, space in
            _ = try array.append([Bytes](repeating: "x", count: 257), revision: revision, in: &space)
        }
        bench.fails(.valuesTooLarge(max: 3 << 20)) { array, revision, space in
            _ = try array.append([Bytes](repeating: large, count: 4), revision: revision, in: &space)
        }
        let tooLarge = Bytes([UInt8](repeating: 1, count: 1 << 20))
        bench.fails(.valueTooLarge(max: ObjectLimits.valueBytesMax)) { array, revision, space in
            try array.set(4, to: tooLarge, revision: revision, in: &space)
        }
        _ = try bench.command { array, revision, space in
            try array.append([Bytes](repeating: "x", count: 256), revision: revision, in: &space)
        }
        bench.fails(.tooManyElements(max: 256)) { array, _, space in try array.remove(0..<257, in: &space) }
    }

    @Test func aDamagedHeadIsAnError() throws {
        var bench = Bench()
        _ = try bench.command { array, revision, space in
            try array.append(["a", "b"], revision: revision, in: &space)
        }
        let head = bench.head.encoded().array
        for place in head.indices {
            for bit in 0..<8 {
                var bytes = head
                bytes[place] ^= 1 << bit
                guard let damaged = try? ObjectArray.Head(decoding: Bytes(bytes)) else { continue }
                var array = ObjectArray(Bench.key, damaged)
                _ = try? array.page(from: 0, limit: 10, in: &bench.space)
                _ = try? array.trim(to: 1..<2, in: &bench.space)
                _ = try? array.sweep(in: &bench.space)
            }
        }
    }
}
