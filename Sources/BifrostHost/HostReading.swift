// What a host can say of itself in numbers, taken together once for each recording of metrics.

import Foundation
import HostCore
import NIOCore
import Primitives
import RPC
import Ring
import Storage
import Synchronization

/// All of a host at about one moment: its loops are asked one after the other.
struct HostReading: Sendable {
    var figures = HostFigures()
    /// It belongs to a cluster, and its loops answered.
    var isMember = false
    var journal = JournalStatistics()
    var commitTimes = DurationHistogram()
    var storeBytes = 0
    var connectionsOpen = 0
    var connectionsAccepted = 0
    var requests = 0
    var connectionFaults = 0
    var peersConnected = 0
    var space = SpaceLevel.ample
    var scrub = ScrubStatistics()
    var damages: UInt64 = 0
    var mapVersion: UInt64 = 0
    var process = ProcessFigures()
}

extension HostShell {
    /// Asks all loops. A loop that is stuck keeps the answer back.
    func reading(groupsMax: Int) async throws -> HostReading {
        var reading = HostReading()
        let parts = loops.map { loop in
            loop.eventLoop.submit { loop.core?.figures(groupsMax: groupsMax) }
        }
        let own = main.eventLoop.submit { [self] in
            (
                links.connectedCount, scrubbed.statistics, self.server?.counters, self.localServer.counters, faults(),
                main.core?.map?.version ?? 0
            )
        }
        for part in parts {
            guard let figures = try await part.get() else { continue }
            reading.isMember = true
            reading.figures.add(figures, groupsMax: groupsMax)
        }
        let (peers, scrub, counters, local, faultCount, mapVersion) = try await own.get()
        reading.peersConnected = peers
        reading.scrub = scrub
        reading.connectionsOpen = (counters?.connectionsOpen ?? 0) + local.connectionsOpen
        reading.connectionsAccepted = (counters?.connectionsAccepted ?? 0) + local.connectionsAccepted
        reading.requests = (counters?.requests ?? 0) + local.requests
        reading.connectionFaults = faultCount
        reading.mapVersion = mapVersion
        reading.journal = journal.statistics
        reading.commitTimes = journalWriter.statistics.withLock { $0.times }
        reading.storeBytes = storeDisk.usedBytes
        reading.space = space.level
        reading.damages = damages.load(ordering: .relaxed)
        reading.process = ProcessFigures.now()
        return reading
    }
}

/// What Prometheus' conventions have of every process.
struct ProcessFigures: Sendable {
    var cpuSeconds = 0.0
    var residentBytes: UInt64 = 0
    var openDescriptors = 0
    var descriptorsMax: UInt64 = 0

    static func now() -> ProcessFigures {
        var figures = ProcessFigures()
        figures.cpuSeconds = Double(ProcessUsage.cpuMicros) / 1e6
        figures.residentBytes = ProcessUsage.residentBytes
        figures.openDescriptors = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd"))?.count ?? 0
        var limit = rlimit()
        if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 {
            figures.descriptorsMax = UInt64(limit.rlim_cur)
        }
        return figures
    }

    /// When this process began, in seconds since 1970, to some hundredth; nil where the system does not tell.
    static let startSeconds: Double? = {
        // The name, in parentheses, may have anything in it.
        guard let own = try? String(contentsOfFile: "/proc/self/stat", encoding: .utf8),
            let name = own.lastIndex(of: ")"), let system = try? String(contentsOfFile: "/proc/stat", encoding: .utf8),
            let boot = system.split(separator: "\n").first(where: { $0.hasPrefix("btime ") }).flatMap({
                Double($0.dropFirst(6))
            })
        else { return nil }
        let fields = own[own.index(after: name)...].split(separator: " ")
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        // The 22nd of all, and the third is the first behind the name.
        guard fields.count > 19, let started = Double(fields[19]), ticks > 0 else { return nil }
        return boot + started / ticks
    }()
}
