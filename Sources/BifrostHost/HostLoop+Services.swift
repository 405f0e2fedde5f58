// The services of a host on one event loop: data for clients, consensus for peers, cluster for both. A call is read on
// its connection's loop and done on its group's.

import HostCore
import Messages
import NIOCore
import Primitives
import RPC

/// A call of the data service, read.
enum DataRequest: Sendable {
    case execute(ExecuteRequest)
    case query(QueryRequest)
    case page(PageRequest)
    case snapshot(SnapshotRequest)
    case watch(WatchRequest)

    var group: GroupID {
        switch self {
        case .execute(let request): request.group
        case .query(let request): request.group
        case .page(let request): request.group
        case .snapshot(let request): request.group
        case .watch(let request): request.group
        }
    }
}

extension HostLoop: RPCService {
    /// One object serves all three numbers, so that a batch of reads ends in one turn.
    func receive(_ call: InboundCall) {
        switch call.service {
        case ServiceNumber.data: receiveData(call)
        case ServiceNumber.cluster:
            // Rare, and about the host as a whole: loop 0 answers.
            shell.main.run { [shell] in shell.receiveCluster(call) }
        default: call.reply.fail(.unknownMethod, "service \(call.service) has no method \(call.method)")
        }
    }

    func receive(oneway: InboundOneway) {
        guard oneway.service == ServiceNumber.consensus, oneway.method == ConsensusMethod.batch else { return }
        acceptedLinks[oneway.connection.id]?.receive(oneway.payload)
    }

    /// Calls of clients in this process, for groups of this loop.
    func receive(_ calls: [InboundCall]) {
        eventLoop.preconditionInEventLoop()
        for call in calls { receive(call) }
        readComplete()
    }

    func connectionOpened(_ connection: InboundConnection) {
        let channel: PeerChannel
        switch connection.hello.role {
        case .client: return
        case .consensus: channel = .consensus
        case .bulk: channel = .bulk
        }
        let link = PeerLink(accepted: connection, channel: channel, loop: self, links: shell.links)
        acceptedLinks[connection.id] = link
        link.cameUp(as: nil)
    }

    func connectionClosed(_ connection: InboundConnection) {
        // A connection that ends within a batch has no `readComplete`.
        handOver()
        acceptedLinks.removeValue(forKey: connection.id)?.wentDown()
    }

    func readComplete(on eventLoop: any EventLoop) { readComplete() }

    /// All that one read brought is here: hand over what is others', and have a turn.
    func readComplete() {
        handOver()
        runTurn()
    }

    // MARK: Data

    private func receiveData(_ call: InboundCall) {
        do throws(DecodingFailure) {
            let request: DataRequest
            switch call.method {
            case DataMethod.execute: request = .execute(try ExecuteRequest(decoding: call.payload))
            case DataMethod.query: request = .query(try QueryRequest(decoding: call.payload))
            case DataMethod.page: request = .page(try PageRequest(decoding: call.payload))
            case DataMethod.snapshot: request = .snapshot(try SnapshotRequest(decoding: call.payload))
            case DataMethod.watch: request = .watch(try WatchRequest(decoding: call.payload))
            default: return call.reply.fail(.unknownMethod, "the data service has no method \(call.method)")
            }
            if place.owns(request.group) {
                perform(request, call.reply)
            } else {
                let owner = LoopPlace.owner(of: request.group, loops: place.count)
                outgoing[owner].calls.append((request, call.reply))
                outgoing[owner].callBytes += call.payload.count
                hasOutgoing = true
            }
        } catch {
            call.reply.fail(.invalid, "the request can't be read: \(error)")
        }
    }

    /// A request for a group of this loop.
    func perform(_ request: DataRequest, _ reply: CallReply) {
        guard let core, !isStopping else {
            let why = isStopping ? "the host is stopping" : "the host belongs to no cluster yet"
            return reply.respond { Response<DataResult>.refused(.unavailable(why)).encode(into: &$0) }
        }
        let call = calls.add(reply)
        switch request {
        case .execute(let request): core.execute(request, call: call)
        case .query(let request): core.query(request, call: call)
        case .page(let request): core.page(request, call: call)
        case .snapshot(let request): core.snapshot(request, call: call)
        case .watch(let request): core.watch(request, call: call)
        }
    }
}

/// Hands calls of clients in this process to the loops that own their groups, one task for each loop and turn of the
/// client. How much may be under way is bounded by the clients' lines.
final class LocalCalls: LocalService {
    private let loops: [HostLoop]

    init(loops: [HostLoop]) { self.loops = loops }

    func receive(_ calls: [InboundCall]) {
        guard loops.count > 1 else { return loops[0].eventLoop.execute { [loops] in loops[0].receive(calls) } }
        var parts = [[InboundCall]](repeating: [], count: loops.count)
        for call in calls { parts[owner(of: call)].append(call) }
        // Loop 0 last, as of what comes from a socket.
        for (loop, part) in zip(loops, parts).reversed() where !part.isEmpty {
            loop.eventLoop.execute { loop.receive(part) }
        }
    }

    /// The group is the first that a request of the data service says. What is too short to say it is refused by
    /// whoever reads it, and the cluster service is loop 0's.
    private func owner(of call: InboundCall) -> Int {
        guard call.service == ServiceNumber.data, call.payload.count >= 4 else { return 0 }
        let group = call.payload.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)) }
        return LoopPlace.owner(of: GroupID(group), loops: loops.count)
    }
}
