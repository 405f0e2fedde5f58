// Looking at a cluster as a whole: its map, its hosts' status, all records of a group.

import ClientCore
public import Messages
import NIOCore
public import Primitives
import RPC
public import Ring
public import StateMachines

/// One host's answer to a question that was put to all.
public struct HostReport: Sendable {
    public var host: HostRecord
    public var status: Result<HostStatus, BifrostError>
    /// What it does for its own data; nil if it did not say, as an earlier version.
    public var upkeep: HostUpkeep?
}

extension Cluster {
    /// The cluster's map: hosts, groups, ring. As known here, or with `refresh` as the first host knows it that answers
    /// (never an older one than what is known here).
    public func map(refresh: Bool = false, timeout: Duration? = nil) async throws(BifrostError) -> ClusterMap {
        let deadline = RPCClock.now() + (timeout ?? options.timeout).nanoseconds
        let known = try await knownMap(deadline: deadline)
        guard refresh else { return known }
        var failure: BifrostError?
        for host in known.hosts {
            // A host that is down must not take the time of those that answer.
            let share = min(deadline, RPCClock.now() + 1_000_000_000)
            do throws(BifrostError) {
                let reply: MapReply = try await ask(
                    host.id, method: ClusterMethod.map, MapRequest(known: known.version), deadline: share)
                if case .map(let newer) = reply {
                    loop.eventLoop.execute { [loop] in loop.take(newer) }
                    if newer.cluster == known.cluster, newer.version > known.version { return newer }
                }
                return known
            } catch {
                failure = error
            }
        }
        throw failure ?? BifrostError(.unreachable, "the cluster's map names no hosts")
    }

    /// Every host's own account, in the order of the map; hosts are asked at the same time. A host that does not answer
    /// within the time, or that can't be connected to now, has an error in its place.
    public func status(timeout: Duration? = nil) async throws(BifrostError) -> [HostReport] {
        let deadline = RPCClock.now() + (timeout ?? options.timeout).nanoseconds
        let hosts = try await knownMap(deadline: deadline).hosts
        return await withTaskGroup(of: (Int, Result<HostStatus, BifrostError>, HostUpkeep?).self) { group in
            for (position, host) in hosts.enumerated() {
                group.addTask {
                    do throws(BifrostError) {
                        let status: HostStatus = try await self.ask(
                            host.id, method: ClusterMethod.status, StatusRequest(), deadline: deadline)
                        let upkeep: HostUpkeep? = try? await self.ask(
                            host.id, method: ClusterMethod.upkeep, UpkeepRequest(), deadline: deadline)
                        return (position, .success(status), upkeep)
                    } catch {
                        return (position, .failure(error), nil)
                    }
                }
            }
            var found = hosts.map {
                HostReport(host: $0, status: .failure(BifrostError(.cancelled, "not asked")), upkeep: nil)
            }
            for await (position, status, upkeep) in group {
                found[position].status = status
                found[position].upkeep = upkeep
            }
            return found
        }
    }

    /// All live records of a group, page by page, ascending by slot, machine and key. Each page is a read of its own:
    /// together they are not a snapshot, and what is written meanwhile may or may not be among them.
    public func pages(
        of group: GroupID, _ consistency: ReadConsistency = .linearizable, bytesMax: Int = 1 << 20,
        timeout: Duration? = nil
    ) -> RecordPages {
        RecordPages(
            cluster: self, group: group, consistency: consistency,
            bytesMax: UInt32(min(max(bytesMax, 1), Limits.pageBytesMax)), timeout: timeout)
    }

    /// Some of a group's sessions, ascending by id, with how much time each of them has left and what is kept for it; at
    /// most `SessionQuery.pageSessionsMax`. Each page is a read of its own.
    ///
    /// - Parameter first: where the page begins: `next` of the page before.
    /// - Throws: `invalid` if the host is of a version that does not say.
    public func sessions(
        of group: GroupID, from first: SessionID = .none, _ consistency: ReadConsistency = .linearizable,
        timeout: Duration? = nil
    ) async throws(BifrostError) -> SessionPage {
        let answer = try await perform(
            kind: .query, target: .group(group), reading: consistency, machine: .sessions,
            payload: SessionQuery(from: first).encoded(), timeout: timeout)
        do throws(DecodingFailure) {
            return try SessionPage(decoding: try DataResult(decoding: answer).body)
        } catch {
            throw BifrostError(malformed: error, place: BifrostError.Place(group: group))
        }
    }

    /// What a group's leader measured of it: bytes and operations of each of its slots. See `GroupLoad` for what they are
    /// and how exact.
    ///
    /// Cost: a confirmed read; some milliseconds of one of the leader's threads for each GB of the group's state, reading
    /// a hundredth of it; an answer of up to 14 bytes for each slot that has anything.
    ///
    /// - Throws: `invalid` if the leader's host is of a version that does not say.
    public func load(of group: GroupID, timeout: Duration? = nil) async throws(BifrostError) -> GroupLoad {
        let answer = try await perform(
            kind: .query, target: .group(group), reading: .linearizable, machine: .slotOwnership,
            payload: SlotLoadQuery().encoded(), timeout: timeout)
        do throws(DecodingFailure) {
            return try GroupLoad(decoding: try DataResult(decoding: answer).body)
        } catch {
            throw BifrostError(malformed: error, place: BifrostError.Place(group: group))
        }
    }

    /// How far the slots are that come to a group, as its leader knows it; ascending by migration.
    ///
    /// - Throws: `invalid` if the leader's host is of a version that does not say.
    public func migrations(to group: GroupID, timeout: Duration? = nil) async throws(BifrostError) -> [MigrationReport]
    {
        let answer = try await perform(
            kind: .query, target: .group(group), reading: .linearizable, machine: .slotOwnership,
            payload: MigrationsQuery().encoded(), timeout: timeout)
        do throws(DecodingFailure) {
            return try GroupMigrations(decoding: try DataResult(decoding: answer).body).reports
        } catch {
            throw BifrostError(malformed: error, place: BifrostError.Place(group: group))
        }
    }

    private func knownMap(deadline: Instant) async throws(BifrostError) -> ClusterMap {
        let result = await withCheckedContinuation {
            (continuation: CheckedContinuation<Result<ClusterMap, BifrostError>, Never>) in
            loop.eventLoop.execute { [loop] in
                loop.whenMapIsKnown(deadline: deadline) { continuation.resume(returning: $0) }
            }
        }
        return try result.get()
    }

    /// One question to one host's cluster service, which has to be there now.
    private func ask<Question: Message, Answer: Message>(
        _ host: HostID, method: UInt16, _ question: Question, deadline: Instant
    ) async throws(BifrostError) -> Answer {
        let connection = await withCheckedContinuation { (continuation: CheckedContinuation<RPCConnection?, Never>) in
            loop.eventLoop.execute { [loop] in continuation.resume(returning: loop.connection(to: host)) }
        }
        guard let connection else {
            throw BifrostError(.unreachable, "host \(host) is not in the map", place: BifrostError.Place(host: host))
        }
        let bytes: Bytes
        do throws(RPCError) {
            bytes = try await connection.request(
                service: ServiceNumber.cluster, method: method, payload: question.encoded(), deadline: deadline,
                isPatient: false)
        } catch {
            throw BifrostError(error, host: host)
        }
        do throws(DecodingFailure) {
            return try Answer(decoding: bytes)
        } catch {
            throw BifrostError(malformed: error, place: BifrostError.Place(host: host))
        }
    }
}

/// A group's records in pages. See `Cluster.pages`.
public struct RecordPages: AsyncSequence, Sendable {
    public typealias Element = PageResult
    public typealias Failure = BifrostError

    let cluster: Cluster
    let group: GroupID
    let consistency: ReadConsistency
    let bytesMax: UInt32
    let timeout: Duration?

    public func makeAsyncIterator() -> Iterator { Iterator(pages: self) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        let pages: RecordPages
        var from: RecordPosition?
        var isAtEnd = false

        init(pages: RecordPages) { self.pages = pages }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(BifrostError) -> PageResult? {
            guard !isAtEnd else { return nil }
            let request = PageRequest(
                group: pages.group, consistency: pages.consistency.onWire, from: from, bytesMax: pages.bytesMax)
            let answer = try await pages.cluster.perform(
                kind: .page, target: .group(pages.group), reading: pages.consistency, payload: request.encoded(),
                timeout: pages.timeout)
            let place = BifrostError.Place(group: pages.group)
            do throws(DecodingFailure) {
                let page = try PageResult(decoding: answer)
                from = page.next
                isAtEnd = page.next == nil
                return page
            } catch {
                throw BifrostError(malformed: error, place: place)
            }
        }
    }
}

extension Cluster {
    /// A command about sessions themselves, of a client that has none of its own (`hasSessions`): for
    /// measurements. Its answer's body.
    package func submit(
        _ command: SessionCommand, in group: GroupID, timeout: Duration?
    ) async throws(BifrostError) -> Bytes {
        let bytes = try await perform(
            kind: .command, target: .group(group), payload: command.payload(), isBare: true, timeout: timeout)
        do throws(DecodingFailure) { return try DataResult(decoding: bytes).body } catch {
            throw BifrostError(malformed: error, mayHaveHappened: true)
        }
    }
}
