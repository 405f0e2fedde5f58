// What the meta group's leader and groups' leaders say to each other of loads, where the cluster keeps the balance by itself.
// Nothing is lost if a word is: it is asked again.

package import Primitives
package import StateMachines

/// `group u32 | about u32 | number u64 | kind u8 | fields`: a word for the leader of a group, about a group's load. An answer
/// has the number of its question.
package struct LoadWord: Hashable, Sendable {
    /// Whose leader is to hear it.
    package var group: GroupID
    /// Whose slots it is about.
    package var about: GroupID
    package var number: UInt64
    package var kind: Kind

    package enum Kind: Hashable, Sendable {
        /// 1: what do your slots have?
        case asked
        /// 2, a `GroupLoad`.
        case told(GroupLoad)
        /// 3, `leader u64`, 0 for unknown: somebody else leads.
        case refused(leader: HostID)
    }

    package init(to group: GroupID, about: GroupID, _ number: UInt64, _ kind: Kind) {
        self.group = group
        self.about = about
        self.number = number
        self.kind = kind
    }

    /// More than all slots take.
    static var encodedBytesMax: Int { 1 << 20 }

    package func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(about)
        writer.write(number)
        switch kind {
        case .asked: writer.write(1 as UInt8)
        case .told(let load):
            writer.write(2 as UInt8)
            load.encode(into: &writer)
        case .refused(let leader):
            writer.write(3 as UInt8)
            writer.write(leader)
        }
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        about = try reader.read()
        number = try reader.read()
        switch try reader.read(UInt8.self) {
        case 1: kind = .asked
        case 2: kind = .told(try GroupLoad(from: &reader))
        case 3: kind = .refused(leader: try reader.read())
        case let number: throw DecodingFailure(expected: "a word on loads of kind 1 to 3", found: "kind \(number)")
        }
        try reader.expectEnd()
    }
}
