// What a host says of the work that it does on its own data, beside the work for clients: for `bifrost status`.

public import Primitives

/// Asks for a host's upkeep. `0 u32`: kept for a choice of parts.
public struct UpkeepRequest: Message {
    public init() {}
    public func encode(into writer: inout ByteWriter) { writer.write(0 as UInt32) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let parts = try reader.read(UInt32.self)
        guard parts == 0 else { throw DecodingFailure(expected: "0 in a question for upkeep", found: "\(parts)") }
    }
}

/// What the scrubber did since the process started, and what damage was met. `version u16 = 1`, the fields in the order of their declaration.
public struct HostUpkeep: Message {
    /// Read and compared with their checksums.
    public var scrubbedBytes: UInt64 = 0
    /// Rounds through all that is on the disks that came to their end, and bytes of the last.
    public var scrubRounds: UInt64 = 0
    public var lastRoundBytes: UInt64 = 0
    /// Since that ended; `.max`: none has.
    public var sinceRoundMillis: UInt64 = .max
    /// Replicas found damaged, by whatever read them: each counts each time that it was sound before.
    public var damages: UInt64 = 0

    public init() {}

    public func encode(into writer: inout ByteWriter) {
        writer.write(1 as UInt16)
        for number in [scrubbedBytes, scrubRounds, lastRoundBytes, sinceRoundMillis, damages] { writer.write(number) }
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        try reader.expect(version: 1, of: "a host's upkeep")
        scrubbedBytes = try reader.read()
        scrubRounds = try reader.read()
        lastRoundBytes = try reader.read()
        sinceRoundMillis = try reader.read()
        damages = try reader.read()
    }
}
