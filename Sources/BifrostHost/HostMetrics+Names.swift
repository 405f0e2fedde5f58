// The names of a host's metrics, after Prometheus' conventions, and where each number comes from.

import HostCore
import Storage

extension HostMetrics {
    static let counters: [Figure<HostReading, UInt64>] = [
        Figure("bifrost_term_changes_total", "Terms that replicas here moved on by.") { $0.figures.counts.termChanges },
        Figure("bifrost_campaigns_total", "Elections that replicas here stood for.") { $0.figures.counts.campaigns },
        Figure("bifrost_elections_won_total", "Elections that replicas here won.") { $0.figures.counts.electionsWon },
        Figure("bifrost_commands_applied_total", "Commands that took effect in replicas here, led here or not.") {
            $0.figures.counts.commands
        },
        Figure("bifrost_lease_reads_total", "Reads answered by lease, without asking a majority.") {
            $0.figures.counts.leaseReads
        },
        Figure("bifrost_stale_reads_total", "Reads with a bound on their age, answered without asking anybody.") {
            $0.figures.counts.staleReads
        },
        Figure("bifrost_changes_told_total", "Changes told to watches, each as often as it was told.") {
            $0.figures.counts.changesTold
        },
        Figure(
            "bifrost_watches_compacted_total", "Watches answered with compacted: their changes were not kept any more."
        ) { $0.figures.counts.watchesCompacted },
        Figure(
            "bifrost_watches_turned_down_total", "Watches answered with overloaded, as too many were waiting."
        ) { $0.figures.counts.watchesTurnedDown },
        Figure("bifrost_overloads_total", "Calls answered with overloaded.") { $0.figures.counts.overloads },
        Figure("bifrost_stray_messages_total", "Messages of other hosts for groups or replicas that are not here.") {
            $0.figures.counts.strayMessages
        },
        Figure("bifrost_journal_commits_total", "Durable commits of the journal with records in them.") {
            UInt64(clamping: $0.journal.appends)
        },
        Figure("bifrost_journal_entries_total", "Log entries in those commits.") {
            UInt64(clamping: $0.journal.entries)
        },
        Figure("bifrost_journal_written_bytes_total", "Bytes of those commits.") {
            UInt64(clamping: $0.journal.appendedBytes)
        },
        Figure("bifrost_checkpoints_total", "Checkpoints that were published.") { $0.figures.counts.checkpoints },
        Figure("bifrost_merges_total", "Merges of a replica's runs that were published.") { $0.figures.counts.merges },
        Figure("bifrost_snapshot_given_bytes_total", "Bytes of records given to other members and to clients.") {
            $0.figures.counts.snapshotBytesGiven
        },
        Figure("bifrost_snapshot_taken_bytes_total", "Bytes of records taken from other members.") {
            $0.figures.counts.snapshotBytesTaken
        },
        Figure("bifrost_snapshots_installed_total", "Replicas that began anew on another member's state.") {
            $0.figures.counts.snapshotsInstalled
        },
        Figure("bifrost_migration_given_bytes_total", "Bytes of records of slots that move, given to other groups.") {
            $0.figures.counts.migrationBytesGiven
        },
        Figure("bifrost_migration_taken_bytes_total", "Bytes of records of slots that move, taken from other groups.") {
            $0.figures.counts.migrationBytesTaken
        },
        Figure(
            "bifrost_writes_slowed_total",
            "Commands that were delayed, as the migration of their slots did not converge."
        ) { $0.figures.counts.writesSlowed },
        Figure(
            "bifrost_digests_agreed_total",
            "Points of a log at which a majority of the voters had the same state as a replica here."
        ) { $0.figures.counts.digestsAgreed },
        Figure("bifrost_damages_total", "Replicas found damaged, by whatever read them.") { $0.damages },
        Figure("bifrost_scrubbed_bytes_total", "Bytes of cold data that the scrubber verified.") { $0.scrub.bytes },
        Figure("bifrost_scrub_rounds_total", "Rounds of the scrubber through all that is on the disks.") {
            $0.scrub.rounds
        },
        Figure("bifrost_connections_accepted_total", "Connections accepted, of clients and of hosts.") {
            UInt64(clamping: $0.connectionsAccepted)
        },
        Figure("bifrost_requests_total", "Requests received, of clients and of hosts.") {
            UInt64(clamping: $0.requests)
        },
        Figure("bifrost_connection_faults_total", "Connections closed because of what came over them, or did not.") {
            UInt64(clamping: $0.connectionFaults)
        },
    ]

    static let times: [Figure<HostReading, DurationHistogram>] = [
        Figure(
            "bifrost_commit_latency_seconds",
            "Time from the arrival of a client's command at its leader, which is here, until it was applied here."
        ) { $0.figures.counts.commitTimes },
        Figure("bifrost_journal_commit_seconds", "Time of a durable commit of the journal, with its syncs.") {
            $0.commitTimes
        },
    ]

    static let gauges: [Figure<HostReading, Double>] = [
        Figure("bifrost_member", "1 if this host belongs to a cluster.") { $0.isMember ? 1 : 0 },
        Figure("bifrost_replicas", "Replicas on this host.") { Double($0.figures.replicas) },
        Figure("bifrost_groups_led", "Groups that are led here.") { Double($0.figures.leaders) },
        Figure("bifrost_groups_leaderless", "Groups with a replica here that knows of no leader.") {
            Double($0.figures.leaderless)
        },
        Figure("bifrost_replicas_active", "Replicas that are ticked: the others rest and cost nothing.") {
            Double($0.figures.active)
        },
        Figure("bifrost_replicas_stopped", "Replicas that stand still; status says why.") {
            Double($0.figures.stopped)
        },
        Figure("bifrost_replicas_impaired", "Replicas whose state is damaged or behind their log.") {
            Double($0.figures.impaired)
        },
        Figure(
            "bifrost_replicas_doubted",
            "Replicas whose state is not another voter's, while no majority agrees on one; status says more."
        ) { Double($0.figures.doubted) },
        Figure("bifrost_apply_lag_entries", "Entries that are committed and not applied, of all replicas here.") {
            Double($0.figures.applyLag.sum)
        },
        Figure("bifrost_apply_lag_entries_max", "The same of the replica that has most.") {
            Double($0.figures.applyLag.largest)
        },
        Figure("bifrost_checkpoint_lag_entries", "Entries applied behind the last checkpoint, of all replicas here.") {
            Double($0.figures.checkpointLag.sum)
        },
        Figure("bifrost_checkpoint_lag_entries_max", "The same of the replica that has most.") {
            Double($0.figures.checkpointLag.largest)
        },
        Figure(
            "bifrost_checkpoint_lag_bytes",
            "Bytes of entries applied since the last checkpoint was begun, of all replicas here."
        ) { Double($0.figures.checkpointLagBytes.sum) },
        Figure("bifrost_checkpoint_lag_bytes_max", "The same of the replica that has most.") {
            Double($0.figures.checkpointLagBytes.largest)
        },
        Figure("bifrost_memtable_bytes", "Memory of all live memtables.") { Double($0.figures.memtableBytes) },
        Figure("bifrost_sessions", "Sessions of clients in all replicas here, led here or not.") {
            Double($0.figures.sessions)
        },
        Figure("bifrost_session_calls", "Calls of those sessions whose answers are kept.") {
            Double($0.figures.sessionCalls)
        },
        Figure("bifrost_proposals_waiting", "Commands of clients that are proposed and not answered.") {
            Double($0.figures.proposalsWaiting)
        },
        Figure("bifrost_reads_waiting", "Reads of clients that wait for their confirmation.") {
            Double($0.figures.readsWaiting)
        },
        Figure("bifrost_pages_open", "Pages of scans and exports asked for and not answered.") {
            Double($0.figures.pagesOpen)
        },
        Figure("bifrost_machine_queries_open", "Queries of users' machines asked for and not answered.") {
            Double($0.figures.machineQueriesOpen)
        },
        Figure("bifrost_watches_waiting", "Watches that wait for something to tell.") {
            Double($0.figures.watchesWaiting)
        },
        Figure("bifrost_journal_waiting_bytes", "Bytes of entries that wait for the journal's disk.") {
            Double($0.figures.undurableBytes)
        },
        Figure("bifrost_journal_bytes", "Bytes that the journal holds.") {
            Double($0.journal.bytes + $0.journal.baseBytes)
        },
        Figure("bifrost_journal_hung", "1 if the journal's disk completes nothing.") {
            $0.figures.isJournalHung ? 1 : 0
        },
        Figure("bifrost_store_bytes", "Bytes in use in the store's file.") { Double($0.storeBytes) },
        Figure("bifrost_checkpoints_running", "Checkpoints that the store's thread has.") {
            Double($0.figures.checkpointsUnderWay)
        },
        Figure("bifrost_checkpoints_waiting", "Replicas that wait for a place for a checkpoint.") {
            Double($0.figures.checkpointsWaiting)
        },
        Figure("bifrost_merges_running", "Merges that the store's thread has.") {
            Double($0.figures.mergesUnderWay)
        },
        Figure("bifrost_merges_waiting", "Replicas that wait for a place for a merge.") {
            Double($0.figures.mergesWaiting)
        },
        Figure("bifrost_snapshots_giving", "States that are being given to members and clients.") {
            Double($0.figures.snapshotsGiving)
        },
        Figure("bifrost_snapshots_taking", "States that are being taken from other members.") {
            Double($0.figures.snapshotsTaking)
        },
        Figure("bifrost_space_level", "Space for this host's files: 0 ample, 1 low (no puts), 2 out (nothing).") {
            Double($0.space.rawValue)
        },
        Figure("bifrost_connections_open", "Connections accepted and not closed, of clients and of hosts.") {
            Double($0.connectionsOpen)
        },
        Figure("bifrost_peers_connected", "Other hosts to which a connection stands.") { Double($0.peersConnected) },
        Figure("bifrost_map_version", "Version of the cluster's map that this host has; 0: none.") {
            Double($0.mapVersion)
        },
        Figure("process_resident_memory_bytes", "Resident memory of the process.") {
            Double($0.process.residentBytes)
        },
        Figure("process_open_fds", "File descriptors that the process has open.") {
            Double($0.process.openDescriptors)
        },
        Figure("process_max_fds", "File descriptors that it may have open.") { Double($0.process.descriptorsMax) },
    ]

    static let groupGauges: [Figure<GroupFigures, Double>] = [
        Figure("bifrost_group_leader", "1 if this host leads the group.") { $0.isLeader ? 1 : 0 },
        Figure("bifrost_group_term", "The group's term, as its replica here knows it.") { Double($0.term) },
        Figure("bifrost_group_commit_index", "What is committed, as the group's replica here knows it.") {
            Double($0.commit)
        },
        Figure("bifrost_group_apply_lag_entries", "Entries that are committed and not applied here.") {
            Double($0.applyLag)
        },
        Figure("bifrost_group_checkpoint_lag_entries", "Entries applied here behind the last checkpoint.") {
            Double($0.checkpointLag)
        },
    ]

    static let otherGauges: [(name: String, help: String)] = [
        ("bifrost_build_info", "1, with the program's version, its feature level and the number of event loops."),
        ("process_start_time_seconds", "When the process began, in seconds since 1970."),
        (
            "bifrost_groups_without_series",
            "Groups with a replica here that have no bifrost_group_ series, as there are too many."
        ),
        ("bifrost_recorded_timestamp_seconds", "When these figures were last taken, in seconds since 1970."),
    ]

    static let cpu = (name: "process_cpu_seconds_total", help: "User and system time of the process.")
}
