// Writes to an embedded cluster until it is killed, and says on standard output what was acknowledged, a line for each
// put. `EmbeddedKillHelper DIRECTORY`.

import Bifrost
import BifrostEmbedded
import BifrostHost
import Glibc
import Primitives

guard CommandLine.arguments.count == 2 else { exit(64) }
do {
    let cluster = try await Cluster.open(directory: CommandLine.arguments[1]) {
        $0.journalPreallocateBytes = 0
        $0.reserveBytes = 0
    }
    // Some at a time, so that commits have several entries of several groups.
    try await withThrowingTaskGroup(of: Void.self) { group in
        for lane in 0..<8 {
            group.addTask {
                let key = Bytes("lane \(lane)")
                let found = try await cluster.kv.get(key)
                var number = found.flatMap { Int($0.value.string) } ?? 0
                while true {
                    number += 1
                    try await cluster.kv.put(key, Bytes("\(number)"))
                    var line = "\(lane) \(number)\n"
                    // In one write, so that a kill cuts between lines.
                    line.withUTF8 { bytes in _ = write(STDOUT_FILENO, bytes.baseAddress, bytes.count) }
                }
            }
        }
        try await group.waitForAll()
    }
} catch {
    var line = "\(error)\n"
    line.withUTF8 { bytes in _ = write(STDERR_FILENO, bytes.baseAddress, bytes.count) }
    exit(1)
}
