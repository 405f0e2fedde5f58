// Cuts the stream of one connection into frames. Owns what came and was not handed out yet; refuses to know sockets.
//
// Each read is copied once, into one `Bytes` storage that all complete frames in it share as slices. A frame that is
// cut by the end of a read is collected apart; its memory grows as its bytes come (never ahead of them by more than a
// factor of two), so a length field alone takes nothing, and a frame of 4 MiB in small pieces costs linear work.
//
//      read:   [ …tail of A ][ B ][ C ][ D ][ head of E… ]
//      stored: A's collected bytes   |  one storage: B C D  |  collected: head of E

import Primitives

package struct FrameAssembler: ~Copyable {
    /// Longest payload accepted from now on. Short until the handshake is done.
    package var payloadBytesMax: Int
    /// Versions accepted from now on, also of what has come and was not handed out. More than one only until the
    /// handshake is done: each frame says its own.
    package var versions: ClosedRange<UInt8>

    /// Runs of complete frames, not yet handed out, behind `current`. Bounded by what one turn of the event loop reads.
    private var queue: [Bytes] = []
    private var queueHead = 0
    private var current = Bytes()
    private var offset = 0
    /// The beginning of a frame whose end has not come.
    private var partial = ByteWriter()
    /// Bytes of the partial frame in all, known with its header.
    private var partialTotal = 0
    /// Found at the end of what was queued: thrown when all good frames before it are handed out, and for ever after.
    private var fault: ConnectionFault?

    package init(
        payloadBytesMax: Int = FrameHeader.payloadBytesMax, versions: ClosedRange<UInt8> = FrameHeader.versions
    ) {
        self.payloadBytesMax = payloadBytesMax
        self.versions = versions
    }

    /// Bytes of a frame that has begun and not ended. Not 0 at the end of the stream: it was truncated.
    package var partialBytes: Int { partial.count }

    /// True while `next` has something to say.
    package var hasFrames: Bool { offset < current.count || queueHead < queue.count || fault != nil }

    /// Takes the bytes of one read. Cost: one copy.
    package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard fault == nil else { return }
        var start = 0
        if !partial.isEmpty { start = completePartial(bytes) }
        guard fault == nil, start < bytes.count else { return }

        var end = start
        while bytes.count - end >= FrameHeader.byteCount {
            let header = bytes.baseAddress! + end
            guard FrameHeader.isPlausible(header, versions: versions, payloadBytesMax: payloadBytesMax) else { break }
            let total = FrameHeader.byteCount + FrameHeader.payloadBytes(at: header)
            guard bytes.count - end >= total else { break }
            end += total
        }
        if end > start { enqueue(Bytes(copying: UnsafeRawBufferPointer(rebasing: bytes[start..<end]))) }
        guard end < bytes.count else { return }
        let rest = UnsafeRawBufferPointer(rebasing: bytes[end...])
        fault = FrameHeader.fault(atBeginning: rest, versions: versions, payloadBytesMax: payloadBytesMax)
        guard fault == nil else { return }
        partial.write(bytes: rest)
        if rest.count >= FrameHeader.byteCount { partialTotal = total(of: rest) }
    }

    /// The next frame, with its checksum verified; nil when the next one has not come in full.
    package mutating func next() throws(ConnectionFault) -> Frame? {
        if offset == current.count {
            guard queueHead < queue.count else {
                if let fault { throw fault }
                return nil
            }
            current = queue[queueHead]
            offset = 0
            queueHead += 1
            if queueHead == queue.count {
                queue.removeAll(keepingCapacity: true)
                queueHead = 0
            }
        }
        let start = offset
        let versions = versions
        let (header, fault) = current.withUnsafeBytes { bytes -> (FrameHeader, ConnectionFault?) in
            // Only whole frames with plausible headers are queued: the reads below stay inside.
            let place = bytes.baseAddress! + start
            let (header, isIntact) = FrameHeader.decode(checked: place)
            if !versions.contains(bytes[start + 2]) {
                return (header, FrameHeader.wrongVersion(bytes[start + 2], versions))
            }
            if isIntact { return (header, nil) }
            return (
                header,
                ConnectionFault(
                    .badChecksum, "a frame of kind \(header.kind) whose checksum is not that of its bytes")
            )
        }
        if let fault {
            forget()
            self.fault = fault
            throw fault
        }
        let payloadStart = start + FrameHeader.byteCount
        offset = payloadStart + Int(header.length)
        let payload = header.length == 0 ? Bytes() : current[payloadStart..<offset]
        if offset == current.count {
            // Lets go of the read's storage as soon as its last frame is handed out.
            current = Bytes()
            offset = 0
        }
        return Frame(header: header, payload: payload)
    }

    private mutating func forget() {
        queue = []
        queueHead = 0
        current = Bytes()
        offset = 0
        partial.removeAll()
        partialTotal = 0
    }

    private mutating func enqueue(_ run: Bytes) {
        if offset == current.count && queueHead == queue.count {
            current = run
            offset = 0
        } else {
            queue.append(run)
        }
    }

    private func total(of header: UnsafeRawBufferPointer) -> Int {
        FrameHeader.byteCount + FrameHeader.payloadBytes(at: header.baseAddress!)
    }

    /// Adds to the frame that was cut; returns how many of `bytes` it took.
    private mutating func completePartial(_ bytes: UnsafeRawBufferPointer) -> Int {
        var taken = 0
        if partial.count < FrameHeader.byteCount {
            taken = min(FrameHeader.byteCount - partial.count, bytes.count)
            partial.write(bytes: UnsafeRawBufferPointer(rebasing: bytes[0..<taken]))
            let (versions, limit) = (versions, payloadBytesMax)
            fault = partial.withUnsafeBytes {
                FrameHeader.fault(atBeginning: $0, versions: versions, payloadBytesMax: limit)
            }
            guard fault == nil else { return taken }
            guard partial.count == FrameHeader.byteCount else { return taken }
            partialTotal = partial.withUnsafeBytes { total(of: $0) }
        }
        let more = min(partialTotal - partial.count, bytes.count - taken)
        partial.write(bytes: UnsafeRawBufferPointer(rebasing: bytes[taken..<taken + more]))
        if partial.count == partialTotal {
            var whole = ByteWriter()
            swap(&whole, &partial)
            enqueue(whole.take())
            partialTotal = 0
        }
        return taken + more
    }
}
