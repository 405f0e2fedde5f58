// All of Bifrost's data types: what every host has.

public import StateMachines

/// Bifrost's data types as state machines: each is used through its commands and queries.
public enum DataTypeMachines {
    public static let all: [any StateMachine.Type] = [
        ValueMachine.self, NumberMachine.self, MapMachine.self, SetMachine.self, ArrayMachine.self, QueueMachine.self,
        LockMachine.self, SemaphoreMachine.self, ElectionMachine.self, LeaseMachine.self, MembershipMachine.self,
        BarrierMachine.self, LatchMachine.self,
    ]

    public static let registry = StateMachineRegistry(dataTypes: all)
}

extension StateMachineRegistry {
    /// What a host has whose program has these machines.
    public var withDataTypes: StateMachineRegistry { with(DataTypeMachines.registry) }
}
