import BifrostTool
import Testing

@Suite struct ChaosPlanTests {
    @Test func roundsAreReadAsTheyAreWritten() throws {
        let plan = try ChaosPlan(parsing: "kill:3,stop:2,full:1")
        #expect(plan.parts.map(\.kind) == [.kill, .stop, .full])
        #expect(plan.parts.map(\.rounds) == [3, 2, 1])
        #expect(plan.description == "kill:3,stop:2,full:1")
    }

    @Test(arguments: [
        "", "kill", "kill:", "kill:0", "kill:x", "kill:-1", "maim:2", "kill:1,", "kill:1,kill:2", "kill:1:2",
    ])
    func otherRoundsAreErrors(text: String) {
        #expect(throws: (any Error).self) { try ChaosPlan(parsing: text) }
    }

    @Test func permittedSkipsNeedAKindAndAReason() throws {
        let skips = try PermittedSkips(parsing: "# why\n\npartition: no namespaces\nfull: no mounts\n")
        #expect(skips.kinds == [.partition, .full])
        for text in ["partition", "partition:", "partition: ", "nothing: at all"] {
            #expect(throws: (any Error).self) { try PermittedSkips(parsing: text) }
        }
    }
}
