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
