// Numbers, times and keys as people read them. Pure.

package import Primitives

package enum HumanText {
    /// 1,234,567
    package static func grouped(_ number: UInt64) -> String {
        var digits = ""
        for (position, digit) in String(number).reversed().enumerated() {
            if position > 0, position % 3 == 0 { digits.append(",") }
            digits.append(digit)
        }
        return String(digits.reversed())
    }

    /// 512 B, 1.5 KiB, 20 MiB
    package static func bytes(_ count: UInt64) -> String {
        guard count >= 1_024 else { return "\(count) B" }
        var size = Double(count)
        var unit = ""
        for next in ["KiB", "MiB", "GiB", "TiB"] where size >= 1_024 || unit.isEmpty {
            size /= 1_024
            unit = next
        }
        return "\(fixed(size, size < 10 ? 1 : 0)) \(unit)"
    }

    /// 850 ms, 12 s, 3 m 20 s, 4 h 5 m, 3 d 2 h
    package static func duration(milliseconds: UInt64) -> String {
        let seconds = milliseconds / 1_000
        switch seconds {
        case 0: return "\(milliseconds) ms"
        case ..<60: return "\(seconds) s"
        case ..<3_600: return "\(seconds / 60) m \(seconds % 60) s"
        case ..<86_400: return "\(seconds / 3_600) h \(seconds / 60 % 60) m"
        default: return "\(seconds / 86_400) d \(seconds / 3_600 % 24) h"
        }
    }

    /// 0:07, 12:30, 1:02:03
    package static func clock(seconds: UInt64) -> String {
        func two(_ number: UInt64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60)
        return hours > 0 ? "\(hours):\(two(minutes)):\(two(seconds % 60))" : "\(minutes):\(two(seconds % 60))"
    }

    /// With this many digits after the point, rounded.
    package static func fixed(_ number: Double, _ digits: Int) -> String {
        var scale: UInt64 = 1
        for _ in 0..<digits { scale *= 10 }
        guard number.isFinite, number >= 0, number < 1e15 else { return "?" }
        let scaled = UInt64((number * Double(scale)).rounded())
        guard digits > 0 else { return "\(scaled)" }
        let fraction = String(scaled % scale)
        return "\(scaled / scale).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
    }

    /// A key or a value for a message: in quotes, on one line, at most some 64 characters.
    package static func quoted(_ bytes: Bytes) -> String {
        let shown = bytes[0..<min(bytes.count, 64)]
        var text = ""
        for scalar in shown.string.unicodeScalars {
            if scalar.properties.generalCategory == .control || scalar == "\u{2028}" || scalar == "\u{2029}" {
                text += "\\u{\(String(scalar.value, radix: 16))}"
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
        return bytes.count > shown.count ? "'\(text)…' (\(bytes.count) bytes)" : "'\(text)'"
    }

    /// Two digits for each byte.
    package static func hexadecimal(_ bytes: Bytes) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return bytes.withUnsafeBytes { bytes in
            String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
        }
    }

    /// The bytes that such a text stands for, with blanks and line breaks between digits; nil if it stands for none.
    package static func bytes(ofHexadecimal text: Bytes) -> Bytes? {
        var plain: [UInt8] = []
        var high: UInt8?
        for byte in text.array {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\n"), UInt8(ascii: "\r"): continue
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: return nil
            }
            if let first = high {
                plain.append(first << 4 | digit)
                high = nil
            } else {
                high = digit
            }
        }
        return high == nil ? Bytes(plain) : nil
    }

    /// "1 host", "3 hosts"
    package static func count(_ number: Int, _ noun: String) -> String {
        "\(grouped(UInt64(max(number, 0)))) \(noun)\(number == 1 ? "" : "s")"
    }
}
