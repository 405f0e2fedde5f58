// The state machine that `bifrost measure queries` asks: blocks of bytes under a tag, and a query that computes over some
// of them. `serve` has it only where it is told so, as it belongs to no cluster that is in use.

import Messages
import Primitives
import StateMachines

enum QueryLoad: StateMachine {
    static let number = SubMachineNumber(65_000)
    static let commands: [any MachineCommand<QueryLoad>.Type] = [PutBlock.self]
    static let queries: [any MachineQuery<QueryLoad>.Type] = [SumBlocks.self]

    static let blockBytes = 1_024
    /// Of one tag.
    static let blocksMax: UInt32 = 64
    static let passesMax: UInt32 = 1_024

    enum Reason {
        static let beyondBounds: UInt32 = 1
    }

    static func key(of tag: Bytes) -> Bytes { Bytes([UInt8(ascii: "{")] + tag.array + [UInt8(ascii: "}")]) }
    static func key(of tag: Bytes, _ place: UInt32) -> Bytes { Bytes(key(of: tag).array + Array("/\(place)".utf8)) }

    static func block(seed: UInt64) -> Bytes {
        var random = SeededRandom(seed: seed)
        return Bytes(count: blockBytes) { buffer in
            for offset in stride(from: 0, to: blockBytes, by: 8) {
                buffer.storeBytes(of: random.next().littleEndian, toByteOffset: offset, as: UInt64.self)
            }
        }
    }

    /// Byte by byte, each of which needs what came of the one before: nothing here can be done several at a time.
    static func add(_ block: Bytes, to sum: inout UInt64) {
        block.withUnsafeBytes { bytes in
            for byte in bytes { sum = sum &* 0x100_0000_01b3 ^ UInt64(byte) }
        }
    }
}

/// `place u32 | seed u64 | tag: rest`. Answers the seed: u64.
struct PutBlock: MachineCommand {
    typealias Machine = QueryLoad
    static let number: UInt16 = 1
    var tag: Bytes
    var place: UInt32
    var seed: UInt64
    var key: Bytes { QueryLoad.key(of: tag) }
    /// It reads none.
    var readKeys: [Bytes] { [] }

    struct Answer: Message {
        var seed: UInt64
        init(seed: UInt64) { self.seed = seed }
        func encode(into writer: inout ByteWriter) { writer.write(seed) }
        init(from reader: inout ByteReader) throws(DecodingFailure) { seed = try reader.read() }
    }

    init(tag: Bytes, place: UInt32, seed: UInt64) { (self.tag, self.place, self.seed) = (tag, place, seed) }

    func apply(in context: inout MachineContext) throws -> Answer {
        guard place < QueryLoad.blocksMax else {
            throw MachineFailure(
                QueryLoad.Reason.beyondBounds, "a block's place is below \(QueryLoad.blocksMax), not \(place)",
                details: Bytes("\(place)"))
        }
        try context.put(QueryLoad.key(of: tag, place), QueryLoad.block(seed: seed))
        return Answer(seed: seed)
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(place)
        writer.write(seed)
        writer.write(tag)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        place = try reader.read()
        seed = try reader.read()
        tag = reader.readRest()
    }
}

/// `blocks u32 | passes u32 | tag: rest`. Answers the sum over the first blocks of the tag, in 16 hexadecimal digits.
struct SumBlocks: MachineQuery {
    typealias Machine = QueryLoad
    static let number: UInt16 = 1
    var tag: Bytes
    var blocks: UInt32
    /// How often each block is gone through: how long the query computes.
    var passes: UInt32
    var key: Bytes { QueryLoad.key(of: tag) }
    var readKeys: [Bytes] { (0..<min(blocks, QueryLoad.blocksMax)).map { QueryLoad.key(of: tag, $0) } }

    struct Answer: Message {
        var text: Bytes
        init(sum: UInt64) { text = Bytes(hexadecimal(sum)) }
        func encode(into writer: inout ByteWriter) { writer.write(text) }
        init(from reader: inout ByteReader) throws(DecodingFailure) { text = reader.readRest() }
    }

    init(tag: Bytes, blocks: UInt32, passes: UInt32) { (self.tag, self.blocks, self.passes) = (tag, blocks, passes) }

    func answer(in view: inout MachineView) throws -> Answer {
        guard blocks <= QueryLoad.blocksMax, passes <= QueryLoad.passesMax else {
            throw MachineFailure(
                QueryLoad.Reason.beyondBounds,
                "a sum is over at most \(QueryLoad.blocksMax) blocks and \(QueryLoad.passesMax) passes")
        }
        var values: [Bytes] = []
        for key in readKeys { if let record = try view.get(key) { values.append(record.value) } }
        return Answer(sum: Self.sum(of: values, passes: passes))
    }

    static func sum(of blocks: [Bytes], passes: UInt32) -> UInt64 {
        var sum: UInt64 = 0
        for _ in 0..<passes { for block in blocks { QueryLoad.add(block, to: &sum) } }
        return sum
    }

    func encode(into writer: inout ByteWriter) {
        writer.write(blocks)
        writer.write(passes)
        writer.write(tag)
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        blocks = try reader.read()
        passes = try reader.read()
        tag = reader.readRest()
    }
}
