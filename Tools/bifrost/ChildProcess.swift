// A process that this one starts: its input, its output, its end. Owns descriptors and the wait for the end; refuses to
// know what the program does.

import Foundation
import Synchronization

/// A child with nothing inherited but what is named here: no descriptors, no ignored or blocked signals, and a process
/// group of its own, so that Ctrl-C on a terminal reaches the parent alone, which decides what becomes of its children.
package final class ChildProcess: Sendable {
    package struct Failure: Error, CustomStringConvertible {
        package var description: String
    }

    package enum Input: Sendable {
        /// `/dev/null`.
        case nothing
        /// A pipe that stays open without a byte in it until `closeInput`, or until this process ends, however it ends.
        case lifeline
        /// This process's own.
        case inherited
        case bytes([UInt8])
    }

    package enum Output: Sendable {
        /// `/dev/null`.
        case nothing
        /// Kept in memory, given by `end`. At most `collectedBytesMax`; a child that writes more finds its pipe closed.
        case collected
        /// Given away as it comes, on a thread of its own.
        case streamed(@Sendable ([UInt8]) -> Void)
        /// Appended to this file.
        case file(String)
        /// This process's own.
        case inherited
    }

    package enum Ending: Equatable, Sendable, CustomStringConvertible {
        case exit(Int32)
        case signal(Int32)

        package var description: String {
            switch self {
            case .exit(let code): "exit code \(code)"
            case .signal(let number): "signal \(number)"
            }
        }
    }

    /// How it ended and what it wrote where that was collected.
    package struct Result: Sendable {
        package var ending: Ending
        package var output: [UInt8]
        package var errors: [UInt8]
        /// What it used of processors, with its own children that it waited for.
        package var processorSeconds: Double

        package var text: String { String(decoding: output, as: UTF8.self) }
        package var errorText: String { String(decoding: errors, as: UTF8.self) }
    }

    package static let collectedBytesMax = 1 << 30

    private struct State {
        var ending: Ending?
        var processorSeconds = 0.0
        var output: [UInt8] = []
        var errors: [UInt8] = []
        var input: Int32 = -1
    }

    package let pid: Int32
    /// Of a process group of its own.
    private let isLeader: Bool
    private let state = Mutex(State())
    /// Left when the child is reaped and what it wrote is read.
    private let open = DispatchGroup()

    /// - Parameters:
    ///   - executable: a path, or a name that is looked for in PATH.
    ///   - environment: in place of this process's own.
    ///   - inForeground: it stays in this process's group, and may read from its terminal.
    package init(
        _ executable: String, _ arguments: [String], environment: [String: String]? = nil, input: Input = .nothing,
        output: Output = .collected, errors: Output = .collected, inForeground: Bool = false
    ) throws(Failure) {
        let ours: [Int32]
        isLeader = !inForeground
        (pid, ours) = try Self.start(executable, arguments, environment, input, [output, errors], isLeader)
        switch input {
        case .nothing, .inherited: break
        case .lifeline: state.withLock { $0.input = ours[0] }
        case .bytes(let bytes): Self.write(bytes, to: ours[0])
        }
        for (output, descriptor) in [(output, ours[1]), (errors, ours[2])] {
            if case .streamed(let take) = output { stream(descriptor, take) }
        }
        if case .collected = output { collect(ours[1]) { $0.output = $1 } }
        if case .collected = errors { collect(ours[2]) { $0.errors = $1 } }
        awaitEnd()
    }

    deinit { closeInput() }

    // MARK: what is done with it

    package var isRunning: Bool { ending == nil }

    /// Nil while it runs.
    package var ending: Ending? { state.withLock { $0.ending } }

    /// Nothing happens if it has ended: its number may be another process's by then.
    package func send(_ signal: Int32) {
        state.withLock { state in
            if state.ending == nil { Foundation.kill(pid, signal) }
        }
    }

    /// To its whole process group, if it has one of its own: also to what it started.
    package func sendToAll(_ signal: Int32) {
        guard isLeader else { return send(signal) }
        state.withLock { state in
            if state.ending == nil { Foundation.kill(-pid, signal) }
        }
    }

    /// SIGTERM to it and its whole group, as `sendToAll`; and after `grace` SIGKILL, if any of them is left: also what a
    /// child has started that has ended itself. Returns when none is left, or that was sent. Does not care for the task's
    /// cancellation.
    package func endAll(grace: Duration) async {
        sendToAll(SIGTERM)
        let end = ContinuousClock.now + grace
        while sendToRest(0) {
            guard ContinuousClock.now < end else {
                _ = sendToRest(SIGKILL)
                return
            }
            await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(20)) { continuation.resume() }
            }
        }
    }

    /// False: nobody was left. A group's number is nobody else's while one of the group is left, whether that is its
    /// leader or not; so this may be asked for as long as it is asked again and again, and the answer is true.
    private func sendToRest(_ signal: Int32) -> Bool {
        state.withLock { state in
            guard isLeader || state.ending == nil else { return false }
            return Foundation.kill(isLeader ? -pid : pid, signal) == 0 || errno == EPERM
        }
    }

    package func closeInput() {
        state.withLock { state in
            if state.input >= 0 { close(state.input) }
            state.input = -1
        }
    }

    /// Waits until it has ended and all it wrote is read.
    package func end() async -> Result {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            open.notify(queue: .global()) { continuation.resume() }
        }
        return result
    }

    /// The same, and SIGKILL when the time is over, so that a test or a demo never hangs.
    package func end(killAfter limit: Duration) async -> Result {
        let killer = Task {
            try await Task.sleep(for: limit)
            send(SIGKILL)
        }
        defer { killer.cancel() }
        return await end()
    }

    /// Blocks the thread.
    package func waitForEnd(secondsMax: Double) -> Bool {
        open.wait(timeout: .now() + secondsMax) == .success
    }

    private var result: Result {
        state.withLock {
            Result(
                ending: $0.ending ?? .exit(0), output: $0.output, errors: $0.errors,
                processorSeconds: $0.processorSeconds)
        }
    }

    // MARK: beginning and end

    /// A pipe is for a moment open without its mark to be closed in children: no other child begins in that moment.
    private static let starting = Mutex(())

    /// The child's number, and this side's ends of input, output and errors; -1 where there is none.
    private static func start(
        _ executable: String, _ arguments: [String], _ environment: [String: String]?, _ input: Input,
        _ outputs: [Output], _ isLeader: Bool
    ) throws(Failure) -> (Int32, [Int32]) {
        try starting.withLock { (_) throws(Failure) in
            var ours: [Int32] = []
            var theirs: [Int32] = []
            defer { for descriptor in theirs { close(descriptor) } }
            do throws(Failure) {
                try openInput(input, &ours, &theirs)
                for output in outputs { try openOutput(output, &ours, &theirs) }
                return (try spawn(executable, arguments, environment, theirs, isLeader), ours)
            } catch {
                for descriptor in ours where descriptor >= 0 { close(descriptor) }
                throw error
            }
        }
    }

    /// `posix_spawn_file_actions_addclosefrom_np` (glibc 2.34), which the system's module for Swift leaves out.
    ///
    /// The cast is sound: on the systems that have `dlsym` a function's address is a pointer like any other (POSIX), a
    /// function of C is that pointer in Swift, and the type is the one that <spawn.h> declares under this name, which
    /// is versioned in glibc and cannot change.
    private static let closeFrom = dlsym(nil, "posix_spawn_file_actions_addclosefrom_np").map {
        unsafeBitCast(
            $0, to: (@convention(c) (UnsafeMutablePointer<posix_spawn_file_actions_t>, Int32) -> Int32).self)
    }

    private static func spawn(
        _ executable: String, _ arguments: [String], _ environment: [String: String]?, _ descriptors: [Int32],
        _ isLeader: Bool
    ) throws(Failure) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in descriptors.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(number))
        }
        // Sockets of event loops are not marked to be closed: a child would keep a port that its parent gives back.
        guard let closeFrom else {
            throw Failure(
                description: "can't start \(executable): expected a C library with "
                    + "posix_spawn_file_actions_addclosefrom_np, as glibc 2.34 and later; without it a child would keep "
                    + "this process's sockets")
        }
        let refusal = closeFrom(&actions, Int32(descriptors.count))
        guard refusal == 0 else {
            throw Failure(description: "can't start \(executable): \(String(cString: strerror(refusal)))")
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var all = sigset_t()
        var none = sigset_t()
        sigfillset(&all)
        sigemptyset(&none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setpgroup(&attributes, 0)
        let group = isLeader ? POSIX_SPAWN_SETPGROUP : 0
        posix_spawnattr_setflags(&attributes, Int16(group | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
        let words = ([executable] + arguments).map { strdup($0) } + [nil]
        let settings = (environment ?? ProcessInfo.processInfo.environment).map { strdup("\($0)=\($1)") } + [nil]
        defer { for text in words + settings { free(text) } }
        var pid: pid_t = 0
        let error = posix_spawnp(&pid, executable, &actions, &attributes, words, settings)
        guard error == 0 else {
            throw Failure(description: "can't start \(executable): \(String(cString: strerror(error)))")
        }
        return pid
    }

    /// A thread that waits for the end. Until the child is reaped under the lock its number is its own.
    private func awaitEnd() {
        open.enter()
        Thread.detachNewThread { [self] in
            var information = siginfo_t()
            while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) != 0, errno == EINTR {}
            state.withLock { state in
                var status: Int32 = 0
                var usage = rusage()
                while wait4(pid, &status, 0, &usage) < 0, errno == EINTR {}
                let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
                let microseconds = usage.ru_utime.tv_usec + usage.ru_stime.tv_usec
                state.processorSeconds = Double(seconds) + Double(microseconds) / 1e6
                let signal = status & 0x7f
                state.ending = signal == 0 ? .exit((status >> 8) & 0xff) : .signal(signal)
            }
            closeInput()
            open.leave()
        }
    }

    // MARK: pipes

    private static func pipe() throws(Failure) -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard Foundation.pipe(&ends) == 0 else {
            throw Failure(description: "no pipe: \(String(cString: strerror(errno)))")
        }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    private static func openFile(_ path: String, _ flags: Int32) throws(Failure) -> Int32 {
        let descriptor = Foundation.open(path, flags | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw Failure(description: "can't open \(path): \(String(cString: strerror(errno)))")
        }
        return descriptor
    }

    private static func copy(_ descriptor: Int32) throws(Failure) -> Int32 {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else {
            throw Failure(description: "can't hand on descriptor \(descriptor): \(String(cString: strerror(errno)))")
        }
        return copy
    }

    private static func openInput(_ input: Input, _ ours: inout [Int32], _ theirs: inout [Int32]) throws(Failure) {
        if case .inherited = input {
            theirs.append(try copy(STDIN_FILENO))
            ours.append(-1)
            return
        }
        guard case .nothing = input else {
            let ends = try pipe()
            ours.append(ends.write)
            theirs.append(ends.read)
            return
        }
        theirs.append(try openFile("/dev/null", O_RDONLY))
        ours.append(-1)
    }

    private static func openOutput(_ output: Output, _ ours: inout [Int32], _ theirs: inout [Int32]) throws(Failure) {
        switch output {
        case .inherited:
            theirs.append(try copy(theirs.count == 1 ? STDOUT_FILENO : STDERR_FILENO))
            ours.append(-1)
        case .nothing:
            theirs.append(try openFile("/dev/null", O_WRONLY))
            ours.append(-1)
        case .file(let path):
            theirs.append(try openFile(path, O_WRONLY | O_CREAT | O_APPEND))
            ours.append(-1)
        case .collected, .streamed:
            let ends = try pipe()
            ours.append(ends.read)
            theirs.append(ends.write)
        }
    }

    private func collect(_ descriptor: Int32, _ take: @escaping @Sendable (inout State, [UInt8]) -> Void) {
        open.enter()
        Thread.detachNewThread { [self] in
            var all: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 65_536)
            while all.count <= Self.collectedBytesMax {
                let count = read(descriptor, &buffer, buffer.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                all += buffer[..<count]
            }
            close(descriptor)
            state.withLock { take(&$0, all) }
            open.leave()
        }
    }

    private func stream(_ descriptor: Int32, _ take: @escaping @Sendable ([UInt8]) -> Void) {
        open.enter()
        Thread.detachNewThread { [self] in
            var buffer = [UInt8](repeating: 0, count: 65_536)
            while true {
                let count = read(descriptor, &buffer, buffer.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                take(Array(buffer[..<count]))
            }
            close(descriptor)
            open.leave()
        }
    }

    private static func write(_ bytes: [UInt8], to descriptor: Int32) {
        Thread.detachNewThread {
            // A child that does not read: EPIPE for this thread, and no signal for the process.
            var pipeSignal = sigset_t()
            sigemptyset(&pipeSignal)
            sigaddset(&pipeSignal, SIGPIPE)
            pthread_sigmask(SIG_BLOCK, &pipeSignal, nil)
            var offset = 0
            while offset < bytes.count {
                let count = bytes.withUnsafeBytes {
                    Foundation.write(descriptor, $0.baseAddress! + offset, $0.count - offset)
                }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                offset += count
            }
            close(descriptor)
        }
    }
}
