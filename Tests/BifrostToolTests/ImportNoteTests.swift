// What an import notes of itself, and which notes the next one believes.

import BifrostTool
import Foundation
import Primitives
import Testing

private func mark(_ lines: [String]) -> ImportNote.Mark {
    var mark = ImportNote.Mark()
    for line in lines {
        Array(line.utf8).withUnsafeBytes { mark.take($0) }
        mark.line += 1
        mark.records += 1
        mark.bytes += UInt64(line.utf8.count)
        mark.digest.add(key: Bytes(line), value: Bytes())
    }
    return mark
}

@Suite struct ImportNoteTests {
    private func withPath(_ body: (String) throws -> Void) rethrows {
        let path = FileManager.default.temporaryDirectory.appending(path: "bifrost-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(path)
    }

    private func note(
        _ path: String, cluster: String = "c", format: RecordFormat = .tsv, bytes: UInt64? = 100
    ) throws(ToolError) -> ImportNote {
        try ImportNote(path, cluster: cluster, format: format, input: "in.tsv", inputBytes: bytes)
    }

    @Test func theLastLineOfWhichAllBeforeIsWrittenIsNoted() throws {
        try withPath { path in
            let first = try note(path)
            #expect(first.before == ImportNote.Mark())
            let lines = ["a", "b", "c", "d"]
            for count in 1...4 { first.add(mark(Array(lines.prefix(count)))) }
            #expect(first.save(certain: 2) == 3)
            #expect(try note(path).before == mark(["a", "b"]))
            // It never goes back, and knows no line that was not begun.
            #expect(first.save(certain: 1) == 3)
            #expect(first.save(certain: 9) == 5)
            #expect(try note(path).before == mark(lines))
        }
    }

    @Test func aNoteOfSomethingElseIsRefused() throws {
        try withPath { path in
            let first = try note(path)
            first.add(mark(["a", "b"]))
            first.save(certain: 2)
            func refusal(_ body: () throws -> Void) -> String {
                do {
                    try body()
                    return "it was taken"
                } catch let error as ToolError {
                    return error.status == .usage ? error.message : "\(error.status)"
                } catch {
                    return "\(error)"
                }
            }
            #expect(refusal { _ = try note(path, cluster: "d") }.contains("is about cluster c, not d"))
            #expect(refusal { _ = try note(path, format: .jsonl) }.contains("--format tsv, not jsonl"))
            #expect(refusal { _ = try note(path, bytes: 99) }.contains("100 bytes, not 99"))
            let next = try note(path, bytes: nil)
            #expect(refusal { try next.check(mark(["a"]), of: "in") }.contains("in has 1 line"))
            #expect(
                refusal { try next.check(mark(["a", "x"]), of: "in") }.contains("first 2 lines of in are not those"))
            #expect(refusal { try next.check(mark(["ab", ""]), of: "in") }.contains("are not those"))
            try next.check(mark(["a", "b"]), of: "in")

            let before = try String(contentsOfFile: path, encoding: .utf8)
            try (before.replacing("\"version\":1", with: "\"version\":2")).write(
                toFile: path, atomically: true, encoding: .utf8)
            #expect(refusal { _ = try note(path) }.contains("another version"))
            for text in ["", "{}", "a\tb\n", before.replacing("\"import\"", with: "\"export\"")] {
                try text.write(toFile: path, atomically: true, encoding: .utf8)
                #expect(refusal { _ = try note(path) }.contains("no note of an import"))
                #expect(try String(contentsOfFile: path, encoding: .utf8) == text)
            }
            #expect(refusal { _ = try note(NSTemporaryDirectory()) }.contains("is no file"))
        }
    }

    @Test func aPlaceWhereNoNoteCanBeWrittenShowsAtOnce() {
        do throws(ToolError) {
            _ = try note("/proc/nowhere/note")
            Issue.record("it was taken")
        } catch {
            #expect(error.status == .fileTrouble && error.message.contains("/proc/nowhere/note"))
        }
    }
}
