// Whether the other side of a connection is alive, judged by the dialling side. A value without sockets or clocks: its
// owner ticks it in equal steps. Hearing something is not enough: what this side sends must arrive too, and only a pong
// shows that.

package struct PingMonitor {
    package enum Verdict: Equatable {
        case alive
        /// Send a ping with this number.
        case ping(UInt64)
        case dead(Cause)
    }

    package enum Cause: Equatable {
        /// Nothing came, and the socket took nothing of what waits for it.
        case silence
        /// Something comes, but not the pong: what this side sends is not read.
        case noPong
    }

    private var number: UInt64 = 0
    private var isAnswered = true
    /// Bytes written to the connection up to the ping's end.
    private var pingEnd: UInt64 = 0
    /// What had come and gone when the ping was handed over.
    private var movedBefore: UInt64 = 0
    private var heard: UInt64 = 0
    private var handedOver: UInt64 = 0
    private var silentTicks = 0
    private var ticksWithoutPong = 0

    package init() {}

    /// Ticks with no sign of life at all.
    private static let silentTicksMax = 2
    /// Ticks from when the ping was handed to the socket. More: its pong may stand behind something else.
    private static let ticksWithoutPongMax = 6
    /// The same while much goes to and fro: ping or pong then stand behind as much as waits in buffers on the way.
    private static let busyTicksWithoutPongMax = 60
    /// Bytes since the ping that count as much.
    private static let busyBytes: UInt64 = 1 << 20
    /// More than all buffers on the way can hold, on both sides.
    private static let movedBytesMax: UInt64 = 256 << 20

    /// Ticks, and not time: a process that was stopped for long does not hold that against the other side.
    /// - Parameters:
    ///   - heard: grows with what came.
    ///   - handedOver: bytes that the socket has taken.
    ///   - position: bytes written to the connection, handed over or not.
    package mutating func tick(heard: UInt64, handedOver: UInt64, position: UInt64) -> Verdict {
        let isHandedOver = handedOver >= pingEnd
        // A socket that was full and took more has a reader.
        let isDraining = handedOver != self.handedOver && (!isHandedOver || handedOver < position)
        let isProgress = heard != self.heard || isDraining
        self.heard = heard
        self.handedOver = handedOver
        if isAnswered {
            isAnswered = false
            number += 1
            silentTicks = 0
            ticksWithoutPong = 0
            pingEnd = position + UInt64(FrameHeader.byteCount)
            return .ping(number)
        }
        silentTicks = isProgress ? 0 : silentTicks + 1
        if silentTicks >= Self.silentTicksMax { return .dead(.silence) }
        guard isHandedOver else { return .alive }
        if ticksWithoutPong == 0 { movedBefore = heard + handedOver }
        ticksWithoutPong += 1
        let moved = heard + handedOver - movedBefore
        let ticksMax = moved >= Self.busyBytes ? Self.busyTicksWithoutPongMax : Self.ticksWithoutPongMax
        return ticksWithoutPong >= ticksMax || moved >= Self.movedBytesMax ? .dead(.noPong) : .alive
    }

    package mutating func pong(_ number: UInt64) {
        if number == self.number { isAnswered = true }
    }
}
