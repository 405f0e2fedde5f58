// What a listener does when no connection can be accepted for want of descriptors or memory: it looks away for a while.
// Owns the pause and the words; who closes connections to make room is nobody here.

import Logging
import NIOCore
import Primitives

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// In a listener's pipeline. A connection that can't be accepted stays in the system's queue, and the listener stays
/// readable: accepting at once again would keep its event loop busy with nothing else. Who waits in the queue is
/// accepted up to `pauseMilliseconds` after there is room.
final class AcceptPause: ChannelInboundHandler {
    typealias InboundIn = NIOAny

    private static let pauseMilliseconds: Int64 = 100

    private let logger: Logger?
    private var limiter = RepetitionLimiter()
    private var isPaused = false

    init(logger: Logger?) { self.logger = logger }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? IOError, let text = Self.shortage(error.errnoCode) { pause(context, text) }
        context.fireErrorCaught(error)
    }

    /// What there is too little of; nil: accepting failed for another reason. The same reasons for which NIO keeps the
    /// listener open.
    private static func shortage(_ code: CInt) -> String? {
        switch code {
        case EMFILE:
            "this process has no file descriptor left: raise its limit (ulimit -n, LimitNOFILE= of systemd) and start it "
                + "again, or close connections"
        case ENFILE: "this machine has no file left: raise its limit (sysctl fs.file-max)"
        case ENOBUFS, ENOMEM: "this machine has no memory left for another connection"
        default: nil
        }
    }

    private func pause(_ context: ChannelHandlerContext, _ text: String) {
        guard !isPaused else { return }
        isPaused = true
        if let suppressed = limiter.admit(text, now: RPCClock.now()) {
            logger?.warning(
                "connections wait to be accepted", metadata: ["detail": "\(text)", "suppressed": "\(suppressed)"])
        }
        let channel = context.channel
        try? channel.syncOptions?.setOption(.autoRead, value: false)
        context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(Self.pauseMilliseconds)) {
            self.isPaused = false
            try? channel.syncOptions?.setOption(.autoRead, value: true)
        }
    }
}
