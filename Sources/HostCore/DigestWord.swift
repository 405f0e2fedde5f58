// What replicas tell each other of their digests, and what one keeps of that.

package import Primitives
package import StateMachines

/// What a replica had when it had applied the entry of a point of comparison.
package struct DigestPoint: Hashable, Sendable {
    package var index: LogIndex
    package var digest: UInt64
    /// Nil: it did not apply all of the interval before, as one that began within it.
    package var interval: IntervalDigests?

    package init(index: LogIndex, digest: UInt64, interval: IntervalDigests?) {
        self.index = index
        self.digest = digest
        self.interval = interval
    }
}

/// A replica's word on one such point.
package struct DigestWord: Hashable, Sendable {
    package var group: GroupID
    /// Whose it is.
    package var replica: ReplicaID
    /// It wants to know what the receiver had there.
    package var asks: Bool
    package var point: DigestPoint

    package init(group: GroupID, replica: ReplicaID, asks: Bool, point: DigestPoint) {
        self.group = group
        self.replica = replica
        self.asks = asks
        self.point = point
    }

    /// More than this version sends.
    static let encodedBytesMax = 4 << 10
    private static var machineBytes: Int { 18 }

    /// About.
    var encodedBytes: Int { 48 + (point.interval?.machines.count ?? 0) * Self.machineBytes }

    func encode(into writer: inout ByteWriter) {
        writer.write(asks)
        writer.write(group)
        writer.write(replica)
        writer.write(point.index)
        writer.write(point.digest)
        writer.write(point.interval != nil)
        guard let interval = point.interval else { return }
        writer.write(interval.before)
        writer.write(UInt16(interval.machines.count))
        for part in interval.machines {
            writer.write(part.machine)
            writer.write(part.changes)
            writer.write(part.sum)
        }
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
        asks = try reader.readBool()
        group = try reader.read()
        replica = try reader.read()
        point = DigestPoint(index: try reader.read(), digest: try reader.read(), interval: nil)
        guard try reader.readBool() else { return }
        var interval = IntervalDigests(before: try reader.read(), machines: [])
        let count = Int(try reader.read(UInt16.self))
        guard count <= IntervalDigests.machinesMax else {
            throw DecodingFailure(expected: "at most \(IntervalDigests.machinesMax) sub machines", found: "\(count)")
        }
        try reader.check(count: count, ofSize: Self.machineBytes)
        for _ in 0..<count {
            let part = MachineDigest(machine: try reader.read(), changes: try reader.read(), sum: try reader.read())
            if let last = interval.machines.last, last.machine >= part.machine {
                throw DecodingFailure(
                    expected: "sub machines that ascend", found: "\(part.machine) after \(last.machine)")
            }
            interval.machines.append(part)
        }
        point.interval = interval
    }
}

/// Of one replica: its own last points, and what other members said of theirs. Bounded whatever others say.
struct ReplicaDigests {
    /// Another's differs, and no majority agrees with either.
    struct Doubt {
        var index: LogIndex
        var sinceTick: UInt64
        /// For operators, once it was said to them.
        var text: String?
    }

    /// Ascending. Some of them are older, for members that are behind.
    private(set) var points: [DigestPoint] = []
    /// In the order in which they came.
    private var words: [(member: ReplicaID, point: DigestPoint)] = []
    /// Reached, and not compared yet.
    var fresh: [DigestPoint] = []
    /// The last at which a majority of the voters had the same.
    var agreed = LogIndex.zero
    var doubt: Doubt?
    /// It stands still because a majority has another state.
    var isOutvoted = false

    private static let pointsMax = 8
    /// Of the older half of the points, the multiples of so many intervals stay longest.
    private static let intervalsOfLasting: UInt64 = 16
    private static let wordsOfMemberMax = 4

    func point(at index: LogIndex) -> DigestPoint? { points.last { $0.index == index } }

    /// The newest of a member's words on this point.
    func word(of member: ReplicaID, at index: LogIndex) -> DigestPoint? {
        words.last { $0.member == member && $0.point.index == index }?.point
    }

    mutating func keep(_ point: DigestPoint, interval entries: UInt64) {
        points.append(point)
        guard points.count > Self.pointsMax else { return }
        let older = points.dropLast(Self.pointsMax / 2)
        points.remove(at: older.firstIndex { $0.index.rawValue / entries % Self.intervalsOfLasting != 0 } ?? 0)
    }

    /// - Parameter members: those that may still have a say.
    mutating func keep(_ word: DigestPoint, of member: ReplicaID, members: [ReplicaID]) {
        words.removeAll { $0.member == member && $0.point.index == word.index || !members.contains($0.member) }
        if words.count(where: { $0.member == member }) >= Self.wordsOfMemberMax,
            let first = words.firstIndex(where: { $0.member == member })
        {
            words.remove(at: first)
        }
        words.append((member, word))
    }

    /// The replica begins anew, on another state.
    mutating func beginAgain() {
        points = []
        fresh = []
        doubt = nil
        isOutvoted = false
    }
}
