import BifrostTool
import Foundation
import Synchronization
import TestSupport
import Testing

@Suite(.ownExecutor) struct ChildProcessTests {
    /// As sockets of event loops are: not marked to be closed in children.
    @Test func aChildInheritsNothingButItsThreeEnds() async throws {
        let leaked = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        #expect(leaked > 2)
        defer { close(leaked) }
        let child = try ChildProcess(
            "/bin/bash",
            ["-c", "for ((n = 3; n < \(leaked) + 64; n++)); do [[ ! -S /proc/self/fd/$n ]] || echo $n; done"])
        let result = await child.end(killAfter: .seconds(180))
        #expect(result.ending == .exit(0))
        #expect(result.text.isEmpty, "\(result.text)")
    }

    private final class Said: Sendable { let bytes = Mutex<[UInt8]>([]) }

    /// One that does not heed SIGTERM, of a child that does: it holds the output open as long as it lives.
    @Test func whatAChildStartedIsEndedAfterIt() async throws {
        let said = Said()
        let child = try ChildProcess(
            "/bin/bash",
            ["-c", "(trap '' TERM; echo ready; for ((n = 0; n < 3000; n++)); do sleep 0.1; done) & wait"],
            output: .streamed { read in said.bytes.withLock { $0 += read } })
        let end = ContinuousClock.now + .seconds(180)
        while said.bytes.withLock({ $0.isEmpty }) {
            try #require(ContinuousClock.now < end)
            await OwnExecutor.pause(milliseconds: 20)
        }
        await child.endAll(grace: .milliseconds(500))
        let ended = ContinuousClock.now + .seconds(180)
        while !child.waitForEnd(secondsMax: 0) {
            try #require(ContinuousClock.now < ended, "something of it lives")
            await OwnExecutor.pause(milliseconds: 20)
        }
        #expect(child.ending == .signal(SIGTERM))
    }

    @Test(.timeLimit(.minutes(5)))
    func theGraceIsNotWaitedForInVain() async throws {
        let child = try ChildProcess("sleep", ["600"])
        await child.endAll(grace: .seconds(100_000))
        #expect(await child.end().ending == .signal(SIGTERM))
        await child.endAll(grace: .seconds(100_000))
    }
}
