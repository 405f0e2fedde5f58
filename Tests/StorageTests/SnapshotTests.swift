import BifrostSimulator
import Primitives
import Storage
import TestSupport
import Testing

/// Sends a whole snapshot, piece by piece.
@discardableResult
func install<A: Disk, B: Disk>(
    _ reader: SnapshotReader<A>, into store: Store<B>, replica: UInt64 = 8, bytesMax: Int = 10_000
) throws -> Manifest {
    let installer = try SnapshotInstaller(store, reader.describe(), replica: ReplicaID(replica))
    repeat {
        try installer.accept(reader.piece(behind: installer.progress.position, bytesMax: bytesMax).bytes)
    } while !installer.progress.isComplete
    return try installer.finish(journal: 99, journalSequence: 5)
}

/// Runs that have chunks on disk.
func runsOnDisk<D: Disk>(_ disk: D) throws -> [UInt64: Int] {
    var found: [UInt64: Int] = [:]
    try disk.read { reader in
        try reader.scan(from: DiskKey(table: 3), through: DiskKey(table: 3, high: .max, low: .max)) { key, _ in
            found[key.high, default: 0] += 1
            return true
        }
    }
    return found
}

func snapshotCode(_ body: () throws -> Void) -> SnapshotError.Code? {
    do {
        try body()
        return nil
    } catch let error as SnapshotError {
        return error.code
    } catch {
        Issue.record("expected a SnapshotError, found \(error)")
        return nil
    }
}

@Suite struct SnapshotTests {
    let senderDisk = SimulatedDisk(seed: 1)
    let receiverDisk = SimulatedDisk(seed: 2)

    static let first = (1...300 as ClosedRange<UInt64>).map { number in
        Record(
            key: storeKey(UInt16(number % 7), "key \(number)"), revision: Revision(number), changed: LogIndex(number),
            expiry: LogTime(number % 3), value: number % 9 == 0 ? nil : storeValue(number == 50 ? 200_000 : 30, number))
    }
    static let second = (301...350 as ClosedRange<UInt64>).map { number in
        Record(
            key: first[Int(number - 301) * 5].key, revision: Revision(number), changed: LogIndex(number),
            value: number % 4 == 0 ? nil : storeValue(number == 310 ? 150_000 : 20, number))
    }

    /// Replica 7 with two runs, (0, 300] and (300, 350].
    func makeSender() throws -> Store<SimulatedDisk> {
        let store = try Store(disk: senderDisk, formatting: storeIdentity)
        try store.start(storeHeader(0))
        try store.checkpoint(frozen(Self.first), storeHeader(300, digest: 0x300))
        try store.checkpoint(frozen(Self.second), storeHeader(350, digest: 0x350))
        return store
    }

    /// Replica 8, empty.
    func makeReceiver(settings: StoreSettings = StoreSettings()) throws -> Store<SimulatedDisk> {
        let store = try Store(disk: receiverDisk, formatting: storeIdentity, settings: settings)
        try store.start(storeHeader(0, replica: 8))
        return store
    }

    func reader(_ store: Store<SimulatedDisk>, base: UInt64 = 0) throws -> SnapshotReader<SimulatedDisk> {
        try SnapshotReader(store, #require(store.view(ReplicaID(7))), base: LogIndex(base))
    }

    @Test func aFullSnapshotBringsEverythingButTombstones() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        // What the receiver had goes, also what the sender has not.
        try receiver.checkpoint(frozen([record(storeKey(9, "stale"), 5, "stale")]), storeHeader(5, replica: 8))
        let description = try reader(sender).describe()
        let live = try allRecords(sender, sender.view(ReplicaID(7))!)
        #expect(description.records == UInt64(live.count) && description.tombstones == 0)
        #expect(description.horizon == LogIndex(350) && description.base == .zero)
        let manifest = try install(reader(sender), into: receiver)
        var header = storeHeader(350, replica: 8, digest: 0x350)
        header.configuration = storeHeader(350).configuration
        header.journalSequence = 5
        #expect(manifest.header == header)
        #expect(manifest.horizon == LogIndex(350) && manifest.runs.count == 1 && manifest.records == UInt64(live.count))
        #expect(try allRecords(receiver, receiver.view(ReplicaID(8))!, tombstones: true) == live)
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).keys.sorted() == manifest.runs.map(\.id.rawValue))
        receiverDisk.crash()
        let again = try Store(disk: receiverDisk)
        #expect(again.manifest(of: ReplicaID(8)) == manifest)
        #expect(try allRecords(again, again.view(ReplicaID(8))!, tombstones: true) == live)
    }

    @Test func anIncrementBringsWhatChangedWithItsTombstonesAndReadsNoOlderRun() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        try receiver.checkpoint(frozen(Self.first), storeHeader(300, replica: 8, digest: 0x300))
        let description = try reader(sender, base: 300).describe()
        #expect(description.records == 50 && description.tombstones == 12)
        #expect(description.horizon == .zero && description.base == LogIndex(300))
        // The older run is damaged from end to end, and nobody looks.
        let oldest = try #require(sender.manifest(of: ReplicaID(7))?.runs[0])
        for chunk in 0..<oldest.chunks {
            senderDisk.plant(DiskKey(table: 3, high: oldest.id.rawValue, low: UInt32(chunk)), storeValue(50, 1))
        }
        let manifest = try install(reader(sender, base: 300), into: receiver)
        #expect(manifest.runs.map(\.from.rawValue) == [0, 300] && manifest.runs.map(\.to.rawValue) == [300, 350])
        #expect(manifest.horizon == .zero)
        var model: [RecordKey: Record] = [:]
        for record in Self.first + Self.second { model[record.key] = record }
        let all = try allRecords(receiver, receiver.view(ReplicaID(8))!, tombstones: true)
        #expect(all == model.values.sorted { $0.key < $1.key })
    }

    /// A merged run has records from both sides of the base.
    @Test func ofARunThatReachesPastTheBaseWhatChangedAfterIt() throws {
        let sender = try makeSender()
        try sender.merge(ReplicaID(7), range: 0..<2, tombstonesThrough: LogIndex(100))
        #expect(sender.manifest(of: ReplicaID(7))?.horizon == LogIndex(99))
        let description = try reader(sender, base: 200).describe()
        var model: [RecordKey: Record] = [:]
        for record in Self.first + Self.second { model[record.key] = record }
        let expected = model.values.filter { $0.changed > LogIndex(200) }.sorted { $0.key < $1.key }
        #expect(description.records == UInt64(expected.count) && description.horizon == LogIndex(99))
        let receiver = try makeReceiver()
        try receiver.checkpoint(frozen(Array(Self.first[0..<200])), storeHeader(200, replica: 8))
        try install(reader(sender, base: 200), into: receiver)
        let all = try allRecords(receiver, receiver.view(ReplicaID(8))!, tombstones: true)
        #expect(all.filter { $0.changed > LogIndex(200) } == expected)
        #expect(receiver.manifest(of: ReplicaID(8))?.horizon == LogIndex(99))
    }

    @Test func whatTheSenderCanNotServeIsRefused() throws {
        let sender = try makeSender()
        try sender.merge(ReplicaID(7), range: 0..<1)
        #expect(sender.manifest(of: ReplicaID(7))?.horizon == LogIndex(297))
        #expect(snapshotCode { _ = try reader(sender, base: 296) } == .baseBelowHorizon)
        #expect(snapshotCode { _ = try reader(sender, base: 297) } == nil)
        #expect(snapshotCode { _ = try reader(sender, base: 350) } == .nothingNewer)
        #expect(snapshotCode { _ = try reader(sender, base: 400) } == .nothingNewer)
        let long = RecordKey(slot: Slot(1), machine: SubMachineNumber(1), key: storeValue(70_000, 1))
        #expect(code { _ = try reader(sender).piece(behind: long) } == .misuse)
    }

    @Test func whatDoesNotFitTheReceiversManifestIsRefusedBeforeAndAfter() throws {
        let sender = try makeSender()
        let full = try reader(sender).describe()
        let increment = try reader(sender, base: 300).describe()
        let receiver = try makeReceiver()
        #expect(code { _ = try SnapshotInstaller(receiver, full, replica: ReplicaID(9)) } == .misuse)
        // On another base.
        #expect(throws: ManifestConflict.self) { try SnapshotInstaller(receiver, increment, replica: ReplicaID(8)) }
        try receiver.checkpoint(frozen(Self.first), storeHeader(300, replica: 8))
        let installer = try SnapshotInstaller(receiver, increment, replica: ReplicaID(8))
        try installer.accept(reader(sender, base: 300).piece(behind: nil).bytes)
        // The manifest moves on meanwhile.
        let moved = try receiver.checkpoint(frozen([record(storeKey(1, "a"), 310, "a")]), storeHeader(310, replica: 8))
        #expect(throws: ManifestConflict.self) { try installer.finish(journal: 99, journalSequence: 5) }
        #expect(receiver.manifest(of: ReplicaID(8)) == moved)
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).count == 2, "nothing of it stays")
        #expect(snapshotCode { try installer.finish(journal: 99, journalSequence: 5) } == .ended)
        #expect(snapshotCode { try installer.accept(Bytes()) } == .ended)
        // At or below what is there.
        for index in [350, 351] as [UInt64] {
            try receiver.checkpoint(frozen([]), storeHeader(index, replica: 8))
            #expect(throws: ManifestConflict.self) { try SnapshotInstaller(receiver, full, replica: ReplicaID(8)) }
        }
        // Gone meanwhile: it does not come back.
        try receiver.start(storeHeader(0, replica: 10))
        let late = try SnapshotInstaller(receiver, full, replica: ReplicaID(10))
        try late.accept(reader(sender).piece(behind: nil, bytesMax: 1 << 20).bytes)
        try receiver.remove(ReplicaID(10))
        #expect(throws: ManifestConflict.self) { try late.finish(journal: 99, journalSequence: 5) }
        #expect(receiver.manifest(of: ReplicaID(10)) == nil)
    }

    /// Of another group, or with a term, revision or log time that falls: not of this replica's past.
    @Test func aSnapshotOfAnotherHistoryIsRefused() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        let good = try reader(sender).describe()
        var others = [good, good, good, good]
        others[0].group = GroupID(4)
        others[1].term = .zero
        others[2].revision = Revision(4)
        others[3].logTime = LogTime(49)
        try receiver.checkpoint(frozen([]), storeHeader(5, replica: 8))
        for other in others {
            #expect(throws: ManifestConflict.self) { try SnapshotInstaller(receiver, other, replica: ReplicaID(8)) }
        }
    }

    /// A merge changes what the state consists of, not what it is.
    @Test func aMergeWhileAnIncrementComesDoesNotHinderIt() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        try receiver.checkpoint(frozen(Array(Self.first[0..<150])), storeHeader(150, replica: 8))
        try receiver.checkpoint(frozen(Array(Self.first[150...])), storeHeader(300, replica: 8))
        let reader = try reader(sender, base: 300)
        let installer = try SnapshotInstaller(receiver, reader.describe(), replica: ReplicaID(8))
        try installer.accept(reader.piece(behind: nil).bytes)
        try receiver.merge(ReplicaID(8), range: 0..<2)
        let manifest = try installer.finish(journal: 99, journalSequence: 5)
        #expect(manifest.runs.count == 2 && manifest.horizon == LogIndex(297))
        #expect(
            try allRecords(receiver, receiver.view(ReplicaID(8))!) == allRecords(sender, sender.view(ReplicaID(7))!))
    }

    /// The other way round: what a merge was to replace is gone.
    @Test func aMergeThatAFullSnapshotOvertakesComesToNothing() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        try receiver.checkpoint(frozen(Array(Self.first[0..<150])), storeHeader(150, replica: 8))
        try receiver.checkpoint(frozen(Array(Self.first[150..<200])), storeHeader(200, replica: 8))
        var installed: Manifest?
        #expect(throws: ManifestConflict.self) {
            try receiver.merge(ReplicaID(8), range: 0..<2) {
                if installed == nil { installed = try install(reader(sender), into: receiver) }
            }
        }
        #expect(installed != nil && receiver.manifest(of: ReplicaID(8)) == installed)
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).count == 1)
    }

    @Test func piecesMayComeAgainButNotTooEarly() throws {
        let sender = try makeSender()
        let reader = try reader(sender)
        let receiver = try makeReceiver()
        var pieces: [SnapshotPiece] = []
        repeat {
            pieces.append(try reader.piece(behind: pieces.last?.next, bytesMax: 6_000))
        } while pieces.last?.next != nil
        #expect(pieces.count > 5)
        #expect(pieces.filter { $0.bytes.count > 6_000 }.count == 2, "those of the large values")
        let installer = try SnapshotInstaller(receiver, reader.describe(), replica: ReplicaID(8))
        #expect(installer.progress.position == nil && !installer.progress.isComplete)
        for (number, piece) in pieces.enumerated() {
            for later in pieces[(number + 1)...] { #expect(snapshotCode { try installer.accept(later.bytes) } == .gap) }
            #expect(snapshotCode { try installer.finish(journal: 99, journalSequence: 5) } == .incomplete)
            let progress = try installer.accept(piece.bytes)
            #expect(
                progress.position == (piece.next ?? pieces[number - 1].next)
                    && progress.isComplete == (piece.next == nil))
            for earlier in pieces[0...number] { #expect(try installer.accept(earlier.bytes) == progress) }
        }
        // One that is cut in another way begins before the position reached and goes beyond it.
        let other = try SnapshotInstaller(receiver, reader.describe(), replica: ReplicaID(8))
        try other.accept(pieces[0].bytes)
        try other.accept(pieces[1].bytes)
        try other.accept(reader.piece(behind: pieces[0].next, bytesMax: 9_000).bytes)
        while !other.progress.isComplete { try other.accept(reader.piece(behind: other.progress.position).bytes) }
        other.abort()
        try installer.finish(journal: 99, journalSequence: 5)
        #expect(
            try allRecords(receiver, receiver.view(ReplicaID(8))!) == allRecords(sender, sender.view(ReplicaID(7))!))
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).count == 1)
    }

    /// Much of a run did not change: pieces end all the same, and say how far they looked.
    @Test func aPiecePassesOverABoundedNumberOfBytes() throws {
        let sender = try makeSender()
        try sender.merge(ReplicaID(7), range: 0..<2, tombstonesThrough: .zero)
        let reader = try reader(sender, base: 349)
        var piece = try reader.piece(behind: nil, bytesMax: 300)
        var count = 1
        while let next = piece.next {
            piece = try reader.piece(behind: next, bytesMax: 300)
            count += 1
        }
        #expect(count > 5)
        #expect(try reader.describe().records == 1)
    }

    // MARK: - Damage

    @Test func eachFlippedBitOfAPieceShows() throws {
        let sender = try makeSender()
        let reader = try reader(sender, base: 347)
        let installer = try {
            let receiver = try makeReceiver()
            try receiver.checkpoint(frozen([]), storeHeader(347, replica: 8))
            return try SnapshotInstaller(receiver, reader.describe(), replica: ReplicaID(8))
        }()
        let piece = try reader.piece(behind: nil).bytes
        for bit in 0..<piece.count * 8 {
            var bytes = piece.array
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(snapshotCode { try installer.accept(Bytes(bytes)) } == .badPiece)
        }
        for count in 0..<piece.count { #expect(snapshotCode { try installer.accept(piece[0..<count]) } == .badPiece) }
        #expect(installer.progress.records == 0)
        #expect(try installer.accept(piece).isComplete)
    }

    /// A sender that makes mistakes: whatever a piece has behind a right checksum, it is refused or does no harm.
    @Test(arguments: 0..<8 as Range<UInt64>) func noPieceWhateverItHasTraps(seed: UInt64) throws {
        let sender = try makeSender()
        let reader = try reader(sender, base: 330)
        let receiver = try makeReceiver()
        try receiver.checkpoint(frozen([]), storeHeader(330, replica: 8))
        let before = receiver.manifest(of: ReplicaID(8))
        let piece = try reader.piece(behind: nil).bytes
        let description = try reader.describe()
        var refused = 0
        var taken = 0
        mutate(piece[0..<piece.count - 4], seed: seed, rounds: 1_000) { bytes in
            do {
                let installer = try SnapshotInstaller(receiver, description, replica: ReplicaID(8))
                var writer = ByteWriter()
                writer.write(bytes)
                writer.write(writer.checksum())
                if try installer.accept(writer.take()).isComplete { taken += 1 }
                installer.abort()
            } catch is SnapshotError {
                refused += 1
            } catch {
                Issue.record("expected a SnapshotError, found \(error)")
            }
        }
        #expect(refused > 100 && taken > 20, "\(refused) refused, \(taken) taken")
        #expect(receiver.manifest(of: ReplicaID(8)) == before)
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).isEmpty)
    }

    /// Checked record by record: order, the range of keys, the range of changes, no tombstones in a full snapshot.
    @Test func recordsThatAreNotOfTheSnapshotAreRefused() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        let description = try reader(sender).describe()
        let piece = try reader(sender).piece(behind: nil, bytesMax: 5_500).bytes
        let keyBytes = Int(piece[48 + 2]) | Int(piece[48 + 3]) << 8
        let second = 48 + 32 + keyBytes + Int(piece[48 + 4])
        func refused(_ what: String, _ change: (inout [UInt8]) -> Void) throws {
            var bytes = piece[0..<piece.count - 4].array
            change(&bytes)
            var writer = ByteWriter()
            writer.write(Bytes(bytes))
            writer.write(writer.checksum())
            let changed = writer.take()
            let installer = try SnapshotInstaller(receiver, description, replica: ReplicaID(8))
            let error = #expect(throws: SnapshotError.self) { try installer.accept(changed) }
            #expect(error?.code == .badPiece && error?.message.contains(what) == true, "\(what): \(error as Any)")
            #expect(installer.progress.records == 0)
        }
        try refused("other bytes") { $0[0] ^= 1 }
        try refused("version 2") { $0[4] = 2 }
        try refused("flags") { $0[6] = 2 }
        try refused("expected 18") { $0[12] -= 1 }
        try refused("changed at 0") { $0.replaceSubrange(48 + 16..<48 + 24, with: repeatElement(0, count: 8)) }
        try refused("changed at 351") {
            $0.replaceSubrange(48 + 16..<48 + 24, with: [95, 1, 0, 0, 0, 0, 0, 0])
        }
        try refused("not in order") { $0[48 + 33] = 0xff }
        try refused("no record") { $0[48] = 2 }
        try refused("no record") { $0[48] = 4 }
        try refused("a tombstone") { bytes in
            // The first record without its value.
            let value = Int(bytes[48 + 4])
            bytes[48] = 1
            bytes[48 + 4] = 0
            bytes.removeSubrange(second - value..<second)
            let recordBytes = (Int(bytes[40]) | Int(bytes[41]) << 8) - value
            bytes[40] = UInt8(recordBytes & 0xff)
            bytes[41] = UInt8(recordBytes >> 8)
        }
        try refused("behind its end") { bytes in
            for place in bytes.count - Int(bytes[46])..<bytes.count { bytes[place] = 0 }
        }
        var other = description
        other.term = Term(2)
        let installer = try SnapshotInstaller(receiver, other, replica: ReplicaID(8))
        #expect(snapshotCode { try installer.accept(piece) } == .otherSnapshot)
    }

    @Test func anotherNumberOfRecordsThanAnnouncedIsInstalledAtNoPrice() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver()
        let before = receiver.manifest(of: ReplicaID(8))
        for (records, tombstones) in [(-1, 0), (1, 0), (0, 1)] as [(Int, Int)] {
            var description = try reader(sender).describe()
            description.records = UInt64(Int(description.records) + records)
            description.tombstones = UInt64(tombstones)
            let installer = try SnapshotInstaller(receiver, description, replica: ReplicaID(8))
            #expect(
                snapshotCode {
                    try installer.accept(reader(sender).piece(behind: nil, bytesMax: 1 << 20).bytes)
                    try installer.finish(journal: 99, journalSequence: 5)
                } == .wrongCount)
            #expect(snapshotCode { try installer.accept(Bytes()) } == .ended)
        }
        #expect(receiver.manifest(of: ReplicaID(8)) == before)
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).isEmpty)
    }

    @Test func aDamagedRunIsNoSnapshot() throws {
        let sender = try makeSender()
        let reader = try reader(sender)
        let run = try #require(sender.manifest(of: ReplicaID(7))?.runs[0])
        senderDisk.flipBit(in: DiskKey(table: 3, high: run.id.rawValue, low: 0), bit: 8 * 3_000)
        #expect(code { _ = try reader.describe() } == .corrupt)
        #expect(code { _ = try reader.piece(behind: nil) } == .corrupt)
    }

    @Test func aDescriptionIsReadAsItWasWrittenAndNothingElse() throws {
        let sender = try makeSender()
        for base in [0, 300] as [UInt64] {
            let description = try reader(sender, base: base).describe()
            var writer = ByteWriter()
            description.encode(into: &writer)
            let bytes = writer.take()
            var whole = ByteReader(bytes)
            #expect(try SnapshotDescription(from: &whole) == description && whole.isAtEnd)
            mutate(bytes, seed: base) { bytes in
                var reader = ByteReader(bytes)
                guard let found = try? SnapshotDescription(from: &reader) else { return }
                #expect(found.base < found.index && found.index.rawValue < 1 << 62)
                #expect(found.records <= SnapshotDescription.recordsMax && found.tombstones <= found.records)
            }
            for change in [
                { $0.base = $0.index }, { $0.index = LogIndex(1 << 62) }, { $0.term = Term(1 << 62) },
                { $0.revision = Revision(1 << 62) }, { $0.logTime = LogTime(1 << 62) }, { $0.horizon = LogIndex(301) },
                { $0.records = 1 << 30 + 1 }, { $0.tombstones = $0.records + 1 },
            ] as [(inout SnapshotDescription) -> Void] {
                var changed = description
                change(&changed)
                var writer = ByteWriter()
                changed.encode(into: &writer)
                var reader = ByteReader(writer.take())
                #expect(throws: DecodingFailure.self) { try SnapshotDescription(from: &reader) }
            }
        }
    }

    // MARK: - Ends in the middle

    private static let small = StoreSettings(transactionBytesMax: 140_000, deletionsMax: 2)

    /// The process ends at, or behind, each write transaction of an installation. The store has the old state or the new
    /// one, and nothing else; a new installation succeeds.
    @Test(arguments: [0, 300] as [UInt64], [false, true])
    func theEndAtAnyTransactionLeavesTheOldStateOrTheNew(base: UInt64, endsBehind: Bool) throws {
        let sender = try makeSender()
        let after = try allRecords(sender, sender.view(ReplicaID(7))!)
        var sawOld = 0
        var sawNew = false
        for transaction in 0... {
            let disk = SimulatedDisk(seed: 3)
            var store = try Store(disk: disk, formatting: storeIdentity, settings: Self.small)
            try store.start(storeHeader(0, replica: 8))
            try store.checkpoint(
                frozen(base == 0 ? [record(storeKey(9, "stale"), 5, "stale")] : Self.first),
                storeHeader(base == 0 ? 5 : base, replica: 8))
            let before = try #require(store.manifest(of: ReplicaID(8)))
            let old = try allRecords(store, store.view(ReplicaID(8))!)
            disk.faults.transactionsUntilEnd = transaction
            disk.faults.endsBehindTransaction = endsBehind
            var hasEnded = false
            do {
                try install(reader(sender, base: base), into: store)
                while try store.reclaim() > 0 {}
            } catch is SimulatedProcessEnd { hasEnded = true }
            if transaction % 2 == 0 { disk.kill() } else { disk.crash() }
            store = try Store(disk: disk, settings: Self.small)
            #expect(store.damaged().isEmpty)
            let manifest = try #require(store.manifest(of: ReplicaID(8)))
            let found = try allRecords(store, store.view(ReplicaID(8))!)
            let isNew = manifest.index == LogIndex(350)
            #expect(isNew ? found == after : manifest == before && found == old)
            #expect(
                try runsOnDisk(disk)
                    == Dictionary(uniqueKeysWithValues: manifest.runs.map { ($0.id.rawValue, $0.chunks) }))
            if isNew { sawNew = true } else { sawOld += 1 }
            #expect(!sawNew || isNew, "once it is there it stays there")
            if !isNew {
                try install(reader(sender, base: base), into: store)
                #expect(try allRecords(store, store.view(ReplicaID(8))!) == after)
            }
            guard hasEnded else { break }
        }
        #expect(sawNew && sawOld >= (endsBehind ? 1 : 2))
    }

    @Test func aFullDiskEndsTheInstallationAndNothingOfItStays() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver(settings: Self.small)
        try receiver.checkpoint(frozen([record(storeKey(9, "stale"), 5, "stale")]), storeHeader(5, replica: 8))
        let before = receiver.manifest(of: ReplicaID(8))
        let chunks = receiverDisk.contents().map(\.key)
        for more in [10_000, 100_000, 280_000] {
            receiverDisk.faults.bytesMax = receiverDisk.bytes + more
            #expect(code { try install(reader(sender), into: receiver) } == .full)
            receiverDisk.faults.bytesMax = .max
            while try receiver.reclaim() > 0 {}
            #expect(receiver.manifest(of: ReplicaID(8)) == before && receiverDisk.contents().map(\.key) == chunks)
        }
        try install(reader(sender), into: receiver)
        #expect(
            try allRecords(receiver, receiver.view(ReplicaID(8))!) == allRecords(sender, sender.view(ReplicaID(7))!))
    }

    @Test func whatIsAbortedOrForgottenGoes() throws {
        let sender = try makeSender()
        let receiver = try makeReceiver(settings: Self.small)
        func begin() throws -> SnapshotInstaller<SimulatedDisk> {
            let installer = try SnapshotInstaller(receiver, reader(sender).describe(), replica: ReplicaID(8))
            try installer.accept(reader(sender).piece(behind: nil, bytesMax: 1 << 20).bytes)
            #expect(try !runsOnDisk(receiverDisk).isEmpty)
            return installer
        }
        let installer = try begin()
        installer.abort()
        installer.abort()
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).isEmpty)
        _ = try begin()
        while try receiver.reclaim() > 0 {}
        #expect(try runsOnDisk(receiverDisk).isEmpty)
    }
}
