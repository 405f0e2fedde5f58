// Writes to an embedded cluster until it is killed, and says on standard output what was acknowledged, a line for each
// put. `EmbeddedKillHelper DIRECTORY`. With `fail` behind it, the disk takes nothing for a while instead, and it says what
// comes of that.

import Bifrost
import BifrostEmbedded
import BifrostHost
import Glibc
import Primitives

func say(_ words: String) {
    var line = words + "\n"
    // In one write, so that a kill cuts between lines.
    line.withUTF8 { bytes in _ = write(STDOUT_FILENO, bytes.baseAddress, bytes.count) }
}

func outcome(_ body: () async throws(BifrostError) -> String) async -> String {
    do throws(BifrostError) { return try await body() } catch { return "\(error.code) \(error.mayHaveHappened)" }
}

/// No file may be written, until that is lifted again: what comes of it is that of a disk that fails.
func failDisk(_ directory: String) async throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    let before = limit
    signal(SIGXFSZ, SIG_IGN)
    func open() async throws(BifrostError) -> Cluster {
        try await Cluster.open(
            directory: directory,
            configure: {
                $0.journalPreallocateBytes = 0
                $0.reserveBytes = 0
            }, diskFailed: { _ in say("disk failed") })
    }
    let cluster = try await open()
    try await cluster.kv.put("a", "1")
    limit.rlim_cur = 0
    setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    let put = await outcome { () async throws(BifrostError) in
        "\(try await cluster.kv.put("a", "2", timeout: .seconds(5)))"
    }
    say("put \(put)")
    let get = await outcome { () async throws(BifrostError) in
        try await cluster.kv.get("a", timeout: .milliseconds(500))?.value.string ?? "nothing"
    }
    say("get \(get)")
    await cluster.close()
    limit = before
    setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    let again = try await open()
    say("again \(try await again.kv.get("a")?.value.string ?? "nothing")")
    await again.close()
}

guard (2...3).contains(CommandLine.arguments.count) else { exit(64) }
do {
    if CommandLine.arguments.last == "fail" {
        try await failDisk(CommandLine.arguments[1])
        exit(0)
    }
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
                    say("\(lane) \(number)")
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
