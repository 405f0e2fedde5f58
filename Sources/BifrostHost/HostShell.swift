// A host around its event loops: directory, disks, the threads that wait for them, links with the other hosts,
// beginning and end. Decides nothing.
//
// What of it changes belongs to loop 0; the other loops ask it by tasks. Threads:
//
//   loops 0 … n-1    sockets and replicas, each group on loop (group mod n)      HostLoop
//   journal          commits of all loops                                        JournalWriter
//   store            checkpoints and merges of all loops                         StoreWriter
//   readers          what may fault cold pages in
//   queries          those of users' state machines, however long they take
//   copies           the same for clients that copy whole states, and for the scrubber: who reads a record does not wait
//                    behind them

import HostCore
import Logging
import Messages
import NIOCore
import NIOPosix
import Primitives
import RPC
import Ring
import Storage
import Synchronization

final class HostShell: @unchecked Sendable {
    // @unchecked: what is set in `init` alone is safe in itself, shared by all threads and never changed; the rest
    // belongs to loop 0, which every entry point checks or goes to first.

    let configuration: HostConfiguration
    let directory: DataDirectory
    let logger: Logger
    let journal: Journal<LMDBDisk>
    let journalDisk: LMDBDisk
    let storeDisk: LMDBDisk
    let door: HostDoor
    let readers: NIOThreadPool
    let copies = SerialWorker()
    let queries: NIOThreadPool
    let memtables: MemtablePool
    /// Tells the program that nothing may be believed any more: it has to end and start anew.
    private let failed: @Sendable (HostError) -> Void
    let started = NIODeadline.now()
    // Set in `init`.
    private(set) var loops: [HostLoop] = []
    private(set) var journalWriter: JournalWriter<LMDBDisk>!
    private(set) var storeWriter: StoreWriter<LMDBDisk>!
    private(set) var links: PeerLinks!
    private(set) var space: SpaceWatch!

    // Loop 0's.
    private var housekeeper: RepeatedTask?
    private var spaceTicker: RepeatedTask?
    /// A newer map than the copy on disk, which is written with the others of its second.
    private var mapToSave: ClusterMap?
    /// The one that was last given to the store's thread.
    private var mapSaved: ClusterMap?
    private(set) var hasBegun = false
    private(set) var isStopping = false
    var isInitialising = false
    /// Came while another one is under way, and are looked at when that is done. At most `initialisesWaitingMax`; more
    /// are refused.
    var initialisesWaiting: [(request: InitialiseRequest, reply: CallReply)] = []
    static let initialisesWaitingMax = 16
    /// What was verified of cold data so far, and when the last round ended.
    var scrubbed: (statistics: ScrubStatistics, roundEnded: NIODeadline?) = (ScrubStatistics(), nil)
    /// Replicas of which damage was met since the start, by whatever read it.
    let damages = Atomic<UInt64>(0)
    /// Where the listener is, once it is.
    var boundAddress: NetworkAddress?
    var server: RPCServer?
    /// For clients in this process. Set in `init`.
    private(set) var localServer: LocalServer!

    init(
        eventLoops: [any EventLoop], configuration: HostConfiguration, directory: DataDirectory,
        journal: Journal<LMDBDisk>, journalDisk: LMDBDisk, storeDisk: LMDBDisk, readers: NIOThreadPool,
        queries: NIOThreadPool, logger: Logger,
        failed: @escaping @Sendable (HostError) -> Void
    ) {
        self.configuration = configuration
        self.directory = directory
        self.journal = journal
        self.journalDisk = journalDisk
        self.storeDisk = storeDisk
        self.readers = readers
        self.queries = queries
        self.logger = logger
        self.failed = failed
        memtables = MemtablePool(bytesMax: configuration.memtablePoolBytes)
        door = HostDoor(identity: journal.identity, name: configuration.name)
        journalWriter = JournalWriter(
            journal: journal, loops: eventLoops,
            durable: { [unowned self] loop, ticket, sequence in loops[loop].journalDone(ticket, sequence) },
            full: { [unowned self] reason in space.journalIsFull(reason) },
            failed: { [unowned self] error in fail(error, "the journal") })
        storeWriter = StoreWriter(
            done: { [unowned self] loop, outcome in
                let loop = loops[loop]
                loop.eventLoop.execute { loop.storeDone(outcome) }
            },
            retry: { [unowned self] again in main.eventLoop.scheduleTask(in: .milliseconds(500)) { again() } },
            full: { [unowned self] reason in space.storeIsFull(reason) },
            failed: { [unowned self] error, what in fail(error, what) },
            journalStand: { [journal] in (journal.identity.journal, journal.lastSequence) })
        loops = eventLoops.enumerated().map { number, eventLoop in
            HostLoop(place: LoopPlace(number: number, count: eventLoops.count), eventLoop: eventLoop, shell: self)
        }
        links = PeerLinks(shell: self)
        localServer = LocalServer(service: LocalCalls(loops: loops), policy: door, limits: configuration.limits)
        space = SpaceWatch(journal: journalDisk, store: storeDisk, logger: logger) { [unowned self] in
            for loop in loops { loop.run { [self] in loop.spaceChanged(space.level) } }
        }
    }

    /// Loop 0: it has the meta group, and what concerns the host as a whole.
    var main: HostLoop { loops[0] }

    // MARK: Beginning and end

    /// Makes the host a member of its cluster: from the map on disk, or from the one that `init` sends.
    func begin(with map: ClusterMap) throws {
        main.eventLoop.preconditionInEventLoop()
        precondition(!hasBegun, "a host begins once")
        let identity = journal.identity
        let own = StoreIdentity(cluster: identity.cluster, host: identity.host, journal: identity.journal)
        let store: Store<LMDBDisk>
        do {
            store = try Store(
                disk: storeDisk, formatting: own,
                settings: StoreSettings(
                    cacheBytesMax: configuration.indexCacheBytes, runsMax: configuration.settings.runsMax))
        } catch let error as DiskError where error.code == .corrupt {
            // Of the store as a whole, and no replica's alone.
            storeDisk.markDamaged(error)
            throw error
        }
        guard store.identity == own else {
            throw HostError(
                .directory,
                "\(configuration.directory): its store was written by host \(store.identity.host) of cluster "
                    + "\(store.identity.cluster) beside another journal, not by host \(own.host) of cluster \(own.cluster): "
                    + "put the journal and the store that belong together back into one directory")
        }
        // All replicas at once, before any loop begins: what one group commits would hide what another's journal lost.
        try journal.refuseIfLost(beside: store)
        try journal.deleteRemoved(from: store)
        hasBegun = true
        warnIfElsewhere(map)
        door.update(identity: identity, map: map)
        let sequence = journal.lastSequence
        // Loop 0 last: whatever it says to the others then finds their cores.
        for loop in loops.reversed() {
            loop.run { [self] in
                let core = HostCore(
                    host: identity.host, journal: identity.journal, settings: configuration.settings,
                    seed: mix(identity.incarnation.rawValue ^ mix(identity.bootCounter)), now: RPCClock.now(),
                    journalSequence: sequence, loop: loop.place)
                loop.begin(core, store: store)
            }
        }
        main.core?.adopt(map)
        housekeeper = main.eventLoop.scheduleRepeatedTask(initialDelay: .seconds(30), delay: .seconds(30)) {
            [unowned self] _ in keepHouse(store)
        }
        spaceTicker = main.eventLoop.scheduleRepeatedTask(
            initialDelay: .zero, delay: .milliseconds(SpaceWatch.periodMilliseconds)
        ) { [unowned self] _ in space.look(on: readers) }
        beginScrubbing(store, seed: mix(identity.incarnation.rawValue ^ mix(identity.bootCounter)))
        main.runTurn()
    }

    /// Nobody finds a host at another address than the map's: hosts with lower ids dial it there, and so do clients.
    private func warnIfElsewhere(_ map: ClusterMap) {
        guard let record = map.host(journal.identity.host), record.address != advertised else { return }
        let listening = boundAddress?.description ?? configuration.listen?.description ?? "no address"
        logger.warning(
            """
            the cluster's map has host \(record.id) at \(record.address), but it listens on \(listening) and would be \
            reached at \(advertised): others look for it at \(record.address) and may not find it; start it with \
            --listen \(record.address), or with --advertise \(record.address) if that address leads here
            """)
    }

    /// Stops all loops. Nothing depends on it: a host that is killed loses nothing either.
    func stop() async {
        try? await main.eventLoop.submit { [self] in
            isStopping = true
            saveMap()
            housekeeper?.cancel()
            spaceTicker?.cancel()
            links.closeAll()
        }.get()
        for loop in loops { try? await loop.eventLoop.submit { loop.stop() }.get() }
    }

    func fail(_ error: any Error, _ what: String) {
        logger.critical("\(what) failed; this process must not go on", metadata: ["error": "\(error)"])
        failed(HostError(.disk, "\(what) failed: \(error)"))
    }

    private func keepHouse(_ store: Store<LMDBDisk>) {
        storeWriter.perform("the store") { [self] in
            try journalDisk.checkReaders()
            try storeDisk.checkReaders()
        }
        storeWriter.reclaim(store)
    }

    /// Loop 0's core adopted a newer map.
    func mapChanged(_ map: ClusterMap) {
        main.eventLoop.preconditionInEventLoop()
        door.update(identity: journal.identity, map: map)
        links.adopt(map)
        if map.hosts != mapSaved?.hosts || map.group(.meta)?.replicas != mapSaved?.group(.meta)?.replicas {
            // Ahead of the birth of a replica of the meta group: a start that does not know of it would not find the
            // newer map either.
            mapToSave = map
            return saveMap()
        }
        // It is written as a whole, and changes with each group that is made: a copy may be old.
        if mapToSave == nil { scheduleSaving(map) } else { mapToSave = map }
    }

    private static var mapSavingMilliseconds: Int64 { 1_000 }
    private static var exhaustedMilliseconds: Int64 { 10_000 }

    private func saveMap() {
        guard let map = mapToSave else { return }
        mapToSave = nil
        mapSaved = map
        storeWriter.perform("the cluster map's copy") { [self] in
            do { try directory.save(map) } catch let error as HostError where error.code == .exhausted {
                logger.warning("the copy of the cluster's map stays as it was", metadata: ["cause": "\(error)"])
                main.eventLoop.execute { [self] in
                    // A copy may be old, and a host without space or descriptors serves what it can.
                    guard mapToSave == nil, mapSaved?.version == map.version, !isStopping else { return }
                    scheduleSaving(map, after: Self.exhaustedMilliseconds)
                }
            }
        }
    }

    private func scheduleSaving(_ map: ClusterMap, after milliseconds: Int64 = mapSavingMilliseconds) {
        mapToSave = map
        main.eventLoop.scheduleTask(in: .milliseconds(milliseconds)) { [self] in saveMap() }
    }

    /// Connections closed because of what came over them. A refused handshake is none of these: a host that is just
    /// starting refuses its peers for a moment.
    func faults() -> Int {
        guard let faults = server?.counters.faults else { return 0 }
        return faults.reduce(0) { $1.key == .refused ? $0 : $0 + $1.value }
    }
}
