// What the kernel says of a process: processor time, memory, and what it holds of the system's tables. Reads /proc and
// asks the process nothing, so that looking costs it nothing.

import Foundation

package struct ProcessFigures: Sendable {
    /// All threads of its life, also of those that ended.
    package private(set) var cpuNanoseconds: UInt64 = 0
    package private(set) var residentBytes: UInt64 = 0
    package private(set) var descriptors = 0
    package private(set) var threads = 0
    package private(set) var mappings = 0

    /// Nil if there is no such process, or it ended meanwhile.
    package init?(of pid: Int32) {
        var clock = clockid_t()
        var time = timespec()
        guard pid > 0, clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0,
            let status = Self.text("/proc/\(pid)/status"), let maps = Self.text("/proc/\(pid)/maps"),
            let files = try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd")
        else { return nil }
        cpuNanoseconds = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        residentBytes = (Self.number("VmRSS:", in: status) ?? 0) << 10
        threads = Int(Self.number("Threads:", in: status) ?? 0)
        descriptors = files.count
        mappings = maps.utf8.count { $0 == UInt8(ascii: "\n") }
    }

    private static func text(_ path: String) -> String? { try? String(contentsOfFile: path, encoding: .utf8) }

    /// The first number behind a field's name.
    private static func number(_ name: String, in status: String) -> UInt64? {
        for line in status.split(separator: "\n") where line.hasPrefix(name) {
            return line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { UInt64($0) }
        }
        return nil
    }
}
