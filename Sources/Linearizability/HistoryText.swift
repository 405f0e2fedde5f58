// Operations and times in words for people, short enough for a picture and a line of a terminal.

import Primitives

extension HistoryRecord {
    /// As in `put a @12`, `get → absent`, `cas a → b failed`. Long values are cut in their middle.
    public var label: String {
        var text: String
        switch input {
        case .put(let value): text = "put \(shortText(value))"
        case .get: text = "get"
        case .delete: text = "delete"
        case .compareAndSet(let condition, let value):
            switch condition {
            case .value(let expected): text = "cas \(shortText(expected))"
            case .revision(let revision): text = "cas @\(revision)"
            }
            text += " → \(shortText(value))"
        }
        switch outcome {
        case .unknown: text += " ?"
        case .failed: text += " (failed)"
        case .ok(.changed(let revision)): if let revision { text += " @\(revision)" }
        case .ok(.found(let value, let revision)):
            text += " → \(shortText(value))"
            if let revision { text += " @\(revision)" }
        case .ok(.conditionFailed): text += " no"
        }
        return text
    }

    /// The value that it wrote, or would have written.
    var written: Bytes? {
        switch input {
        case .put(let value), .compareAndSet(_, .some(let value)): value
        case .get, .delete, .compareAndSet(_, nil): nil
        }
    }
}

extension HistoryReport.Key {
    /// What is wrong, in one sentence per line; empty for a linearizable key.
    public var explanation: [String] {
        switch verdict {
        case .linearizable: return []
        case .unknown:
            return ["no answer for key \(shortText(key)) within \(steps) steps, \(records.count) operations"]
        case .violation(let violation):
            let stuck = records[violation.stuck]
            let start = records.map(\.call).min() ?? 0
            return [
                "key \(shortText(key)) is not linearizable",
                "client \(stuck.client): \(stuck.label), \(millis(stuck.call - start)) to \(millis((stuck.end ?? start) - start)),"
                    + " fits in no order",
                "the longest order explains \(violation.prefix.count) of \(records.count) operations; then the value is "
                    + stateText(violation.state),
            ]
        }
    }

    func stateText(_ state: RegisterModel<Int>.State) -> String {
        let value = shortText(state.value.map { values[$0] })
        if state.isRevisionKnown { return state.revision == 0 ? value : "\(value) @\(state.revision)" }
        return "\(value) @ some revision above \(state.revision)"
    }
}

/// As text if it is text without control characters, else in hexadecimal; at most 16 characters.
func shortText(_ value: Bytes?) -> String {
    guard let value else { return "absent" }
    // More than this is not shown anyway.
    let array = value.array
    var text: String
    if let utf8 = String(validating: array, as: UTF8.self),
        utf8.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7f })
    {
        text = utf8
    } else {
        text = "0x" + array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
    if text.isEmpty { return "\"\"" }
    if text.count > 16 { text = text.prefix(9) + "…" + text.suffix(6) }
    return text
}

/// Nanoseconds as milliseconds with three decimals.
func millis(_ nanoseconds: UInt64) -> String {
    let micros = nanoseconds / 1_000
    let rest = String(micros % 1_000)
    return "\(micros / 1_000).\(String(repeating: "0", count: 3 - rest.count))\(rest) ms"
}
