// Bad input gets a clear error, the exit code that the help promises, and nothing is lost.

import Bifrost
import BifrostTool
import ClientCore
import Foundation
import Messages
import NIOCore
import Primitives
import Ring
import StateMachines
import Storage
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct BadInputTests {
        @Test func aWrongCommandLineEndsWith64AndSaysWhatIsWrong() async throws {
            try await withHosts(0) { place in
                func run(_ words: String...) async throws -> ChildProcess.Result {
                    try await place.local.command(words)
                }
                try await run("put", "--conect", "127.0.0.1:1", "k", "v").expect(
                    64, saying: "--conect", "bifrost put --help")
                try await run("frobnicate").expect(64, saying: "frobnicate")
                try await run("put", "k").expect(64, saying: "value")
                try await run("get", "--connect", "nowhere", "k").expect(64, saying: "'nowhere' is no address")
                try await run("get", "--connect", "127.0.0.1:0", "k").expect(64, saying: "has port 0")
                try await run("get", "--timeout", "soon", "k").expect(64, saying: "expected a time")
                try await run("get", "--consistency", "soon", "k").expect(64, saying: "linearizable", "lease")
                try await run("init", "--hosts", "127.0.0.1:1", "--groups", "0").expect(64, saying: "--groups")
                try await run("init", "--hosts", "127.0.0.1:1", "--replicas", "3").expect(64, saying: "--replicas 3")
                try await run("serve").expect(64, saying: "--directory")
                try await run("serve", "--directory", place.directory + "/x", "--listen", "0.0.0.0:0")
                    .expect(64, saying: "--insecure-listen")
                try await run("demo", "--groups", "0").expect(64, saying: "--groups")
                try await run("bench", "--reads", "101").expect(64, saying: "--reads")
                for flag in [["--groups", "3"], ["--keep"], ["--directory", "/tmp"], ["--loops", "1"]] {
                    try await place.local.command(["bench"] + flag).expect(
                        64, saying: "\(flag[0]) is for the hosts that --local starts")
                }
                try await run("bench", "--local", "1", "--connect", "127.0.0.1:1").expect(
                    64, saying: "leave one of them")
                // What stands outside of the command line may be meant for others.
                let elsewhere = try await ChildProcess(
                    place.local.executable, ["bench", "--timeout", "200ms"],
                    environment: ["BIFROST_CONNECT": "127.0.0.1:1", "BIFROST_GROUPS": "7", "BIFROST_KEEP": "1"]
                ).end(killAfter: .seconds(180))
                elsewhere.expect(4, saying: "finding the cluster: ", "127.0.0.1:1")
                try await run("import", place.directory + "/missing.tsv").expect(74, saying: "missing.tsv")
                try await run("demo", "--input", place.directory + "/missing.tsv").expect(74, saying: "missing.tsv")
                try await run("demo", "--directory", place.directory + "/missing").expect(74, saying: "is no directory")
                // Nobody can make a directory there.
                for command in [["bench", "--local", "1"], ["demo", "--input", "-"]] {
                    try await place.local.command(command + ["--directory", "/proc"], input: Array("a\t1\n".utf8))
                        .expectLast(74, saying: "can't make a directory below /proc")
                }
                if LocalCluster.isMemoryFileSystem("/dev/shm") {
                    try await run("demo", "--directory", "/dev/shm").expect(64, saying: "kept in memory")
                    try await run("bench", "--local", "1", "--directory", "/dev/shm").expect(
                        64, saying: "kept in memory")
                }
                let version = try await run("--version")
                version.expect(0)
                #expect(version.text == "0.1.0\n")
                for command in [
                    ["--help"], ["put", "--help"], ["serve", "--help"], ["demo", "--help"], ["help", "bench"],
                ] {
                    let help = try await place.local.command(command)
                    help.expect(0)
                    #expect(help.text.contains("USAGE") && help.errors.isEmpty)
                }
                #expect(try await run("get", "--help").text.contains("127.0.0.1:7001"))
            }
        }

        @Test func keysAndValuesOverTheirLimitsAreRefusedByClientAndHost() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let longKey = String(repeating: "k", count: 4_096)
                let longValue = [UInt8](repeating: 120, count: 1 << 20)
                try await cluster.bifrost("put", longKey, "-", input: longValue).expect(0)
                #expect(try await cluster.bifrost("get", longKey).output == longValue)
                try await cluster.bifrost("put", longKey + "k", "v").expect(65, saying: "4096", "4097")
                try await cluster.bifrost("get", longKey + "k").expect(65, saying: "4096")
                try await cluster.bifrost("delete", longKey + "k").expect(65, saying: "4096")
                try await cluster.bifrost("put", "", "v").expect(65, saying: "the key is empty")
                try await cluster.bifrost("put", "k", "-", input: longValue + [120]).expect(65, saying: "1048576")
                let help = try await cluster.bifrost("put", "--help").text
                #expect(help.contains("4096") && help.contains("1048576"))

                // Past the client's own check: the host refuses on its own account, and goes on.
                let client = try await Cluster.connect(to: [cluster.hosts[0].address])
                let loop = client.loop
                for (key, count) in [(longKey + "k", 1), ("k", (1 << 20) + 1)] {
                    let command = KeyValueCommand.put(
                        key: Bytes(key), value: Bytes([UInt8](repeating: 1, count: count)))
                    let payload = command.payload()
                    let failure: OperationFailureText = await withCheckedContinuation { continuation in
                        loop.eventLoop.execute {
                            loop.submit(
                                kind: .command, target: .slot(slot(of: Bytes(key))), payload: payload,
                                deadline: Instant(UInt64.max / 2), tag: 0
                            ) { _, result in
                                switch result {
                                case .success:
                                    continuation.resume(returning: OperationFailureText(text: "it was accepted"))
                                case .failure(let failure):
                                    continuation.resume(
                                        returning: OperationFailureText(
                                            text: "\(failure.code) \(failure.mayHaveHappened)"))
                                }
                            }
                        }
                    }
                    #expect(failure.text == "tooLarge false")
                }
                await client.close()
                try await cluster.bifrost("get", "k").expect(1)
            }
        }

        private struct OperationFailureText: Sendable {
            var text: String
        }

        @Test func aMalformedLineIsNamedByItsNumberAndTheLinesBeforeItAreWritten() async throws {
            try await withCluster(hosts: 1, groups: 2) { cluster in
                func load(_ lines: String, _ more: String...) async throws -> ChildProcess.Result {
                    let file = cluster.directory + "/input"
                    try lines.write(toFile: file, atomically: true, encoding: .utf8)
                    return try await cluster.local.command(
                        ["import", "--connect", cluster.hosts[0].address] + more + [file])
                }
                try await load("a\t1\nb\t2\nno tab here\nc\t3\n").expect(
                    65, saying: "input, line 3", "expected KEY, a tab, VALUE")
                #expect(try await cluster.bifrost("get", "a").text == "1")
                #expect(try await cluster.bifrost("get", "b").text == "2")
                try await cluster.bifrost("get", "c").expect(1)
                try await load("a\tx\\q\n").expect(65, saying: "line 1", "backslash")
                try await load("d\t1\n\ne\t2\n").expect(65, saying: "line 2", "empty line")
                try await load("\tvalue\n").expect(65, saying: "line 1", "the key is empty")
                try await load("a\t" + String(repeating: "v", count: (1 << 20) + 1) + "\n").expect(
                    65, saying: "line 1", "1048576")
                try await load("0041;LATIN\nno semicolon\n", "--format", "ucd").expect(
                    65, saying: "line 2", "semicolon")
                let check = try await load("a\t1\nbad\nb\t2\nworse\n", "--check")
                #expect(check.ending == .exit(65))
                #expect(check.errorText.contains("line 2") && check.errorText.contains("line 4"), "\(check.errorText)")
            }
        }

        @Test func anOccupiedPortIsSaidAndItsHolderGoesOn() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let address = cluster.hosts[0].address
                let second = try await cluster.local.command(
                    ["serve", "--directory", cluster.directory + "/second", "--listen", address], limit: .seconds(180))
                second.expect(69, saying: address, "--listen")
                try await cluster.bifrost("put", "k", "v").expect(0)
            }
        }

        @Test func aDirectoryThatCannotBeUsedIsSaidAndNotTouched() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let host = cluster.hosts[0]
                try await cluster.bifrost("put", "k", "v").expect(0)
                func serve(_ directory: String) async throws -> ChildProcess.Result {
                    try await cluster.local.command(
                        ["serve", "--directory", directory, "--listen", "127.0.0.1:0"], limit: .seconds(180))
                }
                // Held by another process.
                try await serve(host.directory).expect(73, saying: host.directory, "process \(host.pid)")
                try await cluster.bifrost("get", "k").expect(0)

                // Of a newer format: the same directory with the next version in its superblock, and a good checksum.
                cluster.local.stop(host)
                for environment in ["journal", "store"] {
                    let copy = cluster.directory + "/newer-\(environment)"
                    try FileManager.default.copyItem(atPath: host.directory, toPath: copy)
                    try raiseVersion(of: "\(copy)/\(environment)", isStore: environment == "store")
                    try await serve(copy).expect(73, saying: environment, "version", "newer")
                }
                // Another cluster's store beside this one's journal.
                try await withCluster(hosts: 1, groups: 1) { other in
                    other.local.stop(other.hosts[0])
                    let mixed = cluster.directory + "/mixed"
                    try FileManager.default.copyItem(atPath: host.directory, toPath: mixed)
                    try FileManager.default.removeItem(atPath: mixed + "/store")
                    try FileManager.default.copyItem(
                        atPath: other.hosts[0].directory + "/store", toPath: mixed + "/store")
                    try await serve(mixed).expect(73, saying: mixed)
                }
                // No directory at all.
                let file = cluster.directory + "/file"
                try Data("x".utf8).write(to: URL(fileURLWithPath: file))
                try await serve(file).expect(73, saying: file)
                try await serve(file + "/below").expect(73, saying: file)

                try cluster.start(host)
                _ = try await cluster.waitForStatus(0)
                #expect(try await cluster.bifrost("get", "k").text == "v")
            }
        }

        /// The superblock is `magic u32 | version u16 | … | CRC-32C u32` under the first table's only key; the store's
        /// checksum begins with its key.
        private func raiseVersion(of environment: String, isStore: Bool) throws {
            let disk = try LMDBDisk(directory: environment)
            let superblock = DiskKey(table: 1)
            var bytes = try disk.read { reader in
                try reader.withValue(for: superblock) { value in value.map { [UInt8]($0) } ?? [] }
            }
            try #require(bytes.count > 12)
            let end = bytes.count - 4
            func checksum() -> UInt32 {
                // The key as 13 bytes: high, table, low.
                let key: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
                let seed = isStore ? key.withUnsafeBytes { crc32c($0) } : 0
                return bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[..<end]), seed: seed) }
            }
            let current = bytes.withUnsafeBytes {
                UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: end, as: UInt32.self))
            }
            try #require(checksum() == current)
            bytes[4] += 1
            let new = checksum()
            bytes.withUnsafeMutableBytes { $0.storeBytes(of: new.littleEndian, toByteOffset: end, as: UInt32.self) }
            try disk.write { writer in
                try writer.put(superblock, count: bytes.count, append: false) { place in place.copyBytes(from: bytes) }
            }
        }

        @Test func aHostOfAnotherClusterIsLetIntoNeither() async throws {
            try await withCluster { cluster in
                try await withCluster(hosts: 1, groups: 2) { other in
                    try await cluster.bifrost("put", "k", "ours").expect(0)
                    try await other.bifrost("put", "k", "theirs").expect(0)
                    let both = cluster.hosts[0].address + "," + other.hosts[0].address
                    try await cluster.local.command(["init", "--hosts", both]).expect(64, saying: "belongs to cluster")

                    // The other cluster's host in the place of ours.
                    let place = cluster.hosts[2]
                    let stranger = try cluster.replace(place, byHostOf: other)
                    _ = try await cluster.waitForStatus(3)
                    try await cluster.bifrost("put", "k2", "ours", at: Array(cluster.hosts.prefix(2))).expect(0)
                    // It serves its own, and nobody takes it for ours.
                    #expect(try await cluster.bifrost("get", "k", at: Array(cluster.hosts.prefix(2))).text == "ours")
                    stranger.send(SIGTERM)
                    let ending = await stranger.end(killAfter: .seconds(180))
                    #expect(ending.ending == .exit(0), "\(ending.errorText)")

                    try cluster.start(place)
                    _ = try await cluster.waitForStatus(0)
                    #expect(try await cluster.bifrost("get", "k2", at: [place]).text == "ours")
                    try other.start(other.hosts[0])
                    _ = try await other.waitForStatus(0)
                    #expect(try await other.bifrost("get", "k").text == "theirs")
                }
            }
        }

        @Test func aHostWithoutDescriptorsWaitsForThemAndServesAgain() async throws {
            try await withHosts(1) { cluster in
                let host = cluster.hosts[0]
                // Hard and soft: it can't help itself.
                let limit = 80
                try cluster.local.start(host, through: ["/bin/bash", "-c", "ulimit -n \(limit); exec \"$@\"", "bash"])
                try await cluster.local.run(["init", "--hosts", host.address, "--groups", "1"])
                try await cluster.bifrost("put", "k", "v").expect(0)
                #expect(cluster.log(host).contains("this process may have \(limit) files and sockets open"))

                // Accepted as long as it goes, and then in the system's queue. Silent ones are closed after five
                // seconds: again where it took so long to look.
                var connections: [RawConnection] = []
                var (used, descriptors, attempts) = (0.0, 0, 0)
                while descriptors != limit, attempts < 10 {
                    attempts += 1
                    for connection in connections { connection.close() }
                    connections = try (0..<limit).map { _ in try RawConnection(host.address) }
                    await OwnExecutor.pause(milliseconds: 500)
                    let before = try processorSeconds(of: host.pid)
                    await OwnExecutor.pause(milliseconds: 2_000)
                    used = try processorSeconds(of: host.pid) - before
                    descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(host.pid)/fd").count
                }
                #expect(descriptors == limit, "it has descriptors left: this test shows nothing")
                #expect(used < 0.4, "\(used) s of processor time in 2 s")
                let words = "connections wait to be accepted"
                let said = cluster.log(host).components(separatedBy: words).count - 1
                #expect((1...attempts).contains(said), "\(cluster.log(host))")
                #expect(cluster.log(host).contains("raise its limit (ulimit -n"))

                for connection in connections { connection.close() }
                #expect(try await cluster.bifrost("get", "k").text == "v")
                #expect(host.isRunning)
            }
        }

        /// User and system time, in steps of 10 ms.
        private func processorSeconds(of process: Int32) throws -> Double {
            let line = try String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8)
            // The second field may have blanks in it, and ends with the last bracket.
            let fields = line[try #require(line.lastIndex(of: ")"))...].split(separator: " ")
            let ticks = try #require(Double(fields[12])) + #require(Double(fields[13]))
            return ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
        }

        @Test func garbageOnThePortClosesThatConnectionAndNothingElse() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                let host = cluster.hosts[0]
                var random = SeededRandom(seed: 7)
                let noise = (0..<4_096).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                let inputs = [
                    noise, Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8) + [UInt8](repeating: 32, count: 64),
                    [UInt8](repeating: 0, count: 100), [0xf1, 0xb5, 1, 1] + [UInt8](repeating: 0xff, count: 64),
                    [0x16, 0x03, 0x01, 0x02, 0x00] + noise,
                ]
                for input in inputs {
                    #expect(try RawConnection(host.address).isClosedAfter(input))
                    try await cluster.bifrost("put", "k", "v").expect(0)
                }
                // One that says nothing at all costs nothing; many that go away at once neither.
                let silent = try RawConnection(host.address)
                for _ in 0..<50 { _ = try RawConnection(host.address) }
                #expect(try await cluster.bifrost("get", "k").text == "v")
                silent.close()
                #expect(host.isRunning)
            }
        }
    }
}

/// A socket without a protocol.
final class RawConnection {
    private var descriptor: Int32

    init(_ address: String) throws {
        let port = try #require(address.split(separator: ":").last.flatMap { UInt16($0) })
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var target = sockaddr_in()
        target.sin_family = sa_family_t(AF_INET)
        target.sin_port = port.bigEndian
        target.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &target) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0, "can't connect to \(address)")
    }

    deinit { close() }

    func close() {
        if descriptor >= 0 { Foundation.close(descriptor) }
        descriptor = -1
    }

    /// Sends the bytes; true if the peer closes the connection within three minutes, whatever it said before.
    func isClosedAfter(_ bytes: [UInt8]) -> Bool {
        _ = bytes.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        var limit = timeval(tv_sec: 180, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var buffer = [UInt8](repeating: 0, count: 4_096)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count == 0 { return true }
            if count < 0 { return errno == ECONNRESET }
        }
    }
}
