// The command `simulate`: its summary, its transcript, and what it makes of a process that traps.

import BifrostTool
import Foundation
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct SimulateTests {
        /// Not inlined: this toolchain's optimiser fails on the tests otherwise.
        @inline(never) private func simulate(_ arguments: String...) throws -> ChildProcess {
            try ChildProcess(Executable.path(), ["simulate"] + arguments)
        }

        @Test func theSummaryCountsWhatHappened() async throws {
            let command = try simulate("--seeds", "1..6", "--seconds", "10", "--jobs", "2", "--no-corpus", "--json")
            let result = await command.end(killAfter: .seconds(120))
            #expect(result.ending == .exit(0), "\(result.errorText)")
            let decoded = Summary.decoded(result.output)
            #expect(decoded != nil, "\(result.text)")
            guard let summary = decoded else { return }
            #expect(summary.seeds == 6 && summary.violations == 0)
            #expect(summary.operations > 0 && summary.faults > 0 && summary.elections > 0 && summary.crashes > 0)
            #expect(summary.simulatedSeconds > 0 && summary.simulatedSecondsPerSecond > 0)
        }

        private struct Summary: Decodable {
            var seeds: Int
            var violations: Int
            var operations: Int
            var faults: Int
            var elections: Int
            var crashes: Int
            var simulatedSeconds: Double
            var simulatedSecondsPerSecond: Double

            /// Apart, because this toolchain's optimiser fails on the test with a `try` behind its `await`.
            @inline(never) static func decoded(_ json: [UInt8]) -> Summary? {
                try? JSONDecoder().decode(Summary.self, from: Data(json))
            }
        }

        @Test func oneSeedIsAlwaysTheSameStory() async throws {
            var stories: [String] = []
            for _ in 0..<2 {
                let command = try simulate("--seed", "7", "--seconds", "2", "--trace")
                let result = await command.end(killAfter: .seconds(60))
                #expect(result.ending == .exit(0))
                stories.append(result.text)
            }
            #expect(stories[0] == stories[1])
            #expect(stories[0].contains(" leads group ") && stories[0].contains("no violation; trace hash "))
        }

        @Test func aTrapIsAViolationWithItsSeedAndItsLastEvents() async throws {
            let command = try simulate("--seeds", "5..5", "--seconds", "3600", "--no-corpus")
            try await Task.sleep(for: .seconds(2))
            // Started by any of its threads.
            var workers: [Int32] = []
            for task in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(command.pid)/task") {
                let text = try String(contentsOfFile: "/proc/\(command.pid)/task/\(task)/children", encoding: .utf8)
                workers += text.split(separator: " ").compactMap { Int32($0) }
            }
            let worker = try #require(workers.first, "no process that simulates")
            kill(worker, SIGILL)
            let result = await command.end(killAfter: .seconds(30))
            #expect(result.ending == .exit(1))
            #expect(result.errorText.contains("seed 5: no trap: signal 4"))
            #expect(result.errorText.split(separator: "\n").count > 50)
            #expect(result.errorText.contains("reproduce: bifrost simulate --seed 5 --seconds 3600 --trace"))
        }
    }
}
