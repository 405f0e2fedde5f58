// The cluster service for those who change the cluster: commands for the meta group, handing leadership over, and hosts
// that join. Decides nothing: says what the core answered in the words of these messages.

import HostCore
import Messages
import Primitives
import RPC
import Ring
import StateMachines

extension HostShell {
    func administer(_ request: AdministerRequest, _ reply: CallReply) {
        main.ask({ core, call in core.administer(request.payload, call: call) }) { [self] response in
            let answer = administerReply(response, of: .meta)
            reply.respond { answer.encode(into: &$0) }
        }
    }

    func transfer(_ request: TransferRequest, _ reply: CallReply) {
        let loop = loops[LoopPlace.owner(of: request.group, loops: loops.count)]
        loop.run { [self] in
            loop.ask({ core, call in core.transfer(request.group, to: request.to, call: call) }) { [self] response in
                main.run { [self] in
                    let answer = administerReply(response, of: request.group)
                    reply.respond { answer.encode(into: &$0) }
                }
            }
        }
    }

    /// On loop 0, which has the map.
    private func administerReply(_ response: Response<DataResult>, of group: GroupID) -> AdministerReply {
        switch response {
        case .done(let result): .done(result.body)
        case .refused(.invalid(let why)): .refused(why)
        case .refused(.unavailable(let why)): .refused(why)
        case .refused(.outcomeUnknown): .outcomeUnknown
        case .refused(.overloaded): .notLeader(address: "")
        case .refused(.notLeader(let host, _)): .notLeader(address: main.core?.map?.host(host)?.address ?? "")
        case .refused(.unknownGroup):
            // Not here: one of those who have it knows its leader.
            .notLeader(address: addressOfMember(of: group))
        case .refused(let other): .refused("\(other)")
        }
    }

    /// Of the meta group's leader, or where to ask for it.
    func rebalancingReply() -> RebalancingReply {
        guard let core = main.core, let map = core.map else { return .refused("this host belongs to no cluster") }
        guard map.featureLevel >= FeatureLevel.migrations else {
            return .refused(
                "the cluster uses feature level \(map.featureLevel), and rebalancing needs \(FeatureLevel.migrations)")
        }
        if let reply = core.rebalancingReply() { return reply }
        guard let leader = core.metaLeader, leader != core.host else {
            // One of those who have the group knows its leader.
            return .notLeader(
                address: map.group(.meta)?.replica(on: core.host) == nil ? addressOfMember(of: .meta) : "")
        }
        return .notLeader(address: map.host(leader)?.address ?? "")
    }

    private func addressOfMember(of group: GroupID) -> String {
        guard let map = main.core?.map, let record = map.group(group) else { return "" }
        let host = record.host(of: record.preferredLeader) ?? record.replicas.first?.host
        return host.flatMap { map.host($0)?.address } ?? ""
    }

    func join(_ request: JoinRequest, _ reply: CallReply) {
        @Sendable func answer(_ answer: JoinReply) { reply.respond { answer.encode(into: &$0) } }
        guard let map = main.core?.map else { return answer(.notInitialised) }
        guard request.cluster == .none || request.cluster == map.cluster else {
            return answer(.refused("this is cluster \(map.cluster), the host belongs to \(request.cluster)"))
        }
        let registration = HostRegistration(
            name: request.name, address: request.address, zone: request.zone, weight: request.weight,
            incarnation: request.incarnation, featureLevel: request.featureLevel)
        main.ask({ core, call in core.register(registration, call: call) }) { [self] response in
            switch response {
            case .done(let result):
                do {
                    let registered = try MetaResult(decoding: result.body)
                    answer(
                        .accepted(cluster: map.cluster, host: registered.host, mapVersion: registered.mapVersion))
                } catch { answer(.refused("the meta group's answer can't be read: \(error)")) }
            case .refused(.notLeader(let host, _)):
                answer(.notLeader(host: host, address: main.core?.map?.host(host)?.address ?? ""))
            case .refused(.unknownGroup): answer(.notLeader(host: HostID(0), address: addressOfMember(of: .meta)))
            case .refused(.overloaded(let millis)): answer(.retry(afterMillis: millis))
            // It may be registered: the same incarnation gets the same id again.
            case .refused(.outcomeUnknown): answer(.retry(afterMillis: 200))
            case .refused(.invalid(let why)), .refused(.unavailable(let why)): answer(.refused(why))
            case .refused(let other): answer(.refused("\(other)"))
            }
        }
    }
}
