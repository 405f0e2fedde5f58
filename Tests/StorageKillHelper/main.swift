// Writes until it is killed, or for so many steps, and says on standard output what is durable: the other half of the
// SIGKILL and power-failure tests. `StorageKillHelper MODE DIRECTORY SEED [STEPS]`. It prints the lines that belong to
// one acknowledged transaction in one write.

import Glibc

let arguments = CommandLine.arguments
guard arguments.count == 4 || arguments.count == 5, let seed = UInt64(arguments[3]),
    let steps = arguments.count == 5 ? Int(arguments[4]) : .max
else {
    say("usage: StorageKillHelper journal|store|fault DIRECTORY SEED [STEPS]", on: STDERR_FILENO)
    exit(64)
}
do {
    switch arguments[1] {
    case "journal": try writeJournal(directory: arguments[2], seed: seed, steps: steps)
    case "store": try writeStore(directory: arguments[2], seed: seed, steps: steps)
    case "fault": try fault(directory: arguments[2], kind: seed)
    default:
        say("unknown mode \(arguments[1])", on: STDERR_FILENO)
        exit(64)
    }
} catch {
    say("\(error)", on: STDERR_FILENO)
    exit(1)
}

/// One line (or several) in one write, so that a kill cuts between lines; a line that did not get out was not
/// acknowledged.
func acknowledge(_ line: String) { say(line, on: STDOUT_FILENO) }

func say(_ line: String, on descriptor: Int32) {
    var line = line + "\n"
    line.withUTF8 { bytes in _ = write(descriptor, bytes.baseAddress, bytes.count) }
}
