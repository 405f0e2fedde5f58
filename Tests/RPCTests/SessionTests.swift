import Primitives
import RPC
import Testing

@Suite struct CallTableTests {
    @Test func behavesLikeADictionary() {
        var table = CallTable<Int>(seed: 99)
        var model: [UInt64: Int] = [:]
        var random = SeededRandom(seed: 1)
        for step in 0..<300_000 {
            let call = random.below(5_000)
            if random.below(2) == 0 {
                let isNew = call != 0 && model[call] == nil
                #expect(table.insert(call, step) == isNew)
                if isNew { model[call] = step }
            } else {
                #expect(table.remove(call) == model.removeValue(forKey: call))
            }
            #expect(table.count == model.count)
        }
        #expect(table.calls == model.keys.sorted())
        for (call, value) in model { #expect(table[call] == value) }
        let all = table.removeAll()
        #expect(all.map(\.value) == model.sorted { $0.key < $1.key }.map(\.value))
        #expect(table.isEmpty)
    }
}

@Suite struct BackoffTests {
    @Test func doublesWithJitterUpToItsBound() {
        var random = SeededRandom(seed: 3)
        var backoff = Backoff(firstMilliseconds: 10, maxMilliseconds: 100)
        for step in [10, 20, 40, 80, 100, 100, 100] as [UInt64] {
            let wait = backoff.next(&random)
            #expect(wait >= step * 500_000 && wait <= step * 1_000_000)
        }
        backoff.reset()
        #expect(backoff.next(&random) <= 10_000_000)
        backoff.lengthen()
        #expect(backoff.next(&random) >= 50_000_000)
    }

    @Test func anotherSeedWaitsAnotherTime() {
        var waits: Set<UInt64> = []
        for seed in 0..<100 as Range<UInt64> {
            var random = SeededRandom(seed: seed)
            var backoff = Backoff()
            waits.insert(backoff.next(&random))
        }
        #expect(waits.count > 90)
    }
}

@Suite struct RepetitionLimiterTests {
    private func at(_ seconds: UInt64) -> Instant { Instant(1 + seconds * 1_000_000_000) }

    @Test func ofEqualLinesOneAMinuteIsSaidWithTheCountOfTheOthers() {
        var limiter = RepetitionLimiter()
        #expect(limiter.admit("a", now: at(0)) == 0)
        #expect(limiter.admit("b", now: at(1)) == 0)
        for second in 2..<60 { #expect(limiter.admit("a", now: at(UInt64(second))) == nil) }
        #expect(limiter.admit("a", now: at(60)) == 58)
        #expect(limiter.admit("a", now: at(61)) == nil)
        #expect(limiter.admit("b", now: at(500)) == 0)
        #expect(limiter.admit("a", now: at(501)) == 1)
    }

    @Test func itRemembersABoundedNumber() {
        var limiter = RepetitionLimiter()
        for line in 0...RepetitionLimiter.linesMax { #expect(limiter.admit("\(line)", now: at(0)) == 0) }
        #expect(limiter.admit("0", now: at(0)) == 0)
        #expect(limiter.admit("0", now: at(0)) == nil)
    }
}

@Suite struct LogLimiterTests {
    @Test func tenLinesInTenSecondsAndThenHowManyWereLeftOut() {
        var limiter = LogLimiter()
        for _ in 0..<10 { #expect(limiter.admit(now: Instant(1_000)) == 0) }
        for _ in 0..<500 { #expect(limiter.admit(now: Instant(2_000)) == nil) }
        #expect(limiter.admit(now: Instant(11_000_000_000)) == 500)
    }
}

private func frame(_ header: FrameHeader, _ payload: Bytes = Bytes()) -> Frame {
    var header = header
    header.length = UInt32(payload.count)
    return Frame(header: header, payload: payload)
}

private func request(_ call: UInt64, service: UInt16 = 2, bytes: Int = 0) -> Frame {
    frame(
        FrameHeader(kind: .request, service: service, method: 1, call: call), Bytes([UInt8](repeating: 0, count: bytes))
    )
}

@Suite struct ServerSessionTests {
    static func hello(_ hello: Hello = clientHello) -> Frame {
        var writer = ByteWriter()
        hello.encode(into: &writer)
        return frame(FrameHeader(kind: .hello), writer.take())
    }

    static func opened(_ limits: ServerLimits = ServerLimits()) -> ServerSession {
        var session = ServerSession(limits: limits, services: [2, 3], seed: 5)
        guard case .shakeHands(let hello) = session.receive(Self.hello()) else {
            Issue.record("no handshake")
            return session
        }
        _ = session.answered(hello: hello, with: .accept(serverIdentity))
        return session
    }

    @Test func nothingButAHelloOpensIt() {
        for kind in FrameKind.allCases where kind != .hello {
            var session = ServerSession(limits: ServerLimits(), services: [2], seed: 5)
            let action = session.receive(frame(FrameHeader(kind: kind, service: 2, call: 1)))
            guard case .close(let fault) = action else {
                Issue.record("\(kind) was accepted")
                continue
            }
            #expect(fault.reason == .unexpectedKind)
        }
        var session = ServerSession(limits: ServerLimits(), services: [2], seed: 5)
        guard case .close(let fault) = session.receive(frame(FrameHeader(kind: .hello), "short")) else {
            Issue.record("a short hello was accepted")
            return
        }
        #expect(fault.reason == .badHello)
    }

    @Test func anotherVersionIsRefusedInClearText() {
        var session = ServerSession(limits: ServerLimits(), services: [2], seed: 5)
        var hello = clientHello
        hello.versionMin = 3
        hello.versionMax = 4
        guard case .refuse(let error) = session.receive(Self.hello(hello)) else {
            Issue.record("not refused")
            return
        }
        #expect(error.code == .unsupportedVersion)
        #expect(error.message == "this host speaks protocol versions 1 to 2, the caller 3 to 4")
    }

    @Test func aClientMaySpeakNewerVersionsToo() {
        var session = ServerSession(limits: ServerLimits(), services: [2], seed: 5)
        var hello = clientHello
        hello.versionMax = 7
        #expect(session.receive(Self.hello(hello)) == .shakeHands(hello))
    }

    @Test func afterTheHandshakeKindsOfTheOtherSideCloseIt() {
        for kind in [FrameKind.hello, .helloReply, .response, .error] {
            var session = Self.opened()
            guard case .close(let fault) = session.receive(frame(FrameHeader(kind: kind, call: 1))) else {
                Issue.record("\(kind) was accepted")
                continue
            }
            #expect(fault.reason == .unexpectedKind)
        }
    }

    @Test func callsAreDeliveredOnceAndAnsweredOnce() {
        var session = Self.opened()
        #expect(session.receive(request(1)) == .deliver)
        #expect(session.receive(request(2, service: 3)) == .deliver)
        #expect(session.answer(2) == .send)
        #expect(session.answer(2) == .unknown)
        #expect(session.callsInFlight == 1)
        guard case .close(let fault) = session.receive(request(1)) else {
            Issue.record("a number in flight was accepted twice")
            return
        }
        #expect(fault.reason == .badCall)
        guard case .close = session.receive(request(0)) else {
            Issue.record("call 0 was accepted")
            return
        }
    }

    @Test func anUnknownServiceIsAnsweredToThatCallOnly() {
        var session = Self.opened()
        for service in [0, 1, 4, 255, 256, 65_535] as [UInt16] {
            #expect(session.receive(request(9, service: service)) == .fail(RPCError(.unknownService, "")))
            #expect(session.receive(frame(FrameHeader(kind: .oneway, service: service))) == .drop)
        }
        #expect(session.callsInFlight == 0)
        #expect(session.receive(request(9)) == .deliver)
    }

    @Test func aCancelledCallCountsUntilItIsAnsweredAndItsAnswerIsDropped() {
        var session = Self.opened()
        #expect(session.receive(request(1)) == .deliver)
        #expect(session.receive(frame(FrameHeader(kind: .cancel, call: 1))) == .cancel(service: 2))
        #expect(session.receive(frame(FrameHeader(kind: .cancel, call: 1))) == .drop)
        #expect(session.callsInFlight == 1)
        #expect(session.answer(1) == .drop)
        #expect(session.callsInFlight == 0)
        #expect(session.receive(frame(FrameHeader(kind: .cancel, call: 1))) == .drop)
    }

    @Test func itIsFullByCallsAndByBytes() {
        var limits = ServerLimits()
        limits.callsInFlightMax = 3
        limits.bytesInFlightMax = 1_000
        var session = Self.opened(limits)
        for call in 1...3 as ClosedRange<UInt64> {
            #expect(!session.isFull)
            #expect(session.receive(request(call)) == .deliver)
        }
        #expect(session.isFull)
        #expect(session.answer(2) == .send)
        #expect(!session.isFull)
        #expect(session.receive(request(4, bytes: 1_000)) == .deliver)
        #expect(session.answer(1) == .send)
        #expect(session.answer(3) == .send)
        #expect(session.isFull)
        #expect(session.answer(4) == .send)
        #expect(!session.isFull)
    }

    @Test func drainingAnswersWhatIsInFlightAndRefusesTheRest() {
        var session = Self.opened()
        #expect(session.receive(request(1)) == .deliver)
        let isFirst = session.drain()
        let isSecond = session.drain()
        #expect(isFirst && !isSecond)
        #expect(session.receive(request(2)) == .fail(RPCError(.unavailable, "")))
        #expect(session.answer(1) == .send)
    }

    @Test func theEndNamesTheCallsThatAreStillWorkedOn() {
        var session = Self.opened()
        for call in [5, 3, 9, 7] as [UInt64] { _ = session.receive(request(call, service: call == 3 ? 3 : 2)) }
        _ = session.receive(frame(FrameHeader(kind: .cancel, call: 9)))
        let orphans = session.close()
        #expect(orphans.map(\.call) == [3, 5, 7])
        #expect(orphans.map(\.service) == [3, 2, 2])
        #expect(session.answer(5) == .unknown)
        #expect(session.receive(request(10)) == .drop)
    }
}

@Suite struct ClientSessionTests {
    static let welcome = Welcome(identity: serverIdentity, version: 1, callsInFlightMax: 4, payloadBytesMax: 1 << 20)

    static func reply(_ reply: HelloReply) -> Frame {
        var writer = ByteWriter()
        reply.encode(into: &writer)
        return frame(FrameHeader(kind: .helloReply), writer.take())
    }

    static func up() -> ClientSession<Int> {
        var session = ClientSession<Int>(hello: clientHello, limits: ClientLimits(), seed: 3)
        guard case .up = session.receive(reply(.accepted(welcome))) else {
            Issue.record("not up")
            return session
        }
        return session
    }

    @Test func callsBeginOnlyWhenItIsUpAndUpToTheServersBound() throws {
        var session = ClientSession<Int>(hello: clientHello, limits: ClientLimits(), seed: 3)
        #expect(throws: RPCError(.notConnected, "")) { _ = try session.begin(1, deadline: nil, frameStart: 0) }
        _ = session.receive(Self.reply(.accepted(Self.welcome)))
        for pending in 1...4 { #expect(try session.begin(pending, deadline: nil, frameStart: 0) == UInt64(pending)) }
        #expect(throws: RPCError(.overloaded, "")) { _ = try session.begin(5, deadline: nil, frameStart: 0) }
        guard case .succeed(let pending) = session.receive(frame(FrameHeader(kind: .response, call: 3))) else {
            Issue.record("not answered")
            return
        }
        #expect(pending == 3)
        guard case .drop = session.receive(frame(FrameHeader(kind: .response, call: 3))) else {
            Issue.record("answered twice")
            return
        }
    }

    @Test func deadlinesPassInOrderAndOnlyTheirs() throws {
        var session = Self.up()
        _ = try session.begin(1, deadline: Instant(300), frameStart: 10)
        _ = try session.begin(2, deadline: Instant(100), frameStart: 20)
        _ = try session.begin(3, deadline: nil, frameStart: 30)
        _ = try session.begin(4, deadline: Instant(200), frameStart: 40)
        #expect(session.nextDeadline == Instant(100))
        let early = session.expire(now: Instant(99))
        #expect(early.isEmpty)
        let late = session.expire(now: Instant(200))
        #expect(late.map(\.pending) == [2, 4])
        #expect(late.map(\.frameStart) == [20, 40])
        #expect(session.nextDeadline == Instant(300))
        let last = session.expire(now: Instant(1_000))
        #expect(last.map(\.pending) == [1])
        #expect(session.nextDeadline == nil)
        #expect(session.callsInFlight == 1)
    }

    @Test func theEndTellsWhatMayHaveBeenSent() throws {
        var session = Self.up()
        for pending in 1...4 { _ = try session.begin(pending, deadline: nil, frameStart: UInt64(pending) * 100) }
        let lost = session.close(handedOver: 300)
        #expect(lost.map(\.pending) == [1, 2, 3, 4])
        #expect(lost.map(\.mayHaveBeenSent) == [true, true, false, false])
    }

    @Test func goawayEndsNewCallsAndKeepsTheOldOnes() throws {
        var session = Self.up()
        let call = try session.begin(1, deadline: nil, frameStart: 0)
        guard case .goaway = session.receive(frame(FrameHeader(kind: .goaway))) else {
            Issue.record("goaway was ignored")
            return
        }
        #expect(throws: RPCError(.notConnected, "")) { _ = try session.begin(2, deadline: nil, frameStart: 0) }
        guard case .succeed(1) = session.receive(frame(FrameHeader(kind: .response, call: call))) else {
            Issue.record("the old call was lost")
            return
        }
    }

    @Test func itDoesNotTakeAnotherHostOrClusterForItsOwn() {
        var hello = Hello(
            role: .consensus, identity: PeerIdentity(cluster: ClusterID(high: 8, low: 8), host: HostID(9)))
        var session = ClientSession<Int>(hello: hello, limits: ClientLimits(), seed: 3)
        guard case .refused(let error) = session.receive(Self.reply(.accepted(Self.welcome))) else {
            Issue.record("another cluster was accepted")
            return
        }
        #expect(error.code == .wrongCluster)
        hello = Hello(
            role: .consensus, identity: PeerIdentity(cluster: serverIdentity.cluster, host: HostID(9)),
            target: HostID(2))
        session = ClientSession<Int>(hello: hello, limits: ClientLimits(), seed: 3)
        guard case .refused(let error) = session.receive(Self.reply(.accepted(Self.welcome))) else {
            Issue.record("another host was accepted")
            return
        }
        #expect(error.code == .wrongHost)
    }

    @Test func framesThatNoServerSendsCloseIt() {
        for kind in [FrameKind.request, .oneway, .cancel, .hello, .helloReply] {
            var session = Self.up()
            guard case .close(let fault) = session.receive(frame(FrameHeader(kind: kind, service: 2, call: 1))) else {
                Issue.record("\(kind) was accepted")
                continue
            }
            #expect(fault.reason == .unexpectedKind)
        }
        var session = Self.up()
        guard case .close = session.receive(frame(FrameHeader(kind: .error, call: 1), "?")) else {
            Issue.record("a broken error frame was accepted")
            return
        }
    }
}

@Suite struct CommonRulesTests {
    let own = serverIdentity

    func peer(cluster: ClusterID, host: UInt64 = 2, target: UInt64 = 0, role: PeerRole = .consensus) -> Hello {
        Hello(role: role, identity: PeerIdentity(cluster: cluster, host: HostID(host)), target: HostID(target))
    }

    @Test func whoMayTalkToWhom() {
        let other = ClusterID(high: 5, low: 5)
        let fresh = PeerIdentity(host: HostID(0))
        #expect(peer(cluster: own.cluster).refusal(at: own) == nil)
        #expect(peer(cluster: own.cluster, target: 1).refusal(at: own) == nil)
        #expect(peer(cluster: own.cluster, target: 7).refusal(at: own)?.code == .wrongHost)
        #expect(peer(cluster: other).refusal(at: own)?.code == .wrongCluster)
        #expect(peer(cluster: other, target: 7).refusal(at: own)?.code == .wrongCluster)
        #expect(peer(cluster: other, target: 7, role: .client).refusal(at: own)?.code == .wrongCluster)
        #expect(peer(cluster: .none, target: 7, role: .client).refusal(at: own)?.code == .wrongHost)
        #expect(peer(cluster: .none).refusal(at: own)?.code == .wrongCluster)
        #expect(peer(cluster: own.cluster, host: 0).refusal(at: own)?.code == .forbiddenRole)
        #expect(peer(cluster: own.cluster).refusal(at: fresh)?.code == .wrongCluster)
        #expect(peer(cluster: .none, role: .client).refusal(at: own) == nil)
        #expect(peer(cluster: other, role: .client).refusal(at: own)?.code == .wrongCluster)
        #expect(peer(cluster: other, role: .client).refusal(at: fresh) == nil)
    }

    @Test func addressesAreReadOrRefused() throws {
        #expect(try NetworkAddress("127.0.0.1:7001") == NetworkAddress(host: "127.0.0.1", port: 7001))
        #expect(try NetworkAddress("[::1]:80").description == "[::1]:80")
        #expect(try NetworkAddress("host.example:1").host == "host.example")
        for wrong in ["", ":", "127.0.0.1", "127.0.0.1:", ":80", "::1:80", "a:70000", "a:-1", "[]:1"] {
            #expect(throws: RPCError.self) { try NetworkAddress(wrong) }
        }
    }
}
