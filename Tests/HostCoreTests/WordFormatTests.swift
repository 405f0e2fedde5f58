// What hosts say to each other of slots that move and of loads, byte by byte: hosts of other versions read it.

import HostCore
import Messages
import Primitives
import StateMachines
import Testing

@Suite struct WordFormatTests {
    private func hex(_ bytes: Bytes) -> String {
        bytes.array.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func bytes(_ hex: String) -> Bytes {
        let digits = Array(hex.utf8)
        return Bytes(
            stride(from: 0, to: digits.count, by: 2).map {
                UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)!
            })
    }

    private func join(_ parts: String...) -> String { parts.joined() }

    /// In little-endian, as all integers.
    private func long(_ byte: String) -> String { byte + "00000000000000" }

    /// A batch with nothing but one word.
    private func batch(_ kind: String, _ word: String) -> String {
        let length = hex(Bytes([UInt8(word.count / 2)])) + "000000"
        // Version, parts and two zeros; no floors, no snapshots, one word, no messages.
        return join("03", "00", "0000", "00000000", "00000000", "01000000", kind, length, word, "00000000")
    }

    private func batch(_ word: ClusterWord) -> String {
        var writer = PeerBatchWriter()
        writer.append(word)
        return hex(writer.take())
    }

    private func words(_ batch: String) throws -> [ClusterWord] { try PeerBatchReader(bytes(batch)).words }

    private let position = "0500" + "0100" + "01000000" + "6b"
    private var start: String { join("02000000", long("07"), long("08")) }

    @Test func wordsOfMigrations() throws {
        let place = RecordPosition(slot: Slot(5), machine: .keyValue, key: "k")
        let page = MigrationPage(
            number: 0, base: LogIndex(3), start: LogIndex(4), from: Bytes(), next: place.encoded(),
            revision: Revision(5), records: [.init(place: place, revision: Revision(5), expiry: .zero, value: "v")])
        let pageBytes = join(
            long("00"), long("03"), long("04"), "00000000", "09000000", position, long("05"), "01000000", "0500",
            "0100", long("05"), long("00"), "01", "01000000", "6b", "01000000", "76", "00000000", "00000000")
        let samples: [(MigrationWord.Kind, String)] = [
            (.howFar, "01"),
            (
                .fetch(base: LogIndex(3), start: LogIndex(4), next: place.encoded()),
                join("02", long("03"), long("04"), "09000000", position)
            ),
            (.fetch(base: .zero, start: .zero, next: Bytes()), join("02", long("00"), long("00"), "00000000")),
            (.freeze, "03"),
            (.compare(sourceTime: LogTime(3), ownTime: LogTime(4)), join("04", long("03"), long("04"))),
            (.page(page), join("06", pageBytes)),
            (.digest(9), join("07", long("09"))),
            (.refused(.notLeader, leader: HostID(3)), join("08", "01", long("03"))),
            (.refused(.notNow, leader: HostID(0)), join("08", "02", long("00"))),
            (.refused(.deletionsForgotten, leader: HostID(3)), join("08", "03", long("03"))),
        ]
        for (kind, fields) in samples {
            let word = ClusterWord.migration(MigrationWord(to: GroupID(2), MigrationID(7), 8, kind))
            let expected = batch("05", start + fields)
            #expect(batch(word) == expected, "\(kind)")
            #expect(try words(expected) == [word])
            // What goes on is another version's, and none of this one.
            #expect(throws: DecodingFailure.self) { try words(batch("05", start + fields + "00")) }
        }
        for (number, phase) in [
            ("00", nil), ("01", .exporting), ("02", .frozen), ("03", .released), ("04", .importing), ("05", .sealed),
            ("06", .dropping),
        ] as [(String, MigrationTask.Phase?)] {
            let expected = batch("05", join(start, "05", number, long("09"), long("0a"), long("0b")))
            let word = try #require(try words(expected).first)
            #expect(batch(word) == expected)
            guard case .migration(let said) = word, case .standing(let standing) = said.kind else {
                Issue.record("no standing: \(word)")
                continue
            }
            #expect(said.group == GroupID(2) && said.migration == MigrationID(7) && said.number == 8)
            #expect(standing.phase == phase && standing.frozen == LogIndex(9) && standing.revision == Revision(10))
            #expect(standing.logTime == LogTime(11))
        }
        // A reason of a later version is taken for one to ask again.
        let later = ClusterWord.migration(
            MigrationWord(to: GroupID(2), MigrationID(7), 8, .refused(.notNow, leader: HostID(3))))
        #expect(try words(batch("05", join(start, "08", "04", long("03")))) == [later])
        for fields in ["00", "09", join("05", "07", long("09"), long("0a"), long("0b"))] {
            #expect(throws: DecodingFailure.self) { try words(batch("05", start + fields)) }
        }
    }

    @Test func wordsOnLoads() throws {
        let load = GroupLoad(
            stateBytes: 1, memtableBytes: 2, otherBytes: 3, seconds: 4,
            slots: [SlotLoad(slot: Slot(5), bytes: 6, operationsPer1000Seconds: 7)])
        let loadBytes = join(
            long("01"), long("02"), long("03"), "04000000", "01000000", "0500", long("06"), "07000000")
        let samples: [(LoadWord, String)] = [
            (
                LoadWord(to: GroupID(2), about: GroupID(2), 8, .asked),
                join("02000000", "02000000", long("08"), "01")
            ),
            (
                LoadWord(to: .meta, about: GroupID(2), 8, .told(load)),
                join("00000000", "02000000", long("08"), "02", loadBytes)
            ),
            (
                LoadWord(to: .meta, about: GroupID(2), 8, .refused(leader: HostID(3))),
                join("00000000", "02000000", long("08"), "03", long("03"))
            ),
        ]
        for (word, fields) in samples {
            let expected = batch("06", fields)
            #expect(batch(.load(word)) == expected)
            #expect(try words(expected) == [.load(word)])
            #expect(throws: DecodingFailure.self) { try words(batch("06", fields + "00")) }
        }
    }
}
