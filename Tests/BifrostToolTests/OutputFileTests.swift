import BifrostTool
import Foundation
import Testing

@Suite struct OutputFileTests {
    /// A trial of chaos writes a history and a picture for each kind of damage.
    @Test func oneFileAfterAnotherIsWritten() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "bifrost-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        for name in ["a", "b", "c"] {
            let file = try OutputFile(creating: directory.appending(path: name).path)
            try file.write(Array(name.utf8))
            if name == "b" { file.abandon() } else { try file.finish() }
        }
        #expect(throws: ToolError.self) { try OutputFile(creating: directory.appending(path: "none/d").path) }
        let last = try OutputFile(creating: directory.appending(path: "e").path)
        try last.finish()
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == ["a", "c", "e"])
    }
}
