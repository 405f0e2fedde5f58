// What a save decides about itself, and its directory.

import BifrostTool
import Foundation
import Primitives
import Ring
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

@Suite struct MigrationEndingTests {
    private final class Looks {
        private var ending: MigrationEnding

        init(of group: GroupID? = nil) { ending = MigrationEnding(of: group) }

        /// What is to be done, and a + if something came further.
        func look(_ migrations: [MigrationRecord]) -> String {
            let map = ClusterMap(
                cluster: ClusterID(high: 1, low: 2), version: 90, hosts: [], groups: [], ring: SlotTable(),
                migrations: migrations, nextHost: HostID(1), nextGroup: GroupID(9), nextReplica: ReplicaID(1))
            let (step, isProgress) = ending.next(map)
            let words =
                switch step {
                case .over: "over"
                case .abort(let migration): "abort \(migration.id)"
                case .wait(let words): words
                case .endless: "endless"
                }
            return words + (isProgress ? " +" : "")
        }
    }

    private func migration(
        _ id: UInt64, _ state: MigrationRecord.State = .copying, from source: UInt32 = 1, to target: UInt32 = 2
    ) -> MigrationRecord {
        MigrationRecord(
            id: MigrationID(id), slots: [Slot(UInt16(id))], source: GroupID(source), target: GroupID(target),
            state: state)
    }

    @Test func whatIsUndecidedIsAbortedAndTheRestWaitedFor() {
        let looks = Looks()
        #expect(looks.look([migration(3, .committed), migration(4), migration(5)]) == "abort 4 +")
        #expect(looks.look([migration(3, .committed), migration(4), migration(5)]) == "abort 4")
        #expect(looks.look([migration(3, .committed), migration(4, .aborting), migration(5)]) == "abort 5 +")
        #expect(
            looks.look([migration(3, .released), migration(5, .aborting)])
                == "migration 3 of 1 slot waits for group 2 to serve them, 1 more are under way +")
        #expect(!looks.look([migration(3, .released), migration(5, .aborting)]).hasSuffix("+"))
        #expect(looks.look([]) == "over +")
    }

    @Test func migrationsOfOtherGroupsDoNotMatterToOne() {
        let looks = Looks(of: GroupID(3))
        #expect(looks.look([migration(4)]) == "over +")
        #expect(looks.look([migration(4), migration(6, from: 3)]) == "abort 6 +")
        #expect(looks.look([migration(4), migration(7, from: 1, to: 3)]) == "abort 7 +")
    }

    @Test func migrationsThatComeAgainAndAgainAreNotWaitedForWithoutEnd() {
        let looks = Looks()
        var count = 0
        while count < 1_000, looks.look([migration(UInt64(10 + count))]) != "endless +" { count += 1 }
        #expect(count == MigrationEnding.begunMax + 1)
        // However many there are at first.
        let others = Looks()
        let many = (1...100).map { migration($0, .activated) }
        #expect(others.look(many).contains("99 more"))
        #expect(others.look(many).contains("99 more"))
        #expect(others.look([]) == "over +")
    }
}
