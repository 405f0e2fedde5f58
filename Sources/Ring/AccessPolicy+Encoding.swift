// The policy's bytes: behind the map in the form that hosts have, as a record of the meta group, and parts of it in commands.

public import Primitives

extension AccessPolicy {
    public static let formatVersion: UInt16 = 1

    /// `version u16 = 1 | is required u8 | roles u16 | each role | users u16 | each user`
    public func encode(into writer: inout ByteWriter) {
        writer.write(Self.formatVersion)
        writer.write(isRequired)
        writer.write(UInt16(truncatingIfNeeded: roles.count))
        for role in roles { role.encode(into: &writer) }
        writer.write(UInt16(truncatingIfNeeded: users.count))
        for user in users { user.encode(into: &writer) }
    }

    /// Reads what `encode` wrote, and checks the invariants.
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let start = reader.offset
        let version = try reader.read(UInt16.self)
        guard version == Self.formatVersion else {
            throw DecodingFailure(expected: "users and roles of version 1", found: "version \(version)")
        }
        let isRequired = try reader.readBool()
        var roles: [AccessRole] = []
        let roleCount = try reader.readCount(
            UInt16.self, "roles", most: Self.rolesMax, ofSize: AccessRole.encodedBytesMin)
        for _ in 0..<roleCount {
            roles.append(try AccessRole(from: &reader))
            try Self.check(reader.offset - start)
        }
        var users: [AccessUser] = []
        let userCount = try reader.readCount(
            UInt16.self, "users", most: Self.usersMax, ofSize: AccessUser.encodedBytesMin)
        for _ in 0..<userCount {
            users.append(try AccessUser(from: &reader))
            try Self.check(reader.offset - start)
        }
        self.init(isRequired: isRequired, inOrder: roles, users)
        if let problem { throw DecodingFailure(expected: "consistent users and roles", found: problem) }
    }

    private static func check(_ bytes: Int) throws(DecodingFailure) {
        guard bytes <= encodedBytesMax else {
            throw DecodingFailure(expected: "users and roles of at most \(encodedBytesMax) bytes", found: "more")
        }
    }

    /// As `encode` writes it. Costs a look at each role and user.
    public var encodedBytes: Int {
        7 + roles.reduce(0) { $0 + $1.encodedBytes } + users.reduce(0) { $0 + $1.encodedBytes }
    }
}

extension AccessRole {
    static let encodedBytesMin = 5

    var encodedBytes: Int {
        Self.encodedBytesMin + name.utf8.count + grants.reduce(0) { $0 + 5 + $1.prefix.count }
    }

    /// `name: length u32, UTF-8 | grants u8 | each: verbs u8 (1 read, 2 write, 4 admin) | prefix: length u32, bytes`
    ///
    /// - Precondition: at most 255 grants.
    public func encode(into writer: inout ByteWriter) {
        precondition(grants.count <= UInt8.max, "a role of at most 255 grants")
        writer.writeWithLength(name)
        writer.write(UInt8(grants.count))
        for grant in grants {
            writer.write(grant.verbs.rawValue)
            writer.writeWithLength(grant.prefix)
        }
    }

    /// Within the bounds; all else is for `problem` to judge.
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let name = try reader.readStringWithLength(limit: AccessPolicy.nameBytesMax)
        var grants: [AccessGrant] = []
        let grantCount = try reader.readCount(
            UInt8.self, "grants of a role", most: AccessPolicy.grantsPerRoleMax, ofSize: 5)
        for _ in 0..<grantCount {
            let verbs = VerbSet(rawValue: try reader.read())
            // Its own bytes: a role lives for longer than the frame that it came in.
            let prefix = try reader.readBytesWithLength(limit: AccessPolicy.prefixBytesMax).compacted()
            grants.append(AccessGrant(verbs, prefix: prefix))
        }
        self.init(name: name, inOrder: grants)
    }
}

extension AccessUser {
    static let encodedBytesMin = 6
    private static let tokenBytes = 8 + TokenHash.byteCount

    var encodedBytes: Int {
        Self.encodedBytesMin + name.utf8.count + roles.reduce(0) { $0 + 4 + $1.utf8.count }
            + tokens.count * Self.tokenBytes
    }

    /// `name: length u32, UTF-8 | roles u8 | each: length u32, UTF-8 | tokens u8 | each: id u64 | hash, 32 bytes`
    ///
    /// - Precondition: at most 255 roles and 255 tokens.
    public func encode(into writer: inout ByteWriter) {
        precondition(roles.count <= UInt8.max && tokens.count <= UInt8.max, "a user of at most 255 roles and tokens")
        writer.writeWithLength(name)
        writer.write(UInt8(roles.count))
        for role in roles { writer.writeWithLength(role) }
        writer.write(UInt8(tokens.count))
        for token in tokens {
            writer.write(token.id)
            writer.write(token.hash.bytes)
        }
    }

    /// Within the bounds; all else is for `problem` to judge.
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let name = try reader.readStringWithLength(limit: AccessPolicy.nameBytesMax)
        var roles: [String] = []
        let roleCount = try reader.readCount(
            UInt8.self, "roles of a user", most: AccessPolicy.rolesPerUserMax, ofSize: 4)
        for _ in 0..<roleCount {
            roles.append(try reader.readStringWithLength(limit: AccessPolicy.nameBytesMax))
        }
        var tokens: [AccessToken] = []
        let tokenCount = try reader.readCount(
            UInt8.self, "tokens of a user", most: AccessPolicy.tokensPerUserMax, ofSize: Self.tokenBytes)
        for _ in 0..<tokenCount {
            let id = try reader.read(UInt64.self)
            guard let hash = TokenHash(try reader.readBytes(count: TokenHash.byteCount)) else {
                throw DecodingFailure(expected: "a token's hash", found: "other bytes")
            }
            tokens.append(AccessToken(id: id, hash: hash))
        }
        self.init(name: name, roles: roles, inOrder: tokens)
    }
}

extension ByteReader {
    fileprivate mutating func readCount<Integer: FixedWidthInteger>(
        _: Integer.Type, _ what: String, most: Int, ofSize size: Int
    ) throws(DecodingFailure) -> Int {
        let count = Int(try read(Integer.self))
        guard count <= most else { throw DecodingFailure(expected: "at most \(most) \(what)", found: "\(count)") }
        try check(count: count, ofSize: size)
        return count
    }
}
