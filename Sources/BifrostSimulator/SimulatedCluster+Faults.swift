// What goes wrong, and when all is well again.

import HostCore
import Primitives

extension SimulatedCluster {
    /// From now on things go wrong, until `heal`.
    func beginFaults() {
        areFaultsOn = true
        spell += 1
        scheduleFault()
    }

    private func scheduleFault() {
        let spell = spell
        schedule(after: 100_000_000 + world.random.below(world.plan.faultPauseNanosecondsMax), "something goes wrong") {
            [unowned self] in
            guard areFaultsOn, spell == self.spell else { return }
            strike()
            scheduleFault()
        }
    }

    private func strike() {
        let sum = world.plan.weights.reduce(0, +)
        var dice = world.random.below(max(sum, 1))
        var fault = SimulatedFault.crash
        for (place, weight) in world.plan.weights.enumerated() {
            if dice < weight {
                fault = SimulatedFault(rawValue: place) ?? .crash
                break
            }
            dice -= weight
        }
        report.faults += 1
        let host = Int(world.random.below(UInt64(hosts.count)))
        switch fault {
        case .crash: crash(host)
        case .crashMajority:
            note("a majority of hosts crashes")
            for offset in 0...hosts.count / 2 { crash((host + offset) % hosts.count) }
        case .crashAll:
            // Rarer than the others: it ends many other things.
            if world.random.below(3) == 0 { for host in hosts { crash(host.place) } } else { crash(host) }
            if hosts.allSatisfy({ !$0.isRunning }) { mark(.allDown) }
        case .isolate:
            let time = duration
            note("host %h is isolated for %b µs", UInt64(host), time / 1_000)
            for other in hosts.indices where other != host {
                cut(host, other, time)
                cut(other, host, time)
            }
        case .partition: partition()
        case .rot: rot()
        case .fullDisk: fill(hosts[host])
        case .cutOneWay:
            let other = (host + 1 + Int(world.random.below(UInt64(hosts.count - 1)))) % hosts.count
            let time = duration
            note("what host %h sends does not reach host %i for %c µs", UInt64(host), UInt64(other), time / 1_000)
            cut(host, other, time)
        case .clog:
            let other = (host + 1 + Int(world.random.below(UInt64(hosts.count - 1)))) % hosts.count
            let time =
                world.random.below(4) == 0
                ? world.random.below(5_000_000_000) : world.random.below(1_500_000_000 * world.plan.faultLength)
            note("the link from host %h to host %i is clogged for %c µs", UInt64(host), UInt64(other), time / 1_000)
            network.block(host, other, nanoseconds: time)
        case .narrow:
            let other = (host + 1 + Int(world.random.below(UInt64(hosts.count - 1)))) % hosts.count
            let time = world.random.below(3_000_000_000 * world.plan.faultLength)
            let bytes = 2_000 + world.random.below(100_000)
            note(
                "%c bytes a second pass from host %h to host %i for %d µs", UInt64(host), UInt64(other), bytes,
                time / 1_000)
            network.narrow(host, other, bytesPerSecond: bytes, nanoseconds: time)
        case .resetPeers:
            note("connections of host %h are reset", UInt64(host))
            for link in peerLinks where link.from == host || world.random.below(6) == 0 { link.reset(losesAll: false) }
        case .resetClients:
            note("connections of clients are reset")
            for client in clients {
                for link in client.links where world.random.below(2) == 0 { client.reset(link, losesAll: false) }
            }
        case .pause:
            var time = world.random.below(4) == 0 ? world.random.below(4_000_000_000) : world.random.below(700_000_000)
            time *= world.plan.faultLength
            note("host %h is stopped for %b µs", UInt64(host), time / 1_000)
            if time > 2_000_000_000 { mark(.pausedBeyondElection) }
            hosts[host].pausedUntil = max(hosts[host].pausedUntil, now + time)
        case .stallLoop:
            let loops = hosts[host].loops
            guard !loops.isEmpty else { break }
            let loop = loops[Int(world.random.below(UInt64(loops.count)))]
            let time = world.random.below(2_500_000_000)
            note("loop %b of host %h stands still for %c µs", UInt64(host), UInt64(loop.number), time / 1_000)
            loop.stalledUntil = max(loop.stalledUntil, now + time)
        case .slowDisk:
            let time = world.random.below(2_000_000_000 * world.plan.faultLength)
            note("the disks of host %h are slow for %b µs", UInt64(host), time / 1_000)
            hosts[host].slowDiskUntil = now + time
        case .stallDisk:
            // Nothing that it delays ends earlier when all is mended.
            let time = min(
                world.random.below(2_000_000_000) * world.plan.diskStallLength,
                max(2_000_000_000, passEnd - min(now, passEnd)))
            note("the disks of host %h stand still for %b µs", UInt64(host), time / 1_000)
            hosts[host].stalledDiskUntil = now + time
        case .diskError:
            let isJournal = world.random.below(2) == 0
            let disk = isJournal ? hosts[host].journalDisk : hosts[host].storeDisk
            if world.random.below(3) == 0 {
                note("host %h crashes, and a disk of it fails when it starts", UInt64(host))
                var faults = SimulatedDiskFaults()
                switch world.random.below(3) {
                case 0: faults.nextFlushFails = true
                case 1: faults.nextWriteFails = true
                default: faults.nextWriteFailsButStays = true
                }
                hosts[host].startFaults = (isJournal, faults)
                crash(host)
            } else {
                switch world.random.below(4) {
                case 0:
                    note("the next write of a disk of host %h fails", UInt64(host))
                    disk.faults.nextWriteFails = true
                case 1:
                    note("the next sync of a disk of host %h fails", UInt64(host))
                    disk.faults.nextSyncFails = true
                default:
                    note("the next write of a disk of host %h is reported as failed, and stays", UInt64(host))
                    disk.faults.nextWriteFailsButStays = true
                }
            }
        }
    }

    /// Damage behind everybody's back, on one host's disks only.
    private func rot() {
        let host = hosts[world.plan.rottenHost]
        guard !host.isLost else { return }
        host.isRotten = true
        switch world.random.below(40) {
        case 0:
            note("host %h loses both disks", UInt64(host.place))
            host.lose()
        case 1:
            note("host %h loses its store", UInt64(host.place))
            // With the journal gone before, nothing says any more which host this was.
            if host.hasLostJournal { return host.lose() }
            crash(host.place)
            host.storeDisk.wipe()
        case 2:
            note("host %h loses its journal", UInt64(host.place))
            // Nor does anything with the store gone, in a host that did not start since.
            if host.storeDisk.contents().isEmpty { return host.lose() }
            crash(host.place)
            host.journalDisk.wipe()
            host.journalName = world.random.next() | 1
            host.hasLostJournal = true
        case let dice:
            let isJournal = dice % 2 == 0
            let disk = isJournal ? host.journalDisk : host.storeDisk
            let contents = disk.contents()
            guard !contents.isEmpty else { return }
            note("a bit flips on a disk of host %h", UInt64(host.place))
            disk.flipBit(in: contents[Int(world.random.below(UInt64(contents.count)))].key)
        }
    }

    /// The hosts fall into two parts that can't reach each other, or only in one direction.
    private func partition() {
        let time = duration
        let isOneWay = world.random.below(3) == 0
        let members = 1 + world.random.below(UInt64(1) << UInt64(hosts.count) - 2)
        note("the hosts %a (bits) are cut off from the others for %b µs", members, time / 1_000)
        for from in hosts.indices where members >> UInt64(from) & 1 == 1 {
            for to in hosts.indices where members >> UInt64(to) & 1 == 0 {
                cut(from, to, time)
                if !isOneWay { cut(to, from, time) }
            }
        }
    }

    /// A leader has begun to change its members. Now and then something goes wrong before that is done: it ends, or the
    /// hosts of old and new members fall apart.
    func changes(_ model: ConfigurationModel, by leader: ReplicaModel) {
        guard areFaultsOn, settings.profile.changesMembers, model.configuration.isJoint,
            world.random.below(4) == 0
        else { return }
        let newHosts = Set(model.voters.map(\.host)).subtracting(model.outgoing.map(\.host))
        let kind = world.random.below(3)
        report.faults += 1
        // A joint configuration is left after few messages.
        let delay = world.random.below(2) == 0 ? 0 : world.random.below(5_000_000)
        schedule(after: delay, "members of group %a change", UInt64(leader.group.rawValue)) {
            [unowned self] in
            guard areFaultsOn else { return }
            switch kind {
            case 0: crash(leader.host)
            case 1: partition(newHosts.sorted() + [leader.host])
            default: partition(newHosts.sorted())
            }
        }
    }

    private func partition(_ part: [Int]) {
        let time = duration
        note(
            "the hosts %a (bits) are cut off from the others for %b µs", part.reduce(0) { $0 | 1 << UInt64($1) },
            time / 1_000)
        for from in part {
            for to in hosts.indices where !part.contains(to) {
                cut(from, to, time)
                cut(to, from, time)
            }
        }
    }

    /// The file system of a host's journal, or of its store, has room for little more, until somebody gives it some.
    private func fill(_ host: SimulatedHost) {
        let disk = world.random.below(2) == 0 ? host.journalDisk : host.storeDisk
        let time = duration
        note("a disk of host %h is full for %b µs", UInt64(host.place), time / 1_000)
        disk.faults.bytesMax = disk.bytes + Int(world.random.below(6_000))
        disk.faults.reserveBytes = world.random.below(2) == 0 ? 0 : Int(world.random.below(6_000))
        host.fullUntil = max(host.fullUntil, now + time)
        // A real host looks four times a second, and its bounds are not those of this disk.
        host.spaceLevel = [.ample, .low, .out][Int(world.random.below(3))]
        if host.isRunning { host.tellSpace() }
        schedule(after: time, "the disks of host %h may have room again", UInt64(host.place)) { [unowned self] in
            if host.fullUntil <= now { host.giveRoom() }
        }
    }

    private var duration: UInt64 { 100_000_000 + world.random.below(3_000_000_000 * world.plan.faultLength) }

    /// Packets are lost in one direction. Connections across it stall, and are given up after a while if that lasts.
    private func cut(_ from: Int, _ to: Int, _ nanoseconds: UInt64) {
        network.block(from, to, nanoseconds: nanoseconds)
        for (a, b) in [(from, to), (to, from)] where world.random.below(2) == 0 {
            schedule(
                after: world.random.below(2_500_000_000), "host %h gives its connections to host %i up", UInt64(a),
                UInt64(b)
            ) { [unowned self] in
                guard network.isBlocked(from, to) else { return }
                for channel in PeerChannel.allCases { peerLink(from: a, to: b, over: channel).reset() }
            }
        }
        if world.random.below(4) == 0 {
            for client in clients.indices where world.random.below(2) == 0 {
                network.block(from, hosts.count + client, nanoseconds: nanoseconds)
            }
        }
    }

    /// - Parameter losesPower: the machine ends, and not the process alone; nil: chance decides.
    func crash(_ place: Int, restartAfter: UInt64? = nil, losesPower: Bool? = nil) {
        let host = hosts[place]
        guard host.isRunning else { return }
        host.crash(losesPower: losesPower)
        note("host %h crashes", UInt64(place))
        var delay = restartAfter ?? 100_000_000
        if restartAfter == nil, areFaultsOn {
            delay = 20_000_000
            delay += world.random.below(
                world.random.below(3) == 0 ? 3_500_000_000 * world.plan.faultLength : 500_000_000)
        }
        schedule(after: delay, "host %h may start again", UInt64(place)) {
            if !host.isRunning, !host.isLost { host.start() }
        }
    }

    func heal() {
        note("all is mended")
        areFaultsOn = false
        for host in hosts { host.goOn() }
        network.heal()
        for host in hosts {
            host.slowDiskUntil = 0
            host.stalledDiskUntil = 0
            host.startFaults = nil
            host.giveRoom()
            host.journalDisk.faults = .init()
            host.storeDisk.faults = .init()
            if !host.isRunning, !host.isLost { host.start() }
        }
    }
}
