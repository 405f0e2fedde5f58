// One socket's frames in both directions. Owns bytes that came and are not yet frames, frames that are not yet sent,
// when
// to read and when to flush. Refuses to know what frames mean: that is its owner's.
//
// Everything here belongs to the channel's event loop.

import NIOCore
import Primitives

/// What stands behind a `Wire`. All calls come on the event loop.
protocol WireOwner: AnyObject, SendableMetatype {
    /// The socket is there.
    func wireActive()
    /// A frame, checksum verified. Sent frames are flushed at the end of the batch by the wire.
    func wireReceived(_ frame: consuming Frame)
    /// True: hand over no frame now, and read no more. `Wire.resume` ends it.
    var wireIsPaused: Bool { get }
    /// All frames of what was read in one go were handed over. Flushed after this.
    func wireBatchEnded()
    /// The socket takes bytes again.
    func wireWritable()
    /// The stream is not one of frames. The wire closes the socket after this.
    func wireFailed(_ fault: ConnectionFault)
    /// The socket is gone; the last call. `truncated`: in the middle of a frame.
    func wireEnded(truncated: Bool, cause: (any Error)?)
}

final class Wire<Owner: WireOwner>: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = Never
    typealias OutboundIn = Never
    typealias OutboundOut = ByteBuffer

    /// Collected frames go to the socket within a batch when there are this many bytes.
    private static var outboundChunkBytes: Int { 256 << 10 }
    /// As much goes to the socket's queue at a time.
    private static var handOverBytes: Int { 1 << 20 }
    /// A send buffer above this is given back after use.
    private static var keptBufferBytesMax: Int { 1 << 20 }

    private var owner: Owner?
    private var assembler: FrameAssembler
    var outbound = FrameWriter()
    /// How many bytes were handed to the socket's queue: of frames that begin behind it nothing has left the process.
    private(set) var handedOver: UInt64 = 0
    /// Grows with what the other side sends: with each byte, so that a long frame that comes slowly shows. Up to version
    /// 1 only with each frame: there a changed length makes other frames its payload, and bytes prove nothing.
    private(set) var heard: UInt64 = 0

    private var context: ChannelHandlerContext?
    private var eventLoop: (any EventLoop)?
    private var buffer = ByteBuffer()
    private(set) var isWritable = true
    /// Within `channelRead` … `channelReadComplete`: the end of the batch flushes.
    private var isInBatch = false
    private var hasBatch = false
    private var isPumping = false
    private var isReadHeldBack = false
    private var isFlushing = false
    private var isFlushScheduled = false
    private var isResumeScheduled = false
    private var isClosing = false
    private var cause: (any Error)?

    /// `payloadBytesMax` and `versions` are those of what the peer may send in one go with its first frame.
    init(owner: Owner, payloadBytesMax: Int, versions: ClosedRange<UInt8>) {
        self.owner = owner
        assembler = FrameAssembler(payloadBytesMax: payloadBytesMax, versions: versions)
    }

    /// The handshake is done: frames of this version and of any length go both ways from now on.
    func agreed(on version: UInt8) {
        assembler.payloadBytesMax = FrameHeader.payloadBytesMax
        assembler.versions = version...version
        outbound.version = version
    }

    /// Bytes written so far, sent or not: where the next frame begins.
    var position: UInt64 { handedOver + UInt64(outbound.count) }

    /// Call after frames were added to `outbound`. Within a batch its end flushes; else the end of this turn of the
    /// loop.
    @inline(__always)
    func written() {
        if isInBatch {
            if outbound.count >= Self.outboundChunkBytes { flush() }
        } else if !isFlushScheduled {
            scheduleFlush()
        }
    }

    /// Hands all collected frames to the socket, usually in one write, as long as it takes more. In pieces, so that of
    /// a
    /// long queue no more counts as sent than the socket's own queue holds.
    func flush() {
        guard !isFlushing else { return }
        isFlushing = true
        defer { isFlushing = false }
        while !outbound.isEmpty, isWritable, let context {
            let size = min(outbound.count, Self.handOverBytes)
            buffer.clear()
            outbound.withUnsafeBytes { _ = buffer.writeBytes(UnsafeRawBufferPointer(rebasing: $0[0..<size])) }
            handedOver += UInt64(size)
            outbound.take(size)
            // May change `isWritable` before it returns.
            context.writeAndFlush(wrapOutboundOut(buffer), promise: nil)
            if buffer.capacity > Self.keptBufferBytesMax { buffer = ByteBuffer() }
        }
    }

    /// The owner is no longer paused: goes on after what runs now has ended.
    func resume() {
        guard !isResumeScheduled, !isPumping, isReadHeldBack || assembler.hasFrames, let eventLoop else { return }
        isResumeScheduled = true
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        eventLoop.execute { bound.value.resumeNow() }
    }

    /// Sends what is collected, then closes.
    func close() {
        guard !isClosing, let context else { return }
        flush()
        isClosing = true
        context.close(promise: nil)
    }

    private func scheduleFlush() {
        guard let eventLoop else { return }
        isFlushScheduled = true
        // One task per connection and turn, however many frames there are.
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        eventLoop.execute {
            bound.value.isFlushScheduled = false
            bound.value.flush()
        }
    }

    private func resumeNow() {
        isResumeScheduled = false
        isInBatch = true
        pump()
        endBatch()
        guard isReadHeldBack, !isHeldBack, let context else { return }
        isReadHeldBack = false
        context.read()
    }

    private var isHeldBack: Bool { owner == nil || owner!.wireIsPaused || assembler.hasFrames }

    private func pump() {
        guard !isPumping, let owner else { return }
        isPumping = true
        defer { isPumping = false }
        while !isClosing, !owner.wireIsPaused {
            do throws(ConnectionFault) {
                guard let frame = try assembler.next() else { break }
                hasBatch = true
                heard &+= 1
                owner.wireReceived(frame)
            } catch {
                owner.wireFailed(error)
                close()
                return
            }
        }
    }

    private func endBatch() {
        isInBatch = false
        if hasBatch {
            hasBatch = false
            owner?.wireBatchEnded()
        }
        flush()
    }

    // MARK: ChannelHandler

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        eventLoop = context.eventLoop
        if context.channel.isActive { owner?.wireActive() }
    }

    func handlerRemoved(context: ChannelHandlerContext) { end() }

    func channelActive(context: ChannelHandlerContext) {
        owner?.wireActive()
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosing else { return }
        isInBatch = true
        let bytes = unwrapInboundIn(data)
        if outbound.version > 1 { heard &+= UInt64(bytes.readableBytes) }
        bytes.withUnsafeReadableBytes { assembler.append($0) }
        pump()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        endBatch()
        context.fireChannelReadComplete()
    }

    func read(context: ChannelHandlerContext) {
        if isHeldBack { isReadHeldBack = true } else { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        isWritable = context.channel.isWritable
        if isWritable {
            // Not at once: this may come out of a flush.
            written()
            owner?.wireWritable()
            resume()
        }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        cause = error
        close()
    }

    func channelInactive(context: ChannelHandlerContext) {
        end()
        context.fireChannelInactive()
    }

    private func end() {
        // What this side closed was not truncated by the peer.
        let isTruncated = !isClosing && assembler.partialBytes > 0
        isClosing = true
        context = nil
        guard let owner else { return }
        self.owner = nil  // breaks the cycle
        owner.wireEnded(truncated: isTruncated, cause: cause)
    }
}
