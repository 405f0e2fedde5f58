// The command `simulate`: its summary, its transcript, and what it makes of a process that traps.

import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct SimulateTests {
        /// Not inlined: this toolchain's optimiser fails on the tests otherwise.
        @inline(never) private func simulate(_ arguments: String...) throws -> ChildProcess {
            try ChildProcess(Executable.path(), ["simulate"] + arguments)
        }

        @Test func theSummaryCountsWhatHappened() async throws {
            let command = try simulate("--seeds", "1..6", "--seconds", "10", "--jobs", "2", "--no-corpus", "--json")
            let result = await command.end(killAfter: .seconds(180))
            #expect(result.ending == .exit(0), "\(result.errorText)")
            let decoded = Summary.decoded(result.output)
            #expect(decoded != nil, "\(result.text)")
            guard let summary = decoded else { return }
            #expect(summary.seeds == 6 && summary.violations == 0)
            #expect(summary.operations > 0 && summary.faults > 0 && summary.elections > 0 && summary.crashes > 0)
            #expect(summary.simulatedSeconds > 0 && summary.simulatedSecondsPerSecond > 0)
        }

        /// A second is up before 100,000 seeds are; what began is ended and counted.
        @Test func noSeedsBeginBehindTheTimeGiven() async throws {
            let command = try simulate(
                "--seeds", "1..100000", "--seconds", "2", "--budget", "1s", "--jobs", "2", "--no-corpus", "--json")
            let result = await command.end(killAfter: .seconds(180))
            #expect(result.ending == .exit(0), "\(result.errorText)")
            let summary = Summary.decoded(result.output)
            #expect(summary.map { $0.seeds > 0 && $0.seeds < 100_000 && $0.seedsPlanned == 100_000 } == true)
            let refused = try simulate("--seed", "1", "--budget", "1s")
            let refusal = await refused.end(killAfter: .seconds(180))
            #expect(refusal.ending != .exit(0) && refusal.errorText.contains("--budget is for many seeds"))
        }

        private struct Summary: Decodable {
            var seeds: Int
            var seedsPlanned: Int
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

        @Test func aCellOfTheCrashMatrixIsRunAndToldAlone() async throws {
            let command = try simulate("--migration-matrix", "--cell", "7", "--json")
            let result = await command.end(killAfter: .seconds(180))
            #expect(result.ending == .exit(0), "\(result.errorText)")
            #expect(result.text.contains("\"cells\":1,") && result.text.contains("\"violations\":0"), "\(result.text)")
            let traced = try simulate("--migration-matrix", "--cell", "7", "--trace")
            let story = await traced.end(killAfter: .seconds(180))
            #expect(story.ending == .exit(0))
            #expect(story.text.contains("the migration is struck") && story.text.contains("no violation; trace hash "))
            let refused = try simulate("--cell", "7")
            let refusal = await refused.end(killAfter: .seconds(180))
            #expect(refusal.ending != .exit(0) && refusal.errorText.contains("--cell is one of --migration-matrix"))
        }

        @Test func oneSeedIsAlwaysTheSameStory() async throws {
            var stories: [String] = []
            for _ in 0..<2 {
                let command = try simulate("--seed", "7", "--seconds", "2", "--trace")
                let result = await command.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(0))
                stories.append(result.text)
            }
            #expect(stories[0] == stories[1])
            #expect(stories[0].contains(" leads group ") && stories[0].contains("no violation; trace hash "))
        }

        /// A process that this one has started, as soon as it has computed for half a second: it has seen many events
        /// then, and is far from its end.
        @inline(never) private func busyWorker(of command: ChildProcess) async -> Int32? {
            let end = ContinuousClock.now + .seconds(180)
            while command.isRunning, ContinuousClock.now < end {
                // Started by any of its threads.
                let place = "/proc/\(command.pid)/task"
                for task in (try? FileManager.default.contentsOfDirectory(atPath: place)) ?? [] {
                    let text = (try? String(contentsOfFile: "\(place)/\(task)/children", encoding: .utf8)) ?? ""
                    for worker in text.split(separator: " ").compactMap({ Int32($0) }) {
                        let line = (try? String(contentsOfFile: "/proc/\(worker)/stat", encoding: .utf8)) ?? ""
                        // Behind the name, which may have blanks in it; user time in ticks.
                        let fields = line[(line.lastIndex(of: ")") ?? line.startIndex)...].split(separator: " ")
                        let ticks = fields.count > 12 ? Int(fields[12]) ?? 0 : 0
                        if 2 * ticks > sysconf(Int32(_SC_CLK_TCK)) { return worker }
                    }
                }
                await OwnExecutor.pause(milliseconds: 20)
            }
            return nil
        }

        @Test func aTrapIsAViolationWithItsSeedAndItsLastEvents() async throws {
            let command = try simulate("--seeds", "5..5", "--seconds", "3600", "--no-corpus")
            let found = await busyWorker(of: command)
            let worker = try #require(found, "no process that simulates")
            kill(worker, SIGILL)
            let result = await command.end(killAfter: .seconds(180))
            #expect(result.ending == .exit(1))
            #expect(result.errorText.contains("seed 5: no trap: signal 4"))
            #expect(result.errorText.split(separator: "\n").count > 50)
            #expect(result.errorText.contains("reproduce: bifrost simulate --seed 5 --seconds 3600 --trace"))
        }
    }
}
