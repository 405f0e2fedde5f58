// One story per rule, told as a transcript: lines with ">" are what happens to the client, the others what it does.

import ClientCore
import Messages
import Primitives
import Ring
import Testing

@Suite struct ClientRouterTests {
    @Test func anOperationGoesToThePreferredLeaderAndTheOthersFollowOnceItHasAnswered() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.put(2)
        scenario.put(3, slot: 1)
        scenario.done(1)
        scenario.put(4)
        for tag in [2, 3, 4] { scenario.done(UInt64(tag)) }
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > put 2
            > put 3
              send 3 to host 2: group 2, epoch 1
            > answer to 1: done
              send 2 to host 1: group 1, epoch 1
              done 1
            > put 4
              send 4 to host 1: group 1, epoch 1
            > answer to 2: done
              done 2
            > answer to 3: done
              done 3
            > answer to 4: done
              done 4
            """)
        #expect(scenario.router.operationCount == 0)
        #expect(scenario.router.leader(of: GroupID(1)) == HostID(1))
    }

    /// A leader without space takes deletes and no puts: each put waits by itself, and says why in the end.
    @Test func aCommandThatItsLeaderCannotTakeDoesNotHoldUpOthers() throws {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.put(2, within: 50)
        scenario.refuse(2, .unavailable("the disk of host 1 is nearly full"))
        scenario.lines.removeAll()
        scenario.put(3)
        scenario.put(4)
        expect(
            scenario,
            """
            > put 3
              send 3 to host 1: group 1, epoch 1
            > put 4
              send 4 to host 1: group 1, epoch 1
            """)
        while scenario.failures[2] == nil {
            scenario.pass(5)
            if scenario.lastSent == 2, scenario.failures[2] == nil {
                scenario.refuse(2, .unavailable("the disk of host 1 is nearly full"))
            }
        }
        let failure = try #require(scenario.failures[2])
        #expect(failure.code == .unavailable && !failure.mayHaveHappened)
        #expect(failure.message.contains("(host 1: the disk of host 1 is nearly full)"), "\(failure.message)")
        #expect(scenario.router.leader(of: GroupID(1)) == HostID(1))
    }

    /// It refuses all: it may have stopped, and another may lead by now.
    @Test func aLeaderThatRefusesAllCommandsIsLeftAfterHalfASecond() throws {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.put(2, within: 5_000)
        var host1 = 0
        while scenario.lines.contains(where: { $0.contains("send 2 to host 2") }) == false, host1 < 200 {
            if scenario.lastSent == 2 {
                host1 += 1
                scenario.lastSent = 0
                scenario.refuse(2, .unavailable("stopped"))
            }
            scenario.pass(5)
        }
        #expect((3...100).contains(host1), "host 1 was asked \(host1) times")
        #expect(scenario.milliseconds < 1_000 + 1_100, "\(scenario.milliseconds - 1_000) ms")
    }

    @Test func aLeaderChangeIsFollowedByHintAndNothingIsLost() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.put(2)
        scenario.put(3)
        scenario.refuse(2, .notLeader(leader: HostID(3), term: Term(5)))
        scenario.refuse(3, .notLeader(leader: HostID(3), term: Term(5)))
        scenario.done(2)
        scenario.done(3)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            > put 2
              send 2 to host 1: group 1, epoch 1
            > put 3
              send 3 to host 1: group 1, epoch 1
            > answer to 2: not the leader in term 5: host 3 is
              send 2 to host 3: group 1, epoch 1
            > answer to 3: not the leader in term 5: host 3 is
            > answer to 2: done
              send 3 to host 3: group 1, epoch 1
              done 2
            > answer to 3: done
              done 3
            """)
    }

    @Test func aHintOfAnOlderTermIsNotFollowed() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.refuse(1, .notLeader(leader: HostID(3), term: Term(5)))
        scenario.refuse(1, .notLeader(leader: HostID(3), term: Term(4)))
        scenario.done(1)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: not the leader in term 5: host 3 is
              send 1 to host 3: group 1, epoch 1
            > answer to 1: not the leader in term 4: host 3 is
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            """)
    }

    @Test func whileThereIsNoLeaderOneOperationAsksAroundWithGrowingPauses() {
        var scenario = Scenario.ready()
        scenario.put(1, within: 200)
        scenario.put(2, within: 200)
        for _ in 1...3 {
            for _ in 1...3 { scenario.refuseLast(.notLeader(leader: HostID(0), term: Term(2))) }
            scenario.pass(50)
        }
        scenario.refuseLast(.noQuorum)
        scenario.pass(60)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > put 2
            > answer to 1: not the leader in term 2, and it is unknown
              send 2 to host 2: group 1, epoch 1
            > answer to 2: not the leader in term 2, and it is unknown
              send 1 to host 3: group 1, epoch 1
            > answer to 1: not the leader in term 2, and it is unknown
            > 50 ms pass
              +10 ms: send 2 to host 1: group 1, epoch 1
            > answer to 2: not the leader in term 2, and it is unknown
              send 1 to host 2: group 1, epoch 1
            > answer to 1: not the leader in term 2, and it is unknown
              send 2 to host 3: group 1, epoch 1
            > answer to 2: not the leader in term 2, and it is unknown
            > 50 ms pass
              +20 ms: send 1 to host 1: group 1, epoch 1
            > answer to 1: not the leader in term 2, and it is unknown
              send 2 to host 2: group 1, epoch 1
            > answer to 2: not the leader in term 2, and it is unknown
              send 1 to host 3: group 1, epoch 1
            > answer to 1: not the leader in term 2, and it is unknown
            > 50 ms pass
              +40 ms: send 2 to host 1: group 1, epoch 1
            > answer to 2: no majority of the group's replicas answers; nothing was written
              send 1 to host 2: group 1, epoch 1
            > 60 ms pass
              +50 ms: cancel the call of 1
              +50 ms: failed 2: noQuorum
              +50 ms: failed 1: outcomeUnknown, may have happened
            """)
        #expect(scenario.failures[2]?.code == .noQuorum)
        #expect(scenario.failures[2]?.mayHaveHappened == false)
    }

    @Test func aLostConnectionEndsACommandThatWasSentAndKeepsOneThatWasNot() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.put(2)
        scenario.put(3)
        scenario.get(4)
        scenario.lose(2, .perhapsSent)
        scenario.lose(3, .notSent)
        scenario.lose(4, .perhapsSent)
        scenario.down(1)
        scenario.done(3)
        scenario.done(4)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            > put 2
              send 2 to host 1: group 1, epoch 1
            > put 3
              send 3 to host 1: group 1, epoch 1
            > get 4
              send 4 to host 1: group 1, epoch 1
            > call of 2 fails: perhapsSent
              failed 2: outcomeUnknown, may have happened
            > call of 3 fails: notSent
              send 3 to host 2: group 1, epoch 1
            > call of 4 fails: perhapsSent
            > host 1 disconnected
            > answer to 3: done
              send 4 to host 2: group 1, epoch 1
              done 3
            > answer to 4: done
              done 4
            """)
        #expect(scenario.failures[2]?.code == .outcomeUnknown)
        #expect(scenario.failures[2]?.mayHaveHappened == true)
    }

    @Test func aDeadlineSaysWhetherTheCommandWasSent() {
        var scenario = Scenario.ready()
        scenario.put(1, within: 50)
        scenario.put(2, within: 50)
        scenario.get(3, slot: 1, within: 50)
        scenario.pass(60)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > put 2
            > get 3
              send 3 to host 2: group 2, epoch 1
            > 60 ms pass
              +50 ms: cancel the call of 3
              +50 ms: cancel the call of 1
              +50 ms: failed 3: deadlineExceeded
              +50 ms: failed 2: deadlineExceeded
              +50 ms: failed 1: outcomeUnknown, may have happened
            """)
        #expect(
            scenario.failures[2]?.message
                == "the operation waited behind others and was not sent within the deadline; nothing was done")
    }

    @Test func aMovedSlotIsFollowedAtOnceAndAMapIsFetched() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.refuse(1, .moved(group: GroupID(2), epoch: Epoch(2)))
        scenario.put(2)
        scenario.done(1)
        scenario.map(.map(exampleMap(version: 2, epoch: 2, evenOwner: 2)), name: "version 2, epoch 2")
        scenario.done(2)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: the slot moved to group 2 at epoch 2
              send 1 to host 2: group 2, epoch 2
            > put 2
            > answer to 1: done
              send 2 to host 2: group 2, epoch 2
              done 1
            > map: version 2, epoch 2
              map of version 2
            > answer to 2: done
              done 2
            """)
    }

    @Test func anEpochIsNeverLowered() {
        var scenario = Scenario(seed: 1)
        scenario.router.mapReceived(exampleMap(version: 5, epoch: 5), now: scenario.now, into: &scenario.effects)
        for host in 1...3 { scenario.up(UInt64(host)) }
        scenario.lines.removeAll()
        scenario.put(1)
        scenario.refuse(1, .moved(group: GroupID(2), epoch: Epoch(4)))
        scenario.pass(20)
        scenario.done(1)
        let now = scenario.now
        #expect(!scenario.router.mapReceived(exampleMap(version: 4, epoch: 9), now: now, into: &scenario.effects))
        #expect(!scenario.router.mapReceived(exampleMap(version: 9, epoch: 4), now: now, into: &scenario.effects))
        #expect(
            !scenario.router.mapReceived(
                exampleMap(version: 9, epoch: 9, cluster: 8), now: now, into: &scenario.effects))
        #expect(scenario.router.map?.version == 5)
        #expect(scenario.router.statistics.mapsRefused == 3)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 5
            > answer to 1: the slot moved to group 2 at epoch 4
            > 20 ms pass
              +10 ms: send 1 to host 1: group 1, epoch 5
            > answer to 1: done
              done 1
            """)
    }

    @Test func anOverloadedLeaderIsLeftAloneAsLongAsItAsks() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.put(2)
        scenario.put(3)
        scenario.refuse(2, .overloaded(retryAfterMillis: 40))
        scenario.refuse(3, .overloaded(retryAfterMillis: 40))
        scenario.put(4)
        scenario.pass(70)
        scenario.done(2)
        scenario.done(3)
        scenario.done(4)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            > put 2
              send 2 to host 1: group 1, epoch 1
            > put 3
              send 3 to host 1: group 1, epoch 1
            > answer to 2: overloaded; try again after 40 ms
            > answer to 3: overloaded; try again after 40 ms
            > put 4
            > 70 ms pass
              +55 ms: send 2 to host 1: group 1, epoch 1
            > answer to 2: done
              send 3 to host 1: group 1, epoch 1
              send 4 to host 1: group 1, epoch 1
              done 2
            > answer to 3: done
              done 3
            > answer to 4: done
              done 4
            """)
    }

    @Test func anOverloadThatLastsEndsInAnErrorThatSaysSo() {
        var scenario = Scenario.ready()
        scenario.put(1, within: 30)
        scenario.refuse(1, .overloaded(retryAfterMillis: 100))
        scenario.pass(40)
        #expect(scenario.failures[1]?.code == .overloaded)
        #expect(scenario.failures[1]?.mayHaveHappened == false)
        #expect(scenario.failures[1]?.retryAfterMilliseconds == 100)
    }

    @Test func moreOperationsThanTheBoundAreTurnedAwayAtOnce() {
        var settings = ClientSettings()
        settings.operationsMax = 2
        var scenario = Scenario.ready(settings: settings)
        for tag in 1...3 { scenario.put(UInt64(tag)) }
        scenario.done(1)
        scenario.put(4)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > put 2
            > put 3
              failed 3: overloaded
            > answer to 1: done
              send 2 to host 1: group 1, epoch 1
              done 1
            > put 4
              send 4 to host 1: group 1, epoch 1
            """)
        #expect(scenario.failures[3]?.code == .overloaded)
    }

    @Test func withoutAnyHostThereIsAnErrorAtTheDeadline() {
        var scenario = Scenario(seeds: 2)
        scenario.put(1, within: 100)
        scenario.pass(200)
        expect(
            scenario,
            """
            > put 1
            > 200 ms pass
              +100 ms: failed 1: unreachable
            """)
        #expect(scenario.failures[1]?.code == .unreachable)
        #expect(
            scenario.failures[1]?.message
                == "no host of the cluster could be reached for its map within the deadline; nothing was done")
    }

    @Test func whenAllHostsOfTheGroupAreGoneTheErrorNamesThem() {
        var scenario = Scenario.ready()
        for host in 1...3 { scenario.down(UInt64(host)) }
        scenario.put(1, within: 20)
        scenario.pass(30)
        #expect(scenario.failures[1]?.code == .unreachable)
        #expect(
            scenario.failures[1]?.message
                == "none of the hosts of group 1 (1, 2, 3) could be reached within the deadline; nothing was done")
    }

    @Test func mapsAreFetchedFromOneHostAfterTheOtherOneAtATime() {
        var scenario = Scenario(seeds: 2)
        scenario.seedUp(0)
        scenario.seedUp(1)
        scenario.put(1)
        scenario.map(.failed, name: "failed")
        scenario.pass(20)
        scenario.map(.notInitialised, name: "not initialised")
        scenario.pass(30)
        scenario.map(.map(exampleMap()), name: "version 1")
        scenario.up(1)
        scenario.done(1)
        expect(
            scenario,
            """
            > seed 0 connected
              ask seed(0) for the map, known 0
            > seed 1 connected
            > put 1
            > map: failed
            > 20 ms pass
              +10 ms: ask seed(1) for the map, known 0
            > map: not initialised
            > 30 ms pass
              +20 ms: ask seed(0) for the map, known 0
            > map: version 1
              map of version 1
            > host 1 connected
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            """)
    }

    @Test func aClusterThatWasNotInitialisedIsNamedAsTheReason() {
        var scenario = Scenario(seeds: 1)
        scenario.put(1, within: 20)
        scenario.seedUp(0)
        scenario.map(.notInitialised, name: "not initialised")
        scenario.pass(30)
        #expect(scenario.failures[1]?.code == .notInitialised)
    }

    @Test func aSilentMapSourceIsPassedOver() {
        var settings = ClientSettings()
        settings.mapFetchNanoseconds = 50_000_000
        var scenario = Scenario(settings: settings, seeds: 2)
        scenario.seedUp(0)
        scenario.seedUp(1)
        scenario.pass(80)
        expect(
            scenario,
            """
            > seed 0 connected
              ask seed(0) for the map, known 0
            > seed 1 connected
            > 80 ms pass
              +60 ms: ask seed(1) for the map, known 0
            """)
    }

    @Test func aReadAtAChosenHostGoesNowhereElse() {
        var scenario = Scenario.ready()
        scenario.get(1, at: 3)
        scenario.refuse(1, .noQuorum)
        scenario.pass(20)
        scenario.down(3)
        scenario.lose(1, .perhapsSent)
        scenario.pass(30)
        scenario.up(3)
        scenario.pass(60)
        scenario.done(1)
        expect(
            scenario,
            """
            > get 1 at host 3
              send 1 to host 3: group 1, epoch 1
            > answer to 1: no majority of the group's replicas answers; nothing was written
            > 20 ms pass
              +10 ms: send 1 to host 3: group 1, epoch 1
            > host 3 disconnected
            > call of 1 fails: perhapsSent
            > 30 ms pass
            > host 3 connected
            > 60 ms pass
              +30 ms: send 1 to host 3: group 1, epoch 1
            > answer to 1: done
              done 1
            """)
    }

    @Test func aQueryWithoutAnAnswerIsAskedAgainElsewhere() {
        var settings = ClientSettings()
        settings.queryAttemptNanoseconds = 100_000_000
        var scenario = Scenario.ready(settings: settings)
        scenario.get(1)
        scenario.pass(110)
        scenario.done(1)
        expect(
            scenario,
            """
            > get 1
              send 1 to host 1: group 1, epoch 1
            > 110 ms pass
              +100 ms: cancel the call of 1
              +100 ms: send 1 to host 2: group 1, epoch 1
            > answer to 1: done
              done 1
            """)
    }

    @Test func aFrozenLeaderKeepsWhatItHasAndGetsNothingNew() {
        var settings = ClientSettings()
        settings.silenceNanoseconds = 100_000_000
        var scenario = Scenario.ready(settings: settings)
        scenario.put(1)
        scenario.done(1)
        scenario.put(2)
        scenario.pass(150)
        scenario.put(3)
        scenario.done(3)
        scenario.done(2)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            > put 2
              send 2 to host 1: group 1, epoch 1
            > 150 ms pass
            > put 3
              send 3 to host 2: group 1, epoch 1
            > answer to 3: done
              done 3
            > answer to 2: done
              done 2
            """)
    }

    /// Reads at followers show nothing of the leader, and a leader that is asked nothing has nothing to answer.
    @Test func answersOfOtherHostsDoNotSpeakForAFrozenLeader() {
        var settings = ClientSettings()
        settings.silenceNanoseconds = 100_000_000
        var scenario = Scenario.ready(settings: settings)
        scenario.put(1)
        scenario.done(1)
        scenario.put(2)
        for tag in UInt64(3)...6 {
            scenario.get(tag, at: 2)
            scenario.pass(40)
            scenario.done(tag)
        }
        scenario.put(7)
        #expect(scenario.lines.last == "  send 7 to host 2: group 1, epoch 1")
        scenario.done(7)
        // What host 1 still has does not make a witness against host 2.
        for tag in UInt64(8)...12 {
            scenario.get(tag, at: 3)
            scenario.pass(40)
            scenario.done(tag)
        }
        scenario.put(13)
        #expect(scenario.lines.last == "  send 13 to host 2: group 1, epoch 1")
    }

    /// What a frozen leader keeps takes no place in the window of the next one.
    @Test func callsThatAFrozenLeaderKeepsDoNotStopTheGroup() {
        var settings = ClientSettings()
        settings.silenceNanoseconds = 100_000_000
        var scenario = Scenario.ready(settings: settings)
        scenario.put(1, within: 60_000)
        scenario.done(1)
        for tag in UInt64(2)...21 { scenario.put(tag, within: 60_000) }
        scenario.pass(150)
        scenario.put(30, within: 60_000)
        scenario.done(30)
        scenario.put(31, within: 60_000)
        scenario.put(32, within: 60_000)
        scenario.refuse(32, .overloaded(retryAfterMillis: 20))
        scenario.done(31)
        scenario.pass(90)
        #expect(scenario.lines.contains { $0.hasPrefix("  +") && $0.contains("send 32 to host 2") })
    }

    /// A leader that answers everything, later than silence is held to be; others point back at it at once.
    @Test(arguments: [90, 150, 250]) func aSlowLeaderIsUsedAllTheSame(latency: Int) {
        var settings = ClientSettings()
        settings.silenceNanoseconds = 100_000_000
        var router = ClientRouter(settings: settings, seedCount: 0, seed: 1)
        var effects = ClientEffects()
        var milliseconds = 1_000
        var now: Instant { Instant(UInt64(milliseconds) * 1_000_000) }
        router.mapReceived(exampleMap(), now: now, into: &effects)
        for host in 1...3 { router.connectionUp(.host(HostID(UInt64(host))), now: now, into: &effects) }
        effects.removeAll()
        var answers: [(at: Int, call: CallID, answer: CallAnswer)] = []
        var tag: UInt64 = 0
        var done = 0
        while milliseconds < 11_000 {
            milliseconds += 5
            router.tick(now: now, into: &effects)
            if milliseconds % 10 == 0 {
                tag += 1
                _ = router.submit(
                    ClientRequest(
                        tag: tag, kind: .command, target: .slot(Slot(0)), pinned: HostID(0), payload: Bytes("x"),
                        deadline: now + 2_000_000_000), now: now, into: &effects)
            }
            let ready = answers.filter { $0.at <= milliseconds }
            answers.removeAll { $0.at <= milliseconds }
            for answer in ready { router.answered(answer.call, answer.answer, now: now, into: &effects) }
            for send in effects.sends {
                let isLeader = send.host == HostID(1)
                let answer =
                    isLeader
                    ? CallAnswer.done(exampleResult()) : .refused(.notLeader(leader: HostID(1), term: Term(1)))
                answers.append((milliseconds + (isLeader ? latency : 5), send.call, answer))
            }
            for completion in effects.completions {
                if case .success = completion.result { done += 1 }
            }
            effects.removeAll()
        }
        #expect(done > 900, "of \(tag)")
    }

    @Test func answersThatComeTwiceOrTooLateAreDropped() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.done(1)
        scenario.done(1)
        scenario.put(2)
        scenario.done(1)
        scenario.done(2)
        #expect(scenario.router.statistics.lateAnswers == 2)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > answer to 1: done
              done 1
            > answer to 1: done
            > put 2
              send 2 to host 1: group 1, epoch 1
            > answer to 1: done
            > answer to 2: done
              done 2
            """)
    }

    @Test func aCancelledCommandGoesOnInTheBackgroundUnlessItWasNotSent() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.put(2)
        scenario.withdraw(1)
        scenario.withdraw(2)
        scenario.done(1)
        scenario.get(3)
        scenario.withdraw(3)
        expect(
            scenario,
            """
            > put 1
              send 1 to host 1: group 1, epoch 1
            > put 2
            > withdraw 1
              goes on in the background
            > withdraw 2
              failed 2: cancelled
            > answer to 1: done
              done 1
            > get 3
              send 3 to host 1: group 1, epoch 1
            > withdraw 3
              cancel the call of 3
              failed 3: cancelled
            """)
    }

    @Test func anAnswerThatCannotBeReadLeavesACommandUnknownAndRepeatsAQuery() {
        #expect(isMalformed(CallAnswer(response: Bytes(), to: .command)))
        #expect(isMalformed(CallAnswer(response: Bytes([0, 1, 2]), to: .command)))
        #expect(isMalformed(CallAnswer(response: Bytes([99]), to: .command)))
        #expect(isMalformed(CallAnswer(response: Bytes([4, 4]), to: .command)))
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.get(2, slot: 1)
        let (now, calls) = (scenario.now, scenario.calls)
        scenario.router.answered(calls[1]!, .malformed("x"), now: now, into: &scenario.effects)
        scenario.router.answered(calls[2]!, .malformed("x"), now: now, into: &scenario.effects)
        scenario.pass(0)
        scenario.up(1)
        #expect(scenario.failures[1]?.code == .outcomeUnknown)
        #expect(scenario.router.operationCount == 1)
    }

    private func isMalformed(_ answer: CallAnswer) -> Bool {
        if case .malformed = answer { true } else { false }
    }

    @Test func invalidAndTooLargeEndTheOperation() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.put(2)
        scenario.refuse(1, .invalid("key: expected 1 to 4,096 bytes, found 0"))
        scenario.refuse(2, .tooLarge("value"))
        #expect(scenario.failures[1]?.message == "key: expected 1 to 4,096 bytes, found 0")
        #expect(scenario.failures[1]?.code == .invalid)
        #expect(scenario.failures[2]?.code == .tooLarge)
    }

    @Test func closingEndsEverythingOnce() {
        var scenario = Scenario.ready()
        scenario.put(1)
        scenario.put(2)
        scenario.get(3, slot: 1)
        scenario.router.close(into: &scenario.effects)
        scenario.up(1)
        #expect(scenario.failures.mapValues(\.code) == [1: .outcomeUnknown, 2: .closed, 3: .closed])
        #expect(scenario.router.operationCount == 0)
    }
}
