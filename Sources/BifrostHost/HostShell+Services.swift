// The cluster service, for clients and hosts: who is there, the map, the beginning of a cluster, status.

import Foundation
import HostCore
import Logging
import Messages
import NIOCore
import Primitives
import RPC
import Ring
import Storage
import Synchronization

extension HostShell {
    /// A call of the cluster service, on loop 0.
    func receiveCluster(_ call: InboundCall) {
        do throws(DecodingFailure) {
            switch call.method {
            case ClusterMethod.map:
                let request = try MapRequest(decoding: call.payload)
                call.reply.respond { mapReply(request).encode(into: &$0) }
            case ClusterMethod.status:
                _ = try StatusRequest(decoding: call.payload)
                reportStatus(to: call.reply)
            case ClusterMethod.upkeep:
                _ = try UpkeepRequest(decoding: call.payload)
                call.reply.respond { upkeep().encode(into: &$0) }
            case ClusterMethod.ping:
                let request = try PingRequest(decoding: call.payload)
                call.reply.respond { pingReply(request).encode(into: &$0) }
            case ClusterMethod.initialise:
                let request = try InitialiseRequest(decoding: call.payload)
                initialise(request, call.reply)
            case ClusterMethod.administer:
                administer(try AdministerRequest(decoding: call.payload), call.reply)
            case ClusterMethod.transfer: transfer(try TransferRequest(decoding: call.payload), call.reply)
            case ClusterMethod.rebalancing:
                _ = try RebalancingRequest(decoding: call.payload)
                call.reply.respond { rebalancingReply().encode(into: &$0) }
            case ClusterMethod.join: join(try JoinRequest(decoding: call.payload), call.reply)
            default:
                call.reply.fail(.unknownMethod, "the cluster service has no method \(call.method)")
            }
        } catch {
            call.reply.fail(.invalid, "the request can't be read: \(error)")
        }
    }

    private func mapReply(_ request: MapRequest) -> MapReply {
        guard let map = main.core?.map else { return .notInitialised }
        return map.version > request.known ? .map(map) : .unchanged(version: map.version)
    }

    private func pingReply(_ request: PingRequest) -> PingReply {
        let identity = journal.identity
        return PingReply(
            nonce: request.nonce, cluster: identity.cluster, host: identity.host, incarnation: identity.incarnation,
            bootCounter: identity.bootCounter, featureLevel: identity.featureLevel,
            mapVersion: main.core?.map?.version ?? 0,
            name: configuration.name, address: advertised, zone: configuration.zone)
    }

    /// Where others reach this host.
    var advertised: String {
        let own = boundAddress ?? configuration.listen ?? Host.embeddedAddress
        return configuration.advertise ?? own.description
    }

    private func initialise(_ request: InitialiseRequest, _ reply: CallReply) {
        @Sendable func answer(_ answer: InitialiseReply) { reply.respond { answer.encode(into: &$0) } }
        let identity = journal.identity
        if identity.cluster != .none {
            return answer(
                identity.cluster == request.map.cluster && identity.host == request.host
                    ? .done : .already(identity.cluster))
        }
        guard request.incarnation == identity.incarnation else {
            return answer(.refused("this host's incarnation is \(identity.incarnation), not \(request.incarnation)"))
        }
        guard request.map.host(request.host)?.incarnation == identity.incarnation else {
            return answer(.refused("the map does not name this host as \(request.host)"))
        }
        guard request.map.featureLevel <= identity.featureLevel else {
            return answer(
                .refused(
                    "the cluster uses feature level \(request.map.featureLevel), this host's version knows "
                        + "\(identity.featureLevel): start it with a newer one"))
        }
        guard !isInitialising else {
            // Whether this one is done or came too late is known when the other is on disk.
            guard initialisesWaiting.count < Self.initialisesWaitingMax else {
                return answer(.refused("it is being initialised already"))
            }
            return initialisesWaiting.append((request, reply))
        }
        isInitialising = true
        // The map first, the identity last: a crash in between leaves a host that was not initialised.
        let directory = directory
        journalWriter.perform { [self] journal in
            try directory.save(request.map)
            var changed = identity
            changed.cluster = request.map.cluster
            changed.host = request.host
            try journal.update(changed)
            main.eventLoop.execute { [self] in
                // The identity is on disk: the next start begins with it.
                guard !isStopping else { return answer(.refused("this host is stopping: start it again")) }
                do {
                    try begin(with: request.map)
                    answer(.done)
                    let waiting = initialisesWaiting
                    initialisesWaiting = []
                    for other in waiting { initialise(other.request, other.reply) }
                } catch { fail(error, "beginning as a member") }
            }
        }
    }

    // MARK: Status

    /// Asks every loop for its replicas. A loop that is stuck keeps the answer back, and the caller's deadline tells.
    private func reportStatus(to reply: CallReply) {
        let parts = loops.map { loop in
            loop.eventLoop.submit {
                (
                    replicas: loop.core?.replicaStatuses() ?? [], overloads: loop.core?.overloads ?? 0,
                    isHung: loop.core?.isJournalHung ?? false
                )
            }
        }
        EventLoopFuture.whenAllSucceed(parts, on: main.eventLoop).whenComplete { [self] result in
            switch result {
            case .success(let parts):
                var status = status()
                status.replicas = parts.flatMap(\.replicas).sorted { $0.group < $1.group }
                if parts.contains(where: \.isHung) {
                    status.problem =
                        "the journal's disk does not answer: nothing is written here, and others are asked to lead"
                }
                status.overloads = parts.reduce(0) { $0 + $1.overloads }
                reply.respond { status.encode(into: &$0) }
            case .failure(let error): reply.fail(.unavailable, "this host is stopping: \(error)")
            }
        }
    }

    private func upkeep() -> HostUpkeep {
        var upkeep = HostUpkeep()
        upkeep.scrubbedBytes = scrubbed.statistics.bytes
        upkeep.scrubRounds = scrubbed.statistics.rounds
        upkeep.lastRoundBytes = scrubbed.statistics.lastRoundBytes
        if let ended = scrubbed.roundEnded {
            upkeep.sinceRoundMillis = UInt64(max(0, (NIODeadline.now() - ended).nanoseconds) / 1_000_000)
        }
        upkeep.damages = damages.load(ordering: .relaxed)
        return upkeep
    }

    /// Of the host as a whole.
    private func status() -> HostStatus {
        let identity = journal.identity
        var status = HostStatus()
        status.cluster = identity.cluster
        status.host = identity.host
        status.incarnation = identity.incarnation
        status.bootCounter = identity.bootCounter
        status.featureLevel = identity.featureLevel
        status.version = configuration.version
        status.name = configuration.name
        status.address = advertised
        status.uptimeMillis = UInt64((NIODeadline.now() - started).nanoseconds / 1_000_000)
        status.mapVersion = main.core?.map?.version ?? 0
        status.ringEpoch = main.core?.map?.ring.epoch ?? .zero
        status.cpuMicros = ProcessUsage.cpuMicros
        status.memoryBytes = ProcessUsage.residentBytes
        let journalStatistics = journal.statistics
        status.journalBytes = UInt64(journalStatistics.bytes)
        status.storeBytes = UInt64(storeDisk.usedBytes)
        status.commits = UInt64(journalStatistics.appends)
        status.committedEntries = UInt64(journalStatistics.entries)
        journalWriter.statistics.withLock {
            status.syncP50Micros = $0.micros(at: 0.5)
            status.syncP99Micros = $0.micros(at: 0.99)
        }
        status.peersConnected = UInt32(links.connectedCount)
        status.badFrames = UInt64(faults())
        return status
    }
}

/// What the system says of this process.
enum ProcessUsage {
    static var cpuMicros: UInt64 {
        var usage = rusage()
        guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return 0 }
        func micros(_ time: timeval) -> UInt64 { UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_usec) }
        return micros(usage.ru_utime) + micros(usage.ru_stime)
    }

    /// 0 where the system does not tell.
    static var residentBytes: UInt64 {
        guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return 0 }
        let fields = text.split(separator: " ")
        return fields.count > 1 ? (UInt64(fields[1]) ?? 0) * UInt64(sysconf(Int32(_SC_PAGESIZE))) : 0
    }
}
