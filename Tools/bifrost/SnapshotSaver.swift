// Copies states of groups from a running cluster into a directory, and goes on where it was interrupted. Owns which host
// is asked, what is believed, and what stays of it; questions are SnapshotSource's, files SaveDirectory's.

import Foundation
import Messages
import Primitives
import RPC
import Ring
import SnapshotFiles
import StateMachines
import Storage
import Synchronization

final class SnapshotSaver: Sendable {
    private let directory: SaveDirectory
    private let administrator: Administrator
    private let meter: ProgressMeter
    /// How long it goes on without anything new from any host.
    private let patienceNanoseconds: UInt64
    private let state: Mutex<State>

    private struct State {
        var map: ClusterMap
        var probes: [HostID: HostProbe] = [:]
        /// What groups wait for, to be shown.
        var waits: [GroupID: String] = [:]
        /// Groups that are whole, and pieces that were there before this run.
        var done: UInt64 = 0
        var keptRecords: UInt64 = 0
        /// What the groups' states have to agree with about their slots; nil: it is not known yet.
        var owners: ClusterMap?
        /// When any group last came further than ever. A group may have to wait for others: hosts give few states at a time.
        var progressed: Instant
    }

    private static let pause = Duration.milliseconds(200)
    /// How long a host that has begun to give a state is asked again, before another one begins anew.
    private static let sourcePatienceNanoseconds: UInt64 = 10_000_000_000
    /// How long a host that counts records may come to no more.
    private static let countPatienceNanoseconds: UInt64 = 60_000_000_000
    /// For a look at the map between two attempts.
    private static let mapNanoseconds: UInt64 = 2_000_000_000

    init(
        _ directory: SaveDirectory, of map: ClusterMap, administrator: Administrator, patience: Duration,
        meter: ProgressMeter
    ) {
        self.directory = directory
        self.administrator = administrator
        self.meter = meter
        patienceNanoseconds = UInt64(max(0, patience / .nanoseconds(1)))
        state = Mutex(State(map: map, progressed: RPCClock.now()))
    }

    func close() {
        for probe in state.withLock({ Array($0.probes.values) }) { probe.close() }
    }

    /// Groups that are whole, and records that an earlier run had brought.
    var progress: (groups: UInt64, keptRecords: UInt64) { state.withLock { ($0.done, $0.keptRecords) } }

    /// States that are saved from now on have the slots that this map gives their groups, or they are refused.
    func expect(_ owners: ClusterMap) { state.withLock { $0.owners = owners } }

    /// It is saved anew.
    func drop(_ saved: SavedGroup) throws(ToolError) {
        let path = directory.path(saved.fileName)
        guard unlink(path) == 0 else { throw SaveDirectory.trouble("delete", path) }
        state.withLock { $0.done -= 1 }
    }

    private func ownershipCheck(_ group: GroupID) -> OwnershipCheck {
        let (owners, map) = state.withLock { ($0.owners, $0.map) }
        return OwnershipCheck(owners ?? map, of: group)
    }

    // MARK: - One group

    /// What is there of a group's state.
    private struct Start {
        var head: SnapshotFileHead
        var bytes: UInt64
        var pieces: UInt64 = 0
        var digest = StateDigest()
        var position: RecordKey?
        var owners: OwnershipCheck
    }

    private enum Outcome {
        case saved(SavedGroup, OwnershipCheck)
        /// From another host, if there is one.
        ///
        /// - hasBegun: something of the state was there, and is of no use any more.
        /// - isStranger: at the host's address is another one.
        case again(String, hasBegun: Bool, isStranger: Bool = false)
    }

    /// What one group's attempts have met with.
    private struct Attempts {
        var count = 0
        /// Why each host gave no state, as it was last.
        var whys: [HostID: String] = [:]
        /// The numbers under which hosts were asked that have not given anything yet: asked again under the same number, they
        /// go on with what they have begun.
        var sources: [HostID: SnapshotSource] = [:]
        var endurance = SaveEndurance()

        var text: String { whys.sorted { $0.key < $1.key }.map(\.value).joined(separator: "; ") }
    }

    /// Brings the state of a group into its file, unless it is there. Returns when it is whole and durable.
    func save(_ group: GroupID) async throws(ToolError) -> SavedGroup {
        let whole = directory.path(SavedCluster.fileName(of: group))
        let partial = whole + SavedCluster.partialSuffix
        if FileManager.default.fileExists(atPath: whole) {
            let (saved, owners) = try check(whole, group)
            if owners.problem == nil {
                state.withLock { $0.keptRecords += saved.description.records }
                groupIsDone(group)
                return saved
            }
            // Slots have moved since an earlier run.
            guard unlink(whole) == 0 else { throw SaveDirectory.trouble("delete", whole) }
        }
        var start = try resume(partial, group)
        var attempts = Attempts()
        if let start {
            state.withLock { $0.keptRecords += start.digest.records }
            _ = attempts.endurance.reached(records: start.digest.records, pieces: start.pieces)
        }
        while true {
            let source = try self.source(of: group, &start, &attempts)
            let host = source.host.id
            switch try await copy(from: source, start, into: partial, &attempts.endurance) {
            case .saved(let saved, let owners):
                if let problem = owners.problem {
                    unlink(partial)
                    // The next run begins with a newer map.
                    unlink(directory.path(SavedCluster.fileName(of: .meta)))
                    attempts.sources[host] = nil
                    await release(attempts)
                    throw ToolError(
                        .unavailable,
                        "\(group.words) does not fit the map that was saved: \(problem). Slots moved while this was saved: run "
                            + "the same command again when none do")
                }
                guard rename(partial, whole) == 0 else { throw SaveDirectory.trouble("rename", partial) }
                try directory.sync()
                attempts.sources[host] = nil
                await release(attempts)
                groupIsDone(group)
                return saved
            case .again(let why, let hasBegun, let isStranger):
                start = nil
                attempts.count += 1
                attempts.whys[host] = why
                if isStranger { forget(host) }
                if hasBegun || isStranger { attempts.sources[host] = nil }
                if hasBegun {
                    await source.release()
                    guard attempts.endurance.beginsAnew() else {
                        await release(attempts)
                        throw ToolError(
                            .unavailable,
                            "\(group.words): its state began anew \(SaveEndurance.restartsMax) times and never got beyond "
                                + "\(HumanText.grouped(attempts.endurance.recordsMost)) records (\(attempts.text)): "
                                + "run the same command again when the hosts are steady")
                    }
                }
                waits(group, why)
                guard RPCClock.now().since(state.withLock { $0.progressed }) < patienceNanoseconds else {
                    await release(attempts)
                    throw ToolError(
                        .unavailable,
                        "\(group.words): nothing new from any host within the time (\(attempts.text)). What is there stays: "
                            + "run the same command again to go on")
                }
                try await pause(Self.pause)
                if let newer = try? await administrator.map(until: RPCClock.now() + Self.mapNanoseconds) {
                    state.withLock { $0.map = newer }
                }
            }
        }
    }

    /// Whom to ask next: the host that has given what is there, else the next one of those that have a replica.
    private func source(
        of group: GroupID, _ start: inout Start?, _ attempts: inout Attempts
    ) throws(ToolError) -> SnapshotSource {
        if let begun = start {
            if let host = state.withLock({ $0.map.host(begun.head.host) }) {
                return SnapshotSource(group, from: host, snapshot: begun.head.snapshot, probe: try probe(host))
            }
            start = nil
        }
        let hosts = try candidates(group)
        let host = hosts[attempts.count % hosts.count]
        let snapshot = attempts.sources[host.id]?.snapshot ?? UInt64.random(in: 1...UInt64.max)
        let source = SnapshotSource(group, from: host, snapshot: snapshot, probe: try probe(host))
        attempts.sources[host.id] = source
        return source
    }

    /// Nobody comes back for what was only asked for.
    private func release(_ attempts: Attempts) async {
        for (_, source) in attempts.sources.sorted(by: { $0.key < $1.key }) { await source.release() }
    }

    private func pause(_ duration: Duration) async throws(ToolError) {
        do { try await Task.sleep(for: duration) } catch { throw ToolError(error) }
    }

    /// Shows who keeps a group waiting; nil: nobody.
    private func waits(_ group: GroupID, _ why: String?) {
        let notes = state.withLock { state in
            state.waits[group] = why
            guard let first = state.waits.min(by: { $0.key < $1.key }) else { return "" }
            let more = state.waits.count > 1 ? ", \(state.waits.count - 1) more wait" : ""
            return "\(first.key.words) waits: \(first.value)\(more)"
        }
        meter.set(notes: notes)
    }

    private func progressed(_ group: GroupID) {
        let wasWaiting = state.withLock { state in
            state.progressed = RPCClock.now()
            return state.waits[group] != nil
        }
        if wasWaiting { waits(group, nil) }
    }

    private func groupIsDone(_ group: GroupID) {
        progressed(group)
        meter.set(
            done: state.withLock {
                $0.done += 1; return $0.done
            })
    }

    /// Hosts with a replica that votes; the preferred leader's last, which has enough to do.
    private func candidates(_ group: GroupID) throws(ToolError) -> [HostRecord] {
        let map = state.withLock { $0.map }
        guard let record = map.group(group) else {
            throw ToolError(
                .negative, "\(group.words) was deleted meanwhile: begin a new save, in another directory")
        }
        let voters = record.replicas.filter { $0.role == .voter && $0.membership == .voter }
        let ordered =
            voters.filter { $0.id != record.preferredLeader } + voters.filter { $0.id == record.preferredLeader }
        let hosts = (ordered.isEmpty ? record.replicas : ordered).compactMap { map.host($0.host) }
        guard !hosts.isEmpty else { throw ToolError(.fault, "\(group.words) has no replica in the map") }
        return hosts
    }

    /// A connection to this host of this cluster, and to no other one that has its address by now.
    private func probe(_ host: HostRecord) throws(ToolError) -> HostProbe {
        let (known, cluster) = state.withLock { ($0.probes[host.id], $0.map.cluster) }
        if let known, known.address == host.address { return known }
        let new = try HostProbe(host.address, of: cluster, host: host.id)
        let (kept, old) = state.withLock { state -> (HostProbe, HostProbe?) in
            let present = state.probes[host.id]
            if let present, present.address == host.address { return (present, new) }
            state.probes[host.id] = new
            return (new, present)
        }
        old?.close()
        return kept
    }

    private func forget(_ host: HostID) { state.withLock { $0.probes.removeValue(forKey: host) }?.close() }

    /// Asks for piece after piece until the state is whole.
    private func copy(
        from source: SnapshotSource, _ start: Start?, into path: String, _ endurance: inout SaveEndurance
    ) async throws(ToolError) -> Outcome {
        var now = start
        var file: AppendedFile?
        if let start { file = try AppendedFile(path, keeping: start.bytes) }
        defer { file?.close() }
        var heard = RPCClock.now()
        while true {
            let answer: SnapshotAnswer
            switch try await source.fetch(after: now?.position) {
            case .gone(let why): return .again(why, hasBegun: now != nil)
            case .stranger(let why): return .again(why, hasBegun: now != nil, isStranger: true)
            case .counting(let records):
                if endurance.counted(records) {
                    progressed(source.group)
                    heard = RPCClock.now()
                }
                let why = "host \(source.host.id) looks through its state, \(HumanText.grouped(records)) records so far"
                guard RPCClock.now().since(heard) < min(Self.countPatienceNanoseconds, patienceNanoseconds) else {
                    return .again(why, hasBegun: now != nil)
                }
                waits(source.group, why)
                try await pause(Self.pause)
                continue
            case .later(let why, let pause):
                // Who has begun is worth waiting for; who hasn't is not, where there are others.
                guard now != nil, RPCClock.now().since(heard) < Self.sourcePatienceNanoseconds else {
                    return .again(why, hasBegun: now != nil)
                }
                waits(source.group, why)
                try await self.pause(pause)
                continue
            case .piece(let piece): answer = piece
            }
            var state: Start
            if let now { state = now } else { state = try begin(answer, from: source) }
            let piece = try received(answer, &state, from: source)
            var bytes = Bytes()
            if now == nil {
                file = try AppendedFile(path, keeping: 0)
                bytes = state.head.encoded()
                try file?.append(bytes)
                state.bytes = UInt64(bytes.count)
            }
            bytes = SnapshotFileFrame.encoded(answer.piece)
            let before = now?.digest.records ?? 0
            meter.add(records: Int(state.digest.records - before), bytes: bytes.count)
            heard = RPCClock.now()
            if endurance.reached(records: state.digest.records, pieces: state.pieces) { progressed(source.group) }
            guard piece.isLast else {
                try file?.append(bytes)
                state.bytes += UInt64(bytes.count)
                now = state
                continue
            }
            try compare(answer, state, path, source)
            let end = SnapshotFileEnd(
                pieces: state.pieces, records: state.digest.records, digest: state.digest.value)
            var writer = ByteWriter(capacity: bytes.count + SnapshotFileEnd.encodedBytes)
            writer.write(bytes)
            writer.write(end.encoded())
            state.bytes += UInt64(writer.count)
            try file?.append(writer.take())
            try file?.sync()
            await source.release()
            return .saved(
                SavedGroup(
                    host: state.head.host, savedMilliseconds: state.head.savedMilliseconds, bytes: state.bytes,
                    digest: state.digest.value, description: state.head.description), state.owners)
        }
    }

    /// What the first piece says of the state.
    private func begin(_ answer: SnapshotAnswer, from source: SnapshotSource) throws(ToolError) -> Start {
        do throws(DecodingFailure) {
            var reader = ByteReader(answer.description)
            let description = try SnapshotDescription(from: &reader)
            try reader.expectEnd()
            guard description.group == source.group, description.base == .zero else {
                throw DecodingFailure(
                    expected: "the whole state of \(source.group.words)",
                    found: "that of \(description.group.words) after \(description.base)")
            }
            let head = SnapshotFileHead(
                cluster: state.withLock { $0.map.cluster }, host: source.host.id, snapshot: source.snapshot,
                savedMilliseconds: UInt64(max(0, Date().timeIntervalSince1970 * 1_000)), description: description)
            return Start(head: head, bytes: 0, owners: ownershipCheck(source.group))
        } catch {
            throw ToolError(.fault, "host \(source.host.id) gave a description that can't be believed: \(error)")
        }
    }

    /// Takes a piece into what is known, if it is the one that was asked for.
    private func received(
        _ answer: SnapshotAnswer, _ state: inout Start, from source: SnapshotSource
    ) throws(ToolError) -> ReceivedPiece {
        let piece: ReceivedPiece
        do throws(SnapshotError) { piece = try ReceivedPiece(answer.piece, of: state.head.description) } catch {
            throw ToolError(.fault, "host \(source.host.id) gave a piece that can't be believed: \(error)")
        }
        guard piece.isLast == answer.isLast, piece.begins(behind: state.position) else {
            throw ToolError(.fault, "host \(source.host.id) gave another piece than the one that was asked for")
        }
        piece.add(to: &state.digest)
        state.owners.note(piece)
        state.pieces += 1
        state.position = piece.next
        return piece
    }

    /// Both ends have seen the same records, or nothing of it stays.
    private func compare(
        _ answer: SnapshotAnswer, _ state: Start, _ path: String, _ source: SnapshotSource
    ) throws(ToolError) {
        let description = state.head.description
        guard answer.digest == state.digest.value, state.digest.records == description.records else {
            unlink(path)
            throw ToolError(
                .badData,
                "\(source.group.words): host \(source.host.id) gave \(description.records) records with the digest "
                    + "\(hexadecimal(answer.digest)), what came has \(state.digest.records) and "
                    + "\(hexadecimal(state.digest.value)); it was deleted. Run the same command again")
        }
    }

    // MARK: - What is there

    /// A whole file of an earlier run, read through.
    private func check(_ path: String, _ group: GroupID) throws(ToolError) -> (SavedGroup, OwnershipCheck) {
        let cluster = state.withLock { $0.map.cluster }
        return try SaveDirectory.read(path) { reader, bytes in
            var owners = ownershipCheck(group)
            while let piece = try reader.next() { owners.note(piece) }
            let end = try reader.finish()
            try Self.expect(reader.head, cluster, group, path)
            return (
                SavedGroup(
                    host: reader.head.host, savedMilliseconds: reader.head.savedMilliseconds, bytes: bytes,
                    digest: end.digest, description: reader.head.description), owners
            )
        }
    }

    private static func expect(
        _ head: SnapshotFileHead, _ cluster: ClusterID, _ group: GroupID, _ path: String
    ) throws(ToolError) {
        guard head.cluster == cluster, head.description.group == group else {
            throw ToolError(
                .usage,
                "\(path) is of group \(head.description.group) of cluster \(head.cluster), expected group \(group) of "
                    + "\(cluster): name another directory")
        }
    }

    /// What is sound of a file that was not finished; nil if it is nothing. One that ends behind its last piece is begun
    /// anew: what the host said of it is lost.
    private func resume(_ path: String, _ group: GroupID) throws(ToolError) -> Start? {
        guard FileManager.default.fileExists(atPath: path) else { return nil }
        let cluster = state.withLock { $0.map.cluster }
        var start: Start?
        do throws(ToolError) {
            try SaveDirectory.read(path) { reader, _ in
                try Self.expect(reader.head, cluster, group, path)
                var owners = ownershipCheck(group)
                func take() {
                    guard reader.pieces > 0, !reader.hasAllPieces else { return start = nil }
                    start = Start(
                        head: reader.head, bytes: reader.soundBytes, pieces: reader.pieces, digest: reader.digest,
                        position: reader.nextPosition, owners: owners)
                }
                while let piece = try reader.next() {
                    owners.note(piece)
                    take()
                }
                start = nil
            }
        } catch {
            guard error.status == .badData else { throw error }
        }
        return start
    }

    /// The map as the meta group's saved state has it.
    func savedMap(_ saved: SavedGroup) throws(ToolError) -> ClusterMap {
        let cluster = state.withLock { $0.map.cluster }
        return try SaveDirectory.read(directory.path(saved.fileName)) { reader, _ in
            var records: [MetaRecord] = []
            while let piece = try reader.next() {
                for record in piece.records where record.key.slot == .group && record.key.machine == .meta {
                    records.append(MetaRecord(key: record.key.key, value: record.value))
                }
            }
            do throws(DecodingFailure) {
                if let map = try MetaMachine(restoring: records).map {
                    guard map.cluster == cluster else {
                        throw DecodingFailure(
                            expected: "the map of cluster \(cluster)", found: "that of cluster \(map.cluster)")
                    }
                    return map
                }
            } catch {
                throw ToolError(.badData, "the meta group's state can't be read: \(error)")
            }
            throw ToolError(.unavailable, "the meta group has no map yet: run this again, in an empty directory")
        }
    }
}
