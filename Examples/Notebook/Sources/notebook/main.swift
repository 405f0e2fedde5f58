// Notes in a cluster that runs:   notebook ADDRESS:PORT      or in one of this program's own:   notebook DIRECTORY

import BifrostEmbedded

let place = CommandLine.arguments.dropFirst().first ?? "notes"
let isAddress = place.contains(":")
let cluster = try await isAddress ? Cluster.connect(to: [place]) : Cluster.open(directory: place)

// Keys with the same part in braces live together: they can be read, changed and watched together.
let bread = try await cluster.kv.put("{notes}/bread", "a loaf")
let same = [KeyValueTransaction.Condition("{notes}/bread", .revision(bread))]
let milk = try await cluster.kv.transaction(if: same, then: [.put(key: "{notes}/milk", value: "two bottles")])
print(milk.holds ? "milk, too" : "somebody else wrote about bread")

if let found = try await cluster.kv.get("{notes}/bread") { print("bread: \(found.value)") }
for try await note in cluster.kv.scan(prefix: "{notes}/") { print("\(note.key) = \(note.value)") }

// What came behind the bread, and so the milk. Without the `break` it would go on with whatever comes.
for try await change in cluster.kv.watch(prefix: "{notes}/", from: .after(bread)) {
    print("\(change.kind): \(change.key)")
    break
}
await cluster.close()
