// The connections with the other hosts: two between each two hosts, one for consensus and one for bulk, dialled by the
// host with the lower id, used by both. Owns whom they are with and which of them count; the payloads pass `PeerLink`.

import HostCore
import Logging
import Messages
import NIOCore
import Primitives
import RPC
import Ring
import Synchronization

/// Belongs to the host's loop 0, which tells the cores what is up and the loops where to send.
final class PeerLinks: @unchecked Sendable {
    // @unchecked: `shell` never changes, the counters are atomic; all else belongs to loop 0.

    private struct Entry {
        var link: PeerLink
        /// Up, judged, and the core knows.
        var isUp = false
    }

    private unowned let shell: HostShell
    private var entries: [PeerChannelKey: Entry] = [:]
    private var isClosed = false
    /// A host that is not believed comes again and again.
    private var refusals = RepetitionLimiter()
    private let bulkSent = Atomic(0)
    private let bulkReceived = Atomic(0)

    init(shell: HostShell) { self.shell = shell }

    /// Hosts with which a consensus connection stands.
    var connectedCount: Int { entries.count { $0.key.channel == .consensus && $0.value.isUp } }

    var bulkPayloads: (sent: Int, received: Int) {
        (bulkSent.load(ordering: .relaxed), bulkReceived.load(ordering: .relaxed))
    }
    func noteBulkSent() { bulkSent.add(1, ordering: .relaxed) }
    func noteBulkReceived() { bulkReceived.add(1, ordering: .relaxed) }

    // MARK: Dialling

    /// Dials the hosts of the map that are ours to dial and that are not dialled yet, or elsewhere.
    func adopt(_ map: ClusterMap) {
        shell.main.eventLoop.preconditionInEventLoop()
        let own = shell.door.identity
        for host in map.hosts where host.id > own.host {
            guard let address = try? NetworkAddress(host.address) else {
                shell.logger.error("host \(host.id) has the address '\(host.address)', which is none")
                continue
            }
            for channel in [PeerChannel.consensus, .bulk] {
                let key = PeerChannelKey(host: host.id, channel: channel)
                if entries[key]?.link.address != address { dial(key, at: address) }
            }
        }
    }

    /// Takes the place of an earlier connection, if there is one.
    private func dial(_ key: PeerChannelKey, at address: NetworkAddress) {
        // Spread like those that are accepted; a pair's two connections apart, where there are two loops.
        let turn = key.host.rawValue &+ (key.channel == .bulk ? 1 : 0)
        let link = PeerLink(to: key, loop: shell.loops[Int(turn % UInt64(shell.loops.count))], links: self)
        replace(key, by: link)
        link.dial(address, as: shell.door.identity, logger: shell.logger)
    }

    private func replace(_ key: PeerChannelKey, by link: PeerLink) {
        if let earlier = entries[key]?.link {
            markDown(key)
            earlier.close()
        }
        entries[key] = Entry(link: link)
    }

    /// What came over this link could not be read.
    func redial(_ link: PeerLink) {
        guard !isClosed, entries[link.key]?.link === link, let address = link.address else { return }
        dial(link.key, at: address)
    }

    func closeAll() {
        shell.main.eventLoop.preconditionInEventLoop()
        isClosed = true
        for entry in entries.values { entry.link.close() }
        entries = [:]
    }

    // MARK: Up and down

    /// - Parameters:
    ///   - identity: as in `PeerLink.cameUp`.
    ///   - featureLevel: of the host at the other end.
    func cameUp(_ link: PeerLink, _ generation: UInt64, as identity: PeerIdentity?, featureLevel: UInt32) {
        shell.main.eventLoop.preconditionInEventLoop()
        guard !isClosed else { return link.close() }
        let key = link.key
        if let identity {
            guard entries[key]?.link === link else { return }
            // The other side judged us at its door; this side judges it likewise.
            if let refusal = shell.door.refusal(of: identity) {
                complain("host \(key.host) is not believed: \(refusal.message)", .error)
                // It may have been started with the wrong directory, and come back with the right one.
                shell.main.eventLoop.scheduleTask(in: .seconds(5)) { [self] in redial(link) }
                return link.close()
            }
        } else {
            guard key.host < shell.door.identity.host else {
                complain("host \(key.host) dialled, which is not its part; its connection is closed", .warning)
                return link.close()
            }
            // A newer connection of the same host takes the place of an older one.
            replace(key, by: link)
        }
        entries[key]?.isUp = true
        tell("connected with host \(key.host)", of: key)
        link.loop.run { link.allowWriting(generation) }
        for loop in shell.loops { loop.run { loop.addRoute(link) } }
        shell.main.peerUp(key.host, over: key.channel, featureLevel: featureLevel)
        if shell.loops.count == 1 {
            link.allowReading(generation)
        } else {
            // Behind the turn in which the core tells those of the other loops.
            shell.main.eventLoop.execute { link.loop.run { link.allowReading(generation) } }
        }
    }

    /// The host at the address that was dialled is another one, or does not believe that this is the one it is.
    func refused(_ link: PeerLink, _ reason: RPCError) {
        guard !isClosed, entries[link.key]?.link === link else { return }
        complain("no connection with host \(link.key.host): \(reason.message)", .warning)
    }

    /// People want to know of hosts, not of their second connections.
    private func tell(_ text: String, of key: PeerChannelKey) {
        if key.channel == .consensus { complain(text, .notice) }
    }

    /// The first time, and then once a minute with the count of those between.
    private func complain(_ text: String, _ level: Logger.Level) {
        guard let suppressed = refusals.admit(text, now: RPCClock.now()) else { return }
        let more: Logger.Metadata? = suppressed > 0 ? ["suppressed": "\(suppressed)"] : nil
        shell.logger.log(level: level, "\(text)", metadata: more)
    }

    func wentDown(_ link: PeerLink) {
        shell.main.eventLoop.preconditionInEventLoop()
        guard let entry = entries[link.key], entry.link === link else { return }
        markDown(link.key)
        if link.address == nil { entries[link.key] = nil }
    }

    private func markDown(_ key: PeerChannelKey) {
        guard let entry = entries[key], entry.isUp else { return }
        entries[key]?.isUp = false
        tell("lost the connection with host \(key.host)", of: key)
        for loop in shell.loops { loop.run { loop.removeRoute(entry.link) } }
        shell.main.peerDown(key.host, over: key.channel)
    }
}
