// What the leaders of a migration's two groups say to each other: the target's asks, the source's answers. Nothing is lost
// if a word is: the target asks again.

import Messages
package import Primitives
package import StateMachines

/// `group u32 | migration u64 | number u64 | kind u8 | fields`: a word for the leader of a group. An answer has the number of
/// its question.
package struct MigrationWord: Hashable, Sendable {
    /// Whose leader is to hear it.
    package var group: GroupID
    package var migration: MigrationID
    package var number: UInt64
    package var kind: Kind

    package enum Kind: Hashable, Sendable {
        /// 1: how far is the source?
        case howFar
        /// 2, `base u64 | start u64 | next: length u32, bytes`: the next page of a round, or the first of another one
        /// (`start` 0).
        case fetch(base: LogIndex, start: LogIndex, next: Bytes)
        /// 3: little is left, freeze the slots.
        case freeze
        /// 4, `source time u64 | own time u64`: the digest of all that is there, with times as the target has them.
        case compare(sourceTime: LogTime, ownTime: LogTime)
        /// 5, `phase u8, 0 for none | frozen index u64 | revision u64 | log time u64`.
        case standing(MigrationStanding)
        /// 6, a `MigrationPage` without a number.
        case page(MigrationPage)
        /// 7, `digest u64`.
        case digest(UInt64)
        /// 8, `reason u8 | leader u64`.
        case refused(MigrationRefusal, leader: HostID)
    }

    package init(to group: GroupID, _ migration: MigrationID, _ number: UInt64, _ kind: Kind) {
        self.group = group
        self.migration = migration
        self.number = number
        self.kind = kind
    }

    package func encode(into writer: inout ByteWriter) {
        writer.write(group)
        writer.write(migration)
        writer.write(number)
        switch kind {
        case .howFar: writer.write(1 as UInt8)
        case .fetch(let base, let start, let next):
            writer.write(2 as UInt8)
            writer.write(base)
            writer.write(start)
            writer.writeWithLength(next)
        case .freeze: writer.write(3 as UInt8)
        case .compare(let sourceTime, let ownTime):
            writer.write(4 as UInt8)
            writer.write(sourceTime)
            writer.write(ownTime)
        case .standing(let standing):
            writer.write(5 as UInt8)
            writer.write(standing.phase?.rawValue ?? 0)
            writer.write(standing.frozen)
            writer.write(standing.revision)
            writer.write(standing.logTime)
        case .page(let page):
            writer.write(6 as UInt8)
            page.encode(into: &writer)
        case .digest(let digest):
            writer.write(7 as UInt8)
            writer.write(digest)
        case .refused(let reason, let leader):
            writer.write(8 as UInt8)
            writer.write(reason.rawValue)
            writer.write(leader)
        }
    }

    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        group = try reader.read()
        migration = try reader.read()
        number = try reader.read()
        switch try reader.read(UInt8.self) {
        case 1: kind = .howFar
        case 2:
            let (base, start) = (try reader.read(LogIndex.self), try reader.read(LogIndex.self))
            // As everywhere, numbers from 2^62 on are left alone: what is added to one does not overflow.
            guard base.rawValue < 1 << 62, start.rawValue < 1 << 62 else {
                throw DecodingFailure(expected: "an index below 2^62", found: "\(base) and \(start)")
            }
            let next = try reader.readBytesWithLength(limit: MigrationPage.positionBytesMax)
            if !next.isEmpty { _ = try RecordPosition(decoding: next) }
            kind = .fetch(base: base, start: start, next: next)
        case 3: kind = .freeze
        case 4:
            let sourceTime = try reader.read(LogTime.self)
            kind = .compare(sourceTime: sourceTime, ownTime: try reader.read())
        case 5:
            let phase = try reader.read(UInt8.self)
            guard phase == 0 || MigrationTask.Phase(rawValue: phase) != nil else {
                throw DecodingFailure(expected: "a migration's phase, 0 to 6", found: "\(phase)")
            }
            kind = .standing(
                MigrationStanding(
                    phase: MigrationTask.Phase(rawValue: phase), frozen: try reader.read(),
                    revision: try reader.readRevision(),
                    logTime: try reader.read()))
        case 6: kind = .page(try MigrationPage(from: &reader))
        case 7: kind = .digest(try reader.read())
        case 8:
            let reason = try reader.read(UInt8.self)
            // A reason of a newer version: whatever it is, there is no answer.
            kind = .refused(MigrationRefusal(rawValue: reason) ?? .notNow, leader: try reader.read())
        case let number: throw DecodingFailure(expected: "a word on migrations of kind 1 to 8", found: "kind \(number)")
        }
        try reader.expectEnd()
    }
}

/// How far a source is.
package struct MigrationStanding: Hashable, Sendable {
    /// nil: it has not begun, or has forgotten it.
    package var phase: MigrationTask.Phase?
    /// The entry that froze the slots, and the group's revision then; 0: they are not.
    package var frozen: LogIndex
    package var revision: Revision
    /// The source's elapsed time, now, as far as it has passed for certain; also of one that is frozen.
    package var logTime: LogTime
}

package enum MigrationRefusal: UInt8, Sendable {
    /// It leads not, or not yet; ask who does.
    case notLeader = 1
    /// Ask again some time later.
    case notNow = 2
    /// It has forgotten deletions that the target does not know of: nothing comes of this migration.
    case deletionsForgotten = 3
}
