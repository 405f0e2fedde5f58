// A client copies a group's state from one replica, piece by piece, while others write.

import BifrostSimulator
import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import Storage
import Testing

@Suite struct ClientSnapshotTests {
    private let group = GroupID(1)

    private func trio(_ adjust: (inout HostSettings) -> Void = { _ in }) throws -> Trio {
        try Trio {
            $0.snapshotPieceBytes = 700
            adjust(&$0)
        }
    }

    private func write(_ trio: Trio, _ keys: ClosedRange<Int>, at leader: Int, value: String = "value") throws {
        for key in keys {
            trio.hosts[leader].put("key \(key)", value, group: group, token: UInt64(1_000 + key))
            try trio.tick()
            #expect(trio.hosts[leader].isDone(UInt64(1_000 + key)), "key \(key)")
        }
    }

    private func ask(
        _ host: TestHost, _ snapshot: UInt64 = 5, after: RecordKey? = nil, kind: SnapshotRequest.Kind = .fetch,
        token: UInt64
    ) {
        host.core(of: group).snapshot(
            SnapshotRequest(
                group: group, snapshot: snapshot, kind: kind,
                after: after.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key) }),
            call: CallToken(rawValue: token))
    }

    private func piece(_ host: TestHost, _ token: UInt64) throws -> SnapshotAnswer {
        guard case .done(let result) = host.answer(token) else {
            throw DiskError(.misuse, "token \(token) was answered \(String(describing: host.answer(token)))")
        }
        return try SnapshotAnswer(decoding: result.body)
    }

    private struct Copy {
        var description: SnapshotDescription
        var records: [Record] = []
        var digest = StateDigest()
        var pieces = 0
        var hostDigest: UInt64 = 0
    }

    /// Copies a whole state. `between` is called behind each piece.
    private func copy(
        _ trio: Trio, from place: Int, snapshot: UInt64 = 5, firstToken: UInt64 = 10_000,
        _ between: (Int) throws -> Void = { _ in }
    ) throws -> Copy {
        let host = trio.hosts[place]
        var token = firstToken
        ask(host, snapshot, token: token)
        try trio.tick(20)
        var answer = try piece(host, token)
        var reader = ByteReader(answer.description)
        var copy = Copy(description: try SnapshotDescription(from: &reader))
        while true {
            let piece = try ReceivedPiece(answer.piece, of: copy.description)
            copy.records += piece.records
            piece.add(to: &copy.digest)
            copy.pieces += 1
            #expect(piece.isLast == answer.isLast)
            guard !answer.isLast else { break }
            try between(copy.pieces)
            token += 1
            ask(host, snapshot, after: piece.next, token: token)
            try trio.tick(5)
            answer = try self.piece(host, token)
            #expect(answer.description.isEmpty)
        }
        copy.hostDigest = answer.digest
        return copy
    }

    @Test(arguments: [true, false]) func aReplicaGivesWhatWasAcknowledgedBeforeAndNothingThatCameLater(
        isLeader: Bool
    ) throws {
        let trio = try trio()
        let leader = try trio.leader()
        let place = isLeader ? leader : (leader + 1) % 3
        try write(trio, 1...80, at: leader)
        // Nothing is on disk yet: asking brings it there.
        #expect(trio.hosts[place].inspection(of: group)?.manifestIndex == .zero)
        let copy = try copy(trio, from: place) { pieces in
            try write(trio, 100 + pieces...100 + pieces, at: leader, value: "later")
            try write(trio, 1...1, at: leader, value: "later")
        }
        #expect(copy.pieces > 3 && copy.records.count == 80 && copy.description.records == 80)
        #expect(copy.records.allSatisfy { $0.value == "value" })
        #expect(Set(copy.records.map(\.key.key)) == Set((1...80).map { Bytes("key \($0)") }))
        #expect(copy.hostDigest == copy.digest.value && copy.digest.records == 80)
        #expect(copy.description.base == .zero && copy.description.configuration.voters.count == 3)
    }

    @Test func replicasAtTheSameIndexHaveTheSameDigest() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...30, at: leader)
        try trio.tick(50)
        let copies = try (0..<3).map { try copy(trio, from: $0, firstToken: UInt64(10_000 * ($0 + 1))) }
        #expect(Set(copies.map(\.hostDigest)).count == 1 && Set(copies.map(\.description.index)).count == 1)
    }

    @Test func apieceWhoseAnswerWasLostIsGivenAgainAndCountsOnce() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...80, at: leader)
        let host = trio.hosts[leader]
        var digest = StateDigest()
        var token: UInt64 = 10_000
        ask(host, token: token)
        // The same again before there is an answer, and after it.
        ask(host, token: token + 1)
        try trio.tick(20)
        #expect(host.refusal(token) != nil || host.isDone(token))
        let first = try piece(host, token + 1)
        ask(host, token: token + 2)
        try trio.tick(5)
        #expect(try piece(host, token + 2) == first)
        token += 3
        var reader = ByteReader(first.description)
        let description = try SnapshotDescription(from: &reader)
        var answer = first
        while true {
            let piece = try ReceivedPiece(answer.piece, of: description)
            piece.add(to: &digest)
            guard !answer.isLast else { break }
            for _ in 0..<2 {
                token += 1
                ask(host, after: piece.next, token: token)
                try trio.tick(5)
                answer = try self.piece(host, token)
            }
        }
        #expect(answer.digest == digest.value && digest.records == 80)
        // A position that it never gave has no digest: the client begins anew.
        ask(host, after: RecordKey(slot: Slot(1), machine: SubMachineNumber(1), key: "nowhere"), token: 90_000)
        ask(host, 77, after: RecordKey(slot: Slot(1), machine: SubMachineNumber(1), key: "nowhere"), token: 90_001)
        try trio.tick(2)
        for token in [90_000, 90_001] as [UInt64] {
            guard case .invalid = host.refusal(token) else {
                Issue.record("\(String(describing: host.answer(token)))")
                continue
            }
        }
    }

    @Test func thereIsABoundAndAnEndAndFollowersDoNotWaitForClients() throws {
        let trio = try trio { $0.clientSnapshotsMax = 2 }
        let leader = try trio.leader()
        try write(trio, 1...40, at: leader)
        let host = trio.hosts[leader]
        for snapshot in 1...3 as ClosedRange<UInt64> { ask(host, snapshot, token: 10_000 + snapshot) }
        try trio.tick(20)
        #expect(host.isDone(10_001) && host.isDone(10_002))
        guard case .overloaded = host.refusal(10_003) else {
            Issue.record("\(String(describing: host.answer(10_003)))")
            return
        }
        // Released, there is room at once.
        ask(host, 1, kind: .release, token: 10_004)
        ask(host, 4, token: 10_005)
        try trio.tick(20)
        #expect(host.isDone(10_004) && host.isDone(10_005))
        // Nobody asks: after two minutes nothing is kept, and there is room again.
        try trio.tick(121 * 20)
        ask(host, 5, token: 10_006)
        ask(host, 6, token: 10_007)
        try trio.tick(20)
        #expect(host.isDone(10_006) && host.isDone(10_007))
        let next = try ReceivedPieceProbe.next(try piece(host, 10_005))
        ask(host, 4, after: next, token: 10_008)
        try trio.tick(2)
        guard case .invalid = host.refusal(10_008) else {
            Issue.record("\(String(describing: host.answer(10_008)))")
            return
        }
    }

    // MARK: States that take long

    /// A replica whose state is in two runs, so that its records have to be counted, some at a time.
    private func inTwoRuns(_ trio: Trio, at leader: Int) throws {
        try write(trio, 1...40, at: leader)
        ask(trio.hosts[leader], 900, token: 900)
        try trio.tick(20)
        ask(trio.hosts[leader], 900, kind: .release, token: 901)
        try write(trio, 41...80, at: leader)
        #expect(trio.hosts[leader].isDone(900) && trio.hosts[leader].isDone(901))
    }

    /// Its runs have the damage that this replica just got rid of.
    @Test func aCopyOfADamagedStateEndsWithIt() throws {
        let trio = try trio()
        let leader = try trio.leader()
        let host = trio.hosts[(leader + 1) % 3]
        try write(trio, 1...40, at: leader)
        ask(host, token: 900)
        try trio.tick(20)
        let answer = try piece(host, 900)
        #expect(!answer.isLast)
        var reader = ByteReader(answer.description)
        let records = try ReceivedPiece(answer.piece, of: SnapshotDescription(from: &reader)).records
        host.core.stateDamaged(group: group, "a test")
        func isMended() -> Bool { host.notices.contains { $0.contains("goes on from a snapshot") } }
        for _ in 0..<200 where !isMended() { try trio.tick() }
        #expect(isMended())
        ask(host, after: try #require(records.last).key, token: 901)
        try trio.tick(20)
        #expect(host.refusal(901) != nil, "\(String(describing: host.answer(901)))")
    }

    /// Lets the reads that are held go on by one slice.
    private func slice(_ trio: Trio, _ host: TestHost) throws {
        host.holdsSnapshotReads = false
        try host.turn()
        host.holdsSnapshotReads = true
        try host.turn()
    }

    @Test func aStateThatTakesLongToCountIsAskedForAgainAndCountedOnce() throws {
        let trio = try trio { $0.snapshotCountBytes = 300 }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        try inTwoRuns(trio, at: leader)
        host.holdsSnapshotReads = true
        ask(host, 2, token: 2)
        try trio.tick(20)
        #expect(host.heldSnapshotReads.count == 1 && host.answer(2) == nil)
        var counted: UInt64 = 0
        var token: UInt64 = 2
        var slices = 0
        while slices < 100 {
            try slice(trio, host)
            slices += 1
            if host.answer(token) != nil { break }
            // Whoever waits is told within two seconds how far it is, and asks again under the same number.
            guard slices % 3 == 0 else { continue }
            try trio.tick(41)
            let word = try piece(host, token)
            let records = try #require(word.countedRecords, "slice \(slices): \(word)")
            #expect(records > counted && records < 80)
            counted = records
            token += 1
            ask(host, 2, token: token)
            try trio.tick()
        }
        #expect(slices > 6 && counted > 20, "\(slices) slices, \(counted) records counted")
        let first = try piece(host, token)
        var reader = ByteReader(first.description)
        #expect(try SnapshotDescription(from: &reader).records == 80)
        #expect(first.countedRecords == nil && !first.piece.isEmpty)
    }

    @Test func recordsAreCountedForOneClientAtATime() throws {
        let trio = try trio { $0.snapshotCountBytes = 300 }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        try inTwoRuns(trio, at: leader)
        host.holdsSnapshotReads = true
        ask(host, 2, token: 2)
        ask(host, 3, token: 3)
        try trio.tick(20)
        for _ in 0..<5 {
            #expect(host.heldSnapshotReads.count == 1)
            try slice(trio, host)
        }
        host.holdsSnapshotReads = false
        try trio.tick(100)
        let answers = try [2, 3].map { try piece(host, $0) }
        // One of them was told meanwhile that it has to wait, and asks again.
        for (place, answer) in answers.enumerated() where answer.countedRecords != nil {
            ask(host, UInt64(place + 2), token: UInt64(place + 12))
            try trio.tick(5)
            #expect(try !piece(host, UInt64(place + 12)).description.isEmpty)
        }
    }

    @Test func whatAClientLeavesBehindIsLetGoOf() throws {
        let trio = try trio {
            $0.snapshotCountBytes = 300
            $0.clientSnapshotsMax = 2
        }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        try inTwoRuns(trio, at: leader)
        func expectRoom(_ first: UInt64) throws {
            for snapshot in first...first + 1 { ask(host, snapshot, token: snapshot) }
            try trio.tick(100)
            for snapshot in first...first + 1 {
                #expect(host.isDone(snapshot), "\(String(describing: host.answer(snapshot)))")
                ask(host, snapshot, kind: .release, token: snapshot + 50)
            }
            try trio.tick(2)
        }
        // Nobody asks any more while it counts: after two minutes there is room again, and before if the client says so.
        host.holdsSnapshotReads = true
        ask(host, 2, token: 2)
        ask(host, 3, token: 3)
        try trio.tick(122 * 20)
        host.holdsSnapshotReads = false
        try trio.tick(2)
        try expectRoom(100)
        host.holdsSnapshotReads = true
        ask(host, 4, token: 4)
        ask(host, 5, token: 5)
        try trio.tick(20)
        ask(host, 4, kind: .release, token: 6)
        ask(host, 5, kind: .release, token: 7)
        host.holdsSnapshotReads = false
        try trio.tick(2)
        try expectRoom(200)
        // The same of one that is still to get to the disk.
        try write(trio, 81...90, at: leader)
        host.holdsStore = true
        ask(host, 8, token: 8)
        ask(host, 9, token: 9)
        try trio.tick(20)
        ask(host, 8, kind: .release, token: 10)
        ask(host, 9, kind: .release, token: 11)
        try trio.tick(2)
        #expect(host.refusal(8) != nil && host.refusal(9) != nil)
        ask(host, 300, token: 300)
        ask(host, 301, token: 301)
        try trio.tick(45)
        // Whoever waits for the disk hears that the host is at it.
        for token in [300, 301] as [UInt64] { #expect(try piece(host, token).countedRecords == 0) }
        host.holdsStore = false
        ask(host, 300, kind: .release, token: 302)
        ask(host, 301, kind: .release, token: 303)
        try trio.tick(20)
        try expectRoom(400)
    }

    /// A number that comes again, or is also another group's, names one state: the one that is meant now.
    @Test func aNumberThatComesAgainIsOfTheStateThatIsAskedForNow() throws {
        let trio = try Trio(groups: 2) { $0.snapshotPieceBytes = 700 }
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        let keys = (1...60).filter { trio.map.ring.owner(of: slot(of: Bytes("key \($0)"))) == group }
        for key in keys[..<10] { try write(trio, key...key, at: leader) }
        host.holdsSnapshotReads = true
        ask(host, 5, token: 1)
        try trio.tick(20)
        // Read by now, and not answered.
        #expect(host.heldSnapshotReads.count == 1)
        ask(host, 5, kind: .release, token: 2)
        for key in keys[10..<20] { try write(trio, key...key, at: leader) }
        ask(host, 5, token: 3)
        host.core(of: GroupID(2)).snapshot(
            SnapshotRequest(group: GroupID(2), snapshot: 5, kind: .fetch), call: CallToken(rawValue: 4))
        try trio.tick(20)
        host.holdsSnapshotReads = false
        try trio.tick(20)
        guard case .done(let result) = host.answer(3), case .done = host.answer(4) else {
            Issue.record("\(String(describing: host.answer(3))), \(String(describing: host.answer(4)))")
            return
        }
        var reader = ByteReader(try SnapshotAnswer(decoding: result.body).description)
        let description = try SnapshotDescription(from: &reader)
        #expect(description.group == group && description.index == result.index && description.records == 20)
        var other = ByteReader(try piece(host, 4).description)
        #expect(try SnapshotDescription(from: &other).group == GroupID(2))
    }

    @Test func whoHearsNoLeaderOrHasNoSuchGroupSaysSo() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...5, at: leader)
        let away = (leader + 1) % 3
        trio.cut(away)
        ask(trio.hosts[away], token: 1)
        trio.hosts[leader].core.snapshot(
            SnapshotRequest(group: GroupID(44), snapshot: 1, kind: .fetch), call: CallToken(rawValue: 2))
        try trio.tick(100)
        #expect(trio.hosts[away].refusal(1) != nil, "\(String(describing: trio.hosts[away].answer(1)))")
        #expect(trio.hosts[leader].refusal(2) == .unknownGroup)
        trio.join(away)
        try trio.tick(100)
        ask(trio.hosts[away], 9, token: 3)
        try trio.tick(20)
        #expect(trio.hosts[away].isDone(3))
    }

    @Test func aDamagedStateIsNotGiven() throws {
        let trio = try trio()
        let leader = try trio.leader()
        try write(trio, 1...60, at: leader, value: String(repeating: "v", count: 100))
        let host = trio.hosts[leader]
        ask(host, token: 1)
        try trio.tick(20)
        let next = try ReceivedPieceProbe.next(try piece(host, 1))
        for (key, value) in host.storeDisk.contents() where value.count > 500 {
            host.storeDisk.flipBit(in: key, bit: 8 * value.count / 2)
        }
        var token: UInt64 = 2
        var position = next
        for _ in 0..<60 {
            ask(host, after: position, token: token)
            try trio.tick(2)
            guard case .done = host.answer(token) else { break }
            guard let further = try ReceivedPieceProbe.next(try piece(host, token)) else { break }
            position = further
            token += 1
        }
        #expect(host.refusal(token) != nil, "\(String(describing: host.answer(token)))")
    }
}

/// Where a piece ends, without its snapshot.
private enum ReceivedPieceProbe {
    /// The length of its last key is at 46, and the key stands before the checksum.
    static func next(_ answer: SnapshotAnswer) throws -> RecordKey? {
        guard !answer.isLast else { return nil }
        let piece = answer.piece
        var reader = ByteReader(piece[46..<48])
        let count = Int(try reader.read(UInt16.self))
        return RecordKey(sortKey: piece[piece.count - 4 - count..<piece.count - 4])
    }
}
