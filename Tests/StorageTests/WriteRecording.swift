// What a recorded process did to its files, and every state in which a power failure may leave them. Owns the model of
// file system and disk; what must be found afterwards is the tests' affair.
//
// A write is certain once a later sync of its file has returned, or when its descriptor is O_DSYNC; a name (creation,
// rename, removal) once its directory was synced. Of what is not certain any subset may be there, writes also in part:
// any of their sectors of 512 bytes. Size follows what is there, and may run ahead of it, with zeros.

import Foundation
import Primitives
import Testing

/// The log of the preloaded recorder (Tests/CWriteRecorder).
struct WriteRecording {
    enum Event {
        case created(file: UInt64, name: String)
        case written(file: UInt64, offset: Int, bytes: [UInt8], isSynced: Bool)
        /// `bytes`: the new size, which `truncated` sets and `allocated` raises to.
        case truncated(file: UInt64, bytes: Int)
        case allocated(file: UInt64, bytes: Int)
        case synced(file: UInt64)
        case renamed(from: String, to: String)
        case removed(name: String)
        case directorySynced(name: String)
        case marked(String)

        /// Whether something becomes certain with it.
        var isSync: Bool {
            switch self {
            case .synced, .directorySynced: true
            case .written(_, _, _, let isSynced): isSynced
            default: false
            }
        }
    }

    private(set) var events: [Event] = []

    /// Runs a process to its end with the recorder in it. Its output is in the marks.
    init(of executable: String, _ arguments: [String], root: String, log: String) throws {
        let process = Process()
        process.executableURL = builtProducts.appendingPathComponent(executable)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging([
            "LD_PRELOAD": builtProducts.appendingPathComponent("libCWriteRecorder.so").path,
            "BIFROST_RECORD_ROOT": root, "BIFROST_RECORD_LOG": log,
        ]) { $1 }
        process.standardOutput = FileHandle.nullDevice
        let errors = Pipe()
        process.standardError = errors
        try process.run()
        let complaint = errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        try #require(
            process.terminationReason == .exit && process.terminationStatus == 0,
            "\(executable): \(String(decoding: complaint, as: UTF8.self))")
        try self.init([UInt8](Data(contentsOf: URL(fileURLWithPath: log))))
    }

    init(_ log: [UInt8]) throws {
        var offset = 0
        func load<Integer: FixedWidthInteger>(_ at: Int, _ type: Integer.Type) -> Integer {
            log.withUnsafeBytes { Integer(littleEndian: $0.loadUnaligned(fromByteOffset: offset + at, as: type)) }
        }
        while offset < log.count {
            try #require(log.count - offset >= 32)
            let (kind, flags) = (load(0, UInt32.self), load(4, UInt32.self))
            let (file, place) = (load(8, UInt64.self), Int(load(16, UInt64.self)))
            let end = offset + 32 + Int(load(24, UInt64.self))
            try #require(end <= log.count)
            let data = log[offset + 32..<end]
            let text = { String(decoding: data, as: UTF8.self) }
            switch kind {
            case 1: events.append(.created(file: file, name: text()))
            case 2: events.append(.written(file: file, offset: place, bytes: Array(data), isSynced: flags & 1 != 0))
            case 3: events.append(.truncated(file: file, bytes: place))
            case 4: events.append(.allocated(file: file, bytes: place))
            case 5: events.append(.synced(file: file))
            case 6:
                let names = data.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
                try #require(names.count == 2)
                events.append(.renamed(from: names[0], to: names[1]))
            case 7: events.append(.removed(name: text()))
            case 8: events.append(.directorySynced(name: text()))
            case 9: events.append(.marked(text()))
            default: throw DecodingFailure(expected: "a recorded event", found: "kind \(kind)")
            }
            offset = end
        }
    }

    /// Where the power may fail: at each event that makes something certain, before it has done so; and at the end.
    var failurePoints: [Int] { events.indices.filter { events[$0].isSync } + [events.count] }
}

/// The directory where executables and libraries of this build are.
let builtProducts = Bundle.module.bundleURL.deletingLastPathComponent()

/// The files as they stand at one point of a recording: what is certain, and what is not yet.
struct RecordedFiles {
    private enum Change {
        case write(offset: Int, bytes: [UInt8])
        case size(Int)
        case sizeAtLeast(Int)
    }
    private struct File {
        var certain: [UInt8] = []
        var pending: [Change] = []
        /// As a process sees it.
        var size = 0
    }
    private enum NameChange {
        case created(String, UInt64)
        case renamed(String, String)
        case removed(String)
        var directories: [String] {
            switch self {
            case .created(let name, _), .removed(let name): [Self.directory(of: name)]
            case .renamed(let old, let new): [Self.directory(of: old), Self.directory(of: new)]
            }
        }
        private static func directory(of name: String) -> String {
            name.lastIndex(of: "/").map { String(name[..<$0]) } ?? ""
        }
    }

    static let sectorBytes = 512

    private let recording: WriteRecording
    private var files: [UInt64: File] = [:]
    private var names: [String: UInt64] = [:]
    private var pendingNames: [NameChange] = []
    /// Events before this one have happened.
    private(set) var position = 0
    /// What the process has said so far, one write each.
    private(set) var marks: [String] = []
    /// A disk that acknowledges writes to O_DSYNC descriptors before they are certain: for tests of the tests.
    var liesAboutSynchronousWrites = false

    init(_ recording: WriteRecording) { self.recording = recording }

    mutating func advance(to point: Int) {
        while position < point {
            happen(recording.events[position])
            position += 1
        }
    }

    private mutating func happen(_ event: WriteRecording.Event) {
        switch event {
        case .created(let file, let name):
            files[file] = File()
            pendingNames.append(.created(name, file))
        case .written(let file, let offset, let bytes, let isSynced):
            let change = Change.write(offset: offset, bytes: bytes)
            if isSynced, !liesAboutSynchronousWrites {
                // Only this range is certain now; what waits for the same place goes with it.
                let range = offset..<offset + bytes.count
                settle(file) {
                    if case .write(let other, let data) = $0 {
                        range.overlaps(other..<other + data.count)
                    } else {
                        false
                    }
                }
                Self.apply(change, to: &files[file, default: File()].certain)
            } else {
                files[file, default: File()].pending.append(change)
            }
            files[file]!.size = max(files[file]!.size, offset + bytes.count)
        case .truncated(let file, let bytes):
            files[file, default: File()].pending.append(.size(bytes))
            files[file]!.size = bytes
        case .allocated(let file, let bytes):
            files[file, default: File()].pending.append(.sizeAtLeast(bytes))
            files[file]!.size = max(files[file]!.size, bytes)
        case .synced(let file): settle(file) { _ in true }
        case .renamed(let old, let new): pendingNames.append(.renamed(old, new))
        case .removed(let name): pendingNames.append(.removed(name))
        case .directorySynced(let directory):
            var later: [NameChange] = []
            for change in pendingNames {
                if change.directories.allSatisfy({ $0 == directory }) {
                    Self.apply(change, to: &names)
                } else {
                    later.append(change)
                }
            }
            pendingNames = later
        case .marked(let text): marks.append(text)
        }
    }

    private mutating func settle(_ file: UInt64, _ isSettled: (Change) -> Bool) {
        guard var found = files[file] else { return }
        files[file] = nil
        for change in found.pending where isSettled(change) { Self.apply(change, to: &found.certain) }
        found.pending.removeAll(where: isSettled)
        files[file] = found
    }

    private static func apply(_ change: Change, to content: inout [UInt8]) {
        func grow(to count: Int) {
            if content.count < count { content.append(contentsOf: repeatElement(0, count: count - content.count)) }
        }
        switch change {
        case .size(let bytes): if bytes < content.count { content.removeSubrange(bytes...) } else { grow(to: bytes) }
        case .sizeAtLeast(let bytes): grow(to: bytes)
        case .write(let offset, let bytes):
            grow(to: offset + bytes.count)
            content.withUnsafeMutableBytes { place in
                UnsafeMutableRawBufferPointer(rebasing: place[offset..<offset + bytes.count]).copyBytes(from: bytes)
            }
        }
    }

    /// Each sector of a write is there or not; anything else wholly or not at all.
    private static func tear(_ change: Change, in content: inout [UInt8], _ random: inout SeededRandom) {
        guard case .write(let offset, let bytes) = change else {
            if random.below(2) == 0 { apply(change, to: &content) }
            return
        }
        var from = 0
        while from < bytes.count {
            let through = min(bytes.count, ((offset + from) / sectorBytes + 1) * sectorBytes - offset)
            if random.below(2) == 0 {
                apply(.write(offset: offset + from, bytes: Array(bytes[from..<through])), to: &content)
            }
            from = through
        }
    }

    private static func apply(_ change: NameChange, to names: inout [String: UInt64]) {
        switch change {
        case .created(let name, let file): names[name] = file
        case .renamed(let old, let new):
            names[new] = names[old]
            names[old] = nil
        case .removed(let name): names[name] = nil
        }
    }

    // MARK: Images

    /// What a power failure may leave: names and contents. The event at the present position, if it is a write, may be
    /// under way.
    func image(_ random: inout SeededRandom) -> [String: [UInt8]] {
        var upcoming = self
        if position < recording.events.count,
            case .written(let file, let offset, let bytes, _) =
                recording.events[position]
        {
            upcoming.files[file, default: File()].pending.append(.write(offset: offset, bytes: bytes))
            upcoming.files[file]!.size = max(upcoming.files[file]!.size, offset + bytes.count)
        }
        return upcoming.settledAtRandom(&random)
    }

    private func settledAtRandom(_ random: inout SeededRandom) -> [String: [UInt8]] {
        var names = names
        // A rename that is there although the creation is not takes the file along.
        var created: [String: UInt64] = names
        let keepsNames = random.below(3)
        for change in pendingNames {
            let keeps = keepsNames == 0 ? true : keepsNames == 1 ? false : random.below(2) == 0
            if case .renamed(let old, let new) = change, keeps { names[new] = created[old] }
            if keeps {
                if case .renamed(let old, _) = change { names[old] = nil } else { Self.apply(change, to: &names) }
            }
            Self.apply(change, to: &created)
        }
        var image: [String: [UInt8]] = [:]
        for (name, file) in names.sorted(by: { $0.key < $1.key }) { image[name] = content(files[file]!, &random) }
        return image
    }

    private func content(_ file: File, _ random: inout SeededRandom) -> [UInt8] {
        var content = file.certain
        let count = UInt64(file.pending.count)
        let way = random.below(7)
        // Of the ways that single one change out, which.
        let chosen = count > 0 ? Int(random.below(count)) : 0
        for (number, change) in file.pending.enumerated() {
            let isChosen = number == chosen
            switch way {
            case 0: break
            case 1: Self.apply(change, to: &content)
            case 2: if random.below(2) == 0 { Self.apply(change, to: &content) }
            case 3: Self.tear(change, in: &content, &random)
            case 4:
                if isChosen {
                    Self.tear(change, in: &content, &random)
                } else if number < chosen {
                    Self.apply(change, to: &content)
                }
            case 5: if !isChosen { Self.apply(change, to: &content) }
            default:
                if isChosen { Self.tear(change, in: &content, &random) } else { Self.apply(change, to: &content) }
            }
        }
        // The size may be on disk before what stands there.
        if file.size > content.count, random.below(2) == 0 {
            content.append(contentsOf: repeatElement(0, count: file.size - content.count))
        }
        return content
    }
}
