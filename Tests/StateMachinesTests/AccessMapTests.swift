import Messages
import Primitives
import Ring
import StateMachines
import TestSupport
import Testing

/// Users and roles in the cluster's map, through the meta group's log.
@Suite struct AccessMapTests {
    private static func firstMap(featureLevel: UInt32) throws -> ClusterMap {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)",
                incarnation: Incarnation(UInt64($0) + 100), featureLevel: FeatureLevel.access)
        }
        return try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: 2, replicas: 3, featureLevel: featureLevel)
    }

    private struct Meta {
        var machine: MasterStateMachine
        var store = ModelStore()

        init(featureLevel: UInt32 = FeatureLevel.access) throws {
            machine = try MasterStateMachine(group: .meta)
            let map = try AccessMapTests.firstMap(featureLevel: featureLevel)
            _ = machine.apply(.command(1, MetaCommand.initialise(map).payload()), into: &store)
        }

        var map: ClusterMap { machine.meta.map! }
        var policy: AccessPolicy { map.access! }
        var restored: ClusterMap? { try? MetaMachine(restoring: store.metaRecords).map }

        /// nil: it was carried out; else why not. After each: the map is sound, is found again at a restart, and is the same
        /// behind its encoding.
        mutating func apply(_ change: MapChange) -> String? {
            let before = (map, store)
            let predicted = change.refusal(by: map)
            let applied = machine.apply(
                .command(machine.applied.rawValue + 1, MetaCommand.change(change, expecting: 0).payload()), into: &store
            )
            #expect(map.problem() == nil && restored == map)
            var writer = ByteWriter()
            map.encode(into: &writer)
            var reader = ByteReader(writer.take())
            #expect((try? ClusterMap(from: &reader)) == map && reader.isAtEnd)
            if case .refused(.invalid(let text)) = applied {
                #expect(map == before.0 && store == before.1 && predicted == .invalid(text))
                return text
            }
            guard case .done(_, let body) = applied, let outcome = try? MetaOutcome(decoding: body) else {
                Issue.record("no outcome: \(applied)")
                return nil
            }
            #expect(predicted == nil && outcome.mapVersion == map.version)
            #expect(map == before.0 ? store == before.1 : map.version == before.0.version + 1)
            #expect(store.writes <= before.1.writes + 2, "the head and one record")
            return nil
        }
    }

    private func token(_ id: UInt64) -> AccessToken {
        AccessToken(id: id, hash: TokenHash(Bytes((0..<32).map { UInt8(id) &+ $0 }))!)
    }

    @Test func theBytesOfEachChangeStay() throws {
        func hex(_ change: MapChange) -> String {
            MetaCommand.change(change, expecting: 7).payload().array.dropFirst(28)
                .map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        let expecting = "01" + "0700000000000000"
        let (ops, ada) = ("03000000" + "6f7073", "03000000" + "616461")
        let tokenHash = (1...32).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        let samples: [(MapChange, String)] = [
            (
                .putRole(AccessRole("ops", grants: [AccessGrant([.read, .write], prefix: "a/")])),
                "1b" + expecting + ops + "01" + "03" + "02000000" + "612f"
            ),
            (.deleteRole("ops"), "1c" + expecting + ops),
            (
                .putUser(AccessUser("ada", roles: ["ops"], tokens: [token(1)])),
                "1d" + expecting + ada + "01" + ops + "01" + "0100000000000000" + tokenHash
            ),
            (.deleteUser("ada"), "1e" + expecting + ada),
            (.setAccessRequired(true), "1f" + expecting + "01"),
            (.setAccessRequired(false), "1f" + expecting + "00"),
        ]
        for (change, bytes) in samples {
            #expect(hex(change) == bytes)
            let command = MetaCommand.change(change, expecting: 7)
            #expect(try MetaCommand(payload: command.payload()) == command)
            for length in 0..<command.payload().count {
                #expect(throws: DecodingFailure.self) { try MetaCommand(payload: command.payload()[0..<length]) }
            }
            #expect(throws: DecodingFailure.self) { try MetaCommand(payload: Bytes(command.payload().array + [0])) }
            mutate(command.payload(), seed: 8, rounds: 500) { payload in
                guard let read = try? MetaCommand(payload: payload) else { return }
                #expect((try? MetaCommand(payload: read.payload())) == read)
            }
        }
        for number in [0, 13, 32, 255] as [UInt8] {
            var bytes = MetaCommand.change(.setAccessRequired(true), expecting: 7).payload().array
            bytes[28] = number
            #expect(throws: DecodingFailure.self, "\(number)") { try MetaCommand(payload: Bytes(bytes)) }
        }
    }

    /// The largest that there may be go into one request each.
    @Test func theLargestRoleAndUserFitIntoACommand() {
        let role = AccessRole(
            String(repeating: "r", count: 64),
            grants: (0..<64).map { AccessGrant(.all, prefix: Bytes([UInt8($0)] + Array(repeating: 1, count: 255))) })
        let roles = "abcdefghijklmnop".map { String(repeating: $0, count: 64) }
        let user = AccessUser(String(repeating: "u", count: 64), roles: roles, tokens: (1...4).map { token($0) })
        #expect(role.problem == nil && user.problem == nil)
        for change in [MapChange.putRole(role), .putUser(user)] {
            #expect(MetaCommand.change(change).payload().count < AdministerRequest.payloadBytesMax)
        }
    }

    @Test func belowItsLevelThereIsNoneAndRaisingItMakesAnEmptyOne() throws {
        var meta = try Meta(featureLevel: FeatureLevel.migrations)
        #expect(meta.map.access == nil && !meta.store.metaRecords.contains { $0.key == "access" })
        for change in [
            MapChange.putRole(AccessRole("r", grants: [])), .deleteRole("r"), .putUser(AccessUser("u", roles: [])),
            .deleteUser("u"), .setAccessRequired(false),
        ] {
            #expect(meta.apply(change)?.contains("needs 12") == true)
            #expect(
                meta.machine.meta.check(MetaCommand.change(change).payload()) != nil, "it does not get into the log")
        }
        #expect(meta.apply(.raiseFeatureLevel(FeatureLevel.access)) == nil)
        #expect(meta.policy == AccessPolicy() && meta.store.metaRecords.contains { $0.key == "access" })
        #expect(meta.machine.meta.check(MetaCommand.change(.setAccessRequired(false)).payload()) == nil)
    }

    @Test func usersAndRolesComeChangeAndGo() throws {
        var meta = try Meta()
        #expect(meta.policy == AccessPolicy())
        let first = AccessRole("ops", grants: [AccessGrant(.read, prefix: "a/")])
        #expect(
            meta.apply(.putUser(AccessUser("ada", roles: ["ops"])))?.contains("role ops, which does not exist") == true)
        #expect(meta.apply(.putRole(first)) == nil)
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["ops"], tokens: [token(1)]))) == nil)
        #expect(meta.policy.rights(of: "ada").permits(.read, key: "a/b"))
        // Once more the same changes nothing.
        let version = meta.map.version
        #expect(meta.apply(.putRole(first)) == nil && meta.map.version == version)
        #expect(meta.apply(.setAccessRequired(false)) == nil && meta.map.version == version)
        // As a whole: what is not named any more is gone.
        #expect(meta.apply(.putRole(AccessRole("ops", grants: [AccessGrant(.write, prefix: "b/")]))) == nil)
        #expect(
            !meta.policy.rights(of: "ada").permits(.read, key: "a/b")
                && meta.policy.rights(of: "ada").permits(.write, key: "b/"))
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["ops"], tokens: [token(2)]))) == nil)
        #expect(meta.policy.user(withTokenHash: token(1).hash) == nil)
        #expect(meta.policy.user(withTokenHash: token(2).hash)?.user.name == "ada")
        #expect(meta.apply(.deleteRole("ops"))?.contains("user ada has the role ops") == true)
        #expect(meta.apply(.putUser(AccessUser("bob", roles: ["ops"]))) == nil)
        #expect(meta.apply(.deleteRole("ops"))?.contains("2 users, ada first, have") == true)
        #expect(meta.apply(.deleteUser("bob")) == nil && meta.apply(.putUser(AccessUser("ada", roles: []))) == nil)
        #expect(meta.apply(.deleteRole("ops")) == nil && meta.policy.roles.isEmpty)
        #expect(meta.apply(.deleteRole("ops"))?.contains("no role ops") == true)
        #expect(meta.apply(.deleteUser("bob"))?.contains("no user bob") == true)
        #expect(meta.apply(.deleteUser("ada")) == nil && meta.policy == AccessPolicy())
    }

    @Test func whoWouldShutEverybodyOutIsTold() throws {
        var meta = try Meta()
        #expect(meta.apply(.setAccessRequired(true))?.contains("give some user the role admin first") == true)
        #expect(meta.apply(.putRole(AccessRole("part", grants: [AccessGrant(.all, prefix: "a")]))) == nil)
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["part"]))) == nil)
        #expect(meta.apply(.setAccessRequired(true)) != nil, "a part is not everything")
        #expect(meta.apply(.putRole(AccessRole("all", grants: [AccessGrant(.admin)]))) == nil)
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["all"]))) == nil)
        #expect(meta.apply(.setAccessRequired(true)) == nil && meta.policy.isRequired)
        // While it is required, the last one stays: by whatever way he would go.
        #expect(meta.apply(.deleteUser("ada"))?.contains("user ada gone") == true)
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["part"]))) != nil)
        #expect(
            meta.apply(.putRole(AccessRole("all", grants: [AccessGrant(.read)])))?.contains("role all without") == true)
        #expect(meta.apply(.putUser(AccessUser("bob", roles: ["admin"], tokens: [token(3)]))) == nil)
        #expect(meta.apply(.deleteUser("ada")) == nil)
        #expect(meta.apply(.deleteUser("bob")) != nil)
        #expect(meta.apply(.setAccessRequired(false)) == nil && meta.apply(.deleteUser("bob")) == nil)
    }

    @Test func whatIsOutOfBoundsIsRefusedWithItsReason() throws {
        var meta = try Meta()
        #expect(meta.apply(.putRole(AccessRole("admin", grants: [])))?.contains("built in") == true)
        #expect(meta.apply(.deleteRole("reader"))?.contains("built in") == true)
        #expect(meta.apply(.putRole(AccessRole("No", grants: [])))?.contains("a role's name") == true)
        #expect(meta.apply(.putUser(AccessUser("", roles: [])))?.contains("a user's name") == true)
        #expect(meta.apply(.deleteUser("\u{7}"))?.contains("of this name") == true, "it is not repeated")
        #expect(meta.apply(.putUser(AccessUser("ada", roles: [], tokens: [token(1)]))) == nil)
        let same = AccessToken(id: 2, hash: token(1).hash)
        #expect(meta.apply(.putUser(AccessUser("bob", roles: [], tokens: [same])))?.contains("the same token") == true)
        let sameID = AccessToken(id: 1, hash: token(2).hash)
        #expect(meta.apply(.putUser(AccessUser("bob", roles: [], tokens: [sameID])))?.contains("the id 1") == true)
        for number in 0..<15 {
            let grants = (0..<64).map {
                AccessGrant(.read, prefix: Bytes([UInt8($0)] + Array(repeating: 1, count: 255)))
            }
            #expect(meta.apply(.putRole(AccessRole("r\(number)", grants: grants))) == nil)
        }
        let grants = (0..<64).map { AccessGrant(.read, prefix: Bytes([UInt8($0)] + Array(repeating: 1, count: 255))) }
        #expect(meta.apply(.putRole(AccessRole("r15", grants: grants)))?.contains("of at most 262144") == true)
        #expect(meta.policy.roles.count == 15)
    }

    @Test func aMapInTheFormForClientsIsNoHostsMap() throws {
        let map = try Self.firstMap(featureLevel: FeatureLevel.access)
        let change = MapChange.putUser(AccessUser("ada", roles: []))
        #expect(change.refusal(by: map) == nil && change.refusal(by: map.withoutAccess) != nil)
        #expect(throws: DecodingFailure.self) {
            try MetaCommand(payload: MetaCommand.initialise(map.withoutAccess).payload())
        }
        #expect(throws: DecodingFailure.self) {
            try MetaCommand(payload: MetaCommand.recover(map.withoutAccess).payload())
        }
    }

    @Test func recordsAndARecoveredMapKeepThePolicy() throws {
        var meta = try Meta()
        #expect(meta.apply(.putUser(AccessUser("ada", roles: ["admin"]))) == nil)
        #expect(meta.apply(.setAccessRequired(true)) == nil)
        // Without its record the map is none.
        let without = meta.store.metaRecords.filter { $0.key != "access" }
        #expect(throws: DecodingFailure.self) { try MetaMachine(restoring: without) }
        #expect(throws: DecodingFailure.self) { try MetaMachine(restoring: [MetaRecord(key: "access", value: "x")]) }
        // Other changes leave it.
        #expect(meta.apply(.setHostWeight(HostID(1), 7)) == nil && meta.policy.isRequired)
        var recovered = meta.map
        recovered.version += 1
        recovered.access?.put(AccessUser("bob", roles: ["admin"]))
        recovered.access?.removeUser("ada")
        _ = meta.machine.apply(
            .command(meta.machine.applied.rawValue + 1, MetaCommand.recover(recovered).payload()), into: &meta.store)
        #expect(meta.map == recovered && meta.restored == recovered)
        // One of a level below is taken, too.
        var older = try Self.firstMap(featureLevel: FeatureLevel.migrations)
        older.version = recovered.version + 1
        _ = meta.machine.apply(
            .command(meta.machine.applied.rawValue + 1, MetaCommand.recover(older).payload()), into: &meta.store)
        #expect(meta.map == older && meta.restored == older)
    }

    /// Whatever comes: the map stays sound, records and map are the same, and somebody may always administer.
    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func anyOrderOfChangesKeepsTheRules(seed: UInt64) throws {
        var meta = try Meta()
        var random = SeededRandom(seed: seed)
        let names = ["a", "b", "c", "d"]
        func name() -> String { names[Int(random.below(4))] }
        var (done, refused) = (0, 0)
        for _ in 0..<1_500 {
            let change: MapChange
            switch random.below(7) {
            case 0, 1:
                let grants = (0..<random.below(3)).map { _ in
                    AccessGrant(
                        VerbSet(rawValue: UInt8(1 + random.below(7))),
                        prefix: random.below(2) == 0 ? Bytes() : Bytes(name()))
                }
                change = .putRole(AccessRole(name(), grants: grants))
            case 2: change = .deleteRole(name())
            case 3, 4:
                let roles = (0..<random.below(3)).map { _ in random.below(4) == 0 ? "admin" : name() }
                let tokens = random.below(2) == 0 ? [] : [token(1 + random.below(6))]
                change = .putUser(AccessUser(name(), roles: roles, tokens: tokens))
            case 5: change = .deleteUser(name())
            default: change = .setAccessRequired(random.below(3) > 0)
            }
            if meta.apply(change) == nil { done += 1 } else { refused += 1 }
            #expect(!meta.policy.isRequired || !meta.policy.administrators.isEmpty)
        }
        #expect(done > 100 && refused > 100)
    }
}
