// One connection of somebody who asks for metrics: one request, one answer, the end.
//
//     bytes ──► RequestBound ──► HTTP decoder ──► MetricsConnection ──► HTTP encoder ──► bytes

import NIOCore
import NIOHTTP1

/// A request that is longer than anybody needs for a question of a dozen bytes.
struct RequestTooLong {}

/// Lets so many bytes through, and none beyond them.
final class RequestBound: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private var bytesLeft: Int

    init(bytesMax: Int) { bytesLeft = bytesMax }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data).readableBytes
        guard bytesLeft >= 0 else { return }
        bytesLeft -= bytes
        guard bytesLeft >= 0 else { return context.fireUserInboundEventTriggered(RequestTooLong()) }
        context.fireChannelRead(data)
    }
}

/// Answers the first request. What comes behind it is not looked at, and the connection ends when the client has closed its
/// side, or has had its time.
final class MetricsConnection: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let pages: MetricsPages
    private var isAnswering = false
    private var end: Scheduled<Void>?

    init(pages: MetricsPages) { self.pages = pages }

    func channelActive(context: ChannelHandlerContext) {
        close(context.channel, in: pages.limits.connectionMilliseconds)
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        end?.cancel()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard case .head(let head) = unwrapInboundIn(data), !isAnswering else { return }
        guard head.uri.prefix(while: { $0 != "?" }) == "/metrics" else {
            return answer(context, .notFound, "expected GET /metrics: there is nothing else here\n")
        }
        guard head.method == .GET else {
            return answer(
                context, .methodNotAllowed, "expected GET /metrics\n", headers: [("Allow", "GET")],
                hasBody: head.method != .HEAD)
        }
        isAnswering = true
        let context = NIOLoopBound(context, eventLoop: context.eventLoop)
        let connection = NIOLoopBound(self, eventLoop: context.value.eventLoop)
        pages.page(on: context.value.eventLoop).whenSuccess { text in
            connection.value.write(context.value, .ok, text, contentType: PrometheusText.contentType)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case is RequestTooLong:
            answer(
                context, .requestHeaderFieldsTooLarge,
                "expected a request of at most \(pages.limits.requestBytesMax) bytes\n")
        case ChannelEvent.inputClosed:
            // Who asked may shut its side down and read on; who did not ask has nothing to wait for.
            if !isAnswering { context.close(promise: nil) }
        default: context.fireUserInboundEventTriggered(event)
        }
    }

    /// What can't be read as HTTP was answered by the handler before this one.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard error is HTTPParserError, !isAnswering else { return context.close(promise: nil) }
        isAnswering = true
        finish(context)
    }

    private func answer(
        _ context: ChannelHandlerContext, _ status: HTTPResponseStatus, _ text: String,
        headers: [(String, String)] = [], hasBody: Bool = true
    ) {
        guard !isAnswering else { return }
        isAnswering = true
        write(context, status, text, headers: headers, hasBody: hasBody)
    }

    private func write(
        _ context: ChannelHandlerContext, _ status: HTTPResponseStatus, _ text: String,
        contentType: String = "text/plain; charset=utf-8", headers: [(String, String)] = [], hasBody: Bool = true
    ) {
        guard context.channel.isActive else { return }
        var fields = HTTPHeaders([("Content-Type", contentType), ("Content-Length", "\(text.utf8.count)")])
        fields.add(contentsOf: [("Connection", "close")] + headers)
        let head = HTTPResponseHead(version: .http1_1, status: status, headers: fields)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if hasBody {
            context.write(
                wrapOutboundOut(.body(.byteBuffer(context.channel.allocator.buffer(string: text)))), promise: nil)
        }
        let written = context.eventLoop.makePromise(of: Void.self)
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: written)
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        let connection = NIOLoopBound(self, eventLoop: context.eventLoop)
        written.futureResult.whenSuccess { connection.value.finish(bound.value) }
    }

    /// Closes this side alone: an answer that is still on its way would be lost if the system met bytes that nobody reads.
    private func finish(_ context: ChannelHandlerContext) {
        context.close(mode: .output, promise: nil)
        close(context.channel, in: pages.limits.lingerMilliseconds)
    }

    private func close(_ channel: any Channel, in milliseconds: Int64) {
        end?.cancel()
        end = channel.eventLoop.scheduleTask(in: .milliseconds(milliseconds)) { channel.close(promise: nil) }
    }
}
