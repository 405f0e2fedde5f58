// The order of an object's records.

import DataTypes
import Primitives
import Testing

@Suite struct ObjectKeyTests {
    @Test func theRecordsOfAnObjectStandTogether() {
        let (short, long) = (ObjectKey("a"), ObjectKey("a\u{0}b"))
        let keys = [
            short.record(), short.record(1, "x"), short.record(1, "y"), short.record(2, 7), short.record(2, 256),
            long.record(), long.record(1, ""),
        ]
        #expect(keys == keys.sorted())
        #expect(Set(keys).count == keys.count)
    }
}
