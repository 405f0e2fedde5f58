// A plan of rebalancing that is carried out: its steps, how far each is, and within which limits. Owns the record and the
// commands' effects on it. Which step's turn it is stands in Rebalancing+Driving, its bytes in Rebalancing+Encoding; what a
// step does to the cluster's map is the map's own affair.
//
//   waiting ──► underway ──► done
//      │  ▲         │
//      │  └ again ──┤  what it began came to nothing
//      └────────────┴──► failed, with a word; cancelled

public import Primitives

/// The rebalancing that is under way, or the last one there was. The meta group keeps it beside the map, of which it is no
/// part: who only looks for keys needs none of it.
public struct Rebalancing: Hashable, Sendable {
    /// How much may be done at a time.
    public struct Limits: Hashable, Sendable {
        /// Moves of slots and replicas that are under way at a time. Leads cost nothing, and do not count.
        public var concurrentMax: UInt32 = 4
        /// Of slots' records in a second, of all moves together: each gets an even part. 0: as much as hosts give. States of
        /// replicas that move have their hosts' own bound.
        public var bytesPerSecondMax: UInt64 = 0
        /// For which writers of slots may wait while these change hands: a move whose last round would take longer makes
        /// another one before. 0: as it comes.
        public var pauseMillisMax: UInt32 = 0

        public static let concurrentLimit: UInt32 = 64

        public init(concurrentMax: UInt32 = 4, bytesPerSecondMax: UInt64 = 0, pauseMillisMax: UInt32 = 0) {
            self.concurrentMax = concurrentMax
            self.bytesPerSecondMax = bytesPerSecondMax
            self.pauseMillisMax = pauseMillisMax
        }

        /// Of one migration.
        public var ofMigration: MigrationLimits {
            MigrationLimits(
                bytesPerSecondMax: bytesPerSecondMax == 0
                    ? 0 : max(bytesPerSecondMax / UInt64(max(concurrentMax, 1)), 1),
                pauseMillisMax: pauseMillisMax)
        }

        /// What is wrong with them, in words; nil if nothing is.
        public var problem: String? {
            guard concurrentMax > 0, concurrentMax <= Self.concurrentLimit else {
                return "1 to \(Self.concurrentLimit) moves at a time, not \(concurrentMax)"
            }
            return bytesPerSecondMax < ClusterMap.counterMax ? nil : "bytes per second are below 2^62"
        }
    }

    public struct Step: Hashable, Sendable {
        /// Numbers are part of the format.
        public enum State: UInt8, Hashable, Sendable, CaseIterable {
            case waiting = 1
            case underway = 2
            case done = 3
            case failed = 4
            case cancelled = 5
        }

        public var move: RebalancePlan.Move
        public var reason: RebalancePlan.Reason
        /// That are written for it, by the plan.
        public var bytes: UInt64
        public var state: State
        /// What it began last: the migration's number, or the new replica's; 0: nothing yet, or a lead.
        public var begun: UInt64
        /// How often it was begun.
        public var attempts: UInt8
        /// Why it failed, or the last attempt did. At most `wordBytesMax` bytes.
        public var word: String

        public init(
            _ move: RebalancePlan.Move, _ reason: RebalancePlan.Reason, bytes: UInt64, state: State = .waiting,
            begun: UInt64 = 0, attempts: UInt8 = 0, word: String = ""
        ) {
            self.move = move
            self.reason = reason
            self.bytes = bytes
            self.state = state
            self.begun = begun
            self.attempts = attempts
            self.word = word
        }

        public var isOver: Bool { state != .waiting && state != .underway }
    }

    /// What somebody wants of one that is under way.
    public enum Wish: Hashable, Sendable {
        /// No step is begun; what is under way goes on.
        case pause
        case resume
        /// No step is begun any more. What is under way is taken back as far as nothing is decided, and goes to its end
        /// otherwise.
        case cancel
        case limits(Limits)
    }

    /// What became of a step.
    public enum Report: Hashable, Sendable {
        /// Its change of the map is made, in the same entry of the log.
        case begun
        case done
        case failed(String)
        /// What it began came to nothing: it waits for its turn once more.
        case again(String)
        case cancelled
    }

    public var id: RebalancingID
    /// Of whoever began it: his plan that comes twice is begun once.
    public var token: UInt64
    /// The map's version that it was planned for.
    public var plannedVersion: UInt64
    public var limits: Limits
    public var isPaused: Bool
    public var isCancelled: Bool
    /// The meta group began it by itself (`AutoRebalancing`).
    public var isAutomatic: Bool
    /// In the order in which they are allowed. At least one.
    public var steps: [Step]

    public static let stepsMax = 1_024
    /// Of one step: slots that move in one go have little to move in their last round.
    public static let slotsOfStepMax = 512
    public static let wordBytesMax = 255
    /// A step that came to nothing so often fails.
    public static let attemptsMax: UInt8 = 3

    public init(
        id: RebalancingID, token: UInt64, plannedVersion: UInt64, limits: Limits = Limits(), isPaused: Bool = false,
        isCancelled: Bool = false, isAutomatic: Bool = false, steps: [Step]
    ) {
        self.id = id
        self.token = token
        self.plannedVersion = plannedVersion
        self.limits = limits
        self.isPaused = isPaused
        self.isCancelled = isCancelled
        self.isAutomatic = isAutomatic
        self.steps = steps
    }

    /// No step waits or is under way.
    public var isOver: Bool { steps.allSatisfy(\.isOver) }

    public func count(_ state: Step.State) -> Int { steps.reduce(0) { $0 + ($1.state == state ? 1 : 0) } }

    /// What is wrong with the record, in words; nil if nothing is.
    public var problem: String? {
        guard id != .none, id.rawValue < ClusterMap.counterMax else { return "its number is not between 1 and 2^62" }
        if let problem = limits.problem { return problem }
        return Self.problem(of: steps)
    }

    /// Of steps, by themselves.
    public static func problem(of steps: [Step]) -> String? {
        guard !steps.isEmpty, steps.count <= stepsMax else {
            return "it has \(steps.count) steps, not 1 to \(stepsMax)"
        }
        var bytes: UInt64 = 0
        for (place, step) in steps.enumerated() {
            func problem(_ what: String) -> String { "step \(place + 1) \(what)" }
            guard step.word.utf8.count <= wordBytesMax else { return problem("says more than \(wordBytesMax) bytes") }
            guard step.attempts <= attemptsMax else { return problem("was begun \(step.attempts) times") }
            guard step.bytes < ClusterMap.counterMax, step.begun < ClusterMap.counterMax else {
                return problem("has a number that is not below 2^62")
            }
            // Both are below 2^62.
            bytes += step.bytes
            guard bytes < ClusterMap.counterMax else { return "its steps write 2^62 bytes or more" }
            switch step.move {
            case .slots(let slots, let from, let to):
                guard from != to, from != .meta, to != .meta else {
                    return problem("moves slots from group \(from) to group \(to)")
                }
                guard !slots.isEmpty, slots.count <= slotsOfStepMax, slots[slots.count - 1] < Slot.group,
                    zip(slots, slots.dropFirst()).allSatisfy({ $0 < $1 })
                else { return problem("has no ascending slots, 1 to \(slotsOfStepMax)") }
            case .replica(_, let replica, let from, let to):
                guard from != to, replica != .none else { return problem("moves replica \(replica) to where it is") }
            case .leader(_, let from, let to):
                guard from != to else { return problem("moves a lead to where it is") }
            }
        }
        return nil
    }
}

extension Rebalancing {
    /// The steps of a plan as they are carried out: migrations of many slots are several. At most `stepsMax` of them, and as
    /// many as fit into `bytesMax` when they are encoded.
    ///
    /// - Returns: nil for `rest`: that is all of them; else how many steps of the plan are left for another time.
    public static func steps(of plan: RebalancePlan, bytesMax: Int) -> (steps: [Step], rest: Int?) {
        var steps: [Step] = []
        var room = bytesMax
        for (place, planned) in plan.steps.enumerated() {
            var pieces: [Step] = []
            if case .slots(let slots, let from, let to) = planned.move {
                var start = 0
                while start < slots.count {
                    let end = min(start + slotsOfStepMax, slots.count)
                    let share = planned.bytes / UInt64(slots.count) * UInt64(end - start)
                    pieces.append(
                        Step(.slots(Array(slots[start..<end]), from: from, to: to), planned.reason, bytes: share))
                    start = end
                }
            } else {
                pieces.append(Step(planned.move, planned.reason, bytes: planned.bytes))
            }
            let size = pieces.reduce(0) { $0 + $1.encodedBytes }
            guard steps.count + pieces.count <= stepsMax, size <= room else { return (steps, plan.steps.count - place) }
            room -= size
            steps += pieces
        }
        return (steps, nil)
    }

    /// What steps rest on in a map, as one number: the same if nothing has changed in what they touch. Owners and epochs of
    /// their slots and whether these are on their way, members and preferences of groups whose replicas or leads move, and
    /// of hosts that give and take, zone, weight and state.
    ///
    /// O(steps + slots), and one pass over the map's migrations.
    public static func ground(of steps: [Step], in map: ClusterMap) -> UInt64 {
        var sum = Ground()
        var isMoving = Array(repeating: false, count: Slot.count)
        for migration in map.migrations { for slot in migration.slots { isMoving[Int(slot.rawValue)] = true } }
        for step in steps {
            switch step.move {
            case .slots(let slots, let from, let to):
                for group in [from, to] {
                    sum.add(UInt64(group.rawValue), UInt64(map.group(group).map { $0.state.rawValue } ?? 0))
                }
                for slot in slots where slot < Slot.group {
                    sum.add(UInt64(slot.rawValue), map.owner(of: slot).map { UInt64($0.rawValue) + 1 } ?? 0)
                    sum.add(map.ring.epoch(of: slot).rawValue, isMoving[Int(slot.rawValue)] ? 1 : 0)
                }
            case .replica(let group, let replica, let from, let to):
                sum.add(map.group(group), map)
                sum.add(replica.rawValue, 0)
                for host in [from, to] { sum.add(map.host(host)) }
            case .leader(let group, let from, let to):
                sum.add(map.group(group), map)
                for host in [from, to] { sum.add(map.host(host)) }
            }
        }
        return sum.value
    }

    /// Folds numbers, in order.
    private struct Ground {
        var value: UInt64 = 0

        mutating func add(_ first: UInt64, _ second: UInt64) { value = mix(value ^ mix(first &+ mix(second &+ 1))) }

        mutating func add(_ host: HostRecord?) {
            guard let host else { return add(0, 0) }
            var zone = host.zone
            let hash = zone.withUTF8 { hash64(UnsafeRawBufferPointer($0)) }
            add(host.id.rawValue, UInt64(host.weight) << 8 | UInt64(host.state.rawValue))
            add(hash, 0)
        }

        mutating func add(_ group: GroupRecord?, _ map: ClusterMap) {
            guard let group else { return add(0, 0) }
            add(UInt64(group.id.rawValue), group.preferredLeader.rawValue)
            for replica in group.replicas {
                add(replica.id.rawValue, replica.host.rawValue)
                add(
                    UInt64(replica.role.rawValue) << 8 | UInt64(replica.membership.rawValue),
                    replica.successorOf.rawValue)
            }
        }
    }
}

extension Rebalancing {
    /// How a refusal of a plan begins whose ground has changed: who sent it plans anew.
    public static let staleWord = "the plan is stale"

    /// Puts somebody's wish into effect. False: it is so already.
    public mutating func take(_ wish: Wish) -> Bool {
        let before = self
        switch wish {
        case .pause: isPaused = true
        case .resume: isPaused = false
        case .cancel:
            isCancelled = true
            for place in steps.indices where steps[place].state == .waiting { steps[place].state = .cancelled }
        case .limits(let new): limits = new
        }
        return self != before
    }

    /// Writes down what became of a step. False: it is not its turn, and changes nothing.
    ///
    /// - Parameter begun: what the change of the map brought about, if it is that.
    public mutating func take(_ report: Report, of place: Int, begun: UInt64 = 0) -> Bool {
        guard steps.indices.contains(place), !steps[place].isOver else { return false }
        switch report {
        case .begun:
            guard steps[place].state == .waiting, !isPaused, !isCancelled, steps[place].attempts < Self.attemptsMax
            else { return false }
            steps[place].attempts += 1
            steps[place].begun = begun
            // Of a lead the map's change is all there is.
            if case .leader = steps[place].move {
                steps[place].state = .done
            } else {
                steps[place].state = .underway
            }
        case .done: steps[place].state = .done
        case .failed(let word):
            steps[place].state = .failed
            steps[place].word = Self.cut(word)
        case .again(let word):
            guard steps[place].state == .underway else { return false }
            steps[place].state = isCancelled ? .cancelled : .waiting
            steps[place].word = Self.cut(word)
        case .cancelled:
            guard isCancelled else { return false }
            steps[place].state = .cancelled
        }
        return true
    }

    /// The migration that a step began is called off as its source's log time stood still. That passes: it is written down,
    /// and does not count as an attempt, however often it comes about. False: no step began it, or it was written down
    /// before.
    ///
    /// The word is composed while an entry is applied, and stands in the record: it is part of the format, as all of its
    /// replicas have to write the same. Another wording needs another feature level.
    public mutating func note(_ migration: MigrationRecord) -> Bool {
        guard migration.lostTime != .none,
            let place = steps.firstIndex(where: { step in
                guard case .slots = step.move else { return false }
                return step.state == .underway && step.begun == migration.id.rawValue
            })
        else { return false }
        let word = Self.cut(
            Self.calledOffWord(migration.id) + ": " + migration.lostTime.words(of: migration.source))
        guard steps[place].word != word else { return false }
        steps[place].word = word
        steps[place].attempts -= min(steps[place].attempts, 1)
        return true
    }

    /// How the word of a step begins that `note` has written. Part of the format.
    static func calledOffWord(_ id: MigrationID) -> String { "migration \(id) was called off" }

    /// At most so many bytes, between characters.
    static func cut(_ word: String) -> String {
        guard word.utf8.count > wordBytesMax else { return word }
        var cut = ""
        var bytes = 0
        for character in word {
            bytes += character.utf8.count
            if bytes > wordBytesMax { break }
            cut.append(character)
        }
        return cut
    }
}
