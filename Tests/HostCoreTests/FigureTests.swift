// What a host counts for operators: by its own clock, and never less than before.

import HostCore
import Messages
import Primitives
import RaftCore
import Ring
import StateMachines
import Testing

@Suite struct FigureTests {
    private let group = GroupID(1)

    private func figures(_ host: TestHost) -> HostFigures { host.core.figures(groupsMax: 8) }

    @Test func commitLatencyIsFromTheTurnThatACommandCameWithToTheOneThatAppliedIt() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let host = trio.hosts[leader]
        try trio.tick(40)
        // Nothing happened for a long time by the core's last reading of the clock: that is no latency.
        host.put("k", "1", group: group, token: 1)
        host.now = host.now + 10_000_000_000
        try trio.settle()
        #expect(host.result(1) != nil)
        var times = figures(host).counts.commitTimes
        #expect(times.count == 1 && times.nanoseconds == 0)
        // No majority has it on disk until three ticks later.
        for host in trio.hosts { host.holdsJournal = true }
        host.put("k", "2", group: group, token: 2)
        try trio.tick(3)
        #expect(figures(host).proposalsWaiting == 1 && figures(host).undurableBytes > 0)
        for host in trio.hosts {
            host.holdsJournal = false
            try host.commit()
        }
        try trio.tick(1)
        #expect(host.result(2) != nil)
        let before = times
        times = figures(host).counts.commitTimes
        let news = times.news(since: before)
        #expect(news.reduce(0) { $0 + $1.count } == 1)
        let taken = try #require(news.first { $0.count > 0 }).nanoseconds
        #expect((150_000_000...250_000_000).contains(taken), "\(taken) ns")
        #expect(figures(host).proposalsWaiting == 0 && figures(host).undurableBytes == 0)
        // Each replica applied both; only the leader was asked.
        for (number, host) in trio.hosts.enumerated() {
            let counts = figures(host).counts
            #expect(counts.commands >= 2)
            #expect((counts.commitTimes.count > 0) == (number == leader))
        }
    }

    @Test func electionsAndTermsAreCounted() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        let first = trio.hosts.map { figures($0).counts }
        #expect(first[leader].electionsWon >= 1)
        trio.cut(leader)
        try trio.tick(200)
        let next = try #require(
            trio.hosts.indices.first { $0 != leader && trio.hosts[$0].inspection(of: group)?.role == .leader })
        let second = trio.hosts.map { figures($0).counts }
        #expect(second[next].electionsWon > first[next].electionsWon)
        #expect(second[next].campaigns >= second[next].electionsWon)
        #expect(second[next].termChanges > first[next].termChanges)
        trio.join(leader)
        try trio.tick(200)
        for (number, host) in trio.hosts.enumerated() {
            let figures = figures(host)
            let replicas = host.core.inspections()
            // Each term was moved on to one by one, or at once.
            #expect(figures.counts.termChanges == replicas.reduce(0) { $0 + $1.term.rawValue }, "host \(number)")
            #expect(figures.counts.electionsWon == replicas.reduce(0) { $0 + UInt64($1.statistics.elections) })
            #expect(figures.groups.map(\.group) == replicas.map(\.group))
            #expect(figures.leaders == replicas.count { $0.role == .leader })
            #expect(figures.groups.count { $0.isLeader } == figures.leaders)
        }
    }

    @Test func lagsAreSumsAndTheLargest() throws {
        let trio = try Trio()
        let leader = try trio.leader()
        for token in 1...20 as ClosedRange<UInt64> {
            trio.hosts[leader].put("k\(token)", "v", group: group, token: token)
            try trio.tick(1)
        }
        let figures = figures(trio.hosts[leader])
        let lags = trio.hosts[leader].core.inspections().map { $0.applied.rawValue - $0.manifestIndex.rawValue }
        #expect(figures.checkpointLag.sum == lags.reduce(0, +) && figures.checkpointLag.largest == lags.max())
        #expect(figures.checkpointLag.largest >= 20 && figures.checkpointLagBytes.largest > 0)
        #expect(figures.applyLag.sum == 0)
        for host in trio.hosts { host.core.checkpointAll() }
        try trio.tick(4)
        let after = self.figures(trio.hosts[leader])
        #expect(after.checkpointLag.sum == 0 && after.checkpointLagBytes.sum == 0)
        #expect(after.counts.checkpoints > figures.counts.checkpoints)
        #expect(trio.hosts[leader].core.figures(groupsMax: 1).groups.count == 1)
    }

    @Test func watchesThatWaitChangesToldAndWatchesThatCanNotGoOnAreCounted() throws {
        let trio = try Trio(adjust: {
            $0.watchesMax = 3
            $0.historyBytesOfGroupMax = 4_000
        })
        let host = trio.hosts[try trio.leader()]
        func watch(_ key: Bytes, after: UInt64, token: UInt64) {
            host.core(of: group).watch(
                WatchRequest(
                    group: group, epoch: Epoch(1), slot: slot(of: key), machine: .keyValue,
                    range: WatchRange(after: Revision(after), waitMillis: 60_000, key: key)),
                call: CallToken(rawValue: token))
        }
        for token in 1...4 as ClosedRange<UInt64> { watch("k", after: 0, token: token) }
        try trio.tick(1)
        var now = figures(host)
        #expect(now.watchesWaiting == 3 && now.counts.watchesTurnedDown == 1 && now.counts.overloads == 1)
        #expect(now.counts.changesTold == 0)
        host.put("k", "1", group: group, token: 5)
        try trio.tick(2)
        now = figures(host)
        // Two of them are told what the first one was.
        #expect(now.watchesWaiting == 0 && now.counts.changesTold == 3 && now.counts.watchesCompacted == 0)
        for token in 6...20 as ClosedRange<UInt64> {
            host.put("k", String(repeating: "v", count: 1_000), group: group, token: token)
        }
        try trio.tick(2)
        watch("k", after: 0, token: 21)
        watch("k", after: 15, token: 22)
        try trio.tick(1)
        now = figures(host)
        #expect(now.counts.watchesCompacted == 1 && now.counts.changesTold == 4 && now.counts.watchesTurnedDown == 1)
        // Of all loops of a host.
        var both = now
        both.add(now, groupsMax: 8)
        #expect(both.counts.changesTold == 8 && both.counts.watchesCompacted == 2 && both.counts.watchesTurnedDown == 2)
        for host in trio.hosts where host !== trio.hosts[try trio.leader()] {
            #expect(figures(host).counts.changesTold == 0)
        }
    }

    @Test func aHistogramKeepsNumbersAndSumsOfEachBucket() {
        var histogram = DurationHistogram()
        histogram.note(nanoseconds: 0)
        histogram.note(nanoseconds: 100_000)
        let before = histogram
        histogram.note(nanoseconds: 100_001)
        histogram.note(nanoseconds: .max / 4)
        #expect(before.news(since: DurationHistogram()).first! == (2, 100_000))
        let news = histogram.news(since: before)
        #expect(news[0] == (0, 0) && news[1] == (1, 100_001) && news[16] == (1, .max / 4))
        var sum = before
        sum.add(histogram)
        #expect(sum.count == 6 && news.count == DurationHistogram.boundsNanoseconds.count + 1)
    }
}
