// The numbers of the sub state machines. They stand in every log entry and every record and are never given twice.

public import Primitives

extension SubMachineNumber {
    /// Keys and values.
    public static let keyValue = SubMachineNumber(1)
    /// Hosts, groups, ring and placement; in the meta group only.
    public static let meta = SubMachineNumber(2)
    /// Sessions; in all groups but the meta group.
    public static let sessions = SubMachineNumber(3)
    /// Kept for what a group knows of its own configuration and settings.
    public static let configuration = SubMachineNumber(4)
    /// Kept for slot ownership and migrations.
    public static let slotOwnership = SubMachineNumber(5)
    /// What is due at some log time; in all groups but the meta group.
    public static let deadlines = SubMachineNumber(6)
    // 7 to 15 are kept for the inside of Bifrost, 16 to 1,023 for its data types.
    /// The first number that users may give to their own machines.
    public static let firstOfUsers = SubMachineNumber(1_024)
}
