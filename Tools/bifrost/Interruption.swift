// SIGINT and SIGTERM for a command that has something to say before it ends.

import Foundation

/// Until `end`, these signals do not end the process by themselves.
final class Interruption {
    private let queue = DispatchQueue(label: "bifrost.interruption")
    private var signals: [TakenSignal] = []

    /// - Parameter interrupted: runs on a thread of its own, once, and ends the process.
    init(_ interrupted: @escaping @Sendable (_ signal: Int32) -> Never) {
        signals = [SIGINT, SIGTERM].compactMap { number in TakenSignal(number, on: queue) { interrupted(number) } }
    }

    deinit { end() }

    /// From here on the signals end the process by themselves. Does not return if one came before: what it has to say
    /// is the last.
    func end() {
        for signal in signals { signal.end() }
        signals = []
        queue.sync {}
    }
}

/// A signal that is handled, and does not end the process by itself until `end`.
final class TakenSignal: @unchecked Sendable {
    // @unchecked: libdispatch's objects may be used on any thread.
    private let number: Int32
    private let source: any DispatchSourceSignal

    /// Nil: this process was started to ignore it (nohup), and it stays ignored.
    init?(_ number: Int32, on queue: DispatchQueue, _ came: @escaping @Sendable () -> Void) {
        let before = signal(number, SIG_IGN)
        // C compares handlers as the words that function pointers are; Swift has no comparison for them. The bits are
        // looked at and nothing is called: SIG_IGN is no function's address.
        guard unsafeBitCast(before, to: Int.self) != unsafeBitCast(SIG_IGN, to: Int.self) else { return nil }
        self.number = number
        source = DispatchSource.makeSignalSource(signal: number, queue: queue)
        source.setEventHandler { came() }
        source.activate()
    }

    func end() {
        source.cancel()
        signal(number, SIG_DFL)
    }
}
