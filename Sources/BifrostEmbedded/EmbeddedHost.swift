// The host of an embedded cluster. Owns it from its start until its directory is free again.

import Bifrost
import BifrostHost
import Logging
import Synchronization

final class EmbeddedHost: Sendable {
    private struct State {
        var host: Host?
        var ending: Task<Void, Never>?
        var hasFailed = false
    }

    private let directory: String
    private let state = Mutex(State())

    init(directory: String) { self.directory = directory }

    func start(
        _ configuration: HostConfiguration, logger: Logger, diskFailed: @escaping @Sendable (HostError) -> Void
    ) async throws(BifrostError) -> Host {
        do {
            let host = try await Host.start(configuration, logger: logger) { [weak self] error in
                // No call is answered from what may not be believed.
                let (isFirst, running) =
                    self?.state.withLock { state in
                        defer { state.hasFailed = true }
                        return (!state.hasFailed, state.host)
                    } ?? (false, nil)
                if let running { Task { await running.refuse() } }
                // Journal and store may both find it out.
                if isFirst { diskFailed(error) }
            }
            let hasFailed = state.withLock { state in
                state.host = host
                return state.hasFailed
            }
            guard !hasFailed else {
                await stop()
                throw BifrostError(.unavailable, "the disk of \(configuration.directory) failed while it was opened")
            }
            return host
        } catch let error as BifrostError {
            throw error
        } catch let error as HostError {
            throw BifrostError(error)
        } catch {
            throw BifrostError(.unavailable, "can't open \(configuration.directory): \(error)", cause: error)
        }
    }

    /// Returns when the directory may be opened again, however often and from wherever it is called.
    func stop() async {
        let ending = state.withLock { state in
            if let ending = state.ending { return ending }
            let ending = Task { await self.end() }
            state.ending = ending
            return ending
        }
        await ending.value
    }

    private func end() async {
        await stopHost()
        // The environments close with their last owner, as a read that was under way on another thread.
        for _ in 0..<Self.releaseMilliseconds where Host.holds(directory) {
            try? await Task.sleep(for: .milliseconds(1))
        }
    }

    private static let releaseMilliseconds = 5_000

    /// In a function of its own: the host is let go at its end.
    private func stopHost() async {
        let host = state.withLock { state in
            defer { state.host = nil }
            return state.host
        }
        await host?.stop()
    }
}

extension BifrostError {
    fileprivate init(_ error: HostError) {
        let code: Code =
            switch error.code {
            case .directory: .directory
            case .invalid: .invalid
            case .address, .disk, .exhausted: .unavailable
            }
        self.init(code, error.message, cause: error)
    }
}
