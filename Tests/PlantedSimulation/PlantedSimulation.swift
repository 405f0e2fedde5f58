// Runs seeds with one planted bug until a rule is broken. `Tools/planted` starts a process of this for each bug.
//
//   PlantedSimulation BUG PROFILE FIRST LAST SECONDS      BUG "none": no mistake is made
//
// PROFILE "matrix": the crash matrix of migrations, whose cells the numbers are, in an order in which neighbours differ.
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
        guard arguments.count == 6, arguments[2] == matrix || SimulationProfile(rawValue: arguments[2]) != nil,
            let first = UInt64(arguments[3]), let last = UInt64(arguments[4]), first <= last,
            let seconds = Int(arguments[5]), seconds > 0
        else {
            print("usage: PlantedSimulation BUG safety|liveness|rot|membership|moves|matrix FIRST LAST SECONDS")
            exit(64)
        }
        // Read by nobody yet: nothing has begun.
        plantedBug = arguments[1] == "none" ? "" : arguments[1]
        guard let profile = SimulationProfile(rawValue: arguments[2]) else { return hunt(first...last) }
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

    private static let matrix = "matrix"

    /// Each cell once at most.
    private static func hunt(_ numbers: ClosedRange<UInt64>) {
        let cells = MigrationMatrix.cells
        let count = UInt64(cells.count)
        // Prime to the number of cells, so that each number names another one.
        var step = count * 5 / 8
        while greatestCommonDivisor(step, count) > 1 { step += 1 }
        for number in numbers {
            guard number - numbers.lowerBound < count else { break }
            say("\(number)")
            let report = MigrationMatrix.run(cells[Int(number % count * step % count)])
            guard let failure = report.failure else { continue }
            say("caught \(number) \(failure.invariant)")
            exit(10)
        }
        say("escaped")
    }

    private static func greatestCommonDivisor(_ left: UInt64, _ right: UInt64) -> UInt64 {
        right == 0 ? left : greatestCommonDivisor(right, left % right)
    }

    /// At once, whatever becomes of the process.
    private static func say(_ line: String) {
        print(line)
        fflush(nil)
    }
}
