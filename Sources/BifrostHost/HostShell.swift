// The host's event loop: feeds what comes from sockets, disks and timers to `HostCore`, and carries out what it asks.
// Decides nothing. Everything here belongs to the one event loop that owns the host's replicas.

import DequeModule
import HostCore
import Logging
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import RaftCore
import Ring
import StateMachines
import Storage
import Synchronization

final class HostShell: @unchecked Sendable {
    // @unchecked: all mutable state belongs to `loop`, which every entry point checks or goes to first.

    let loop: any EventLoop
    let configuration: HostConfiguration
    let directory: DataDirectory
    let logger: Logger
    let journal: Journal<LMDBDisk>
    let journalDisk: LMDBDisk
    let storeDisk: LMDBDisk
    let door: HostDoor
    let readers: NIOThreadPool
    let storeWorker = SerialWorker()
    /// Jobs that the store's thread has not begun, in their order.
    let storeJobs = Mutex<Deque<StoreJob>>([])
    let memtables: MemtablePool
    /// Tells the program that nothing may be believed any more: it has to end and start anew.
    private let failed: @Sendable (HostError) -> Void
    let started = NIODeadline.now()

    private(set) var core: HostCore?
    private(set) var store: Store<LMDBDisk>?
    private(set) var journalWriter: JournalWriter<LMDBDisk>!
    private var effects = HostEffects()
    var calls = CallRegistry()
    private var isTurnScheduled = false
    private var ticker: RepeatedTask?
    private var housekeeper: RepeatedTask?
    let links: PeerLinks
    private(set) var isStopping = false
    var isInitialising = false
    /// Where the listener is, once it is.
    var boundAddress: NetworkAddress?
    var server: RPCServer?

    init(
        loop: any EventLoop, configuration: HostConfiguration, directory: DataDirectory, journal: Journal<LMDBDisk>,
        journalDisk: LMDBDisk, storeDisk: LMDBDisk, readers: NIOThreadPool, logger: Logger,
        failed: @escaping @Sendable (HostError) -> Void
    ) {
        self.loop = loop
        self.configuration = configuration
        self.directory = directory
        self.journal = journal
        self.journalDisk = journalDisk
        self.storeDisk = storeDisk
        self.readers = readers
        self.logger = logger
        self.failed = failed
        memtables = MemtablePool(bytesMax: configuration.memtablePoolBytes)
        door = HostDoor(identity: journal.identity, name: configuration.name)
        links = PeerLinks(loop: loop, door: door, logger: logger)
        journalWriter = JournalWriter(
            journal: journal, loop: loop,
            durable: { [unowned self] ticket, sequence in self.journalDone(ticket, sequence) },
            failed: { [unowned self] error in self.fail(error, "the journal") })
        links.shell = self
    }

    // MARK: Beginning and end

    /// Makes the host a member of its cluster: from the map on disk, or from the one that `init` sends.
    func begin(with map: ClusterMap) throws {
        loop.preconditionInEventLoop()
        precondition(core == nil, "a host begins once")
        let identity = journal.identity
        let own = StoreIdentity(cluster: identity.cluster, host: identity.host, journal: identity.journal)
        let store = try Store(
            disk: storeDisk, formatting: own,
            settings: StoreSettings(
                cacheBytesMax: configuration.indexCacheBytes, runsMax: configuration.settings.runsMax))
        guard store.identity == own else {
            throw HostError(
                .directory,
                "\(configuration.directory): its store was written by host \(store.identity.host) of cluster "
                    + "\(store.identity.cluster) beside another journal, not by host \(own.host) of cluster \(own.cluster): "
                    + "put the journal and the store that belong together back into one directory")
        }
        self.store = store
        let core = HostCore(
            host: identity.host, journal: identity.journal, settings: configuration.settings,
            seed: mix(identity.incarnation.rawValue ^ mix(identity.bootCounter)), now: RPCClock.now(),
            journalSequence: journal.lastSequence)
        self.core = core
        door.update(identity: identity, map: map)
        core.adopt(map)
        let period = TimeAmount.nanoseconds(Int64(configuration.settings.tickNanoseconds))
        ticker = loop.scheduleRepeatedTask(initialDelay: period, delay: period) { [unowned self] _ in self.tick() }
        housekeeper = loop.scheduleRepeatedTask(initialDelay: .seconds(30), delay: .seconds(30)) { [unowned self] _ in
            self.keepHouse()
        }
        runTurn()
    }

    /// Stops taking calls and writes out what is in memory, as far as that is quick. Nothing depends on it: a host that
    /// is killed loses nothing either.
    func stop() -> EventLoopFuture<Void> {
        loop.preconditionInEventLoop()
        isStopping = true
        ticker?.cancel()
        housekeeper?.cancel()
        links.closeAll()
        return loop.makeSucceededVoidFuture()
    }

    func fail(_ error: any Error, _ what: String) {
        logger.critical("\(what) failed; this process must not go on", metadata: ["error": "\(error)"])
        failed(HostError(.disk, "\(what) failed: \(error)"))
    }

    // MARK: Turns

    private func tick() {
        guard let core else { return }
        let statistics = journal.statistics
        core.journalBytes = statistics.bytes + statistics.baseBytes
        core.tick(now: RPCClock.now())
        runTurn()
    }

    private func keepHouse() {
        storeWorker.submit { [self] in
            do {
                try journalDisk.checkReaders()
                try storeDisk.checkReaders()
            } catch { fail(error, "the store") }
        }
        reclaim()
    }

    /// Deletes dead chunks piece by piece, behind whatever else the store's thread has to do, until there are none.
    private func reclaim() {
        storeWorker.submit { [self] in
            do {
                if try store?.reclaim() ?? 0 > 0 { reclaim() }
            } catch { fail(error, "the store") }
        }
    }

    /// Has a turn soon, once for all that comes until then.
    func scheduleTurn() {
        guard !isTurnScheduled else { return }
        isTurnScheduled = true
        loop.execute { [self] in
            isTurnScheduled = false
            runTurn()
        }
    }

    func runTurn() {
        loop.preconditionInEventLoop()
        guard let core, !isStopping else { return }
        core.turn(now: RPCClock.now(), into: &effects)
        carryOut()
        if core.hasWork { scheduleTurn() }
    }

    private func journalDone(_ ticket: UInt64, _ sequence: UInt64) {
        guard let core else { return }
        core.journalDone(ticket: ticket, sequence: sequence)
        // What came while the commit was under way shares this turn.
        runTurn()
    }

    private func carryOut() {
        if let map = effects.map { mapChanged(map) }
        for (host, payload) in effects.peerPayloads {
            // Refused when too much is unsent: consensus sends again what it must.
            links.send(payload, to: host)
        }
        if effects.journal != nil || !effects.superfluous.isEmpty {
            journalWriter.submit(effects.journal, superfluous: effects.superfluous)
        }
        for reply in effects.replies {
            calls.take(reply.call)?.respond { reply.response.encode(into: &$0) }
        }
        if !effects.coldReads.isEmpty { startColdReads(effects.coldReads) }
        for page in effects.coldPages { startColdPage(page) }
        for read in effects.logReads { startLogRead(read) }
        for job in effects.storeJobs { startStoreJob(job) }
        if !effects.births.isEmpty { startBirths(effects.births) }
        for notice in effects.notices { logger.notice("\(notice)") }
        effects.removeAll()
    }

    private func mapChanged(_ map: ClusterMap) {
        door.update(identity: journal.identity, map: map)
        links.adopt(map)
        storeWorker.submit { [self] in
            do { try directory.save(map) } catch { fail(error, "the cluster map's copy") }
        }
    }

    // MARK: Peers

    func peerUp(_ host: HostID) {
        guard !isStopping else { return }
        core?.peerUp(host)
        scheduleTurn()
    }

    func peerDown(_ host: HostID) {
        guard !isStopping else { return }
        core?.peerDown(host)
        scheduleTurn()
    }

    /// False if the payload can't be read: its connection is closed by the caller.
    func receiveBatch(_ payload: Bytes, from host: HostID) -> Bool {
        guard let core, !isStopping else { return true }
        do throws(DecodingFailure) {
            try core.receive(payload, from: host)
            return true
        } catch {
            logger.warning(
                "a peer's batch can't be read; its connection is closed",
                metadata: ["host": "\(host)", "error": "\(error)"])
            return false
        }
    }

    /// Connections closed because of what came over them.
    func faults() -> Int { server?.counters.faults.values.reduce(0, +) ?? 0 }
}
