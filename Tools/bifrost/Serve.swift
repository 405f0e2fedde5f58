// `bifrost serve`: one host, until a signal ends it.

import ArgumentParser
import BifrostHost
import Foundation
import Logging
import Primitives
import RPC
import StateMachines
import Synchronization
import UnixSignals

struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs a host: serves what its data directory holds, until SIGTERM or SIGINT.",
        discussion: """
            When it listens it prints one line on standard output, and nothing after it:

              listening 127.0.0.1:7001 pid 4711 directory /data cluster none host 0

            The second word is the address, with the port that was taken if 0 was asked for. With --metrics the line \
            ends with "metrics" and where those are: GET /metrics there is what Prometheus reads. With --json the line is \
            an object. Everything else goes to standard error. A new host waits until 'bifrost init' makes it part of \
            a cluster, or with --join asks the cluster there to take it in, as 'bifrost host add' does from outside. It \
            goes on asking while nobody there can be reached, and says so. A host that is a member already just starts, \
            so the flag may stay. It ends with 73 if the directory belongs to another cluster than the hosts there or \
            was removed from it, and with 4 if those belong to none.

            Raises its limit on open files and sockets as far as it may, and warns if it stays below what 1,024 \
            connections need. With none left, connections wait until some close.

            All that the host logs is at least as important as --log-level, and a line each as --log-format has it: \
            text, or json, an object with time, level, logger, message, metadata and source. With json the error that \
            ends the host is such a line as well.

            SIGTERM or SIGINT: answers what is under way, closes everything, exits with 0; a second one ends it at \
            once, which loses nothing that was acknowledged. If the disk fails it ends at once with 5.

            EXAMPLES:
              bifrost serve --directory /var/lib/bifrost
              bifrost serve --directory /tmp/b --listen 127.0.0.1:7002 --zone east
              bifrost serve --directory /data --listen 10.0.0.5:7001 --insecure-listen
              bifrost serve --directory /tmp/d --listen 127.0.0.1:7004 --join 127.0.0.1:7001
            """)

    @Option(
        help: ArgumentHelp("Where the data lives; made if it is missing. One process at a time.", valueName: "path"),
        completion: .directory)
    var directory: String

    @Option(
        help: ArgumentHelp(
            "Where to listen; port 0 takes a free one. (default: 127.0.0.1:7001)", valueName: "host:port"),
        transform: SingleAddress.init(parsing:))
    var listen = SingleAddress(NetworkAddress(host: "127.0.0.1", port: 7_001))

    @Option(
        help: ArgumentHelp(
            "The address that others reach this host by, if not the one it listens on.", valueName: "host:port"),
        transform: SingleAddress.init(parsing:))
    var advertise: SingleAddress?

    @Option(
        help: ArgumentHelp(
            "Hosts of a running cluster, one is enough: a host that belongs to none asks it to be taken in.",
            valueName: "host:port,…"),
        transform: AddressList.init(parsing:))
    var join: AddressList?

    @Option(help: ArgumentHelp("What people call this host. (default: the machine's name)", valueName: "text"))
    var name: String?

    @Option(help: ArgumentHelp("Where it stands: replicas of a group go to different zones.", valueName: "text"))
    var zone = ""

    @Option(
        help: ArgumentHelp(
            "Event loops, 1 to 64: threads that own connections and groups. The same directory may be started with "
                + "another number. (default: half of the cores, at most 4)", valueName: "count"))
    var loops: Int?

    @Option(
        help: ArgumentHelp(
            "MiB of cold data that are read in a second to verify their checksums, 0 to 65536; 0: none are.",
            valueName: "MiB"))
    var scrubRate = 4

    @Option(
        help: ArgumentHelp(
            "Where to answer GET /metrics for Prometheus, over plain HTTP; port 0 takes a free one. (default: nowhere)",
            valueName: "host:port"),
        transform: SingleAddress.init(parsing:))
    var metrics: SingleAddress?

    @OptionGroup var trial: TrialLevel

    @Option(
        help: ArgumentHelp(
            "Threads for queries of state machines, which 'serve' has only with --measured-machine.",
            valueName: "count", visibility: .hidden))
    var queryThreads: Int?

    @Flag(help: ArgumentHelp("Have the state machine that 'bifrost measure queries' asks.", visibility: .hidden))
    var measuredMachine = false

    @Flag(help: "Listen on an address that is not loopback, though nothing is encrypted or authenticated yet.")
    var insecureListen = false

    @Flag(help: "Stop when standard input ends, for parents that must not leave hosts behind however they end.")
    var endWithInput = false

    @Option(help: ArgumentHelp("What to log on standard error, and what is more important.", valueName: "level"))
    var logLevel = LogLevel.notice

    @Option(help: ArgumentHelp("How lines of the log look.", valueName: "format"))
    var logFormat = LogFormat.text

    @OptionGroup var common: CommonOptions

    func validate() throws {
        guard !directory.isEmpty else {
            throw ValidationError("--directory is empty: name the directory where the data shall live")
        }
        let address = listen.address
        if !address.isLoopback, !insecureListen {
            throw ValidationError(
                "\(address) is not loopback, and traffic is not encrypted yet: listen on 127.0.0.1, or say "
                    + "--insecure-listen"
            )
        }
        if address.isAny, advertise == nil {
            throw ValidationError(
                "others can't reach \(address): say which address they can reach, with --advertise host:port")
        }
        if let metrics {
            guard metrics.address.isLoopback || insecureListen else {
                throw ValidationError(
                    "--metrics \(metrics) is not loopback, and whoever comes there is answered, unencrypted: take "
                        + "127.0.0.1, or say --insecure-listen")
            }
            guard metrics != listen || metrics.address.port == 0 else {
                throw ValidationError("--metrics \(metrics) is where the host listens: take another port")
            }
        }
        if let advertise, advertise.address.isAny || advertise.address.port == 0 {
            throw ValidationError(
                "--advertise needs an address and a port that others can connect to, not \(advertise.address)")
        }
        try Self.check(loops: loops)
        if let queryThreads, !(1...HostConfiguration.queryThreadsMax).contains(queryThreads) {
            throw ValidationError(
                "--query-threads is 1 to \(HostConfiguration.queryThreadsMax), not \(queryThreads)")
        }
        guard (0...Self.scrubRateMax).contains(scrubRate) else {
            throw ValidationError("--scrub-rate is 0 to \(Self.scrubRateMax) MiB in a second, not \(scrubRate)")
        }
        for (flag, text) in [("name", name ?? ""), ("zone", zone)] where text.utf8.count > Self.textBytesMax {
            throw ValidationError("--\(flag) has at most \(Self.textBytesMax) bytes, not \(text.utf8.count)")
        }
    }

    static func check(loops: Int?) throws {
        guard let loops, !(1...HostConfiguration.eventLoopsMax).contains(loops) else { return }
        throw ValidationError("--loops is 1 to \(HostConfiguration.eventLoopsMax), not \(loops)")
    }

    /// In MiB.
    private static let scrubRateMax = 65_536
    /// What a cluster's map takes.
    private static let textBytesMax = 255
    private static let graceMilliseconds: Int64 = 3_000
    /// Files and sockets besides those of connections that are accepted, with room: disks, threads, other hosts.
    private static let filesMax = 256

    func run() async throws {
        logFormat.bootstrap(logLevel)
        let logger = Logger(label: "bifrost")
        do {
            try await serve(logger)
        } catch {
            let error = ToolError(error)
            logFormat.say(error.message, logger: logger)
            throw Outcome(error.status, said: error.message)
        }
    }

    private func serve(_ logger: Logger) async throws {
        let (stop, stopper) = AsyncStream.makeStream(of: UnixSignal.self)
        let phase = Phase()
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        let watcher = Task {
            for await signal in signals {
                // What is on disk is safe at any moment, so that nobody has to wait who does not want to.
                guard phase.takeSignal() else { _exit(128 + (signal == .sigint ? SIGINT : SIGTERM)) }
                stopper.yield(signal)
            }
        }
        defer { watcher.cancel() }
        if endWithInput {
            Thread.detachNewThread {
                while let piece = try? InputFile.standard.read(), !piece.isEmpty {}
                guard phase.takeSignal() else { _exit(ExitStatus.done.rawValue) }
                stopper.yield(.sigterm)
            }
        }

        var configuration = HostConfiguration(
            directory: directory, listen: listen.address, name: name ?? Self.machineName, zone: zone)
        configuration.advertise = advertise?.address.description
        configuration.version = programVersion
        if let loops { configuration.eventLoops = loops }
        if let queryThreads { configuration.queryThreads = queryThreads }
        if measuredMachine { configuration.machines = try StateMachineRegistry([QueryLoad.self]) }
        configuration.scrubBytesPerSecond = scrubRate << 20
        configuration.featureLevel = trial.level
        BifrostHost.Host.noteFaults()
        let descriptors = configuration.limits.connectionsMax + Self.filesMax
        if let limit = DescriptorLimit.raise(), limit < descriptors {
            let remedy = "raise the hard limit: ulimit -Hn \(descriptors), or LimitNOFILE=\(descriptors) of systemd"
            logger.warning(
                "this process may have \(limit) files and sockets open, \(descriptors) is what it may need: \(remedy)")
        }
        let metrics =
            if let metrics { try await MetricsListener.start(on: metrics.address) } else { nil as MetricsListener? }
        // They are taken when somebody asks.
        configuration.metricsPeriodMilliseconds = 0
        let host = try await BifrostHost.Host.start(configuration, logger: logger) { [logFormat] error in
            // Nothing in memory may be believed: no flush, no clean end.
            logFormat.say(
                "\(error.message); this host stops: look at the disk, then start it again", logger: logger)
            _exit(ExitStatus.diskFailed.rawValue)
        }
        metrics?.show(host)
        phase.serves()
        // A parent that does not want to know the address is no reason not to serve.
        try? announce(host, metrics: metrics?.address)
        let joiner = join.map { join in
            let own = SelfJoin(seeds: join.addresses, own: Self.reachable(host.address)) { words, isTrouble in
                logger.log(level: isTrouble ? .warning : .notice, "\(words)")
            }
            return Task { () -> ToolError? in
                do { try await own.run() } catch {
                    guard !Task.isCancelled else { return nil }
                    stopper.yield(.sigterm)
                    return ToolError(error)
                }
                return nil
            }
        }
        for await _ in stop { break }
        joiner?.cancel()
        await metrics?.stop()
        await host.stop(graceMilliseconds: Self.graceMilliseconds)
        if let joiner, let refusal = await joiner.value { throw refusal }
    }

    private func announce(_ host: BifrostHost.Host, metrics: NetworkAddress?) throws {
        let cluster = host.cluster == .none ? nil : host.cluster.description
        guard common.json else {
            return try Output.line(
                "listening \(host.address) pid \(getpid()) directory \(directory) cluster "
                    + "\(cluster ?? "none") host \(host.host)" + (metrics.map { " metrics \($0)" } ?? "")
            )
        }
        struct Announcement: Encodable {
            var event = "listening"
            var address: String
            var port: Int
            var pid: Int32
            var directory: String
            var cluster: String?
            var host: UInt64
            var metrics: String?
        }
        try Output.jsonLine(
            Announcement(
                address: host.address.description, port: host.address.port, pid: getpid(), directory: directory,
                cluster: cluster, host: host.host.rawValue, metrics: metrics?.description))
    }

    /// Where this machine itself reaches a host that listens there.
    private static func reachable(_ address: NetworkAddress) -> String {
        guard address.isAny else { return address.description }
        return NetworkAddress(host: address.host == "::" ? "::1" : "127.0.0.1", port: address.port).description
    }

    private static var machineName: String {
        var name = [UInt8](repeating: 0, count: 256)
        let isKnown = name.withUnsafeMutableBytes { bytes in
            gethostname(bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count - 1) == 0
        }
        return isKnown ? String(decoding: name.prefix { $0 != 0 }, as: UTF8.self) : ""
    }

    /// How far the process is, for its signals. While it starts there is nothing to end cleanly.
    private final class Phase: Sendable {
        private let state = Mutex((isServing: false, signals: 0))

        func serves() { state.withLock { $0.isServing = true } }

        /// False: end now.
        func takeSignal() -> Bool {
            state.withLock {
                $0.signals += 1
                return $0.isServing && $0.signals == 1
            }
        }
    }
}

/// One "host:port".
struct SingleAddress: Equatable, CustomStringConvertible {
    var address: NetworkAddress

    init(_ address: NetworkAddress) { self.address = address }

    init(parsing text: String) throws {
        do {
            address = try NetworkAddress(text)
        } catch {
            throw ValidationError("expected host:port, as in 127.0.0.1:7001")
        }
    }

    var description: String { address.description }
}

extension NetworkAddress {
    /// Reached from this machine only.
    var isLoopback: Bool { host == "localhost" || host == "::1" || host.isIPv4Loopback }
    /// Stands for all of the machine's addresses.
    var isAny: Bool { host == "0.0.0.0" || host == "::" }
}

extension String {
    fileprivate var isIPv4Loopback: Bool {
        let parts = split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }
}
