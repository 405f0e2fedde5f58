// A cluster that is made of the states of one whose slots had moved.

import Bifrost
import BifrostHost
import Foundation
import HostCore
import Messages
import Primitives
import RPC
import Ring
import SnapshotFiles
import StateMachines
import Storage
import TestSupport
import Testing

@Suite(.ownExecutor) struct MovedSlotsRestorationTests {
    private static func brisk(_ settings: inout HostSettings) {
        settings.tickNanoseconds = 25_000_000
        settings.featureLevel = FeatureLevel.migrations
    }

    private struct SavedState {
        var description: SnapshotDescription
        var pieces: [Bytes] = []
        var owners = SavedOwnership()
    }

    /// As `bifrost snapshot save` asks for it, of whichever of these hosts gives it.
    private func state(of group: GroupID, at addresses: [String]) async throws -> SavedState {
        let probes = try addresses.map { Probe(try NetworkAddress($0)) }
        defer { for probe in probes { probe.close() } }
        var state: SavedState?
        var isOver = false
        var turn = 0
        var after: RecordKey?
        var number: UInt64 = 1
        try await wait(for: "the state of group \(group)") {
            if state == nil {
                turn += 1
                number += 1
            }
            let request = SnapshotRequest(
                group: group, snapshot: number, kind: .fetch,
                after: after.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key) })
            let bytes = try await probes[turn % probes.count].connection.request(
                service: ServiceNumber.data, method: DataMethod.snapshot, payload: request.encoded(),
                deadline: RPCClock.now() + 60_000_000_000)
            guard case .done(let result) = try Response<DataResult>(decoding: bytes) else { return false }
            let answer = try SnapshotAnswer(decoding: result.body)
            guard answer.countedRecords == nil else {
                // It is at it, and is to be asked again under the same number.
                turn -= 1
                number -= 1
                return false
            }
            if state == nil {
                var reader = ByteReader(answer.description)
                state = SavedState(description: try SnapshotDescription(from: &reader))
            }
            guard var now = state else { return false }
            let piece = try ReceivedPiece(answer.piece, of: now.description)
            piece.forEachPlace { slot, machine, copy in
                now.owners.note(slot, machine) {
                    let record = copy()
                    return (record.key.key, record.value)
                }
            }
            now.pieces.append(answer.piece)
            state = now
            after = piece.next
            isOver = answer.isLast
            return isOver
        }
        return try #require(state)
    }

    @Test func slotsThatHadMovedAreServedAndMoveOn() async throws {
        let keys = (0..<48).map { Bytes("{tag \($0)}") }
        try await withHosts(loops: [1, 2, 1], groups: 2, featureLevel: FeatureLevel.migrations, Self.brisk) { hosts in
            let (one, two) = (GroupID(1), GroupID(2))
            let moves = MovesOperator(addresses: hosts.addresses)
            let slots = Set(keys.map { Ring.slot(of: $0) }).sorted()
            let writer = try await hosts.client()
            for key in keys { try await writer.kv.put(key, "before") }
            // All to group 2, and half of them back.
            try await moves.move(slots, from: one, to: two)
            for key in keys { try await writer.kv.put(key, Bytes("\(key)")) }
            let half = slots.enumerated().filter { $0.offset % 2 == 0 }.map(\.element)
            try await moves.move(half, from: two, to: one)
            for key in keys.prefix(24) { try await writer.kv.put(key, "last") }
            await writer.close()

            let saved = try await moves.map()
            var states: [GroupID: SavedState] = [:]
            for group in [one, two] {
                let state = try await state(of: group, at: hosts.addresses)
                #expect(state.owners.problem(of: group, in: saved) == nil)
                states[group] = state
            }
            let address = hosts.addresses[0]
            await hosts.stopAll()

            // The same directory's address, on which nobody listens any more.
            let record = HostRecord(
                id: HostID(1), name: "restored", address: address, incarnation: Incarnation(4_711),
                featureLevel: FeatureLevel.migrations)
            let map = try RestorationPlan.map(
                of: saved, cluster: ClusterID(high: 11, low: 11), hosts: [record], replicas: 1,
                level: FeatureLevel.migrations)
            #expect(map.ring == saved.ring && map.version > saved.version)
            let path = hosts.directory.path + "/restored"
            do {
                let restoration = try HostRestoration(directory: path, host: record.id, map: map)
                for group in [one, two] {
                    let (state, new) = (try #require(states[group]), try #require(map.group(group)))
                    try restoration.begin(
                        RestorationPlan.description(state.description, of: new), replica: new.replicas[0].id)
                    for piece in state.pieces { try restoration.accept(piece) }
                    try restoration.finishGroup()
                }
                try restoration.complete()
            }
            let host = try await startHost(path, port: hosts.ports[0], Self.brisk)
            do {
                try await expectAll(keys, at: address, MovesOperator(addresses: [address]), slots)
            } catch {
                await host.stop(graceMilliseconds: 200)
                throw error
            }
            await host.stop(graceMilliseconds: 200)
        }
    }

    private func expectAll(
        _ keys: [Bytes], at address: String, _ moves: MovesOperator, _ slots: [Slot]
    ) async throws {
        var options = ClusterOptions()
        options.timeout = .seconds(180)
        options.connectTimeout = .seconds(180)
        let client = try await Cluster.connect(to: [address], options: options)
        var revisions: [Bytes: Revision] = [:]
        for (number, key) in keys.enumerated() {
            let found = try await client.kv.get(key)
            #expect(found?.value == (number < 24 ? "last" : Bytes("\(key)")))
            revisions[key] = try await client.kv.put(key, "restored")
            #expect(revisions[key] ?? .zero > found?.revision ?? .zero)
        }
        // Migrations of the new cluster are later ones than those which the groups remember.
        for (source, target) in [(GroupID(1), GroupID(2)), (GroupID(2), GroupID(1))] {
            try await moves.move(slots, from: source, to: target)
            for key in keys {
                let found = try await client.kv.get(key)
                #expect(found?.value == "restored" && found?.revision == revisions[key])
                revisions[key] = try await client.kv.put(key, "restored")
            }
        }
        await client.close()
    }
}
