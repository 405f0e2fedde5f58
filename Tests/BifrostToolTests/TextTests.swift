// Numbers, tables and progress as people see them; what makes a cluster healthy.

import BifrostTool
import Foundation
import Messages
import Primitives
import Ring
import Testing

@Suite struct TextTests {
    /// A line of a help text that goes on in the next one ends with a backslash; two that were joined without it have the
    /// next one's indentation in their middle.
    @Test func noLineOfAHelpTextHasAnIndentationInItsMiddle() throws {
        let tools = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Tools/bifrost")
        let files = try FileManager.default.contentsOfDirectory(atPath: tools.path).filter { $0.hasSuffix(".swift") }
        #expect(files.count > 50)
        var texts = 0
        for file in files.sorted() {
            let source = try String(contentsOf: tools.appending(path: file), encoding: .utf8)
            var isInside = false
            for line in source.split(separator: "\n", omittingEmptySubsequences: false) {
                if line.contains("\"\"\"") {
                    isInside.toggle()
                    texts += isInside ? 1 : 0
                } else if isInside {
                    let indentation = line.prefix { $0 == " " }.count
                    let runs = line.dropFirst(indentation).matches(of: /[ ]{8,}/).map(\.0.count)
                    // With a blank of its own before, or without.
                    #expect(!runs.contains { $0 == indentation || $0 == indentation + 1 }, "\(file): \(line)")
                }
            }
        }
        #expect(texts > 50)
    }

    @Test func numbersAreReadable() {
        #expect(
            HumanText.grouped(0) == "0" && HumanText.grouped(1_234_567) == "1,234,567"
                && HumanText.grouped(999) == "999")
        #expect(
            HumanText.bytes(1_023) == "1023 B" && HumanText.bytes(1_536) == "1.5 KiB"
                && HumanText.bytes(20 << 20) == "20 MiB")
        #expect(
            HumanText.duration(milliseconds: 850) == "850 ms" && HumanText.duration(milliseconds: 200_000) == "3 m 20 s"
        )
        #expect(HumanText.hexadecimal(Bytes([0, 0x1f, 0xff])) == "001fff")
        #expect(HumanText.bytes(ofHexadecimal: " 00 1F\nff\r\n") == Bytes([0, 0x1f, 0xff]))
        #expect(HumanText.bytes(ofHexadecimal: "") == Bytes())
        for text: Bytes in ["0", "0g", "001", "0x00"] { #expect(HumanText.bytes(ofHexadecimal: text) == nil) }
        #expect(HumanText.clock(seconds: 7) == "0:07" && HumanText.clock(seconds: 3_723) == "1:02:03")
        #expect(HumanText.fixed(1.005, 1) == "1.0" && HumanText.fixed(2, 0) == "2" && HumanText.fixed(.nan, 1) == "?")
        #expect(HumanText.quoted("a\nb") == "'a\\u{a}b'")
        #expect(HumanText.quoted(Bytes([UInt8](repeating: 65, count: 100))).hasSuffix("…' (100 bytes)"))
    }

    @Test(arguments: [
        ("conect", "connect"), ("gte", "get"), ("stat", "status"), ("statuses", "status"), ("log-levle", "log-level"),
        ("CONNECT", nil), ("x", nil), ("", nil), ("nosuch", nil), ("po", nil),
    ]) func aSlipOfTheFingersIsUnderstood(_ word: String, _ meant: String?) {
        #expect(Nearest.word(to: word, among: ["connect", "get", "status", "log-level", "put"]) == meant)
    }

    @Test func anImportThatEndsEarlyKnowsWhatIsCertain() {
        let position = ImportPosition()
        #expect(position.certain == 0)
        for line in [1, 2, 4] { position.begin(line) }
        #expect(position.certain == 0)
        position.written(1)
        position.written(4)
        #expect(position.certain == 1)
        let report = position.report(records: 2, of: "a.tsv")
        #expect(report.contains("2 records acknowledged") && report.contains("all lines up to 1 are written"))
        #expect(report.contains("go on from line 2 (tail -n +2)"))
        position.written(2)
        #expect(position.certain == 4)
    }

    @Test func columnsAreAsWideAsTheirWidestCell() {
        var table = Table([("host", .right), ("name", .left)])
        table.add(["1", "alpha"])
        table.add(["10", "b"])
        #expect(table.text == "HOST  NAME\n   1  alpha\n  10  b")
    }

    @Test func progressTellsPercentRateAndTimeLeft() {
        var line = ProgressLine(
            verb: "import", records: 15_412, recordsPerSecond: 52_310.4, bytes: 3 << 20, done: 25, total: 100,
            elapsedSeconds: 4)
        #expect(line.text(barWidth: 8) == "import [##......]  25.0 %  15,412 records  3.0 MiB  52,310/s  ETA 0:12")
        line.total = nil
        #expect(line.text() == "import  15,412 records  3.0 MiB  52,310/s  in 0:04")
        line.total = 0
        line.notes = "2 repeated"
        #expect(line.text(barWidth: 2) == "import [##] 100.0 %  15,412 records  3.0 MiB  52,310/s  in 0:04  2 repeated")
    }
}

@Suite struct ClusterHealthTests {
    private let map: ClusterMap

    init() throws {
        let hosts = (1...3).map {
            HostRecord(
                id: HostID(UInt64($0)), name: "h\($0)", address: "127.0.0.1:700\($0)",
                incarnation: Incarnation(UInt64(90 + $0)))
        }
        map = try Planner.firstMap(cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: 2, replicas: 3)
    }

    /// All is well: the preferred replicas lead, everybody has applied everything.
    private func accounts() -> [HostAccount] {
        map.hosts.map { host in
            var status = HostStatus()
            status.cluster = map.cluster
            status.host = host.id
            status.incarnation = host.incarnation
            status.peersConnected = 2
            status.replicas = map.replicas(on: host.id).map { group, replica in
                var status = ReplicaStatus(group: group.id, replica: replica)
                status.role = group.preferredLeader == replica ? .leader : .follower
                status.isQuorumActive = true
                status.leader = group.preferredLeader
                status.commitIndex = LogIndex(50_000)
                status.appliedIndex = LogIndex(50_000)
                return status
            }
            return HostAccount(host: host, status: status)
        }
    }

    @Test func allWell() {
        let health = ClusterHealth(map: map, accounts: accounts())
        #expect(health.verdict == .healthy && health.problems.isEmpty)
        #expect(health.groups.allSatisfy { $0.leader == $0.preferredHost && $0.working == 3 })
    }

    /// The others refuse it, and its followers stand still; nobody is far behind as long as little is written.
    @Test func aHostWithoutItsPeersIsDegraded() {
        var accounts = accounts()
        accounts[1].status?.peersConnected = 0
        let health = ClusterHealth(map: map, accounts: accounts)
        #expect(health.verdict == .degraded)
        #expect(
            health.problems == [
                "host 2 is connected to 0 of the 2 other hosts that answer: its log and theirs say why"
            ])
    }

    @Test func aGroupWithoutALeaderIsUnavailable() throws {
        var accounts = accounts()
        for index in accounts.indices { accounts[index].status?.replicas[1].role = .follower }
        let health = ClusterHealth(map: map, accounts: accounts)
        #expect(health.verdict == .unavailable && health.leaderless == [GroupID(1)])
        #expect(try #require(health.problems.first).contains("1 group without a leader: 1"))
    }

    @Test func aLeaderThatHearsNoMajorityDoesNotCount() {
        var accounts = accounts()
        for index in accounts.indices { accounts[index].status?.replicas[2].isQuorumActive = false }
        #expect(ClusterHealth(map: map, accounts: accounts).leaderless == [GroupID(2)])
    }

    @Test func aMissingHostIsDegradedAsLongAsOthersLead() throws {
        var accounts = accounts()
        let missing = try #require(
            accounts.indices.first { index in
                accounts[index].status?.replicas.allSatisfy { $0.role == .follower } ?? false
            } ?? accounts.indices.last)
        let led = accounts[missing].status?.replicas.filter { $0.role == .leader }.map(\.group) ?? []
        accounts[missing] = HostAccount(host: accounts[missing].host, status: nil, problem: "connection refused")
        let other = missing == 0 ? 1 : 0
        for index in accounts[other].status!.replicas.indices
        where led.contains(accounts[other].status!.replicas[index].group) {
            accounts[other].status!.replicas[index].role = .leader
        }
        let health = ClusterHealth(map: map, accounts: accounts)
        #expect(health.verdict == .degraded)
        #expect(
            health.problems == ["host \(missing + 1) at 127.0.0.1:700\(missing + 1) is missing: connection refused"])
    }

    /// A leader that only this client can't reach is no leader that is missing; one that its followers don't hear is.
    @Test func aLeaderThatItsFollowersHearIsOnlyOutOfReach() throws {
        var accounts = accounts()
        let group = GroupID(1)
        let leader = try #require(map.group(group)?.preferredLeader)
        let place = try #require(
            accounts.firstIndex { $0.status?.replicas.contains { $0.replica == leader } ?? false })
        let host = accounts[place].host
        accounts[place] = HostAccount(host: host, status: nil, problem: "no answer")
        for other in accounts.indices where other != place {
            for index in accounts[other].status!.replicas.indices {
                accounts[other].status!.replicas[index].term = Term(3)
            }
        }
        let health = ClusterHealth(map: map, accounts: accounts)
        #expect(health.verdict == .degraded && !health.leaderless.contains(group))
        #expect(health.unreached.contains { $0.group == group && $0.host == host.id })
        #expect(
            health.problems.contains {
                $0.contains("can't be reached from here") && $0.contains("1 on host \(host.id)")
            }, "\(health.problems)")

        // One of two hears it no more, in a later term.
        let other = place == 0 ? 1 : 0
        var silent = accounts
        silent[other].status?.replicas[1].term = Term(4)
        silent[other].status?.replicas[1].isQuorumActive = false
        silent[other].status?.replicas[1].leader = .none
        #expect(ClusterHealth(map: map, accounts: silent).leaderless.contains(group))
        // The host that is said to lead answers that it does not.
        var denying = accounts
        denying[place] = self.accounts()[place]
        denying[place].status?.replicas[1].role = .follower
        #expect(ClusterHealth(map: map, accounts: denying).leaderless == [group])
    }

    @Test func aReplicaFarBehindIsLagging() throws {
        var accounts = accounts()
        let follower = try #require(accounts.indices.first { accounts[$0].status?.replicas[1].role == .follower })
        accounts[follower].status?.replicas[1].appliedIndex = LogIndex(100)
        let health = ClusterHealth(map: map, accounts: accounts)
        #expect(health.verdict == .degraded && health.laggards.map(\.entries) == [49_900])
        #expect(ClusterHealth(map: map, accounts: accounts, lagEntriesMax: 60_000).verdict == .healthy)
    }

    /// What a replica has to have applied for a proof of where slots are: only the leader knows.
    @Test func howFarAGroupIsSaysItsLeader() throws {
        var accounts = accounts()
        let group = GroupID(1)
        for place in accounts.indices {
            guard let index = accounts[place].status?.replicas.firstIndex(where: { $0.group == group }),
                let isLeader = accounts[place].status.map({ $0.replicas[index].role == .leader })
            else { continue }
            accounts[place].status?.replicas[index].term = Term(7)
            accounts[place].status?.replicas[index].lastIndex = LogIndex(isLeader ? 50_003 : 49_000)
            accounts[place].status?.replicas[index].commitIndex = LogIndex(isLeader ? 50_002 : 49_000)
        }
        let leader = try #require(
            accounts.firstIndex {
                $0.status?.replicas.contains { $0.group == group && $0.role == .leader } ?? false
            })
        // Elected a moment ago, it may not know yet what is committed of its log.
        #expect(RingBound.index(of: group, accounts) == LogIndex(50_003))
        var others = accounts
        others[leader] = HostAccount(host: others[leader].host, status: nil, problem: "no answer")
        #expect(RingBound.index(of: group, others) == nil)
        #expect(RingBound.index(of: group, []) == nil)
        var deposed = accounts
        let other = leader == 0 ? 1 : 0
        let place = try #require(deposed[other].status?.replicas.firstIndex { $0.group == group })
        deposed[other].status?.replicas[place].term = Term(8)
        #expect(RingBound.index(of: group, deposed) == nil)
        deposed[other].status?.replicas[place].role = .leader
        #expect(RingBound.index(of: group, deposed) == LogIndex(49_000))
        deposed[other].status?.replicas[place].isQuorumActive = false
        #expect(RingBound.index(of: group, deposed) == nil)
    }

    @Test func anotherDirectoryAtAHostsAddressIsNotThatHost() {
        var accounts = accounts()
        accounts[2].status = HostStatus()
        accounts[2].status?.incarnation = Incarnation(5)
        #expect(ClusterHealth(map: map, accounts: accounts).problems.contains { $0.contains("another data directory") })
        accounts[2].status?.incarnation = Incarnation(93)
        #expect(
            ClusterHealth(map: map, accounts: accounts).problems.contains { $0.contains("run 'bifrost init' again") })
    }

    @Test func damagedAndStoppedReplicasAreNamed() {
        var accounts = accounts()
        accounts[0].status?.replicas[1].isImpaired = true
        accounts[1].status?.replicas[2].problem = "an unknown command"
        let problems = ClusterHealth(map: map, accounts: accounts).problems
        #expect(problems.contains { $0.contains("group 1 on host 1 is damaged") })
        #expect(problems.contains { $0.contains("group 2 on host 2 does not take part: an unknown command") })
    }

    /// All slots are drawn, each group in a colour of its own and with its leader; what nobody owns is grey.
    @Test(arguments: [1, 3, 40]) func aRingIsDrawn(groups: Int) throws {
        let hosts = (1...3).map { number in
            HostRecord(
                id: HostID(UInt64(number)), name: "", address: "h<\(number):1", zone: "",
                incarnation: Incarnation(rawValue: UInt64(number))
            )
        }
        let map = try Planner.firstMap(
            cluster: ClusterID(high: 1, low: 2), hosts: hosts, groups: groups, replicas: 3, featureLevel: 5)
        var known = ClusterHealth(map: map, accounts: []).groups
        known[1].leader = HostID(2)
        let svg = RingPicture(map: map, groups: known).svg()
        let lines = svg.split(separator: "\n")
        #expect(lines.count { $0.hasPrefix("<path ") } == groups)
        #expect(
            Set(lines.filter { $0.hasPrefix("<path ") }.compactMap { $0.split(separator: "\"").dropFirst().first })
                .count == groups)
        #expect(svg.contains(">host 2</text>") && svg.contains("h&lt;1:1") && !svg.contains("h<1"))
        let slots = map.ring.counts().map { "group \($0.group): \(HumanText.count($0.slots, "slot"))" }
        #expect(slots.allSatisfy { svg.contains("<title>\($0)</title>") })
        #expect(svg.hasSuffix("</svg>\n") && !svg.contains("nan"))
    }
}
