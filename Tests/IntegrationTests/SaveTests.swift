// `bifrost snapshot save` against hosts that are pretended by this process, and so do what hosts seldom do: belong to
// another cluster, count for long, begin a state anew over and over, or go away.

import BifrostSimulator
import BifrostTool
import Foundation
import Messages
import NIOPosix
import Primitives
import RPC
import Ring
import SnapshotFiles
import StateMachines
import Storage
import Synchronization
import TestSupport
import Testing

/// One host that leads all groups of its cluster and has one state, which it gives as it is told.
private final class PretendedHost: RPCService {
    enum Reply {
        case answer(SnapshotAnswer)
        case refused(Refusal)
        /// Never.
        case silence
    }

    struct State {
        var map: ClusterMap?
        var isAway = false
        var hellos: [Hello] = []
        /// Numbers that were asked for a first piece, in order, and those that were released.
        var begun: [UInt64] = []
        var released: [UInt64] = []
        var questions = 0
    }

    let state = Mutex(State())
    private let reply: @Sendable (SnapshotRequest, inout State) -> Reply

    init(_ reply: @escaping @Sendable (SnapshotRequest, inout State) -> Reply) { self.reply = reply }

    func receive(_ call: InboundCall) {
        if call.service == ServiceNumber.cluster {
            let map = state.withLock { $0.isAway ? nil : $0.map }
            guard let map, call.method == ClusterMethod.map else { return call.reply.fail(.unavailable, "away") }
            return call.reply.respond(MapReply.map(map).encoded())
        }
        guard call.method == DataMethod.snapshot, let request = try? SnapshotRequest(decoding: call.payload) else {
            return call.reply.fail(.unknownMethod, "no such method")
        }
        guard let hello = call.connection?.hello else { return }
        let answer = state.withLock { state -> Reply in
            state.hellos.append(hello)
            if request.kind == .release {
                state.released.append(request.snapshot)
                return .answer(SnapshotAnswer(notYet: 0))
            }
            state.questions += 1
            if request.after == nil, state.begun.last != request.snapshot { state.begun.append(request.snapshot) }
            return reply(request, &state)
        }
        switch answer {
        case .answer(let answer):
            call.reply.respond(
                Response.done(DataResult(index: .zero, revision: .zero, body: answer.encoded())).encoded())
        case .refused(let refusal): call.reply.respond(Response<DataResult>.refused(refusal).encoded())
        case .silence: break
        }
    }
}

/// A group's state in pieces, as a host would read it.
private struct PretendedState: Sendable {
    var answers: [SnapshotAnswer] = []
    private var positions: [RecordPosition?] = []

    init(of group: GroupID) throws {
        let store = try Store(
            disk: SimulatedDisk(seed: 1),
            formatting: StoreIdentity(cluster: ClusterID(high: 1, low: 2), host: HostID(1), journal: 9))
        func header(_ index: UInt64) -> ManifestHeader {
            ManifestHeader(
                group: group, replica: ReplicaID(7), index: LogIndex(index), term: Term(1), revision: Revision(index),
                logTime: LogTime(index), configuration: Configuration(voters: [ReplicaID(7)]), digest: 3, journal: 9,
                journalSequence: index)
        }
        try store.start(header(0))
        let memtable = Memtable()
        for number in 1...40 as ClosedRange<UInt64> {
            memtable.put(
                Record(
                    key: RecordKey(slot: Slot(1), machine: SubMachineNumber(1), key: Bytes("key \(100 + number)")),
                    revision: Revision(number), changed: LogIndex(number), value: "value"))
        }
        try store.checkpoint(memtable.freeze(), header(40))
        let reader = try SnapshotReader(store, #require(store.view(ReplicaID(7))), base: .zero)
        var description = ByteWriter()
        try reader.describe().encode(into: &description)
        let described = description.take()
        var digest: StateDigest? = StateDigest()
        var position: RecordKey?
        repeat {
            positions.append(
                position.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key) })
            let piece = try reader.piece(behind: position, bytesMax: 600, digest: &digest)
            position = piece.next
            answers.append(
                SnapshotAnswer(
                    isLast: position == nil, digest: position == nil ? digest?.value ?? 0 : 0,
                    description: answers.isEmpty ? described : Bytes(), piece: piece.bytes))
        } while position != nil
    }

    func answer(to request: SnapshotRequest) -> PretendedHost.Reply {
        guard let place = positions.firstIndex(of: request.after) else { return .refused(.invalid("no such piece")) }
        return .answer(answers[place])
    }
}

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct SaveTests {
        private static let cluster = ClusterID(high: 1, low: 2)
        private static let other = ClusterID(high: 3, low: 4)

        /// Saves group 1 of a cluster of one pretended host.
        private func save(
            _ words: [String] = [], from host: PretendedHost, identity: PeerIdentity? = nil, into directory: String,
            mapped: (NetworkAddress) -> ClusterMap = { Self.map(at: $0) }
        ) async throws -> ChildProcess.Result {
            let server = try await RPCServer.start(
                on: NetworkAddress(host: "127.0.0.1", port: 0), group: MultiThreadedEventLoopGroup.singleton,
                services: [(ServiceNumber.data, host), (ServiceNumber.cluster, host)],
                policy: FixedIdentityPolicy(
                    identity: identity
                        ?? PeerIdentity(cluster: Self.cluster, host: HostID(1), featureLevel: FeatureLevel.current)))
            host.state.withLock { $0.map = mapped(server.address) }
            let child = try ChildProcess(
                Executable.path(),
                ["snapshot", "save", "--group", "1", "--connect", "\(server.address)"] + words + [directory],
                output: .collected, errors: .collected)
            let result = await child.end(killAfter: .seconds(180))
            await server.stop(graceMilliseconds: 10)
            return result
        }

        private static func map(at address: NetworkAddress) -> ClusterMap {
            let groups = (0...1 as ClosedRange<UInt32>).map { number in
                let id = ReplicaID(UInt64(number) + 7)
                return GroupRecord(
                    id: GroupID(number), replicas: [ReplicaRecord(id: id, host: HostID(1))], preferredLeader: id)
            }
            return ClusterMap(
                cluster: cluster,
                hosts: [
                    HostRecord(id: HostID(1), name: "h", address: "\(address)", incarnation: Incarnation(1))
                ], groups: groups,
                ring: SlotTable(epoch: Epoch(1), owners: Array(repeating: GroupID(1), count: Slot.count)),
                nextHost: HostID(2), nextGroup: GroupID(2), nextReplica: ReplicaID(100))
        }

        private func withDirectory(_ body: (String) async throws -> Void) async throws {
            let path = "/var/tmp/bifrost-save-\(UUID().uuidString)"
            defer { try? FileManager.default.removeItem(atPath: path) }
            try await body(path)
        }

        @Test func aSaveNamesTheHostAndTheClusterThatItMeans() async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, _ in pieces.answer(to: request) }
                try await save(from: host, into: directory).expect(0)
                let hellos = host.state.withLock { $0.hellos }
                #expect(!hellos.isEmpty)
                #expect(hellos.allSatisfy { $0.identity.cluster == Self.cluster && $0.target == HostID(1) })
                #expect(host.state.withLock { $0.released } == host.state.withLock { $0.begun })
            }
        }

        /// A host of another cluster has the address by now: it has a group of the same number.
        @Test(arguments: [
            PeerIdentity(cluster: other, host: HostID(1)), PeerIdentity(cluster: cluster, host: HostID(2)),
            PeerIdentity(),
        ]) func nothingIsTakenFromAnotherHost(identity: PeerIdentity) async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, _ in pieces.answer(to: request) }
                let result = try await save(["--timeout", "5s"], from: host, identity: identity, into: directory)
                result.expect(4, saying: "group 1: nothing new from any host")
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == [])
            }
        }

        @Test func anUnfinishedSaveOfAnotherClusterIsNotGoneOnWith() async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, state in
                    state.questions < 2 ? pieces.answer(to: request) : .refused(.invalid("no more"))
                }
                try await save(["--timeout", "5s"], from: host, into: directory).expect(4)
                let name = "group-1.state.partial"
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == [name])
                let before = try Data(contentsOf: URL(fileURLWithPath: directory + "/" + name))
                // As a whole save would, whose first group is another one.
                try FileManager.default.moveItem(
                    atPath: directory + "/" + name, toPath: directory + "/group-9.state.partial")
                let stranger = PretendedHost { request, _ in pieces.answer(to: request) }
                let result = try await save(
                    from: stranger,
                    identity: PeerIdentity(cluster: Self.other, host: HostID(1), featureLevel: FeatureLevel.current),
                    into: directory
                ) { address in
                    var map = Self.map(at: address)
                    map.cluster = Self.other
                    return map
                }
                result.expect(64, saying: "unfinished save of cluster \(Self.cluster)", "of cluster \(Self.other)")
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == ["group-9.state.partial"])
                #expect(
                    try Data(contentsOf: URL(fileURLWithPath: directory + "/group-9.state.partial")) == before)
            }
        }

        /// With all hosts away the command ends within its time, and says who does not answer.
        @Test(arguments: [true, false]) func aSaveWithoutAnyHostEnds(isSilent: Bool) async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, state in
                    guard request.after == nil else {
                        state.isAway = true
                        return isSilent ? .silence : .refused(.unavailable("the host is stopping"))
                    }
                    return state.isAway ? .refused(.unavailable("the host is stopping")) : pieces.answer(to: request)
                }
                let clock = ContinuousClock()
                let began = clock.now
                let result = try await save(["--timeout", "5s", "--progress"], from: host, into: directory)
                result.expectLast(4, saying: "nothing new from any host within the time", "host 1")
                #expect(clock.now - began < .seconds(170))
                #expect(result.errorText.contains("group 1 waits: "), "\(result.errorText)")
                #expect(
                    try FileManager.default.contentsOfDirectory(atPath: directory) == ["group-1.state.partial"])
            }
        }

        @Test func aStateThatBeginsAnewOverAndOverIsGivenUp() async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, _ in
                    request.after == nil ? pieces.answer(to: request) : .refused(.invalid("no longer kept"))
                }
                try await save(from: host, into: directory).expect(
                    4, saying: "group 1: its state began anew 8 times", "no longer kept")
                #expect(host.state.withLock { $0.begun.count } == 8)
            }
        }

        /// What takes longer than the command would wait for an answer is asked for again, under the same number.
        @Test func aStateThatTakesLongToCountIsWaitedForAsLongAsTheHostGetsOn() async throws {
            let pieces = try PretendedState(of: GroupID(1))
            try await withDirectory { directory in
                let host = PretendedHost { request, state in
                    guard request.after == nil, state.questions <= 20 else { return pieces.answer(to: request) }
                    return .answer(SnapshotAnswer(notYet: UInt64(state.questions)))
                }
                // Longer altogether than its patience.
                try await save(["--timeout", "1s"], from: host, into: directory).expect(0)
                #expect(host.state.withLock { $0.begun.count } == 1)
            }
            // One that does not get on is given up, and told so.
            try await withDirectory { directory in
                let host = PretendedHost { _, _ in .answer(SnapshotAnswer(notYet: 5)) }
                let result = try await save(["--timeout", "1s"], from: host, into: directory)
                result.expect(4, saying: "host 1 looks through its state, 5 records so far")
                #expect(host.state.withLock { Set($0.released) == Set($0.begun) && $0.begun.count == 1 })
            }
        }

        /// Files of a save and of a restoration on a file system that has too little space.
        @Test(.enabled(if: SmallDisk.isPermitted)) func aFullDiskIsAFileThatCannotBeWritten() async throws {
            try await withCluster(hosts: 1, groups: 1) { cluster in
                var text = ""
                for number in 1...2_000 { text += "key \(number)\t\(String(repeating: "v", count: 4_000))\n" }
                try await cluster.bifrost("import", "-", input: Array(text.utf8)).expect(0)
                let disk = try #require(SmallDisk(bytes: 4 << 20, at: cluster.directory + "/small"))
                try await cluster.bifrost("snapshot", "save", disk.path + "/save").expect(
                    74, saying: "group-1.state.partial", "No space left on device", "are to be written there")
                let save = cluster.directory + "/save"
                try await cluster.bifrost("snapshot", "save", save).expect(0)
                for megabytes in [1, 4, 12] {
                    let target = try #require(
                        SmallDisk(bytes: megabytes << 20, at: cluster.directory + "/small-\(megabytes)"))
                    let result = try await cluster.local.command(
                        ["snapshot", "restore", save, "--host", "127.0.0.1:1=\(target.path)/x"], limit: .seconds(180))
                    result.expect(74, saying: "\(target.path)/x", "the states take some", "no host starts")
                }
            }
        }
    }
}

/// A file system in memory of so many bytes. Nil if this process may not mount.
private final class SmallDisk {
    let path: String

    init?(bytes: Int, at path: String) {
        self.path = path
        guard (try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)) != nil,
            Self.run("mount", "-t", "tmpfs", "-o", "size=\(bytes)", "tmpfs", path)
        else { return nil }
    }

    deinit {
        // Lazily: whoever still has a file open keeps it.
        _ = Self.run("umount", "-l", path)
        try? FileManager.default.removeItem(atPath: path)
    }

    private static func run(_ arguments: String...) -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }

    static let isPermitted = SmallDisk(bytes: 1 << 20, at: "/var/tmp/bifrost-small-\(UUID().uuidString)") != nil
}
