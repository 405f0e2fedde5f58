// Mistakes that the code makes on purpose, to see that its checks find them (`Tools/planted`). Outside of that build
// each call is the constant false, and neither the switch nor the mistake behind it is compiled.

#if BIFROST_PLANTED
    /// The mistake under way, by its name; empty: none. Set once, before anything runs.
    nonisolated(unsafe) public var plantedBug = ""

    /// Whether the code is to make the mistake of this name here.
    public func isPlanted(_ name: StaticString) -> Bool {
        plantedBug.utf8.count == name.utf8CodeUnitCount && plantedBug == name.description
    }
#else
    /// Whether the code is to make the mistake of this name here: never, in this build.
    @inlinable @inline(__always)
    public func isPlanted(_ name: StaticString) -> Bool { false }
#endif
