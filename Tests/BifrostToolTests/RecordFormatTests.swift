// Lines as records: what is read, what is written, and what is said about lines that are no records.

import BifrostTool
import Foundation
import Primitives
import Testing

private func decode(_ format: RecordFormat, _ line: [UInt8]) throws(MalformedLine) -> (key: Bytes, value: Bytes) {
    try line.withUnsafeBufferPointer { (bytes) throws(MalformedLine) in try format.decode(UnsafeRawBufferPointer(bytes))
    }
}

private func decode(_ format: RecordFormat, _ line: String) throws(MalformedLine) -> (key: Bytes, value: Bytes) {
    try decode(format, Array(line.utf8))
}

private func encode(_ format: RecordFormat, _ key: Bytes, _ value: Bytes) throws(MalformedLine) -> [UInt8] {
    var line: [UInt8] = []
    try format.encode(key: key, value: value, into: &line)
    return line
}

@Suite struct RecordFormatTests {
    @Test func anyBytesSurviveTSV() throws {
        let all = Bytes((0...255).map { UInt8($0) })
        let line = try encode(.tsv, all, all)
        #expect(!line.contains(UInt8(ascii: "\n")) && !line.contains(UInt8(ascii: "\r")) && !line.contains(0))
        #expect(line.count { $0 == UInt8(ascii: "\t") } == 1)
        let record = try decode(.tsv, line)
        #expect(record.key == all && record.value == all)
    }

    @Test func randomBytesSurviveTSV() throws {
        var random = SeededRandom(seed: 7)
        let letters: [UInt8] = [0, 9, 10, 13, 92, 110, 116, 48, 65, 255]
        for _ in 0..<2_000 {
            let key = Bytes((0...random.below(8)).map { _ in letters[Int(random.below(10))] })
            let value = Bytes((0..<random.below(12)).map { _ in letters[Int(random.below(10))] })
            let record = try decode(.tsv, try encode(.tsv, key, value))
            #expect(record.key == key && record.value == value)
        }
    }

    @Test func anyBytesSurviveJSON() throws {
        let all = Bytes((0...255).map { UInt8($0) })
        let text = Bytes((0...127).map { UInt8($0) })
        for (key, value) in [(all, text), (text, all), (all, all), (text, text), ("é\u{1f600}\u{2028}", Bytes())] {
            let line = try encode(.jsonl, key, value)
            #expect(line.allSatisfy { $0 >= 0x20 })
            let record = try decode(.jsonl, line)
            #expect(record.key == key && record.value == value)
            // Others read the same.
            let object = try #require(try JSONSerialization.jsonObject(with: Data(line)) as? [String: String])
            #expect(object["key"].map { Bytes($0) } == (key == all ? nil : key))
            #expect(object["valueBase64"].flatMap { Data(base64Encoded: $0) } == (value == all ? Data(all.array) : nil))
        }
        var random = SeededRandom(seed: 7)
        let letters: [UInt8] = [0, 9, 10, 13, 92, 34, 117, 48, 0xc3, 0xa9, 0x7f, 255]
        for _ in 0..<2_000 {
            let key = Bytes((0...random.below(8)).map { _ in letters[Int(random.below(12))] })
            let value = Bytes((0..<random.below(12)).map { _ in letters[Int(random.below(12))] })
            let record = try decode(.jsonl, try encode(.jsonl, key, value))
            #expect(record.key == key && record.value == value)
        }
    }

    @Test func jsonIsReadAsOthersWriteIt() throws {
        #expect(try encode(.jsonl, "a\"b", "\n\u{1}é/") == Array(#"{"key":"a\"b","value":"\n\u0001é/"}"#.utf8))
        #expect(try encode(.jsonl, "k", Bytes([0x76, 0xfe])) == Array(#"{"key":"k","valueBase64":"dv4="}"#.utf8))
        for line in [
            #" { "value" : "\u0062\/\ud83d\ude00" , "key":"\u0061" } "# + "\r",
            #"{"key":"a","revision":7,"value":"b/😀"}"#,
            #"{"keyBase64":"YQ==","valueBase64":"Yi/wn5iA"}"#,
        ] {
            let record = try decode(.jsonl, line)
            #expect(record.key == "a" && record.value == "b/😀")
        }
    }

    @Test(arguments: [
        ("", "empty line"), ("[]", "expected an object"), ("{}", "\"key\" is missing"),
        (#"{"key":"a"}"#, #""value" is missing"#), (#"{"key":"a","vaule":"b"}"#, "found 'vaule'"),
        (#"{"key":"a","value":5}"#, "double quotes also if it is a number"),
        (#"{"key":"a","value":null}"#, "a string for \"value\""),
        (#"{"key":"a","key":"b","value":""}"#, "\"key\" stands twice"),
        (#"{"key":"a","k\u0065y":"b","value":""}"#, "\"key\" stands twice"),
        (#"{"key":"a","keyBase64":"YQ==","value":""}"#, "found both"),
        (#"{"key":"a","valueBase64":"?"}"#, "no base 64"), (#"{"key":"a","value":"b"} x"#, "more behind it"),
        (#"{"key":"a","value":"b""#, "the end of the object"), (#"{"key":"a","value":"b"#, "has no end"),
        (#"{"key":"a","value":"\ud800"}"#, "half of a pair"), (#"{"key":"a","value":"\udc00"}"#, "half of a pair"),
        (#"{"key":"a","value":"\ud800\u0041"}"#, "half of a pair"), (#"{"key":"a","value":"\u00g0"}"#, "hexadecimal"),
        (#"{"key":"a","value":"\x"}"#, "expected \\\""), ("{\"key\":\"a\",\"value\":\"\u{1}\"}", "\\u0001"),
        (#"{"key":"","value":"b"}"#, "key is empty"), (#"{"key":"a","revision":"x","value":""}"#, "whole number"),
    ])
    func linesThatAreNoRecordsInJSONAreExplained(_ line: String, _ words: String) {
        do throws(MalformedLine) {
            _ = try decode(.jsonl, line)
            Issue.record("\(line) was taken for a record")
        } catch {
            #expect(error.description.contains(words))
        }
    }

    @Test func bytesThatAreNoTextAreRefusedInAStringOfJSON() {
        #expect(throws: MalformedLine.self) {
            try decode(.jsonl, Array(#"{"key":"a","value":""#.utf8) + [0xff] + Array(#""}"#.utf8))
        }
    }

    @Test func escapesAreThoseOfTheHelp() throws {
        #expect(try encode(.tsv, "a\tb", "\n\r\0\\é") == Array("a\\tb\t\\n\\r\\0\\\\é".utf8))
    }

    @Test(arguments: [
        ("", "empty line"), ("key", "no tab"), ("a\tb\tc", "found more"), ("a\tb\r", "carriage return"),
        ("a\tb\\", "last backslash"), ("a\t\\x", "'x'"), ("\tvalue", "key is empty"),
    ])
    func malformedLinesAreExplained(_ line: String, _ words: String) {
        do throws(MalformedLine) {
            _ = try decode(.tsv, line)
            Issue.record("\(line) was taken for a record")
        } catch {
            #expect(error.description.contains(words))
        }
    }

    @Test func limitsHoldForTheBytesAndNotForTheirEscapes() throws {
        let key = Bytes([UInt8](repeating: 0, count: 4_096))
        #expect(try decode(.tsv, try encode(.tsv, key, "v")).key == key)
        #expect(throws: MalformedLine.self) { try decode(.tsv, [UInt8](repeating: 65, count: 4_097) + [9]) }
        #expect(throws: MalformedLine.self) { try decode(.tsv, [65, 9] + [UInt8](repeating: 65, count: 1_048_577)) }
    }

    @Test func unicodeDataIsTakenAsItIs() throws {
        let line = "0041;LATIN CAPITAL LETTER A;Lu;0;L;;;;;N;;;;0061;"
        let record = try decode(.ucd, line)
        #expect(record.key == "0041" && record.value == "LATIN CAPITAL LETTER A;Lu;0;L;;;;;N;;;;0061;")
        #expect(try encode(.ucd, record.key, record.value) == Array(line.utf8))
        #expect(throws: MalformedLine.self) { try encode(.ucd, "a;b", "c") }
        #expect(throws: MalformedLine.self) { try encode(.ucd, "a", "b\nc") }
        #expect(throws: MalformedLine.self) { try decode(.ucd, "0041") }
    }

    @Test func digestKnowsRecordsButNotTheirOrder() {
        var one = LinesDigest()
        one.add(key: "a", value: "1")
        one.add(key: "b", value: "2")
        var other = LinesDigest()
        other.add(key: "b", value: "2")
        other.add(key: "a", value: "1")
        #expect(one == other && one.description == other.description)
        var swapped = LinesDigest()
        swapped.add(key: "a", value: "2")
        swapped.add(key: "b", value: "1")
        #expect(one != swapped)
    }

    @Test(arguments: 1...9) func linesDoNotDependOnThePiecesTheyComeIn(_ size: Int) throws {
        let text = Array("one\n\ntwo two\nlast".utf8)
        var splitter = LineSplitter()
        var lines: [String] = []
        func take(_ line: UnsafeRawBufferPointer) -> String { String(decoding: line, as: UTF8.self) }
        for start in stride(from: 0, to: text.count, by: size) {
            splitter.append(Array(text[start..<min(start + size, text.count)]))
            while let line = try splitter.next(take) { lines.append(line) }
        }
        if let line = try splitter.last(take) { lines.append(line) }
        #expect(lines == ["one", "", "two two", "last"])
        #expect(splitter.lines == 4)
    }

    @Test func anEndlessLineIsRefusedBeforeItFillsTheMemory() {
        var splitter = LineSplitter(lineBytesMax: 100)
        splitter.append([UInt8](repeating: 65, count: 101))
        #expect(throws: MalformedLine.self) { try splitter.next { _ in } }
        #expect(splitter.isStuck && splitter.lines == 1)
    }

    @Test(arguments: 1...30) func whatFollowsAnEndlessLineIsRead(_ size: Int) {
        let text = Array("one\n\(String(repeating: "x", count: 25))\ntwo\n\(String(repeating: "y", count: 20))".utf8)
        var splitter = LineSplitter(lineBytesMax: 10)
        var found: [String] = []
        func take(_ line: UnsafeRawBufferPointer) -> String { String(decoding: line, as: UTF8.self) }
        for start in Array(stride(from: 0, to: text.count, by: size)) + [text.count] {
            splitter.append(Array(text[start..<min(start + size, text.count)]))
            var isOpen = true
            while isOpen {
                do throws(MalformedLine) {
                    let line = try start == text.count ? splitter.last(take) : splitter.next(take)
                    if let line { found.append(line) } else { isOpen = false }
                } catch {
                    found.append(splitter.wasLong ? "long" : "?")
                    splitter.passOver()
                }
            }
        }
        #expect(found == ["one", "long", "two", "long"] && splitter.lines == 4)
    }
}
