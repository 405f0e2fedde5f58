// What a benchmark knows of hosts that end, come late, or are started anew while it runs.

import BifrostTool
import Messages
import Primitives
import Ring
import Testing

@Suite struct BenchHostsTests {
    private func record(_ host: UInt64) -> HostRecord {
        HostRecord(
            id: HostID(host), name: "", address: "127.0.0.1:\(host)", zone: "", incarnation: Incarnation(host),
            featureLevel: 1)
    }

    private func account(
        _ host: UInt64, boot: UInt64 = 1, cpu: UInt64, checkpoints: [UInt64] = [], leads: UInt32? = nil
    ) -> HostAccount {
        var status = HostStatus()
        status.bootCounter = boot
        status.cpuMicros = cpu
        status.replicas = checkpoints.enumerated().map { index, count in
            var replica = ReplicaStatus(group: GroupID(UInt32(index)), replica: ReplicaID(1))
            replica.checkpoints = count
            replica.role = leads == UInt32(index) ? .leader : .follower
            return replica
        }
        return HostAccount(host: record(host), status: status)
    }

    private func missing(_ host: UInt64) -> HostAccount {
        HostAccount(host: record(host), status: nil, problem: "connection refused")
    }

    @Test func whatAllHostsUsedIsAddedUp() {
        var hosts = BenchHosts([account(1, cpu: 100), account(2, cpu: 1_000)])
        #expect(hosts.take([account(1, cpu: 150), account(2, cpu: 1_001)], at: 1) == [])
        #expect(hosts.take([account(1, cpu: 170), account(2, cpu: 1_001)], at: 2) == [])
        #expect(hosts.cpuMicros == 71)
        #expect(hosts.gaps == [])
    }

    @Test func aHostThatEndsCountsUntilItsLastAccount() {
        // The meta group is group 0: nobody waits for its checkpoints.
        var hosts = BenchHosts([
            account(1, cpu: 0, checkpoints: [0, 5], leads: 1), account(2, cpu: 0, checkpoints: [0, 1]),
        ])
        #expect(hosts.leaders == [GroupID(1): HostID(1)])
        _ = hosts.take([account(1, cpu: 10, checkpoints: [0, 6]), account(2, cpu: 20, checkpoints: [0, 4])], at: 1)
        #expect(hosts.checkpointsMin == 1)
        let gone = [missing(1), account(2, cpu: 30, checkpoints: [0, 5])]
        #expect(
            hosts.take(gone, at: 2) == [
                "host 1 at 127.0.0.1:1 does not answer (connection refused): its CPU counts until 1.0 s; nobody waits for "
                    + "its checkpoints"
            ])
        // Once is enough.
        #expect(hosts.take(gone, at: 3) == [])
        #expect(hosts.cpuMicros == 40)
        #expect(hosts.checkpointsMin == 4)
        #expect(hosts.leaders == [:])
        #expect(hosts.gaps.map(\.host) == [1] && hosts.gaps.map(\.address) == ["127.0.0.1:1"])
        #expect(
            hosts.gaps.map(\.problem) == ["does not answer (connection refused): its CPU counts until 1.0 s"])
    }

    @Test func aHostThatIsStartedAnewCountsFromZeroAgain() {
        var hosts = BenchHosts([account(1, cpu: 500, checkpoints: [9, 2])])
        _ = hosts.take([account(1, cpu: 600, checkpoints: [9, 3])], at: 1)
        _ = hosts.take([missing(1)], at: 2)
        #expect(hosts.checkpointsMin == 0)
        let back = account(1, boot: 2, cpu: 7, checkpoints: [1, 2])
        #expect(hosts.take([back], at: 3) == ["host 1 at 127.0.0.1:1 answers again"])
        #expect(hosts.cpuMicros == 107)
        #expect(hosts.checkpointsMin == 3)
        #expect(hosts.gaps.map(\.problem) == ["was started anew before 3.0 s"])
    }

    @Test func aHostThatComesLateCountsFromThenOn() {
        var hosts = BenchHosts([missing(1)])
        #expect(hosts.gaps.map(\.problem) == ["does not answer (connection refused): its CPU is unknown"])
        #expect(hosts.cpuMicros == 0 && hosts.checkpointsMin == 0)
        _ = hosts.take([account(1, cpu: 100, checkpoints: [0, 8])], at: 2)
        _ = hosts.take([account(1, cpu: 101, checkpoints: [0, 9])], at: 3)
        #expect(hosts.cpuMicros == 1 && hosts.checkpointsMin == 1)
        #expect(hosts.gaps.map(\.problem) == ["did not answer before 2.0 s"])
    }
}
