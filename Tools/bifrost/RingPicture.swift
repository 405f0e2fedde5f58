// The ring as a picture: each group's slots in its colour, and who leads it where. Pure: takes a map and what is known of
// its groups, gives SVG.

import Foundation
import Primitives
package import Ring

package struct RingPicture {
    private struct Arc {
        /// Nil: nobody has these slots.
        var group: GroupID?
        var slots: Range<Int>
    }

    private let title: String
    private let arcs: [Arc]
    /// Of the groups with slots, ascending.
    private let groups: [ClusterHealth.Group]
    private let colours: [GroupID: String]
    private let addresses: [String]

    private static let outer = 230.0
    private static let inner = 165.0
    private static let centre = 270.0
    private static let top = 76.0
    private static let rowHeight = 20
    private static let tableLeft = 560

    package init(map: ClusterMap, groups: [ClusterHealth.Group]) {
        var arcs: [Arc] = []
        for slot in 0..<Slot.count {
            let group = map.ring.owner(of: Slot(UInt16(slot)))
            if let last = arcs.indices.last, arcs[last].group == group {
                arcs[last].slots = arcs[last].slots.lowerBound..<slot + 1
            } else {
                arcs.append(Arc(group: group, slots: slot..<slot + 1))
            }
        }
        self.arcs = arcs
        self.groups = groups.filter { $0.slots > 0 }
        colours = Dictionary(
            uniqueKeysWithValues: self.groups.enumerated().map { ($0.element.id, Self.colour($0.offset)) })
        addresses = map.hosts.map { "host \($0.id): \($0.address)\($0.zone.isEmpty ? "" : ", zone \($0.zone)")" }
        title =
            "cluster \(map.cluster): \(HumanText.grouped(UInt64(Slot.count))) slots, ring epoch \(map.ring.epoch), "
            + "map \(map.version)"
    }

    /// Neighbours in the list are far apart in hue, by the golden angle.
    private static func colour(_ number: Int) -> String {
        let hue = (Double(number) * 137.508).truncatingRemainder(dividingBy: 360)
        return hex(hue, lightness: number % 2 == 0 ? 0.52 : 0.64)
    }

    /// Not every viewer knows the other ways to name a colour.
    private static func hex(_ hue: Double, lightness: Double) -> String {
        let chroma = 0.62 * min(lightness, 1 - lightness)
        let parts = [0.0, 8, 4].map { offset in
            let place = (offset + hue / 30).truncatingRemainder(dividingBy: 12)
            let part = lightness - chroma * max(-1, min(place - 3, 9 - place, 1))
            let byte = Int((255 * part).rounded())
            return (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return "#" + parts.joined()
    }

    /// A whole document: it can be a file of its own or stand in HTML.
    package func svg() -> String {
        let rows = groups.count + addresses.count + 3
        let height = max(Int(Self.top + 2 * Self.centre), 110 + rows * Self.rowHeight)
        let width = 1_060
        var svg = """
            <svg xmlns="http://www.w3.org/2000/svg" width="\(width)" height="\(height)" viewBox="0 0 \(width) \(height)" \
            font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="12">
            <rect width="\(width)" height="\(height)" fill="#ffffff"/>

            """
        svg += Self.text(title, 24, 36, " font-size=\"16\" font-weight=\"bold\"")
        for group in groups { svg += draw(group.id) }
        svg += draw(nil)
        let middle = Self.top + Self.centre
        svg += Self.text(
            HumanText.count(groups.count, "group"), Int(Self.centre), Int(middle),
            " font-size=\"18\" text-anchor=\"middle\"")
        svg += Self.text(
            HumanText.count(addresses.count, "host"), Int(Self.centre), Int(middle) + 24,
            " font-size=\"14\" text-anchor=\"middle\"")
        return svg + table() + "</svg>\n"
    }

    /// One line as broad as the ring, along all of the group's slots: some hundred kilobytes where no slot's neighbour has
    /// the same owner.
    private func draw(_ group: GroupID?) -> String {
        let mine = arcs.filter { $0.group == group }
        guard !mine.isEmpty else { return "" }
        let radius = (Self.outer + Self.inner) / 2
        let path = mine.map { arc in
            // A whole circle has no two ends: the last step is left out.
            let end = arc.slots.count == Slot.count ? Slot.count - 1 : arc.slots.upperBound
            let (from, to) = (Self.angle(arc.slots.lowerBound), Self.angle(end))
            let long = arc.slots.count * 2 > Slot.count ? 1 : 0
            let way = arc.slots.count < 64 ? "L" : "A\(radius) \(radius) 0 \(long) 1 "
            return "M\(Self.point(from, radius))\(way)\(Self.point(to, radius))"
        }
        let colour = group.flatMap { colours[$0] } ?? "#d9dce1"
        let slots = mine.reduce(0) { $0 + $1.slots.count }
        return
            "<path stroke=\"\(colour)\" fill=\"none\" stroke-width=\"\(Self.outer - Self.inner)\" d=\"\(path.joined())\">"
            + "<title>\(group.map { "group \($0)" } ?? "nobody"): \(HumanText.count(slots, "slot"))</title></path>\n"
    }

    private func table() -> String {
        var y = 84
        func row(_ words: [String], _ style: String = "") -> String {
            defer { y += Self.rowHeight }
            let places = [28, 110, 200, 280, 370]
            return zip(words, places).map { Self.text($0, Self.tableLeft + $1, y, style) }.joined()
        }
        var svg = row(["group", "slots", "share", "leader", "hosts"], " font-weight=\"bold\"")
        for group in groups {
            svg +=
                "<rect x=\"\(Self.tableLeft)\" y=\"\(y - 11)\" width=\"16\" height=\"13\" rx=\"2\" fill=\""
                + "\(colours[group.id] ?? "")\"/>\n"
            let hosts = group.replicas.map { "\($0.host)\($0.host == group.leader ? "*" : "")" }
            svg += row([
                "\(group.id)", "\(group.slots)",
                "\(HumanText.fixed(100 * Double(group.slots) / Double(Slot.count), 2)) %",
                group.leader.map { "host \($0)" } ?? "none", hosts.joined(separator: " "),
            ])
        }
        y += Self.rowHeight
        for address in addresses { svg += row([address]) }
        return svg
    }

    // MARK: Geometry

    /// Slot 0 stands at the top, the others follow clockwise.
    private static func angle(_ slot: Int) -> Double {
        2 * Double.pi * Double(slot) / Double(Slot.count) - Double.pi / 2
    }

    private static func point(_ angle: Double, _ radius: Double) -> String {
        "\(fixed(centre + radius * cos(angle))) \(fixed(top + centre + radius * sin(angle)))"
    }

    private static func fixed(_ number: Double) -> String { HumanText.fixed(number, 2) }

    private static func text(_ words: String, _ x: Int, _ y: Int, _ style: String) -> String {
        let escaped = words.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
        return "<text x=\"\(x)\" y=\"\(y)\" fill=\"#222222\"\(style)>\(escaped)</text>\n"
    }
}
