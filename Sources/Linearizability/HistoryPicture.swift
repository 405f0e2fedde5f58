// A violation as a picture: one lane per client, time from left to right, the longest explanation and what does not
// fit. Owns the layout; judges nothing.

/// The neighbourhood of a violation as SVG. The time axis keeps the order of events, not their distances: pauses are
/// short, and each operation is wide enough for its label.
public struct HistoryPicture: Sendable {
    private enum Role {
        case placed, stuck, open, unplaced

        var fill: String {
            switch self {
            case .placed: "#d8f0e1"
            case .stuck: "#fbd5d5"
            case .open: "#fff3d1"
            case .unplaced: "#eceff1"
            }
        }
        /// With all that belongs to it.
        var stroke: String {
            switch self {
            case .placed: "stroke=\"#2e7d4f\""
            case .stuck: "stroke=\"#c62828\" stroke-width=\"2.5\""
            case .open: "stroke=\"#b07900\" stroke-dasharray=\"5 3\""
            case .unplaced: "stroke=\"#90a4ae\""
            }
        }
    }

    private struct Item {
        var record: HistoryRecord
        var role: Role
        /// In the explanation, from 1 on; 0: not in it.
        var number = 0
        var row = 0
        var left = 0
        var right = 0
        /// Where its effect is drawn.
        var point = 0
    }

    private static let margin = 24
    private static let laneLeft = 120
    private static let top = 112
    private static let rowHeight = 46
    private static let barHeight = 24
    private static let gapWidth = 26
    /// Tenths of a pixel per character of a label.
    private static let characterWidth = 67
    /// Operations of the explanation's end that are shown, and at most as many that are in no order.
    private static let placedMax = 12
    private static let unplacedMax = 16

    private let key: HistoryReport.Key
    private var items: [Item] = []
    private var lanes: [(client: UInt64, firstRow: Int, rows: Int)] = []
    /// Event times and their places, in order.
    private var times: [UInt64] = []
    private var places: [Int] = []
    private var start: UInt64 = 0

    /// Nil if the key's verdict is no violation.
    public init?(_ key: HistoryReport.Key) {
        guard case .violation(let violation) = key.verdict else { return nil }
        self.key = key
        choose(violation)
        layOutTime()
        layOutRows()
        placePoints()
    }

    // MARK: What to show

    private mutating func choose(_ violation: Violation<RegisterModel<Int>.State>) {
        let records = key.records
        start = records.map(\.call).min() ?? 0
        var numbers = Array(repeating: 0, count: records.count)
        for (number, place) in violation.prefix.enumerated() { numbers[place] = number + 1 }
        var isShown = Array(repeating: false, count: records.count)
        isShown[violation.stuck] = true
        for place in violation.prefix.suffix(Self.placedMax) { isShown[place] = true }
        // Who wrote what the explanation ends with, and what the operation in question saw.
        let state = violation.state.value.map { key.values[$0] }
        if let last = violation.prefix.last(where: { state != nil && records[$0].written == state }) {
            isShown[last] = true
        }
        if case .ok(.found(let value?, _)) = records[violation.stuck].outcome {
            for place in records.indices.filter({ records[$0].written == value }).prefix(2) { isShown[place] = true }
        }
        // What was called after the operation in question returned can't have helped it.
        let end = records[violation.stuck].end ?? .max
        let others = records.indices.filter {
            numbers[$0] == 0 && records[$0].call <= end && records[$0].outcome != .failed
        }
        for place in others.suffix(Self.unplacedMax) { isShown[place] = true }
        for place in records.indices where isShown[place] {
            let record = records[place]
            let role: Role =
                if place == violation.stuck { .stuck } else if record.outcome == .unknown { .open } else {
                    numbers[place] > 0 ? .placed : .unplaced
                }
            items.append(Item(record: record, role: role, number: numbers[place]))
        }
        items.sort { ($0.record.call, $0.record.client) < ($1.record.call, $1.record.client) }
    }

    // MARK: Layout

    /// Of an operation that nobody gave up on: to the end of the picture.
    private func end(_ record: HistoryRecord) -> UInt64 { record.end ?? times.last ?? record.call }

    private mutating func layOutTime() {
        let all = items.flatMap { [$0.record.call, $0.record.end ?? $0.record.call] }.sorted()
        for time in all where times.last != time { times.append(time) }
        if times.count == 1 { times.append(times[0] + 1) }
        places = times.indices.map { Self.laneLeft + 12 + $0 * Self.gapWidth }
        // Wide enough for each label: what is missing goes into the last gap below the bar.
        for item in items {
            let left = place(item.record.call)
            var last = index(end(item.record))
            if last == index(item.record.call) { last = min(last + 1, times.count - 1) }
            let missing = item.record.label.count * Self.characterWidth / 10 + 14 - (places[last] - left)
            if missing > 0 { for place in last..<places.count { places[place] += missing } }
        }
        for place in items.indices {
            let record = items[place].record
            items[place].left = self.place(record.call)
            items[place].right = max(self.place(end(record)), items[place].left + 18)
        }
    }

    private func index(_ time: UInt64) -> Int {
        var low = 0
        var high = times.count - 1
        while low < high {
            let middle = (low + high) / 2
            if times[middle] < time { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func place(_ time: UInt64) -> Int { places[index(time)] }

    private mutating func layOutRows() {
        var clients: [UInt64] = []
        for item in items where !clients.contains(item.record.client) { clients.append(item.record.client) }
        clients.sort()
        var row = 0
        for client in clients {
            // A client may have several operations under way: each in the first row that is free.
            var ends: [Int] = []
            for place in items.indices where items[place].record.client == client {
                let free = ends.firstIndex { $0 <= items[place].left }
                if let free { ends[free] = items[place].right } else { ends.append(items[place].right) }
                items[place].row = row + (free ?? ends.count - 1)
            }
            lanes.append((client, row, ends.count))
            row += ends.count
        }
    }

    /// The effects in their order, each within its operation.
    private mutating func placePoints() {
        let order = items.indices.filter { items[$0].number > 0 }.sorted { items[$0].number < items[$1].number }
        var reached = 0
        for place in order {
            let item = items[place]
            let limit = item.role == .open ? Int.max : item.right - 5
            items[place].point = min(max(reached + 13, item.left + 7), max(limit, item.left + 5))
            reached = items[place].point
        }
    }

    // MARK: SVG

    private var rowCount: Int { lanes.last.map { $0.firstRow + $0.rows } ?? 0 }
    private func y(_ row: Int) -> Int { Self.top + row * Self.rowHeight + 14 }

    /// A whole document: it can be a file of its own or stand in HTML.
    public func svg() -> String {
        let title = key.explanation
        let bottom = Self.top + rowCount * Self.rowHeight + 8
        let widest = title.map { $0.count * Self.characterWidth / 10 + 2 * Self.margin + 40 }.max() ?? 0
        let reach = max(places.last ?? 0, items.map { max($0.right, $0.point) }.max() ?? 0)
        let width = max(reach + 96, widest, 720)
        let height = bottom + 92
        var svg = """
            <svg xmlns="http://www.w3.org/2000/svg" width="\(width)" height="\(height)" viewBox="0 0 \(width) \(height)" \
            font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="11">
            <rect width="\(width)" height="\(height)" fill="#ffffff"/>

            """
        for (number, line) in title.enumerated() {
            let style = number == 0 ? " font-size=\"16\" font-weight=\"bold\"" : " font-size=\"12\""
            let fill = number == 1 ? "#b71c1c" : "#222222"
            svg += text(line, Self.margin, 34 + number * 21, fill: fill, style)
        }
        svg += axis(to: bottom, width: width)
        for (number, lane) in lanes.enumerated() {
            let top = Self.top + lane.firstRow * Self.rowHeight
            let fill = number % 2 == 0 ? "#f6f7f9" : "#ffffff"
            svg += "<rect x=\"\(Self.margin)\" y=\"\(top)\" width=\"\(width - 2 * Self.margin)\" height=\""
            svg += "\(lane.rows * Self.rowHeight)\" fill=\"\(fill)\" fill-opacity=\"0.75\"/>\n"
            svg += text("client \(lane.client)", Self.margin + 8, y(lane.firstRow) + 16, fill: "#222222", "")
        }
        for item in items { svg += bar(item) }
        svg += explanationLine()
        svg += legend(at: bottom + 34)
        return svg + "</svg>\n"
    }

    private func axis(to bottom: Int, width: Int) -> String {
        var svg = ""
        var labelled = -1_000
        for (time, place) in zip(times, places) {
            svg +=
                "<line x1=\"\(place)\" y1=\"\(Self.top - 4)\" x2=\"\(place)\" y2=\"\(bottom)\" stroke=\"#e3e6ea\"/>\n"
            guard place - labelled >= 96 else { continue }
            labelled = place
            svg += text(millis(time - start), place, Self.top - 10, fill: "#666666", " font-size=\"10\"")
        }
        return svg
    }

    private func bar(_ item: Item) -> String {
        let top = y(item.row)
        var svg = "<g><title>\(Self.escaped(tooltip(item)))</title>"
        svg += "<rect x=\"\(item.left)\" y=\"\(top)\" width=\"\(item.right - item.left)\" height=\"\(Self.barHeight)\""
        svg += " rx=\"4\" fill=\"\(item.role.fill)\" \(item.role.stroke)/>"
        if item.role == .open, item.point > item.right {
            let middle = top + Self.barHeight / 2
            svg += "<line x1=\"\(item.right)\" y1=\"\(middle)\" x2=\"\(item.point)\" y2=\"\(middle)\""
            svg += " stroke=\"#b07900\" stroke-dasharray=\"2 3\"/>"
        }
        let weight = item.role == .stuck ? " font-weight=\"bold\"" : ""
        svg += text(
            item.record.label, item.left + 7, top + 16, fill: item.role == .stuck ? "#b71c1c" : "#222222", weight)
        return svg + "</g>\n"
    }

    private func tooltip(_ item: Item) -> String {
        let record = item.record
        let end = record.end.map { millis($0 - start) } ?? "nobody knows when"
        return "client \(record.client): \(record.label), from \(millis(record.call - start)) to \(end)"
    }

    private func explanationLine() -> String {
        let order = items.filter { $0.number > 0 }.sorted { $0.number < $1.number }
        // Below the labels.
        func level(_ item: Item) -> Int { y(item.row) + Self.barHeight }
        let points = order.map { "\($0.point),\(level($0))" }.joined(separator: " ")
        var svg = "<polyline points=\"\(points)\" fill=\"none\" stroke=\"#2e7d4f\" stroke-opacity=\"0.55\"/>\n"
        for item in order {
            svg += "<circle cx=\"\(item.point)\" cy=\"\(level(item))\" r=\"3.5\" fill=\"#1b5e38\"/>\n"
            svg += text("\(item.number)", item.point - 3, level(item) + 13, fill: "#1b5e38", " font-size=\"9\"")
        }
        return svg
    }

    private func legend(at y: Int) -> String {
        let entries: [(Role, String)] = [
            (.placed, "in the longest order"), (.stuck, "fits in no order"), (.unplaced, "not reached"),
            (.open, "outcome unknown"),
        ]
        var svg = ""
        var x = Self.margin
        for (role, words) in entries {
            svg += "<rect x=\"\(x)\" y=\"\(y - 11)\" width=\"22\" height=\"13\" rx=\"3\""
            svg += " fill=\"\(role.fill)\" \(role.stroke)/>\n"
            svg += text(words, x + 29, y, fill: "#222222", "")
            x += 29 + words.count * Self.characterWidth / 10 + 22
        }
        let notes = [
            "Numbered points: where each operation takes effect in that order.",
            "\(items.count) of \(key.records.count) operations are shown; the axis keeps the order of events, not distances.",
        ]
        for (number, note) in notes.enumerated() {
            svg += text(note, Self.margin, y + 24 + 15 * number, fill: "#666666", " font-size=\"10\"")
        }
        return svg
    }

    private func text(_ words: String, _ x: Int, _ y: Int, fill: String, _ style: String) -> String {
        "<text x=\"\(x)\" y=\"\(y)\" fill=\"\(fill)\"\(style)>\(Self.escaped(words))</text>\n"
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            // XML can't say these, however they are written.
            case "\u{0}"..."\u{8}", "\u{B}", "\u{C}", "\u{E}"..."\u{1F}", "\u{FFFE}", "\u{FFFF}":
                result.unicodeScalars.append("\u{FFFD}")
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
