// Runs seeds with one planted bug until a rule is broken. `Tools/planted` starts a process of this for each bug.
//
//   PlantedSimulation BUG PROFILE FIRST LAST SECONDS      BUG "none": no mistake is made
//
// Prints the number of each seed as it begins, and at the end `caught SEED RULE` (exit code 10) or `escaped`. A trap in
// production code ends the process: then the last number is the seed that caught it.

import BifrostSimulator
import Glibc
import Primitives

@main
enum PlantedSimulation {
    static func main() {
        let arguments = CommandLine.arguments
        guard arguments.count == 6, let profile = SimulationProfile(rawValue: arguments[2]),
            let first = UInt64(arguments[3]), let last = UInt64(arguments[4]), first <= last,
            let seconds = Int(arguments[5]), seconds > 0
        else {
            print("usage: PlantedSimulation BUG safety|liveness|rot|membership FIRST LAST SECONDS")
            exit(64)
        }
        // Read by nobody yet: nothing has begun.
        plantedBug = arguments[1] == "none" ? "" : arguments[1]
        for seed in first...last {
            say("\(seed)")
            let settings = SimulationSettings(profile: profile, seconds: seconds)
            let cluster = SimulatedCluster(seed: seed, settings: settings)
            do throws(SimulationFailure) {
                _ = try cluster.runAndCheck()
            } catch {
                say("caught \(seed) \(error.invariant)")
                exit(10)
            }
        }
        say("escaped")
    }

    /// At once, whatever becomes of the process.
    private static func say(_ line: String) {
        print(line)
        fflush(nil)
    }
}
