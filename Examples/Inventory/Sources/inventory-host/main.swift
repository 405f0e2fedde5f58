// A host with the inventory:   inventory-host DIRECTORY ADDRESS:PORT

import BifrostHost
import Foundation
import Inventory
import Logging

let arguments = CommandLine.arguments
guard arguments.count == 3 else {
    print("usage: inventory-host DIRECTORY ADDRESS:PORT")
    exit(64)
}
do {
    var configuration = HostConfiguration(directory: arguments[1], listen: try NetworkAddress(arguments[2]))
    configuration.machines = try StateMachineRegistry([Inventory.self])
    let host = try await Host.start(configuration, logger: Logger(label: "inventory-host")) { error in
        // Nothing in memory may be believed any more.
        print("the disk failed: \(error)")
        exit(74)
    }
    print("host \(host.host) of the inventory listens on \(host.address)")
    // Until it is told to end; what was acknowledged is on disk.
    let ended = AsyncStream<Void> { continuation in
        for number in [SIGINT, SIGTERM] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number)
            source.setEventHandler { continuation.finish() }
            source.resume()
            continuation.onTermination = { _ in _ = source }
        }
    }
    for await _ in ended {}
    await host.stop()
} catch {
    print("inventory-host: \(error)")
    exit(1)
}
