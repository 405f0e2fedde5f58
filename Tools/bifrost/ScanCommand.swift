// `bifrost scan`: the records of one tag, in order.

import ArgumentParser
import Bifrost
import Foundation
import Messages
import Primitives
import Ring
import StateMachines

struct Scan: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints the keys that begin with a prefix, in order, with their values.",
        discussion: """
            The prefix has a whole tag in it, such as '{user:7}/': keys with one tag live together in one group, in the \
            order of their bytes. Keys of other tags are spread over all groups; export writes all of them.

            One record per line, as export has them: key, tab, value, with \\t, \\n, \\r, \\0 and \\\\ within. With --json \
            one object per line. Records are read page by page; each page shows one moment, all together may show \
            several. Exit code 1: there is none.

            EXAMPLES:
              bifrost scan '{user:7}/'
              bifrost scan --keys --limit 10 '{user:7}/'
              bifrost scan --from '{log}/2026-05' --before '{log}/2026-06' '{log}/'
              bifrost scan --json --consistency lease '{user:7}/'
                {"key":"{user:7}/name","revision":7,"value":"Ada"}
            """)

    @Argument(help: "What the keys begin with.")
    var prefix: KeyArgument

    @Option(help: ArgumentHelp("Of these, from this key on.", valueName: "key"))
    var from: KeyArgument?

    @Option(help: ArgumentHelp("Of these, those before this key.", valueName: "key"))
    var before: KeyArgument?

    @Option(help: ArgumentHelp("So many at most.", valueName: "count"))
    var limit: Int?

    @Flag(help: "Keys alone, one per line.")
    var keys = false

    @OptionGroup var read: ReadOptions

    @OptionGroup var options: ClientOptions

    private struct Line: Encodable {
        var key: String?
        var keyBase64: String?
        var value: String?
        var valueBase64: String?
        var revision: UInt64
    }

    func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit is at least 1, not \(limit)") }
    }

    func run() async throws {
        let wanted = try read.reading()
        let cluster = try await options.cluster()
        var left = limit ?? .max
        var next = from?.bytes
        var isAny = false
        while left > 0 {
            let page = try await cluster.kv.page(
                prefix: prefix.bytes, from: next, before: before?.bytes, recordsMax: min(left, 10_000), wanted,
                pageBytesMax: 1 << 20)
            left -= page.records.count
            if !page.records.isEmpty { isAny = true }
            try print(page.records)
            guard page.next != nil else { break }
            next = page.next
        }
        await cluster.close()
        guard isAny else {
            throw ToolError(.negative, "no key begins with \(HumanText.quoted(prefix.bytes)) in this range")
        }
    }

    private func print(_ records: [KeyValueScanPage.Record]) throws {
        var lines: [UInt8] = []
        for record in records {
            if options.common.json {
                var line = Line(revision: record.revision.rawValue)
                (line.key, line.keyBase64) = record.key.forJSON
                if !keys { (line.value, line.valueBase64) = record.value.forJSON }
                lines += Array(try Output.jsonText(line).utf8)
            } else {
                try RecordFormat.tsv.encode(key: record.key, value: keys ? Bytes() : record.value, into: &lines)
                // Nothing but the tab stands behind the key.
                if keys { lines.removeLast() }
            }
            lines.append(UInt8(ascii: "\n"))
        }
        if !lines.isEmpty { try Output.write(Bytes(lines)) }
    }
}
