import Testing

import RPC

@Suite struct PingMonitorTests {
    @Test func aPingFollowsEachPongAndNoOther() {
        var monitor = PingMonitor()
        #expect(monitor.tick(heard: 0, handedOver: 0, position: 0) == .ping(1))
        monitor.pong(1)
        #expect(monitor.tick(heard: 32, handedOver: 32, position: 32) == .ping(2))
        monitor.pong(1)
        #expect(monitor.tick(heard: 64, handedOver: 64, position: 64) == .alive)
        monitor.pong(2)
        #expect(monitor.tick(heard: 96, handedOver: 64, position: 64) == .ping(3))
    }

    @Test func silenceIsDeadAfterTwoTicks() {
        var monitor = PingMonitor()
        #expect(monitor.tick(heard: 7, handedOver: 0, position: 0) == .ping(1))
        #expect(monitor.tick(heard: 7, handedOver: 32, position: 32) == .alive)
        #expect(monitor.tick(heard: 7, handedOver: 64, position: 64) == .dead(.silence))
    }

    /// What comes does not show that anything arrives over there.
    @Test func hearingWithoutPongIsDeadAfterSixTicks() {
        var monitor = PingMonitor()
        #expect(monitor.tick(heard: 0, handedOver: 0, position: 0) == .ping(1))
        for tick in UInt64(1)...5 {
            #expect(monitor.tick(heard: 100 * tick, handedOver: 32 * tick, position: 32 * tick) == .alive)
        }
        #expect(monitor.tick(heard: 800, handedOver: 300, position: 300) == .dead(.noPong))
    }

    /// A pong that stands behind a long catch-up comes late, and a ping too; for ever it can't take.
    @Test(arguments: [true, false]) func whileMuchIsOnTheWayAPongMayTakeLonger(isHeard: Bool) {
        func tick(_ monitor: inout PingMonitor, _ moved: UInt64) -> PingMonitor.Verdict {
            // The other direction shows that somebody is there.
            let small = moved / 1_000
            return monitor.tick(
                heard: isHeard ? moved : small, handedOver: 32 + (isHeard ? small : moved), position: 1 << 40)
        }
        var slow = PingMonitor()
        #expect(slow.tick(heard: 0, handedOver: 0, position: 0) == .ping(1))
        for number in UInt64(1)..<60 { #expect(tick(&slow, number << 20) == .alive, "\(number)") }
        var answered = slow
        answered.pong(1)
        #expect(tick(&answered, 60 << 20) == .ping(2))
        #expect(tick(&slow, 60 << 20) == .dead(.noPong))

        var fast = PingMonitor()
        #expect(fast.tick(heard: 0, handedOver: 0, position: 0) == .ping(1))
        #expect(tick(&fast, 1 << 20) == .alive)
        #expect(tick(&fast, 256 << 20) == .alive)
        #expect(tick(&fast, 258 << 20) == .dead(.noPong))
    }

    /// What waits for the socket goes on leaving: the other side reads, though it says nothing.
    @Test func aSocketThatTakesMoreIsNotSilent() {
        var monitor = PingMonitor()
        #expect(monitor.tick(heard: 0, handedOver: 0, position: 0) == .ping(1))
        for tick in UInt64(1)...20 {
            #expect(monitor.tick(heard: 0, handedOver: tick << 20, position: 100 << 20) == .alive)
        }
        #expect(monitor.tick(heard: 0, handedOver: 20 << 20, position: 100 << 20) == .alive)
        #expect(monitor.tick(heard: 0, handedOver: 20 << 20, position: 100 << 20) == .dead(.silence))
    }

    /// A ping that waits behind much else is not held against a side that takes it all, only slowly.
    @Test func aPingCountsFromWhenItWasSent() {
        var monitor = PingMonitor()
        let behind: UInt64 = 1_000_000
        #expect(monitor.tick(heard: 0, handedOver: 0, position: behind) == .ping(1))
        for tick in UInt64(1)...30 {
            #expect(monitor.tick(heard: 0, handedOver: tick * 1_000, position: 2 * behind) == .alive)
        }
        #expect(monitor.tick(heard: 0, handedOver: 30_000, position: 2 * behind) == .alive)
        #expect(monitor.tick(heard: 0, handedOver: 30_000, position: 2 * behind) == .dead(.silence))
    }
}
