// What goes wrong, and when all is well again.

import HostCore
import Primitives

extension SimulatedCluster {
    func scheduleFault() {
        schedule(after: 100_000_000 + random.below(plan.faultPauseNanosecondsMax), "fault") { [unowned self] in
            guard areFaultsOn else { return }
            strike()
            scheduleFault()
        }
    }

    private func strike() {
        let sum = plan.weights.reduce(0, +)
        var dice = random.below(max(sum, 1))
        var fault = SimulatedFault.crash
        for (place, weight) in plan.weights.enumerated() {
            if dice < weight {
                fault = SimulatedFault(rawValue: place) ?? .crash
                break
            }
            dice -= weight
        }
        report.faults += 1
        let host = Int(random.below(UInt64(hosts.count)))
        note("strikes", UInt64(fault.rawValue), UInt64(host))
        switch fault {
        case .crash: crash(host)
        case .crashMajority:
            for offset in 0...hosts.count / 2 { crash((host + offset) % hosts.count) }
        case .crashAll:
            // Rarer than the others: it ends many other things.
            if random.below(3) == 0 { for host in hosts { crash(host.place) } } else { crash(host) }
        case .isolate:
            let time = duration
            for other in hosts.indices where other != host {
                cut(host, other, time)
                cut(other, host, time)
            }
        case .cutOneWay:
            let other = (host + 1 + Int(random.below(UInt64(hosts.count - 1)))) % hosts.count
            cut(host, other, duration)
        case .clog:
            let other = (host + 1 + Int(random.below(UInt64(hosts.count - 1)))) % hosts.count
            network.block(host, other, nanoseconds: random.below(1_500_000_000))
        case .resetPeers: for link in peerLinks where link.from == host || random.below(6) == 0 { link.reset() }
        case .resetClients:
            for client in clients { for link in client.links where random.below(2) == 0 { client.reset(link) } }
        case .pause:
            let time = random.below(4) == 0 ? random.below(4_000_000_000) : random.below(700_000_000)
            hosts[host].pausedUntil = max(hosts[host].pausedUntil, now + time)
        case .stallLoop:
            let loops = hosts[host].loops
            guard !loops.isEmpty else { break }
            let loop = loops[Int(random.below(UInt64(loops.count)))]
            loop.stalledUntil = max(loop.stalledUntil, now + random.below(2_500_000_000))
        case .slowDisk: hosts[host].slowDiskUntil = now + random.below(2_000_000_000)
        case .diskError:
            let disk = random.below(2) == 0 ? hosts[host].journalDisk : hosts[host].storeDisk
            if random.below(2) == 0 {
                disk.faults.nextWriteFails = true
            } else {
                disk.faults.nextWriteFailsButStays = true
            }
        }
    }

    private var duration: UInt64 { 100_000_000 + random.below(3_000_000_000) }

    /// Packets are lost in one direction. Connections across it stall, and are given up after a while if that lasts.
    private func cut(_ from: Int, _ to: Int, _ nanoseconds: UInt64) {
        network.block(from, to, nanoseconds: nanoseconds)
        for (a, b) in [(from, to), (to, from)] where random.below(2) == 0 {
            schedule(after: random.below(2_500_000_000), "given up", UInt64(a), UInt64(b)) { [unowned self] in
                guard network.isBlocked(from, to) else { return }
                for channel in PeerChannel.allCases { peerLink(from: a, to: b, over: channel).reset() }
            }
        }
        if random.below(4) == 0 {
            for client in clients.indices where random.below(2) == 0 {
                network.block(from, hosts.count + client, nanoseconds: nanoseconds)
            }
        }
    }

    func crash(_ place: Int, restartAfter: UInt64? = nil) {
        let host = hosts[place]
        guard host.isRunning else { return }
        host.crash()
        note("crash", UInt64(place))
        let delay =
            restartAfter
            ?? (areFaultsOn
                ? 20_000_000 + random.below(random.below(3) == 0 ? 3_500_000_000 : 500_000_000) : 100_000_000)
        schedule(after: delay, "restart", UInt64(place)) { if !host.isRunning { host.start() } }
    }

    func heal() {
        note("heal")
        areFaultsOn = false
        network.heal()
        for host in hosts {
            host.pausedUntil = min(host.pausedUntil, now)
            for loop in host.loops { loop.stalledUntil = min(loop.stalledUntil, now) }
            host.slowDiskUntil = 0
            host.journalDisk.faults = .init()
            host.storeDisk.faults = .init()
            if !host.isRunning { host.start() }
        }
    }
}
