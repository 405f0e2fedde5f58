// swift-tools-version: 6.2
import PackageDescription

// Copied elsewhere, the dependency is the package's address instead of a path.
let package = Package(
    name: "notebook",
    dependencies: [.package(name: "bifrost", path: "../..")],
    targets: [
        .executableTarget(
            name: "notebook", dependencies: [.product(name: "BifrostEmbedded", package: "bifrost")])
    ])
