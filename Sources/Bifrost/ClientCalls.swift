// What the router sends as calls of a connection, and what their ends tell it.

import ClientCore
import Messages
import Primitives
import RPC

extension RPCConnection {
    /// Throws where it is not sent.
    func call(_ send: ClientSend, tag: UInt64) throws(RPCError) {
        switch send.kind {
        case .command:
            try call(
                service: ServiceNumber.data, method: DataMethod.execute, deadline: send.deadline, tag: tag
            ) { writer in
                ExecuteRequest.encodeHeader(group: send.group, epoch: send.epoch, slot: send.slot, into: &writer)
                send.encodeCommand(into: &writer)
            }
        case .query:
            try call(
                service: ServiceNumber.data, method: DataMethod.query, deadline: send.deadline, tag: tag
            ) { writer in
                QueryRequest(
                    group: send.group, epoch: send.epoch, slot: send.slot, machine: send.machine,
                    consistency: send.consistency, bound: send.bound, query: send.payload
                ).encode(into: &writer)
            }
        case .watch:
            try call(
                service: ServiceNumber.data, method: DataMethod.watch, deadline: send.deadline, tag: tag
            ) { writer in
                WatchRequest.encodeHeader(
                    group: send.group, epoch: send.epoch, slot: send.slot, machine: send.machine, into: &writer)
                writer.write(send.payload)
            }
        case .page:
            try call(
                service: ServiceNumber.data, method: DataMethod.page, payload: send.payload,
                deadline: send.deadline,
                tag: tag)
        }
    }
}

extension CallFailure {
    /// What a call's end without an answer says about the request.
    init(_ error: RPCError) {
        switch error.code {
        // Whatever the flag says: the host's own fault may lie behind the point where the command was proposed.
        case .internalFailure, .answerDropped, .cancelled: self = .perhapsSent
        case _ where error.mayHaveBeenSent: self = .perhapsSent
        case .overloaded: self = .congested
        case .notConnected, .connectionLost, .closed, .connectFailed, .connectRefused: self = .notSent
        case .invalid, .unknownService, .unknownMethod, .tooLarge: self = .rejected(error.message)
        default: self = .refused
        }
    }
}
