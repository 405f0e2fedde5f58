// Collects the frames that a connection sends, back to back in one buffer. Owns bytes that were not handed to a socket.

package import Primitives

package struct FrameWriter: ~Copyable, Sendable {
    /// Above this much the memory is given back after it was sent, so that one large answer does not stay for ever.
    private static let keptBytesMax = 256 << 10

    /// That of the frames that are added from now on.
    package var version: UInt8
    private var writer: ByteWriter
    /// Bytes at the front that were taken.
    private var taken = 0

    package init(version: UInt8 = FrameHeader.handshakeVersion) {
        self.version = version
        writer = ByteWriter(capacity: 4_096)
    }

    /// Bytes that were collected and not taken.
    package var count: Int { writer.count - taken }
    package var isEmpty: Bool { writer.count == taken }

    /// Adds a frame. `header.length` and the checksums are computed here. A payload over the limit is a caller's error.
    package mutating func append(_ header: FrameHeader, payload: Bytes = Bytes()) {
        precondition(payload.count <= FrameHeader.payloadBytesMax, "a payload over the frame's limit")
        let place = writer.extend(by: FrameHeader.byteCount + payload.count).baseAddress!
        let version = version
        payload.withUnsafeBytes { bytes in
            let target = place + FrameHeader.byteCount
            if let source = bytes.baseAddress { target.copyMemory(from: source, byteCount: bytes.count) }
            header.encode(
                to: place, payload: UnsafeRawBufferPointer(start: target, count: bytes.count), version: version)
        }
    }

    /// Adds a frame whose payload `body` appends to the writer in place. Returns false, with nothing added, when that
    /// was over the limit. `body` must not touch what was there before.
    package mutating func append(_ header: FrameHeader, writing body: (inout ByteWriter) -> Void) -> Bool {
        let start = writer.count
        _ = writer.extend(by: FrameHeader.byteCount)
        body(&writer)
        let length = writer.count - start - FrameHeader.byteCount
        precondition(length >= 0, "a payload's body took away what was written before it")
        guard length <= FrameHeader.payloadBytesMax else {
            truncate(to: start)
            return false
        }
        let version = version
        writer.withUnsafeBytes { bytes in
            // The writer's memory is ours until it is handed over, and nobody else looks at it now.
            let place = UnsafeMutableRawPointer(mutating: bytes.baseAddress! + start)
            header.encode(
                to: place, payload: UnsafeRawBufferPointer(start: place + FrameHeader.byteCount, count: length),
                version: version)
        }
        return true
    }

    /// Adds frames that are encoded already.
    package mutating func append(encoded frames: UnsafeRawBufferPointer) { writer.write(bytes: frames) }

    /// What was collected and not taken.
    package func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try writer.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[taken...])) }
    }

    /// Takes bytes from the front. Cost: now and then what is left moves up; linear in all.
    package mutating func take(_ size: Int) {
        precondition(size <= count, "more taken than was collected")
        taken += size
        if isEmpty {
            removeAll()
        } else if taken > Self.keptBytesMax, taken > count {
            var rest = ByteWriter(capacity: count)
            withUnsafeBytes { rest.write(bytes: $0) }
            writer = rest
            taken = 0
        }
    }

    package mutating func removeAll() {
        if writer.count > Self.keptBytesMax { writer = ByteWriter(capacity: 4_096) } else { writer.removeAll() }
        taken = 0
    }

    private mutating func truncate(to count: Int) {
        var shorter = ByteWriter(capacity: 4_096)
        writer.withUnsafeBytes { shorter.write(bytes: UnsafeRawBufferPointer(rebasing: $0[0..<count])) }
        writer = shorter
    }
}
