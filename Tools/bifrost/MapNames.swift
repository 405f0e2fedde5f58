// How people name hosts, groups and replicas, and which of the map they mean. Pure.

package import Primitives
package import Ring

package enum MapNames {
    /// The host with this id, name or address. An error names those that there are; a word that fits several hosts is
    /// refused rather than guessed at.
    package static func host(_ word: String, in map: ClusterMap) throws(ToolError) -> HostRecord {
        let found = map.hosts.filter { "\($0.id)" == word || $0.name == word || $0.address == word }
        if found.count == 1 { return found[0] }
        guard found.isEmpty else {
            throw ToolError(
                .usage,
                "\(quoted(word)) fits \(HumanText.count(found.count, "host")): \(list(found)); name one by its address")
        }
        throw ToolError(
            .usage, "there is no host \(quoted(word)); expected the id, name or address of one of: \(list(map.hosts))")
    }

    /// Distinct hosts, in the order in which they were named.
    package static func hosts(_ words: [String], in map: ClusterMap) throws(ToolError) -> [HostRecord] {
        var hosts: [HostRecord] = []
        for word in words {
            let host = try host(word, in: map)
            guard !hosts.contains(where: { $0.id == host.id }) else {
                throw ToolError(.usage, "host \(host.id) at \(host.address) is named twice: name it once")
            }
            hosts.append(host)
        }
        return hosts
    }

    package static func group(_ id: GroupID, in map: ClusterMap) throws(ToolError) -> GroupRecord {
        if let group = map.group(id) { return group }
        let last = map.groups.last.map { " up to \($0.id)" } ?? ""
        throw ToolError(
            .usage, "there is no group \(id); there are \(HumanText.count(map.groups.count, "group"))\(last)")
    }

    package static func replica(_ id: ReplicaID, of group: GroupRecord) throws(ToolError) -> ReplicaRecord {
        if let record = group.record(of: id) { return record }
        throw ToolError(.usage, "\(group.id.words) has no replica \(id); it has: \(list(group))")
    }

    /// The group's replica on a host.
    package static func replica(on host: HostRecord, of group: GroupRecord) throws(ToolError) -> ReplicaRecord {
        if let record = group.replicas.first(where: { $0.host == host.id }) { return record }
        throw ToolError(.usage, "\(group.id.words) has no replica on host \(host.id); it has: \(list(group))")
    }

    /// The first eight.
    private static func list(_ hosts: [HostRecord]) -> String {
        hosts.prefix(8).map { "\($0.id) (\($0.name.isEmpty ? "" : "\($0.name), ")\($0.address))" }
            .joined(separator: ", ") + (hosts.count > 8 ? ", …" : "")
    }

    private static func list(_ group: GroupRecord) -> String {
        group.replicas.map { "\($0.id) on host \($0.host)" }.joined(separator: ", ")
    }

    private static func quoted(_ word: String) -> String { HumanText.quoted(Bytes(word)) }
}

extension GroupID {
    /// In a sentence.
    package var words: String { self == .meta ? "the meta group" : "group \(self)" }
    /// In a table.
    package var name: String { self == .meta ? "meta" : "\(self)" }
}
