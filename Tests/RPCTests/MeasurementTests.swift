import NIOCore
import NIOPosix
import Primitives
import RPC
import Synchronization
import Testing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Keeps `window` calls in flight on one connection until `total` were answered.
final class LoadDelegate: RPCConnectionDelegate, @unchecked Sendable {
    // @unchecked: belongs to the connection's event loop; `done` is called there once.
    let total: Int
    let window: Int
    let payload: Bytes
    let method: UInt16
    let deadline: UInt64
    var sent = 0
    var answered = 0
    var failed = 0
    let done: @Sendable (Int) -> Void

    init(
        total: Int, window: Int, bytes: Int, method: UInt16, deadlineMilliseconds: UInt64 = 0,
        done: @escaping @Sendable (Int) -> Void
    ) {
        self.total = total
        self.window = window
        self.payload = Bytes([UInt8](repeating: 7, count: bytes))
        self.method = method
        deadline = deadlineMilliseconds
        self.done = done
    }

    func connectionUp(_ connection: RPCConnection, welcome: Welcome) { fill(connection) }
    func connectionDown(_ connection: RPCConnection, reason: RPCError) {}

    func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>) {
        answered += 1
        if case .failure = result { failed += 1 }
        if answered == total { done(failed) }
    }

    func readComplete(_ connection: RPCConnection) { fill(connection) }

    func fill(_ connection: RPCConnection) {
        let at = deadline == 0 ? nil : RPCClock.now() + deadline * 1_000_000
        while sent < total, sent - answered < window {
            do {
                try connection.call(service: 2, method: method, deadline: at, tag: UInt64(sent)) { $0.write(payload) }
                sent += 1
            } catch {
                return
            }
        }
    }
}

func processorMicroseconds() -> Int {
    var usage = rusage()
    getrusage(numericCast(RUSAGE_SELF.rawValue), &usage)
    let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
    return seconds * 1_000_000 + Int(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec)
}

/// Not part of the tests: `BIFROST_MEASURE=1` switches it on.
@Suite(.serialized, .enabled(if: getenv("BIFROST_MEASURE") != nil))
struct MeasurementTests {
    @Test(arguments: [(64, 2, 0), (512, 2, 0), (512, 2, 5_000), (512, 5, 0)])
    func callsPerSecond(window: Int, method: Int, deadline: Int) async throws {
        try await Loopback.run { loopback async throws in
            let total = method == 5 ? 300_000 : 3_000_000
            let start = RPCClock.now()
            let before = processorMicroseconds()
            let failed = await withCheckedContinuation { continuation in
                let delegate = LoadDelegate(
                    total: total, window: window, bytes: 160, method: UInt16(method),
                    deadlineMilliseconds: UInt64(deadline)
                ) { continuation.resume(returning: $0) }
                _ = loopback.client(delegate: delegate)
            }
            let seconds = Double(RPCClock.now().since(start)) / 1e9
            let micros = Double(processorMicroseconds() - before)
            print(
                "window \(window) method \(method) deadline \(deadline): \(Int(Double(total) / seconds)) calls/s,",
                "\(micros / Double(total)) CPU µs per call, failed \(failed),",
                "batches \(loopback.echo.state.withLock { $0.batches })")
        }
    }
}
