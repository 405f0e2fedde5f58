// Plain values as messages: for machines and data types that need nothing more.

public import Primitives

/// All of its bytes.
extension Bytes: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(self) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { self = reader.readRest().compacted() }
}

/// UTF-8.
extension String: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(Bytes(self)) }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let bytes = reader.readRest()
        guard let text = bytes.withUnsafeBytes({ String(validating: $0, as: UTF8.self) }) else {
            throw DecodingFailure(expected: "text in UTF-8", found: "\(bytes.count) other bytes")
        }
        self = text
    }
}

/// 8 bytes, little-endian.
extension Int: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(Int64(self)) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { self = Int(try reader.read(Int64.self)) }
}

/// 8 bytes, little-endian.
extension Int64: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(self) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { self = try reader.read(Int64.self) }
}

/// The bits of IEEE 754, 8 bytes, little-endian.
extension Double: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(bitPattern) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        self = Double(bitPattern: try reader.read())
    }
}

/// A byte, 0 or 1.
extension Bool: Message {
    public func encode(into writer: inout ByteWriter) { writer.write(self) }
    public init(from reader: inout ByteReader) throws(DecodingFailure) { self = try reader.readBool() }
}
