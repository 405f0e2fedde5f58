// Ordered scans as programs see them: all keys that begin with a prefix, which names one group by its tag.

import ClientCore
import Messages
public import Primitives
import Ring
public import StateMachines

/// Some of a scan's records, as they stood together at one moment.
public struct ScanPage: Hashable, Sendable {
    /// Ascending by the bytes of their keys.
    public var records: [KeyValueScanPage.Record]
    /// Where the next page begins; nil: this was the last one. A page may be empty and have a next one, where many keys
    /// were deleted.
    public var next: Bytes?
    /// Of the group, at that moment.
    public var revision: Revision
}

extension KeyValueStore {
    /// All keys that begin with `prefix`, with their values, ascending by the bytes of the keys, and of these only those
    /// from `first` on and before `end`.
    ///
    /// The prefix has a whole tag in it, such as `{user:7}/`: what it begins lives together in one group. Other keys are
    /// spread over all groups, and `Cluster.pages` reads them.
    ///
    /// The records come in pages, each of which is a read of its own and shows one moment: together they are no
    /// snapshot. What was there before the scan began and is not changed meanwhile is in it exactly once.
    ///
    /// - Parameters:
    ///   - timeout: of each page.
    ///   - pageBytesMax: of a page's keys and values, in bytes; at most 1 MiB is taken, and one record always fits.
    public func scan(
        prefix: Bytes, from first: Bytes? = nil, before end: Bytes? = nil,
        _ consistency: ReadConsistency = .linearizable, pageBytesMax: Int = 256 << 10, timeout: Duration? = nil
    ) -> ScanRecords {
        ScanRecords(
            store: self, prefix: prefix, first: first, end: end, consistency: consistency, pageBytesMax: pageBytesMax,
            timeout: timeout)
    }

    /// One page of such a scan, of at most `recordsMax` records: for who goes on at another time, or elsewhere, with
    /// `first` from `ScanPage.next`.
    public func page(
        prefix: Bytes, from first: Bytes? = nil, before end: Bytes? = nil, recordsMax: Int = 1_000,
        _ consistency: ReadConsistency = .linearizable, pageBytesMax: Int = 256 << 10, timeout: Duration? = nil
    ) async throws(BifrostError) -> ScanPage {
        guard let slot = Self.slotOfKeys(with: prefix) else {
            throw BifrostError(
                .invalid,
                "a scan needs a prefix with a whole tag, such as {user:7}/, whose keys live together: '\(prefix.string)' has "
                    + "none")
        }
        let (from, to) = Self.range(prefix, first, end)
        let scan = KeyValueScan(
            from: from, end: to, recordsMax: UInt32(clamping: max(recordsMax, 1)),
            bytesMax: UInt32(clamping: max(pageBytesMax, 1)))
        return try await page(slot: slot, scan, consistency, timeout: timeout)
    }

    func page(
        slot: Slot, _ scan: KeyValueScan, _ consistency: ReadConsistency = .linearizable, timeout: Duration? = nil
    ) async throws(BifrostError) -> ScanPage {
        let query = KeyValueQuery.scan(scan)
        if let problem = query.problem() { throw BifrostError(problem) }
        let answer = try await cluster.perform(
            kind: .query, target: .slot(slot), reading: consistency, machine: .keyValue, payload: query.encoded(),
            timeout: timeout)
        do throws(DecodingFailure) {
            let result = try DataResult(decoding: answer)
            let page = try KeyValueScanPage(decoding: result.body)
            return ScanPage(records: page.records, next: page.next, revision: result.revision)
        } catch {
            throw BifrostError(malformed: error)
        }
    }

    /// Where all keys lie that begin with these bytes; nil if they need not lie together.
    package static func slotOfKeys(with prefix: Bytes) -> Slot? {
        let hasTag = prefix.withUnsafeBytes { bytes in
            let tag = tagRange(of: bytes)
            return tag.count < bytes.count
        }
        return hasTag ? Ring.slot(of: prefix) : nil
    }

    /// The narrower of two ranges: what begins with the prefix, and what the caller wants of it.
    package static func range(_ prefix: Bytes, _ first: Bytes?, _ end: Bytes?) -> (from: Bytes, end: Bytes?) {
        let from = first.map { max($0, prefix) } ?? prefix
        let behind = prefix.endOfPrefix
        guard let end, let behind else { return (from, end ?? behind) }
        return (from, min(end, behind))
    }

}

/// A scan's records, one by one. See `KeyValueStore.scan`.
public struct ScanRecords: AsyncSequence, Sendable {
    public typealias Element = KeyValueScanPage.Record
    public typealias Failure = BifrostError

    let store: KeyValueStore
    let prefix: Bytes
    let first: Bytes?
    let end: Bytes?
    let consistency: ReadConsistency
    let pageBytesMax: Int
    let timeout: Duration?

    public func makeAsyncIterator() -> Iterator { Iterator(scan: self) }

    public struct Iterator: AsyncIteratorProtocol, Sendable {
        let scan: ScanRecords
        private var page: ScanPage?
        private var place = 0

        init(scan: ScanRecords) { self.scan = scan }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(BifrostError) -> KeyValueScanPage.Record? {
            while true {
                if let page, place < page.records.count {
                    place += 1
                    return page.records[place - 1]
                }
                if let page, page.next == nil { return nil }
                page = try await scan.store.page(
                    prefix: scan.prefix, from: page?.next ?? scan.first, before: scan.end, recordsMax: .max,
                    scan.consistency, pageBytesMax: scan.pageBytesMax, timeout: scan.timeout)
                place = 0
            }
        }
    }
}
