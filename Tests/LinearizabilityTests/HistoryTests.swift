import Linearizability
import Primitives
import Testing

private func read(_ text: String) throws -> [HistoryRecord] {
    var reader = HistoryReader()
    var records: [HistoryRecord] = []
    try reader.read(Array(text.utf8)) { records.append($0) }
    try reader.finish { records.append($0) }
    return records
}

private func record(
    _ input: RegisterInput<Bytes>, _ outcome: HistoryRecord.Outcome, key: Bytes = "k", call: UInt64 = 10,
    end: UInt64? = 20, client: UInt64 = 3
) -> HistoryRecord {
    HistoryRecord(client: client, key: key, input: input, outcome: outcome, call: call, end: end)
}

@Suite struct HistoryTests {
    private static let binary = Bytes([0xff, 0x00, 0xfe, 0x80])
    private static let records: [HistoryRecord] = [
        record(.put("v"), .ok(.changed(revision: 7))),
        record(.put(""), .unknown, end: nil),
        record(.put(binary), .failed, key: binary),
        record(.get, .ok(.found("a \"b\" \\ \n \t \u{1} é 😀", revision: 1))),
        record(.get, .ok(.found(nil, revision: nil)), call: .max, end: .max),
        record(.get, .ok(.found(Bytes([0x80]), revision: nil))),
        record(.get, .unknown), record(.delete, .ok(.changed(revision: nil))),
        record(.compareAndSet(.value("a"), to: binary), .ok(.changed(revision: 9))),
        record(.compareAndSet(.value(nil), to: nil), .ok(.conditionFailed)),
        record(.compareAndSet(.value(binary), to: "x"), .unknown),
        record(.compareAndSet(.revision(4), to: "x"), .failed, end: nil),
    ]

    @Test func whatIsWrittenIsReadAgainInPiecesOfAnySize() throws {
        let file = Self.records.flatMap { $0.line() }
        for size in [1, 2, 7, 64, file.count] {
            var reader = HistoryReader()
            var found: [HistoryRecord] = []
            for start in stride(from: 0, to: file.count, by: size) {
                try reader.read(file[start..<min(start + size, file.count)]) { found.append($0) }
            }
            try reader.finish { found.append($0) }
            #expect(found == Self.records)
            #expect(reader.lines == Self.records.count)
        }
    }

    @Test func linesAreAsTheyAreDocumented() {
        let expected = [
            #"{"client":3,"key":"k","op":"put","value":"v","call":10,"return":20,"outcome":"ok","revision":7}"#,
            #"{"client":3,"key":"k","op":"put","value":"","call":10,"outcome":"unknown"}"#,
            #"{"client":3,"key64":"/wD+gA==","op":"put","value64":"/wD+gA==","call":10,"return":20,"outcome":"failed"}"#,
        ]
        for (record, line) in zip(Self.records, expected) {
            #expect(String(decoding: record.line(), as: UTF8.self) == line + "\n")
        }
        let swap = String(decoding: Self.records[8].line(), as: UTF8.self)
        #expect(
            swap
                == #"{"client":3,"key":"k","op":"cas","expected":"a","value64":"/wD+gA==","call":10,"return":20,"outcome":"ok","swapped":true,"revision":9}"#
                + "\n")
    }

    @Test func whatOtherProgramsWriteIsReadToo() throws {
        let records = try read(
            """

            { "outcome" : "ok", "op":"get", "key":"\\u0041\\ud83d\\ude00\\/", "call":1, "return":2, "client":0,\
             "value":null, "revision":null, "host":{"name":["x", -1.5e3, true]}, "cost": -0.25 }\r
              \t
            {"client":1,"key":"a","op":"put","value":"b","call":5,"outcome":"unknown"}
            """)
        #expect(
            records == [
                record(.get, .ok(.found(nil, revision: nil)), key: "A😀/", call: 1, end: 2, client: 0),
                record(.put("b"), .unknown, key: "a", call: 5, end: nil, client: 1),
            ])
    }

    @Test(arguments: [
        ("{\"a\": 1}", nil), ("\n[1, {\"b\": [null]}]\n", nil),
        ("", "expected a value, found the end of the line"),
        ("{a: 1}", "expected a string, found \"a: 1}\" at column 2"),
        ("{\n  \"a\": 1\n  \"b\": 2\n}\n", "expected a comma or the end, found \"\"b\": 2\" at line 3, column 3"),
        ("{\n  \"a\": 1,\n}\n", "expected a string, found \"}\" at line 3, column 1"),
        ("{\n  \"a\": yes\n}\n", "expected a value, found \"yes\" at line 2, column 8"),
        ("{\n  \"a\": 1\n", "expected a comma or the end, found the end of the text"),
        ("{\n  \"a\": \"1}", "a string has no end: the one at line 2, column 8"),
        ("{\n  \"a\": \"1\n\"}", "a string has a control character at line 2, column 10"),
        ("{}\nx", "expected nothing behind the value, found \"x\" at line 2, column 1"),
    ]) func whereATextStopsBeingJSONIsSaid(_ text: String, _ problem: String?) {
        #expect(JSONSyntax.problem(in: Array(text.utf8)) == problem)
    }

    @Test(arguments: [
        (",", "expected an object, found \",\""),
        ("[1]", "expected an object, found \"[1]\""),
        (#"{"client":1"#, "expected a comma or the end of the object, found the end of the line"),
        (#"{"client":1}"#, "\"key\" is missing"),
        (#"{"client":1}x"#, "found more behind it"),
        (#"{"client":1,"client":2}"#, "\"client\" stands twice"),
        (#"{"client":-1}"#, "expected a whole number in \"client\", found -1"),
        (#"{"client":01}"#, "expected a value, found \"01}\""),
        (#"{"client":18446744073709551616}"#, "expected a whole number in \"client\""),
        (#"{"client":1,"key":"\x"}"#, "an unknown escape"),
        (#"{"client":1,"key":"\ud800"}"#, "half of a surrogate pair"),
        (#"{"client":1,"key":"a"#, "a string has no end"),
        (#"{"client":1,"key":"a","key64":"YQ=="}"#, "expected \"key\" or \"key64\", found both"),
        (#"{"client":1,"key64":"YQ="}"#, "\"key64\" is not base64"),
        (#"{"client":1,"key64":"YR=="}"#, "\"key64\" is not base64"),
        (#"{"client":1,"key":null}"#, "expected a string in \"key\", found null"),
        (#"{"a":\#(String(repeating: "[", count: 40))}"#, "expected at most 16 levels"),
        (#"{"client":1,"key":"k","call":5,"return":4}"#, "at or after the \"call\" at 5, found 4"),
        (#"{"client":1,"key":"k","call":5,"op":"incr","outcome":"unknown"}"#, "found \"incr\""),
        (#"{"client":1,"key":"k","call":5,"op":"put","outcome":"maybe"}"#, "found \"maybe\""),
        (#"{"client":1,"key":"k","call":5,"op":"put","outcome":"ok"}"#, "needs its time of \"return\""),
        (#"{"client":1,"key":"k","call":5,"op":"put","outcome":"unknown"}"#, "\"value\" is missing"),
        (#"{"client":1,"key":"k","call":5,"op":"cas","value":"a","outcome":"unknown"}"#, "either \"expected\" or"),
        (#"{"client":1,"key":"k","call":5,"op":"cas","expected":"a","outcome":"unknown"}"#, "needs its new \"value\""),
        (
            #"{"client":1,"key":"k","call":5,"return":6,"op":"cas","expected":"a","value":"b","outcome":"ok"}"#,
            "\"swapped\" is missing"
        ),
        (
            #"{"client":1,"key":"k","call":5,"return":6,"op":"get","revision":3,"outcome":"ok"}"#,
            "an absent key has no revision"
        ),
    ])
    func aBadLineIsNamedWithItsNumber(line: String, problem: String) throws {
        let good = String(decoding: Self.records[0].line(), as: UTF8.self)
        // Blank lines count.
        do {
            _ = try read(good + "\n" + line)
            Issue.record("\(line) was read")
        } catch let error as HistoryError {
            #expect(error.line == 3)
            #expect(error.problem.contains(problem), "\(error)")
            #expect(error.description.hasPrefix("line 3: "))
        }
    }

    @Test func bytesThatAreNotUTF8AreAnErrorInText() throws {
        // A whole line but for one byte.
        let line = Self.records[0].line()
        let place = try #require(line.firstIndex(of: UInt8(ascii: "k")))
        let key = try #require(line[(place + 1)...].firstIndex(of: UInt8(ascii: "k")))
        var bad = line
        bad[key] = 0xff
        var reader = HistoryReader()
        #expect(throws: HistoryError.self) { try reader.read(bad) { _ in } }
    }

    @Test func anEndlessLineIsAnErrorBeforeItFillsTheMemory() throws {
        var reader = HistoryReader()
        let piece = [UInt8](repeating: 0x20, count: 1 << 20)
        #expect(throws: HistoryError.self) { for _ in 0..<17 { try reader.read(piece) { _ in } } }
    }

    // MARK: Reports

    @Test func eachKeyIsJudgedOnItsOwn() throws {
        let history = [
            record(.put("1"), .ok(.changed(revision: 1)), key: "good", call: 0, end: 1),
            record(.put("1"), .ok(.changed(revision: 2)), key: "bad", call: 0, end: 1),
            record(.put("2"), .ok(.changed(revision: 3)), key: "bad", call: 2, end: 3),
            // Another key's value; and a stale one.
            record(.get, .ok(.found("1", revision: nil)), key: "good", call: 4, end: 5),
            record(.get, .ok(.found("1", revision: nil)), key: "bad", call: 4, end: 5),
            record(.put("3"), .unknown, key: "bad", call: 6, end: nil),
        ]
        let report = HistoryReport(checking: history)
        #expect(!report.isLinearizable)
        #expect(report.operationCount == 6 && report.unknownOutcomeCount == 1 && report.keyCount == 2)
        let violation = try #require(report.violation)
        #expect(report.suspicious.count == 1)
        #expect(violation.key == "bad" && violation.records.count == 4)
        #expect(violation.explanation[0] == "key bad is not linearizable")
        #expect(violation.explanation[1].hasPrefix("client 3: get → 1, "))
        #expect(violation.explanation[2].hasSuffix("explains 2 of 4 operations; then the value is 2 @3"))
        #expect(HistoryReport(checking: history.filter { $0.key == "good" }).isLinearizable)
        #expect(HistoryReport(checking: []).isLinearizable)
    }

    @Test func aReportWithoutAnAnswerIsNoViolationAndNotLinearizable() {
        let writes = (0..<30).map { record(.put(Bytes("\($0)")), .ok(.changed(revision: nil)), call: 0, end: 9) }
        let history = writes + [record(.get, .ok(.found("none", revision: nil)), call: 10, end: 11)]
        let report = HistoryReport(checking: history, limits: CheckLimits(stepsMax: 1_000))
        #expect(report.violation == nil && !report.isLinearizable)
        #expect(report.suspicious.first?.explanation.first?.hasPrefix("no answer for key k within ") == true)
    }

    // MARK: Pictures

    @Test func thePictureShowsWhatFitsInNoOrderAndIsWellFormed() throws {
        let history = [
            record(.put("<&\">"), .ok(.changed(revision: 1)), call: 0, end: 1_000_000, client: 1),
            record(.put("new"), .ok(.changed(revision: 2)), call: 2_000_000, end: 3_000_000, client: 2),
            record(.put("lost"), .unknown, call: 2_500_000, end: nil, client: 4),
            record(.get, .ok(.found("<&\">", revision: 1)), call: 4_000_000, end: 5_000_000, client: 3),
            // Too late to matter.
            record(.put("later"), .ok(.changed(revision: 3)), call: 6_000_000, end: 7_000_000, client: 1),
        ]
        let violation = try #require(HistoryReport(checking: history).violation)
        let svg = try #require(HistoryPicture(violation)).svg()
        #expect(svg.hasPrefix("<svg xmlns=\"http://www.w3.org/2000/svg\""))
        #expect(svg.contains(">put &lt;&amp;&quot;&gt; @1</text>"))
        #expect(svg.contains("client 3: get → &lt;&amp;&quot;&gt; @1, 4.000 ms to 5.000 ms, fits in no order"))
        #expect(svg.contains(">put lost ?</text>"))
        #expect(!svg.contains("later"))
        #expect(unbalanced(svg) == nil)
        // One bar in red, beside the legend's.
        #expect(svg.split(separator: "fill=\"#fbd5d5\"", omittingEmptySubsequences: false).count == 3)
    }

    @Test func onlyAViolationHasAPicture() throws {
        let writes = (0..<30).map { record(.put(Bytes("\($0)")), .ok(.changed(revision: nil)), call: 0, end: 9) }
        let history = writes + [record(.get, .ok(.found("none", revision: nil)), call: 10, end: 11)]
        let report = HistoryReport(checking: history, limits: CheckLimits(stepsMax: 1_000))
        #expect(HistoryPicture(try #require(report.suspicious.first)) == nil)
    }

    /// The first tag that closes what is not open, or stays open.
    private func unbalanced(_ svg: String) -> String? {
        var open: [Substring] = []
        for piece in svg.split(separator: "<").map({ $0.prefix { $0 != ">" } }) {
            let name = piece.drop { $0 == "/" }.prefix { $0.isLetter }
            if piece.hasPrefix("/") {
                guard open.popLast() == name else { return String(piece) }
            } else if !piece.hasSuffix("/") {
                open.append(name)
            }
        }
        return open.last.map(String.init)
    }
}
