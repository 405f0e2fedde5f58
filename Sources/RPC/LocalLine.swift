// One caller's way to a host in the same process: what a socket with its two ends is for others. Owns the calls that
// wait for the host, those that it has not answered, and answers that the caller's event loop has not taken.

import NIOCore
import Primitives
import Synchronization

/// Belongs to the caller's event loop; answers come from any thread.
///
/// The bounds are those of a connection, and so is what happens at them: calls beyond the host's bounds in flight wait
/// here, and beyond `ClientLimits.outboundBytesMax` of them new ones are refused with `overloaded`. Long answers beyond
/// `ServerLimits.outboundBytesMax` that the caller does not take become `answerDropped`.
final class LocalLine: @unchecked Sendable {
    // @unchecked: `eventLoop`, `server` and `limits` never change, `mailbox` is a mutex, `number` is set under the
    // server's lock before anybody else knows the line; all else belongs to the event loop, which the doors check.

    let eventLoop: any EventLoop
    let server: LocalServer
    /// Set by the server.
    var number: UInt64 = 0
    private let limits: ClientLimits
    private var caller: RPCConnection?

    /// Calls that the host has not got: `waiting[first...]`.
    private var waiting: [InboundCall] = []
    private var first = 0
    private var waitingBytes = 0
    /// Calls that the host has not answered, those that were taken back included, with their bytes.
    private var open: CallTable<UInt32>
    private var openBytes = 0
    /// How many calls were sent, and how many of them the host has got.
    private(set) var position: UInt64 = 0
    private(set) var handedOver: UInt64 = 0
    private var isInBatch = false
    private var isFlushing = false
    private var isFlushScheduled = false
    private var refusedForRoom = false

    private let mailbox = Mutex(Mailbox())

    init(caller: RPCConnection, server: LocalServer, limits: ClientLimits, seed: UInt64) {
        self.caller = caller
        self.server = server
        self.limits = limits
        eventLoop = caller.eventLoop
        open = CallTable(seed: seed)
    }

    // MARK: Calls, on the event loop

    /// Bytes of calls that the host has not got.
    var unsentBytes: Int { waitingBytes }

    /// False: more wait than may.
    var hasRoom: Bool {
        guard waitingBytes > limits.outboundBytesMax else { return true }
        refusedForRoom = true
        return false
    }

    /// Goes to the host at the end of the batch of answers or of this turn of the loop, together with the others.
    func send(_ service: UInt16, _ method: UInt16, _ call: UInt64, _ deadline: Instant?, _ payload: Bytes) {
        waiting.append(
            InboundCall(
                reply: CallReply(line: self, call: call), service: service, method: method, deadline: deadline,
                payload: payload))
        waitingBytes += payload.count
        position += 1
        guard !isInBatch, !isFlushScheduled else { return }
        isFlushScheduled = true
        eventLoop.execute { [self] in
            isFlushScheduled = false
            flush()
        }
    }

    private var isFull: Bool {
        open.count >= server.limits.callsInFlightMax || openBytes >= server.limits.bytesInFlightMax
    }

    /// Hands over what waits, as far as the host's bounds allow.
    func flush() {
        eventLoop.preconditionInEventLoop()
        guard caller != nil, !isFlushing, first < waiting.count, !isFull else { return }
        isFlushing = true
        defer { isFlushing = false }
        var end = first
        while end < waiting.count, !isFull {
            let call = waiting[end]
            open.insert(call.reply.call, UInt32(call.payload.count))
            openBytes += call.payload.count
            waitingBytes -= call.payload.count
            end += 1
        }
        let isAll = first == 0 && end == waiting.count
        let calls = isAll ? waiting : Array(waiting[first..<end])
        guard server.deliver(calls) else { return hostEnded() }
        handedOver += UInt64(end - first)
        first = end
        if first == waiting.count {
            waiting.removeAll(keepingCapacity: calls.count <= Self.keptCallsMax)
            first = 0
        } else if first > waiting.count / 2 {
            waiting.removeSubrange(..<first)
            first = 0
        }
        if refusedForRoom, waitingBytes <= limits.outboundBytesMax / 2 {
            refusedForRoom = false
            caller?.lineWritable()
        }
    }

    private static var keptCallsMax: Int { 4_096 }

    // MARK: The end, on the event loop

    /// The host takes no new calls.
    func drain() {
        eventLoop.preconditionInEventLoop()
        caller?.lineDrained()
    }

    /// The host has ended: what it was handed it may have done.
    func hostEnded() { end(byCaller: false) }

    /// The caller's side: what waits still goes to the host, as far as it takes it.
    func close() {
        flush()
        end(byCaller: true)
    }

    private func end(byCaller: Bool) {
        eventLoop.preconditionInEventLoop()
        guard let caller else { return }
        self.caller = nil  // breaks the cycle
        waiting = []
        server.closed(self)
        mailbox.withLock { $0.close() }
        caller.lineEnded(byHost: !byCaller)
    }

    // MARK: Answers, from any thread

    /// What waits for the caller's event loop. Short answers stand behind each other in shared memory, and each is
    /// handed out as a slice of that.
    private struct Mailbox: ~Copyable, Sendable {
        struct Letter: Sendable {
            var call: UInt64
            /// In which of the chunks; -1: in `payload`.
            var chunk = -1
            var start = 0
            var end = 0
            var payload = Bytes()
            var error: RPCError?
        }

        private static var chunkBytes: Int { 64 << 10 }

        var letters: [Letter] = []
        /// Full ones, and behind them `writer`.
        var chunks: [Bytes] = []
        var writer = ByteWriter(capacity: 4_096)
        var bytes = 0
        var isTaskScheduled = false
        var isClosed = false

        /// True: a task has to be scheduled.
        mutating func add(_ letter: Letter, bytes count: Int) -> Bool {
            letters.append(letter)
            bytes += count
            guard !isTaskScheduled else { return false }
            isTaskScheduled = true
            return true
        }

        mutating func cutChunk(above bytesMax: Int = chunkBytes) {
            guard writer.count > bytesMax else { return }
            // The next is likely to become as long.
            var full = ByteWriter(capacity: max(1_024, min(writer.count, Self.chunkBytes)))
            swap(&full, &writer)
            chunks.append(full.take())
        }

        mutating func close() {
            isClosed = true
            letters = []
            chunks = []
            writer = ByteWriter()
            bytes = 0
        }
    }

    /// See `CallReply.hasRoom`.
    func hasRoom(for bytes: Int) -> Bool {
        let waiting = mailbox.withLock { $0.bytes }
        return waiting == 0 || waiting + bytes <= server.limits.outboundRoomBytes
    }

    func respond(_ call: UInt64, _ payload: Bytes) {
        guard payload.count <= FrameHeader.payloadBytesMax else {
            return fail(call, InboundConnection.tooLong(payload.count))
        }
        post { box in
            var letter = Mailbox.Letter(call: call, payload: payload)
            if box.bytes > server.limits.outboundBytesMax, payload.count > server.limits.outboundSmallBytes {
                letter.payload = Bytes()
                letter.error = InboundConnection.overfull
            }
            return box.add(letter, bytes: letter.payload.count)
        }
    }

    func respond(_ call: UInt64, writing body: (inout ByteWriter) -> Void) {
        let outboundBytesMax = server.limits.outboundBytesMax
        var isOverfull = false
        post { box in
            isOverfull = box.bytes > outboundBytesMax
            guard !isOverfull else { return false }
            box.cutChunk()
            let start = box.writer.count
            body(&box.writer)
            let count = box.writer.count - start
            guard count <= FrameHeader.payloadBytesMax else {
                return box.add(.init(call: call, error: InboundConnection.tooLong(count)), bytes: 0)
            }
            return box.add(
                .init(call: call, chunk: box.chunks.count, start: start, end: start + count), bytes: count)
        }
        guard isOverfull else { return }
        var writer = ByteWriter()
        body(&writer)
        respond(call, writer.take())
    }

    func fail(_ call: UInt64, _ error: RPCError) {
        post { $0.add(.init(call: call, error: error), bytes: 0) }
    }

    private func post(_ body: (inout Mailbox) -> Bool) {
        let mustSchedule = mailbox.withLock { box in box.isClosed ? false : body(&box) }
        if mustSchedule { eventLoop.execute { [self] in takeMail() } }
    }

    private func takeMail() {
        let (letters, chunks) = mailbox.withLock { box -> ([Mailbox.Letter], [Bytes]) in
            box.isTaskScheduled = false
            guard !box.letters.isEmpty else { return ([], []) }
            box.cutChunk(above: 0)
            box.bytes = 0
            var taken: ([Mailbox.Letter], [Bytes]) = ([], [])
            swap(&taken.0, &box.letters)
            swap(&taken.1, &box.chunks)
            box.letters.reserveCapacity(min(taken.0.count, Self.keptCallsMax))
            return taken
        }
        guard let caller, !letters.isEmpty else { return }
        isInBatch = true
        var unknown = 0
        for letter in letters {
            // What is completed may close the connection.
            guard self.caller != nil else { break }
            guard let bytes = open.remove(letter.call) else {
                unknown += 1
                continue
            }
            openBytes -= Int(bytes)
            if let error = letter.error {
                caller.lineAnswered(letter.call, .failure(error))
            } else {
                let isApart = letter.chunk < 0 || letter.start == letter.end
                let payload = isApart ? letter.payload : chunks[letter.chunk][letter.start..<letter.end]
                caller.lineAnswered(letter.call, .success(payload))
            }
        }
        server.noteAnswers(letters.count - unknown, dropped: unknown)
        if self.caller != nil { caller.lineBatchEnded() }
        isInBatch = false
        flush()
    }
}
