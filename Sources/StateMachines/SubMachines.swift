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
    /// Commands behind fencing tokens, and the highest of these that keys have seen; in all groups but the meta group.
    public static let guards = SubMachineNumber(7)
    // 8 to 15 are kept for the inside of Bifrost.
    /// The first number of Bifrost's data types, which are machines as users' are. They have those up to 1,023.
    public static let firstOfDataTypes = SubMachineNumber(16)
    /// The first number that users may give to their own machines.
    public static let firstOfUsers = SubMachineNumber(1_024)

    /// One of Bifrost's data types or of users' machines: what it does, a registry says.
    public var isRegistered: Bool { self >= .firstOfDataTypes }
    /// From which on there are its commands.
    var featureLevel: UInt32 {
        guard isDataType else { return FeatureLevel.machines }
        return self >= .firstOfGatherings ? FeatureLevel.gatherings : FeatureLevel.dataTypes
    }
    /// The first of the data types that came later.
    private static let firstOfGatherings = SubMachineNumber(26)
    /// Its records have keys of its own making, which say nothing of their slot.
    var isDataType: Bool { self >= .firstOfDataTypes && self < .firstOfUsers }
}
