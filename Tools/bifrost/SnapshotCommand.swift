// `bifrost snapshot`: the states of groups in files, and a cluster that is made of them.

import ArgumentParser
import Foundation
import Messages
import Primitives
import RPC
import Ring
import SnapshotFiles
import StateMachines
import Storage

struct SnapshotCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot",
        abstract: "Saves a running cluster into files, looks at them, and makes a cluster of them.",
        discussion: """
            Each group is saved as it is at one index of its own; consistency across groups is not promised. \
            Documentation/Snapshots.md walks through it.
            """,
        subcommands: [SnapshotSave.self, SnapshotInspect.self, SnapshotRestore.self])
}

struct SnapshotSave: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "save", abstract: "Copies the state of all groups, or of one, into a directory.",
        discussion: """
            The cluster goes on meanwhile. One replica of each group, as a rule not the leader, gives its state as of \
            one index: everything that was acknowledged before the group's turn is in it. What comes is compared with \
            what the host has read, record by record, by a digest. The directory has a save when its file 'save' is \
            there, which is written last.

            If it is interrupted, or a host dies, run the same command again: groups that are whole stay as they are, \
            and one that is half there goes on if its host still keeps the state, which it does for two minutes. If \
            nothing new came from any host for --timeout, it ends with exit code 4 and says who kept it waiting.

            Slots stay where they are while a cluster is saved: a rebalancing is paused meanwhile, and a migration that is \
            under way is waited for, and aborted after five seconds if nothing is decided of it. If slots move all the same, \
            the save is refused with exit code 4.

            EXAMPLES:
              bifrost snapshot save backup/2026-11-27
              bifrost snapshot save --group 3 group-3
              bifrost snapshot save --connect 10.0.0.1:7001 --json backup/today
            """)

    @Argument(
        help: ArgumentHelp("Where the files go: missing, empty, or with an unfinished save.", valueName: "directory"),
        completion: .directory)
    var directory: String

    @Option(help: ArgumentHelp("Only this group: its number, or meta.", valueName: "group"))
    var group: GroupArgument?

    @Option(help: ArgumentHelp("Groups that are copied at a time, 1 to 64.", valueName: "count"))
    var window = 4

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var options: ClientOptions

    private static let patience = Duration.seconds(60)
    /// How often the map is saved anew because slots began to move.
    private static let attemptsMax = 8

    private struct InterruptedReport: Encodable {
        var groups: UInt64
        var of: Int
        var signal: String
    }

    func validate() throws {
        guard (1...64).contains(window) else { throw ValidationError("--window is 1 to 64, not \(window)") }
    }

    func run() async throws {
        let began = UInt64(max(0, Date().timeIntervalSince1970 * 1_000))
        // How long a save takes has no bound, how long it goes on without anything new has.
        let patience = options.timeout?.duration ?? Self.patience
        let administrator = Administrator(options, timeout: .seconds(86_400))
        defer { administrator.close() }
        let known = try await administrator.map(
            until: RPCClock.now() + UInt64(max(0, patience / .nanoseconds(1))))
        if let group { _ = try MapNames.group(group.id, in: known) }
        let target = try SaveDirectory(writing: directory)
        try target.expect(known.cluster)
        let count = group == nil ? known.groups.count : 1
        let meter = ProgressMeter(verb: "save", total: UInt64(count), isShown: progress.isShown)
        let saver = SnapshotSaver(
            target, of: known, administrator: administrator, patience: patience, meter: meter)
        defer { saver.close() }
        let hold = RebalancingHold(options)
        let interruption = interruption(saver, hold, count)
        await hold.begin(known)
        let outcome: Result<SavedCluster, ToolError>
        do throws(ToolError) {
            let map = try await endMigrations(administrator, patience, meter)
            outcome = .success(try await save(saver, map, target, began, administrator, patience, meter))
        } catch {
            outcome = .failure(error)
        }
        meter.finish()
        if await !hold.end() { Output.note(RebalancingHold.note) }
        interruption.end()
        let saved = try outcome.get()
        try target.finish(saved)
        let seconds = meter.elapsedSeconds
        do throws(ToolError) {
            try SaveReport(saved, directory, seconds: seconds, kept: saver.progress.keptRecords)
                .show(asJSON: options.common.json)
        } catch {
            throw error.after("the save in \(directory) is whole")
        }
    }

    private func save(
        _ saver: SnapshotSaver, _ known: ClusterMap, _ target: SaveDirectory, _ began: UInt64,
        _ administrator: Administrator, _ patience: Duration, _ meter: ProgressMeter
    ) async throws(ToolError) -> SavedCluster {
        func saved(_ map: ClusterMap, _ groups: [SavedGroup], isWhole: Bool) -> SavedCluster {
            // Groups of earlier runs are older.
            SavedCluster(
                isWhole: isWhole, beganMilliseconds: groups.reduce(began) { min($0, $1.savedMilliseconds) },
                endedMilliseconds: UInt64(max(0, Date().timeIntervalSince1970 * 1_000)), map: map, groups: groups)
        }
        if let group {
            saver.expect(known)
            return saved(known, [try await saver.save(group.id)], isWhole: false)
        }
        // The map first, from the meta group's own state: what it says is what is saved.
        var meta = try await saver.save(.meta)
        var map = try saver.savedMap(meta)
        var attempts = 1
        while !map.migrations.isEmpty {
            guard attempts < Self.attemptsMax else {
                throw ToolError(
                    .unavailable,
                    "\(MigrationEnding.words(map.migrations[0])): slots moved whenever the map was saved. Stop whoever moves "
                        + "them, and run the same command again")
            }
            // It began behind the look before.
            attempts += 1
            try saver.drop(meta)
            _ = try await endMigrations(administrator, patience, meter)
            meta = try await saver.save(.meta)
            map = try saver.savedMap(meta)
        }
        saver.expect(map)
        let names = map.groups.map { SavedCluster.fileName(of: $0.id) } + [SavedCluster.fileName]
        let strange = SaveDirectory.names(in: target.path).filter {
            !names.contains($0) && !names.contains($0.replacing(SavedCluster.partialSuffix, with: ""))
        }
        guard strange.isEmpty else {
            throw ToolError(
                .usage,
                "\(target.path) has files that are not of this save (\(strange.prefix(3).joined(separator: ", "))): name "
                    + "another directory")
        }
        let groups = map.dataGroups.map(\.id)
        var results: [Result<SavedGroup, ToolError>] = []
        await withTaskGroup(of: Result<SavedGroup, ToolError>.self) { tasks in
            var next = 0
            func start() {
                guard next < groups.count else { return }
                let group = groups[next]
                next += 1
                tasks.addTask {
                    do throws(ToolError) { return .success(try await saver.save(group)) } catch {
                        return .failure(error)
                    }
                }
            }
            for _ in 0..<window { start() }
            for await result in tasks {
                results.append(result)
                // One that failed ends it; those under way come to their end, so that what they have is kept.
                if case .success = result, !results.contains(where: { if case .failure = $0 { true } else { false } }) {
                    start()
                }
            }
        }
        var all = [meta]
        for result in results { all.append(try result.get()) }
        return saved(map, all, isWhole: true)
    }

    private func interruption(_ saver: SnapshotSaver, _ hold: RebalancingHold, _ count: Int) -> Interruption {
        let isJSON = options.common.json
        let directory = directory
        return Interruption { number in
            if Output.isErrorTerminal { Output.error("\n") }
            let done = saver.progress.groups
            Output.note(
                "interrupted: of \(HumanText.count(count, "group")) \(done) whole in \(directory); run the same command again "
                    + "to go on")
            let ended = DispatchSemaphore(value: 0)
            Task {
                if await !hold.end() { Output.note(RebalancingHold.note) }
                ended.signal()
            }
            ended.wait()
            if isJSON {
                try? Output.json(
                    InterruptedReport(groups: done, of: count, signal: number == SIGINT ? "SIGINT" : "SIGTERM"))
            }
            _exit((number == SIGINT ? ExitStatus.interrupted : .terminated).rawValue)
        }
    }
}

struct SnapshotInspect: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Reads a save, or one file of it, through and says what is in it.",
        discussion: """
            Every checksum and every digest is looked at. Damage is named, with the file, the place in it, what was \
            expected and what came, and ends with exit code 65. No host is asked. Which state machines the records \
            belong to is said by their numbers: hosts that start with it need users' machines among them.

            EXAMPLES:
              bifrost snapshot inspect backup/2026-11-27
              bifrost snapshot inspect --json backup/2026-11-27/group-3.state
            """)

    @Argument(help: ArgumentHelp("The directory of a save, or a file of it.", valueName: "path"), completion: .file())
    var path: String

    @OptionGroup var progress: ProgressOptions
    @OptionGroup var common: CommonOptions

    func run() async throws {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) else {
            throw ToolError(.fileTrouble, "there is no \(path)")
        }
        guard isDirectory.boolValue else { return try inspectFile() }
        let saved = try SaveDirectory.list(of: path)
        let meter = ProgressMeter(verb: "inspect", total: UInt64(saved.groups.count), isShown: progress.isShown)
        var problems: [GroupID: String] = [:]
        var machines: [GroupID: [SubMachineNumber: UInt64]] = [:]
        for (done, group) in saved.groups.enumerated() {
            do throws(ToolError) {
                machines[group.group] = try SaveDirectory.verify(group, of: saved, in: path) {
                    meter.add(records: $0, bytes: $1)
                }
            } catch {
                problems[group.group] = error.message
            }
            meter.set(done: UInt64(done + 1))
        }
        meter.finish()
        try SaveReport(saved, path, problems: problems, machines: machines).show(asJSON: common.json)
        guard let first = saved.groups.compactMap({ problems[$0.group] }).first else { return }
        throw ToolError(
            .badData,
            problems.count == 1
                ? first : "\(first); \(problems.count - 1) more of \(saved.groups.count) files are damaged")
    }

    private func inspectFile() throws(ToolError) {
        let report = try SaveDirectory.read(path) { reader, bytes in
            let end = try reader.finish()
            return SaveReport.Group(
                SavedGroup(
                    host: reader.head.host, savedMilliseconds: reader.head.savedMilliseconds, bytes: bytes,
                    digest: end.digest, description: reader.head.description), problem: nil,
                machines: reader.recordsOfMachines)
        }
        if common.json { return try Output.json(report) }
        try Output.line(SaveReport.text(report.machines ?? []) + "\n" + SaveReport.table([report]))
    }
}

extension SaveDirectory {
    /// Reads a group's file through, and holds it against the list and the list's map. Returns how many records each
    /// machine has.
    @discardableResult
    static func verify(
        _ group: SavedGroup, of saved: SavedCluster, in directory: String,
        _ passed: (_ records: Int, _ bytes: Int) -> Void = { _, _ in }
    ) throws(ToolError) -> [SubMachineNumber: UInt64] {
        let name = directory + "/" + group.fileName
        return try read(name) { reader, bytes in
            try saved.check(reader.head, of: group, file: name)
            var before: UInt64 = 0
            var owners = OwnershipCheck(saved.map, of: group.group)
            while let (piece, bytes) = try reader.nextWithBytes() {
                owners.note(piece)
                passed(Int(reader.digest.records - before), bytes.count)
                before = reader.digest.records
            }
            try saved.check(try reader.finish(), of: group, bytes: bytes, file: name)
            try owners.expectNoProblem(name)
            return reader.recordsOfMachines
        }
    }
}

/// Whether a state that is read through has the slots that a map gives its group, and no others.
struct OwnershipCheck: Sendable {
    private let map: ClusterMap
    private let group: GroupID
    private var owners = SavedOwnership()
    /// Before slots could move there was nothing to be of two minds about.
    private let isOfInterest: Bool

    init(_ map: ClusterMap, of group: GroupID) {
        self.map = map
        self.group = group
        isOfInterest = group != .meta && map.featureLevel >= FeatureLevel.migrations
    }

    mutating func note(_ piece: ReceivedPiece) {
        guard isOfInterest else { return }
        piece.forEachPlace { slot, machine, copy in
            owners.note(slot, machine) {
                let record = copy()
                return (record.key.key, record.value)
            }
        }
    }

    /// In words; nil: there is none.
    var problem: String? { isOfInterest ? owners.problem(of: group, in: map) : nil }

    func expectNoProblem(_ name: String) throws(ToolError) {
        guard let problem else { return }
        throw ToolError(
            .badData,
            "\(name) does not fit the map that was saved with it: \(problem). Slots moved meanwhile: no cluster can be made "
                + "of it")
    }
}
