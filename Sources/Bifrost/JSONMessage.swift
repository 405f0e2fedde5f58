// Messages whose bytes are JSON: for users' commands, queries, answers and records that need no format of their own.

import Foundation
public import Messages
public import Primitives

/// A `Message` made of a `Codable` value: its bytes are JSON with sorted keys.
///
///     struct Reserve: MachineCommand, JSONMessage { … }
///
/// What a state machine stores must have the same bytes on every replica: types with a `Set`, or a `Dictionary` whose keys
/// are neither `String` nor `Int`, are encoded in no fixed order and don't belong into records or answers. Optional and
/// added fields are read by newer versions of a type as usual with `Codable`.
///
/// Cost: some microseconds for a small value. Where that counts, write the bytes with `ByteWriter` instead.
public protocol JSONMessage: Message, Codable {}

extension JSONMessage {
    /// Of a value that can't be encoded, as those with an `encode(to:)` of their own that throws, there are no bytes: who
    /// reads them finds that they are no JSON.
    public func encode(into writer: inout ByteWriter) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        guard let data = try? encoder.encode(self) else { return }
        writer.write(data.withUnsafeBytes { Bytes(copying: $0) })
    }

    public init(from reader: inout ByteReader) throws(DecodingFailure) {
        let bytes = reader.readRest()
        let decoder = JSONDecoder()
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        do {
            self = try decoder.decode(Self.self, from: bytes.withUnsafeBytes { Data($0) })
        } catch {
            throw DecodingFailure(expected: "\(Self.self) as JSON", found: "\(bytes.string.prefix(64)) (\(error))")
        }
    }
}
