// Options that several commands share, and the types of their values.

import ArgumentParser
import Bifrost
import Foundation
import Logging
import RPC

/// Options of every command.
struct CommonOptions: ParsableArguments {
    @Flag(help: "Print the result as one JSON object.")
    var json = false

    @Option(
        help: ArgumentHelp("A JSON file with settings; see 'bifrost --help'.", valueName: "file"), completion: .file())
    var config: String?
}

/// Options of the commands that talk to a cluster.
struct ClientOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Hosts of one cluster to begin with; one that answers is enough. (environment: BIFROST_CONNECT; default: "
                + "\(ClientOptions.standardAddress))",
            valueName: "host:port,…"),
        transform: AddressList.init(parsing:))
    var connect: AddressList?

    /// Where the host listens that is started with nothing but a directory.
    static let standardAddress = "127.0.0.1:7001"

    var addresses: [String] { connect?.addresses ?? [Self.standardAddress] }

    @Option(
        help: ArgumentHelp(
            "How long an operation may take, as in 500ms, 5s, 2m. (default: 10s; import, ring verify and what waits for "
                + "groups: 60s; export, bench, host add and cluster upgrade: 30s; what shows groups, hosts and the ring: 2s; "
                + "group transfer-leader: 15s; host drain and group spread-leaders: 10m; snapshot save: 60s without a word)",
            valueName: "time"),
        transform: TimeSpan.init(parsing:))
    var timeout: TimeSpan?

    @OptionGroup var common: CommonOptions

    /// How long to look for a host that answers, if no time-out was given: long enough for one that is just starting,
    /// short enough for somebody who mistyped a port.
    private static let connectTimeout = Duration.seconds(3)
    static let timeout = Duration.seconds(10)
    /// How long to try addresses that all refuse connections: for hosts that were started in the line above.
    private static let refusalGrace = Duration.seconds(1)

    /// - Parameters:
    ///   - timeout: of an operation, if the command line says nothing.
    ///   - isPatient: false: if all addresses refuse connections, that is the answer.
    ///   - token: while which stands changes are made.
    func cluster(
        timeout standard: Duration = ClientOptions.timeout, isPatient: Bool = true, guardedBy token: FencingToken? = nil
    ) async throws -> Cluster {
        var options = self.options(timeout: standard, isPatient: isPatient)
        options.guardToken = token
        return try await Cluster.connect(to: addresses, options: options)
    }

    func options(timeout standard: Duration, isPatient: Bool = true) -> ClusterOptions {
        var options = ClusterOptions()
        options.timeout = timeout?.duration ?? standard
        options.connectTimeout = timeout?.duration ?? min(standard, Self.connectTimeout)
        options.refusalGrace = isPatient ? Self.refusalGrace : .zero
        options.name = "bifrost command line"
        return options
    }
}

/// The option of commands whose changes a fencing token can guard: those of keys, data types and users' machines, which
/// are commands for groups with slots. Nothing guards the meta group's, those of who gives back what is held, and looks.
struct GuardOptions: ParsableArguments {
    @Option(
        name: .customLong("guard"),
        help: ArgumentHelp(
            "Changes are made only while this fencing token stands: BIFROST_GUARD of 'bifrost lock NAME -- COMMAND', or "
                + "KIND:NUMBER:NAME, where KIND is lock, semaphore, election, lease or members. As members:EPOCH:NAME, with "
                + "the epoch of 'members leader', while that member leads; with the token of 'members list --json', while "
                + "that member is online. Exit code 75: its token is over, and nothing was changed.", valueName: "token"
        ),
        transform: FencingToken.init(parsing:))
    var token: FencingToken?
}

/// "host:port", with commas between several.
struct AddressList: CustomStringConvertible {
    var addresses: [String]

    init(addresses: [String]) { self.addresses = addresses }

    init(parsing text: String) throws {
        // An empty piece may be a host that was forgotten: `init` must not found a cluster without it.
        addresses = text.split(separator: ",", omittingEmptySubsequences: false).map {
            $0.trimmingCharacters(in: .whitespaces)
        }
        guard !addresses.contains("") else {
            throw ValidationError("expected host:port, or several with commas between them, found '\(text)'")
        }
        for address in addresses {
            guard let known = try? NetworkAddress(address) else {
                throw ValidationError("'\(address)' is no address; expected host:port")
            }
            guard known.port > 0 else { throw ValidationError("'\(address)' has port 0: nobody listens there") }
        }
    }

    var description: String { addresses.joined(separator: ",") }
}

/// A length of time as people write it.
package struct TimeSpan: Equatable, Sendable {
    package var duration: Duration

    /// 10, 10s, 500ms, 1.5s, 2m, 1h. A number alone is seconds.
    package init(parsing text: String) throws {
        let units: [(String, Double)] = [("ms", 0.001), ("s", 1), ("m", 60), ("h", 3_600)]
        var seconds: Double?
        if let plain = Double(text) {
            seconds = plain
        } else {
            for (unit, factor) in units where text.hasSuffix(unit) {
                if let number = Double(text.dropLast(unit.count)) {
                    seconds = number * factor
                    break
                }
            }
        }
        guard let seconds, seconds > 0, seconds <= 86_400 else {
            throw ValidationError("expected a time above 0 and at most 24h, as in 500ms, 5s or 2m")
        }
        duration = .milliseconds(max(1, Int64(seconds * 1_000)))
    }
}

/// How much a host says on standard error.
enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, notice, warning, error, critical

    var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
}
