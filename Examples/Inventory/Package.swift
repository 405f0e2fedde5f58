// swift-tools-version: 6.2
import PackageDescription

// Copied elsewhere, the dependency is the package's address instead of a path.
let package = Package(
    name: "inventory",
    dependencies: [.package(name: "bifrost", path: "../..")],
    targets: [
        // The state machine: the same for hosts, clients and simulation.
        .target(name: "Inventory", dependencies: [.product(name: "Bifrost", package: "bifrost")]),
        // A host that has it, in place of `bifrost serve`.
        .executableTarget(
            name: "inventory-host",
            dependencies: ["Inventory", .product(name: "BifrostHost", package: "bifrost")]),
        // A program that uses it.
        .executableTarget(
            name: "inventory-shop", dependencies: ["Inventory", .product(name: "Bifrost", package: "bifrost")]),
        .testTarget(
            name: "InventoryTests",
            dependencies: [
                "Inventory",
                .product(name: "BifrostSimulator", package: "bifrost"),
                .product(name: "BifrostEmbedded", package: "bifrost"),
            ]),
    ])
