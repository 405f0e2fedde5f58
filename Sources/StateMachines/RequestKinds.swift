// All kinds of requests that come to a host from outside, and what each needs its sender to be allowed. Nothing here has a default:
// a new method, command or query does not compile before it is said what it needs. Which keys a request names is found out in
// Permissions.

import Messages
public import Ring

/// What kinds of requests need, before their keys are known.
public enum PermissionRule: Hashable, Sendable {
    /// As the command, query or range in it needs.
    case byContent
    /// To be a user, whatever he may do.
    case user
    /// Verbs on some key, whichever.
    case something(VerbSet)
    /// Verbs on all keys that it names.
    case named(VerbSet)
    /// Verbs on everything.
    case everything(VerbSet)
    /// Hosts alone: refused from clients.
    case hosts
}

/// A method of a service that clients call.
public enum ServiceCall: String, Hashable, Sendable, CaseIterable {
    case execute, query, page, snapshot, watch
    case map, status, initialise, ping, join, administer, transfer, upkeep, rebalancing

    public var service: UInt16 {
        switch self {
        case .execute, .query, .page, .snapshot, .watch: ServiceNumber.data
        case .map, .status, .initialise, .ping, .join, .administer, .transfer, .upkeep, .rebalancing:
            ServiceNumber.cluster
        }
    }

    public var method: UInt16 {
        switch self {
        case .execute: DataMethod.execute
        case .query: DataMethod.query
        case .page: DataMethod.page
        case .snapshot: DataMethod.snapshot
        case .watch: DataMethod.watch
        case .map: ClusterMethod.map
        case .status: ClusterMethod.status
        case .initialise: ClusterMethod.initialise
        case .ping: ClusterMethod.ping
        case .join: ClusterMethod.join
        case .administer: ClusterMethod.administer
        case .transfer: ClusterMethod.transfer
        case .upkeep: ClusterMethod.upkeep
        case .rebalancing: ClusterMethod.rebalancing
        }
    }

    /// nil: none that clients may call.
    public init?(service: UInt16, method: UInt16) {
        guard let call = Self.allCases.first(where: { $0.service == service && $0.method == method }) else {
            return nil
        }
        self = call
    }

    public var rule: PermissionRule {
        switch self {
        case .execute, .query, .watch, .administer: .byContent
        // A group's records have those of sessions among them, whose ids are as good as their owners, and of the meta group the
        // hashes of tokens.
        case .page, .snapshot: .everything(.admin)
        case .map, .ping: .user
        case .status, .upkeep, .rebalancing: .everything(.read)
        // A host of no cluster has no policy yet, and takes it from anybody.
        case .initialise, .join, .transfer: .everything(.admin)
        }
    }
}

/// A command of a group's log, or a part of one, that comes by `execute`.
public enum CommandKind: String, Hashable, Sendable, CaseIterable {
    case put, delete
    case transactionCondition, transactionPut, transactionDelete, transactionGet
    case sessionOpen, sessionKeepAlive, sessionClose, sessionExpire, sessionTakeOver, sessionHold
    /// The lock's name, of a command behind a fencing token; what the command itself needs comes beside it.
    case guardLock
    /// Of a data type or of a user's machine.
    case machine
    /// The same, of one that says that it does not tell what is there.
    case machineWithoutAnswer
    case meta, configuration, slotOwnership, deadlines

    init(_ command: KeyValueCommand) {
        switch command {
        case .put: self = .put
        case .delete: self = .delete
        }
    }

    init(_ operation: KeyValueTransaction.Operation) {
        switch operation {
        case .put: self = .transactionPut
        case .delete: self = .transactionDelete
        case .get: self = .transactionGet
        }
    }

    init(_ command: SessionCommand) {
        switch command {
        case .open: self = .sessionOpen
        case .keepAlive: self = .sessionKeepAlive
        case .close: self = .sessionClose
        case .expire: self = .sessionExpire
        case .takeOver: self = .sessionTakeOver
        case .hold: self = .sessionHold
        }
    }

    public var rule: PermissionRule {
        switch self {
        case .put, .delete, .transactionPut, .transactionDelete: .named(.write)
        // Whether it held is told by the answer.
        case .transactionCondition, .transactionGet: .named(.read)
        // Who knows a session's id is its owner: ids are drawn at random, and only who administers is told of others'.
        case .sessionOpen, .sessionKeepAlive, .sessionClose, .sessionTakeOver, .sessionHold: .something(.write)
        // A token that was never given out would, where the lock is elsewhere, shut out those that were.
        case .guardLock: .named(.write)
        case .machine: .named([.read, .write])
        case .machineWithoutAnswer: .named(.write)
        case .sessionExpire, .meta, .configuration, .slotOwnership, .deadlines: .hosts
        }
    }
}

/// A query of a sub state machine.
public enum QueryKind: String, Hashable, Sendable, CaseIterable {
    case get, scan
    case sessions
    case slotLoad, migrations, slotContents
    /// Of a data type or of a user's machine.
    case machine

    init(_ query: KeyValueQuery) {
        switch query {
        case .get: self = .get
        case .scan: self = .scan
        }
    }

    public var rule: PermissionRule {
        switch self {
        case .get, .scan, .machine: .named(.read)
        // Ids are as good as their owners.
        case .sessions: .everything(.admin)
        case .slotLoad, .migrations, .slotContents: .everything(.read)
        }
    }
}

/// A command for the meta group, that comes by `administer`.
public enum AdministerKind: String, Hashable, Sendable, CaseIterable {
    case initialise, registerHost, recover
    case addReplica, setRole, settled, createGroup, deleteGroup, setHostState, removeHost, replaceReplica
    case raiseFeatureLevel, preferLeader, setGroupState, setHostWeight
    case migrate, commitMigration, migrationReleased, migrationActivated, abortMigration, migrationDone, limitMigration
    case beginRebalancing, setRebalancing, reportStep, setAuto
    case putRole, deleteRole, putUser, deleteUser, setAccessRequired

    public init(_ command: MetaCommand) {
        switch command {
        case .initialise: self = .initialise
        case .registerHost: self = .registerHost
        case .recover: self = .recover
        case .change(let change, _): self.init(change)
        case .beginRebalancing: self = .beginRebalancing
        case .setRebalancing: self = .setRebalancing
        case .reportStep: self = .reportStep
        case .setAuto: self = .setAuto
        }
    }

    public init(_ change: MapChange) {
        switch change {
        case .addReplica: self = .addReplica
        case .setRole: self = .setRole
        case .settled: self = .settled
        case .createGroup: self = .createGroup
        case .deleteGroup: self = .deleteGroup
        case .setHostState: self = .setHostState
        case .removeHost: self = .removeHost
        case .replaceReplica: self = .replaceReplica
        case .raiseFeatureLevel: self = .raiseFeatureLevel
        case .preferLeader: self = .preferLeader
        case .setGroupState: self = .setGroupState
        case .setHostWeight: self = .setHostWeight
        case .migrate: self = .migrate
        case .commitMigration: self = .commitMigration
        case .migrationReleased: self = .migrationReleased
        case .migrationActivated: self = .migrationActivated
        case .abortMigration: self = .abortMigration
        case .migrationDone: self = .migrationDone
        case .limitMigration: self = .limitMigration
        case .putRole: self = .putRole
        case .deleteRole: self = .deleteRole
        case .putUser: self = .putUser
        case .deleteUser: self = .deleteUser
        case .setAccessRequired: self = .setAccessRequired
        }
    }

    public var rule: PermissionRule {
        switch self {
        case .addReplica, .setRole, .createGroup, .deleteGroup, .setHostState, .removeHost, .replaceReplica,
            .raiseFeatureLevel, .preferLeader, .setGroupState, .setHostWeight, .migrate, .abortMigration,
            .limitMigration, .beginRebalancing, .setRebalancing, .setAuto, .putRole, .deleteRole, .putUser, .deleteUser,
            .setAccessRequired:
            .everything(.admin)
        // What has come about in groups, their leaders alone know: said by anybody else it loses data.
        case .settled, .commitMigration, .migrationReleased, .migrationActivated, .migrationDone, .reportStep: .hosts
        case .initialise, .registerHost, .recover: .hosts
        }
    }
}
