// What a save decides about itself, and its directory.

import BifrostTool
import Foundation
import Testing

@Suite struct SaveEnduranceTests {
    @Test func whatComesFurtherThanEverIsProgressAndNothingElse() {
        var endurance = SaveEndurance()
        let counts = [5, 5, 4, 6].map { endurance.counted($0) }
        #expect(counts == [true, false, false, true])
        // A piece without records is one, too.
        let pieces = [(10, 1), (10, 2), (10, 2)].map { endurance.reached(records: $0, pieces: $1) }
        #expect(pieces == [true, true, false])
        let mayGoOn = endurance.beginsAnew()
        let again = [(5, 1), (10, 2), (11, 2)].map { endurance.reached(records: $0, pieces: $1) }
        #expect(mayGoOn && again == [false, false, true] && endurance.recordsMost == 11)
    }

    @Test func aStateThatBeginsAnewOverAndOverIsGivenUp() {
        var endurance = SaveEndurance()
        var restarts = 0
        repeat {
            restarts += 1
            _ = endurance.reached(records: 7, pieces: 1)
        } while restarts < 100 && endurance.beginsAnew()
        #expect(restarts == SaveEndurance.restartsMax)
        // One that comes a little further each time gets there in the end.
        endurance = SaveEndurance()
        for records in 1...100 as ClosedRange<UInt64> {
            let isNew = endurance.reached(records: records, pieces: 1)
            let mayGoOn = endurance.beginsAnew()
            #expect(isNew && mayGoOn)
        }
    }
}

@Suite(.serialized) struct SaveDirectoryTests {
    /// Whoever is refused closes what he opened once: a second time might close what others have opened meanwhile.
    @Test func aDirectoryThatIsHeldIsRefusedAndNothingElseIsClosed() throws {
        let path = "/var/tmp/bifrost-save-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let held = try SaveDirectory(writing: path)
        let stop = Flag()
        let lost = Flag()
        let other = Thread {
            // Takes the lowest descriptor that is free, as the one that was just closed.
            while !stop.isSet {
                let descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC)
                var status = stat()
                for _ in 0..<20 where fstat(descriptor, &status) != 0 { lost.set() }
                if close(descriptor) != 0 { lost.set() }
            }
            lost.end()
        }
        other.start()
        for _ in 0..<20_000 where !lost.isSet {
            #expect(throws: ToolError.self) { _ = try SaveDirectory(writing: path) }
        }
        stop.set()
        lost.wait()
        #expect(!lost.isSet, "a descriptor of another thread was closed")
        #expect(held.path == path)
    }

    private final class Flag: @unchecked Sendable {
        // @unchecked: guarded by the condition.
        private let condition = NSCondition()
        private var value = false
        private var hasEnded = false
        var isSet: Bool { condition.withLock { value } }
        func set() { condition.withLock { value = true } }
        func end() {
            condition.withLock {
                hasEnded = true; condition.broadcast()
            }
        }
        func wait() { condition.withLock { while !hasEnded { condition.wait() } } }
    }
}
