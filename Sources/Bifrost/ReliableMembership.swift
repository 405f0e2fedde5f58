// Memberships of clients, as programs see them.

public import DataTypes
import Messages
public import Primitives
import Ring
public import StateMachines

extension Cluster {
    /// A membership: who belongs to it, who of them is online, and who leads.
    ///
    ///     let place = try await cluster.membership("workers").join("worker-7", metadata: "10.0.0.7:9000")
    public func membership(_ name: Bytes) -> ReliableMembership {
        ReliableMembership(object: ReliableObject(cluster: self, name: name, isBare: true))
    }
}

/// A membership with a name. Members are clients, not hosts. A member is one until it leaves; it is online as long as the
/// session of the client lives with which it came, so one that is gone is offline after `ClusterOptions.sessionTimeToLive`.
/// Of those online the one leads that has been so for the longest time. All functions throw `BifrostError`.
public struct ReliableMembership: Sendable {
    let object: ReliableObject
    public var name: Bytes { object.name }

    // MARK: The membership

    /// Makes it. Who joins makes it as well, unless told otherwise.
    ///
    /// - Returns: false: it was there before.
    @discardableResult
    public func create(timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try await object.submit(MembershipCreate(name), timeout: timeout).answer
    }

    /// Deletes it, with all its members.
    ///
    /// - Parameter force: also if some are online: these are put out first, 64 in each entry. Once begun this goes on by
    ///   itself, and nobody joins meanwhile.
    /// - Returns: false: there was none.
    /// - Throws: `conditionFailed`: members are online, and there was no `force`.
    @discardableResult
    public func delete(force: Bool = false, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        let first = try await object.submit(MembershipDelete(name, force: force), timeout: timeout).answer
        var left = first.online
        while left > 0 {
            // None that somebody makes meanwhile.
            let command = MembershipDelete(name, force: force, generation: first.generation)
            left = try await object.submit(command, timeout: timeout).answer.online
        }
        return first.generation > 0
    }

    // MARK: Members

    /// Joins, or comes online again, and stays so until what is returned is released, or forgotten, or lost.
    ///
    /// - Parameters:
    ///   - id: 1 to `MembershipLimits.idBytesMax` bytes; unique in the membership.
    ///   - metadata: what others see of it; `MembershipLimits.metadataBytesMax` bytes at most.
    ///   - stays: so long it is a member while it is offline, of the group's elapsed time; zero: it leaves then; nil: until
    ///     `leave`.
    ///   - creating: makes the membership if there is none.
    ///   - takingOver: where a member with this id is online in another session, that one is put offline.
    /// - Returns: the place. Who joins again from this client while it is online shares it, and it is online until all of
    ///   these are released. Its token guards commands on what lies beside the membership for as long as it is online
    ///   (`guarded(by:)`); `announce` changes its metadata; `release` puts it offline.
    /// - Throws: `conditionFailed`: there is no such membership, it is being deleted, or the member is online elsewhere.
    public func join(
        _ id: Bytes, metadata: Bytes = Bytes(), stays: Duration? = nil, creating: Bool = true,
        takingOver: Bool = true, timeout: Duration? = nil
    ) async throws(BifrostError) -> Held {
        try check(id, metadata)
        let staysMillis = try stays.map { stays throws(BifrostError) in
            stays > .zero ? try stays.timeToLiveMillis : 0
        }
        let command = MembershipJoin(
            name, as: id, creates: creating, takesOver: takingOver, staysMillis: staysMillis ?? .max,
            wish: UInt64.random(in: 1...UInt64.max), metadata: metadata)
        let errand = Errand<Held>()
        // Goes on by itself: nobody else could give up the place that it gets.
        object.cluster.errands.start { await join(command, errand) }
        return try await errand.value(within: timeout ?? object.cluster.options.timeout)
    }

    private func join(_ command: MembershipJoin, _ errand: Errand<Held>) async {
        let hold = object.cluster.hold(Ring.slot(of: name))
        defer { hold.release() }
        do throws(BifrostError) {
            let (answer, revision) = try await object.submit(command, timeout: errandTime)
            let held = Held(
                MemberWay(object: object, id: command.member, wish: command.wish), object,
                FencingToken(answer.token, of: name, machine: MembershipMachine.number), session: answer.session,
                since: revision)
            guard !errand.finish(.success(held)) else { return }
            _ = try? await held.release()
        } catch {
            let isWanted = errand.finish(.failure(error))
            guard error.mayHaveHappened || !isWanted else { return }
            await seeThrough { () async throws(BifrostError) in
                _ = try await object.submit(
                    MembershipLeave(name, command.member, leaves: false, .own(wish: command.wish)),
                    timeout: errandTime)
            }
        }
    }

    private func check(_ id: Bytes, _ metadata: Bytes) throws(BifrostError) {
        guard !id.isEmpty, id.count <= MembershipLimits.idBytesMax else {
            throw BifrostError(
                id.isEmpty ? .invalid : .tooLarge,
                "a member's id has 1 to \(MembershipLimits.idBytesMax) bytes, not \(id.count)")
        }
        guard metadata.count <= MembershipLimits.metadataBytesMax else {
            throw BifrostError(
                .tooLarge,
                "a member says at most \(MembershipLimits.metadataBytesMax) bytes of itself, not \(metadata.count)")
        }
    }

    /// Does `body` as a member that is online, and goes offline behind it, whatever it comes to. If the place is lost
    /// meanwhile the body's task is cancelled. As `join`.
    ///
    /// - Throws: what the body throws; `lockLost`: the place was lost before the body ended.
    public func withMembership<Result: Sendable>(
        as id: Bytes, metadata: Bytes = Bytes(), stays: Duration? = nil,
        _ body: @escaping @Sendable (Held) async throws -> Result
    ) async throws -> Result {
        try await join(id, metadata: metadata, stays: stays).during(renewing: false, body)
    }

    /// It is no member any more, online or not, whoever asks.
    ///
    /// - Returns: false: there was no such member.
    @discardableResult
    public func leave(_ id: Bytes, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try check(id, Bytes())
        return try await object.submit(MembershipLeave(name, id), timeout: timeout).answer
    }

    /// Puts a member offline, whoever's it is.
    ///
    /// - Returns: false: no such member was online.
    @discardableResult
    public func putOffline(_ id: Bytes, timeout: Duration? = nil) async throws(BifrostError) -> Bool {
        try check(id, Bytes())
        return try await object.submit(MembershipLeave(name, id, leaves: false), timeout: timeout).answer
    }

    // MARK: Looking

    /// The membership, and a page of its members by their ids, online or not.
    ///
    /// - Parameter from: `next` of the page before.
    public func members(
        from: Bytes = Bytes(), _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> MembershipListing {
        try await object.query(MembershipList(name, from: from), consistency, timeout: timeout).answer
    }

    /// The same of those alone that are online, in the order in which they came.
    public func online(
        from: Bytes = Bytes(), _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> MembershipListing {
        try await object.query(MembershipList(name, online: true, from: from), consistency, timeout: timeout).answer
    }

    /// A member; nil: there is none with this id.
    public func member(
        _ id: Bytes, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> MembershipMember? {
        try check(id, Bytes())
        let listing = try await object.query(
            MembershipList(name, from: id, entriesMax: 1), consistency, timeout: timeout
        ).answer
        return listing.entries.first { $0.id == id }
    }

    /// Who leads; nil: nobody is online.
    public func leader(
        _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> MembershipMember? {
        try await object.query(MembershipList(name, entriesMax: 1), consistency, timeout: timeout).answer.leader
    }

    /// Waits until a member that came online with `join` leads.
    ///
    /// - Returns: the token of its leadership, which stands as long as it leads: a guard for commands on what lies beside
    ///   the membership.
    /// - Throws: `lockLost`: it is online no more. `invalid`: it is of another membership.
    public func leadership(of place: Held) async throws(BifrostError) -> FencingToken {
        guard place.token.name == name, place.token.machine == MembershipMachine.number else {
            throw BifrostError(.invalid, "\(place.token.name): no place in \(name)")
        }
        let leads = Task { () -> Result<UInt64, BifrostError> in
            do throws(BifrostError) { return .success(try await epoch(of: place)) } catch { return .failure(error) }
        }
        let lost = Task {
            try await place.lost()
            leads.cancel()
        }
        defer { lost.cancel() }
        let result = await withTaskCancellationHandler {
            await leads.value
        } onCancel: {
            leads.cancel()
        }
        do throws(BifrostError) {
            return FencingToken(try result.get(), of: name, machine: MembershipMachine.number)
        } catch {
            guard error.code == .cancelled, !Task.isCancelled else { throw error }
            throw BifrostError(.lockLost, "\(name): the member is online no more")
        }
    }

    private func epoch(of place: Held) async throws(BifrostError) -> UInt64 {
        let record = RecordWatch(
            object: object, machine: MembershipMachine.number, key: MembershipMachine.leaderKey(name))
        return try await record.first { (change) -> UInt64? in
            guard let told = try? MembershipTold(decoding: change.value) else { return nil }
            return told.member?.token == place.token.number ? told.version : nil
        } asked: { () async throws(BifrostError) -> (UInt64?, Revision) in
            let (listing, revision) = try await object.query(MembershipList(name, entriesMax: 1))
            return (listing.leader?.token == place.token.number ? listing.epoch : nil, revision)
        }
    }

    /// Who is there, and what becomes of it.
    public func watch(from start: WatchStart = .snapshot, patience: Duration? = nil) -> MembershipWatch {
        MembershipWatch(object: object, start: start, patience: patience)
    }
}

/// A member's place, for as long as it is online.
private struct MemberWay: HeldWay {
    let object: ReliableObject
    let id: Bytes
    /// The client's own number for it.
    let wish: UInt64

    var timeout: Duration { object.cluster.options.timeout }

    func giveBack(token: UInt64) async -> Result<Bool, BifrostError> {
        var result: Result<Bool, BifrostError>?
        await seeThrough { () async throws(BifrostError) in
            let command = MembershipLeave(object.name, id, leaves: false, .token(token, wish: wish))
            do throws(BifrostError) {
                result = .success(try await object.submit(command, timeout: errandTime).answer)
            } catch {
                result = .failure(error)
                throw error
            }
        }
        return result ?? .success(false)
    }

    /// It lives as long as its session.
    func renew(token: UInt64, _: Duration, timeout: Duration?) async throws(BifrostError) -> Bool { true }

    func announce(token: UInt64, _ value: Bytes, timeout: Duration?) async throws(BifrostError) -> Bool {
        guard value.count <= MembershipLimits.metadataBytesMax else {
            throw BifrostError(
                .tooLarge,
                "a member says at most \(MembershipLimits.metadataBytesMax) bytes of itself, not \(value.count)")
        }
        let command = MembershipUpdate(object.name, id, .token(token), metadata: value)
        return try await object.submit(command, timeout: timeout).answer
    }

    func isOver(token: UInt64, after revision: Revision) async -> Bool {
        let record = RecordWatch(
            object: object, machine: MembershipMachine.number,
            key: Bytes(MembershipMachine.membersKey(object.name).array + id.array), isSteadfast: true)
        do throws(BifrostError) {
            return try await record.first(behind: revision) { (change) -> Bool? in
                guard change.kind == .put else { return true }
                guard let told = try? MembershipTold(decoding: change.value) else { return nil }
                return told.member?.token == token ? nil : true
            } asked: { () async throws(BifrostError) -> (Bool?, Revision) in
                let (found, revision) = try await object.query(MembershipList(object.name, from: id, entriesMax: 1))
                let isThere = found.entries.first.map { $0.id == id && $0.token == token } ?? false
                return (isThere ? nil : true, revision)
            }
        } catch {
            return error.code == .closed
        }
    }
}
