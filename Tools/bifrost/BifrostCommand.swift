// The root of all commands.

import ArgumentParser

/// The program's version. Formats and protocols have versions of their own.
let programVersion = "0.1.0"

struct BifrostCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bifrost",
        abstract: "Partitioned, replicated storage: many Raft groups, few hosts, one program.",
        discussion: """
            Three hosts on this machine, a cluster, a value:

              bifrost serve --directory /tmp/a --listen 127.0.0.1:7001 &
              bifrost serve --directory /tmp/b --listen 127.0.0.1:7002 &
              bifrost serve --directory /tmp/c --listen 127.0.0.1:7003 &
              bifrost init --hosts 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 --groups 16
              bifrost put greeting hello
              bifrost get greeting

            Results go to standard output, all else to standard error. --json prints results as one JSON object, also where \
            the answer is no: {"done":false,"reason":"…"} if the command has no more to say. Where it could not be \
            done, or was not understood, {"error":{"code":4,"message":"…"}}, with the exit code; of what prints an \
            object on each line this is the last one. Where records go to standard output (scan, export -), or what a \
            command says that is run meanwhile, the exit code tells it alone.

            SETTINGS: every long flag can also come from an environment variable, as BIFROST_CONNECT for --connect or \
            BIFROST_LOG_LEVEL for --log-level, and from the JSON file that --config or BIFROST_CONFIG names, as in
              {"connect": "10.0.0.1:7001,10.0.0.2:7001", "timeout": "5s", "json": true}
            The command line overrides the environment, the environment overrides the file. A key in the file that is \
            no flag of any command is an error.

            EXIT CODES:
              0   done; of status: healthy
              1   the answer is no: get found no value, history check a violation; a
                  state machine says that it can't be done; the
                  cluster refused what group or host asked for, and nothing was changed;
                  recover: refused, or not confirmed
              2   the outcome of a write is unknown: read before you repeat it;
                  history check: no answer within its bound; group and host: what was
                  asked for is begun, and goes on by itself
              3   status: degraded
              4   unavailable: no quorum, no host answers, no cluster, overloaded; the
                  write was not done
              5   serve: the disk failed; look at it, then start the host again
              6   rebalance: it is under way, and goes on by itself
              7   rebalance: the plan is stale, as the cluster has changed since; nothing
                  was begun
              8   rebalance: steps failed, or nothing goes on until somebody does something
              64  the command line or the configuration is wrong
              65  the data is wrong: a malformed line, a key or a value over its limit, a
                  damaged or unfinished save, reports that don't belong together
              69  serve: the address can't be listened on
              70  a fault of this program or of a host's answer
              73  serve, recover: the data directory can't be used: held by another
                  process, of another cluster, newer, damaged; snapshot restore: it is
                  not empty
              74  a file can't be read or written
              75  lock, semaphore, elect, lease, members join: what was held is lost; --guard: its token is over
                  (of a command that was run under a lock the exit code is the command's)
              130 import, snapshot save: ended by SIGINT (Ctrl-C); says how far it came;
                  queue take, and what gets a lock: while it waited; its place is given up
              141 standard output was closed by its reader
              143 the same by SIGTERM
            """,
        version: programVersion,
        subcommands: [
            Serve.self,
            Dev.self,
            Init.self,
            Put.self,
            Get.self,
            Scan.self,
            Watch.self,
            Delete.self,
            Transaction.self,
            ValueCommands.self,
            NumberCommands.self,
            MapCommands.self,
            SetCommands.self,
            ArrayCommands.self,
            LockCommands.self,
            SemaphoreCommands.self,
            ElectionCommands.self,
            ElectCommand.self,
            LeaseCommands.self,
            MembershipCommands.self,
            BarrierCommands.self,
            LatchCommands.self,
            QueueCommands.self,
            MachineCommands.self,
            Import.self,
            Export.self,
            Status.self,
            RingCommand.self,
            GroupCommand.self,
            HostCommand.self,
            ClusterCommand.self,
            SessionTool.self,
            RebalanceCommand.self,
            RecoverCommand.self,
            SnapshotCommand.self,
            // Trials and measurements, from here on.
            HistoryCommand.self,
            Chaos.self,
            Bench.self,
            Measure.self,
            Demo.self,
            Simulate.self,
        ])
}
