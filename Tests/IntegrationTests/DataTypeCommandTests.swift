// The data types on the command line.

import Bifrost
import BifrostTool
import Foundation
import TestSupport
import Testing

extension IntegrationTests {
    @Suite(.serialized) struct DataTypeCommandTests {
        private func lines(_ text: String) throws -> [NSDictionary] {
            try text.split(separator: "\n").map {
                try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? NSDictionary)
            }
        }

        @Test func valuesAndNumbersAreChangedAndSayWhyNot() async throws {
            try await withCluster { cluster in
                let set = try await cluster.bifrost("value", "set", "--if-absent", "{l}owner", "ada", "--json")
                set.expect(0)
                let revision = try #require(try set.json()["revision"] as? Int)
                try await cluster.bifrost("value", "set", "--if-absent", "{l}owner", "bob").expect(
                    1, saying: "the value is of revision \(revision); nothing was changed")
                #expect(try await cluster.bifrost("value", "get", "{l}owner").text == "ada")
                let swapped = try await cluster.bifrost("value", "swap", "{l}owner", "bob", "--json")
                #expect((try swapped.json()["previous"] as? [String: Any])?["value"] as? String == "ada")
                try await cluster.bifrost("value", "cas", "{l}owner", "ada", "cy").expect(1)
                try await cluster.bifrost("value", "cas", "{l}owner", "bob", "cy").expect(0)
                let watch = try await cluster.bifrost(
                    "value", "watch", "{l}owner", "--limit", "1", "--after", "\(revision)")
                watch.expect(0)
                #expect(watch.text == "put\tbob\n")
                try await cluster.bifrost("value", "delete", "{l}owner").expect(0)
                try await cluster.bifrost("value", "get", "{l}owner").expect(1, saying: "there is no value")

                #expect(try await cluster.bifrost("number", "add", "n", "5").text == "5\n")
                #expect(try await cluster.bifrost("number", "multiply", "n", "--", "-3").text == "-15\n")
                #expect(try await cluster.bifrost("number", "divide", "n", "2").text == "-7\n")
                try await cluster.bifrost("number", "divide", "n", "0").expect(1, saying: "division by zero")
                try await cluster.bifrost("number", "add", "n", "1.5").expect(64, saying: "not both integers")
                try await cluster.bifrost("number", "bound", "n", "--at-least", "-20", "--at-most", "10").expect(0)
                try await cluster.bifrost("number", "add", "n", "20").expect(1, saying: "bounds")
                try await cluster.bifrost("number", "set", "n", "9223372036854775807").expect(1)
                try await cluster.bifrost("number", "cas", "n", "--", "-7", "8").expect(0)
                #expect(try await cluster.bifrost("number", "get", "n", "--json").json()["integer"] as? Int == 8)
                #expect(try await cluster.bifrost("number", "delete", "n").text == "8\n")
                try await cluster.bifrost("number", "get", "n").expect(1)
                try await cluster.bifrost("number", "set", "n", "9223372036854775808").expect(64)
                try await cluster.bifrost("number", "set", "n", "0x10").expect(64)

                // Bytes that are no text come back as they are, and in one line where there are several.
                let bytes: [UInt8] = [0xff, 0x0a, 0x09, 0x66]
                try await cluster.bifrost("value", "set", "bytes", "-", input: bytes).expect(0)
                #expect(try await cluster.bifrost("value", "get", "bytes").output == bytes)
                let told = try await cluster.bifrost("value", "watch", "bytes", "--limit", "1", "--after", "0")
                #expect(told.output == Array("put\t".utf8) + [0xff] + Array("\\n\\tf\n".utf8))
            }
        }

        @Test func mapsAndSetsAreListedInOrder() async throws {
            try await withCluster { cluster in
                for name in ["b", "a", "c"] {
                    try await cluster.bifrost("map", "put", "users", name, "value of \(name)").expect(0)
                }
                #expect(try await cluster.bifrost("map", "get", "users", "a").text == "value of a")
                #expect(
                    try await cluster.bifrost("map", "list", "users", "--from", "b").text
                        == "b\tvalue of b\nc\tvalue of c\n")
                let list = try await cluster.bifrost("map", "list", "users", "--json", "--limit", "1")
                #expect(try lines(list.text).first?["value"] as? String == "value of a")
                #expect(try await cluster.bifrost("map", "remove", "users", "a").text == "value of a")
                #expect(try await cluster.bifrost("map", "count", "users").text == "2\n")
                let watch = try await cluster.bifrost("map", "watch", "users", "--after", "1", "--limit", "3", "--json")
                #expect(try lines(watch.text).map { $0["change"] as? String } == ["put", "put", "deleted"])
                #expect(try await cluster.bifrost("map", "clear", "users", "--json").json()["count"] as? Int == 2)
                try await cluster.bifrost("map", "list", "users").expect(1, saying: "has no key")

                let add = try await cluster.bifrost("set", "add", "{t}on", "ada", "bob")
                #expect(add.text == "added\tada\nadded\tbob\n")
                try await cluster.bifrost("set", "add", "{t}off", "cy", "bob").expect(0)
                #expect(try await cluster.bifrost("set", "union", "{t}on", "{t}off").text == "ada\nbob\ncy\n")
                #expect(try await cluster.bifrost("set", "intersection", "{t}on", "{t}off").text == "bob\n")
                #expect(try await cluster.bifrost("set", "difference", "{t}on", "{t}off").text == "ada\n")
                try await cluster.bifrost("set", "contains", "{t}on", "ada", "cy").expect(1)
                try await cluster.bifrost("set", "move", "{t}on", "{t}off", "ada").expect(0)
                try await cluster.bifrost("set", "move", "{t}on", "{t}off", "ada").expect(1)
                try await cluster.bifrost("set", "union", "{t}on", "elsewhere").expect(64, saying: "different slots")
                #expect(try await cluster.bifrost("set", "list", "{t}off").text == "ada\nbob\ncy\n")
                #expect(
                    try await cluster.bifrost("set", "remove", "{t}off", "bob", "dee").text
                        == "removed\tbob\nabsent\tdee\n")
                #expect(try await cluster.bifrost("set", "count", "{t}off").text == "2\n")
                #expect(try await cluster.bifrost("set", "clear", "{t}off").text == "2\n")
                try await cluster.bifrost("set", "list", "{t}on", "--limit", "0").expect(64, saying: "--limit")
                try await cluster.bifrost("set", "union", "{t}on", "{t}off", "--limit", "0").expect(
                    64, saying: "--limit")
            }
        }

        @Test func arraysAreChangedByIndexAndByID() async throws {
            try await withCluster { cluster in
                #expect(try await cluster.bifrost("array", "append", "lines", "b", "d").text == "1\n2\n")
                let insert = try await cluster.bifrost("array", "insert", "--before", "2", "lines", "c", "--json")
                #expect(try insert.json()["ids"] as? [Int] == [3])
                #expect(try await cluster.bifrost("array", "insert", "--at", "0", "lines", "a").text == "4\n")
                try await cluster.bifrost("array", "insert", "--after", "9", "lines", "x").expect(
                    1, saying: "the array has no such element; nothing was changed")
                try await cluster.bifrost("array", "insert", "lines", "x").expect(64, saying: "one of --at, --before")
                #expect(try await cluster.bifrost("array", "list", "lines").text == "0\ta\n1\tb\n2\tc\n3\td\n")
                #expect(
                    try await cluster.bifrost("array", "list", "lines", "--from", "1", "--limit", "2").text
                        == "1\tb\n2\tc\n")
                #expect(try await cluster.bifrost("array", "slice", "lines", "2", "1").text == "2\tc\n")
                try await cluster.bifrost("array", "slice", "lines", "4").expect(1, saying: "has 4 elements")
                try await cluster.bifrost("array", "slice", "lines", "0", "257").expect(64, saying: "1 to 256")

                try await cluster.bifrost("array", "set", "--id", "3", "--if-value", "c", "lines", "C").expect(0)
                try await cluster.bifrost("array", "set", "--id", "3", "--if-value", "c", "lines", "x").expect(
                    1, saying: "the condition does not hold")
                try await cluster.bifrost("array", "set", "--at", "4", "lines", "x").expect(
                    1, saying: "there is no such index: the array has 4 elements")
                #expect(try await cluster.bifrost("array", "get", "--at", "2", "lines").text == "C")
                let get = try await cluster.bifrost("array", "get", "--id", "3", "lines", "--json")
                #expect(try get.json()["index"] as? Int == 2 && get.json()["value"] as? String == "C")
                try await cluster.bifrost("array", "get", "--id", "9", "lines").expect(1, saying: "with the id 9")
                try await cluster.bifrost("array", "get", "lines").expect(64, saying: "one of --at and --id")

                let watch = try await cluster.bifrost(
                    "array", "watch", "lines", "--after", "1", "--limit", "3")
                #expect(watch.text == "inserted\t1\t3\tc\ninserted\t0\t4\ta\nset\t2\t3\tC\n")
                #expect(try await cluster.bifrost("array", "remove", "--at", "0", "lines").text == "a")
                try await cluster.bifrost("array", "append", "lines", "e", "f", "g").expect(0)
                try await cluster.bifrost("array", "remove", "--at", "0", "--count", "2", "lines").expect(0)
                #expect(try await cluster.bifrost("array", "count", "lines").text == "4\n")
                #expect(try await cluster.bifrost("array", "trim", "--last", "2", "lines").text == "2\n")
                try await cluster.bifrost("array", "trim", "--from", "1", "--before", "9", "lines").expect(1)
                try await cluster.bifrost("array", "trim", "lines").expect(64, saying: "says what stays")
                let told = try await cluster.bifrost(
                    "array", "watch", "lines", "--after", "1", "--limit", "10", "--json")
                let last = try #require(try lines(told.text).last)
                #expect(last["change"] as? String == "trimmed" && last["from"] as? Int == 2)
                let list = try await cluster.bifrost("array", "list", "lines", "--json")
                #expect(try lines(list.text).map { $0["value"] as? String } == ["f", "g"])
                #expect(try await cluster.bifrost("array", "clear", "lines", "--json").json()["count"] as? Int == 2)
                try await cluster.bifrost("array", "list", "lines").expect(1, saying: "has no element from 0 on")
            }
        }

        @Test func queuesAreServedByReceipts() async throws {
            try await withCluster { cluster in
                #expect(try await cluster.bifrost("queue", "push", "jobs", "a", "--id", "once").text == "1\n")
                try await cluster.bifrost("queue", "push", "jobs", "a", "--id", "once").expect(1, saying: "before")
                try await cluster.bifrost("queue", "push", "jobs", "b").expect(0)
                let urgent = try await cluster.bifrost("queue", "push", "jobs", "c", "--priority", "200", "--json")
                #expect(try urgent.json()["item"] as? Int == 3)
                #expect(try await cluster.bifrost("queue", "peek", "jobs").text == "3\tc\n1\ta\n2\tb\n")
                let taken = try await cluster.bifrost("queue", "take", "jobs", "--max", "2", "--visibility", "1h")
                #expect(taken.text == "3-1\tc\n1-1\ta\n")
                // Its session has long ended with it, and the items are still in flight.
                let count = try await cluster.bifrost("queue", "count", "jobs")
                #expect(count.text == "1 ready, 0 delayed, 2 in flight, 0 dead; 0 who wait\n")
                #expect(try await cluster.bifrost("queue", "ack", "jobs", "3-1").text == "done\t3-1\n")
                let late = try await cluster.bifrost("queue", "ack", "jobs", "3-1")
                late.expect(1, saying: "came back, or are gone")
                #expect(late.text == "stale\t3-1\n")
                try await cluster.bifrost("queue", "extend", "jobs", "1-1", "--visibility", "2h").expect(0)
                try await cluster.bifrost("queue", "nack", "jobs", "1-1").expect(0)
                try await cluster.bifrost("queue", "ack", "jobs", "11").expect(64, saying: "ITEM-DELIVERY")
                #expect(try await cluster.bifrost("queue", "pop", "jobs", "--max", "9").text == "a\nb\n")
                try await cluster.bifrost("queue", "take", "jobs").expect(1, saying: "nothing that is ready")
                try await cluster.bifrost("queue", "take", "jobs", "--wait", "50ms").expect(1)
                for count in ["0", "-1"] {
                    try await cluster.bifrost("queue", "take", "jobs", "--max", count).expect(64, saying: "1 to 256")
                }

                try await cluster.bifrost("queue", "set", "jobs", "--deliveries", "1").expect(0)
                for value in ["d", "e", "f"] { try await cluster.bifrost("queue", "push", "jobs", value).expect(0) }
                let lines = try lines(try await cluster.bifrost("queue", "take", "jobs", "--max", "3", "--json").text)
                #expect(lines.map { $0["receipt"] as? String } == ["4-1", "5-1", "6-1"])
                try await cluster.bifrost("queue", "nack", "jobs", "4-1", "5-1", "6-1").expect(0)
                #expect(try await cluster.bifrost("queue", "dead", "jobs").text == "4\td\n5\te\n6\tf\n")
                #expect(try await cluster.bifrost("queue", "requeue", "jobs", "4").text == "1\n")
                try await cluster.bifrost("queue", "requeue", "jobs", "4").expect(1, saying: "not dead")
                #expect(try await cluster.bifrost("queue", "purge", "jobs", "5").text == "1\n")
                #expect(try await cluster.bifrost("queue", "purge", "jobs").text == "1\n")
                try await cluster.bifrost("queue", "dead", "jobs").expect(1, saying: "nothing that is dead")
                #expect(try await cluster.bifrost("queue", "clear", "jobs", "--json").json()["count"] as? Int == 1)
                let counts = try await cluster.bifrost("queue", "count", "jobs", "--json").json()
                #expect(counts["ready"] as? Int == 0 && counts["deliveriesMax"] as? Int == 1)
            }
        }

        @Test func aTakeThatIsEndedWhileItWaitsLeavesNothingBehind() async throws {
            try await withCluster { cluster in
                func waiters() async throws -> Int? {
                    try await cluster.bifrost("queue", "count", "jobs", "--json").json()["waiters"] as? Int
                }
                func take() async throws -> ChildProcess {
                    let take = try ChildProcess(
                        cluster.local.executable,
                        ["queue", "take", "jobs", "--wait", "1h", "--connect", cluster.local.addresses])
                    let end = ContinuousClock.now + .seconds(180)
                    while try await waiters() != 1 {
                        try #require(ContinuousClock.now < end, "it does not wait")
                        await OwnExecutor.pause(milliseconds: 20)
                    }
                    return take
                }
                for signal in [SIGTERM, SIGINT, SIGHUP] {
                    let take = try await take()
                    take.send(signal)
                    let result = await take.end(killAfter: .seconds(180))
                    #expect(result.ending == .exit(128 + signal))
                    #expect(result.text.isEmpty && result.errorText.isEmpty, "\(result.errorText)")
                    #expect(try await waiters() == 0)
                }
                try await cluster.bifrost("queue", "push", "jobs", "a").expect(0)
                #expect(try await cluster.bifrost("queue", "take", "jobs").text == "1-1\ta\n")

                // Where nobody answers it ends all the same.
                let last = try await take()
                for host in cluster.hosts { host.process?.send(SIGSTOP) }
                last.send(SIGTERM)
                let result = await last.end(killAfter: .seconds(180))
                #expect(result.ending == .exit(128 + SIGTERM) && result.errorText.isEmpty, "\(result.errorText)")
                for host in cluster.hosts { host.process?.send(SIGCONT) }
            }
        }

        /// What the benchmark writes of each type it reads back.
        @Test(arguments: ["value", "map", "array", "queue", "lock"])
        func eachTypeIsMeasured(_ type: String) async throws {
            try await withHosts(0) { place in
                let bench = try await place.local.command(
                    [
                        "bench", "--embedded", "--groups", "1", "--seconds", "0.5", "--seconds-max", "150", "--keys",
                        "3000",
                        "--window", "64", "--type", type, "--json", "--directory", place.directory,
                    ], limit: .seconds(240))
                bench.expect(0)
                let report = try bench.json()
                #expect(report["type"] as? String == type && report["errors"] as? Int == 0)
                #expect(report["verified"] as? Int == 10_000)
                let operation = ["queue": "a push or a takeAndAck", "lock": "an acquire", "array": "an append"][type]
                #expect((report["operation"] as? String)?.hasPrefix(operation ?? "a ") == true)
            }
        }
    }
}
