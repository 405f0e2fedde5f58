// A host with the inventory:   inventory-host DIRECTORY ADDRESS:PORT

import BifrostHost
import Dispatch
import Foundation
import Inventory
import Logging

@main
enum InventoryHost {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 3 else {
            print("usage: inventory-host DIRECTORY ADDRESS:PORT")
            exit(64)
        }
        var configuration = HostConfiguration(directory: arguments[1], listen: try NetworkAddress(arguments[2]))
        configuration.machines = try StateMachineRegistry([Inventory.self])
        let (ended, end) = AsyncStream.makeStream(of: Void.self)
        let signals = [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .main)
            source.setEventHandler { end.finish() }
            source.resume()
            return source
        }
        let host = try await Host.start(configuration, logger: Logger(label: "inventory-host")) { error in
            // Nothing in memory may be believed any more.
            print("the disk failed: \(error)")
            exit(74)
        }
        print("a host of the inventory listens on \(host.address)")
        // Also where somebody reads it through a pipe.
        fflush(nil)
        // Until it is told to end; what was acknowledged is on disk.
        for await _ in ended {}
        await host.stop()
        for source in signals { source.cancel() }
    }
}
