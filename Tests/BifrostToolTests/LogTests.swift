// Lines of a host's log for programs.

import BifrostTool
import Foundation
import Logging
import Synchronization
import Testing

private final class Lines: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
}

@Suite struct LogTests {
    @Test func anEventIsOneObjectOnOneLine() throws {
        let lines = Lines()
        var logger = Logger(label: "bifrost") { label in JSONLogHandler(label: label) { lines.add($0) } }
        logger.logLevel = .notice
        logger[metadataKey: "host"] = "7"
        logger[metadataKey: "reason"] = "older"
        logger.info("not important enough")
        logger.warning(
            "a line\nwith \"both\" \u{1}",
            metadata: ["reason": "newer", "list": ["a", "b"], "map": ["key": .stringConvertible(5)]])
        logger.notice("no more")
        #expect(lines.all.count == 2)
        let text = try #require(lines.all.first)
        #expect(text.hasSuffix("}\n") && text.dropLast().allSatisfy { $0 != "\n" })
        let object = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        #expect(object["message"] as? String == "a line\nwith \"both\" \u{1}")
        #expect(object["level"] as? String == "warning" && object["logger"] as? String == "bifrost")
        #expect(object["source"] as? String == "BifrostToolTests")
        let metadata = try #require(object["metadata"] as? [String: Any])
        #expect(metadata["host"] as? String == "7" && metadata["reason"] as? String == "newer")
        #expect(metadata["list"] as? [String] == ["a", "b"] && metadata["map"] as? [String: String] == ["key": "5"])
        let time = try #require(object["time"] as? String)
        #expect(time.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/) != nil, "\(time)")
        let then = try Date.ISO8601FormatStyle(includingFractionalSeconds: true).parse(time)
        #expect(abs(then.timeIntervalSinceNow) < 60)
    }
}
