import BifrostTool
import Foundation
import Testing

@Suite struct ChildProcessTests {
    /// As sockets of event loops are: not marked to be closed in children.
    @Test func aChildInheritsNothingButItsThreeEnds() async throws {
        let leaked = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        #expect(leaked > 2)
        defer { close(leaked) }
        let child = try ChildProcess(
            "/bin/bash",
            ["-c", "for ((n = 3; n < \(leaked) + 64; n++)); do [[ ! -S /proc/self/fd/$n ]] || echo $n; done"])
        let result = await child.end(killAfter: .seconds(20))
        #expect(result.ending == .exit(0))
        #expect(result.text.isEmpty, "\(result.text)")
    }
}
