// A process that ends because of what it read: whose page it was is said and noted, and it ends as it would have.

import Dispatch
import Foundation
import Glibc
import LMDB
import TestSupport
import Testing

@Suite(.serialized, .ownExecutor) struct FaultNoteTests {
    /// How `StorageKillHelper fault` ended, what it said, and which of its two environments have a note.
    private func run(_ kind: Int) throws -> (signal: Int32?, said: String, noted: [String]) {
        let directory = StoreDirectory()
        let helper = Process()
        helper.executableURL = Bundle.module.bundleURL.deletingLastPathComponent().appendingPathComponent(
            "StorageKillHelper")
        helper.arguments = ["fault", directory.path, "\(kind)"]
        helper.environment = ["SWIFT_BACKTRACE": "enable=no"]
        let errors = Pipe()
        helper.standardError = errors
        try helper.run()
        // Else one that hangs would hang this process too.
        DispatchQueue.global().asyncAfter(deadline: .now() + 30) {
            if helper.isRunning { kill(helper.processIdentifier, SIGKILL) }
        }
        let said = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        helper.waitUntilExit()
        let noted = ["first", "second"].filter { ClosedEnvironment.hasNote(path: "\(directory.path)/\($0)") }
        for name in noted {
            // It holds nothing any more, and the note says what was said.
            let environment = try ClosedEnvironment(path: "\(directory.path)/\(name)")
            let note = environment.note ?? ""
            #expect(!note.isEmpty && said.contains(note), "\(note)")
        }
        return (helper.terminationReason == .uncaughtSignal ? helper.terminationStatus : nil, said, noted)
    }

    @Test(arguments: [1, 3]) func aPageThatIsNotThereIsItsEnvironmentsAlone(kind: Int) throws {
        let (signal, said, noted) = try run(kind)
        #expect(signal == SIGBUS && noted == ["first"], "\(said)")
        #expect(said.contains("/first/data.mdb: a page can't be read (SIGBUS at offset"))
    }

    @Test(arguments: [0, 2]) func aStrayPointerMayBeAnybodys(kind: Int) throws {
        let (signal, said, noted) = try run(kind)
        #expect(signal == SIGSEGV && noted == ["first", "second"], "\(said)")
        #expect(said.contains("SIGSEGV at address 0x1"))
    }

    @Test func aPageOfAnotherFileIsNobodys() throws {
        let (signal, said, noted) = try run(4)
        #expect(signal == SIGBUS && noted == [] && said.isEmpty, "\(said)")
    }

    /// As on a disk that hangs: what is behind it is not waited for.
    @Test func whoCanNotLeaveANoteEndsAllTheSame() throws {
        let (signal, said, _) = try run(5)
        #expect(signal == SIGALRM && said.isEmpty)
    }
}
