// The record of what happened in a run: a hash over all events, the last of them for the report of a violation, and
// each as a line for whoever reads along. Owns the words; refuses to know what the events do.

import Primitives

/// What an event was. `name` is a sentence with places: `%a` to `%d` for the numbers; `%h` and `%i` for `a` and `b` as
/// hosts or clients, which people count from 1; `%x` and `%y` for `a` and `b` as endpoints, which may be either.
struct TraceNote {
    /// From here on an endpoint's number means a client.
    static let firstClient: UInt64 = 1 << 32

    var time: UInt64 = 0
    var name: StaticString = ""
    var a: UInt64 = 0
    var b: UInt64 = 0
    var c: UInt64 = 0
    var d: UInt64 = 0
}

/// A line of text in memory that is there already: a signal handler, which may not allocate, can write one.
struct TraceLine {
    private let bytes: UnsafeMutableRawBufferPointer
    private(set) var count = 0

    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    /// What does not fit is left out.
    mutating func write(_ byte: UInt8) {
        guard count < bytes.count else { return }
        bytes[count] = byte
        count += 1
    }

    mutating func write(_ number: UInt64, digits: Int = 1) {
        var power: UInt64 = 1
        var length = 1
        while number / power >= 10 || length < digits {
            power *= 10
            length += 1
        }
        while power > 0 {
            write(UInt8(48 + number / power % 10))
            power /= 10
        }
    }

    mutating func write(_ note: TraceNote) {
        let micros = note.time / 1_000
        write(micros / 1_000_000)
        write(46)
        write(micros % 1_000_000, digits: 6)
        write(32)
        write(32)
        var place = 0
        let name = note.name.utf8Start
        let length = note.name.utf8CodeUnitCount
        while place < length {
            let byte = name[place]
            place += 1
            guard byte == 37, place < length else {
                write(byte)
                continue
            }
            switch name[place] {
            case 97: write(note.a)
            case 98: write(note.b)
            case 99: write(note.c)
            case 100: write(note.d)
            case 104: write(note.a + 1)
            case 105: write(note.b + 1)
            case 120: writeEndpoint(note.a)
            case 121: writeEndpoint(note.b)
            default: break
            }
            place += 1
        }
    }

    private mutating func write(_ text: StaticString) {
        for place in 0..<text.utf8CodeUnitCount { write(text.utf8Start[place]) }
    }

    private mutating func writeEndpoint(_ number: UInt64) {
        if number >= TraceNote.firstClient {
            write("client ")
            write(number - TraceNote.firstClient + 1)
        } else {
            write("host ")
            write(number + 1)
        }
    }
}

/// The last events, and a hash over all of them: the same seed gives the same hash.
struct SimulationTrace {
    private(set) var hash: UInt64 = 0
    private(set) var count: UInt64 = 0
    let last = SimulationLastEvents()

    mutating func note(_ note: TraceNote) {
        var numbers = mix(note.a) &+ note.b
        if note.c | note.d != 0 { numbers = mix(numbers ^ note.c) &+ note.d }
        hash = mix(hash ^ note.time ^ mix(UInt64(note.name.utf8CodeUnitCount) ^ numbers))
        last.ring[Int(count % UInt64(SimulationLastEvents.kept))] = note
        count += 1
        last.count.pointee = count
    }
}

/// The last events of a run, in memory that never moves: whoever reports a trap in a signal handler reads them there.
public final class SimulationLastEvents {
    /// How many are kept.
    public static let kept = 50
    /// A longer line is cut.
    private static let lineBytesMax = 256

    fileprivate let ring: UnsafeMutablePointer<TraceNote>
    fileprivate let count: UnsafeMutablePointer<UInt64>
    private let line: UnsafeMutableRawBufferPointer

    init() {
        ring = .allocate(capacity: Self.kept)
        ring.initialize(repeating: TraceNote(), count: Self.kept)
        count = .allocate(capacity: 1)
        count.initialize(to: 0)
        line = .allocate(byteCount: Self.lineBytesMax, alignment: 1)
    }

    deinit {
        ring.deallocate()
        count.deallocate()
        line.deallocate()
    }

    /// Each line, oldest first, without a line break. Allocates nothing. The bytes are valid during the call only.
    public func forEachLine(_ body: (UnsafeRawBufferPointer) -> Void) {
        let count = count.pointee
        var number = count > UInt64(Self.kept) ? count - UInt64(Self.kept) : 0
        while number < count {
            var text = TraceLine(line)
            text.write(ring[Int(number % UInt64(Self.kept))])
            body(UnsafeRawBufferPointer(start: line.baseAddress, count: text.count))
            number += 1
        }
    }

    /// The last event as a line.
    var newest: String {
        var text = TraceLine(line)
        text.write(ring[Int((count.pointee &- 1) % UInt64(Self.kept))])
        return String(decoding: UnsafeRawBufferPointer(start: line.baseAddress, count: text.count), as: UTF8.self)
    }

    var lines: [String] {
        var lines: [String] = []
        forEachLine { lines.append(String(decoding: $0, as: UTF8.self)) }
        return lines
    }
}
