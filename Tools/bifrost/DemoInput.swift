// The demo's data: a file as records, and as the export that it has to come back as. Owns both in memory.

import Primitives

/// A file of records, each key once.
package struct DemoInput: Sendable {
    var name: String
    var format: RecordFormat
    /// In the order of the file; of a key that stands in several lines, the last value at the first place.
    var records: [(key: Bytes, value: Bytes)]
    /// Lines of the file.
    var lines: Int
    /// Of the file.
    var bytes: Int
    /// What `export --sorted` must print, byte for byte.
    var sorted: [UInt8]
    /// Of `sorted`.
    var digest: String

    /// Everything is held in memory, a few times over.
    static let bytesMax = 256 << 20

    /// The Unicode Character Database, from Debian's package unicode-data.
    static let standardPath = "/usr/share/unicode/UnicodeData.txt"

    /// - Parameter path: nil: the Unicode Character Database.
    init(reading path: String?, format asked: RecordFormat?) throws(ToolError) {
        let content = try Self.content(of: path)
        name = path == "-" ? "standard input" : path ?? Self.standardPath
        bytes = content.count
        // A tab in the first line: TSV. A brace at its beginning: JSON. Otherwise lines as those of the Unicode Character
        // Database.
        let first = content.prefix { $0 != UInt8(ascii: "\n") }
        let hasTab = first.contains(UInt8(ascii: "\t"))
        let isJSON = first.first == UInt8(ascii: "{")
        let format =
            asked ?? (hasTab ? .tsv : isJSON ? .jsonl : first.contains(UInt8(ascii: ";")) ? .ucd : .tsv)
        self.format = format
        records = []
        var places: [Bytes: Int] = [:]
        var splitter = LineSplitter()
        splitter.append(content)
        do throws(MalformedLine) {
            while let record = try splitter.next({ (line) throws(MalformedLine) in try format.decode(line) }) {
                Self.add(record, to: &records, &places)
            }
            if let record = try splitter.last({ (line) throws(MalformedLine) in try format.decode(line) }) {
                Self.add(record, to: &records, &places)
            }
        } catch {
            throw ToolError(.badData, "\(name), line \(splitter.lines): \(error)")
        }
        lines = splitter.lines
        guard !records.isEmpty else { throw ToolError(.badData, "\(name): expected records, found an empty file") }
        do throws(MalformedLine) {
            sorted = try Self.sort(records, format)
        } catch {
            throw ToolError(.badData, "\(name): \(error)")
        }
        digest = SHA256.hexadecimalDigest(of: sorted)
    }

    private static func content(of path: String?) throws(ToolError) -> [UInt8] {
        let input: InputFile
        do throws(ToolError) {
            input = try InputFile(opening: path ?? standardPath)
        } catch {
            guard path == nil else { throw error }
            throw ToolError(
                error.status,
                "\(error.message): install Debian's package unicode-data ('Tools/run demo' does), or name a file "
                    + "with --input")
        }
        defer { input.close() }
        var content: [UInt8] = []
        while true {
            let piece = try input.read()
            if piece.isEmpty { return content }
            content += piece
            guard content.count <= bytesMax else {
                throw ToolError(
                    .badData, "expected at most \(HumanText.bytes(UInt64(bytesMax))) in \(input.name), found more")
            }
        }
    }

    private static func add(
        _ record: (key: Bytes, value: Bytes), to records: inout [(key: Bytes, value: Bytes)],
        _ places: inout [Bytes: Int]
    ) {
        if let place = places[record.key] {
            records[place].value = record.value
        } else {
            places[record.key] = records.count
            records.append(record)
        }
    }

    private static func sort(_ records: [(key: Bytes, value: Bytes)], _ format: RecordFormat) throws(MalformedLine)
        -> [UInt8]
    {
        var text: [UInt8] = []
        var lines: [Range<Int>] = []
        lines.reserveCapacity(records.count)
        for record in records {
            let start = text.count
            try format.encode(key: record.key, value: record.value, into: &text)
            lines.append(start..<text.count)
        }
        return text.withUnsafeBytes { text in
            lines.sort { left, right in
                compareBytes(
                    UnsafeRawBufferPointer(rebasing: text[left]), UnsafeRawBufferPointer(rebasing: text[right])) < 0
            }
            var sorted: [UInt8] = []
            sorted.reserveCapacity(text.count + lines.count)
            for line in lines {
                sorted.append(contentsOf: text[line])
                sorted.append(UInt8(ascii: "\n"))
            }
            return sorted
        }
    }

    /// The first record that is not the same in both, in words; nil if all bytes are equal. Both are sorted lines.
    package static func firstDifference(expected: [UInt8], found: [UInt8], _ format: RecordFormat) -> String? {
        guard expected != found else { return nil }
        // What ends a key, and stands in none: a quotation mark within one has a backslash before it.
        let separator =
            switch format {
            case .tsv: "\t"
            case .ucd: ";"
            case .jsonl: ",\"value"
            }
        var (left, right) = (expected[...], found[...])
        var number = 0
        while true {
            number += 1
            let (wanted, other) = (takeLine(&left), takeLine(&right))
            if wanted == other, wanted != nil { continue }
            func text(_ line: ArraySlice<UInt8>) -> String { HumanText.quoted(Bytes(Array(line))) }
            switch (wanted, other) {
            case (let wanted?, nil): return "line \(number) is missing: \(text(wanted))"
            case (nil, let other?): return "line \(number) should not be there: \(text(other))"
            case (let wanted?, let other?):
                if key(of: wanted, endedBy: separator) == key(of: other, endedBy: separator) {
                    return "line \(number) has another value: expected \(text(wanted)), found \(text(other))"
                }
                // Both are sorted, so that the smaller one has no counterpart on the other side.
                return wanted.lexicographicallyPrecedes(other)
                    ? "line \(number) is missing: \(text(wanted))"
                    : "line \(number) should not be there: \(text(other))"
            case (nil, nil): return "the last line break is missing"
            }
        }
    }

    private static func key(of line: ArraySlice<UInt8>, endedBy separator: String) -> ArraySlice<UInt8> {
        line[..<(line.firstRange(of: Array(separator.utf8))?.lowerBound ?? line.endIndex)]
    }

    private static func takeLine(_ rest: inout ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        guard !rest.isEmpty else { return nil }
        let end = rest.firstIndex(of: UInt8(ascii: "\n")) ?? rest.endIndex
        defer { rest = rest[min(end + 1, rest.endIndex)...] }
        return rest[..<end]
    }
}
