// A virtual network of ordered connections: what was sent arrives in order, late, or never (then the connection is
// lost).
// Owns who can reach whom; refuses to know what the bytes mean.

import HostCore
import Primitives

/// Bytes under way on a connection.
struct SimulatedFrame {
    /// What the frame is for: of peers or of clients; see who sends it.
    var kind: UInt8 = 0
    var call: UInt64 = 0
    var payload = Bytes()
}

/// Which endpoints can reach which. Hosts come first, then clients.
final class SimulatedNetwork {
    let world: SimulatedWorld
    let count: Int
    /// Until when packets from one endpoint don't reach the other, by from * count + to.
    @exclusivity(unchecked) private var blockedUntil: [UInt64]
    @exclusivity(unchecked) private var bandwidth: [(until: UInt64, bytesPerSecond: UInt64)]
    private var channels: [SimulatedChannel] = []
    /// Least delay of each directed pair.
    @exclusivity(unchecked) private var base: [UInt64]

    init(world: SimulatedWorld, count: Int) {
        self.world = world
        self.count = count
        blockedUntil = Array(repeating: 0, count: count * count)
        bandwidth = Array(repeating: (0, 1), count: count * count)
        base = []
        for _ in 0..<count * count { base.append(20_000 + world.random.below(world.plan.latencyNanosecondsMax)) }
    }

    /// The endpoint's number in the trace.
    func traceName(_ endpoint: Int) -> UInt64 {
        let hosts = world.plan.hosts
        return endpoint < hosts ? UInt64(endpoint) : TraceNote.firstClient + UInt64(endpoint - hosts)
    }

    func channel(from: Int, to: Int) -> SimulatedChannel {
        let channel = SimulatedChannel(network: self, from: from, to: to)
        channels.append(channel)
        return channel
    }

    func isBlocked(_ from: Int, _ to: Int) -> Bool { blockedUntil[from * count + to] > world.now }
    func isReachable(_ from: Int, _ to: Int) -> Bool { !isBlocked(from, to) && !isBlocked(to, from) }

    /// Nothing passes in this direction for a while; `.max`: until `heal`. Connections that need it are given up by
    /// whoever
    /// waits on them, some time later.
    func block(_ from: Int, _ to: Int, nanoseconds: UInt64) {
        let until = nanoseconds == .max ? .max : world.now + nanoseconds
        blockedUntil[from * count + to] = max(blockedUntil[from * count + to], until)
        if until != .max {
            world.schedule(
                after: nanoseconds, "packets from %x to %y may pass again", traceName(from), traceName(to)
            ) { [unowned self] in resume() }
        }
    }

    /// So many bytes in a second pass in this direction for a while.
    func narrow(_ from: Int, _ to: Int, bytesPerSecond: UInt64, nanoseconds: UInt64) {
        bandwidth[from * count + to] = (world.now + nanoseconds, max(1, bytesPerSecond))
        world.schedule(
            after: nanoseconds, "packets from %x to %y are fast again", traceName(from), traceName(to)
        ) { [unowned self] in
            guard self.bytesPerSecond(from, to) == nil else { return }
            for channel in channels where channel.from == from && channel.to == to { channel.hurry() }
        }
    }

    func bytesPerSecond(_ from: Int, _ to: Int) -> UInt64? {
        let (until, bytes) = bandwidth[from * count + to]
        return until > world.now ? bytes : nil
    }

    func heal() {
        for place in blockedUntil.indices {
            blockedUntil[place] = 0
            bandwidth[place].until = 0
        }
        resume()
        for channel in channels { channel.hurry() }
    }

    private func resume() {
        for channel in channels where channel.isStalled && !isBlocked(channel.from, channel.to) { channel.resume() }
    }

    /// From the seed: the pair's own latency, some jitter, and a long tail.
    func delay(_ from: Int, _ to: Int) -> UInt64 {
        let shortest = base[from * count + to]
        let dice = world.random.below(1_000)
        if dice < world.plan.slowPerThousand {
            return shortest + world.random.below(dice == 0 ? 1_200_000_000 : 60_000_000)
        }
        return shortest + world.random.below(shortest)
    }
}

/// One direction of a connection. While it is open, frames arrive in order.
final class SimulatedChannel {
    // It owns this, and outlives it.
    private unowned(unsafe) let network: SimulatedNetwork
    private let world: SimulatedWorld
    let from: Int
    let to: Int
    private let fromName: UInt64
    private let toName: UInt64
    // Unchecked: reached with every frame, and each access ends before anything else runs.
    @exclusivity(unchecked) private(set) var generation: UInt64 = 0
    @exclusivity(unchecked) private(set) var isOpen = false
    @exclusivity(unchecked) private(set) var isStalled = false
    @exclusivity(unchecked) private var queue: [(at: UInt64, frame: SimulatedFrame)] = []
    @exclusivity(unchecked) private var head = 0
    @exclusivity(unchecked) private var isArmed = false
    /// It is armed for when the receiver's process goes on.
    @exclusivity(unchecked) private var isAwaitingReceiver = false
    /// When the event that `isArmed` speaks of happens. One of an earlier generation happens at another time, or does what
    /// was to be done at this one.
    @exclusivity(unchecked) private var armedAt: UInt64 = 0
    /// When the newest frame was sent: what is sent at one moment is one packet.
    @exclusivity(unchecked) private var sentAt: UInt64 = 0
    /// When all that was sent has left, if the bandwidth bounds it.
    @exclusivity(unchecked) private var departure: UInt64 = 0
    /// One closure for all frames.
    @exclusivity(unchecked) private var arrival: () -> Void = {}
    /// How much longer than the pair's own delay frames may take: what is large waits for itself.
    @exclusivity(unchecked) var extraDelayMax: UInt64 = 0
    /// When the receiver's process takes nothing in before some time (it is stopped).
    @exclusivity(unchecked) var receiverReady: () -> UInt64 = { 0 }
    @exclusivity(unchecked) var deliver: (SimulatedFrame) -> Void = { _ in }

    init(network: SimulatedNetwork, from: Int, to: Int) {
        self.network = network
        world = network.world
        self.from = from
        self.to = to
        fromName = network.traceName(from)
        toName = network.traceName(to)
        arrival = { [unowned(unsafe) self] in arrive() }
    }

    func open() {
        close()
        isOpen = true
    }

    /// What is under way is lost.
    func close() {
        generation += 1
        isOpen = false
        isStalled = false
        isArmed = false
        isAwaitingReceiver = false
        departure = 0
        queue.removeAll(keepingCapacity: true)
        head = 0
    }

    /// What is under way, taken out: the sender died, and its machine still delivers what it had accepted.
    func takeUnderway() -> [(at: UInt64, frame: SimulatedFrame)] {
        defer { queue.removeAll(keepingCapacity: true); head = 0 }
        return Array(queue[head...])
    }

    /// The first of what is under way: the connection is reset, and so much of it is with the receiver already.
    func takeArrived() -> [(at: UInt64, frame: SimulatedFrame)] {
        guard isOpen, head < queue.count else { return [] }
        let underway = takeUnderway()
        let count = Int(world.random.below(UInt64(underway.count + 1)))
        if count > 0 { world.mark(.partArrived) }
        return Array(underway[..<count])
    }

    func send(_ frame: consuming SimulatedFrame) {
        guard isOpen else { return }
        let network = network
        var at: UInt64
        if head < queue.count, sentAt == world.now {
            at = queue[queue.count - 1].at
        } else {
            at = world.now + network.delay(from, to)
            if extraDelayMax > 0 { at += world.random.below(extraDelayMax) }
            if head < queue.count { at = max(at, queue[queue.count - 1].at) }
        }
        if let bytes = network.bytesPerSecond(from, to) {
            departure = max(departure, world.now) + UInt64(frame.payload.count + 64) * 1_000_000_000 / bytes
            at = max(at, departure)
        }
        sentAt = world.now
        queue.append((at, consume frame))
        arm()
    }

    func resume() {
        isStalled = false
        arm()
    }

    /// What held frames up has ended, perhaps sooner than was foreseen: a stopped receiver, a narrow link.
    func hurry() {
        let now = world.now
        guard head < queue.count, network.bytesPerSecond(from, to) == nil, receiverReady() <= now else { return }
        guard isAwaitingReceiver || departure > now else { return }
        departure = now
        // In order, each after its own delay at most.
        var latest = now
        for place in head..<queue.count {
            latest = max(latest, min(queue[place].at, now + network.delay(from, to)))
            queue[place].at = latest
        }
        isArmed = false
        isAwaitingReceiver = false
        arm()
    }

    private func arm() {
        guard !isArmed, !isStalled, head < queue.count else { return }
        isArmed = true
        armedAt = max(queue[head].at, world.now)
        world.schedule(after: armedAt - world.now, "bytes from %x reach %y", fromName, toName, arrival)
    }

    private func arrive() {
        guard isArmed, armedAt == world.now else { return }
        isArmed = false
        isAwaitingReceiver = false
        if network.isBlocked(from, to) {
            isStalled = true
            return
        }
        let ready = receiverReady()
        if ready > world.now {
            queue[head].at = ready
            isAwaitingReceiver = true
            arm()
            return
        }
        let current = generation
        while head < queue.count, queue[head].at <= world.now {
            var frame = SimulatedFrame()
            swap(&frame, &queue[head].frame)
            head += 1
            if head > 64 {
                queue.removeSubrange(..<head)
                head = 0
            }
            deliver(frame)
            // The receiver may have ended of it.
            guard generation == current, !isArmed else { return }
        }
        arm()
    }
}

/// One direction of one of the two connections of a pair of hosts: made, lost, made again, as the shell's connections
/// are.
final class SimulatedPeerLink {
    // It owns this, and outlives it.
    private unowned(unsafe) let cluster: SimulatedCluster
    private let world: SimulatedWorld
    let from: Int
    let to: Int
    let channel: PeerChannel
    /// Tells connections apart.
    let number: Int
    let connection: SimulatedChannel
    private var attempt: UInt64 = 0

    init(cluster: SimulatedCluster, from: Int, to: Int, over channel: PeerChannel, number: Int) {
        self.cluster = cluster
        world = cluster.world
        self.from = from
        self.to = to
        self.channel = channel
        self.number = number
        connection = cluster.network.channel(from: from, to: to)
        if channel == .bulk { connection.extraDelayMax = world.plan.bulkNanosecondsMax }
        let target = cluster.hosts[to]
        connection.receiverReady = { [unowned(unsafe) target] in target.isReady(forConnection: number) }
        let source = cluster.hosts[from].id
        connection.deliver = { [unowned(unsafe) target] frame in
            target.receive(frame.payload, from: source, connection: number)
        }
    }

    /// The sender's process begins, or its connection was lost.
    func connect(after delay: UInt64) {
        attempt += 1
        let number = attempt
        let source = cluster.hosts[from]
        source.schedule(after: delay, "host %h connects to host %i", UInt64(to), loop: 0) { [unowned self] in
            guard number == attempt, !connection.isOpen else { return }
            let target = cluster.hosts[to]
            guard target.isListening, cluster.network.isReachable(from, to), target.pausedUntil <= world.now,
                source.knows(target), target.knows(source)
            else {
                connect(after: 25_000_000 + world.random.below(475_000_000))
                return
            }
            let life = target.life
            let handshake = cluster.network.delay(from, to) + cluster.network.delay(to, from)
            source.schedule(after: handshake, "host %h is connected to host %i", UInt64(to), loop: 0) {
                [unowned self] in
                guard number == attempt, !connection.isOpen else { return }
                guard target.life == life, cluster.network.isReachable(from, to) else {
                    connect(after: 25_000_000 + world.random.below(475_000_000))
                    return
                }
                connection.open()
                source.loops[0].core.peerUp(target.id, over: channel, featureLevel: target.featureLevel)
                source.loops[0].scheduleTurn()
            }
        }
    }

    /// The connection breaks; the sender learns it after `delay`, and what was under way is lost, or only its end.
    func reset(after delay: UInt64 = 0, losesAll: Bool = true) {
        guard connection.isOpen else { return }
        if !losesAll { deliver(connection.takeArrived()) }
        connection.close()
        attempt += 1
        let source = cluster.hosts[from]
        source.schedule(after: delay, "host %h notices that its connection to host %i is lost", UInt64(to), loop: 0) {
            [unowned self] in
            source.loops[0].core.peerDown(cluster.hosts[to].id, over: channel)
            source.loops[0].scheduleTurn()
            connect(after: world.random.below(100_000_000))
        }
    }

    /// The sender's process ended. What its machine had accepted arrives all the same, sometimes, and late.
    func senderEnded() {
        attempt += 1
        if connection.isOpen, world.random.below(2) == 0 { deliver(connection.takeUnderway()) }
        connection.close()
    }

    /// What is left of a connection that is lost.
    private func deliver(_ rest: [(at: UInt64, frame: SimulatedFrame)]) {
        let target = cluster.hosts[to]
        let source = cluster.hosts[from].id
        let number = number
        for (at, frame) in rest {
            let wait = max(at, world.now) - world.now
            // Not at all if the receiver's process ends before.
            target.schedule(after: wait, "bytes of a lost connection of host %i reach host %h", UInt64(from)) {
                target.receive(frame.payload, from: source, connection: number)
            }
        }
    }
}
