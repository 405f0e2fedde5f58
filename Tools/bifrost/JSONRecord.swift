// One record as one JSON object on one line, and back. Pure. Owns which names an object has, and JSON as far as they
// need it: strings, and a number that is looked past. A parser of its own, as the general one takes some hundred times
// as long, and as it lets names stand twice.

import Foundation
import Primitives

enum JSONRecord {
    /// `scan --json` prints a revision with each record, and what it prints can be imported. It is not written.
    private static let names = ["key", "keyBase64", "value", "valueBase64", "revision"]

    // MARK: Writing

    /// `{"key":"…","value":"…"}`; `keyBase64` and `valueBase64` for bytes that are no UTF-8. One record has one line, byte
    /// for byte.
    static func encode(key: Bytes, value: Bytes, into line: inout [UInt8]) {
        line.append(UInt8(ascii: "{"))
        append("key", key, to: &line)
        line.append(UInt8(ascii: ","))
        append("value", value, to: &line)
        line.append(UInt8(ascii: "}"))
    }

    private static func append(_ name: String, _ bytes: Bytes, to line: inout [UInt8]) {
        bytes.withUnsafeBytes { bytes in
            line.append(UInt8(ascii: "\""))
            line += name.utf8
            guard String(validating: bytes, as: UTF8.self) != nil else {
                line += "Base64\":\"".utf8
                line += Data(bytes).base64EncodedData()
                line.append(UInt8(ascii: "\""))
                return
            }
            line += "\":\"".utf8
            var plain = bytes[...]
            while let place = plain.firstIndex(where: {
                $0 < 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\")
            }) {
                line.append(contentsOf: plain[..<place])
                escape(bytes[place], into: &line)
                plain = plain[(place + 1)...]
            }
            line.append(contentsOf: plain)
            line.append(UInt8(ascii: "\""))
        }
    }

    private static func escape(_ byte: UInt8, into line: inout [UInt8]) {
        line.append(UInt8(ascii: "\\"))
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): line.append(byte)
        case UInt8(ascii: "\n"): line.append(UInt8(ascii: "n"))
        case UInt8(ascii: "\r"): line.append(UInt8(ascii: "r"))
        case UInt8(ascii: "\t"): line.append(UInt8(ascii: "t"))
        default:
            let digits = Array("0123456789abcdef".utf8)
            line += "u00".utf8
            line += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }

    // MARK: Reading

    static func decode(_ line: UnsafeRawBufferPointer) throws(MalformedLine) -> (key: Bytes, value: Bytes) {
        var scanner = Scanner(line: line)
        scanner.skipBlanks()
        guard !scanner.isAtEnd else {
            throw MalformedLine("expected {\"key\": …, \"value\": …}, found an empty line")
        }
        try scanner.expect("{", "an object, as in {\"key\": \"a\", \"value\": \"b\"}")
        var fields: [String: Bytes] = [:]
        scanner.skipBlanks()
        if !scanner.take("}") {
            repeat {
                scanner.skipBlanks()
                let name = String(decoding: try scanner.string("a name in double quotes"), as: UTF8.self)
                guard names.contains(name) else {
                    throw MalformedLine("expected one of \(names.joined(separator: ", ")), found \(quoted(name))")
                }
                scanner.skipBlanks()
                try scanner.expect(":", "a colon behind \"\(name)\"")
                scanner.skipBlanks()
                let value = name == "revision" ? try scanner.number(name) : try scanner.value(of: name)
                guard fields.updateValue(value, forKey: name) == nil else {
                    throw MalformedLine("\"\(name)\" stands twice")
                }
                scanner.skipBlanks()
            } while scanner.take(",")
            try scanner.expect("}", "a comma or the end of the object")
        }
        scanner.skipBlanks()
        guard scanner.isAtEnd else { throw MalformedLine("expected one object on the line, found more behind it") }
        return (try bytes("key", fields), try bytes("value", fields))
    }

    private static func bytes(_ name: String, _ fields: [String: Bytes]) throws(MalformedLine) -> Bytes {
        switch (fields[name], fields[name + "Base64"]) {
        case (let plain?, nil): return plain
        case (nil, let text?):
            guard let data = Data(base64Encoded: Data(text.array)) else {
                throw MalformedLine("\"\(name)Base64\" is no base 64, as in \"a/8=\"")
            }
            return Bytes([UInt8](data))
        case (nil, nil): throw MalformedLine("\"\(name)\" is missing, or \"\(name)Base64\"")
        case (_?, _?): throw MalformedLine("expected one of \"\(name)\" and \"\(name)Base64\", found both")
        }
    }

    private static func quoted(_ name: String) -> String { HumanText.quoted(Bytes(name)) }

    private struct Scanner {
        let line: UnsafeRawBufferPointer
        private var position = 0

        init(line: UnsafeRawBufferPointer) { self.line = line }

        var isAtEnd: Bool { position == line.count }

        mutating func skipBlanks() {
            while position < line.count, [0x20, 0x09, 0x0d].contains(line[position]) { position += 1 }
        }

        mutating func take(_ mark: Unicode.Scalar) -> Bool {
            guard position < line.count, line[position] == UInt8(ascii: mark) else { return false }
            position += 1
            return true
        }

        mutating func expect(_ mark: Unicode.Scalar, _ what: String) throws(MalformedLine) {
            guard take(mark) else { throw MalformedLine("expected \(what), found \(rest)") }
        }

        /// What stands here, for messages.
        private var rest: String {
            guard !isAtEnd else { return "the end of the line" }
            let piece = Bytes(copying: UnsafeRawBufferPointer(rebasing: line[position...].prefix(16)))
            return "\(HumanText.quoted(piece)) at column \(position + 1)"
        }

        /// A value that has to be a string.
        mutating func value(of name: String) throws(MalformedLine) -> Bytes {
            Bytes(
                try string(
                    "a string for \"\(name)\", which stands in double quotes also if it is a number or an object"))
        }

        mutating func number(_ name: String) throws(MalformedLine) -> Bytes {
            let start = position
            while position < line.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(line[position]) {
                position += 1
            }
            guard position > start else {
                throw MalformedLine("expected a whole number for \"\(name)\", found \(rest)")
            }
            return Bytes()
        }

        mutating func string(_ what: String) throws(MalformedLine) -> [UInt8] {
            guard position < line.count, line[position] == UInt8(ascii: "\"") else {
                throw MalformedLine("expected \(what), found \(rest)")
            }
            position += 1
            var text: [UInt8] = []
            while true {
                let plain = line[position...].prefix {
                    $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") && $0 >= 0x20
                }
                text.append(contentsOf: plain)
                position += plain.count
                guard position < line.count else { throw MalformedLine("a string has no end on this line") }
                switch line[position] {
                case UInt8(ascii: "\""):
                    position += 1
                    guard String(validating: text, as: UTF8.self) != nil else {
                        throw MalformedLine(
                            "a string is not UTF-8: bytes that are no text go into \"keyBase64\" and \"valueBase64\"")
                    }
                    return text
                case UInt8(ascii: "\\"): try unescape(into: &text)
                default:
                    throw MalformedLine(
                        "a control character stands within a string, at column \(position + 1): write it as \\u00"
                            + String(line[position] >> 4, radix: 16) + String(line[position] & 15, radix: 16))
                }
            }
        }

        private mutating func unescape(into text: inout [UInt8]) throws(MalformedLine) {
            let start = position
            position += 1
            guard position < line.count else { throw MalformedLine("a string has no end on this line") }
            defer { position += 1 }
            switch line[position] {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(line[position])
            case UInt8(ascii: "n"): text.append(0x0a)
            case UInt8(ascii: "r"): text.append(0x0d)
            case UInt8(ascii: "t"): text.append(0x09)
            case UInt8(ascii: "b"): text.append(0x08)
            case UInt8(ascii: "f"): text.append(0x0c)
            case UInt8(ascii: "u"):
                var code = try digits(from: start)
                if (0xd800..<0xdc00).contains(code) {
                    // Half of a pair: the other half is to follow.
                    guard position + 2 < line.count, line[position + 1] == UInt8(ascii: "\\"),
                        line[position + 2] == UInt8(ascii: "u")
                    else { throw half(start) }
                    position += 2
                    let low = try digits(from: start)
                    guard (0xdc00..<0xe000).contains(low) else { throw half(start) }
                    code = 0x1_0000 + (code - 0xd800) << 10 + (low - 0xdc00)
                }
                guard let scalar = Unicode.Scalar(code) else { throw half(start) }
                text += Array(String(scalar).utf8)
            default:
                throw MalformedLine(
                    "expected \\\", \\\\, \\/, \\b, \\f, \\n, \\r, \\t or \\u and four digits at column \(start + 1)")
            }
        }

        private func half(_ start: Int) -> MalformedLine {
            MalformedLine("half of a pair of surrogates stands alone at column \(start + 1): it is no character")
        }

        /// The four behind the `u` that stands here; the last of them stands here afterwards.
        private mutating func digits(from start: Int) throws(MalformedLine) -> UInt32 {
            var code: UInt32 = 0
            for _ in 0..<4 {
                position += 1
                guard position < line.count, let digit = Character(Unicode.Scalar(line[position])).hexDigitValue,
                    line[position] < 0x80
                else {
                    throw MalformedLine("expected four hexadecimal digits behind \\u at column \(start + 1)")
                }
                code = code << 4 | UInt32(digit)
            }
            return code
        }
    }
}
