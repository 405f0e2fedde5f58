// JSON as far as a line of a history needs it: one object of strings, numbers and booleans. Values that are nested are
// skipped. Owns no meaning of fields. Says of any text where it stops being JSON.

import Primitives

/// One object on one line.
struct JSONLineWriter {
    private var bytes: [UInt8] = [UInt8(ascii: "{")]

    private mutating func begin(_ name: String) {
        if bytes.count > 1 { bytes.append(UInt8(ascii: ",")) }
        append(string: name)
        bytes.append(UInt8(ascii: ":"))
    }

    mutating func add(_ name: String, _ number: UInt64) {
        begin(name)
        bytes += String(number).utf8
    }

    mutating func add(_ name: String, _ value: Bool) {
        begin(name)
        bytes += (value ? "true" : "false").utf8
    }

    mutating func add(_ name: String, _ text: String) {
        begin(name)
        append(string: text)
    }

    /// As text, or null, or in base64 under the name with "64" behind it if it is not UTF-8.
    mutating func add(_ name: String, _ value: Bytes?) {
        guard let value else {
            begin(name)
            bytes += "null".utf8
            return
        }
        let array = value.array
        if let text = String(validating: array, as: UTF8.self) {
            add(name, text)
        } else {
            begin(name + "64")
            bytes.append(UInt8(ascii: "\""))
            bytes += Base64.encode(array)
            bytes.append(UInt8(ascii: "\""))
        }
    }

    private mutating func append(string: String) {
        let digits = Array("0123456789abcdef".utf8)
        bytes.append(UInt8(ascii: "\""))
        for byte in string.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0x0a: bytes += "\\n".utf8
            case 0x0d: bytes += "\\r".utf8
            case 0x09: bytes += "\\t".utf8
            case 0..<0x20: bytes += Array("\\u00".utf8) + [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    consuming func finish() -> [UInt8] {
        bytes + Array("}\n".utf8)
    }
}

/// The fields of one object.
struct JSONLineFields {
    enum Value {
        case null, bool(Bool), text(String)
        case number(UInt64)
        /// A number that is no UInt64, an array or an object: nothing that a history has.
        case other(String)

        var name: String {
            switch self {
            case .null: "null"
            case .bool(let value): "\(value)"
            case .text: "a string"
            case .number(let number): "\(number)"
            case .other(let name): name
            }
        }
    }

    private var fields: [String: Value] = [:]

    init(_ line: [UInt8]) throws(LineProblem) {
        var scanner = JSONScanner(bytes: line)
        try scanner.expect("{", "an object")
        if !scanner.skip("}") {
            repeat {
                let name = try scanner.string()
                try scanner.expect(":", "a colon behind \"\(name)\"")
                let value = try scanner.value()
                guard fields.updateValue(value, forKey: name) == nil else {
                    throw LineProblem("\"\(name)\" stands twice")
                }
            } while scanner.skip(",")
            try scanner.expect("}", "a comma or the end of the object")
        }
        guard scanner.isAtEnd else { throw LineProblem("expected one object on the line, found more behind it") }
    }

    func has(_ name: String) -> Bool { fields[name] != nil || fields[name + "64"] != nil }

    func number(_ name: String) throws(LineProblem) -> UInt64 {
        guard let number = try optionalNumber(name) else { throw LineProblem("\"\(name)\" is missing") }
        return number
    }

    /// Nil if it is not there or null.
    func optionalNumber(_ name: String) throws(LineProblem) -> UInt64? {
        switch fields[name] {
        case nil, .null: return nil
        case .number(let number): return number
        case .some(let value): throw LineProblem("expected a whole number in \"\(name)\", found \(value.name)")
        }
    }

    func bool(_ name: String) throws(LineProblem) -> Bool {
        guard let value = fields[name] else { throw LineProblem("\"\(name)\" is missing") }
        guard case .bool(let bool) = value else {
            throw LineProblem("expected true or false in \"\(name)\", found \(value.name)")
        }
        return bool
    }

    func text(_ name: String) throws(LineProblem) -> String {
        guard let value = fields[name] else { throw LineProblem("\"\(name)\" is missing") }
        guard case .text(let text) = value else {
            throw LineProblem("expected a string in \"\(name)\", found \(value.name)")
        }
        return text
    }

    func bytes(_ name: String) throws(LineProblem) -> Bytes {
        guard let bytes = try optionalBytes(name) else {
            throw LineProblem(has(name) ? "expected a string in \"\(name)\", found null" : "\"\(name)\" is missing")
        }
        return bytes
    }

    /// Nil if it is not there or null.
    func optionalBytes(_ name: String) throws(LineProblem) -> Bytes? {
        guard fields[name + "64"] != nil else {
            switch fields[name] {
            case nil, .null: return nil
            default: return Bytes(try text(name))
            }
        }
        guard fields[name] == nil else { throw LineProblem("expected \"\(name)\" or \"\(name)64\", found both") }
        guard let bytes = Base64.decode(Array(try text(name + "64").utf8)) else {
            throw LineProblem("\"\(name)64\" is not base64")
        }
        return Bytes(bytes)
    }
}

/// What is JSON.
public enum JSONSyntax {
    /// What was expected where the text stops being one JSON value, and what stands there; nil if it is one. Values
    /// that are nested deeper than 16 levels count as none.
    public static func problem(in text: [UInt8]) -> String? {
        var scanner = JSONScanner(bytes: text)
        do throws(LineProblem) {
            _ = try scanner.value()
            return scanner.isAtEnd ? nil : "expected nothing behind the value, found \(scanner.found)"
        } catch {
            return error.text
        }
    }
}

private struct JSONScanner {
    let bytes: [UInt8]
    private var offset = 0
    /// Deeper nesting is an error, so that no line exhausts the stack.
    private static let depthMax = 16

    init(bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool {
        mutating get {
            skipBlanks()
            return offset == bytes.count
        }
    }

    private mutating func skipBlanks() {
        while offset < bytes.count, [0x20, 0x09, 0x0a, 0x0d].contains(bytes[offset]) { offset += 1 }
    }

    /// Whether the character comes next; then it is behind.
    mutating func skip(_ character: Unicode.Scalar) -> Bool {
        skipBlanks()
        guard offset < bytes.count, bytes[offset] == UInt8(ascii: character) else { return false }
        offset += 1
        return true
    }

    mutating func expect(_ character: Unicode.Scalar, _ what: String) throws(LineProblem) {
        guard skip(character) else { throw LineProblem("expected \(what), found \(found)") }
    }

    /// The line of the text is named where it has several.
    private func place(_ offset: Int) -> String {
        let line = bytes[..<offset].count { $0 == UInt8(ascii: "\n") } + 1
        let column = offset - (bytes[..<offset].lastIndex(of: UInt8(ascii: "\n")) ?? -1)
        return bytes.contains(UInt8(ascii: "\n")) ? "line \(line), column \(column)" : "column \(column)"
    }

    var found: String {
        guard offset < bytes.count else { return end }
        let rest = bytes[offset..<min(offset + 12, bytes.count)].prefix { $0 != UInt8(ascii: "\n") }
        return "\"\(String(decoding: rest, as: UTF8.self))\" at \(place(offset))"
    }

    private var end: String { bytes.contains(UInt8(ascii: "\n")) ? "the end of the text" : "the end of the line" }

    mutating func value(depth: Int = 0) throws(LineProblem) -> JSONLineFields.Value {
        skipBlanks()
        guard offset < bytes.count else { throw LineProblem("expected a value, found \(end)") }
        switch bytes[offset] {
        case UInt8(ascii: "\""): return .text(try string())
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            guard depth < Self.depthMax else { throw LineProblem("expected at most \(Self.depthMax) levels") }
            return try nested(depth: depth)
        default: break
        }
        let end = bytes[offset...].firstIndex { !Self.isWord($0) } ?? bytes.count
        let word = String(decoding: bytes[offset..<end], as: UTF8.self)
        let value: JSONLineFields.Value
        switch word {
        case "null": value = .null
        case "true": value = .bool(true)
        case "false": value = .bool(false)
        default:
            guard Self.isNumber(word) else { throw LineProblem("expected a value, found \(found)") }
            value = UInt64(word).map { .number($0) } ?? .other(word)
        }
        offset = end
        return value
    }

    private mutating func nested(depth: Int) throws(LineProblem) -> JSONLineFields.Value {
        let isObject = skip("{")
        if !isObject { try expect("[", "an array") }
        let end: Unicode.Scalar = isObject ? "}" : "]"
        if !skip(end) {
            repeat {
                if isObject {
                    _ = try string()
                    try expect(":", "a colon")
                }
                _ = try value(depth: depth + 1)
            } while skip(",")
            try expect(end, "a comma or the end")
        }
        return .other(isObject ? "an object" : "an array")
    }

    private static func isWord(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "E"),
            UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."):
            true
        default: false
        }
    }

    /// By the grammar of JSON.
    private static func isNumber(_ word: String) -> Bool {
        var rest = Substring(word)
        func digits() -> Int {
            let count = rest.prefix { ("0"..."9").contains($0) }.count
            rest = rest.dropFirst(count)
            return count
        }
        if rest.first == "-" { rest = rest.dropFirst() }
        let startsWithZero = rest.first == "0"
        let whole = digits()
        guard whole == 1 || whole > 1 && !startsWithZero else { return false }
        if rest.first == "." {
            rest = rest.dropFirst()
            guard digits() > 0 else { return false }
        }
        if rest.first == "e" || rest.first == "E" {
            rest = rest.dropFirst()
            if rest.first == "+" || rest.first == "-" { rest = rest.dropFirst() }
            guard digits() > 0 else { return false }
        }
        return rest.isEmpty
    }

    mutating func string() throws(LineProblem) -> String {
        try expect("\"", "a string")
        let begin = offset - 1
        var text: [UInt8] = []
        while true {
            guard offset < bytes.count else { throw LineProblem("a string has no end: the one at \(place(begin))") }
            let byte = bytes[offset]
            offset += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw LineProblem("a string is not UTF-8; such values belong into a field of base64")
                }
                return string
            case UInt8(ascii: "\\"): try escape(into: &text)
            case 0..<0x20: throw LineProblem("a string has a control character at \(place(offset - 1))")
            default: text.append(byte)
            }
        }
    }

    private mutating func escape(into text: inout [UInt8]) throws(LineProblem) {
        guard offset < bytes.count else { throw LineProblem("a string has no end") }
        let byte = bytes[offset]
        offset += 1
        switch byte {
        case UInt8(ascii: "n"): text.append(0x0a)
        case UInt8(ascii: "r"): text.append(0x0d)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0c)
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "u"):
            var unit = try codeUnit()
            if 0xd800..<0xdc00 ~= unit {
                guard offset + 1 < bytes.count, bytes[offset] == UInt8(ascii: "\\"),
                    bytes[offset + 1] == UInt8(ascii: "u")
                else { throw LineProblem("half of a surrogate pair at \(place(offset - 1))") }
                offset += 2
                let second = try codeUnit()
                guard 0xdc00..<0xe000 ~= second else {
                    throw LineProblem("half of a surrogate pair at \(place(offset - 1))")
                }
                unit = 0x1_0000 + (unit - 0xd800) << 10 + (second - 0xdc00)
            }
            guard let scalar = Unicode.Scalar(unit) else {
                throw LineProblem("half of a surrogate pair at \(place(offset - 1))")
            }
            text += String(Character(scalar)).utf8
        default: throw LineProblem("an unknown escape in a string at \(place(offset - 1))")
        }
    }

    private mutating func codeUnit() throws(LineProblem) -> UInt32 {
        var unit: UInt32 = 0
        for _ in 0..<4 {
            guard offset < bytes.count, let digit = Character(Unicode.Scalar(bytes[offset])).hexDigitValue else {
                throw LineProblem("expected four hexadecimal digits at \(place(offset))")
            }
            unit = unit << 4 | UInt32(digit)
            offset += 1
        }
        return unit
    }
}

/// RFC 4648, with padding.
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encode(_ bytes: [UInt8]) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let count = min(3, bytes.count - start)
            var word: UInt32 = 0
            for place in 0..<3 { word = word << 8 | (place < count ? UInt32(bytes[start + place]) : 0) }
            for place in 0..<4 {
                let digit = alphabet[Int(word >> (18 - 6 * UInt32(place)) & 63)]
                text.append(place <= count ? digit : UInt8(ascii: "="))
            }
        }
        return text
    }

    static func decode(_ text: [UInt8]) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        var bytes: [UInt8] = []
        for start in stride(from: 0, to: text.count, by: 4) {
            var word: UInt32 = 0
            var padding = 0
            for byte in text[start..<start + 4] {
                word <<= 6
                if byte == UInt8(ascii: "="), start + 4 == text.count {
                    padding += 1
                } else {
                    guard padding == 0, let digit = alphabet.firstIndex(of: byte) else { return nil }
                    word |= UInt32(digit)
                }
            }
            // The bits that padding leaves over are zero, so that each value has one text.
            guard padding <= 2, word & (1 << (8 * UInt32(padding)) - 1) == 0 else { return nil }
            for place in 0..<3 - padding { bytes.append(UInt8(truncatingIfNeeded: word >> (16 - 8 * UInt32(place)))) }
        }
        return bytes
    }
}
