// A process that writes a journal is killed with SIGKILL at random moments; what it acknowledged is there.

import Foundation
import Primitives
import Storage
import TestSupport
import Testing

/// Runs `StorageKillHelper MODE DIRECTORY SEED`, kills it `thenMicroseconds` after it wrote its line number
/// `afterLines` (0: after its start), and gives the lines that it wrote. Lines and not time alone: a disk that takes 4
/// ms for a sync, or a machine with much else to do, would leave nothing to look at.
func runAndKill(mode: String, directory: String, seed: UInt64, afterLines: Int, thenMicroseconds: UInt64) throws
    -> [String]
{
    let helper = Process()
    // Built into the directory of this test bundle.
    helper.executableURL = Bundle.module.bundleURL.deletingLastPathComponent().appendingPathComponent(
        "StorageKillHelper")
    helper.arguments = [mode, directory, "\(seed)"]
    let output = Pipe()
    let errors = Pipe()
    // Another test's child that inherited an end for writing would keep it open past this one's.
    for end in [output, errors].flatMap({ [$0.fileHandleForReading, $0.fileHandleForWriting] }) {
        _ = fcntl(end.fileDescriptor, F_SETFD, FD_CLOEXEC)
    }
    helper.standardOutput = output
    helper.standardError = errors
    try helper.run()
    // Read while it runs: a full pipe would block it.
    var collected = Data()
    var lines = 0
    let reading = output.fileHandleForReading
    let patience = DispatchTime.now() + .seconds(180)
    var killTime: DispatchTime?
    let descriptor = reading.fileDescriptor
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    var buffer = [UInt8](repeating: 0, count: 65_536)
    var isKilled = false
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count > 0 {
            collected.append(contentsOf: buffer[..<count])
            lines += buffer[..<count].count { $0 == UInt8(ascii: "\n") }
        }
        // It ended by itself: what it complained of stands below.
        if count == 0 { break }
        let now = DispatchTime.now()
        if killTime == nil, lines >= afterLines { killTime = now + .microseconds(Int(thenMicroseconds)) }
        if !isKilled, now >= killTime ?? patience {
            kill(helper.processIdentifier, SIGKILL)
            isKilled = true
        }
        if count < 0 { usleep(200) }
    }
    helper.waitUntilExit()
    let complaint = errors.fileHandleForReading.readDataToEndOfFile()
    try #require(complaint.isEmpty, "\(String(decoding: complaint, as: UTF8.self))")
    try #require(helper.terminationReason == .uncaughtSignal)
    try #require(lines >= afterLines, "\(lines) lines in 180 s, expected \(afterLines)")
    // A line without its end was cut by the kill.
    let text = String(decoding: collected, as: UTF8.self)
    guard let end = text.lastIndex(of: "\n") else { return [] }
    return text[..<end].split(separator: "\n").map(String.init)
}

@Suite(.serialized, .ownExecutor) struct JournalKillTests {
    @Test func aKilledProcessLosesNothingThatItAcknowledged() throws {
        var random = SeededRandom(seed: 2)
        var commits = 0
        for life in 0..<10 as Range<UInt64> {
            let path = NSTemporaryDirectory() + "bifrost-kill-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: path) }
            // Ten kills of one journal, each process going on where the last was killed.
            var last: [UInt64: (index: UInt64, term: UInt64)] = [:]
            var trimmed: [UInt64: UInt64] = [:]
            for round in 0..<10 as Range<UInt64> {
                let lines = try runAndKill(
                    mode: "journal", directory: path, seed: life * 100 + round,
                    afterLines: Int(random.below(60)), thenMicroseconds: random.below(20_000))
                for line in lines {
                    let words = line.split(separator: " ")
                    let replica = try #require(UInt64(words[1]))
                    let index = try #require(UInt64(words[2]))
                    if words[0] == "last" {
                        last[replica] = (index, try #require(UInt64(words[3])))
                        commits += 1
                    } else if words[0] == "trim" {
                        trimmed[replica] = index
                    }
                }
                try check(path, last, trimmed)
            }
        }
        #expect(commits > 1_000)
    }

    private func check(
        _ path: String, _ last: [UInt64: (index: UInt64, term: UInt64)], _ trimmed: [UInt64: UInt64]
    ) throws {
        let disk = try LMDBDisk(directory: path, settings: .init(mapBytes: 1 << 20))
        let journal: Journal<LMDBDisk>
        do {
            journal = try Journal(disk: disk, formatting: nil)
        } catch let error as DiskError where error.code == .refused {
            // Killed before the superblock was written.
            try #require(last.isEmpty)
            return
        }
        try #require(!journal.isDamaged)
        for (replica, acknowledged) in last.sorted(by: { $0.key < $1.key }) {
            let log = try #require(journal.log(of: ReplicaID(replica)))
            try #require(!log.isDamaged)
            try #require(log.base.rawValue <= trimmed[replica] ?? 0)
            let found = try journal.entries(
                of: ReplicaID(replica), from: log.base.next, through: log.last, bytesMax: .max)
            try #require(found.count == log.last - log.base)
            for entry in found {
                try #require(
                    entry == killTestEntry(replica: replica, index: entry.index.rawValue, term: entry.term.rawValue))
            }
            // One commit more than was acknowledged may be there: then it either went on or overwrote with a higher
            // term.
            let term = max(log.termRuns.last?.term ?? .zero, log.baseTerm)
            try #require(term.rawValue >= acknowledged.term)
            if term.rawValue == acknowledged.term { try #require(log.last.rawValue >= acknowledged.index) }
            try #require(log.hardState.term.rawValue >= acknowledged.term)
        }
    }
}

/// The one entry that stands at this place, as the helper makes it.
func killTestEntry(replica: UInt64, index: UInt64, term: UInt64) -> LogEntry {
    var random = SeededRandom(seed: replica << 48 ^ index << 8 ^ term)
    let count = Int(random.below(600))
    let fill = UInt8(truncatingIfNeeded: random.next())
    return LogEntry(
        index: LogIndex(index), term: Term(term), logTime: LogTime(index), kind: .command,
        payload: Bytes(Array(repeating: fill, count: count)))
}
