// Random work on two replicas of a group, a sender and a receiver, and snapshots from one to the other, beside the list
// of changes that both apply.

import BifrostSimulator
import Primitives
import Storage
import Testing

@Suite struct SnapshotModelTests {
    @Test(arguments: 0..<60 as Range<UInt64>) func onTheSimulatedDisk(seed: UInt64) throws {
        let receiver = SimulatedFixture(seed: seed + 1_000)
        try SnapshotModel(seed: seed, SimulatedFixture(seed: seed), receiver) { random in
            switch random.below(5) {
            case 0: receiver.set(.everyWriteFails)
            case 1: receiver.disk.faults.nextWriteFailsButStays = true
            case 2: receiver.disk.faults.bytesMax = receiver.disk.bytes + Int(random.below(300_000))
            default:
                receiver.disk.faults.transactionsUntilEnd = Int(random.below(6))
                receiver.disk.faults.endsBehindTransaction = random.below(2) == 0
            }
        }.run(steps: 200)
    }

    @Test(arguments: 0..<10 as Range<UInt64>) func onLMDB(seed: UInt64) throws {
        let settings = LMDBDisk.Settings(mapBytes: 1 << 30)
        let receiver = try LMDBFixture(settings: settings, isInMemory: true)
        try SnapshotModel(seed: seed, LMDBFixture(settings: settings, isInMemory: true), receiver) { random in
            try receiver.set(random.below(2) == 0 ? .everyWriteFails : .noSpace)
        }.run(steps: 120)
    }
}

private final class SnapshotModel<Fixture: DiskFixture> {
    private typealias OneStore = Store<Fixture.Storage>
    private var random: SeededRandom
    private let senderFixture: Fixture
    private let receiverFixture: Fixture
    private let fault: (inout SeededRandom) throws -> Void
    private let settings = StoreSettings(
        cacheBytesMax: 100_000, runsMax: 4, transactionBytesMax: 150_000, deletionsMax: 5)
    private let sender: OneStore
    /// Nil only while its disk is reopened.
    private var openReceiver: OneStore?
    private var receiver: OneStore { openReceiver! }
    private let from = ReplicaID(7)
    private let to = ReplicaID(8)
    /// What entry 1, 2, … changed.
    private var history: [Record] = []
    private var installed = 0

    init(seed: UInt64, _ sender: Fixture, _ receiver: Fixture, fault: @escaping (inout SeededRandom) throws -> Void)
        throws
    {
        random = SeededRandom(seed: seed)
        senderFixture = sender
        receiverFixture = receiver
        self.fault = fault
        self.sender = try Store(disk: sender.disk, formatting: storeIdentity, settings: settings)
        openReceiver = try Store(disk: receiver.disk, formatting: storeIdentity, settings: settings)
    }

    func run(steps: Int) throws {
        try sender.start(header(0, from))
        try receiver.start(header(0, to))
        for _ in 0..<steps {
            switch random.below(10) {
            case 0..<3: for _ in 0...random.below(60) { change() }
            case 3..<5: try checkpoint(sender, from)
            case 5: try checkpoint(receiver, to)
            case 6: try merge(random.below(2) == 0 ? sender : receiver)
            case 7: if random.below(3) == 0 { try restart() }
            default: try snapshot()
            }
        }
        try restart()
        // In the end each kind succeeds, whatever went wrong before.
        try succeed { self.receiver.manifest(of: self.to)!.index }
        try succeed { .zero }
        #expect(installed > 2)
    }

    private func header(_ index: UInt64, _ replica: ReplicaID) -> ManifestHeader {
        storeHeader(index, replica: replica.rawValue, digest: mix(index))
    }

    private func change() {
        let index = UInt64(history.count + 1)
        let key = storeKey(UInt16(random.below(5)), "key \(random.below(150))")
        let size =
            switch random.below(300) {
            case 0: 66_000 + Int(random.below(140_000))
            case 1..<10: Int(random.below(20_000))
            default: Int(random.below(200))
            }
        history.append(
            Record(
                key: key, revision: Revision(index), changed: LogIndex(index), expiry: LogTime(random.below(3)),
                value: random.below(4) == 0 ? nil : storeValue(size, index)))
    }

    /// Applies what is not durable yet, as far as some entry, and checkpoints it.
    private func checkpoint(_ store: OneStore, _ replica: ReplicaID, leavesOut: Int? = nil) throws {
        let base = Int(store.manifest(of: replica)!.index.rawValue)
        let end = history.count - (leavesOut ?? Int(random.below(UInt64(history.count - base + 1))))
        guard end >= base else { return }
        try store.checkpoint(frozen(Array(history[base..<end])), header(UInt64(end), replica))
    }

    private func merge(_ store: OneStore) throws {
        let replica = store === sender ? from : to
        let manifest = store.manifest(of: replica)!
        guard manifest.runs.count >= 2 else { return }
        let first = random.below(2) == 0 ? 0 : Int(random.below(UInt64(manifest.runs.count - 1)))
        let range = first..<first + 2 + Int(random.below(UInt64(manifest.runs.count - first - 1)))
        let through = random.below(2) == 0 ? LogIndex(.max) : LogIndex(random.below(UInt64(history.count + 1)))
        try store.merge(replica, range: range, tombstonesThrough: through)
    }

    private func restart() throws {
        openReceiver = nil
        try receiverFixture.reopen()
        openReceiver = try Store(disk: receiverFixture.disk, settings: settings)
        #expect(receiver.damaged().isEmpty)
        try expectState()
        // Exactly what the manifest names is left.
        let named = receiver.manifest(of: to)!.runs.map { ($0.id.rawValue, $0.chunks) }
        #expect(try runsOnDisk(receiverFixture.disk) == Dictionary(uniqueKeysWithValues: named))
    }

    /// The receiver's state is that of its index: all that lives, and each tombstone that its horizon promises.
    private func expectState() throws {
        let manifest = receiver.manifest(of: to)!
        #expect(manifest.digest == mix(manifest.index.rawValue))
        var model: [RecordKey: Record] = [:]
        for record in history[0..<Int(manifest.index.rawValue)] { model[record.key] = record }
        let all = try allRecords(receiver, receiver.view(to)!, tombstones: true)
        // Compared outside of the expectations, which would print all values.
        let isWhole =
            all.filter { !$0.isTombstone } == model.values.filter { !$0.isTombstone }.sorted { $0.key < $1.key }
        let isRight = all.allSatisfy { model[$0.key] == $0 }
        #expect(isWhole && isRight, "the records are those of index \(manifest.index)")
        let kept = Set(all.map(\.key))
        for record in model.values where record.isTombstone && record.changed > manifest.horizon {
            #expect(kept.contains(record.key), "a deletion after the horizon is forgotten")
        }
    }

    private func snapshot() throws {
        let own = receiver.manifest(of: to)!.index
        switch random.below(4) {
        case 0: try transfer(base: .zero)
        // Any other base: the sender refuses it, or the receiver does.
        case 1: try transfer(base: LogIndex(random.below(own.rawValue + 3)))
        default: try transfer(base: own)
        }
    }

    private func succeed(base: () -> LogIndex) throws {
        let before = installed
        for _ in 0..<100 where installed == before {
            change()
            try checkpoint(sender, from, leavesOut: 0)
            try transfer(base: base())
            // An increment on a base below the horizon is not to be had.
            if receiver.manifest(of: to)!.index < sender.manifest(of: from)!.horizon { try transfer(base: .zero) }
        }
        #expect(installed > before)
    }

    private func transfer(base: LogIndex) throws {
        // A disk is reopened when nobody holds it any more.
        if try attempt(base: base) { try restart() } else { try expectState() }
    }

    /// Says whether the receiver's disk had a fault.
    private func attempt(base: LogIndex) throws -> Bool {
        let view = sender.view(from)!
        let reader: SnapshotReader<Fixture.Storage>
        do throws(SnapshotError) { reader = try SnapshotReader(sender, view, base: base) } catch {
            #expect(
                error.code == .nothingNewer && base >= view.manifest.index
                    || error.code == .baseBelowHorizon && base > .zero && base < view.manifest.horizon)
            return false
        }
        let description = try reader.describe()
        let before = receiver.manifest(of: to)!
        // A whole one may also take the place of the very same state.
        let isSame = base == .zero && description.index == before.index && description.digest == before.digest
        let fits = description.index > before.index && (base == .zero || base == before.index) || isSame
        let installer: SnapshotInstaller<Fixture.Storage>
        do { installer = try SnapshotInstaller(receiver, description, replica: to) } catch is ManifestConflict {
            #expect(!fits)
            return false
        }
        #expect(fits)
        let isFaulty = random.below(3) == 0
        if isFaulty { try fault(&random) }
        do {
            var seen: [Bytes] = []
            while !installer.progress.isComplete {
                if !isFaulty, random.below(40) == 0 { try work() }
                let piece = try reader.piece(
                    behind: installer.progress.position, bytesMax: [500, 9_000, 60_000][Int(random.below(3))])
                try disturb(installer, reader, piece, seen)
                try installer.accept(piece.bytes)
                seen.append(piece.bytes)
                if random.below(50) == 0 {
                    installer.abort()
                    break
                }
            }
            let manifest = try installer.finish(journal: 99, journalSequence: 1)
            #expect(manifest.index == description.index && manifest.digest == description.digest)
            #expect(manifest.horizon >= before.horizon && manifest.edits > before.edits)
            #expect(base > .zero || manifest.runs.count <= 1 && manifest.horizon == description.index)
            installed += 1
            let isEqual = try allRecords(receiver, receiver.view(to)!) == allRecords(sender, view)
            #expect(isEqual, "equal records at equal index")
        } catch let error as SnapshotError {
            #expect(error.code == .ended, "\(error)")
            #expect(receiver.manifest(of: to)!.index == before.index || !isFaulty)
        } catch is ManifestConflict {
            let now = receiver.manifest(of: to)!
            #expect(base > .zero ? now.index != base : now.index >= description.index)
        } catch let error as DiskError {
            #expect(isFaulty && (error.code == .failed || error.code == .full), "\(error)")
        } catch {
            #expect(error is SimulatedProcessEnd && isFaulty, "\(error)")
        }
        return isFaulty
    }

    /// What else goes on meanwhile on both sides.
    private func work() throws {
        for _ in 0..<10 { change() }
        switch random.below(6) {
        case 0: try checkpoint(receiver, to)
        case 1: try merge(receiver)
        case 2: try merge(sender)
        case 3: try checkpoint(sender, from)
        default:
            _ = try sender.reclaim()
            _ = try receiver.reclaim()
        }
    }

    /// Pieces that come twice, too early, or damaged change nothing.
    private func disturb(
        _ installer: SnapshotInstaller<Fixture.Storage>, _ reader: SnapshotReader<Fixture.Storage>,
        _ piece: SnapshotPiece,
        _ seen: [Bytes]
    ) throws {
        let before = installer.progress
        switch random.below(4) {
        case 0:
            if let old = seen.randomElement(using: &random) { #expect(try installer.accept(old) == before) }
        case 1:
            if let next = piece.next {
                let later = try reader.piece(behind: next, bytesMax: 9_000).bytes
                #expect(snapshotCode { try installer.accept(later) } == .gap)
            }
        case 2:
            var bytes = piece.bytes.array
            bytes[Int(random.below(UInt64(bytes.count)))] ^= 1 << UInt8(random.below(8))
            #expect(snapshotCode { try installer.accept(Bytes(bytes)) } == .badPiece)
        default: break
        }
        #expect(installer.progress == before)
    }
}
