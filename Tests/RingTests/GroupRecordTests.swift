import Primitives
import Ring
import TestSupport
import Testing

@Suite struct GroupRecordTests {
    private func hex<Value>(_ value: Value, _ encode: (Value, inout ByteWriter) -> Void) -> String {
        var writer = ByteWriter()
        encode(value, &writer)
        return writer.take().array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
    private func hex(_ group: GroupRecord) -> String { hex(group) { $0.encode(into: &$1) } }
    private func hex(_ host: HostRecord) -> String { hex(host) { $0.encode(into: &$1) } }

    private func bytes(_ hex: String) -> Bytes {
        let digits = Array(hex.utf8)
        return Bytes(
            stride(from: 0, to: digits.count, by: 2).map {
                UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)!
            })
    }
    private func group(_ hex: String) throws -> GroupRecord {
        var reader = ByteReader(bytes(hex))
        let group = try GroupRecord(from: &reader)
        try reader.expectEnd()
        return group
    }
    private func host(_ hex: String) throws -> HostRecord {
        var reader = ByteReader(bytes(hex))
        let host = try HostRecord(from: &reader)
        try reader.expectEnd()
        return host
    }

    private let founded = GroupRecord(
        id: GroupID(1), weight: 5,
        replicas: [
            ReplicaRecord(id: ReplicaID(3), host: HostID(7)), ReplicaRecord(id: ReplicaID(4), host: HostID(8)),
        ], preferredLeader: ReplicaID(4))
    private let foundedBytes =
        "0100" + "01000000" + "05000000" + "0400000000000000" + "02" + "0300000000000000" + "0700000000000000"
        + "0400000000000000" + "0800000000000000"

    @Test func aGroupAsFoundedIsWrittenAsTheFirstVersionDid() throws {
        #expect(hex(founded) == foundedBytes)
        #expect(try group(foundedBytes) == founded)
        #expect(founded.founders == [ReplicaID(3), ReplicaID(4)] && founded.isSettled)
    }

    @Test func whateverIsNewMakesItTheSecondVersion() throws {
        let changes: [(inout GroupRecord) -> Void] = [
            { $0.configurationIndex = LogIndex(1) },
            { $0.founders = [ReplicaID(3)] }, { $0.founders = [ReplicaID(2), ReplicaID(4)] },
            { $0.replicas[0].role = .learner }, { $0.replicas[0].role = .leaving },
            { $0.replicas[0].role = .replaced }, { $0.replicas[1].membership = .absent },
            { $0.replicas[1].membership = .learner }, { $0.replicas[1].successorOf = ReplicaID(3) },
        ]
        for change in changes {
            var changed = founded
            change(&changed)
            let text = hex(changed)
            #expect(text.hasPrefix("0200"))
            #expect(try group(text) == changed)
        }
        var changed = founded
        changed.configurationIndex = LogIndex(9)
        changed.replicas[0].role = .leaving
        changed.replicas[1].membership = .learner
        changed.replicas[1].successorOf = ReplicaID(3)
        #expect(
            hex(changed)
                == "0200" + "01000000" + "05000000" + "0400000000000000" + "0900000000000000"
                + "02" + "0300000000000000" + "0400000000000000"
                + "02" + "0300000000000000" + "0700000000000000" + "03" + "01" + "0000000000000000"
                + "0400000000000000" + "0800000000000000" + "01" + "02" + "0300000000000000")
    }

    @Test func aGroupThatIsStoppedIsTheThirdVersion() throws {
        var stopped = founded
        stopped.state = .stopped
        let first = "01000000" + "05000000" + "0400000000000000"
        let rest =
            "0000000000000000" + "02" + "0300000000000000" + "0400000000000000" + "02"
            + "0300000000000000" + "0700000000000000" + "01" + "01" + "0000000000000000"
            + "0400000000000000" + "0800000000000000" + "01" + "01" + "0000000000000000"
        #expect(hex(stopped) == "0300" + first + "02" + rest)
        #expect(try group("0300" + first + "02" + rest) == stopped)
        #expect(try group("0300" + first + "01" + rest) == founded)
        for bad in ["00", "03", "ff"] {
            #expect(throws: DecodingFailure.self) { try group("0300" + first + bad + rest) }
        }
        stopped.state = .running
        #expect(hex(stopped) == foundedBytes, "what runs again is as before")
    }

    @Test func aHostThatDrainsIsTheSecondVersion() throws {
        var record = HostRecord(
            id: HostID(1), name: "n", address: "a", zone: "z", weight: 2, incarnation: Incarnation(3), featureLevel: 4)
        let rest = "01000000" + "6e" + "01000000" + "61" + "01000000" + "7a"
        let first = "0100000000000000" + "0300000000000000" + "02000000" + "04000000"
        #expect(hex(record) == "0100" + first + rest)
        #expect(try host("0100" + first + rest) == record)
        record.state = .draining
        #expect(hex(record) == "0200" + first + "02" + rest)
        #expect(try host("0200" + first + "02" + rest) == record)
        for bad in ["00", "03", "ff"] {
            #expect(throws: DecodingFailure.self) { try host("0200" + first + bad + rest) }
        }
        for version in ["0000", "0300"] {
            #expect(throws: DecodingFailure.self) { try host(version + first + "02" + rest) }
        }
    }

    @Test func unknownVersionsRolesAndCountsAreErrors() throws {
        var changed = founded
        changed.configurationIndex = LogIndex(1)
        let good = bytes(hex(changed)).array
        #expect(good.count == 2 + 4 + 4 + 8 + 8 + 1 + 16 + 1 + 2 * 26)
        func expectError(_ place: Int, _ byte: UInt8) {
            var bad = good
            bad[place] = byte
            #expect(throws: DecodingFailure.self, "\(byte) at \(place)") {
                var reader = ByteReader(Bytes(bad))
                _ = try GroupRecord(from: &reader)
                try reader.expectEnd()
            }
        }
        for version in [0, 4] as [UInt8] { expectError(0, version) }
        for count in [1, 3, 16, 255] as [UInt8] {
            expectError(26, count)
            expectError(43, count)
        }
        for role in [0, 5, 255] as [UInt8] { expectError(60, role) }
        for membership in [3, 255] as [UInt8] { expectError(61, membership) }
    }

    @Test func onlyFoundersBeginWithAConfiguration() {
        var group = founded
        group.replicas.append(
            ReplicaRecord(id: ReplicaID(9), host: HostID(9), role: .learner, membership: .absent))
        #expect(
            group.firstConfiguration(of: ReplicaID(3)) == Configuration(voters: [ReplicaID(3), ReplicaID(4)]))
        #expect(group.firstConfiguration(of: ReplicaID(9)) == Configuration(voters: []))
        // A founder that is gone was one: who is born late must not found another group without it.
        group.replicas.removeFirst()
        #expect(
            group.firstConfiguration(of: ReplicaID(4)) == Configuration(voters: [ReplicaID(3), ReplicaID(4)]))
    }

    @Test func workIsOpenUntilWhatIsReportedIsWhatIsWanted() {
        for role in ReplicaRecord.Role.allCases {
            for membership in ReplicaRecord.Membership.allCases {
                let record = ReplicaRecord(id: ReplicaID(3), host: HostID(7), role: role, membership: membership)
                #expect((record.openWork == nil) == record.isSettled)
                #expect(record.openWork?.hasPrefix("replica 3 on host 7") ?? true)
            }
        }
    }

    @Test func everyBrokenInvariantOfMembersIsNamed() throws {
        let hosts = (1...4).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "", address: "\($0)", incarnation: Incarnation(UInt64($0)))
        }
        let good = try Planner.firstMap(cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: 3, replicas: 3)
        let last = good.groups[1].replicas[2].id
        func problem(_ change: (inout GroupRecord) -> Void) -> String {
            var map = good
            change(&map.groups[1])
            let problem = map.problem() ?? "none"
            #expect(map.problem(of: map.groups[1]) == map.problem())
            return problem
        }
        #expect(problem { _ in } == "none")
        #expect(problem { $0.founders = [] }.contains("0 founders"))
        #expect(problem { $0.founders.swapAt(0, 1) }.contains("out of order"))
        #expect(problem { $0.founders[1] = $0.founders[0] }.contains("out of order"))
        #expect(problem { $0.founders[2] = ReplicaID(99) }.contains("next id"))
        #expect(problem { $0.founders[0] = .none }.contains("next id"))
        #expect(problem { $0.founders[0] = ReplicaID(1) } == "none", "a founder may be gone")
        #expect(problem { $0.configurationIndex = LogIndex(1 << 62) }.contains("2^62"))
        #expect(problem { $0.preferredLeader = last } == "none")
        for role in [.learner, .leaving, .replaced] as [ReplicaRecord.Role] {
            #expect(
                problem {
                    $0.preferredLeader = last; $0.replicas[2].role = role
                }.contains("not to vote"))
        }
        #expect(problem { $0.replicas[2].successorOf = $0.replicas[0].id } == "none")
        #expect(problem { $0.replicas[2].successorOf = last }.contains("can't be"))
        #expect(problem { $0.replicas[2].successorOf = ReplicaID(1) }.contains("can't be"))
        #expect(
            problem {
                $0.preferredLeader = $0.replicas[0].id
                $0.replicas[2].role = .leaving
                $0.replicas[2].successorOf = $0.replicas[0].id
            }.contains("can't be"))
        #expect(
            problem {
                $0.replicas[1].successorOf = $0.replicas[0].id
                $0.replicas[2].successorOf = $0.replicas[0].id
            }.contains("two replicas"))
    }

    /// The only voter is to go, and who is to vote instead is not in yet: it learns first, and nobody waits for ever.
    @Test func successorsOfTheOnlyVoterLearnBeforeItGoes() {
        let record = GroupRecord(
            id: GroupID(1),
            replicas: [
                ReplicaRecord(id: ReplicaID(1), host: HostID(1), role: .leaving),
                ReplicaRecord(id: ReplicaID(2), host: HostID(2), role: .voter, membership: .absent),
            ], preferredLeader: ReplicaID(2), founders: [ReplicaID(1)])
        let first = record.configuration(
            after: Configuration(voters: [ReplicaID(1)]), nextReplica: ReplicaID(3), isCaughtUp: { _ in false })
        #expect(first.voters == [ReplicaID(1)] && first.learners == [ReplicaID(2)])
        let second = record.configuration(after: first, nextReplica: ReplicaID(3), isCaughtUp: { _ in true })
        #expect(second.voters == [ReplicaID(2)] && second.learners == [])
    }
}
