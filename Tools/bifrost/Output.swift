// What goes to standard output and standard error. Owns the two descriptors, tables and JSON; refuses to know what is
// in them.

import Foundation
import Primitives
import Synchronization

enum Output {
    private static let isBegun = Atomic<Bool>(false)
    private static let isObjectBegun = Atomic<Bool>(false)

    /// Something was written to standard output.
    static var hasBegun: Bool { isBegun.load(ordering: .relaxed) }

    /// A result as an object was written to standard output, or was to be: there is not to be another one.
    static var hasObject: Bool { isObjectBegun.load(ordering: .relaxed) }

    /// A person looks at standard output.
    static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }
    static var isErrorTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    /// A line on standard output.
    static func line(_ text: String) throws(ToolError) {
        try write(Bytes(text + "\n"))
    }

    /// A result as one JSON object on one line: the only one, but for lines of `jsonLine` before it.
    static func json(_ result: some Encodable) throws(ToolError) {
        let text = try jsonText(result)
        isObjectBegun.store(true, ordering: .relaxed)
        try line(text)
    }

    /// One object of several, of a command that goes on and may yet end badly.
    static func jsonLine(_ part: some Encodable) throws(ToolError) {
        try line(jsonText(part))
    }

    static func jsonText(_ result: some Encodable) throws(ToolError) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return String(decoding: try encoder.encode(result), as: UTF8.self)
        } catch {
            throw ToolError(.fault, "the result can't be written as JSON: \(error)")
        }
    }

    static func write(_ bytes: Bytes) throws(ToolError) {
        try bytes.withUnsafeBytes { (bytes) throws(ToolError) in
            try write(bytes, to: STDOUT_FILENO, name: "standard output")
        }
    }

    /// "bifrost: …" on standard error.
    /// A value's bytes and nothing else; to a terminal also a line break, if it has none at its end.
    static func value(_ value: Bytes) throws(ToolError) {
        try write(value)
        let endsLine = !value.isEmpty && value[value.count - 1] == UInt8(ascii: "\n")
        if isTerminal, !endsLine { try line("") }
    }

    static func note(_ text: String) {
        error("bifrost: \(text)\n")
    }

    /// As it stands, on standard error. Nobody is told if that fails: there is nowhere left to say so.
    static func error(_ text: String) {
        var text = text
        text.withUTF8 { try? write(UnsafeRawBufferPointer($0), to: STDERR_FILENO, name: "standard error") }
    }

    /// Writes all bytes. A reader that went away ends the command silently, as it would have ended it by SIGPIPE.
    static func write(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32, name: String) throws(ToolError) {
        var offset = 0
        if descriptor == STDOUT_FILENO, !bytes.isEmpty { isBegun.store(true, ordering: .relaxed) }
        while offset < bytes.count {
            let count = Glibc.write(descriptor, bytes.baseAddress! + offset, bytes.count - offset)
            if count >= 0 {
                offset += count
                continue
            }
            switch errno {
            case EINTR: continue
            case EAGAIN:
                var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                poll(&waiting, 1, -1)
            case EPIPE where descriptor == STDOUT_FILENO: throw ToolError(.outputClosed, "")
            default: throw ToolError(.fileTrouble, "can't write to \(name): \(String(cString: strerror(errno)))")
            }
        }
    }
}

/// Columns with as much room as they need, two spaces apart.
package struct Table: Sendable {
    package enum Alignment: Sendable { case left, right }

    private let columns: [(title: String, alignment: Alignment)]
    private var rows: [[String]] = []

    package init(_ columns: [(title: String, alignment: Alignment)]) { self.columns = columns }

    package mutating func add(_ row: [String]) {
        precondition(row.count == columns.count, "a row has a cell for each column")
        rows.append(row)
    }

    /// Lines without blanks at their ends, without a line break after the last.
    package var text: String {
        let all = [columns.map { $0.title.uppercased() }] + rows
        let widths = columns.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        return all.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                let blanks = String(repeating: " ", count: widths[column] - cell.count)
                line += columns[column].alignment == .left ? cell + blanks : blanks + cell
                line += "  "
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }
}

/// The system's words for an error, on one line.
func words(of error: any Error) -> String {
    if let error = error as? CocoaError, let cause = error.userInfo[NSUnderlyingErrorKey] as? any Error {
        return words(of: cause)
    }
    if let error = error as? POSIXError { return String(cString: strerror(error.code.rawValue)) }
    return error.localizedDescription.split(separator: "\n").joined(separator: " ")
}
