// Histories as they come from a file, piece by piece. Owns the half line between two pieces; refuses to open files.

/// Reads a history of JSON lines from pieces of any size. Holds no more than one line.
public struct HistoryReader: Sendable {
    /// A longer line is an error.
    public static let lineBytesMax = 16 << 20

    /// Lines that are behind.
    public private(set) var lines = 0
    private var rest: [UInt8] = []

    public init() {}

    /// Calls `body` for each operation of the lines that end in this piece. Empty lines are skipped.
    public mutating func read(
        _ piece: some Sequence<UInt8>, _ body: (HistoryRecord) -> Void
    ) throws(HistoryError) {
        for byte in piece {
            if byte != UInt8(ascii: "\n") {
                rest.append(byte)
                guard rest.count <= Self.lineBytesMax else {
                    throw HistoryError(
                        line: lines + 1, problem: "expected at most \(Self.lineBytesMax) bytes, found more")
                }
                continue
            }
            try endLine(body)
        }
    }

    /// The end of the input: what stands behind the last line break is a line too.
    public mutating func finish(_ body: (HistoryRecord) -> Void) throws(HistoryError) {
        if !rest.isEmpty { try endLine(body) }
    }

    private mutating func endLine(_ body: (HistoryRecord) -> Void) throws(HistoryError) {
        lines += 1
        defer { rest.removeAll(keepingCapacity: true) }
        guard rest.contains(where: { ![0x20, 0x09, 0x0d].contains($0) }) else { return }
        do throws(LineProblem) {
            body(try HistoryRecord(line: rest))
        } catch {
            throw HistoryError(line: lines, problem: error.text)
        }
    }
}
