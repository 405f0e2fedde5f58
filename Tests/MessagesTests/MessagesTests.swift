import Messages
import Primitives
import Ring
import TestSupport
import Testing

private func sampleMap() throws -> ClusterMap {
    let hosts = (1...3).map {
        HostRecord(
            id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)", zone: "z",
            incarnation: Incarnation(UInt64($0) << 40))
    }
    return try Planner.firstMap(cluster: ClusterID(high: 5, low: 6), hosts: hosts, groups: 4, replicas: 3)
}

private func sampleStatus() -> HostStatus {
    var status = HostStatus()
    status.cluster = ClusterID(high: 1, low: 2)
    status.host = HostID(3)
    status.incarnation = Incarnation(4)
    status.bootCounter = 5
    status.featureLevel = 6
    status.version = "0.1.0"
    status.name = "ada"
    status.address = "127.0.0.1:7001"
    status.uptimeMillis = 7
    status.mapVersion = 8
    status.ringEpoch = Epoch(9)
    status.cpuMicros = 10
    status.memoryBytes = 11
    status.journalBytes = 12
    status.storeBytes = 13
    status.commits = 14
    status.committedEntries = 15
    status.syncP50Micros = 16
    status.syncP99Micros = 17
    status.peersConnected = 18
    status.badFrames = 19
    status.overloads = 20
    status.problem = "disk full"
    for number in 1...3 as ClosedRange<UInt64> {
        var replica = ReplicaStatus(group: GroupID(UInt32(number)), replica: ReplicaID(number + 1))
        replica.role = ReplicaRole(rawValue: UInt8(number))!
        replica.isImpaired = number == 2
        replica.isQuorumActive = number == 3
        replica.term = Term(number + 2)
        replica.leader = ReplicaID(number + 3)
        replica.firstIndex = LogIndex(number + 4)
        replica.lastIndex = LogIndex(number + 5)
        replica.commitIndex = LogIndex(number + 6)
        replica.appliedIndex = LogIndex(number + 7)
        replica.digest = number + 8
        replica.digestIndex = LogIndex(number + 9)
        replica.revision = Revision(number + 10)
        replica.logTime = LogTime(number + 11)
        replica.records = number + 12
        replica.manifestIndex = LogIndex(number + 13)
        replica.runs = UInt32(number + 14)
        replica.checkpoints = number + 15
        replica.merges = number + 16
        replica.memtableBytes = number + 17
        replica.logBytes = number + 18
        replica.commands = number + 19
        replica.problem = number == 2 ? "entry 9 has an unknown kind" : ""
        status.replicas.append(replica)
    }
    return status
}

private func samplePage() -> PageResult {
    PageResult(
        index: LogIndex(8), revision: Revision(5),
        records: [
            PageRecord(
                position: RecordPosition(slot: Slot(1), machine: SubMachineNumber(1), key: "a"), revision: Revision(2),
                value: "first"),
            PageRecord(
                position: RecordPosition(slot: Slot(1), machine: SubMachineNumber(1), key: "b"), revision: Revision(4),
                expiry: LogTime(99), value: ""),
            PageRecord(
                position: RecordPosition(slot: .group, machine: SubMachineNumber(2), key: "head"),
                revision: Revision(1), value: "x"),
        ], next: RecordPosition(slot: Slot(7), machine: SubMachineNumber(1), key: "next"))
}

private let refusals: [Refusal] = [
    .notLeader(leader: HostID(3), term: Term(9)), .moved(group: GroupID(4), epoch: Epoch(7)),
    .overloaded(retryAfterMillis: 20),
    .noQuorum, .outcomeUnknown, .invalid("no"), .tooLarge("much"), .unknownGroup, .unavailable("stopping"),
]

/// Checks that a message comes back from its bytes, that no shorter bytes give a message unless `isOpen` (the end of
/// the
/// frame is its end), and that damage never traps.
private func check<Sample: Message>(_ sample: Sample, isOpen: Bool = false, seed: UInt64 = 1, rounds: Int = 600) throws
{
    let bytes = sample.encoded()
    #expect(try Sample(decoding: bytes) == sample)
    if !isOpen {
        for length in 0..<min(bytes.count, 400) {
            #expect(throws: DecodingFailure.self) { try Sample(decoding: bytes[0..<length]) }
        }
        #expect(throws: DecodingFailure.self) { try Sample(decoding: Bytes(bytes.array + [0])) }
    }
    mutate(bytes, seed: seed, rounds: rounds) { damaged in
        guard let message = try? Sample(decoding: damaged) else { return }
        // What decodes says something of its own that survives again.
        #expect((try? Sample(decoding: message.encoded())) == message)
    }
}

@Suite struct RoundTripTests {
    @Test func dataRequests() throws {
        for position in [nil, RecordPosition(slot: Slot(1), machine: SubMachineNumber(1), key: "key")] {
            for kind in SnapshotRequest.Kind.allCases {
                try check(SnapshotRequest(group: GroupID(3), snapshot: 7, kind: kind, after: position))
            }
        }
        #expect(throws: DecodingFailure.self, "a snapshot without a number") {
            _ = try SnapshotRequest(
                decoding: SnapshotRequest(group: GroupID(3), snapshot: 0, kind: .fetch).encoded())
        }
        try check(SnapshotAnswer(isLast: true, digest: 9, description: "what", piece: "records"))
        try check(SnapshotAnswer(isLast: false, digest: 0, description: Bytes(), piece: "records"))
        try check(ExecuteRequest(group: GroupID(3), epoch: Epoch(4), slot: Slot(5), payload: "payload"), isOpen: true)
        try check(ExecuteRequest(group: GroupID(3), epoch: Epoch(4), slot: Slot(5), payload: Bytes()), isOpen: true)
        for consistency in Consistency.allCases {
            try check(
                QueryRequest(
                    group: GroupID(3), epoch: Epoch(4), slot: Slot(5), machine: SubMachineNumber(1),
                    consistency: consistency,
                    bound: 77, query: "question"), isOpen: true)
        }
        try check(PageRequest(group: GroupID(2), from: nil, bytesMax: 1_000))
        let position = RecordPosition(slot: Slot(9), machine: SubMachineNumber(1), key: "last")
        try check(PageRequest(group: GroupID(2), consistency: .local, from: position, bytesMax: 1_000))
    }

    @Test func dataResponses() throws {
        try check(Response.done(DataResult(index: LogIndex(3), revision: Revision(2), body: "body")), isOpen: true)
        try check(Response.done(samplePage()))
        for refusal in refusals {
            try check(refusal)
            try check(Response<PageResult>.refused(refusal))
            try check(Response<DataResult>.refused(refusal))
        }
    }

    @Test func clusterMessages() throws {
        let map = try sampleMap()
        try check(MapRequest(known: 7))
        try check(MapReply.notInitialised)
        try check(MapReply.unchanged(version: 7))
        try check(MapReply.map(map), rounds: 200)
        try check(InitialiseRequest(host: HostID(2), incarnation: Incarnation(9), map: map), rounds: 200)
        for reply in [InitialiseReply.done, .already(ClusterID(high: 1, low: 2)), .refused("tmpfs")] {
            try check(reply)
        }
        try check(
            JoinRequest(
                cluster: ClusterID(high: 1, low: 2), host: HostID(3), incarnation: Incarnation(4), featureLevel: 1,
                weight: 50, name: "ada", address: "127.0.0.1:7001", zone: "north"))
        let joins: [JoinReply] = [
            .accepted(cluster: ClusterID(high: 1, low: 2), host: HostID(3), mapVersion: 4), .notInitialised,
            .notLeader(host: HostID(2), address: "127.0.0.1:7002"), .refused("no"), .retry(afterMillis: 100),
        ]
        for reply in joins { try check(reply) }
        try check(PingRequest(nonce: 5))
        try check(
            PingReply(
                nonce: 5, cluster: .none, host: HostID(0), incarnation: Incarnation(4), bootCounter: 2, featureLevel: 1,
                mapVersion: 0, name: "ada", address: "127.0.0.1:7001", zone: ""))
        try check(StatusRequest())
        try check(UpkeepRequest())
        var upkeep = HostUpkeep()
        try check(upkeep)
        upkeep.scrubbedBytes = 1
        upkeep.scrubRounds = 2
        upkeep.lastRoundBytes = 3
        upkeep.sinceRoundMillis = 4
        upkeep.damages = 5
        try check(upkeep)
    }

    @Test func administration() throws {
        try check(AdministerRequest(payload: "header and command"))
        try check(AdministerRequest(payload: Bytes()))
        try check(TransferRequest(group: GroupID(3)))
        try check(TransferRequest(group: GroupID(3), to: ReplicaID(9)))
        let replies: [AdministerReply] = [
            .done("outcome"), .done(Bytes()), .refused("no"), .notLeader(address: "127.0.0.1:7002"),
            .notLeader(address: ""), .outcomeUnknown,
        ]
        for reply in replies { try check(reply) }
    }

    @Test func hostStatus() throws {
        try check(sampleStatus(), rounds: 2_000)
        try check(HostStatus())
        // The stated least size of a replica is the real one: counts from outside are checked against it.
        var one = HostStatus()
        one.replicas = [ReplicaStatus(group: GroupID(1), replica: ReplicaID(1))]
        #expect(one.encoded().count - HostStatus().encoded().count == 159)
    }
}

/// Bytes of this version, as other versions and other languages see them. They don't change.
@Suite struct GoldenBytesTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test func dataService() {
        #expect(
            hex(
                ExecuteRequest(group: GroupID(0x0102_0304), epoch: Epoch(5), slot: Slot(0x1234), payload: "ab")
                    .encoded())
                == "04030201" + "0500000000000000" + "3412" + "0000" + "6162")
        #expect(
            hex(
                QueryRequest(
                    group: GroupID(1), epoch: Epoch(2), slot: Slot(3), machine: SubMachineNumber(4),
                    consistency: .local,
                    bound: 5, query: "q"
                ).encoded())
                == "01000000" + "0200000000000000" + "0300" + "0400" + "02" + "000000" + "0500000000000000" + "71")
        #expect(
            hex(
                PageRequest(
                    group: GroupID(1), from: RecordPosition(slot: Slot(2), machine: SubMachineNumber(3), key: "k"),
                    bytesMax: 4
                ).encoded())
                == "01000000" + "00" + "01" + "0200" + "0300" + "01000000" + "6b" + "04000000")
        #expect(
            hex(Response.done(DataResult(index: LogIndex(1), revision: Revision(2), body: "b")).encoded())
                == "00" + "0100000000000000" + "0200000000000000" + "62")
        var writer = ByteWriter()
        DataResult.encodeDone(index: LogIndex(1), revision: Revision(2), into: &writer)
        writer.write(Bytes("b"))
        let bytes = writer.take()
        #expect(bytes == Response.done(DataResult(index: LogIndex(1), revision: Revision(2), body: "b")).encoded())
    }

    @Test func changes() throws {
        let kinds: [Change.Kind] = [.put, .deleted, .expired, .event, .cleared]
        #expect(kinds.map(\.rawValue) == [1, 2, 3, 4, 5])
        let changes = [
            Change(.put, revision: Revision(2), expiry: LogTime(3), key: "k", value: "v"),
            Change(.cleared, revision: Revision(4), key: "k"),
        ]
        let answer = WatchAnswer(changes, group: GroupID(1))
        #expect(
            hex(answer.encoded())
                == "01000000" + "02000000"
                + "01" + "0000" + "0200000000000000" + "0300000000000000" + "01000000" + "6b" + "01000000" + "76"
                + "05" + "0000" + "0400000000000000" + "0000000000000000" + "01000000" + "6b" + "00000000")
        #expect(try WatchAnswer(decoding: answer.encoded()).changes == changes)
    }

    @Test func administration() {
        #expect(ClusterMethod.administer == 6 && ClusterMethod.transfer == 7)
        #expect(hex(AdministerRequest(payload: "ab").encoded()) == "0100" + "02000000" + "6162")
        #expect(
            hex(TransferRequest(group: GroupID(3), to: ReplicaID(4)).encoded())
                == "0100" + "03000000" + "0400000000000000")
        let replies: [AdministerReply] = [.done("r"), .refused("no"), .notLeader(address: "a"), .outcomeUnknown]
        #expect(
            replies.map { hex($0.encoded()) } == [
                "0100" + "00" + "01000000" + "72", "0100" + "01" + "02000000" + "6e6f",
                "0100" + "02" + "01000000" + "61", "0100" + "03",
            ])
    }

    @Test func refusalsHaveTheirNumbers() {
        #expect(
            refusals.map { hex($0.encoded()) } == [
                "01" + "0300000000000000" + "0900000000000000", "02" + "04000000" + "0700000000000000",
                "03" + "14000000", "04", "05",
                "06" + "02000000" + "6e6f", "07" + "04000000" + "6d756368", "08",
                "09" + "08000000" + "73746f7070696e67",
            ])
        let ofSessions: [Refusal] = [
            .sessionExpired, .quotaExceeded("much"), .answerNotKept(index: LogIndex(3), revision: Revision(9)),
        ]
        #expect(
            ofSessions.map { hex($0.encoded()) } == [
                "0b", "0e" + "04000000" + "6d756368", "10" + "0300000000000000" + "0900000000000000",
            ])
        for refusal in ofSessions { #expect((try? Refusal(decoding: refusal.encoded())) == refusal) }
    }

    /// Sums over the larger messages; the fields' order is drawn in the sources.
    @Test func clusterService() throws {
        let map = MapReply.map(try sampleMap()).encoded().checksum
        #expect(map == 1_948_604_289)
        #expect(sampleStatus().encoded().checksum == 1_099_783_770)
        #expect(Response.done(samplePage()).encoded().checksum == 3_478_460_732)
    }
}

/// What clients are told of a map: everything but who may do what.
@Suite struct ClientMapTests {
    private func map(level: UInt32) throws -> ClusterMap {
        var map = try sampleMap()
        for place in map.hosts.indices { map.hosts[place].featureLevel = level }
        map.featureLevel = level
        return map
    }

    private func contains(_ bytes: Bytes, _ part: Bytes) -> Bool {
        (0...max(0, bytes.count - part.count)).contains { bytes[$0..<bytes.count].starts(with: part) }
    }

    @Test func aReplyHasNeitherUsersNorTokens() throws {
        var map = try map(level: FeatureLevel.access)
        let hash = Bytes(Array(repeating: 0xab, count: 32))
        map.access = AccessPolicy(
            isRequired: true, roles: [AccessRole("a-role", grants: [AccessGrant(.read, prefix: "a-prefix")])],
            users: [
                AccessUser("a-user", roles: ["admin"], tokens: [AccessToken(id: 1, hash: TokenHash(hash)!)])
            ])
        #expect(map.problem() == nil)
        let reply = MapReply.map(map).encoded()
        // A host is given all of it.
        let whole = InitialiseRequest(host: HostID(1), incarnation: Incarnation(1), map: map).encoded()
        for part in ["a-user", "a-role", "a-prefix", hash] as [Bytes] {
            #expect(!contains(reply, part) && contains(whole, part))
        }
        #expect(try MapReply(decoding: reply) == .map(map.withoutAccess))
        #expect(try InitialiseRequest(decoding: whole).map == map)
        // Nor by the length, nor by whether it is required.
        let plain = try MapReply.map(self.map(level: FeatureLevel.access)).encoded()
        #expect(reply == plain)
    }

    /// Clients of earlier versions read it.
    @Test func itIsInTheFormThatItHadBefore() throws {
        let before = MapReply.map(try map(level: FeatureLevel.migrations)).encoded().array
        let now = MapReply.map(try map(level: FeatureLevel.access)).encoded().array
        #expect(before.count == now.count)
        let differing = before.indices.filter { before[$0] != now[$0] }
        #expect(differing.count == 4, "the levels of the map and of three hosts")
        #expect(differing.allSatisfy { before[$0] == 11 && now[$0] == 12 })
    }

    @Test func aMapWithUsersIsNoAnswerAndOneWithoutIsNoHostsMap() throws {
        var map = try map(level: FeatureLevel.access)
        map.access = AccessPolicy()
        let bytes = Bytes([2] + map.encoded().array)
        #expect(throws: DecodingFailure.self) { try MapReply(decoding: bytes) }
        let request = InitialiseRequest(host: HostID(1), incarnation: Incarnation(1), map: map.withoutAccess).encoded()
        #expect(throws: DecodingFailure.self) { try InitialiseRequest(decoding: request) }
    }
}

@Suite struct RefusalTests {
    @Test func onlyAnUnknownOutcomeMayHaveHappened() {
        #expect(refusals.filter(\.mayHaveHappened) == [.outcomeUnknown])
        let notKept = Refusal.answerNotKept(index: LogIndex(1), revision: Revision(1))
        #expect(notKept.mayHaveHappened && !notKept.isRetrySafe && !Refusal.sessionExpired.mayHaveHappened)
        #expect(refusals.filter { !$0.isRetrySafe } == [.outcomeUnknown, .invalid("no"), .tooLarge("much")])
        for refusal in refusals { #expect(!refusal.description.isEmpty) }
    }

    @Test func longTextsAreCutBetweenCharacters() throws {
        let text = String(repeating: "é", count: 2_000)
        guard case .invalid(let cut) = try Refusal(decoding: Refusal.invalid(text).encoded()) else {
            Issue.record("not invalid"); return
        }
        #expect(cut == String(repeating: "é", count: 512))
    }

    @Test func unknownNumbersAreErrors() {
        for number in 10...255 as ClosedRange<UInt8> where number != 11 {
            #expect(throws: DecodingFailure.self) { try Refusal(decoding: Bytes([number])) }
        }
        #expect(throws: DecodingFailure.self) { try Response<DataResult>(decoding: Bytes([10])) }
    }

    @Test func overLongKeysAndReservedFieldsAreErrors() {
        let long = RecordPosition(
            slot: Slot(1), machine: SubMachineNumber(1), key: Bytes(Array(repeating: 7, count: Limits.keyBytesMax + 2)))
        let request = PageRequest(group: GroupID(1), from: long, bytesMax: 1)
        #expect(throws: DecodingFailure.self) { try PageRequest(decoding: request.encoded()) }
        var bytes = ExecuteRequest(group: GroupID(1), epoch: .zero, slot: Slot(0), payload: "x").encoded().array
        bytes[14] = 1
        #expect(throws: DecodingFailure.self) { try ExecuteRequest(decoding: Bytes(bytes)) }
    }

    @Test func anAdministersPayloadIsBoundedAndVersionsAreChecked() throws {
        let most = Bytes(Array(repeating: 7, count: AdministerRequest.payloadBytesMax))
        #expect(try AdministerRequest(decoding: AdministerRequest(payload: most).encoded()).payload == most)
        #expect(throws: DecodingFailure.self) {
            try AdministerRequest(decoding: Bytes([1, 0, 1, 0, 1, 0] + most.array + [7]))
        }
        for version in [0, 2] as [UInt8] {
            #expect(throws: DecodingFailure.self) { try AdministerRequest(decoding: Bytes([version, 0, 0, 0, 0, 0])) }
            #expect(throws: DecodingFailure.self) { try AdministerReply(decoding: Bytes([version, 0, 3])) }
            #expect(throws: DecodingFailure.self) {
                try TransferRequest(decoding: Bytes([version, 0] + Array(repeating: 0, count: 12)))
            }
        }
        for kind in 4...255 as ClosedRange<UInt8> {
            #expect(throws: DecodingFailure.self) { try AdministerReply(decoding: Bytes([1, 0, kind])) }
        }
    }

    @Test func aDecodedPayloadSharesTheFramesMemory() throws {
        let bytes = ExecuteRequest(group: GroupID(1), epoch: .zero, slot: Slot(0), payload: "payload").encoded()
        let request = try ExecuteRequest(decoding: bytes)
        let outer = bytes.withUnsafeBytes { $0.baseAddress! }
        #expect(request.payload.withUnsafeBytes { $0.baseAddress! } == outer + ExecuteRequest.headerBytes)
    }
}
