// Lock, semaphore, election and lease: what each of them is, of permits. Sub state machines 22 to 25.

public import Primitives
import StateMachines

/// Locks: one permit, and the token fences off who had it before.
public enum LockMachine: PermitMachine {
    public static let number = SubMachineNumber(22)
}

/// Semaphores: as many permits as was said.
public enum SemaphoreMachine: PermitMachine {
    public static let number = SubMachineNumber(23)
    public static let isExclusive = false
}

/// Elections: who has the permit leads, and its token is the epoch; those who wait are the candidates.
public enum ElectionMachine: PermitMachine {
    public static let number = SubMachineNumber(24)
}

/// Leases: a permit for a time, to be renewed.
public enum LeaseMachine: PermitMachine {
    public static let number = SubMachineNumber(25)
}
