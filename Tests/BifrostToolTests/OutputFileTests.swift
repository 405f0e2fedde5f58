import BifrostTool
import Foundation
import Testing

// One file at a time in a process.
@Suite(.serialized) struct OutputFileTests {
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

    @Test func aLinkIsFollowedAndPermissionsStay() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "bifrost-\(UUID().uuidString)")
        let files = FileManager.default
        try files.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? files.removeItem(at: directory) }
        func path(_ name: String) -> String { directory.appending(path: name).path }
        try Data("old".utf8).write(to: directory.appending(path: "target"))
        try files.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path("target"))
        try files.createSymbolicLink(atPath: path("link"), withDestinationPath: "target")
        try files.createSymbolicLink(atPath: path("nowhere"), withDestinationPath: "missing")

        let file = try OutputFile(creating: path("link"))
        try file.write(Array("new".utf8))
        try file.finish()
        #expect(try files.destinationOfSymbolicLink(atPath: path("link")) == "target")
        #expect(try String(contentsOf: directory.appending(path: "target"), encoding: .utf8) == "new")
        #expect(try files.attributesOfItem(atPath: path("target"))[.posixPermissions] as? Int == 0o600)

        #expect(throws: ToolError.self) { try OutputFile(creating: path("nowhere")) }
        #expect(try files.destinationOfSymbolicLink(atPath: path("nowhere")) == "missing")
        #expect(try files.contentsOfDirectory(atPath: directory.path).sorted() == ["link", "nowhere", "target"])
    }
}
