// Who may do what: users, roles, and what roles grant. Part of the cluster's map, and only of the form that hosts have. Pure:
// who is at the other end of a connection, and what a request needs, is told by others. Hosts are no users: what they say to each
// other is not looked at here.

public import Primitives

/// What may be done. None contains another: who may write may not read for that, and who administers needs grants for data as
/// all others do. Numbers are bits of the format.
public enum Verb: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case read = 1
    case write = 2
    case admin = 4

    public var description: String {
        switch self {
        case .read: "read"
        case .write: "write"
        case .admin: "admin"
        }
    }
}

/// Some verbs. Hashable, so one form: bits.
public struct VerbSet: OptionSet, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public init(_ verb: Verb) { rawValue = verb.rawValue }

    public static let read = VerbSet(.read)
    public static let write = VerbSet(.write)
    public static let admin = VerbSet(.admin)
    public static let all: VerbSet = [.read, .write, .admin]

    public func contains(_ verb: Verb) -> Bool { rawValue & verb.rawValue != 0 }
    public var description: String { Verb.allCases.filter { contains($0) }.map(\.description).joined(separator: ",") }
}

/// Verbs on all keys that begin with a prefix, as users name keys: keys of the key-value store, names of objects, keys of users'
/// state machines, whatever machine they are of.
public struct AccessGrant: Hashable, Sendable {
    public var verbs: VerbSet
    /// Empty: everything, the cluster included.
    public var prefix: Bytes

    public init(_ verbs: VerbSet, prefix: Bytes = Bytes()) {
        self.verbs = verbs
        self.prefix = prefix
    }
}

/// A name for some grants.
public struct AccessRole: Hashable, Sendable {
    public var name: String
    /// Ascending by prefix, each prefix once: so each role has one form.
    public var grants: [AccessGrant]

    /// In whatever order: grants of one prefix become one.
    public init(_ name: String, grants: [AccessGrant]) {
        self.name = name
        self.grants = []
        for grant in grants.sorted(by: { $0.prefix < $1.prefix }) {
            if let last = self.grants.indices.last, self.grants[last].prefix == grant.prefix {
                self.grants[last].verbs.formUnion(grant.verbs)
            } else {
                self.grants.append(grant)
            }
        }
    }

    /// As they were read, for `problem` to judge.
    init(name: String, inOrder grants: [AccessGrant]) {
        self.name = name
        self.grants = grants
    }
}

/// SHA-256 of a bearer token: 32 bytes. The token itself is known to its owner alone.
public struct TokenHash: Hashable, Sendable, Comparable, CustomStringConvertible {
    public static let byteCount = 32
    private let words: (UInt64, UInt64, UInt64, UInt64)

    /// nil: it does not have 32 bytes.
    public init?(_ bytes: Bytes) {
        guard bytes.count == Self.byteCount else { return nil }
        func word(_ place: Int) -> UInt64 {
            bytes.withUnsafeBytes { UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: place * 8, as: UInt64.self)) }
        }
        words = (word(0), word(1), word(2), word(3))
    }

    public var bytes: Bytes {
        var writer = ByteWriter(capacity: Self.byteCount)
        for word in [words.0, words.1, words.2, words.3] { writer.write(word.bigEndian) }
        return writer.take()
    }

    public static func == (left: Self, right: Self) -> Bool { left.words == right.words }
    public static func < (left: Self, right: Self) -> Bool { left.words < right.words }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
        hasher.combine(words.2)
        hasher.combine(words.3)
    }

    /// Never its bytes: this may come to a log.
    public var description: String { "a token's hash" }
}

/// One of a user's bearer tokens.
public struct AccessToken: Hashable, Sendable {
    /// Names it to people, so that it can be taken away; not 0, and that of no other token of the cluster. No secret.
    public var id: UInt64
    public var hash: TokenHash

    public init(id: UInt64, hash: TokenHash) {
        self.id = id
        self.hash = hash
    }
}

/// Somebody who may come in: with a certificate of this name, or with one of the tokens.
public struct AccessUser: Hashable, Sendable {
    public var name: String
    /// Names, ascending; each of a role that there is. What any of them grants is granted.
    public var roles: [String]
    /// Ascending by id.
    public var tokens: [AccessToken]

    /// In whatever order.
    public init(_ name: String, roles: [String], tokens: [AccessToken] = []) {
        self.name = name
        self.roles = []
        for role in roles.sorted(by: AccessPolicy.isBefore) where self.roles.last != role { self.roles.append(role) }
        self.tokens = tokens.sorted { $0.id < $1.id }
    }

    /// As they were read, for `problem` to judge.
    init(name: String, roles: [String], inOrder tokens: [AccessToken]) {
        self.name = name
        self.roles = roles
        self.tokens = tokens
    }
}

/// Users, roles, and whether one has to be a user at all. There is one from feature level `FeatureLevel.access` on, at first an
/// empty one that lets everybody do everything.
///
/// Invariants, checked by `problem`: roles and users ascend by name; names are of `isName`; no role has a built-in one's name; each
/// role that a user has exists; no two tokens have one id or one hash; all is within the bounds below; and while authentication is
/// required, somebody may administer everything.
public struct AccessPolicy: Hashable, Sendable {
    public static let usersMax = 1_024
    public static let rolesMax = 256
    public static let grantsPerRoleMax = 64
    public static let rolesPerUserMax = 16
    public static let tokensPerUserMax = 4
    /// Of users and roles; at least one.
    public static let nameBytesMax = 64
    public static let prefixBytesMax = 256
    /// As encoded. The policy goes with every map to every host.
    public static let encodedBytesMax = 256 << 10

    /// Whoever is no user may do nothing. While it is off, everybody may do everything, users too: grants are not looked at.
    public var isRequired: Bool
    /// Ascending by name, without the built-in ones.
    public var roles: [AccessRole]
    /// Ascending by name.
    public var users: [AccessUser]

    public init(isRequired: Bool = false, roles: [AccessRole] = [], users: [AccessUser] = []) {
        self.isRequired = isRequired
        self.roles = roles.sorted { Self.isBefore($0.name, $1.name) }
        self.users = users.sorted { Self.isBefore($0.name, $1.name) }
    }

    /// As they were read, for `problem` to judge.
    init(isRequired: Bool, inOrder roles: [AccessRole], _ users: [AccessUser]) {
        self.isRequired = isRequired
        self.roles = roles
        self.users = users
    }

    /// Roles that are always there, in no map, and can't be changed.
    public static let builtInRoles = [
        AccessRole("admin", grants: [AccessGrant(.all)]),
        AccessRole("reader", grants: [AccessGrant(.read)]),
        AccessRole("writer", grants: [AccessGrant([.read, .write])]),
    ]

    /// 1 to 64 of the bytes a to z, 0 to 9, `.`, `_` and `-`.
    public static func isName(_ text: String) -> Bool {
        let bytes = text.utf8
        return !bytes.isEmpty && bytes.count <= nameBytesMax
            && bytes.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."),
                    UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }

    /// The order of names: that of their bytes.
    static func isBefore(_ left: String, _ right: String) -> Bool { left.utf8.lexicographicallyPrecedes(right.utf8) }

    // MARK: Finding

    /// By binary search; built-in ones too.
    public func role(_ name: String) -> AccessRole? {
        let place = roles.place { Self.isBefore($0.name, name) }
        if place < roles.count, roles[place].name == name { return roles[place] }
        return Self.builtInRoles.first { $0.name == name }
    }

    /// By binary search. Whoever shows a certificate that the clients' authority signed is the user whose name it has.
    public func user(_ name: String) -> AccessUser? {
        let place = users.place { Self.isBefore($0.name, name) }
        return place < users.count && users[place].name == name ? users[place] : nil
    }

    /// Whose token has this hash, and which of them it is. Looks at all tokens, some thousands at most: once for a connection, or for
    /// a token that was not seen before.
    ///
    /// Compared as other values are, not in constant time: a token is of at least 128 random bits, and who would learn by the time
    /// it takes how far two hashes agree learns nothing of a token that has such a hash.
    public func user(withTokenHash hash: TokenHash) -> (user: AccessUser, token: AccessToken)? {
        for user in users { for token in user.tokens where token.hash == hash { return (user, token) } }
        return nil
    }

    /// All that the user's roles grant; of who is no user, nothing. Not whether it is asked for (`isRequired`).
    public func rights(of user: String?) -> AccessRights {
        guard let user, let record = self.user(user) else { return AccessRights(grants: []) }
        return AccessRights(grants: record.roles.compactMap { role($0)?.grants }.flatMap(\.self))
    }

    /// Whether somebody may do this with a key. Costs a look at each grant of the user's roles: who asks for each request keeps
    /// `rights`.
    ///
    /// - Parameter user: nil: nobody whom the cluster knows.
    public func permits(_ user: String?, _ verb: Verb, key: Bytes) -> Bool {
        !isRequired || rights(of: user).permits(verb, key: key)
    }

    /// The same with everything, which is what the cluster as a whole needs.
    public func permitsEverything(_ user: String?, _ verb: Verb) -> Bool {
        !isRequired || rights(of: user).permitsEverything(verb)
    }

    /// Users who may administer everything: as long as authentication is required, there is one.
    public var administrators: [String] { users.filter { isAdministrator($0) }.map(\.name) }

    /// Whether there is one. Each map that a host reads is asked, so it gathers nothing.
    public var hasAdministrator: Bool { users.contains { isAdministrator($0) } }

    private func isAdministrator(_ user: AccessUser) -> Bool {
        user.roles.contains { name in
            role(name)?.grants.contains { $0.prefix.isEmpty && $0.verbs.contains(Verb.admin) } ?? false
        }
    }

    // MARK: Changing

    /// Replaces the role of this name, or adds it.
    public mutating func put(_ role: AccessRole) {
        let place = roles.place { Self.isBefore($0.name, role.name) }
        let isThere = place < roles.count && roles[place].name == role.name
        roles.replaceSubrange(place..<(isThere ? place + 1 : place), with: [role])
    }

    /// Replaces the user of this name, or adds him.
    public mutating func put(_ user: AccessUser) {
        let place = users.place { Self.isBefore($0.name, user.name) }
        let isThere = place < users.count && users[place].name == user.name
        users.replaceSubrange(place..<(isThere ? place + 1 : place), with: [user])
    }

    public mutating func removeRole(_ name: String) { roles.removeAll { $0.name == name } }
    public mutating func removeUser(_ name: String) { users.removeAll { $0.name == name } }

    // MARK: Judging

    /// What is wrong with it, in words; nil if its invariants hold. No word of a token but its id.
    public var problem: String? {
        guard roles.count <= Self.rolesMax else { return "more than \(Self.rolesMax) roles" }
        guard users.count <= Self.usersMax else { return "more than \(Self.usersMax) users" }
        for (place, role) in roles.enumerated() {
            if let problem = role.problem { return problem }
            guard place == 0 || Self.isBefore(roles[place - 1].name, role.name) else {
                return "role \(role.name) is out of order"
            }
        }
        var tokens: [(token: AccessToken, user: String)] = []
        for (place, user) in users.enumerated() {
            if let problem = user.problem { return problem }
            guard place == 0 || Self.isBefore(users[place - 1].name, user.name) else {
                return "user \(user.name) is out of order"
            }
            if let missing = user.roles.first(where: { role($0) == nil }) {
                return "user \(user.name) has the role \(missing), which does not exist"
            }
            tokens += user.tokens.map { ($0, user.name) }
        }
        tokens.sort { $0.token.id < $1.token.id }
        for place in tokens.indices.dropFirst() where tokens[place - 1].token.id == tokens[place].token.id {
            return
                "two tokens have the id \(tokens[place].token.id), of \(tokens[place - 1].user) and \(tokens[place].user)"
        }
        tokens.sort { $0.token.hash < $1.token.hash }
        for place in tokens.indices.dropFirst() where tokens[place - 1].token.hash == tokens[place].token.hash {
            return "\(tokens[place - 1].user) and \(tokens[place].user) have the same token"
        }
        let bytes = encodedBytes
        guard bytes <= Self.encodedBytesMax else {
            return "users and roles take \(bytes) bytes, of at most \(Self.encodedBytesMax)"
        }
        guard !isRequired || hasAdministrator else {
            return "authentication is required, and no user has admin on everything"
        }
        return nil
    }
}

extension AccessRole {
    /// What is wrong with it by itself, in words; nil if nothing is.
    public var problem: String? {
        guard AccessPolicy.isName(name) else { return Self.problem(ofName: "a role's") }
        guard !AccessPolicy.builtInRoles.contains(where: { $0.name == name }) else {
            return "the role \(name) is built in, and can't be changed"
        }
        guard grants.count <= AccessPolicy.grantsPerRoleMax else {
            return "role \(name) has \(grants.count) grants, of at most \(AccessPolicy.grantsPerRoleMax)"
        }
        for (place, grant) in grants.enumerated() {
            guard !grant.verbs.isEmpty, VerbSet.all.isSuperset(of: grant.verbs) else {
                return "a grant of role \(name) has no verbs, or unknown ones"
            }
            guard grant.prefix.count <= AccessPolicy.prefixBytesMax else {
                return
                    "a prefix of role \(name) has \(grant.prefix.count) bytes, of at most \(AccessPolicy.prefixBytesMax)"
            }
            guard place == 0 || grants[place - 1].prefix < grant.prefix else {
                return "the prefixes of role \(name) are out of order"
            }
        }
        return nil
    }

    static func problem(ofName whose: String) -> String {
        "\(whose) name has 1 to \(AccessPolicy.nameBytesMax) of the characters a to z, 0 to 9, '.', '_' and '-'"
    }
}

extension AccessUser {
    /// What is wrong with it by itself, in words; nil if nothing is. Whether its roles exist, the policy knows.
    public var problem: String? {
        guard AccessPolicy.isName(name) else { return AccessRole.problem(ofName: "a user's") }
        guard roles.count <= AccessPolicy.rolesPerUserMax else {
            return "user \(name) has \(roles.count) roles, of at most \(AccessPolicy.rolesPerUserMax)"
        }
        guard tokens.count <= AccessPolicy.tokensPerUserMax else {
            return "user \(name) has \(tokens.count) tokens, of at most \(AccessPolicy.tokensPerUserMax)"
        }
        for place in roles.indices {
            guard AccessPolicy.isName(roles[place]) else { return AccessRole.problem(ofName: "a role's") }
            guard place == 0 || AccessPolicy.isBefore(roles[place - 1], roles[place]) else {
                return "the roles of user \(name) are out of order"
            }
        }
        for place in tokens.indices {
            guard tokens[place].id != 0 else { return "a token of user \(name) has the id 0" }
            guard place == 0 || tokens[place - 1].id < tokens[place].id else {
                return "the tokens of user \(name) are out of order"
            }
        }
        return nil
    }
}

/// What somebody may do, gathered once from all roles: what a host keeps for a connection, as long as the policy is the same. At
/// most 1,024 grants; asking costs a look at each.
public struct AccessRights: Hashable, Sendable {
    public let grants: [AccessGrant]

    /// Any grant of them is enough.
    public init(grants: [AccessGrant]) { self.grants = grants }

    public static let everything = AccessRights(grants: [AccessGrant(.all)])

    /// With this key.
    public func permits(_ verb: Verb, key: Bytes) -> Bool {
        grants.contains { $0.verbs.contains(verb) && key.starts(with: $0.prefix) }
    }

    /// With all keys from this one on, and before `end`; without one: all behind it. By one grant alone: several that have the range
    /// together are not put together.
    public func permits(_ verb: Verb, from: Bytes, end: Bytes?) -> Bool {
        grants.contains { grant in
            guard grant.verbs.contains(verb) else { return false }
            guard !grant.prefix.isEmpty else { return true }
            guard from.starts(with: grant.prefix) else { return false }
            // A prefix of bytes 255 alone has no end: whatever stands behind it begins with it.
            guard let endOfPrefix = grant.prefix.endOfPrefix else { return true }
            return end.map { $0 <= endOfPrefix } ?? false
        }
    }

    /// With all keys, and with the cluster.
    public func permitsEverything(_ verb: Verb) -> Bool {
        grants.contains { $0.verbs.contains(verb) && $0.prefix.isEmpty }
    }

    /// With some key.
    public func permitsSomething(_ verb: Verb) -> Bool { grants.contains { $0.verbs.contains(verb) } }
}

/// What somebody needs to be allowed for a request, or for a part of one.
public enum Permission: Hashable, Sendable {
    /// To be a user, whatever he may do.
    case user
    /// The verb on some key, whichever.
    case something(Verb)
    case key(Verb, Bytes)
    /// The verb on all keys from this one on, and before `end`; nil: all behind it.
    case range(Verb, from: Bytes, end: Bytes?)
    /// The verb on everything.
    case everything(Verb)
    /// Nobody is who comes as a client: hosts say it to each other.
    case hosts
}

extension AccessPolicy {
    /// Whether somebody may do it. Costs as much as `permits(_:_:key:)`.
    ///
    /// - Parameter user: nil: nobody whom the cluster knows.
    public func permits(_ user: String?, _ permission: Permission) -> Bool {
        guard isRequired else { return true }
        guard let user, self.user(user) != nil else { return false }
        return rights(of: user).permits(permission)
    }
}

extension AccessRights {
    /// Whether a user with these rights may do it.
    public func permits(_ permission: Permission) -> Bool {
        switch permission {
        case .user: true
        case .something(let verb): permitsSomething(verb)
        case .key(let verb, let key): permits(verb, key: key)
        case .range(let verb, let from, let end): permits(verb, from: from, end: end)
        case .everything(let verb): permitsEverything(verb)
        case .hosts: false
        }
    }
}
