// Writers that are slowed where a migration does not converge: as long as they write as fast as the target takes in, each round
// brings as much as the one before, and what is left for the last one, behind the freeze, never gets little. So the source's
// leader delays commands on the slots that move, and on no others, a step longer with each round that is not smaller, up to
// a bound. Counted in ticks: who replays what came gets the same.

import Messages
import Primitives
import Ring
import StateMachines

/// How long commands on the slots of a migration are delayed, as its rounds go.
struct WriterBrake: Sendable {
    /// Rounds that were begun, what the last one has brought so far, and all of the one before.
    private var rounds = 0
    private var bytes = 0
    private var bytesBefore = 0
    private var base = LogIndex.zero
    /// 0: they are not delayed.
    private(set) var step = 0

    /// Each twice as long as the one before.
    private static let firstMillis: UInt64 = 25
    static let stepsMax = 5
    /// Rounds that any migration may take: the first brings all, and each next one what came meanwhile.
    private static let roundsFree = 4

    /// The longest delay that there is.
    static var millisMax: UInt64 { firstMillis << UInt64(stepsMax - 1) }

    /// 0: none.
    var millis: UInt64 { step == 0 ? 0 : Self.firstMillis << UInt64(step - 1) }

    /// The target asks for the first page of a round. It may ask again.
    ///
    /// - Parameter littleBytes: a round that brings no more is small enough.
    /// - Returns: whether commands are delayed longer from now on.
    mutating func beginRound(behind base: LogIndex, littleBytes: Int) -> Bool {
        guard rounds == 0 || base != self.base else { return false }
        let isTooMuch = bytes > littleBytes && bytes > bytesBefore / 2
        let isSlowed = rounds >= Self.roundsFree && isTooMuch && step < Self.stepsMax
        if isSlowed { step += 1 }
        (bytesBefore, bytes) = (bytes, 0)
        rounds += 1
        self.base = base
        return isSlowed
    }

    /// A page of the round was given.
    mutating func give(_ count: Int) { bytes += count }
}

/// A command that waits for its time, or for a slot's gate to open.
struct SlowedWrite {
    var request: ExecuteRequest
    var call: CallToken
    var dueTick: UInt64
    var isAtGate = false
}

extension HostCore {
    /// Commands that are delayed at a time, and their bytes: beyond it, `overloaded`.
    static var slowedWritesMax: Int { 4_096 }
    static var slowedBytesMax: Int { 16 << 20 }

    /// Commands that were delayed since the start.
    package var writesSlowed: UInt64 { counts.writesSlowed }

    /// What the brake of a migration says of commands on the slot, in ticks; 0: they go on at once.
    func ticksToSlow(_ slot: Slot, _ replica: Replica) -> UInt64 {
        guard replica.drives > 0 else { return 0 }
        for drive in drives where drive.replica === replica && drive.side == .source && drive.brake.step > 0 {
            guard let task = replica.machine.ownership.task(drive.id), task.phase == .exporting, task.has(slot) else {
                continue
            }
            let nanoseconds = drive.brake.millis * 1_000_000
            return max(1, (nanoseconds + settings.tickNanoseconds / 2) / settings.tickNanoseconds)
        }
        return 0
    }

    /// It is looked at again, as if it came then.
    func slow(_ request: ExecuteRequest, _ call: CallToken, ticks: UInt64) {
        guard slowed.count < Self.slowedWritesMax, slowedBytes + request.payload.count <= Self.slowedBytesMax else {
            return refuse(call, overloaded)
        }
        counts.writesSlowed += 1
        hold(request, call, ticks: ticks, isAtGate: false)
    }

    private func hold(_ request: ExecuteRequest, _ call: CallToken, ticks: UInt64, isAtGate: Bool) {
        var request = request
        // It may be a small part of what came with it.
        request.payload = request.payload.compacted()
        slowedBytes += request.payload.count
        slowed.append(SlowedWrite(request: request, call: call, dueTick: tickCount + ticks, isAtGate: isAtGate))
    }

    func tickSlowed() {
        guard !slowed.isEmpty else { return }
        let all = slowed
        slowed = []
        for write in all {
            // Delays differ: what is due need not stand first.
            guard write.dueTick <= tickCount else {
                slowed.append(write)
                continue
            }
            slowedBytes -= write.request.payload.count
            execute(write.request, call: write.call, hasWaited: true)
        }
    }

    // MARK: Gates

    /// For which a command waits at a gate. Then it is answered, and comes again: its number would keep those behind it
    /// waiting, and a client takes who owes it answers for long for dead.
    private var gateTicks: UInt64 { max(1, 100_000_000 / settings.tickNanoseconds) }

    /// The slot is frozen, or not here yet. The step that ends that is on its way: who is sent away comes again after
    /// pauses that get longer, and would sleep on when the slot is served again. Among commands that are delayed, within
    /// their bounds; what is beyond them is sent away (false).
    func waitAtGate(_ request: ExecuteRequest, _ call: CallToken) -> Bool {
        guard slowed.count < Self.slowedWritesMax, slowedBytes + request.payload.count <= Self.slowedBytesMax else {
            return false
        }
        hold(request, call, ticks: gateTicks, isAtGate: true)
        return true
    }

    /// The group has come to another step of a migration: what waits at a gate that is another one now goes on as if it came
    /// now, in the order in which it came.
    func lookAtGates(of replica: Replica) {
        guard slowed.contains(where: { $0.isAtGate && $0.request.group == replica.group }) else { return }
        let all = slowed
        slowed = []
        for write in all {
            let gate = replica.machine.ownership.gate(of: write.request.slot)
            guard write.isAtGate, write.request.group == replica.group, gate != .frozen, gate != .arriving else {
                slowed.append(write)
                continue
            }
            slowedBytes -= write.request.payload.count
            execute(write.request, call: write.call, hasWaited: true)
        }
    }

    // MARK: Rounds

    /// The target begins a round: see whether it gets anywhere.
    func noteRound(_ drive: MigrationDrive, behind base: LogIndex, _ migration: MigrationRecord) {
        guard drive.brake.beginRound(behind: base, littleBytes: settings.migrationLittleBytes) else { return }
        effects.notices.append(
            "migration \(migration.id) does not converge: writes to its \(migration.slots.count) slots are delayed by "
                + "\(drive.brake.millis) ms each")
    }

    /// For who looks at the group's leader; nil: nobody is slowed.
    func words(onSlowedWritersOf replica: Replica) -> String? {
        guard replica.drives > 0,
            let drive = drives.first(where: { $0.replica === replica && $0.side == .source && $0.brake.step > 0 }),
            let task = replica.machine.ownership.task(drive.id), task.phase == .exporting
        else { return nil }
        return
            "delays writes to \(task.slots.count) slots by \(drive.brake.millis) ms, as migration \(drive.id) does not "
            + "converge"
    }
}
