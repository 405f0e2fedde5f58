// The text that Prometheus reads, version 0.0.4: families, samples, escaping. Pure; knows nothing of where numbers come
// from.
//
//   # HELP name what it is
//   # TYPE name counter
//   name{label="value"} 3

/// What a family of series is to whoever reads it.
public enum PrometheusKind: String, Sendable {
    case counter, gauge, histogram
}

/// An exposition, written family by family.
public struct PrometheusText: Sendable {
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    public private(set) var text = ""

    public init() {}

    /// Begins a family. Its samples follow, and no other family has the same name.
    ///
    /// - Parameter help: empty: there is none.
    public mutating func begin(_ name: String, _ kind: PrometheusKind, help: String) {
        if !help.isEmpty { text += "# HELP \(name) \(Self.escaped(help: help))\n" }
        text += "# TYPE \(name) \(kind.rawValue)\n"
    }

    /// - Parameter labels: as `labels(_:)` makes them, or empty.
    public mutating func sample(_ name: String, labels: String = "", _ value: String) {
        text += labels.isEmpty ? "\(name) \(value)\n" : "\(name){\(labels)} \(value)\n"
    }

    /// Samples of one histogram.
    ///
    /// - Parameters:
    ///   - counts: of values in each bucket, not cumulative, and one more for those above the last bound.
    public mutating func histogram(
        _ name: String, labels: String = "", bounds: [Double], counts: [UInt64], sum: Double
    ) {
        precondition(counts.count == bounds.count + 1, "a histogram has one bucket more than bounds")
        let others = labels.isEmpty ? "" : labels + ","
        var total: UInt64 = 0
        for (place, count) in counts.enumerated() {
            total += count
            let bound = place < bounds.count ? Self.number(bounds[place]) : "+Inf"
            sample("\(name)_bucket", labels: "\(others)le=\"\(bound)\"", "\(total)")
        }
        sample("\(name)_sum", labels: labels, Self.number(sum))
        sample("\(name)_count", labels: labels, "\(total)")
    }

    /// What stands between the braces: sorted by name, so that the same labels are the same text. Names become valid
    /// ones; of two with the same name the later counts.
    public static func labels(_ labels: [(String, String)]) -> String {
        var known: [String: String] = [:]
        for (name, value) in labels { known[labelName(name)] = value }
        return known.sorted { $0.key < $1.key }.map { "\($0.key)=\"\(escaped(value: $0.value))\"" }.joined(
            separator: ",")
    }

    /// As the format has numbers: whole ones without a point.
    public static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        return value == value.rounded() && value.magnitude < 9e15 ? "\(Int64(value))" : "\(value)"
    }

    /// A name of a metric: what may not stand in one becomes an underscore.
    public static func metricName(_ text: String) -> String { name(text, allowsColon: true) }

    /// A name of a label. Those that begin with two underscores are Prometheus' own, and `le` a histogram's.
    public static func labelName(_ text: String) -> String {
        let name = name(text, allowsColon: false)
        return name.hasPrefix("__") || name == "le" ? "label_" + name : name
    }

    private static func name(_ text: String, allowsColon: Bool) -> String {
        var name = ""
        for character in text.unicodeScalars {
            switch character {
            case "a"..."z", "A"..."Z", "_": name.unicodeScalars.append(character)
            case "0"..."9":
                if name.isEmpty { name = "_" }
                name.unicodeScalars.append(character)
            case ":" where allowsColon: name.unicodeScalars.append(character)
            default: name += "_"
            }
        }
        return name.isEmpty ? "_" : name
    }

    private static func escaped(help: String) -> String { escaped(help, quotes: false) }
    private static func escaped(value: String) -> String { escaped(value, quotes: true) }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var escaped = ""
        for character in text.unicodeScalars {
            switch character {
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\"" where quotes: escaped += "\\\""
            default: escaped.unicodeScalars.append(character)
            }
        }
        return escaped
    }
}
