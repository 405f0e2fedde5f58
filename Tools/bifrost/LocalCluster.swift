// Hosts as processes of their own on this machine: what the demo, the benchmark and the integration tests run against.
// Owns the processes and their directory, down to removing them; refuses to know clusters and data.

import Foundation
import Synchronization

/// Some `bifrost serve` processes on loopback, in one new directory. They end when this process ends, however it ends:
/// their standard input closes then.
package final class LocalCluster: Sendable {
    package struct Failure: Error, CustomStringConvertible {
        package var description: String
        /// What a command ends with for whose sake this was done.
        package var status = ExitStatus.unavailable

        package init(description: String, status: ExitStatus = .unavailable) {
            self.description = description
            self.status = status
        }
    }

    package final class HostProcess: Sendable {
        /// From 1 on. `init` gives the same number, as it takes the hosts in this order.
        package let number: Int
        package let address: String
        package let directory: String
        fileprivate let child = Mutex<ChildProcess?>(nil)

        fileprivate init(number: Int, address: String, directory: String) {
            self.number = number
            self.address = address
            self.directory = directory
        }

        package var log: String { directory + ".log" }

        /// How many lines of its log tell what became of it.
        private static let lastLinesMax = 5

        /// What its last process said last on its outputs, and how it ended if it did. At most six lines.
        package var lastWords: [String] {
            let text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
            let lines = text.split(separator: "\n").suffix(Self.lastLinesMax).map { "host \(number): \($0)" }
            return lines + (process?.ending.map { ["host \(number) ended with \($0)"] } ?? [])
        }
        package var isRunning: Bool { child.withLock { $0?.isRunning ?? false } }
        /// Of its last process; 0 before the first.
        package var pid: Int32 { child.withLock { $0?.pid ?? 0 } }
        /// Its last process.
        package var process: ChildProcess? { child.withLock { $0 } }
    }

    private struct State {
        /// Commands and hosts, for the end.
        var children: [ChildProcess] = []
        var isDisposed = false
        /// A signal came that ends it.
        var isEnding = false
        var signals: [SignalSource] = []
    }

    private struct SignalSource: @unchecked Sendable {
        // @unchecked: libdispatch's objects may be used on any thread.
        let source: any DispatchSourceSignal
    }

    package let directory: String
    package let hosts: [HostProcess]
    package let executable: String
    private let state = Mutex(State())
    /// A signal has come that ends all of it.
    package var isEnding: Bool { state.withLock { $0.isEnding } }
    /// Held while processes are ended and the directory is removed.
    private let disposal = Mutex(())

    /// Makes a directory of its own below `parent`, and picks free ports. Nothing runs yet.
    /// - Parameter executable: nil: this program.
    package convenience init(
        below parent: String, name: String, count: Int, executable: String? = nil
    ) throws(Failure) {
        let addresses = try Self.freePorts(count).map { "127.0.0.1:\($0)" }
        try self.init(below: parent, name: name, addresses: addresses, executable: executable)
    }

    /// The same with hosts that listen on these addresses.
    package init(below parent: String, name: String, addresses: [String], executable: String? = nil) throws(Failure) {
        guard let executable = executable ?? Self.ownPath else {
            throw Failure(description: "this program's own path can't be found", status: .fault)
        }
        self.executable = executable
        var template = Array("\(parent)/\(name)-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw Failure(
                description: "can't make a directory below \(parent): \(String(cString: strerror(errno))); "
                    + "name another with --directory", status: .fileTrouble)
        }
        let directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.directory = directory
        hosts = addresses.enumerated().map { number, address in
            HostProcess(number: number + 1, address: address, directory: "\(directory)/host-\(number + 1)")
        }
    }

    /// In a directory that is there, or is made, and stays: hosts go on with what they have in it. Logs go on as well.
    package init(keptIn directory: String, addresses: [String]) throws(Failure) {
        guard let executable = Self.ownPath else {
            throw Failure(description: "this program's own path can't be found", status: .fault)
        }
        self.executable = executable
        do {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        } catch {
            throw Failure(
                description: "can't make the directory \(directory): \(error.localizedDescription)",
                status: .fileTrouble)
        }
        self.directory = directory
        hosts = addresses.enumerated().map { number, address in
            HostProcess(number: number + 1, address: address, directory: "\(directory)/host-\(number + 1)")
        }
    }

    private static var ownPath: String? {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? Bundle.main.executablePath
    }

    package var addresses: String { hosts.map(\.address).joined(separator: ",") }

    // MARK: Ports

    /// Free at the moment, and outside of the range that outgoing connections take theirs from: a host that is
    /// restarted
    /// finds its port free again.
    package static func freePorts(_ count: Int) throws(Failure) -> [Int] {
        let range = (try? String(contentsOfFile: "/proc/sys/net/ipv4/ip_local_port_range", encoding: .utf8)) ?? ""
        let low = range.split(whereSeparator: \.isWhitespace).first.flatMap { Int($0) } ?? 32_768
        let candidates = low > 12_000 ? 10_240..<low : 10_240..<65_536
        var ports: [Int] = []
        for _ in 0..<10_000 where ports.count < count {
            let port = Int.random(in: candidates)
            if !ports.contains(port), isFree(port) { ports.append(port) }
        }
        guard ports.count == count else { throw Failure(description: "found no \(count) free ports on loopback") }
        return ports
    }

    package static func isFree(_ port: Int) -> Bool {
        let socket = Foundation.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { return false }
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }

    // MARK: Hosts

    package func startAll(arguments: [String] = []) throws(Failure) {
        for host in hosts { try start(host, arguments: arguments) }
    }

    /// - Parameter wrapper: a command that runs its arguments in its own place, as `ip netns exec NAME` does: the
    ///   host's process is the one that it was started as.
    package func start(
        _ host: HostProcess, arguments: [String] = [], through wrapper: [String] = []
    ) throws(Failure) {
        let child = try spawn(
            [
                "serve", "--directory", host.directory, "--listen", host.address, "--name", "host-\(host.number)",
                "--end-with-input",
            ] + arguments, through: wrapper, input: .lifeline, output: .file(host.log), errors: .file(host.log))
        host.child.withLock { $0 = child }
    }

    /// No warning, no clean-up: as a power cord is pulled, but for the page cache.
    package func kill(_ host: HostProcess) {
        guard let child = host.process else { return }
        child.send(SIGKILL)
        _ = child.waitForEnd(secondsMax: 60)
    }

    /// SIGTERM, and SIGKILL after ten seconds.
    package func stop(_ host: HostProcess) { stop([host]) }

    /// All at the same time.
    package func stopAll() { stop(hosts) }

    package func stop(_ hosts: [HostProcess]) {
        let children = hosts.compactMap(\.process)
        for child in children { child.send(SIGTERM) }
        for child in children where !child.waitForEnd(secondsMax: 10) {
            child.send(SIGKILL)
            _ = child.waitForEnd(secondsMax: 10)
        }
    }

    // MARK: Commands

    /// A `bifrost` command in a process of its own, to its end.
    package func command(_ arguments: [String], input: [UInt8]? = nil, limit: Duration = .seconds(120))
        async throws(Failure)
        -> ChildProcess.Result
    {
        let child = try spawn(
            arguments, input: input.map { .bytes($0) } ?? .nothing, output: .collected, errors: .collected)
        let result = await child.end(killAfter: limit)
        state.withLock { $0.children.removeAll { $0 === child } }
        return result
    }

    /// The same; its standard output. Throws what it said on standard error if it did not end with 0.
    @discardableResult
    package func run(_ arguments: [String]) async throws(Failure) -> String {
        let result = try await command(arguments)
        guard result.ending == .exit(0) else {
            throw Failure(
                description: "bifrost \(arguments.first ?? "") ended with \(result.ending): "
                    + result.errorText.trimmingCharacters(in: .whitespacesAndNewlines),
                status: result.ending == .exit(ExitStatus.usage.rawValue) ? .usage : .unavailable)
        }
        return result.text
    }

    private func spawn(
        _ arguments: [String], through wrapper: [String] = [], input: ChildProcess.Input,
        output: ChildProcess.Output, errors: ChildProcess.Output
    ) throws(Failure) -> ChildProcess {
        let command = wrapper + [executable] + arguments
        // What is meant for this program's own command line must not reach the children.
        let environment = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("BIFROST_") }
        return try state.withLock { (state) throws(Failure) in
            guard !state.isDisposed else { throw Failure(description: "stopped") }
            state.children.removeAll { !$0.isRunning }
            do throws(ChildProcess.Failure) {
                let child = try ChildProcess(
                    command[0], Array(command.dropFirst()), environment: environment, input: input, output: output,
                    errors: errors)
                state.children.append(child)
                return child
            } catch {
                throw Failure(description: error.description)
            }
        }
    }

    // MARK: The end

    /// Kills whatever runs and removes the directory. Nothing can be started afterwards.
    package func dispose(keepDirectory: Bool) { dispose(keepDirectory: keepDirectory) {} }

    /// - Parameter then: runs before anybody else's call of this function returns.
    private func dispose(keepDirectory: Bool, then: () -> Void) {
        disposal.withLock { _ in
            let children = state.withLock { state in
                state.isDisposed = true
                return state.children
            }
            for child in children { child.send(SIGKILL) }
            for child in children { _ = child.waitForEnd(secondsMax: 10) }
            if !keepDirectory { try? FileManager.default.removeItem(atPath: directory) }
            then()
        }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP end this process with nothing left behind.
    ///
    /// - Parameter isExpected: that is how the command ends: all hosts end cleanly, and its exit code is 0.
    package func disposeOnSignals(keepDirectory: Bool, isExpected: Bool = false) {
        let queue = DispatchQueue(label: "bifrost.signals")
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
            source.setEventHandler { [weak self] in
                guard let self else { return }
                state.withLock { $0.isEnding = true }
                if isExpected { stopAll() }
                dispose(keepDirectory: keepDirectory) {
                    if isExpected { _exit(ExitStatus.done.rawValue) }
                    let data = keepDirectory ? "their data is in \(self.directory)" : "their data is removed"
                    // Off the line of a progress bar.
                    if Output.isErrorTerminal { Output.error("\n") }
                    Output.note("interrupted; all hosts are stopped, \(data)")
                    _exit(128 + number)
                }
            }
            source.activate()
            let kept = SignalSource(source: source)
            state.withLock { $0.signals.append(kept) }
        }
    }

    // MARK: File systems

    /// Where hosts' data may go: the directory that was asked for, or else $TMPDIR or /var/tmp. It has to be on a disk:
    /// on a file system that forgets with the power nothing measured or proved would be worth anything.
    static func parentDirectory(_ asked: String?) throws(ToolError) -> String {
        guard asked != "" else { throw ToolError(.usage, "--directory is empty: name a directory on a disk") }
        let standard = [ProcessInfo.processInfo.environment["TMPDIR"], "/var/tmp"].compactMap(\.self).filter {
            !$0.isEmpty
        }
        for parent in asked.map({ [$0] }) ?? standard where !isMemoryFileSystem(parent) {
            var isDirectory = false as ObjCBool
            guard FileManager.default.fileExists(atPath: parent, isDirectory: &isDirectory), isDirectory.boolValue
            else {
                if asked == nil { continue }
                throw ToolError(.fileTrouble, "--directory \(parent) is no directory: make it, or name another")
            }
            return parent
        }
        throw ToolError(
            .usage,
            "\(asked ?? standard.joined(separator: " and ")) is kept in memory, where a sync costs nothing and a power cut "
                + "takes all: name a directory on a disk with --directory")
    }

    package static func isMemoryFileSystem(_ directory: String) -> Bool {
        ["tmpfs", "ramfs"].contains(fileSystem(of: directory))
    }

    /// Its type as the kernel names it ("ext4"), from the mount that the path lies in; "unknown" for no such path.
    package static func fileSystem(of directory: String) -> String {
        guard let resolved = realpath(directory, nil) else { return "unknown" }
        defer { free(resolved) }
        let path = String(cString: resolved) + "/"
        let mounts = (try? String(contentsOfFile: "/proc/self/mounts", encoding: .utf8)) ?? ""
        var best = (length: 0, type: "unknown")
        for line in mounts.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count > 2 else { continue }
            let point = words[1].replacing("\\040", with: " ")
            // Of mounts at the same point the last one is seen.
            let prefix = point == "/" ? point : point + "/"
            if path.hasPrefix(prefix), prefix.utf8.count >= best.length { best = (prefix.utf8.count, String(words[2])) }
        }
        return best.type
    }
}
