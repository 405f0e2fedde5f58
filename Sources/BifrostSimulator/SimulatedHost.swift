// One host's shell in the simulation: feeds HostCore from the virtual network, disk and clock, and carries out what it
// asks. Decides nothing, as the real shell; time that a disk or a reader takes is drawn from the seed.

import ClientCore
import HostCore
import Messages
import Primitives
import Ring
import StateMachines
import Storage

final class SimulatedHost {
    // It owns this, and outlives it.
    unowned(unsafe) let cluster: SimulatedCluster
    let world: SimulatedWorld
    let invariants: Invariants
    /// Position among the hosts; its endpoint in the network.
    let place: Int
    let id: HostID
    let journalDisk: SimulatedDisk
    let storeDisk: SimulatedDisk
    let incarnation: Incarnation
    /// What the version of its process knows, or of the one that is started next. On its disk before anybody hears of it.
    private(set) var featureLevel: UInt32
    /// Of the next journal that is made.
    var journalName: UInt64
    /// The copy of the cluster map that a restart begins with.
    private var savedMap: ClusterMap
    /// A newer one is on its way to the disk.
    private var mapToSave: ClusterMap?
    /// Is in the cluster: not before it joined, and not after it was removed from there.
    private(set) var isMember: Bool
    /// Its clock goes `clockRate` millionths as fast as virtual time.
    private let clockRate: UInt64
    private let clockStart: UInt64

    /// Raised at each crash, so that what belongs to an earlier process is told.
    @exclusivity(unchecked) private(set) var life: UInt64 = 0
    @exclusivity(unchecked) private(set) var isRunning = false
    /// The process is stopped (SIGSTOP) until then: nothing of it runs, its clock goes on.
    @exclusivity(unchecked) var pausedUntil: UInt64 = 0
    /// Everything on the disks takes so many times as long until then.
    var slowDiskUntil: UInt64 = 0
    /// When another host's job held this one's up: see `passTime`.
    @exclusivity(unchecked) private(set) var storeHeldUp: [Range<UInt64>] = []
    func noteStoreHeldUp(_ times: Range<UInt64>) { storeHeldUp.append(times) }
    /// Nothing on the disks ends before then.
    var stalledDiskUntil: UInt64 = 0
    /// There is too little room on one of the disks, or on both, until then.
    var fullUntil: UInt64 = 0
    /// What a look at the space for its files finds.
    var spaceLevel = SpaceLevel.ample
    /// What the journal's disk, or the store's, does when the process starts next.
    var startFaults: (isJournal: Bool, faults: SimulatedDiskFaults)?
    /// Its disks were damaged: it may refuse what it can't read, and end; it may not serve anything wrong.
    var isRotten = false
    /// What votes it gave is not known any more.
    var hasLostJournal = false
    /// It says that its disks can't be used, and is not started any more.
    private(set) var isLost = false
    /// How often it ended because of damage.
    private var damagedEnds = 0

    // The process.
    @exclusivity(unchecked) private(set) var loops: [SimulatedHostLoop] = []
    /// Those of the process that ended last: it may have ended within an event of theirs.
    private var endedLoops: [SimulatedHostLoop] = []
    var journal: Journal<SimulatedDisk>?
    var store: Store<SimulatedDisk>?
    var journalQueue = JournalQueue(loops: 1)
    /// What is on its way to the disk.
    var committing: JournalQueue.Step?
    var storeQueue = StoreQueue()
    private(set) var intakes = SnapshotIntakes<SimulatedDisk>()
    var isStoreBusy = false
    var storeJobUnderWay: StoreJob?
    /// What is due while the process or its loop is stopped.
    private var parked: [SimulatedEvent] = []
    private var goesOnAt = UInt64.max
    @exclusivity(unchecked) private var calls: [UInt64: SimulatedCall] = [:]
    @exclusivity(unchecked) private var nextCall: UInt64 = 1
    let memtables = MemtablePool(bytesMax: 1 << 20)

    init(cluster: SimulatedCluster, place: Int, id: HostID, map: ClusterMap) {
        self.cluster = cluster
        world = cluster.world
        invariants = cluster.invariants
        self.place = place
        self.id = id
        savedMap = map
        isMember = map.host(id) != nil
        journalDisk = SimulatedDisk(seed: world.random.next(), isLatching: !isPlanted("retry-after-eio"))
        storeDisk = SimulatedDisk(seed: world.random.next())
        incarnation = SimulatedCluster.incarnation(of: place)
        featureLevel = world.plan.featureLevel(of: place)
        journalName = world.random.next() | 1
        let drift = world.plan.clockDriftMillionths
        clockRate = 1_000_000 - drift + world.random.below(2 * drift + 1)
        clockStart = world.random.below(1_000_000_000_000)
    }

    /// The host's monotonic clock.
    var clock: Instant {
        Instant(clockStart + world.now / 1_000 * clockRate / 1_000 + world.now % 1_000)
    }

    /// Virtual time between two ticks of its clock.
    var tickNanoseconds: UInt64 { world.plan.settings.tickNanoseconds * 1_000_000 / clockRate }

    var isListening: Bool { isRunning }

    /// Its map has the other host: nobody else is let in at the handshake.
    func knows(_ other: SimulatedHost) -> Bool { loops.first?.core.map?.host(other.id) != nil }

    /// Something of this process that happens later: not at all if it has ended by then, later if it is stopped.
    /// If it is of one of the loops, that one must not be stalled either.
    func schedule(
        after delay: UInt64, _ name: StaticString, _ b: UInt64 = 0, loop: Int = -1, _ action: @escaping () -> Void
    ) {
        world.schedule(
            after: delay, name, UInt64(place), b, of: SimulatedEvent.Process(life: life, loop: loop), action)
    }

    /// An event of this host, or of an earlier process of it, is due.
    func carryOut(_ event: SimulatedEvent) {
        let process = event.process
        guard process.life == life, isRunning else { return }
        var until = pausedUntil
        if process.loop >= 0 { until = max(until, loops[process.loop].stalledUntil) }
        if until > world.now {
            parked.append(event)
            goOn(at: until)
            return
        }
        event.action()
    }

    /// What was stopped goes on then, or as soon as it may.
    private func goOn(at time: UInt64) {
        guard time < goesOnAt else { return }
        goesOnAt = time
        world.schedule(after: time - world.now, "host %h may go on", UInt64(place)) { [unowned self] in
            guard goesOnAt == world.now else { return }
            goesOnAt = .max
            let due = parked
            parked = []
            for event in due {
                guard event.process.life == life else { continue }
                world.note(event.name, event.a, event.b)
                carryOut(event)
                if world.failure != nil { return }
            }
        }
    }

    /// Neither the process nor a loop of it is stopped any more.
    func goOn() {
        pausedUntil = min(pausedUntil, world.now)
        for loop in loops { loop.stalledUntil = min(loop.stalledUntil, world.now) }
        if !parked.isEmpty { goOn(at: world.now) }
    }

    // MARK: Beginning and end

    /// The process ends because of what it read from a damaged disk. An operator starts it again some times.
    func endOfDamage(isStarting: Bool) {
        world.note("host %h ends: its disks are damaged", UInt64(place))
        world.mark(.damageEndedHost)
        damagedEnds += 1
        if isStarting || damagedEnds >= 3 { isLost = true }
        cluster.crash(place)
    }

    /// Both disks are empty: a host of another incarnation, which is in no map, and does nothing.
    func lose() {
        isRotten = true
        isLost = true
        cluster.crash(place)
        journalDisk.wipe()
        storeDisk.wipe()
    }

    /// It is registered in the map, and begins.
    func join(_ map: ClusterMap) {
        savedMap = map
        isMember = true
        start()
    }

    /// The map has it no longer: somebody ends it for good.
    func retire() {
        isMember = false
        cluster.crash(place)
    }

    /// Its next process is of the newest version.
    func upgrade() {
        precondition(!isRunning)
        featureLevel = world.plan.newestLevel
    }

    /// Starts the process on what the disks hold.
    func start() {
        precondition(!isRunning)
        guard isMember, !isLost else { return }
        // Somebody upgrades hosts, one by one, as their processes end.
        if featureLevel < world.plan.newestLevel, life > 0, mix(world.seed ^ mix(life) ^ UInt64(place)) % 3 == 0 {
            upgrade()
        }
        isRunning = true
        storeDisk.begin()
        do {
            let fresh = HostIdentity(
                cluster: savedMap.cluster, host: id, incarnation: incarnation, featureLevel: featureLevel,
                journal: journalName)
            if let startFaults {
                let disk = startFaults.isJournal ? journalDisk : storeDisk
                var faults = startFaults.faults
                self.startFaults = nil
                faults.bytesMax = disk.faults.bytesMax
                faults.reserveBytes = disk.faults.reserveBytes
                disk.faults = faults
            }
            journalDisk.faults.commitsWithoutSync = world.plan.forgetsToSync
            let journal = try Journal(disk: journalDisk, formatting: fresh)
            var identity = journal.identity
            identity.bootCounter += 1
            if identity.featureLevel > featureLevel {
                world.fail("a host's level", "host \(id) knew \(identity.featureLevel), and now \(featureLevel)")
            }
            identity.featureLevel = featureLevel
            try journal.update(identity)
            self.journal = journal
            invariants.restarted(self, journal)
            let store = try Store(
                disk: storeDisk,
                formatting: StoreIdentity(cluster: identity.cluster, host: id, journal: identity.journal),
                settings: StoreSettings(
                    cacheBytesMax: 1 << 16, runsMax: world.plan.settings.runsMax,
                    transactionBytesMax: 70_000, deletionsMax: 8)
            )
            try journal.refuseIfLost(beside: store)
            try journal.deleteRemoved(from: store)
            self.store = store
            // Another number of threads at each start.
            let isOne = world.random.below(2) == 0
            let count = isOne ? 1 : 1 + Int(world.random.below(UInt64(world.plan.loopsMax)))
            journalQueue = JournalQueue(loops: count, commitBytesMax: world.plan.journalCommitBytesMax)
            var settings = world.plan.settings
            settings.featureLevel = featureLevel
            loops = (0..<count).map { number in
                SimulatedHostLoop(
                    host: self,
                    core: HostCore(
                        host: id, journal: identity.journal, settings: settings,
                        seed: mix(incarnation.rawValue ^ mix(identity.bootCounter)), now: clock,
                        journalSequence: journal.lastSequence, loop: LoopPlace(number: number, count: count)))
            }
            endedLoops = []
            if let dataTypes = cluster.dataTypes {
                for loop in loops {
                    loop.core.onApplied = { [unowned cluster] group, entry, outcome in
                        guard let problem = dataTypes.applied(entry, outcome, in: group) else { return }
                        cluster.fail("data types", "group \(group): \(problem)")
                    }
                }
            }
            loops[0].core.adopt(savedMap)
            for loop in loops { loop.begin() }
            if let scrubber = Scrubber(
                store: store, journal: journal, settings: world.plan.settings,
                seed: mix(incarnation.rawValue ^ mix(identity.bootCounter)))
            {
                scrub(scrubber, after: world.plan.readNanosecondsMax)
            }
            if spaceLevel != .ample { tellSpace() }
        } catch {
            diskFailed(error, isStarting: true)
            return
        }
        for link in cluster.peerLinks where link.from == place { link.connect(after: world.random.below(20_000_000)) }
    }

    /// The disks are full no longer.
    func giveRoom() {
        fullUntil = 0
        if spaceLevel != .ample {
            spaceLevel = .ample
            if isRunning { tellSpace() }
        }
        for disk in [journalDisk, storeDisk] {
            disk.faults.bytesMax = .max
            disk.faults.reserveBytes = 0
        }
    }

    var space: SpaceLevel {
        .of(measured: spaceLevel, isJournalFull: journalQueue.isFull, isStoreFull: storeQueue.isFull)
    }

    /// As the real host, some time later, to each loop.
    func tellSpace() {
        for loop in loops {
            loop.execute(
                after: world.random.below(250_000_000), "host %h: loop %b hears of its space", UInt64(loop.number)
            ) {
                [unowned self, unowned loop] in
                loop.core.spaceChanged(space)
            }
        }
    }

    /// The process ends without warning.
    ///
    /// - Parameter losesPower: the machine loses power, or the process alone is killed: then the page cache outlives it. nil:
    ///   chance decides.
    func crash(losesPower: Bool? = nil) {
        guard isRunning else { return }
        let isKill = losesPower.map { !$0 } ?? (world.random.below(2) == 0)
        // A commit that was on its way may have reached the disk before the end, or the page cache, or nothing.
        if let committing, !committing.batches.isEmpty, world.random.below(2) == 0 {
            let isUnsynced = isKill && world.random.below(2) == 0
            if isUnsynced { journalDisk.faults.commitsWithoutSync = true }
            if (try? write(committing, isUnsynced: isUnsynced)) != nil {
                world.mark(.commitSurvivedItsProcess)
            }
            if isUnsynced { journalDisk.faults.commitsWithoutSync = world.plan.forgetsToSync }
            // Perhaps it did not sync because its disk does not do that any more: then nor does the next process at first.
            if isUnsynced, world.areFaultsOn, world.random.below(2) == 0 {
                startFaults = (true, SimulatedDiskFaults())
                startFaults?.faults.nextFlushFails = true
            }
        }
        if isKill, case .checkpoint(_, let frozen, let header)? = storeJobUnderWay, world.random.below(2) == 0 {
            storeDisk.faults.commitsWithoutSync = true
            // Also what is reported as failed may be there.
            invariants.perhapsPublished(self, header)
            if (try? store?.checkpoint(frozen, header)) != nil {
                world.mark(.pageCacheOutlivedItsProcess)
            }
            storeDisk.faults.commitsWithoutSync = false
        }
        if isKill { losePowerPerhaps() }
        isRunning = false
        life += 1
        pausedUntil = 0
        parked = []
        for call in calls.keys.sorted() { calls[call] = nil }
        endedLoops = loops
        loops = []
        journal = nil
        store = nil
        committing = nil
        storeQueue = StoreQueue()
        intakes = SnapshotIntakes()
        storeJobUnderWay = nil
        isStoreBusy = false
        mapToSave = nil
        if isKill, !world.plan.forgetsToSync {
            journalDisk.kill()
            storeDisk.kill()
        } else {
            journalDisk.crash()
            storeDisk.crash()
        }
        // A merge may be under way, and has to tidy up nothing any more.
        storeDisk.end()
        invariants.crashed(self)
        world.report.crashes += 1
        for link in cluster.peerLinks {
            if link.from == place { link.senderEnded() }
            // The others notice at once (the kernel says so) or only when they wait for an answer in vain.
            if link.to == place {
                link.reset(after: world.random.below(3) == 0 ? world.random.below(2_000_000_000) : 200_000)
            }
        }
        for client in cluster.clients { client.hostEnded(place) }
    }

    /// Sometimes the machine follows its process soon: what the next process read and did not sync is gone then.
    private func losePowerPerhaps() {
        guard world.areFaultsOn, world.random.below(3) == 0 else { return }
        world.schedule(after: world.random.below(800_000_000), "the power of host %h fails", UInt64(place)) {
            [unowned self] in
            guard world.areFaultsOn, isRunning else { return }
            cluster.crash(place, losesPower: true)
        }
    }

    /// The store's thread writes it, behind what it has to do: a crash before that leaves an older one.
    private func save(_ map: ClusterMap) {
        let isSaving = mapToSave != nil
        mapToSave = map
        guard !isSaving else { return }
        guard world.plan.operatorPauseNanosecondsMax > 0 else { return mapSaved() }
        // The shell saves one in a second at most.
        let delay = world.random.below(max(world.plan.storeJobNanosecondsMax, 1_000_000_000))
        schedule(after: delay, "host %h: the map is saved") {
            [unowned self] in mapSaved()
        }
    }

    private func mapSaved() {
        if let mapToSave { savedMap = mapToSave }
        mapToSave = nil
    }

    // MARK: Loops

    func loop(of group: GroupID) -> SimulatedHostLoop {
        loops[LoopPlace.owner(of: group, loops: loops.count)]
    }

    /// The loop that a connection belongs to: any, and another one in another process.
    func loopNumber(ofConnection number: Int) -> Int { (number + Int(life)) % loops.count }

    /// When a connection's loop takes in what arrives.
    func isReady(forConnection number: Int) -> UInt64 {
        isRunning ? max(pausedUntil, loops[loopNumber(ofConnection: number)].stalledUntil) : pausedUntil
    }

    var activeCount: Int { loops.reduce(0) { $0 + $1.core.activeCount } }

    func inspection(of group: GroupID) -> ReplicaInspection? {
        // A start that failed a rule has no loops.
        isRunning && !loops.isEmpty ? loop(of: group).core.inspection(of: group) : nil
    }

    /// Of all replicas that it has.
    func inspections() -> [ReplicaInspection] { loops.flatMap { $0.core.inspections() } }

    /// - Parameter work: emptied by the caller. Not copied: that would count references to each of its lists.
    func carryOut(_ work: inout HostEffects, of loop: SimulatedHostLoop) {
        if let map = work.map {
            save(map)
            cluster.adopted(self, map)
        }
        if !work.peerPayloads.isEmpty { send(work.peerPayloads, of: loop) }
        if !work.loopMessages.isEmpty { send(work.loopMessages, of: loop) }
        if work.journal != nil || !work.superfluous.isEmpty {
            submit(work.journal, superfluous: work.superfluous, of: loop)
        }
        if !work.replies.isEmpty {
            for reply in work.replies { answer(reply.call, reply.response) { $0.index } }
        }
        for notice in work.notices { world.say("host \(place + 1): \(notice)") }
        for read in work.stateReads { startStateRead(read, of: loop) }
        for read in work.deadlineReads { startDeadlineRead(read, of: loop) }
        for read in work.migrationReads { startMigrationRead(read, of: loop) }
        for read in work.machineReads { startMachineRead(read, of: loop) }
        if !work.coldReads.isEmpty { for read in work.coldReads { startColdRead(read, of: loop) } }
        if !work.coldPages.isEmpty { for page in work.coldPages { startColdPage(page, of: loop) } }
        if !work.loadReads.isEmpty { for read in work.loadReads { startLoadRead(read, of: loop) } }
        for look in work.balanceLooks { startBalanceLook(look, of: loop) }
        if !work.logReads.isEmpty { for read in work.logReads { startLogRead(read, of: loop) } }
        if !work.snapshotReads.isEmpty { for read in work.snapshotReads { startSnapshotRead(read, of: loop) } }
        if !work.storeJobs.isEmpty { submit(work.storeJobs, of: loop) }
        if !work.births.isEmpty { startBirths(work.births, of: loop) }
    }

    private func send(
        _ payloads: [(host: HostID, channel: PeerChannel, payload: Bytes)], of loop: SimulatedHostLoop
    ) {
        let cluster = cluster
        for (host, channel, payload) in payloads {
            invariants.sent(self, payload)
            if channel == .bulk {
                world.report.bulkPayloads += 1
                // Refused: too much is unsent.
                if world.areFaultsOn, world.random.below(16) == 0 { continue }
            }
            let link = cluster.peerLink(from: place, to: cluster.place(of: host), over: channel)
            let sender = loopNumber(ofConnection: link.number)
            if sender == loop.number {
                link.connection.send(SimulatedFrame(payload: payload))
            } else {
                loops[sender].take(from: loop.number, "host %h: loop %b gets a payload to send") {
                    link.connection.send(SimulatedFrame(payload: payload))
                }
            }
        }
    }

    private func send(_ messages: [(loop: Int, message: LoopMessage)], of loop: SimulatedHostLoop) {
        for (target, message) in messages {
            let target = loops[target]
            target.take(from: loop.number, "host %h: loop %b gets a message of another loop") {
                [unowned(unsafe) target] in
                target.core.receive(message)
                target.scheduleTurn()
            }
        }
    }

    // MARK: What comes in

    /// What another host said, on a connection of this number.
    func receive(_ payload: Bytes, from host: HostID, connection: Int) {
        guard isRunning else { return }
        invariants.received(self, payload, from: host)
        if let migration = cluster.migration { migration.said(payload, by: host, to: place) }
        do throws(DecodingFailure) {
            if loops.count == 1 {
                try loops[0].core.receive(payload, from: host)
                return loops[0].getOn()
            }
            let parts = try PeerBatchPart.split(payload, loops: loops.count)
            let at = loopNumber(ofConnection: connection)
            // Loop 0 last: it compares heartbeats with what the others made of their parts.
            for loop in loops.reversed() {
                guard let part = parts[loop.number] else { continue }
                loop.take(from: at, "host %h: loop %b gets its part of what came") { [unowned(unsafe) loop] in
                    loop.core.receive(part, from: host)
                    loop.getOn()
                }
            }
        } catch {
            world.fail("wire", "host \(id) can't read what host \(host) sent: \(error)")
        }
    }

    /// A client's request, as the shell's services take it.
    ///
    /// - Parameters:
    ///   - generation: of the connection that it came on, if that is lost; its answer is then lost too.
    ///   - isHeld: it was under way for long.
    func receive(
        _ frame: SimulatedFrame, on link: SimulatedClientLink, generation: UInt64? = nil, isHeld: Bool = false
    ) {
        guard isRunning, let kind = ClientFrameKind(rawValue: frame.kind) else { return }
        if !isHeld, let migration = cluster.migration, migration.holds(frame, on: link, at: self) { return }
        var call = SimulatedCall(link: link, generation: generation ?? link.responses.generation, frame: frame)
        let at = loopNumber(ofConnection: link.number)
        func hand(to group: GroupID, _ action: @escaping (HostCore) -> Void) {
            let loop = loop(of: group)
            loop.take(from: at, "host %h: loop %b gets a call") { [unowned(unsafe) loop] in
                action(loop.core)
                loop.getOn()
            }
        }
        do throws(DecodingFailure) {
            switch kind {
            case .execute:
                let request = try ExecuteRequest(decoding: frame.payload)
                call.group = request.group
                call.command = request.payload
                let token = add(call)
                hand(to: request.group) { $0.execute(request, call: token) }
            case .query:
                let request = try QueryRequest(decoding: frame.payload)
                call.group = request.group
                let token = add(call)
                hand(to: request.group) { $0.query(request, call: token) }
            case .watch:
                let request = try WatchRequest(decoding: frame.payload)
                call.group = request.group
                let token = add(call)
                hand(to: request.group) { $0.watch(request, call: token) }
            case .page:
                let request = try PageRequest(decoding: frame.payload)
                call.group = request.group
                let token = add(call)
                hand(to: request.group) { $0.page(request, call: token) }
            case .map:
                let request = try MapRequest(decoding: frame.payload)
                let reply: MapReply =
                    if let map = loops[0].core.map {
                        map.version > request.known ? .map(map) : .unchanged(version: map.version)
                    } else {
                        .notInitialised
                    }
                call.respond { reply.encode(into: &$0) }
            }
        } catch {
            world.fail("wire", "host \(id) can't read a client's request: \(error)")
        }
    }

    /// A call of the operator, about a group that may be here.
    ///
    /// - Parameters:
    ///   - command: what is to be proposed; nil: nothing, and the answer is of no entry.
    ///   - ask: hands it to the loop's core.
    func call(
        _ group: GroupID, _ command: Bytes?, _ answered: @escaping (Response<DataResult>) -> Void,
        _ ask: @escaping (HostCore, Bytes, CallToken) -> Void
    ) {
        let token = add(SimulatedCall(answered: answered, group: command == nil ? nil : group, command: command))
        let loop = loop(of: group)
        loop.execute(after: 0, "host %h: loop %b gets the operator's call", UInt64(loop.number)) {
            [unowned(unsafe) loop] in
            ask(loop.core, command ?? Bytes(), token)
            loop.getOn()
        }
    }

    private func add(_ call: SimulatedCall) -> CallToken {
        nextCall += 1
        var call = call
        call.received = world.now
        calls[nextCall] = call
        return CallToken(rawValue: nextCall)
    }

    /// - Parameter index: of the last entry that the answer is made of.
    func answer<Result: Message>(
        _ token: CallToken, _ response: Response<Result>, by index: (Result) -> LogIndex
    ) {
        guard let call = calls.removeValue(forKey: token.rawValue) else {
            world.fail(
                "one answer per call", "host \(id) answers call \(token.rawValue) twice, or one that never came")
            return
        }
        if case .done(let result) = response {
            let hash = call.command == nil ? 0 : result.encoded().withUnsafeBytes { hash64($0) }
            invariants.answered(self, call, index(result), hash)
        }
        if let answered = call.answered, let response = response as? Response<DataResult> { return answered(response) }
        call.respond { response.encode(into: &$0) }
    }
}

/// A call that waits for its answer: a client's, on its connection, or the operator's.
struct SimulatedCall {
    var link: SimulatedClientLink?
    var generation: UInt64 = 0
    var frame = SimulatedFrame()
    var answered: ((Response<DataResult>) -> Void)?
    /// When it came to the host.
    var received: UInt64 = 0
    /// By whose log it is answered; nil: by none.
    var group: GroupID?
    /// What is to be proposed; nil: it is a read.
    var command: Bytes?

    func respond(writing body: (inout ByteWriter) -> Void) {
        guard let link, link.responses.isOpen, link.responses.generation == generation else { return }
        var writer = ByteWriter(capacity: 64)
        body(&writer)
        link.responses.send(SimulatedFrame(kind: frame.kind, call: frame.call, payload: writer.take()))
    }
}
