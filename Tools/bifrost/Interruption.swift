// SIGINT and SIGTERM for a command that has something to say before it ends.

import Foundation

/// Until `end`, these signals do not end the process by themselves.
final class Interruption {
    private let queue = DispatchQueue(label: "bifrost.interruption")
    private var sources: [(number: Int32, source: any DispatchSourceSignal)] = []

    /// - Parameter interrupted: runs on a thread of its own, once, and ends the process.
    init(_ interrupted: @escaping @Sendable (_ signal: Int32) -> Never) {
        for number in [SIGINT, SIGTERM] {
            let before = signal(number, SIG_IGN)
            // One that this process was started to ignore (nohup) stays ignored. C compares handlers as the words that
            // function pointers are; Swift has no comparison for them. The bits are looked at and nothing is called:
            // SIG_IGN is no function's address.
            guard unsafeBitCast(before, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self) else { continue }
            let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
            source.setEventHandler { interrupted(number) }
            source.activate()
            sources.append((number, source))
        }
    }

    deinit { end() }

    /// From here on the signals end the process by themselves. Does not return if one came before: what it has to say
    /// is the last.
    func end() {
        for (number, source) in sources {
            source.cancel()
            signal(number, SIG_DFL)
        }
        sources = []
        queue.sync {}
    }
}
