// Where the records of an object are: the order of their keys. Owns the bytes of record keys, and the bounds of names.

package import Primitives

/// Bounds of Bifrost's data types. They decide, so they are part of the format: all replicas agree on them.
public enum ObjectLimits {
    /// Of an object's name, in bytes.
    public static let nameBytesMax = 1_024
    /// Of what an object has inside by name (a map's key, a set's element), in bytes.
    public static let elementBytesMax = 2_048
    /// Of a value, in bytes: a little less than a record may have.
    public static let valueBytesMax = (1 << 20) - (16 << 10)
}

/// A record's key within its slot and its data type's machine: all records of an object stand together, part by part.
///
/// `name length u16, big-endian | name | part u8 | rest`
package struct ObjectKey: Hashable, Sendable {
    /// Of the object.
    package var name: Bytes

    package init(_ name: Bytes) { self.name = name }

    /// The object's own record.
    package static let head: UInt8 = 0

    package func record(_ part: UInt8 = ObjectKey.head, _ rest: Bytes = Bytes()) -> Bytes {
        var writer = ByteWriter(capacity: 3 + name.count + rest.count)
        writer.write(UInt16(truncatingIfNeeded: name.count).bigEndian)
        writer.write(name)
        writer.write(part)
        writer.write(rest)
        return writer.take()
    }

    /// With a number in its place: in the order of the numbers.
    package func record(_ part: UInt8, _ number: UInt64) -> Bytes {
        var writer = ByteWriter(capacity: 11 + name.count)
        writer.write(UInt16(truncatingIfNeeded: name.count).bigEndian)
        writer.write(name)
        writer.write(part)
        writer.write(number.bigEndian)
        return writer.take()
    }
}
