import Primitives
import Ring
import TestSupport
import Testing

/// Users, roles and what they grant.
@Suite struct AccessPolicyTests {
    private func hex(_ encode: (inout ByteWriter) -> Void) -> String {
        var writer = ByteWriter()
        encode(&writer)
        return writer.take().array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func decoded(_ bytes: Bytes) throws -> AccessPolicy {
        var reader = ByteReader(bytes)
        let policy = try AccessPolicy(from: &reader)
        try reader.expectEnd()
        return policy
    }

    private func encoded(_ policy: AccessPolicy) -> Bytes {
        var writer = ByteWriter()
        policy.encode(into: &writer)
        return writer.take()
    }

    private func hash(_ seed: UInt8) -> TokenHash { TokenHash(Bytes((0..<32).map { $0 &+ seed }))! }

    private var sample: AccessPolicy {
        AccessPolicy(
            isRequired: true,
            roles: [AccessRole("ops", grants: [AccessGrant([.read, .write], prefix: "a/"), AccessGrant(.admin)])],
            users: [AccessUser("ada", roles: ["ops", "admin"], tokens: [AccessToken(id: 1, hash: hash(0))])])
    }

    @Test func theBytesStay() throws {
        let tokenHash = (0..<32).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        let role = ["03000000", "6f7073", "02", "04", "00000000", "03", "02000000", "612f"].joined()
        let user = [
            "03000000", "616461", "02", "05000000", "61646d696e", "03000000", "6f7073", "01", "0100000000000000",
            tokenHash,
        ].joined()
        let bytes = ["0100", "01", "0100", role, "0100", user].joined()
        #expect(hex { sample.encode(into: &$0) } == bytes)
        #expect(hex { AccessPolicy().encode(into: &$0) } == "0100" + "00" + "0000" + "0000")
        #expect(try decoded(encoded(sample)) == sample)
        #expect(encoded(sample).count == sample.encodedBytes && encoded(AccessPolicy()).count == 7)
        #expect(try decoded(encoded(AccessPolicy())) == AccessPolicy())
    }

    @Test func whatIsCutOrAnotherVersionIsRefused() {
        let bytes = encoded(sample)
        for length in 0..<bytes.count { #expect(throws: DecodingFailure.self) { try decoded(bytes[0..<length]) } }
        for (place, byte) in [(0, 0), (0, 2), (1, 1), (2, 2)] as [(Int, UInt8)] {
            var bad = bytes.array
            bad[place] = byte
            #expect(throws: DecodingFailure.self, "\(byte) at \(place)") { try decoded(Bytes(bad)) }
        }
        mutate(bytes, seed: 12, rounds: 5_000) { bytes in
            var reader = ByteReader(bytes)
            guard let policy = try? AccessPolicy(from: &reader) else { return }
            #expect(policy.problem == nil)
            #expect(policy.encodedBytes == reader.offset, "each policy has one form")
            #expect((try? decoded(encoded(policy))) == policy)
        }
    }

    // MARK: What is granted

    @Test func aGrantIsForTheKeysThatBeginWithItsPrefixAndForNoOtherVerb() {
        let rights = AccessRights(grants: [AccessGrant(.read, prefix: "a/"), AccessGrant(.write, prefix: "a/b")])
        #expect(rights.permits(.read, key: "a/") && rights.permits(.read, key: "a/b/c"))
        #expect(!rights.permits(.read, key: "a") && !rights.permits(.read, key: "b") && !rights.permits(.read, key: ""))
        #expect(rights.permits(.write, key: "a/b") && !rights.permits(.write, key: "a/"))
        for key in ["a/", "a/b", ""] as [Bytes] { #expect(!rights.permits(.admin, key: key)) }
        #expect(Verb.allCases.allSatisfy { !rights.permitsEverything($0) })
        #expect(rights.permitsSomething(.write) && !rights.permitsSomething(.admin))
        // Who administers needs grants for data all the same.
        let admin = AccessRights(grants: [AccessGrant(.admin)])
        #expect(admin.permitsEverything(.admin) && !admin.permits(.read, key: "k") && !admin.permits(.write, key: "k"))
    }

    @Test func aRangeLiesWithinOnePrefix() {
        let rights = AccessRights(grants: [AccessGrant(.read, prefix: "a/"), AccessGrant(.read, prefix: "a0")])
        #expect(rights.permits(.read, from: "a/", end: "a0"))
        #expect(rights.permits(.read, from: "a/b", end: "a/c"))
        #expect(!rights.permits(.read, from: "a/", end: "a00"), "two grants are not put together")
        #expect(!rights.permits(.read, from: "a/", end: nil) && !rights.permits(.read, from: "a", end: "a0"))
        #expect(!rights.permits(.read, from: "", end: nil) && !rights.permits(.write, from: "a/", end: "a0"))
        #expect(AccessRights.everything.permits(.write, from: "", end: nil))
        let last = AccessRights(grants: [AccessGrant(.read, prefix: Bytes([255]))])
        #expect(
            last.permits(.read, from: Bytes([255, 1]), end: nil) && !last.permits(.read, from: Bytes([254]), end: nil))
    }

    /// By ranges and by keys the same is permitted.
    @Test func whateverLiesInAPermittedRangeIsPermitted() {
        var random = SeededRandom(seed: 3)
        func bytes(_ most: UInt64) -> Bytes {
            Bytes((0..<random.below(most)).map { _ in [0, 97, 98, 255][Int(random.below(4))] as UInt8 })
        }
        var seen = 0
        for _ in 0..<20_000 {
            let rights = AccessRights(
                grants: (0..<2).map { _ in AccessGrant(random.below(2) == 0 ? .read : .write, prefix: bytes(3)) })
            let (from, end, key) = (bytes(4), random.below(4) == 0 ? nil : bytes(4), bytes(5))
            guard rights.permits(.read, from: from, end: end), key >= from, end.map({ key < $0 }) ?? true else {
                continue
            }
            seen += 1
            #expect(rights.permits(.read, key: key), "\(key.array) of \(from.array)..<\(end?.array ?? [])")
        }
        #expect(seen > 500)
    }

    @Test func whoIsNoUserMayDoNothingAsSoonAsItIsRequired() {
        var policy = sample
        #expect(policy.permits("ada", .write, key: "b") && policy.permitsEverything("ada", .admin))
        for nobody in [nil, "eve", "ops", "admin", ""] as [String?] {
            for verb in Verb.allCases {
                #expect(!policy.permits(nobody, verb, key: "a/b") && !policy.permitsEverything(nobody, verb))
            }
            #expect(!policy.permits(nobody, .user) && !policy.permits(nobody, .hosts))
        }
        policy.isRequired = false
        #expect(
            policy.permits(nil, .write, key: "b") && policy.permits(nil, .user)
                && policy.permits(nil, .everything(.admin)))
        #expect(!policy.rights(of: nil).permitsSomething(.read), "what would be is told before it is")
    }

    @Test func aUserHasWhatAnyOfHisRolesGrantsAndHostsAreNone() {
        let policy = AccessPolicy(
            isRequired: true, roles: [AccessRole("left", grants: [AccessGrant(.write, prefix: "l")])],
            users: [
                AccessUser("ada", roles: ["admin"]), AccessUser("bob", roles: ["left", "reader"]),
                AccessUser("eve", roles: []),
            ])
        #expect(policy.problem == nil)
        #expect(policy.permits("bob", .key(.write, "left")) && !policy.permits("bob", .key(.write, "right")))
        #expect(policy.permits("bob", .range(.read, from: "", end: nil)) && policy.permits("bob", .everything(.read)))
        #expect(policy.permits("bob", .something(.write)) && !policy.permits("bob", .everything(.write)))
        #expect(policy.permits("eve", .user) && !policy.permits("eve", .something(.read)))
        #expect(!policy.permits("ada", .hosts), "whoever it is")
        #expect(policy.administrators == ["ada"])
    }

    @Test func builtInRolesAreAlwaysThere() {
        let policy = AccessPolicy(
            isRequired: true,
            users: ["admin", "reader", "writer"].map { AccessUser("u-\($0)", roles: [$0]) })
        #expect(policy.problem == nil)
        let granted = ["u-admin", "u-reader", "u-writer"].map { user in
            Verb.allCases.filter { policy.permitsEverything(user, $0) }
        }
        #expect(granted == [[.read, .write, .admin], [.read], [.read, .write]])
        for name in ["admin", "reader", "writer"] {
            #expect(policy.role(name) != nil)
            #expect(AccessRole(name, grants: []).problem?.contains("built in") == true)
        }
    }

    // MARK: Finding

    @Test func aTokenIsFoundByItsHash() throws {
        let users = (0..<10).map { number in
            let tokens = (0..<3).map { (place: Int) -> AccessToken in
                let its = number * 3 + place
                return AccessToken(id: UInt64(its + 1), hash: hash(UInt8(its)))
            }
            return AccessUser("u\(number)", roles: [], tokens: tokens)
        }
        let policy = AccessPolicy(users: users)
        #expect(policy.problem == nil)
        for number in 0..<30 {
            let found = try #require(policy.user(withTokenHash: hash(UInt8(number))))
            #expect(found.user.name == "u\(number / 3)" && found.token.id == UInt64(number + 1))
        }
        #expect(policy.user(withTokenHash: hash(77)) == nil)
        #expect(TokenHash(Bytes(Array(repeating: 1, count: 31))) == nil)
        #expect(hash(3).bytes.array == (0..<32).map { $0 + 3 })
        #expect(policy.user("u3")?.name == "u3" && policy.user("u33") == nil && policy.user("") == nil)
    }

    /// What is logged or shown in an error may have a whole policy in it.
    @Test func aHashIsNotPrinted() {
        let policy = sample
        let token = policy.users[0].tokens[0]
        for text in [
            "\(policy)", "\(policy.users)", "\(token)", "\(token.hash)", String(reflecting: token), "\(hash(0))",
        ] {
            #expect(!text.contains("283686952306183") && !text.contains("0001020304050607"))
            #expect(text.contains("a token's hash"))
        }
    }

    // MARK: Bounds

    @Test func namesHaveOneFormAndABound() {
        for name in ["a", "z0-9._-", String(repeating: "a", count: 64)] { #expect(AccessPolicy.isName(name)) }
        for name in ["", "A", "a b", "ä", "a/b", "a\n", String(repeating: "a", count: 65)] {
            #expect(!AccessPolicy.isName(name))
            #expect(AccessPolicy(users: [AccessUser(name, roles: [])]).problem?.contains("user's name") == true)
            #expect(AccessPolicy(roles: [AccessRole(name, grants: [])]).problem?.contains("role's name") == true)
        }
    }

    @Test func eachBoundIsOneMoreThanWhatIsRefused() {
        func users(_ count: Int, tokens: Int = 0, roles: [String] = []) -> AccessPolicy {
            AccessPolicy(
                users: (0..<count).map { number in
                    AccessUser(
                        "u\(number)", roles: roles,
                        tokens: (0..<tokens).map {
                            let id = UInt64(number * tokens + $0 + 1)
                            var bytes = Array(repeating: 0 as UInt8, count: 32)
                            withUnsafeBytes(of: id) { for (place, byte) in $0.enumerated() { bytes[place] = byte } }
                            return AccessToken(id: id, hash: TokenHash(Bytes(bytes))!)
                        })
                })
        }
        func roles(_ count: Int, grants: Int = 0, prefix: Int = 4) -> AccessPolicy {
            AccessPolicy(
                roles: (0..<count).map { number in
                    AccessRole(
                        "r\(number)",
                        grants: (0..<grants).map { place in
                            AccessGrant(.read, prefix: Bytes([UInt8(place)] + Array(repeating: 1, count: prefix - 1)))
                        })
                })
        }
        #expect(users(1_024).problem == nil && users(1_025).problem?.contains("1024 users") == true)
        #expect(users(1, tokens: 4).problem == nil && users(1, tokens: 5).problem?.contains("5 tokens") == true)
        #expect(roles(256).problem == nil && roles(257).problem?.contains("256 roles") == true)
        #expect(roles(1, grants: 64).problem == nil && roles(1, grants: 65).problem?.contains("65 grants") == true)
        #expect(roles(1, grants: 1, prefix: 256).problem == nil)
        #expect(roles(1, grants: 1, prefix: 257).problem?.contains("257 bytes") == true)
        // 64 grants of 256 bytes: 16,710 bytes a role.
        #expect(roles(15, grants: 64, prefix: 256).problem == nil)
        #expect(roles(16, grants: 64, prefix: 256).problem?.contains("of at most 262144") == true)
        var many = AccessPolicy(roles: (0..<17).map { AccessRole("r\($0)", grants: []) })
        many.users = [AccessUser("ada", roles: (0..<16).map { "r\($0)" })]
        #expect(many.problem == nil)
        many.users = [AccessUser("ada", roles: (0..<17).map { "r\($0)" })]
        #expect(many.problem?.contains("17 roles") == true)
        for policy in [users(1_025), users(1, tokens: 5), roles(257), roles(16, grants: 64, prefix: 256), many] {
            let bytes = encoded(policy)
            #expect(throws: DecodingFailure.self) { try decoded(bytes) }
        }
    }

    @Test func whatDoesNotFitTogetherIsAProblem() {
        func problem(_ change: (inout AccessPolicy) -> Void) -> String {
            var policy = sample
            change(&policy)
            return policy.problem ?? ""
        }
        #expect(problem { _ in }.isEmpty)
        #expect(problem { $0.users[0].roles = ["gone"] }.contains("the role gone, which does not exist"))
        #expect(problem { $0.users.append($0.users[0]) }.contains("user ada is out of order"))
        #expect(problem { $0.roles.append($0.roles[0]) }.contains("role ops is out of order"))
        #expect(problem { $0.users[0].roles = ["ops", "admin"] }.contains("roles of user ada are out of order"))
        #expect(problem { $0.roles[0].grants.reverse() }.contains("prefixes of role ops are out of order"))
        #expect(problem { $0.roles[0].grants[0].verbs = [] }.contains("has no verbs"))
        #expect(problem { $0.roles[0].grants[0].verbs = VerbSet(rawValue: 9) }.contains("or unknown ones"))
        #expect(problem { $0.users[0].tokens[0].id = 0 }.contains("the id 0"))
        #expect(
            problem { policy in
                policy.put(AccessUser("bob", roles: [], tokens: [AccessToken(id: 1, hash: self.hash(9))]))
            }.contains("two tokens have the id 1, of ada and bob"))
        #expect(
            problem { policy in
                policy.put(AccessUser("bob", roles: [], tokens: [AccessToken(id: 2, hash: self.hash(0))]))
            }.contains("the same token"))
        #expect(problem { $0.users = [] }.contains("no user has admin on everything"))
        #expect(
            problem {
                $0.users = [AccessUser("ada", roles: ["ops"])]
                $0.roles = [AccessRole("ops", grants: [AccessGrant(.all, prefix: "a")])]
            }.contains("no user has admin on everything"), "with a prefix it is not everything")
    }

    @Test func whatIsPutTogetherHasOneForm() {
        let role = AccessRole(
            "r", grants: [AccessGrant(.write, prefix: "b"), AccessGrant(.read), AccessGrant(.read, prefix: "b")])
        #expect(role.grants == [AccessGrant(.read), AccessGrant([.read, .write], prefix: "b")] && role.problem == nil)
        let user = AccessUser("u", roles: ["b", "a", "b"])
        #expect(user.roles == ["a", "b"] && user.problem == nil)
        var policy = AccessPolicy()
        for name in ["c", "a", "b", "a"] {
            policy.put(AccessUser(name, roles: []))
            policy.put(AccessRole(name, grants: []))
        }
        #expect(policy.users.map(\.name) == ["a", "b", "c"] && policy.roles.map(\.name) == ["a", "b", "c"])
        #expect(policy.problem == nil)
        policy.removeUser("b")
        policy.removeRole("a")
        #expect(policy.users.map(\.name) == ["a", "c"] && policy.roles.map(\.name) == ["b", "c"])
    }
}

/// The policy as a part of the cluster's map.
@Suite struct ClusterMapAccessTests {
    private func map(level: UInt32, moving: Bool = false) throws -> ClusterMap {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "host-\($0)", address: "127.0.0.1:\(7_000 + $0)", zone: "z",
                incarnation: Incarnation(UInt64($0) << 40), featureLevel: level)
        }
        var map = try Planner.firstMap(
            cluster: ClusterID(high: 5, low: 6), hosts: hosts, groups: 4, replicas: 3, featureLevel: level)
        if moving {
            map.migrations = [
                MigrationRecord(
                    id: MigrationID(1), slots: Array(map.ring.slots(of: GroupID(1)).prefix(2)), source: GroupID(1),
                    target: GroupID(2))
            ]
        }
        return map
    }

    private func bytes(_ map: ClusterMap) -> Bytes {
        var writer = ByteWriter()
        map.encode(into: &writer)
        return writer.take()
    }

    private func read(_ bytes: Bytes, _ form: ClusterMap.Form = .hosts) throws -> ClusterMap {
        var reader = ByteReader(bytes)
        let map = try ClusterMap(from: &reader, form: form)
        try reader.expectEnd()
        return map
    }

    private var policy: AccessPolicy {
        AccessPolicy(
            isRequired: true,
            users: [
                AccessUser(
                    "ada", roles: ["admin"],
                    tokens: [AccessToken(id: 1, hash: TokenHash(Bytes(Array(repeating: 0xab, count: 32)))!)])
            ])
    }

    /// Head, hosts, groups, ring, and nothing else: what hosts and clients of these levels read.
    @Test func mapsOfEarlierLevelsAreWrittenAsTheyWere() throws {
        for level in FeatureLevel.first..<FeatureLevel.access {
            let map = try map(level: level)
            #expect(map.access == nil && map.isWhole && map.withoutAccess == map)
            var parts = ByteWriter()
            parts.write(1 as UInt16)
            map.head.encode(into: &parts)
            for host in map.hosts { host.encode(into: &parts) }
            for group in map.groups { group.encode(into: &parts) }
            map.ring.encode(into: &parts)
            let expected = parts.take()
            #expect(bytes(map) == expected)
            for form in [ClusterMap.Form.hosts, .clients, .either] {
                let found = try read(bytes(map), form)
                #expect(found == map)
            }
        }
        let moving = try map(level: FeatureLevel.migrations, moving: true)
        let found = try read(bytes(moving))
        #expect(bytes(moving).array[0..<2] == [2, 0] && found == moving)
    }

    @Test func aHostsMapHasThePolicyBehindAllElse() throws {
        for moving in [false, true] {
            var map = try map(level: FeatureLevel.access, moving: moving)
            #expect(map.access == AccessPolicy(), "an empty one, which lets everybody in")
            map.access = policy
            #expect(map.problem() == nil)
            var section = ByteWriter()
            policy.encode(into: &section)
            let tail = section.take().array
            let written = bytes(map).array
            #expect(Array(written.suffix(tail.count)) == tail)
            // What stands before it is the clients' form, but for the version and the number of migrations.
            let clients = bytes(map.withoutAccess).array
            #expect(written[0..<2] == [3, 0] && clients[0..<2] == [moving ? 2 : 1, 0])
            let before = Array(written[2..<written.count - tail.count])
            #expect(before == Array(clients[2...]) + (moving ? [] : [0, 0, 0, 0]))
            #expect(try read(Bytes(written)) == map)
            #expect(try read(Bytes(written), .either) == map)
            for length in 0..<written.count {
                #expect(throws: DecodingFailure.self) { try read(Bytes(Array(written[0..<length]))) }
            }
        }
    }

    @Test func aMapThatLostItsPolicyIsNotBelievedByAHost() throws {
        var map = try map(level: FeatureLevel.access)
        map.access = policy
        let clients = bytes(map.withoutAccess)
        #expect(!map.withoutAccess.isWhole)
        #expect(throws: DecodingFailure.self) { try read(clients) }
        #expect(try read(clients, .clients) == map.withoutAccess)
        #expect(try read(clients, .either) == map.withoutAccess)
        #expect(throws: DecodingFailure.self, "and a client takes none") { try read(bytes(map), .clients) }
    }

    @Test func noPolicyBelowTheLevelThatHasThemAndNoUnsoundOne() throws {
        var map = try map(level: FeatureLevel.migrations)
        map.access = AccessPolicy()
        #expect(map.problem()?.contains("feature level 11, which has none") == true)
        let low = bytes(map)
        #expect(throws: DecodingFailure.self) { try read(low) }
        map = try self.map(level: FeatureLevel.access)
        map.access = AccessPolicy(isRequired: true)
        #expect(map.problem()?.contains("no user has admin") == true)
        let unsound = bytes(map)
        #expect(throws: DecodingFailure.self) { try read(unsound) }
    }

    @Test func damageIsAnError() throws {
        var map = try map(level: FeatureLevel.access)
        map.access = policy
        mutate(bytes(map), seed: 21) { bytes in
            guard let read = try? read(bytes) else { return }
            #expect(read.problem() == nil && read.isWhole)
        }
    }
}
