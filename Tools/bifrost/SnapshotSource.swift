// One group's state from the hosts that have it: asks one of them, keeps to it as long as it keeps the state, and begins
// anew with another when it doesn't. Owns the order of questions; connections are the caller's.

import Messages
import Primitives
import RPC
import Ring
import Storage

/// A state on its way. Belongs to one task at a time.
struct SnapshotSource {
    /// What became of a question.
    enum Answer {
        case piece(SnapshotAnswer)
        /// The host is at it, has counted so many records, and is to be asked again.
        case counting(UInt64)
        /// The state is no longer to be had from there: begin anew.
        case gone(String)
        /// It is not the host that was meant: its connection is of no use.
        case stranger(String)
        /// Nothing now; try again, under the same number.
        case later(String, after: Duration)
    }

    let group: GroupID
    /// Of the host that gives it, and the number that it knows the state by.
    private(set) var host: HostRecord
    private(set) var snapshot: UInt64
    private let probe: HostProbe

    /// For one answer. A host that takes longer for the first piece says so before.
    private static let answerNanoseconds: UInt64 = 10_000_000_000
    private static let pause = Duration.milliseconds(200)

    init(_ group: GroupID, from host: HostRecord, snapshot: UInt64, probe: HostProbe) {
        self.group = group
        self.host = host
        self.snapshot = snapshot
        self.probe = probe
    }

    /// The piece behind a key; nil: the first.
    func fetch(after key: RecordKey?) async throws(ToolError) -> Answer {
        let request = SnapshotRequest(
            group: group, snapshot: snapshot, kind: .fetch,
            after: key.map { RecordPosition(slot: $0.slot, machine: $0.machine, key: $0.key) })
        let bytes: Bytes
        do throws(RPCError) {
            bytes = try await probe.data(
                DataMethod.snapshot, request.encoded(), deadline: RPCClock.now() + Self.answerNanoseconds)
        } catch {
            let why = "host \(host.id): \(error.message)"
            switch error.code {
            case .unknownMethod: return .gone("host \(host.id) runs a version that gives no states to clients")
            case .wrongCluster, .wrongHost: return .stranger(why)
            default: return .later(why, after: Self.pause)
            }
        }
        do throws(DecodingFailure) {
            switch try Response<DataResult>(decoding: bytes) {
            case .done(let result):
                let answer = try SnapshotAnswer(decoding: result.body)
                return answer.countedRecords.map { .counting($0) } ?? .piece(answer)
            case .refused(.overloaded(let millis)):
                return .later("host \(host.id) gives as many states as it may", after: .milliseconds(Int64(millis)))
            case .refused(.invalid(let why)): return .gone(why)
            case .refused(.unknownGroup): return .gone("host \(host.id) has no replica of group \(group)")
            case .refused(let other): return .later("host \(host.id): \(other)", after: Self.pause)
            }
        } catch {
            throw ToolError(.fault, "host \(host.id) gave an answer that can't be read: \(error)")
        }
    }

    /// The host need not keep it any longer. Lost: it finds that out by itself.
    func release() async {
        let request = SnapshotRequest(group: group, snapshot: snapshot, kind: .release)
        _ = try? await probe.data(DataMethod.snapshot, request.encoded(), deadline: RPCClock.now() + 1_000_000_000)
    }
}
