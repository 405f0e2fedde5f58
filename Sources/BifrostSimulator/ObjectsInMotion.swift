// Objects of data types on their way from group to group, with the slots that have them: what the model of one group hands to
// that of another.

import DataTypes
import Primitives
import StateMachines

/// What set a timer: an entry of a log, here or where its object was then.
struct ObjectTimer: Equatable {
    var index: LogIndex
    /// `.meta`: here.
    var origin = GroupID.meta

    init(_ index: LogIndex) { self.index = index }
    init(_ deadline: DeadlineKey) { (index, origin) = (deadline.index, deadline.origin) }

    func arrived(from group: GroupID) -> ObjectTimer {
        var timer = self
        if origin == .meta { timer.origin = group }
        return timer
    }
}

/// With who has something of them: sessions by the numbers that they have in the group where it was got.
struct MovedObjects {
    var values: [Bytes: DataTypeModel.Entry] = [:]
    var numbers: [Bytes: NumberState] = [:]
    var maps: [Bytes: [Bytes: DataTypeModel.Entry]] = [:]
    var sets: [Bytes: Set<Bytes>] = [:]
    var latches: [Bytes: LatchModel] = [:]
    var queues: [Bytes: QueueModel] = [:]
    var arrays: [Bytes: (items: [ArrayModel.Item], lastID: UInt64)] = [:]
    var permits: [PermitName: PermitModel] = [:]
    var memberships: [Bytes: MembershipModel] = [:]
    var barriers: [Bytes: BarrierModel] = [:]
    var highest: [GuardName: UInt64] = [:]
    /// Of the queue whose items sessions have, if it is among them.
    var ledger: QueueLedger?
    /// Who has something in which of the slots.
    var holders: [SessionID: Set<Slot>] = [:]
}

/// Between the entry that releases slots, which one replica at least has applied, and the one that activates them.
final class ObjectsInMotion {
    struct Route {
        var source: GroupID
        var clock: MigrationClock
    }

    var routes: [MigrationID: Route] = [:]
    var objects: [MigrationID: MovedObjects] = [:]
    /// Some client goes by it that it has what it got in this slot by this session.
    var isTakenForHeld: (SessionID, Slot) -> Bool = { _, _ in false }
}
