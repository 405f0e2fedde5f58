// One kind of chaos from beginning to end: real hosts, clients, damage, healing, and what is true afterwards. Owns the
// hosts of one kind; the clients' history is judged by the checker.

import Bifrost
import Foundation
import Linearizability
import Messages
import Primitives
import RPC
import Ring

struct ChaosResult: Encodable {
    var kind: ChaosKind
    var rounds: Int
    var roundsDone = 0
    /// Why nothing was done.
    var skipped: String?
    var isSkipPermitted: Bool?
    var seconds = 0.0
    var operations = 0
    var acknowledged = 0
    var unknownOutcomes = 0
    /// Of the history; nil if there is none.
    var verdict: HistorySummary.Verdict?
    /// What happened that is worth knowing.
    var notes: [String] = []
    /// What must not be.
    var problems: [String] = []
    /// Files that were kept.
    var history: String?
    var picture: String?
    var directory: String?

    var isGood: Bool { problems.isEmpty && (skipped == nil || isSkipPermitted == true) }
}

final class ChaosTrial {
    struct Settings {
        var parent: String
        /// Where histories and pictures go.
        var output: String
        var groups: Int
        var clients: Int
        var keep: Bool
        var hasNamespaces: Bool
    }

    /// Of each group.
    private static let replicas = 3
    /// Operations that show that the cluster works, and how long that may take: several elections.
    private static let progressOperations = 200
    private static let progressLimit = Duration.seconds(20)
    private static let settleLimit = Duration.seconds(40)
    /// What is promised once a full disk has space again.
    private static let spaceLimit = Duration.seconds(10)

    private let kind: ChaosKind
    private let hostCount: Int
    private let settings: Settings
    private let story: DemoStory
    private let clock = ContinuousClock()
    private var result: ChaosResult
    private var local: LocalCluster?
    /// Where hosts are reached, in their order.
    private var addresses: [String] = []
    private var network: ChaosNetwork?
    private var proxies: [ChaosProxy] = []
    private var clients: [Cluster] = []

    init(_ part: ChaosPlan.Part, settings: Settings, story: DemoStory) {
        kind = part.kind
        hostCount = kind == .members ? Self.replicas + 1 : Self.replicas
        self.settings = settings
        self.story = story
        result = ChaosResult(kind: part.kind, rounds: part.rounds)
    }

    private func say(_ text: String) { story.say("\(kind): \(text)") }

    private func problem(_ text: String) {
        result.problems.append(text)
        say("PROBLEM: \(text)")
    }

    private func note(_ text: String) {
        result.notes.append(text)
        say(text)
    }

    /// Never throws: what goes wrong is in the result.
    func run() async -> ChaosResult {
        let start = clock.now
        if let obstacle = await ChaosMachine.obstacle(to: kind, hasNamespaces: settings.hasNamespaces) {
            result.skipped = obstacle
            say("skipped: \(obstacle)")
            return result
        }
        do {
            try await play()
        } catch {
            problem("the trial ended early: \(ToolError(error).message)")
        }
        for client in clients { await client.close() }
        for proxy in proxies { await proxy.stop() }
        let isKept = settings.keep || !result.problems.isEmpty
        if isKept { result.directory = local?.directory }
        if let local {
            local.dispose(keepDirectory: true)
            if kind == .full { await unmount(local) }
            if !isKept { try? FileManager.default.removeItem(atPath: local.directory) }
        }
        await network?.remove()
        let (seconds, attoseconds) = (clock.now - start).components
        result.seconds = Double(seconds) + Double(attoseconds / 1_000_000_000_000_000) / 1_000
        return result
    }

    // MARK: The story

    private func play() async throws {
        let local = try await makeHosts()
        self.local = local
        local.disposeOnSignals(keepDirectory: settings.keep)
        for number in 0..<hostCount { try start(number) }
        try await local.run([
            "init", "--hosts", addresses.prefix(Self.replicas).joined(separator: ","), "--groups",
            "\(settings.groups)", "--replicas", "\(Self.replicas)",
        ])
        for address in addresses.dropFirst(Self.replicas) { try await local.run(["host", "add", address] + connect) }
        for _ in 0..<settings.clients {
            var options = ClusterOptions()
            options.name = "bifrost chaos"
            clients.append(try await Cluster.connect(to: addresses, options: options))
        }
        let map = try await clients[0].map()
        let load = ChaosLoad(
            clients: clients, hosts: map.hosts.map(\.id), areReadsPinned: kind != .members,
            valueBytes: kind == .full ? 2_048 : 0)
        let running = Task { await load.run() }
        do {
            for round in 0..<result.rounds {
                load.begin(round: round + 1)
                try await expectProgress(load, "before round \(round + 1)")
                try await damage(round, load)
                try await settle("after round \(round + 1)", within: Self.settleLimit)
                try await expectProgress(load, "after round \(round + 1)")
                result.roundsDone += 1
                say("round \(round + 1) of \(result.rounds) is over, \(load.acknowledged) operations acknowledged")
            }
        } catch {
            problem("round \(result.roundsDone + 1): \(ToolError(error).message)")
        }
        load.stop()
        await running.value
        if result.problems.isEmpty { for text in await load.readAll() { problem(text) } }
        for text in load.unexpected { problem("an error that no client should see: \(text)") }
        try await judge(load)
    }

    private func judge(_ load: ChaosLoad) async throws {
        let history = load.history
        let report = HistoryReport(checking: history)
        result.operations = report.operationCount
        result.acknowledged = load.acknowledged
        result.unknownOutcomes = report.unknownOutcomeCount
        result.verdict = HistorySummary(report).verdict
        let path = "\(settings.output)/\(kind).jsonl"
        let output = try OutputFile(creating: path)
        do {
            var lines: [UInt8] = []
            for record in history {
                lines += record.line()
                if lines.count > 1 << 20 {
                    try output.write(lines)
                    lines = []
                }
            }
            try output.write(lines)
            try output.finish()
        } catch {
            output.abandon()
            throw error
        }
        result.history = path
        for key in report.suspicious { problem(key.explanation.joined(separator: "; ")) }
        if let picture = report.violation.flatMap({ HistoryPicture($0) }) {
            let path = "\(settings.output)/\(kind).svg"
            try write(picture: picture.svg(), to: path)
            result.picture = path
        }
        say(
            "\(report.operationCount) operations on \(report.keyCount) keys, \(report.unknownOutcomeCount) of unknown "
                + "outcome: \(HistorySummary(report).verdict)")
    }

    private func expectProgress(_ load: ChaosLoad, _ when: String) async throws {
        guard try await !load.progress(by: Self.progressOperations, within: Self.progressLimit) else { return }
        throw LocalCluster.Failure(
            description: "\(when): fewer than \(Self.progressOperations) operations in "
                + "\(Self.progressLimit.components.seconds) s")
    }

    // MARK: Hosts

    private func makeHosts() async throws -> LocalCluster {
        let ports = try LocalCluster.freePorts(2 * hostCount)
        addresses = ports.prefix(hostCount).map { "127.0.0.1:\($0)" }
        var listening = addresses
        switch kind {
        case .partition:
            guard let ip = ChaosMachine.path(of: "ip") else { break }
            network = try await ChaosNetwork(hosts: hostCount, ip: ip)
            addresses = (0..<hostCount).map { "\(ChaosNetwork.address($0)):\(ChaosNetwork.port)" }
            listening = addresses
        case .proxy:
            for number in 0..<hostCount {
                let target = ports[hostCount + number]
                listening[number] = "127.0.0.1:\(target)"
                let proxy = ChaosProxy(port: ports[number])
                try await proxy.start(target: target)
                proxies.append(proxy)
            }
        case .kill, .stop, .eio, .killcall, .full, .members: break
        }
        let local = try LocalCluster(below: settings.parent, name: "bifrost-chaos-\(kind)", addresses: listening)
        if kind == .full { try await mount(local.hosts[0].directory) }
        return local
    }

    private func start(_ number: Int, through wrapper: [String] = []) throws {
        guard let local else { return }
        var arguments: [String] = []
        var wrapper = wrapper
        if let network {
            wrapper = network.wrapper(number) + wrapper
            arguments.append("--insecure-listen")
        }
        if kind == .proxy { arguments += ["--advertise", addresses[number]] }
        try local.start(local.hosts[number], arguments: arguments, through: wrapper)
    }

    /// Waits until every host serves, every group has a leader, and all replicas are at the same index; their digests
    /// must be equal then. The load goes on meanwhile, so that only replicas that meet at an index are compared.
    private func settle(_ when: String, within limit: Duration) async throws {
        guard let local else { return }
        let end = clock.now + limit
        var last = "no host answers"
        while clock.now < end {
            for host in local.hosts where !host.isRunning {
                throw LocalCluster.Failure(
                    description: "\(when): host \(host.number) ended by itself; its log: \(lastLine(host))")
            }
            if let accounts = try? await clients[0].accounts(timeout: .seconds(1)),
                let map = try? await clients[0].map()
            {
                try compareDigests(accounts)
                let health = ClusterHealth(map: map, accounts: accounts, lagEntriesMax: 1_000)
                if health.verdict == .healthy { return }
                last = health.problems.first ?? "\(health.verdict)"
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw LocalCluster.Failure(description: "\(when): not healthy within \(limit.components.seconds) s: \(last)")
    }

    private func compareDigests(_ accounts: [HostAccount]) throws {
        let replicas = accounts.flatMap { $0.status?.replicas ?? [] }
        for (place, replica) in replicas.enumerated() {
            for other in replicas[..<place]
            where other.group == replica.group && other.digestIndex == replica.digestIndex
                && other.digest != replica.digest
            {
                throw LocalCluster.Failure(
                    description: "replicas of group \(replica.group) differ at index \(replica.digestIndex)")
            }
        }
    }

    private func log(_ host: LocalCluster.HostProcess) -> String {
        (try? String(contentsOfFile: host.log, encoding: .utf8)) ?? ""
    }

    private func lastLine(_ host: LocalCluster.HostProcess) -> String {
        log(host).split(separator: "\n").last.map(String.init) ?? "empty"
    }

    /// Waits for a host's own end.
    private func ending(
        of host: LocalCluster.HostProcess, within limit: Duration
    ) async throws -> ChildProcess.Ending? {
        let end = clock.now + limit
        while host.isRunning, clock.now < end { try await Task.sleep(for: .milliseconds(20)) }
        guard !host.isRunning, let process = host.process else { return nil }
        return await process.end().ending
    }

    // MARK: Damage

    private func damage(_ round: Int, _ load: ChaosLoad) async throws {
        guard let local else { return }
        let number = round % hostCount
        switch kind {
        case .kill:
            let isLast = round == result.rounds - 1
            let victims = isLast && result.rounds > 1 ? Array(local.hosts.indices) : [number]
            say("SIGKILL of \(victims.count == 1 ? "host \(number + 1)" : "all hosts at once")")
            for victim in victims { local.kill(local.hosts[victim]) }
            if victims.count == 1 { try await expectProgress(load, "while host \(number + 1) was dead") }
            for victim in victims { try start(victim) }
        case .stop:
            let seconds = 5 + round % 11
            let host = local.hosts[try await leader() ?? number]
            say("SIGSTOP of host \(host.number) for \(seconds) s")
            host.process?.send(SIGSTOP)
            defer { host.process?.send(SIGCONT) }
            try await Task.sleep(for: .seconds(seconds))
            try await expectProgress(load, "while host \(host.number) was stopped")
        case .partition: try await part(number, round, load)
        case .proxy: try await disturb(round, load)
        case .eio: try await failSync(number, load)
        case .killcall: try await killAtCall(number, load)
        case .full: try await fill(load)
        case .members: try await move(round, load)
        }
    }

    private var connect: [String] { ["--connect", addresses.joined(separator: ",")] }

    /// A host is drained, and meanwhile it or another one is killed and comes back.
    private func move(_ round: Int, _ load: ChaosLoad) async throws {
        guard let local else { return }
        let number = round % hostCount
        let victim = round % 3 == 2 ? number : (number + 1 + round % (hostCount - 1)) % hostCount
        let id = HostID(UInt64(number + 1))
        say("host \(number + 1) is drained, SIGKILL of host \(victim + 1) meanwhile")
        let connect = connect
        async let draining = local.command(
            ["host", "drain", "\(id)", "--timeout", "90s"] + connect, limit: .seconds(100))
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...600)))
        local.kill(local.hosts[victim])
        try await expectProgress(load, "while host \(victim + 1) was dead")
        try start(victim)
        let drained = try await draining
        guard drained.ending == .exit(0) else {
            return problem("host drain ended with \(drained.ending): \(drained.errorText)")
        }
        try await awaitEmpty(id)
        let cancelled = try await local.command(["host", "drain", "\(id)", "--cancel"] + connect)
        if cancelled.ending != .exit(0) {
            problem("host drain --cancel ended with \(cancelled.ending): \(cancelled.errorText)")
        }
    }

    /// Until a host that no group has any more has no replica of any left either.
    private func awaitEmpty(_ host: HostID) async throws {
        let end = clock.now + Self.settleLimit
        while true {
            let accounts = try await clients[0].accounts(timeout: .seconds(1))
            let left = accounts.first { $0.host.id == host }?.status?.replicas.count
            if left == 0 { return }
            guard clock.now < end else {
                return problem("host \(host) is drained, and has \(left.map { "\($0)" } ?? "no word of its") replicas")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// The host that leads most groups, as a place.
    private func leader() async throws -> Int? {
        let accounts = try await clients[0].accounts(timeout: .seconds(1))
        let health = ClusterHealth(map: try await clients[0].map(), accounts: accounts)
        let leads = accounts.map { account in health.groups.count { $0.leader == account.host.id } }
        return leads.indices.max { leads[$0] < leads[$1] }
    }

    private func part(_ number: Int, _ round: Int, _ load: ChaosLoad) async throws {
        guard let network else { return }
        let others = (0..<hostCount).filter { $0 != number }
        switch round % 3 {
        case 0:
            say("host \(number + 1) is cut off")
            try await network.isolate(number)
        case 1:
            say("host \(number + 1) and the other hosts lose each other; clients reach all")
            for other in others {
                try await network.mute(number, towards: other)
                try await network.mute(other, towards: number)
            }
        default:
            say("what host \(number + 1) sends to host \(others[0] + 1) is lost, one way")
            try await network.mute(number, towards: others[0])
        }
        try await Task.sleep(for: .seconds(5))
        try await expectProgress(load, "while the network was parted")
        switch round % 3 {
        case 0: try await network.join(number)
        case 1:
            for other in others {
                try await network.unmute(number, towards: other)
                try await network.unmute(other, towards: number)
            }
        default: try await network.unmute(number, towards: others[0])
        }
    }

    private func disturb(_ round: Int, _ load: ChaosLoad) async throws {
        let faults: ChaosProxy.Faults =
            switch round % 3 {
            case 0: .init(delayMillisecondsMax: 20, cut: 2_000, corrupt: 2_000)
            case 1: .init(delayMillisecondsMax: 100)
            default: .init(cut: 10_000, corrupt: 10_000)
            }
        say(
            "delays up to \(faults.delayMillisecondsMax) ms; in a million pieces \(faults.cut) cuts, \(faults.corrupt) changed"
        )
        let before = proxies.map(\.counts)
        for proxy in proxies { proxy.faults = faults }
        try await Task.sleep(for: .seconds(6))
        for proxy in proxies { proxy.faults = ChaosProxy.Faults() }
        let after = proxies.map(\.counts)
        func sum(_ count: (ChaosProxy.Counts) -> Int) -> Int {
            zip(before, after).reduce(0) { $0 + count($1.1) - count($1.0) }
        }
        note(
            "\(sum(\.pieces)) pieces, \(sum(\.cut)) cuts, \(sum(\.corrupted)) changed, \(sum(\.connections)) new connections"
        )
        if faults.cut > 0, sum(\.cut) + sum(\.corrupted) == 0 { problem("the proxies did nothing") }
    }

    private func failSync(_ number: Int, _ load: ChaosLoad) async throws {
        guard let local, let strace = ChaosMachine.path(of: "strace") else { return }
        let host = local.hosts[number]
        local.stop(host)
        let call = Int.random(in: 20...400)
        say("fdatasync number \(call) of host \(number + 1) answers EIO")
        try start(number, through: Self.injection(strace, "fdatasync", "error=EIO:when=\(call)"))
        guard let ending = try await ending(of: host, within: .seconds(60)) else {
            problem("host \(number + 1) went on for 60 s, and was to end at its failed sync")
            local.stop(host)
            try start(number)
            return
        }
        if ending != .exit(ExitStatus.diskFailed.rawValue) {
            problem("host \(number + 1) ended with \(ending) after a failed sync: \(lastLine(host))")
        }
        if !lastLine(host).contains("look at the disk") {
            problem("host \(number + 1) did not say that its disk failed: \(lastLine(host))")
        }
        try await expectProgress(load, "while host \(number + 1) was down")
        try start(number)
    }

    private static func injection(_ strace: String, _ calls: String, _ fault: String) -> [String] {
        // With -D the host is our child, and strace its grandchild. Calls are counted per thread.
        // Stopping at those calls only is faster, and strace 6 delivers no signals then.
        let fast = fault.hasPrefix("signal") ? [] : ["--seccomp-bpf"]
        return [strace, "-D", "-f"] + fast + [
            "-qq", "-o", "/dev/null", "-e", "trace=\(calls)", "-e",
            "inject=\(calls):\(fault)",
        ]
    }

    private func killAtCall(_ number: Int, _ load: ChaosLoad) async throws {
        guard let local, let strace = ChaosMachine.path(of: "strace") else { return }
        let host = local.hosts[number]
        local.stop(host)
        // LMDB writes pages with pwrite64 and pwritev, its meta page with pwrite64, and syncs with the last.
        let calls = ["pwrite64", "pwrite64,pwritev,fdatasync", "fdatasync"].randomElement()!
        let call = Int.random(in: 1...400)
        say("host \(number + 1) is killed at number \(call) of \(calls) of a thread")
        try start(number, through: Self.injection(strace, calls, "signal=SIGKILL:when=\(call)"))
        guard let ending = try await ending(of: host, within: .seconds(60)) else {
            note("host \(number + 1) made no such call within 60 s")
            local.kill(host)
            return try start(number)
        }
        if ending != .signal(SIGKILL) { problem("host \(number + 1) ended with \(ending): \(lastLine(host))") }
        try await expectProgress(load, "while host \(number + 1) was dead")
        try start(number)
    }

    // MARK: A full disk

    private static let diskBytes = 64 << 20

    private func mount(_ directory: String) async throws {
        guard let mount = ChaosMachine.path(of: "mount") else { return }
        guard mkdir(directory, 0o700) == 0 else {
            throw LocalCluster.Failure(description: "can't make \(directory): \(String(cString: strerror(errno)))")
        }
        let options = "size=\(Self.diskBytes),mode=0700"
        try await ChaosNetwork.run(mount, ["-t", "tmpfs", "-o", options, "bifrost-chaos", directory])
    }

    private func unmount(_ local: LocalCluster) async {
        guard let command = ChaosMachine.path(of: "umount") else { return }
        try? await ChaosNetwork.run(command, [local.hosts[0].directory])
    }

    /// Takes all space of the first host's disk, a few times in case it gives some back, and then frees it.
    private func fill(_ load: ChaosLoad) async throws {
        guard let local else { return }
        let host = local.hosts[0]
        let path = host.directory + "/ballast"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw LocalCluster.Failure(description: "can't make \(path): \(String(cString: strerror(errno)))")
        }
        say("the disk of host 1 (\(HumanText.bytes(UInt64(Self.diskBytes)))) is being filled")
        let page = [UInt8](repeating: 0, count: 4_096)
        var ballast = 0
        let end = clock.now + .seconds(4)
        while host.isRunning, clock.now < end {
            while page.withUnsafeBytes({ write(descriptor, $0.baseAddress, $0.count) }) > 0 { ballast += page.count }
            try await Task.sleep(for: .milliseconds(5))
        }
        close(descriptor)
        try await expectProgress(load, "while the disk of host 1 was full")
        guard host.isRunning else {
            let ending = await host.process?.end().ending
            problem("on a full disk host 1 ended with \(ending.map { "\($0)" } ?? "nothing"): \(lastLine(host))")
            unlink(path)
            return try start(0)
        }
        note("host 1 goes on with a full disk: \(lastLine(host))")
        if !log(host).contains("the disk is full") {
            problem("host 1 did not say that its disk is full: \(lastLine(host))")
        }
        let goals = try await lastIndexes()
        unlink(path)
        let freed = clock.now
        let given = HumanText.bytes(UInt64(ballast))
        try await reach(goals, on: HostID(1), "after \(given) were given back", within: Self.spaceLimit)
        let milliseconds = (clock.now - freed) / .milliseconds(1)
        note("what was missed was written \(Int(milliseconds)) ms after \(given) were given back")
        try await expectProgress(load, "after \(given) were given back")
    }

    /// The newest entry of each group that any replica has on disk.
    private func lastIndexes() async throws -> [GroupID: LogIndex] {
        let accounts = try await clients[0].accounts(timeout: .seconds(2))
        let replicas = accounts.flatMap { $0.status?.replicas ?? [] }
        return Dictionary(grouping: replicas, by: \.group).mapValues { $0.map(\.lastIndex).max() ?? .zero }
    }

    /// Until a host has applied these entries.
    private func reach(
        _ goals: [GroupID: LogIndex], on host: HostID, _ when: String, within limit: Duration
    ) async throws {
        let end = clock.now + limit
        while true {
            let accounts = try await clients[0].accounts(timeout: .seconds(1))
            let replicas = accounts.first { $0.host.id == host }?.status?.replicas ?? []
            let behind = replicas.first { $0.appliedIndex < goals[$0.group] ?? .zero }
            if !replicas.isEmpty, behind == nil { return }
            guard clock.now < end else {
                throw LocalCluster.Failure(
                    description: "\(when): host \(host) has not caught up within \(limit.components.seconds) s"
                        + (behind.map { ", in group \($0.group) it is at \($0.appliedIndex)" } ?? ""))
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}
