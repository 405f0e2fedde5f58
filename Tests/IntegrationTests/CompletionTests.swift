// What shells offer behind `bifrost`, as the scripts that it prints for them have it.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct CompletionTests {
        private static let shells = ["bash", "zsh", "fish"]

        private func script(_ shell: String, _ place: TestCluster) async throws -> String {
            let result = try await place.local.command(["--generate-completion-script", shell])
            #expect(result.ending == .exit(0) && result.errorText.isEmpty, "\(result.errorText)")
            let file = "\(place.directory)/completion.\(shell)"
            try result.text.write(toFile: file, atomically: true, encoding: .utf8)
            return file
        }

        @Test func eachShellGetsAScriptThatItCanRead() async throws {
            try await withHosts(0) { place in
                // A bash is here, as Tools/test is a script of it; other shells read theirs where they are installed.
                let paths = (ProcessInfo.processInfo.environment["PATH"] ?? "/bin:/usr/bin").split(separator: ":")
                for shell in Self.shells {
                    let file = try await script(shell, place)
                    let text = try String(contentsOfFile: file, encoding: .utf8)
                    for word in ["serve", "import", "spread-leaders", "skip-bad", "log-format", "jsonl", "critical"] {
                        #expect(text.contains(word), "\(word) for \(shell)")
                    }
                    // What help does not show is not offered.
                    for word in ["chaos", "feature-level", "--worker"] {
                        #expect(!text.contains(word), "\(word) for \(shell)")
                    }
                    let path = paths.map { "\($0)/\(shell)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
                    #expect(path != nil || shell != "bash")
                    guard let path else { continue }
                    let check = try await ChildProcess(path, ["-n", file]).end(killAfter: .seconds(180))
                    #expect(check.ending == .exit(0) && check.errorText.isEmpty, "\(shell): \(check.errorText)")
                }
                try await place.local.command(["--generate-completion-script", "nosuch"]).expect(
                    64, saying: "'nosuch'", "zsh", "bash", "fish")
            }
        }

        @Test func bashOffersWhatFits() async throws {
            try await withHosts(0) { place in
                let file = try await script("bash", place)
                let work = place.directory + "/work"
                try FileManager.default.createDirectory(atPath: work + "/data", withIntermediateDirectories: true)
                try Data().write(to: URL(fileURLWithPath: work + "/data.tsv"))
                func offered(_ words: String...) async throws -> [String] {
                    // As bash calls it when somebody presses the tabulator behind these words.
                    let driver = """
                        cd '\(work)' && source '\(file)' && COMP_WORDS=(bifrost "$@") && COMP_LINE="bifrost $*"
                        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_POINT=${#COMP_LINE}; COMPREPLY=()
                        _bifrost bifrost "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
                        [[ ${#COMPREPLY[@]} = 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
                        """
                    let result = try await ChildProcess("/bin/bash", ["-c", driver, "bash"] + words).end(
                        killAfter: .seconds(180))
                    #expect(result.ending == .exit(0) && result.errorText.isEmpty, "\(words): \(result.errorText)")
                    return result.text.split(separator: "\n").map(String.init).sorted()
                }
                #expect(try await offered("im") == ["import"])
                #expect(try await offered("group", "spread") == ["spread-leaders"])
                #expect(try await offered("import", "--ski") == ["--skip-bad"])
                #expect(try await offered("import", "--format", "") == ["jsonl", "tsv", "ucd"])
                #expect(try await offered("serve", "--log-format", "") == ["json", "text"])
                #expect(
                    try await offered("serve", "--log-level", "")
                        == ["critical", "debug", "error", "info", "notice", "trace", "warning"])
                #expect(try await offered("simulate", "--profile", "l") == ["liveness"])
                #expect(try await offered("get", "--consistency", "l") == ["lease", "linearizable"])
                // Directories where one is wanted, files where those are, and nothing that is neither.
                for words in [["serve", "--directory"], ["dev", "--directory"], ["snapshot", "save"]] {
                    #expect(try await offered(words[0], words[1], "da") == ["data"], "\(words)")
                }
                for words in [
                    ["import", "--config"], ["import", "--resume"], ["ring", "show", "--svg"], ["demo", "--input"],
                ] {
                    let found =
                        words.count == 2
                        ? try await offered(words[0], words[1], "da")
                        : try await offered(words[0], words[1], words[2], "da")
                    #expect(found == ["data", "data.tsv"], "\(words)")
                }
                for command in ["import", "export", "txn"] {
                    #expect(try await offered(command, "da") == ["data", "data.tsv"], "\(command)")
                }
                #expect(try await offered("serve", "--name", "da") == [])
                #expect(try await offered("put", "da") == [])
            }
        }
    }
}
