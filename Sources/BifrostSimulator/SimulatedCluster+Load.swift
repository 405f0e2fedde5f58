// What clients do, and what they find at the end.

import ClientCore
import Messages
import Primitives
import Ring
import StateMachines

extension SimulatedCluster {
    /// A key that has not many operations open: a checker's work doubles with each that is open at the same time.
    private func drawKey() -> UInt64? {
        for _ in 0..<4 {
            let key = world.random.below(UInt64(keys.count))
            if openOperations[Int(key)] < world.plan.openOperationsPerKeyMax { return key }
        }
        return nil
    }

    private func operationNanoseconds() -> UInt64 {
        150_000_000 + world.random.below(world.random.below(4) == 0 ? 4_000_000_000 : 900_000_000)
    }

    /// A program's request: of a query that need not be the leader's, some replica is asked.
    private func submit(
        _ request: SimulatedRequest, through client: SimulatedClient, nanoseconds: UInt64? = nil,
        _ ended: @escaping () -> Void
    ) {
        let owners = map.group(map.owner(of: slot(of: request.request.key)) ?? .meta)?.replicas ?? []
        let isPinned = !request.isCommand && !owners.isEmpty && request.consistency != .linearizable
        let host = isPinned ? owners[Int(world.random.below(UInt64(owners.count)))].host : HostID(0)
        submit(
            request, pinned: host, through: client, nanoseconds: nanoseconds ?? operationNanoseconds(), ended)
    }

    /// One random operation of a client; none if all keys are busy.
    func submitOperation(of client: SimulatedClient, _ ended: @escaping () -> Void) {
        // Not drawn where there is none: earlier seeds mean the same as before.
        if let workload, world.random.below(100) < world.plan.machinePercent,
            map.featureLevel >= FeatureLevel.machines
        {
            let time = operationNanoseconds()
            return submit(
                workload.next(random: &world.random), through: client, nanoseconds: time, ended)
        }
        if let dataTypes, world.random.below(100) < world.plan.dataTypePercent,
            map.featureLevel >= FeatureLevel.dataTypes
        {
            return submit(dataTypes.next(random: &world.random), through: client, ended)
        }
        // Not drawn where there are none: earlier seeds mean the same as before.
        if world.plan.leasePercent > 0, world.random.below(100) < world.plan.leasePercent,
            map.featureLevel >= FeatureLevel.deadlines
        {
            return submitLease(through: client, nanoseconds: 150_000_000 + world.random.below(2_000_000_000), ended)
        }
        guard let keyNumber = drawKey() else { return ended() }
        let key = keys[Int(keyNumber)]
        let number = operations.count
        let place = UInt64(client.place)
        openOperations[Int(keyNumber)] += 1
        let ended = { [unowned self] in
            openOperations[Int(keyNumber)] -= 1
            ended()
        }
        let dice = world.random.below(100)
        let time = 150_000_000 + world.random.below(world.random.below(4) == 0 ? 4_000_000_000 : 900_000_000)
        if dice < 45 || dice >= 90 {
            let header = CommandHeader(machine: .keyValue, sequence: nextSequence)
            nextSequence += 1
            let payload: Bytes
            // Not drawn where there are none: earlier seeds mean the same as before.
            if world.plan.conditionalPercent > 0, world.random.below(100) < world.plan.conditionalPercent {
                let kind = conditional(on: Int(keyNumber), isDelete: dice >= 90)
                note("client %h changes key %b if it is as it was seen, operation %c", place, keyNumber, UInt64(number))
                operations.append(SimulatedOperation(client: client.place, key: key, kind: kind, called: now))
                payload = Self.transaction(key, kind).payload(header: header)
            } else if dice < 45 {
                let value = value(padding: Int(world.random.below(UInt64(world.plan.valueBytesMax))))
                note("client %h puts value %b at key %c, operation %d", place, nextSequence, keyNumber, UInt64(number))
                payload = KeyValueCommand.put(key: key, value: value).payload(header: header)
                operations.append(SimulatedOperation(client: client.place, key: key, kind: .put(value), called: now))
            } else {
                note("client %h deletes key %b, operation %c", place, keyNumber, UInt64(number))
                payload = KeyValueCommand.delete(key: key).payload(header: header)
                operations.append(SimulatedOperation(client: client.place, key: key, kind: .delete, called: now))
            }
            client.submit(
                kind: .command, target: .slot(slot(of: key)), payload: payload, nanoseconds: time, number: number
            ) {
                [unowned self] result in
                end(number, result)
                ended()
            }
        } else {
            let reading = drawReading(of: key, by: client)
            // Not drawn where there are none: earlier seeds mean the same as before.
            if world.plan.scanPercent > 0, world.random.below(100) < world.plan.scanPercent {
                let tag = Self.tags[Int(keyNumber % 2)]
                note("client %h scans the keys of tag %b", place, keyNumber % 2)
                scan(tag, from: tag, through: client, reading, nanoseconds: time, ended)
                return
            }
            operations.append(SimulatedOperation(client: client.place, key: key, kind: .get, called: reading.called))
            if reading.host == HostID(0) {
                note("client %h gets key %b, operation %c", place, keyNumber, UInt64(number))
            } else {
                note(
                    "client %h gets key %b at host %d, operation %c", place, keyNumber, UInt64(number),
                    reading.host.rawValue)
            }
            let seen = client.seen
            client.submit(
                kind: .query, target: .slot(slot(of: key)), pinned: reading.host, consistency: reading.consistency,
                bound: reading.bound, payload: KeyValueQuery.get(key: key).encoded(), nanoseconds: time,
                called: reading.called
            ) { [unowned self] result in
                judge(result, of: key, reading, through: client, seen: seen)
                if reading.consistency == .session {
                    operations[number].called = min(reading.called, seen[client.answerer]?.called ?? 0)
                }
                if case .success = result, reading.host != HostID(0), !invariants.leads(reading.host, slot(of: key)) {
                    mark(.followerRead)
                }
                end(number, result)
                ended()
            }
        }
    }

    /// How a read is made.
    private struct Reading {
        var host: HostID
        var consistency: Consistency
        var bound: UInt32
        /// From when on it may be as if it had been made.
        var called: UInt64
    }

    private func drawReading(of key: Bytes, by client: SimulatedClient) -> Reading {
        // A third of the reads goes to some host, leader or not.
        let isPinned = world.random.below(3) == 0
        let owners = map.group(map.owner(of: slot(of: key)) ?? .meta)?.replicas ?? []
        let host = isPinned && !owners.isEmpty ? owners[Int(world.random.below(UInt64(owners.count)))].host : HostID(0)
        // By lease also from hosts that lead no more, and may not know it.
        let isByLease = world.plan.leaseReadsPercent > 0 && world.random.below(100) < world.plan.leaseReadsPercent
        // Not drawn where there are none: earlier seeds mean the same as before.
        let isStale =
            !isByLease && world.plan.staleReadsPercent > 0
            && world.random.below(100) < world.plan.staleReadsPercent
        let bound = isStale ? world.random.below(world.plan.staleMillisecondsMax) : 0
        let isInSession =
            !isByLease && !isStale && world.plan.sessionReadsPercent > 0
            && world.random.below(100) < world.plan.sessionReadsPercent
        // It may be as old as what its client was told.
        let group = map.owner(of: slot(of: key)) ?? .meta
        var called = isInSession ? client.seen[group]?.called ?? 0 : now
        if isStale {
            // It may answer as if it had come so much earlier, by the clock of whoever answers.
            let drift = world.plan.clockDriftMillionths
            called -= min(now, bound * 1_000_000 * 1_000_000 / (1_000_000 - drift) + 1)
        }
        return Reading(
            host: host,
            consistency: isByLease
                ? .lease : isStale ? .stale : isInSession ? .session : isPinned ? .linearizableAnywhere : .linearizable,
            bound: UInt32(bound), called: called)
    }

    /// A client's reads know what it was told before they began, by the group that answers: indices of one say nothing of
    /// another's.
    private func judge(
        _ result: Result<Bytes, OperationFailure>, of key: Bytes, _ reading: Reading, through client: SimulatedClient,
        seen: [GroupID: (index: LogIndex, called: UInt64)]
    ) {
        guard case .success(let bytes) = result, let told = DataResult.index(of: bytes) else { return }
        let seen = seen[client.answerer]?.index ?? .zero
        if reading.consistency == .session, told < seen {
            fail("reads in a session", "client \(client.place) reads \(key) at index \(told), and has seen \(seen)")
        }
    }

    static let tags: [Bytes] = ["{even}/", "{odd}/"]

    /// The next page of a scan, and those behind it: each one a read of each key in its range, all at one moment.
    private func scan(
        _ tag: Bytes, from first: Bytes, through client: SimulatedClient, _ reading: Reading, nanoseconds: UInt64,
        _ ended: @escaping () -> Void
    ) {
        let number = operations.count
        // The reading may have been drawn for a key of another group.
        var reading = reading
        let seen = client.seen
        if reading.consistency == .session {
            reading.called = seen[map.owner(of: slot(of: tag)) ?? .meta]?.called ?? 0
        }
        // What follows the / in the order of bytes.
        let end = Bytes(tag.array.dropLast() + [UInt8(ascii: "0")])
        let mine = keys.filter { $0 >= first && $0 < end }.sorted()
        for key in mine {
            operations.append(SimulatedOperation(client: client.place, key: key, kind: .get, called: reading.called))
        }
        let asked = KeyValueScan(
            from: first, end: end, recordsMax: UInt32(1 + world.random.below(12)),
            bytesMax: UInt32(50 + world.random.below(4_000)))
        client.submit(
            kind: .query, target: .slot(slot(of: tag)), pinned: reading.host, consistency: reading.consistency,
            bound: reading.bound, payload: KeyValueQuery.scan(asked).encoded(), nanoseconds: nanoseconds,
            called: reading.called
        ) { [unowned self] result in
            for place in number..<number + mine.count {
                operations[place].hasEnded = true
                operations[place].ended = now
                operations[place].outcome = .failed
                if reading.consistency == .session {
                    operations[place].called = min(reading.called, seen[client.answerer]?.called ?? 0)
                }
            }
            judge(result, of: tag, reading, through: client, seen: seen)
            guard case .success(let bytes) = result else { return ended() }
            let found: KeyValueScanPage
            do throws(DecodingFailure) {
                found = try KeyValueScanPage(decoding: try DataResult(decoding: bytes).body)
            } catch {
                fail("wire", "a page that can't be read: \(error)")
                return ended()
            }
            mark(.scan)
            let keysFound = found.records.map(\.key)
            let isInRange = keysFound.allSatisfy { key in mine.contains(key) && found.next.map { key < $0 } ?? true }
            if keysFound != keysFound.sorted() || Set(keysFound).count != keysFound.count || !isInRange {
                fail("scans", "from \(first), next \(String(describing: found.next)): \(keysFound)")
            }
            for (offset, key) in mine.enumerated() where found.next.map({ key < $0 }) ?? true {
                let record = found.records.first { $0.key == key }
                operations[number + offset].outcome = .found(record?.value, revision: record?.revision.rawValue)
            }
            acknowledged += 1
            guard let next = found.next else { return ended() }
            scan(tag, from: next, through: client, drawReading(of: tag, by: client), nanoseconds: nanoseconds, ended)
        }
    }

    /// The number of the command, and as many letters.
    private func value(padding: Int) -> Bytes {
        var digits = String(nextSequence)
        digits += " "
        return digits.withUTF8 { digits in
            Bytes(count: digits.count + padding) { bytes in
                bytes.copyMemory(from: UnsafeRawBufferPointer(digits))
                UnsafeMutableRawBufferPointer(rebasing: bytes[digits.count...])
                    .initializeMemory(as: UInt8.self, repeating: 120)
            }
        }
    }

    /// A change on a condition that holds often: what was seen last, or that there is nothing.
    private func conditional(on key: Int, isDelete: Bool) -> SimulatedOperation.Kind {
        let new = isDelete ? nil : value(padding: Int(world.random.below(UInt64(world.plan.valueBytesMax))))
        let seen = seen[key]
        if let revision = seen.revision, let was = seen.value, world.random.below(2) == 0 {
            return .putIfRevision(revision, was: was, to: new)
        }
        // To delete what is absent is no change, and has no revision of its own.
        guard seen.value != nil || new != nil else { return .putIf(value: nil, to: value(padding: 0)) }
        return .putIf(value: seen.value, to: new)
    }

    private static func transaction(_ key: Bytes, _ kind: SimulatedOperation.Kind) -> KeyValueTransaction {
        func change(to value: Bytes?) -> [KeyValueTransaction.Operation] {
            [value.map { .put(key: key, value: $0) } ?? .delete(key: key)]
        }
        switch kind {
        case .putIf(let expected, let value):
            return KeyValueTransaction(
                if: [.init(key, expected.map { .value($0) } ?? .absent)], then: change(to: value),
                otherwise: [.get(key: key)])
        case .putIfRevision(let revision, _, let value):
            return KeyValueTransaction(
                if: [.init(key, .revision(Revision(revision)))], then: change(to: value), otherwise: [.get(key: key)])
        case .put, .get, .delete, .machine: preconditionFailure("these have no condition")
        }
    }

    /// Whether the condition of a change held; nil if it has none. One that did not hold has read what is there, and is a
    /// get from here on: that says more than that it failed, and is judged like any other.
    private func conditionHeld(_ number: Int, _ result: DataResult) throws(DecodingFailure) -> Bool? {
        let kind = operations[number].kind
        switch kind {
        case .put, .get, .delete, .machine: return nil
        case .putIf, .putIfRevision: break
        }
        let outcome = try KeyValueOutcome(decoding: result.body)
        guard !outcome.holds else { return true }
        mark(.conditionFailed)
        var value: Bytes?
        var revision: UInt64?
        if case .found(let found, let at, _)? = outcome.readings.first { (value, revision) = (found, at.rawValue) }
        let isMet =
            switch kind {
            case .putIf(let expected, _): value == expected
            case .putIfRevision(let expected, _, _): revision == expected
            case .put, .get, .delete, .machine: false
            }
        if isMet {
            fail("conditions", "operation \(number) found what it asked for, and was not done: \(operations[number])")
        }
        operations[number].kind = .get
        operations[number].outcome = .found(value, revision: revision)
        return false
    }

    func end(_ number: Int, _ result: Result<Bytes, OperationFailure>) {
        operations[number].hasEnded = true
        switch result {
        case .failure(let failure):
            if failure.code == .invalid || failure.code == .tooLarge {
                fail("valid requests", "\(operations[number]): \(failure)")
            }
            guard !failure.mayHaveHappened else {
                note("operation %a ends, nobody knows how", UInt64(number))
                mark(.unknownOutcome)
                return
            }
            // Its entry was looked at, and came to that.
            if failure.code == .lockLost {
                note("operation %a: its token is over", UInt64(number))
                operations[number].outcome = .done(revision: nil)
                return
            }
            note("operation %a fails without effect", UInt64(number))
            mark(.certainFailure)
            operations[number].outcome = .failed
        case .success(let bytes):
            do throws(DecodingFailure) {
                let result = try DataResult(decoding: bytes)
                if let held = try conditionHeld(number, result) {
                    note("operation %a: its condition was looked at", UInt64(number))
                    if held { operations[number].outcome = .done(revision: result.revision.rawValue) }
                } else if operations[number].kind != .get {
                    note("operation %a is done", UInt64(number))
                    // A delete of what is absent changes nothing, and has no revision of its own.
                    let revision: UInt64? =
                        if case .put = operations[number].kind { result.revision.rawValue } else { nil }
                    operations[number].outcome = .done(revision: revision)
                } else {
                    switch try KeyValueReading(decoding: result.body) {
                    case .absent:
                        note("operation %a finds nothing", UInt64(number))
                        operations[number].outcome = .found(nil, revision: nil)
                    case .found(let value, let revision, _):
                        note("operation %a finds value %b", UInt64(number), Self.number(of: value))
                        operations[number].outcome = .found(value, revision: revision.rawValue)
                    }
                }
            } catch {
                fail("wire", "an answer that can't be read: \(error)")
            }
            acknowledged += 1
            let second = Int(now / 1_000_000_000)
            while acknowledgedInSecond.count <= second { acknowledgedInSecond.append(0) }
            acknowledgedInSecond[second] += 1
        }
        operations[number].ended = now
        noteSeen(operations[number])
    }

    /// What later conditions are about.
    private func noteSeen(_ operation: SimulatedOperation) {
        guard let key = keyNumbers[operation.key] else { return }
        switch (operation.kind, operation.outcome) {
        case (_, .found(let value, let revision)): seen[key] = (value, revision)
        case (.put(let value), .done(let revision)): seen[key] = (value, revision)
        case (.putIf(_, let value), .done(let revision)), (.putIfRevision(_, _, let value), .done(let revision)):
            seen[key] = (value, value == nil ? nil : revision)
        case (.delete, .done): seen[key] = (nil, nil)
        default: break
        }
    }

    /// The number of the command that wrote a value; 0 if it is none of ours.
    private static func number(of value: Bytes) -> UInt64 {
        var number: UInt64 = 0
        value.withUnsafeBytes { bytes in
            for byte in bytes {
                guard byte >= 48, byte <= 57, number < 1 << 56 else { return }
                number = number * 10 + UInt64(byte - 48)
            }
        }
        return number
    }

    /// All records of a group as one host has them, linearizably: one more read of each of its keys, of unknown outcome
    /// if the host's disks are damaged and it refuses.
    func readAll(of group: GroupID, at host: HostID, through client: SimulatedClient, _ ended: @escaping () -> Void) {
        let first = operations.count
        let mine = (keys + otherKeys).filter { map.owner(of: slot(of: $0)) == group }
        for key in mine {
            operations.append(SimulatedOperation(client: client.place, key: key, kind: .get, called: now))
        }
        readPage(of: group, at: host, through: client, from: nil, found: [:]) { [unowned self] found in
            guard let found else { return ended() }
            for (offset, key) in mine.enumerated() {
                operations[first + offset].ended = now
                operations[first + offset].hasEnded = true
                operations[first + offset].outcome = .found(
                    found[key]?.value, revision: found[key]?.revision.rawValue)
            }
            if let stranger = found.keys.sorted().first(where: { !mine.contains($0) && !Self.isLease($0) }) {
                fail("only what was written", "group \(group) at host \(host) has the key \(stranger)")
            }
            ended()
        }
    }

    private func readPage(
        of group: GroupID, at host: HostID, through client: SimulatedClient, from: RecordPosition?,
        found: [Bytes: PageRecord],
        _ ended: @escaping ([Bytes: PageRecord]?) -> Void
    ) {
        let request = PageRequest(
            group: group, consistency: .linearizableAnywhere, from: from,
            bytesMax: UInt32(100 + world.random.below(2_000)))
        client.submit(
            kind: .page, target: .group(group), pinned: host, consistency: .linearizableAnywhere,
            payload: request.encoded(),
            nanoseconds: 25_000_000_000
        ) { [unowned self] result in
            var found = found
            do {
                let page = try PageResult(decoding: try result.get())
                pagesRead += 1
                if map.migrations.isEmpty, let stray = page.records.first(where: { isAstray($0, in: group) }) {
                    fail("nothing is left behind", "group \(group) at host \(host) has \(stray)")
                }
                for record in page.records where record.position.machine == .keyValue {
                    if found.updateValue(record, forKey: record.position.key) != nil {
                        fail("pages", "group \(group) at host \(host) shows \(record.position.key) twice")
                    }
                }
                guard let next = page.next else { return ended(found) }
                readPage(of: group, at: host, through: client, from: next, found: found, ended)
            } catch {
                // What is damaged need not be served.
                if hosts[place(of: host)].isRotten { return ended(nil) }
                fail("reading back", "group \(group) at host \(host): \(error)")
            }
        }
    }

    /// It is of a slot of another group. What ends a record that is elsewhere finds none, and may stay until its time.
    private func isAstray(_ record: PageRecord, in group: GroupID) -> Bool {
        let place = record.position
        if place.slot < .group { return map.owner(of: place.slot) != group }
        guard place.machine == .deadlines, let deadline = try? Deadline(key: place.key, value: record.value),
            !deadline.endsARecord, let slot = deadline.slot
        else { return false }
        return map.owner(of: slot) != group
    }

    // MARK: Commands

    /// A client sends a command. Under one number there is one, and an operation may have several: what certainly had no
    /// effect goes under another.
    func sent(_ number: Int, as name: CommandName) {
        let known = commands.updateValue(number, forKey: name)
        if let known, known != number {
            fail("one number per command", "operations \(known) and \(number) go under the same: \(operations[number])")
        }
    }

    /// A committed entry is done, as the first of its number. False: a rule is broken.
    func takesEffect(_ name: CommandName, at index: LogIndex) -> Bool {
        guard let number = commands[name] else {
            fail("only what was written", "entry \(index) of group \(name.group) is a command that nobody sent")
            return false
        }
        effects[number, default: 0] += 1
        guard effects[number] == 1 else {
            fail("at most once", "operation \(number) takes effect again, in entry \(index): \(operations[number])")
            return false
        }
        return true
    }

    /// What clients were told of their commands against what stands in the logs.
    func judgeCommands() {
        invariants.judgeAnswers()
        for number in Set(commands.values).sorted() {
            let isDone = effects[number] != nil
            switch operations[number].outcome {
            case .failed:
                if isDone {
                    fail(
                        "failed is failed",
                        "operation \(number), called without effect, took effect: \(operations[number])")
                }
            // Also a condition that did not hold, and what was there instead.
            case .done, .found:
                if !isDone {
                    fail(
                        "nothing acknowledged is lost",
                        "operation \(number) took effect in no log: \(operations[number])")
                }
            case .unknown: break
            }
        }
    }
}

/// What an entry and the command in it have in common.
struct CommandName: Hashable {
    var group: GroupID
    /// `EntryMark.command`.
    var hash: UInt64
}
