// The services of a host: data for clients, consensus for peers, cluster for both.

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

extension HostShell: RPCService {
    /// One object serves all three numbers, so that a batch of reads ends in one turn.
    func receive(_ call: InboundCall) {
        switch call.service {
        case ServiceNumber.data: receiveData(call)
        case ServiceNumber.cluster: receiveCluster(call)
        default: call.reply.fail(.unknownMethod, "service \(call.service) has no method \(call.method)")
        }
    }

    func receive(oneway: InboundOneway) {
        guard oneway.service == ServiceNumber.consensus, oneway.method == ConsensusMethod.batch,
            links.isPresent(oneway.connection)
        else { return }
        if !receiveBatch(oneway.payload, from: oneway.connection.peer.host) { oneway.connection.close() }
    }

    func connectionOpened(_ connection: InboundConnection) {
        if connection.hello.role == .consensus { links.accepted(connection) }
    }

    func connectionClosed(_ connection: InboundConnection) {
        if connection.hello.role == .consensus { links.closed(connection) }
    }

    func readComplete(on eventLoop: any EventLoop) { runTurn() }

    // MARK: Data

    private func receiveData(_ call: InboundCall) {
        guard let core, !isStopping else {
            let why = isStopping ? "the host is stopping" : "the host belongs to no cluster yet"
            return call.reply.respond { Response<DataResult>.refused(.unavailable(why)).encode(into: &$0) }
        }
        do throws(DecodingFailure) {
            switch call.method {
            case DataMethod.execute:
                let request = try ExecuteRequest(decoding: call.payload)
                core.execute(request, call: calls.add(call.reply))
            case DataMethod.query:
                let request = try QueryRequest(decoding: call.payload)
                core.query(request, call: calls.add(call.reply))
            case DataMethod.page:
                let request = try PageRequest(decoding: call.payload)
                core.page(request, call: calls.add(call.reply))
            default:
                call.reply.fail(.unknownMethod, "the data service has no method \(call.method)")
            }
        } catch {
            call.reply.fail(.invalid, "the request can't be read: \(error)")
        }
    }

    // MARK: Cluster

    private func receiveCluster(_ call: InboundCall) {
        do throws(DecodingFailure) {
            switch call.method {
            case ClusterMethod.map:
                let request = try MapRequest(decoding: call.payload)
                call.reply.respond { mapReply(request).encode(into: &$0) }
            case ClusterMethod.status:
                _ = try StatusRequest(decoding: call.payload)
                call.reply.respond { status().encode(into: &$0) }
            case ClusterMethod.ping:
                let request = try PingRequest(decoding: call.payload)
                call.reply.respond { pingReply(request).encode(into: &$0) }
            case ClusterMethod.initialise:
                let request = try InitialiseRequest(decoding: call.payload)
                initialise(request, call.reply)
            default:
                call.reply.fail(.unknownMethod, "the cluster service has no method \(call.method)")
            }
        } catch {
            call.reply.fail(.invalid, "the request can't be read: \(error)")
        }
    }

    private func mapReply(_ request: MapRequest) -> MapReply {
        guard let map = core?.map else { return .notInitialised }
        return map.version > request.known ? .map(map) : .unchanged(version: map.version)
    }

    private func pingReply(_ request: PingRequest) -> PingReply {
        let identity = journal.identity
        return PingReply(
            nonce: request.nonce, cluster: identity.cluster, host: identity.host, incarnation: identity.incarnation,
            bootCounter: identity.bootCounter, featureLevel: identity.featureLevel, mapVersion: core?.map?.version ?? 0,
            name: configuration.name, address: advertised, zone: configuration.zone)
    }

    /// Where others reach this host.
    var advertised: String { configuration.advertise ?? boundAddress?.description ?? configuration.listen.description }

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
        guard !isInitialising else { return answer(.refused("it is being initialised already")) }
        isInitialising = true
        // The map first, the identity last: a crash in between leaves a host that was not initialised.
        let directory = directory
        journalWriter.perform { [self] journal in
            try directory.save(request.map)
            var changed = identity
            changed.cluster = request.map.cluster
            changed.host = request.host
            try journal.update(changed)
            loop.execute { [self] in
                do {
                    try begin(with: request.map)
                    answer(.done)
                } catch { fail(error, "beginning as a member") }
            }
        }
    }

    // MARK: Status

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
        status.mapVersion = core?.map?.version ?? 0
        status.ringEpoch = core?.map?.ring.epoch ?? .zero
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
        status.overloads = core?.overloads ?? 0
        status.replicas = core?.replicaStatuses() ?? []
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
