// SIGINT and SIGTERM for a command that has something to say before it ends.

import Foundation

/// While it is kept, these signals do not end the process by themselves.
final class Interruption {
    private let sources: [(number: Int32, source: any DispatchSourceSignal)]

    /// - Parameter end: runs on a thread of its own, and ends the process.
    init(_ end: @escaping @Sendable (_ signal: Int32) -> Never) {
        let queue = DispatchQueue(label: "bifrost.interruption")
        sources = [SIGINT, SIGTERM].compactMap { number in
            let before = signal(number, SIG_IGN)
            // One that this process was started to ignore (nohup) stays ignored.
            guard unsafeBitCast(before, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self) else { return nil }
            let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
            source.setEventHandler { end(number) }
            source.activate()
            return (number, source)
        }
    }

    deinit {
        for (number, source) in sources {
            source.cancel()
            signal(number, SIG_DFL)
        }
    }
}
