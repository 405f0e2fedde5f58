// Locks, semaphores, elections and leases have this in common: somebody gets permits, or waits for them, for as long as the
// client's session lives. Owns the way from a wish to what is held; what is held is Held's affair.

import ClientCore
public import DataTypes
import Messages
public import Primitives
import Ring
import StateMachines

/// A permit object of a cluster.
package struct PermitObject<Machine: PermitMachine>: Sendable {
    let object: ReliableObject

    package init(_ cluster: Cluster, _ name: Bytes) {
        // A lock is given back whatever became of the one that guards the rest.
        object = ReliableObject(cluster: cluster, name: name, isBare: true)
    }

    /// - Parameters:
    ///   - wait: zero: not at all; nil: as long as it takes.
    /// - Returns: nil: others have what was wanted, and that did not change within the time.
    package func acquire(
        permits: UInt32, limit: UInt32, wait: Duration?, timeToLive: Duration?, value: Bytes
    ) async throws(BifrostError) -> Held? {
        guard value.count <= PermitLimits.valueBytesMax else {
            throw BifrostError(
                .tooLarge,
                "who holds something says at most \(PermitLimits.valueBytesMax) bytes of himself, not \(value.count)")
        }
        guard permits >= 1, permits <= PermitLimits.permitsMax, limit <= PermitLimits.permitsMax else {
            throw BifrostError(
                .invalid, "1 to \(PermitLimits.permitsMax) permits are possible, not \(permits) of \(limit)")
        }
        let waitMillis: UInt64 =
            try wait.map { wait throws(BifrostError) in
                wait > .zero ? try wait.timeToLiveMillis : 0
            } ?? .max
        let millis = try timeToLive?.timeToLiveMillis ?? 0
        let wish = PermitAcquire<Machine>(
            object.name, permits: permits, limit: limit, waitMillis: waitMillis, timeToLiveMillis: millis,
            wish: UInt64.random(in: 1...UInt64.max), value: value)
        let errand = Errand<Held?>()
        // Goes on by itself: nobody else could give back what it gets.
        object.cluster.errands.start { await ask(wish, errand) }
        return try await errand.value(within: wait.map { max($0, .zero) + object.cluster.options.timeout })
    }

    private func ask(_ wish: PermitAcquire<Machine>, _ errand: Errand<Held?>) async {
        let hold = object.cluster.hold(Ring.slot(of: object.name))
        defer { hold.release() }
        do throws(BifrostError) {
            let sentAt = ContinuousClock.now
            let (answer, revision) = try await object.submit(wish, timeout: errandTime)
            switch answer.state {
            case .busy: _ = errand.finish(.success(nil))
            case .granted: await deliver(answer, answer.token, revision, sentAt, wish, errand)
            case .queued:
                let waiting = Task { await standing(of: answer, from: revision, hold) }
                errand.whenAbandoned { waiting.cancel() }
                switch await waiting.value {
                case .granted(let token, let revision):
                    // Its time counts from the grant, and that is not known.
                    let sentAt = ContinuousClock.now
                    if wish.wish.timeToLiveMillis > 0 {
                        let renewal = PermitRenew<Machine>(
                            object.name, token: token, timeToLiveMillis: wish.wish.timeToLiveMillis)
                        guard try await object.submit(renewal, timeout: errandTime).answer else {
                            throw BifrostError(.lockLost, "\(object.name): it was over before this was known")
                        }
                    }
                    await deliver(answer, token, revision, sentAt, wish, errand)
                case .timedOut: _ = errand.finish(.success(nil))
                case .lost(let text): throw BifrostError(.lockLost, "\(object.name): \(text)")
                case .givenUp: await giveBack(wish)
                }
            }
        } catch {
            // Whatever became of it: nothing stays with nobody.
            let isWanted = errand.finish(.failure(error))
            guard error.mayHaveHappened || error.code == .lockLost || !isWanted else { return }
            await giveBack(wish)
        }
    }

    private func deliver(
        _ answer: PermitAnswer, _ token: UInt64, _ revision: Revision, _ sentAt: ContinuousClock.Instant,
        _ wish: PermitAcquire<Machine>, _ errand: Errand<Held?>
    ) async {
        let held = Held(
            self, token: token, session: answer.session, since: revision,
            timeToLive: wish.wish.timeToLiveMillis > 0 ? .milliseconds(wish.wish.timeToLiveMillis) : nil, sentAt: sentAt
        )
        guard !errand.finish(.success(held)) else { return }
        _ = try? await held.release()
    }

    /// In another session than that of the wish there is nothing to give back.
    private func giveBack(_ wish: PermitAcquire<Machine>) async {
        await seeThrough { () async throws(BifrostError) in
            _ = try await object.submit(
                PermitCancel<Machine>(object.name, wish: wish.wish.number), timeout: errandTime)
        }
    }

    package func giveBack(token: UInt64) async -> Result<Bool, BifrostError> {
        var result: Result<Bool, BifrostError>?
        await seeThrough { () async throws(BifrostError) in
            do throws(BifrostError) {
                result = .success(try await release(token: token, timeout: errandTime))
            } catch {
                result = .failure(error)
                throw error
            }
        }
        return result ?? .success(false)
    }

    // MARK: Waiting

    private enum Standing: Sendable {
        case granted(UInt64, Revision)
        case timedOut
        case lost(String)
        case givenUp
    }

    /// What becomes of a ticket, or of the session that it is of.
    private func standing(of answer: PermitAnswer, from revision: Revision, _ hold: SessionHold) async -> Standing {
        await withTaskGroup(of: Standing.self) { group in
            group.addTask { await told(of: answer, from: revision) }
            group.addTask {
                guard (try? await hold.lost(answer.session)) != nil else { return .givenUp }
                return .lost("the session in which it waited is lost")
            }
            let first = await group.next() ?? .givenUp
            group.cancelAll()
            return first
        }
    }

    private func told(of answer: PermitAnswer, from revision: Revision) async -> Standing {
        let record = RecordWatch(
            object: object, machine: Machine.number, key: Machine.ticketKey(object.name, answer.ticket))
        do throws(BifrostError) {
            return try await record.first(behind: revision) { (change) -> Standing? in
                switch change.kind {
                case .put:
                    guard let told = try? PermitTold(decoding: change.value), told.token > 0 else { return nil }
                    return .granted(told.token, change.revision)
                case .expired: return .timedOut
                case .deleted, .cleared: return .lost("its place among those who wait was given up")
                case .event: return nil
                }
            } asked: { () async throws(BifrostError) -> (Standing?, Revision) in
                let (found, revision) = try await object.query(
                    PermitTicket<Machine>(object.name, of: answer.session, ticket: answer.ticket))
                switch found.state {
                case .granted: return (.granted(found.token, revision), revision)
                case .over: return (.timedOut, revision)
                case .waiting: return (nil, revision)
                }
            }
        } catch {
            return error.code == .cancelled ? .givenUp : .lost("\(error)")
        }
    }

    // MARK: Looking

    package func listing(
        waiters: Bool, from: UInt64 = 0, _ consistency: ReadConsistency, timeout: Duration?
    ) async throws(BifrostError) -> PermitListing {
        try await object.query(
            PermitList<Machine>(object.name, waiters: waiters, from: from), consistency, timeout: timeout
        ).answer
    }

    package func release(token: UInt64, timeout: Duration?) async throws(BifrostError) -> Bool {
        try await object.submit(PermitRelease<Machine>(object.name, token: token), timeout: timeout).answer
    }

    package func watch(from start: WatchStart, patience: Duration?) -> PermitWatch {
        let object = object
        let base = Machine.holdersKey(object.name)
        return PermitWatch(
            watch: object.watch(
                machine: Machine.number, prefix: base, from: base, end: base.endOfPrefix, start: start,
                patience: patience,
                moment: { () async throws(BifrostError) in
                    try await object.query(PermitList<Machine>(object.name, entriesMax: 1)).revision
                },
                page: { (from) async throws(BifrostError) in
                    let first = PermitWatch.number(from[min(base.count, from.count)..<from.count])
                    let (listing, revision) = try await object.query(PermitList<Machine>(object.name, from: first))
                    return ScanPage(
                        records: listing.entries.map {
                            KeyValueScanPage.Record(
                                key: Machine.tokenRecord(object.name, $0.number),
                                value: PermitTold(holder: $0).encoded(), revision: revision)
                        }, next: listing.next.map { Machine.tokenRecord(object.name, $0) }, revision: revision)
                }))
    }
}

/// What a watch of a lock, semaphore, election or lease tells.
public struct PermitChange: Sendable {
    /// `put`: it was granted, or its holder says something else of himself.
    public var kind: ObjectChange<Bytes>.Kind
    /// Of the holder; 0 of `ready` and `progress`.
    public var token: UInt64
    /// Of `present` and `put`.
    public var holder: PermitEntry?
    /// Of the group, at which it happened.
    public var revision: Revision
    /// `WatchStart.after` this goes on behind what was told so far; nil while a snapshot is not complete.
    public var resume: Revision?
}

/// Who holds something, and what becomes of it, in the order of revisions. See `ObjectWatch`.
public struct PermitWatch: AsyncSequence, Sendable {
    public typealias Element = PermitChange
    public typealias Failure = BifrostError

    let watch: ObjectWatch<PermitTold>

    public func makeAsyncIterator() -> Iterator { Iterator(changes: watch.makeAsyncIterator()) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        var changes: ObjectWatch<PermitTold>.Iterator

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> PermitChange? {
            guard let change = try await changes.next(isolation: actor),
                let kind = ObjectChange<Bytes>.Kind(rawValue: change.kind.rawValue)
            else { return nil }
            let token = PermitWatch.number(change.element)
            return PermitChange(
                kind: kind, token: token, holder: change.value.map { PermitEntry(number: token, $0) },
                revision: change.revision, resume: change.resume)
        }
    }

    static func number(_ bytes: Bytes) -> UInt64 {
        guard bytes.count == 8 else { return 0 }
        return bytes.array.reduce(0) { $0 << 8 | UInt64($1) }
    }
}
