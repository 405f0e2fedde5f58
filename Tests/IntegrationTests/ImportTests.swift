// Imports that meet bad lines, and imports that end before their time and go on.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct ImportTests {
        private func write(_ text: String, to name: String, _ cluster: TestCluster) throws -> String {
            let file = cluster.directory + "/" + name
            try text.write(toFile: file, atomically: true, encoding: .utf8)
            return file
        }

        @Test func whatIsExportedAsJSONIsImportedAsItWas() async throws {
            try await withCluster(hosts: 1, groups: 2) { cluster in
                var input = Array("plain\tvalue\nquote\"\t\\\\ \\n\\t\nempty\t\n".utf8)
                input += [0x6b, 0xff, 0x09, 0x76, 0xfe, 0x0a]
                try await cluster.bifrost("import", "-", input: input).expect(0)
                let export = try await cluster.bifrost("export", "--format", "jsonl", "--sorted", "-")
                export.expect(0)
                #expect(export.text.contains(#"{"keyBase64":"a/8=","valueBase64":"dv4="}"# + "\n"), "\(export.text)")
                #expect(export.text.contains(#"{"key":"quote\"","value":"\\ \n\t"}"# + "\n"), "\(export.text)")
                try await withCluster(hosts: 1, groups: 1) { other in
                    try await other.bifrost("import", "--format", "jsonl", "-", input: export.output).expect(0)
                    let again = try await other.bifrost("export", "--sorted", "-")
                    #expect(again.output == (try await cluster.bifrost("export", "--sorted", "-")).output)
                    // What a scan prints can be imported too.
                    try await other.bifrost("put", "{l}/a", "1").expect(0)
                    let scan = try await other.bifrost("scan", "--json", "{l}/")
                    try await cluster.bifrost("import", "--format", "jsonl", "-", input: scan.output).expect(0)
                    #expect(try await cluster.bifrost("get", "{l}/a").text == "1")
                }
                try await cluster.bifrost("import", "-", input: export.output).expect(
                    65, saying: "line 1", "JSON lines need --format jsonl")
            }
        }

        @Test func badLinesAreSkippedCountedAndNamed() async throws {
            try await withCluster(hosts: 1, groups: 2) { cluster in
                let long = String(repeating: "v", count: 1 << 20)
                let file = try write(
                    "a\t1\nno tab\n\tempty key\nb\t\(long)v\nc\t\(String(repeating: long, count: 7))\nd\t4\n"
                        + "\(String(repeating: "k", count: 4_097))\t1\ne\t\\x\n", to: "bad.tsv", cluster)
                let result = try await cluster.bifrost("import", "--skip-bad", "--json", file)
                #expect(result.ending == .exit(0), "\(result.errorText)")
                let report = try result.json()
                #expect(report["records"] as? Int == 2 && report["skipped"] as? Int == 6, "\(result.text)")
                let first = try #require(report["firstSkipped"] as? [[String: Any]])
                #expect(first.compactMap { $0["line"] as? Int } == [2, 3, 4, 5, 7, 8])
                for (line, words) in [
                    (2, "found no tab"), (3, "the key is empty"), (4, "1048576"), (5, "a longer one"), (7, "4096"),
                    (8, "'x'"),
                ] {
                    let said = result.errorText.split(separator: "\n").first { $0.contains("line \(line), skipped: ") }
                    #expect(said?.contains(words) == true, "\(result.errorText)")
                }
                #expect(try await cluster.bifrost("get", "d").text == "4")
                try await cluster.bifrost("get", "c").expect(1)

                let many = try write(
                    (1...30).map { "bad \($0)\n" }.joined() + "f\t6\n", to: "many.tsv", cluster)
                let text = try await cluster.bifrost("import", "--skip-bad", many)
                #expect(text.ending == .exit(0) && text.text.contains("imported 1 record "), "\(text.errorText)")
                #expect(text.text.contains("30 lines skipped"))
                #expect(text.errorText.split(separator: "\n").count == 10)

                // A file of another format is no success.
                let none = try await cluster.bifrost("import", "--skip-bad", "--format", "jsonl", many)
                none.expectLast(65, saying: "none of 31 lines is a record", "--format jsonl")
                try await cluster.bifrost("import", "--skip-bad", "-").expect(0)
                try await cluster.bifrost("import", "--check", "--skip-bad", many).expect(64, saying: "--skip-bad")
                // Lines behind one that is too long are looked at as well.
                let check = try await cluster.bifrost("import", "--check", "--json", file)
                #expect(try check.json()["malformed"] as? Int == 6 && check.ending == .exit(65))
            }
        }

        /// Some seconds' worth, if few puts are under way at a time.
        private static let lines = 150_000
        /// For runs that are to be interrupted: each put waits for its own synced write, so that no machine is through
        /// with all lines before the first note is looked at.
        private static let slowly = ["--window", "1"]

        private func noted(_ note: String) throws -> Int {
            guard let data = FileManager.default.contents(atPath: note) else { return 0 }
            let object = try JSONSerialization.jsonObject(with: data) as? [String: Any]
            return object?["line"] as? Int ?? 0
        }

        @Test(arguments: [SIGKILL, SIGINT]) func anImportThatWasInterruptedGoesOn(signal: Int32) async throws {
            try await withCluster(hosts: 1, groups: 2) { cluster in
                let text = (1...Self.lines).map { $0 % 1_000 == 7 ? "bad\n" : "k\($0)\tv\($0)\n" }.joined()
                let records = Self.lines - Self.lines / 1_000
                let file = try write(text, to: "in.tsv", cluster)
                let note = cluster.directory + "/note"
                let words = ["import", "--connect", cluster.hosts[0].address, "--skip-bad", "--resume", note]
                let first = try ChildProcess(cluster.local.executable, words + Self.slowly + ["--json", file])
                let end = ContinuousClock.now + .seconds(180)
                while try noted(note) == 0, first.isRunning, ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                first.send(signal)
                let ended = await first.end(killAfter: .seconds(180))
                let line = try noted(note)
                #expect(line > 0 && line < Self.lines, "\(line) lines: this test shows nothing")
                if signal == SIGINT {
                    ended.expect(130, saying: "the same command goes on from line \(line + 1)", "that are no records")
                    let certain = try #require(try ended.json()["certainLine"] as? Int)
                    #expect(certain >= line && certain - line < 64)
                    #expect((try ended.json()["skipped"] as? Int ?? 0) >= line / 1_000)
                } else {
                    #expect(ended.ending == .signal(SIGKILL))
                }
                // What the note says is written is written.
                try await cluster.bifrost("get", "k\(line % 1_000 == 7 ? line - 1 : line)").expect(0)

                // Another input, and the same one changed where it was read, are refused. Nothing is written of them.
                let other = try write(text + "more\t1\n", to: "other.tsv", cluster)
                try await cluster.local.command(words + [other]).expect(64, saying: "bytes", "--resume")
                let changed = try write("K" + text.dropFirst(), to: "changed.tsv", cluster)
                try await cluster.local.command(words + [changed]).expect(64, saying: "are not those that", note)
                try await cluster.bifrost("get", "K1").expect(1)
                #expect(try noted(note) == line)

                let second = try await cluster.local.command(words + ["--json", "--progress", file])
                #expect(second.ending == .exit(0), "\(second.errorText)")
                let report = try second.json()
                let before = line - (line + 993) / 1_000
                #expect(report["recordsBefore"] as? Int == before && report["records"] as? Int == records)
                #expect(report["skipped"] as? Int == Self.lines / 1_000)
                let export = try await cluster.bifrost("export", "--json", cluster.directory + "/out.tsv").json()
                #expect(
                    export["records"] as? Int == records && export["digest"] as? String == report["digest"] as? String)

                // Again: all is there, also for who reads it from a pipe.
                let third = try await cluster.local.command(words + ["-"], input: Array(text.utf8))
                #expect(third.ending == .exit(0) && third.text.contains(" of them before "), "\(third.errorText)")
                #expect(third.text.contains(" 0/s"))
            }
        }

        @Test func anImportWhoseClusterGoesAwayGoesOnWhenItIsBack() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let text = (1...Self.lines).map { "k\($0)\tv\($0)\n" }.joined()
                let file = try write(text, to: "in.tsv", cluster)
                let note = cluster.directory + "/note"
                let words = [
                    "import", "--connect", cluster.hosts[0].address, "--timeout", "2s", "--resume", note, "--json",
                    file,
                ]
                let first = try ChildProcess(cluster.local.executable, words + Self.slowly)
                let end = ContinuousClock.now + .seconds(180)
                while try noted(note) == 0, first.isRunning, ContinuousClock.now < end {
                    await OwnExecutor.pause(milliseconds: 20)
                }
                cluster.local.kill(cluster.hosts[0])
                let ended = await first.end(killAfter: .seconds(180))
                let line = try noted(note)
                #expect(line > 0 && line < Self.lines, "\(line) lines: this test shows nothing")
                #expect([.exit(2), .exit(4)].contains(ended.ending), "\(ended.errorText)")
                #expect(
                    ended.errorText.contains("the same command goes on from line \(line + 1)"), "\(ended.errorText)")

                // A bad line does not lose what was noted.
                try cluster.start(cluster.hosts[0])
                _ = try await cluster.waitForStatus(0)
                let second = try await cluster.local.command(words)
                #expect(second.ending == .exit(0), "\(second.errorText)")
                #expect(try second.json()["recordsBefore"] as? Int == line)
                #expect(try second.json()["records"] as? Int == Self.lines)
                let export = try await cluster.bifrost("export", "--json", cluster.directory + "/out.tsv").json()
                #expect(try export["digest"] as? String == second.json()["digest"] as? String)
            }
        }

        @Test func aBadLineThatIsMendedIsGoneOnFrom() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let note = cluster.directory + "/note"
                let bad = try write("a\t1\nb\t2\nbad\nc\t3\n", to: "in.tsv", cluster)
                try await cluster.bifrost("import", "--resume", note, bad).expect(
                    65, saying: "line 3", "goes on from line 3")
                // As long as before: what it is about to read may be another.
                _ = try write("a\t1\nb\t2\nx\t9\nc\t3\n", to: "in.tsv", cluster)
                let again = try await cluster.bifrost("import", "--resume", note, bad)
                again.expect(0)
                #expect(again.text.contains("imported 4 records") && again.text.contains("2 of them before"))
                #expect(try await cluster.bifrost("get", "x").text == "9")
                try await cluster.bifrost("import", "--resume", bad, bad).expect(64, saying: "--resume")
                try await cluster.bifrost("import", "--resume", bad, note).expect(64, saying: "no note of an import")
                #expect(try noted(note) == 4)
            }
        }
    }
}
