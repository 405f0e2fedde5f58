// Arguments as the bytes that they are. The parser takes texts, and Swift's texts have no place for bytes that are no
// UTF-8: read as a text, a key of them would silently become another key.

import Glibc
package import Primitives

/// Texts that stand for arguments, one to one, and the way back.
package enum RawArguments {
    /// A byte that is no UTF-8 stands as this plus its value, at the end of the last private plane.
    private static let offset: UInt32 = 0x10_ff00

    /// The bytes as a text: themselves if they are UTF-8 without one of the characters that stand for bytes.
    package static func text(of bytes: [UInt8]) -> String {
        if let text = String(validating: bytes, as: UTF8.self), !text.unicodeScalars.contains(where: isByte) {
            return text
        }
        var text = String.UnicodeScalarView()
        var rest = bytes[...]
        while let first = rest.first {
            let length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
            if let piece = String(validating: rest.prefix(length), as: UTF8.self), piece.unicodeScalars.count == 1,
                let scalar = piece.unicodeScalars.first, !isByte(scalar)
            {
                text.append(scalar)
                rest.removeFirst(length)
            } else {
                // Not all of a character, but this byte alone: what follows may be one again.
                text.append(Unicode.Scalar(offset + UInt32(first)) ?? "\u{fffd}")
                rest.removeFirst()
            }
        }
        return String(text)
    }

    /// What `text(of:)` made the text of.
    package static func bytes(of text: String) -> Bytes {
        guard text.unicodeScalars.contains(where: isByte) else { return Bytes(text) }
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if isByte(scalar) {
                bytes.append(UInt8(scalar.value - offset))
            } else {
                bytes += Array(String(scalar).utf8)
            }
        }
        return Bytes(bytes)
    }

    /// The last of them stands behind `--`, and is meant as it is.
    package static func endLiterally(_ arguments: [String]) -> Bool {
        arguments.firstIndex(of: "--").map { $0 < arguments.count - 1 } ?? false
    }

    /// This process's own, without the program's name.
    static var ofProcess: [String] {
        (1..<max(1, Int(CommandLine.argc))).compactMap { number in
            CommandLine.unsafeArgv[number].map { text in
                self.text(of: UnsafeBufferPointer(start: text, count: strlen(text)).map { UInt8(bitPattern: $0) })
            }
        }
    }

    private static func isByte(_ scalar: Unicode.Scalar) -> Bool { scalar.value >= offset + 0x80 }
}
