// What a benchmark run found: one object for programs, a table for people, and the machine it ran on.

import Foundation

struct BenchReport: Codable {
    struct Group: Codable {
        var group: UInt32
        /// At the end; 0 if no host that answered then says so.
        var leader: UInt64
        var operationsPerSecond: Double
    }

    var operationsPerSecond: Double
    var p50Micros: UInt64
    var p99Micros: UInt64
    var p999Micros: UInt64
    /// All host processes and the generator; less where `hostsWithGaps` names some.
    var cpuMicrosPerOperation: Double
    var errors: Int
    var firstError: String?
    /// Keys read back right, of `verifiedOf`.
    var verified: Int
    var verifiedOf: Int
    /// The least of all replicas on hosts that answered at the end, inside the measured interval.
    var checkpointsPerReplica: UInt64
    /// When the run ends although that is less than three.
    var secondsMax: Double
    var seconds: Double
    var operations: Int
    var hosts: Int
    /// Whose CPU and checkpoints are not known for all of the time.
    var hostsWithGaps: [BenchHosts.Gap]
    var type: String
    /// What is counted as one operation that writes.
    var operation: String
    var payload: Int
    var window: Int
    var keys: Int
    var reads: Int
    var groups: [Group]
    var machine: Machine

    /// Why the figures don't count; empty if they do.
    var problems: [String] {
        var problems: [String] = []
        if errors > 0 {
            problems.append(HumanText.count(errors, "error") + (firstError.map { ", first: \($0)" } ?? ""))
        }
        if verifiedOf == 0 || verified != verifiedOf {
            problems.append("\(verifiedOf - verified) of \(verifiedOf) keys were not read back right")
        }
        if checkpointsPerReplica < 3, reads < 100, errors == 0 {
            problems.append(
                "it was cut off after \(HumanText.fixed(seconds, 1)) s, when not every replica had checkpointed three "
                    + "times (one has \(checkpointsPerReplica)): give it more than --seconds-max "
                    + "\(HumanText.fixed(secondsMax, 1)), or fewer --groups")
        }
        return problems
    }
}

struct Machine: Codable {
    var kernel: String
    var cores: Int
    var filesystem: String
    /// Of 4 KiB written over zeros, in the benchmark's directory, before the load began. Nil where it can't be
    /// measured: the disks are those of other machines.
    var fdatasyncP50Micros: UInt64?
    var commit: String

    init(directory: String?) {
        var name = utsname()
        uname(&name)
        kernel = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        cores = ProcessInfo.processInfo.activeProcessorCount
        filesystem = directory.map(LocalCluster.fileSystem) ?? "of the hosts"
        fdatasyncP50Micros = directory.flatMap(Self.syncTime)
        commit = Self.currentCommit
    }

    private static func syncTime(in directory: String) -> UInt64? {
        let path = directory + "/fdatasync-probe"
        let file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { return nil }
        defer {
            close(file)
            unlink(path)
        }
        let page = [UInt8](repeating: 7, count: 4_096)
        let zeros = [UInt8](repeating: 0, count: 1 << 20)
        guard write(file, zeros, zeros.count) == zeros.count, fsync(file) == 0 else { return nil }
        var times: [UInt64] = []
        for round in 0..<128 {
            let start = DispatchTime.now().uptimeNanoseconds
            guard pwrite(file, page, page.count, off_t(round * 4_096)) == page.count, fdatasync(file) == 0 else {
                return nil
            }
            times.append((DispatchTime.now().uptimeNanoseconds - start) / 1_000)
        }
        return times.sorted()[times.count / 2]
    }

    /// Of the checkout that the executable was built in; "unknown" elsewhere.
    private static var currentCommit: String {
        guard let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else {
            return "unknown"
        }
        let git = Process()
        git.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        git.arguments = [
            "git", "-C", (path as NSString).deletingLastPathComponent, "describe", "--always", "--dirty", "--abbrev=12",
        ]
        let output = Pipe()
        git.standardOutput = output
        git.standardError = FileHandle.nullDevice
        guard (try? git.run()) != nil else { return "unknown" }
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        git.waitUntilExit()
        let commit = text.trimmingCharacters(in: .whitespacesAndNewlines)
        return git.terminationStatus == 0 && !commit.isEmpty ? commit : "unknown"
    }
}

extension BenchReport {
    var table: String {
        var perGroup = Table([("group", .right), ("leader", .left), ("ops/s", .right)])
        for group in groups {
            perGroup.add([
                "\(group.group)", group.leader == 0 ? "unknown" : "host \(group.leader)",
                HumanText.grouped(UInt64(group.operationsPerSecond)),
            ])
        }
        perGroup.add(["all", "", HumanText.grouped(UInt64(operationsPerSecond))])
        let machineLine =
            "machine      \(machine.cores) cores, Linux \(machine.kernel), \(machine.filesystem)"
            + (machine.fdatasyncP50Micros.map { ", fdatasync p50 \(micros($0))" } ?? "")
            + ", commit \(machine.commit)"
        var lines = [
            perGroup.text,
            "",
            "operations   \(HumanText.grouped(UInt64(operations))) in \(HumanText.fixed(seconds, 1)) s, \(reads) % reads; each other is \(operation)",
            "latency      p50 \(micros(p50Micros))   p99 \(micros(p99Micros))   p99.9 \(micros(p999Micros))",
            "CPU          \(HumanText.fixed(cpuMicrosPerOperation, 2)) µs per operation: \(HumanText.count(hosts, "host")) and the generator",
        ]
        lines += hostsWithGaps.map { "host \($0.host)       \($0.problem)" }
        lines += [
            "checkpoints  at least \(checkpointsPerReplica) per replica",
            "read back    \(HumanText.grouped(UInt64(verified))) of \(HumanText.grouped(UInt64(verifiedOf))) right",
            "errors       \(errors)" + (firstError.map { ": \($0)" } ?? ""),
            machineLine,
        ]
        return lines.joined(separator: "\n")
    }

    private func micros(_ value: UInt64) -> String {
        value < 1_000 ? "\(value) µs" : "\(HumanText.fixed(Double(value) / 1_000, 2)) ms"
    }
}
