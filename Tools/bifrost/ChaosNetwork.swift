// Hosts in network namespaces of their own, joined by a bridge, and the ways to part them. Owns links and routes; they
// go with the namespace that this process was started in.

import Foundation

struct ChaosNetwork: Sendable {
    /// RFC 2544's range for tests; nobody else is in this process's network namespace.
    private static let prefix = "198.18.0."
    static let port = 7_001
    private static let bridge = "chaos"
    private let ip: String
    let count: Int

    static func address(_ host: Int) -> String { "\(prefix)\(11 + host)" }
    private static func name(_ host: Int) -> String { "chaos-\(host)" }

    /// - Parameter ip: the path of the `ip` command.
    init(hosts: Int, ip: String) async throws {
        self.ip = ip
        count = hosts
        try await run("link", "add", Self.bridge, "type", "bridge")
        try await run("address", "add", Self.prefix + "1/24", "dev", Self.bridge)
        try await run("link", "set", Self.bridge, "up")
        for host in 0..<hosts {
            let name = Self.name(host)
            try await run("netns", "add", name)
            try await run("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            try await run("link", "set", name, "master", Self.bridge, "up")
            try await inside(host, "address", "add", Self.address(host) + "/24", "dev", "eth0")
            try await inside(host, "link", "set", "eth0", "up")
            try await inside(host, "link", "set", "lo", "up")
        }
    }

    func remove() async {
        for host in 0..<count { try? await run("netns", "delete", Self.name(host)) }
        try? await run("link", "delete", Self.bridge)
    }

    /// What to put before a command that is to run where the host is.
    func wrapper(_ host: Int) -> [String] { [ip, "netns", "exec", Self.name(host)] }

    // MARK: Partitions

    /// From everybody, clients too.
    func isolate(_ host: Int) async throws { try await run("link", "set", Self.name(host), "down") }
    func join(_ host: Int) async throws { try await run("link", "set", Self.name(host), "up") }

    /// What one host sends to another is lost; what comes from there arrives.
    func mute(_ host: Int, towards other: Int) async throws {
        try await inside(host, "route", "add", "blackhole", Self.address(other) + "/32")
    }
    func unmute(_ host: Int, towards other: Int) async throws {
        try await inside(host, "route", "delete", "blackhole", Self.address(other) + "/32")
    }

    private func run(_ arguments: String...) async throws { try await Self.run(ip, arguments) }
    private func inside(_ host: Int, _ arguments: String...) async throws {
        try await Self.run(ip, ["-netns", Self.name(host)] + arguments)
    }

    /// A command to its end; throws what it said if that is not 0.
    static func run(_ path: String, _ arguments: [String]) async throws {
        let result = try await ChildProcess(path, arguments).end(killAfter: .seconds(20))
        guard result.ending == .exit(0) else {
            let said = result.errorText.split(separator: "\n").joined(separator: "; ")
            throw LocalCluster.Failure(
                description: "\(path) \(arguments.joined(separator: " ")) ended with \(result.ending): \(said)")
        }
    }
}

/// What this machine can do.
enum ChaosMachine {
    /// Where a command is; nil: nowhere.
    static func path(of command: String) -> String? {
        ["/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"].map { $0 + command }.first {
            FileManager.default.isExecutableFile(atPath: $0)
        }
    }

    /// Why a kind of round is impossible here; nil: it is possible.
    /// - Parameter hasNamespaces: this process has network and mounts of its own.
    static func obstacle(to kind: ChaosKind, hasNamespaces: Bool) async -> String? {
        switch kind {
        case .kill, .stop, .proxy, .members: return nil
        case .eio, .killcall:
            guard let strace = path(of: "strace") else { return "strace is not installed" }
            let trial = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "/bin/true"]
            return await problem { try await ChaosNetwork.run(strace, trial) }
        case .partition:
            guard hasNamespaces else { return "network namespaces need root: Tools/chaos makes them then" }
            guard let ip = path(of: "ip") else { return "ip (iproute2) is not installed" }
            return await problem {
                let network = try await ChaosNetwork(hosts: 1, ip: ip)
                await network.remove()
            }
        case .full:
            guard hasNamespaces else { return "mounting a small disk needs root: Tools/chaos makes a namespace then" }
            return path(of: "mount") == nil ? "mount is not installed" : nil
        }
    }

    private static func problem(_ trial: () async throws -> Void) async -> String? {
        do {
            try await trial()
            return nil
        } catch {
            return "\(error)"
        }
    }
}
