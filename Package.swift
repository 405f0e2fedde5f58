// swift-tools-version: 6.2
import PackageDescription

// One optimised configuration serves tests and executable: `swift build -c release`. `Tools/test`
// sets BIFROST_ONLY to a comma-separated list of targets when a filter names only some of them; the package then
// consists of those targets, what they depend on, and their tests, so that a small part builds alone in seconds.

//
// `Tools/planted` sets BIFROST_PLANTED: the mistakes that the code can make on purpose are compiled in, and the target
// that looks for them. No other build has either.
let isPlanted = Context.environment["BIFROST_PLANTED"] != nil

let house: [SwiftSetting] =
    [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .treatAllWarnings(as: .error),
    ] + (isPlanted ? [.define("BIFROST_PLANTED")] : [])

struct Part {
    /// `preloaded`: C, built as a dynamic library that tests preload into processes; nothing is linked with it.
    /// `planted`: an executable of the build with planted bugs, and of no other.
    enum Kind { case library, executable, c, lmdb, preloaded, planted, test }
    var name: String
    var kind: Kind = .library
    /// Targets of this package. The order of `parts` is the order of the house: imports point up this list, never down.
    var needs: [String] = []
    /// Products of other packages, as "package/Product".
    var products: [String] = []
    var path: String?
    var resources: [String] = []
}

let parts: [Part] = [
    Part(name: "CChecksum", kind: .c),
    Part(name: "Primitives", needs: ["CChecksum"]),
    Part(name: "RaftCore", needs: ["Primitives"], products: ["swift-collections/DequeModule"]),
    Part(name: "Ring", needs: ["Primitives"]),
    Part(name: "Messages", needs: ["Primitives", "Ring"]),
    Part(
        name: "StateMachines", needs: ["Primitives", "Ring", "Messages"],
        products: ["swift-collections/DequeModule"]),
    Part(name: "DataTypes", needs: ["Primitives", "Ring", "Messages", "StateMachines"]),
    Part(name: "CLMDB", kind: .lmdb),
    Part(name: "CFaultNote", kind: .c),
    Part(name: "LMDB", needs: ["CLMDB", "CFaultNote"]),
    Part(name: "Storage", needs: ["Primitives", "LMDB"]),
    Part(name: "SnapshotFiles", needs: ["Primitives", "Ring", "Storage"]),
    Part(
        name: "HostCore",
        needs: ["Primitives", "RaftCore", "Ring", "Messages", "StateMachines", "DataTypes", "Storage"],
        products: ["swift-collections/DequeModule"]),
    Part(name: "Recovery", needs: ["Primitives", "RaftCore", "Ring"]),
    Part(
        name: "ClientCore", needs: ["Primitives", "Ring", "Messages", "StateMachines"],
        products: ["swift-collections/DequeModule"]),
    Part(name: "Linearizability", needs: ["Primitives"]),
    Part(
        name: "BifrostSimulator",
        needs: [
            "Primitives", "RaftCore", "Ring", "Messages", "StateMachines", "DataTypes", "Storage", "HostCore",
            "ClientCore",
            "Linearizability",
        ]),
    Part(
        name: "RPC", needs: ["Primitives"],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging"]),
    Part(
        name: "BifrostHost",
        needs: [
            "Primitives", "RaftCore", "Ring", "Messages", "StateMachines", "DataTypes", "LMDB", "Storage", "HostCore",
            "Recovery",
            "RPC",
        ],
        products: [
            "swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging", "swift-metrics/Metrics",
            "swift-collections/DequeModule",
        ]),
    // Another backend of swift-metrics may take its place: only the executable has it.
    Part(
        name: "MetricsEndpoint",
        products: [
            "swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-nio/NIOHTTP1", "swift-metrics/CoreMetrics",
        ]),
    Part(
        name: "Bifrost", needs: ["Primitives", "Ring", "Messages", "StateMachines", "DataTypes", "ClientCore", "RPC"],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging"]),
    Part(
        name: "BifrostEmbedded",
        needs: ["Primitives", "Ring", "Messages", "StateMachines", "DataTypes", "RPC", "BifrostHost", "Bifrost"],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging"]),
    Part(
        name: "BifrostTool", kind: .executable,
        needs: [
            "Primitives", "Ring", "Messages", "StateMachines", "DataTypes", "ClientCore", "Linearizability",
            "BifrostSimulator",
            "Storage", "SnapshotFiles", "Recovery", "RPC", "BifrostHost", "MetricsEndpoint", "Bifrost",
            "BifrostEmbedded",
        ],
        products: [
            "swift-argument-parser/ArgumentParser", "swift-log/Logging", "swift-metrics/CoreMetrics",
            "swift-nio/NIOCore", "swift-nio/NIOPosix",
            "swift-service-lifecycle/UnixSignals",
            "hdrhistogram-swift/Histogram",
        ],
        path: "Tools/bifrost"),
    // Simulates clusters whose code makes a mistake on purpose: `Tools/planted`.
    Part(
        name: "PlantedSimulation", kind: .planted, needs: ["BifrostSimulator", "Primitives"],
        path: "Tests/PlantedSimulation"),
    // What test targets share; nothing of it is in the product.
    Part(name: "TestSupport", needs: ["Primitives"], path: "Tests/TestSupport"),
    Part(name: "PrimitivesTests", kind: .test, needs: ["Primitives"]),
    Part(name: "RaftCoreTests", kind: .test, needs: ["RaftCore", "Primitives"], resources: ["testdata"]),
    Part(name: "RingTests", kind: .test, needs: ["TestSupport", "Ring", "Primitives"]),
    Part(name: "MessagesTests", kind: .test, needs: ["TestSupport", "Messages", "Ring", "Primitives"]),
    Part(
        name: "StateMachinesTests", kind: .test,
        needs: ["TestSupport", "DataTypes", "StateMachines", "Messages", "Ring", "Primitives"]),
    Part(
        name: "DataTypesTests", kind: .test,
        needs: ["TestSupport", "DataTypes", "StateMachines", "Messages", "Ring", "Primitives"]),
    Part(name: "LMDBTests", kind: .test, needs: ["LMDB"]),
    Part(
        name: "StorageKillHelper", kind: .executable, needs: ["Storage", "LMDB", "Primitives"],
        path: "Tests/StorageKillHelper"),
    Part(name: "CWriteRecorder", kind: .preloaded, path: "Tests/CWriteRecorder"),
    Part(
        name: "StorageTests", kind: .test,
        needs: [
            "TestSupport", "Storage", "SnapshotFiles", "LMDB", "Ring", "Primitives", "BifrostSimulator",
            "StorageKillHelper", "CWriteRecorder",
        ],
        resources: ["Samples"]),
    Part(
        name: "HostCoreTests", kind: .test,
        needs: [
            "BifrostSimulator", "HostCore", "ClientCore", "Storage", "StateMachines", "DataTypes", "Messages", "Ring",
            "RaftCore",
            "Primitives",
        ]),
    Part(name: "RecoveryTests", kind: .test, needs: ["Recovery", "Ring", "Primitives"]),
    Part(
        name: "ClientCoreTests", kind: .test, needs: ["ClientCore", "StateMachines", "Messages", "Ring", "Primitives"]),
    Part(name: "LinearizabilityTests", kind: .test, needs: ["Linearizability", "Primitives"]),
    Part(
        name: "SimulationTests", kind: .test,
        needs: [
            "TestSupport", "BifrostSimulator", "Linearizability", "HostCore", "ClientCore", "Storage", "StateMachines",
            "DataTypes", "Messages", "Ring", "RaftCore", "Primitives",
        ]),
    Part(
        name: "RPCTests", kind: .test, needs: ["TestSupport", "RPC", "Primitives"],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix"]),
    Part(
        name: "BifrostTests", kind: .test,
        needs: [
            "TestSupport", "Bifrost", "ClientCore", "RPC", "StateMachines", "DataTypes", "Messages", "Ring",
            "Primitives",
        ],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging"]),
    // Whole hosts in one process, on loopback, with the client; and the threads of one on a simulated disk.
    Part(
        name: "BifrostHostTests", kind: .test,
        needs: [
            "TestSupport", "BifrostSimulator", "BifrostHost", "Bifrost", "HostCore", "ClientCore", "Recovery",
            "Storage", "SnapshotFiles", "StateMachines", "DataTypes", "Messages", "Ring", "RPC", "Primitives",
        ],
        products: [
            "swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging", "swift-metrics/CoreMetrics",
            "swift-metrics/MetricsTestKit",
        ], resources: ["Samples"]),
    Part(
        name: "EmbeddedKillHelper", kind: .executable,
        needs: ["BifrostEmbedded", "BifrostHost", "Bifrost", "Primitives"],
        path: "Tests/EmbeddedKillHelper"),
    Part(
        name: "BifrostEmbeddedTests", kind: .test,
        needs: [
            "TestSupport", "BifrostEmbedded", "BifrostHost", "Bifrost", "ClientCore", "StateMachines", "Messages",
            "Ring",
            "RPC", "Primitives", "EmbeddedKillHelper",
        ],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-log/Logging"]),
    Part(
        name: "MetricsEndpointTests", kind: .test, needs: ["TestSupport", "MetricsEndpoint"],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix", "swift-metrics/CoreMetrics"]),
    Part(
        name: "BifrostToolTests", kind: .test,
        needs: ["BifrostTool", "Recovery", "StateMachines", "DataTypes", "Messages", "Ring", "Primitives"],
        products: ["swift-log/Logging"]),
    // BifrostTool for its executable, which the tests run, and for what runs processes.
    Part(
        name: "IntegrationTests", kind: .test,
        needs: [
            "TestSupport", "BifrostSimulator", "BifrostTool", "Bifrost", "ClientCore", "HostCore", "Linearizability",
            "RPC", "Messages", "StateMachines", "DataTypes", "Ring", "Storage", "SnapshotFiles", "Primitives",
        ],
        products: ["swift-nio/NIOCore", "swift-nio/NIOPosix"]),
]

let packages: [String: Package.Dependency] = [
    "swift-argument-parser": .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    "swift-collections": .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    "swift-log": .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    "swift-metrics": .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    "swift-nio": .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
    "swift-service-lifecycle": .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    "hdrhistogram-swift": .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
]

let only = Context.environment["BIFROST_ONLY"].map { $0.split(separator: ",").map(String.init) }

/// The named parts with all that they depend on.
func closure(of names: [String]) -> Set<String> {
    var chosen: Set<String> = []
    var open = names
    while let name = open.popLast() {
        guard let part = parts.first(where: { $0.name == name }), chosen.insert(name).inserted else { continue }
        open += part.needs
    }
    return chosen
}
let chosen = closure(of: only.map { $0.flatMap { [$0, $0 + "Tests"] } } ?? parts.map(\.name))
let built = parts.filter { chosen.contains($0.name) && ($0.kind != .planted || isPlanted) }
func isBuilt(_ name: String) -> Bool { chosen.contains(name) }

let preloaded = parts.filter { $0.kind == .preloaded }.map(\.name)

func dependencies(of part: Part) -> [Target.Dependency] {
    part.needs.filter { !preloaded.contains($0) }.map { .byName(name: $0) }
        + part.products.map { product in
            let pieces = product.split(separator: "/").map(String.init)
            return .product(name: pieces[1], package: pieces[0])
        }
}

/// The libraries that other packages may use.
let libraries = ["Bifrost", "BifrostHost", "BifrostEmbedded", "BifrostSimulator", "Linearizability"].filter(isBuilt)
var products: [Product] = libraries.map { .library(name: $0, targets: [$0]) }
if isBuilt("BifrostTool") { products.append(.executable(name: "bifrost", targets: ["BifrostTool"])) }
products += preloaded.filter(isBuilt).map { .library(name: $0, type: .dynamic, targets: [$0]) }

let package = Package(
    name: "bifrost",
    products: products,
    dependencies: Set(built.flatMap(\.products).map { String($0.split(separator: "/")[0]) }).sorted().map {
        packages[$0]!
    },
    targets: built.map { part in
        switch part.kind {
        case .library:
            .target(name: part.name, dependencies: dependencies(of: part), path: part.path, swiftSettings: house)
        case .executable, .planted:
            .executableTarget(
                name: part.name, dependencies: dependencies(of: part), path: part.path, swiftSettings: house)
        case .c, .preloaded:
            .target(name: part.name, path: part.path)
        case .lmdb:
            .systemLibrary(name: part.name, pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])])
        case .test:
            .testTarget(
                name: part.name, dependencies: dependencies(of: part),
                resources: part.resources.map { .copy($0) }, swiftSettings: house)
        }
    },
    swiftLanguageModes: [.v6]
)
