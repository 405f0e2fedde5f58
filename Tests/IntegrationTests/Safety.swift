// Safety. It proves that no rule is broken in whole clusters under all faults at once: one leader a term, logs that match,
// committed entries that stay, equal states at equal indices, votes and acknowledgements that are on the disk, histories
// that are linearizable, and the others of `Invariants`. And that rules and checker find what they are there for: a journal
// that is not synced, and histories with one answer that can't be true. `Tools/planted` plants 63 more mistakes, in a
// build of its own; 2,000 seeds run in each continuous integration.

import BifrostSimulator
import Linearizability
import Primitives
import Testing

extension IntegrationTests {
    @Suite(.serialized, .timeLimit(.minutes(15))) struct Safety {
        @Test(arguments: SimulationProfile.allCases) func noRuleIsBroken(_ profile: SimulationProfile) throws {
            var total = SimulationReport()
            for seed in 1_001...1_010 as ClosedRange<UInt64> {
                total.add(try SimulatedRun(seed: seed, SimulationSettings(profile: profile, seconds: 15)).report)
            }
            #expect(total.acknowledged > 10_000 && total.crashes > 20 && total.elections > 100, "\(total)")
            print("\(profile): \(total)")
        }

        @Test func aJournalThatIsNotSyncedBreaksARule() {
            var rules: Set<String> = []
            for seed in 1...40 as ClosedRange<UInt64> {
                let cluster = SimulatedCluster(seed: seed, settings: SimulationSettings(seconds: 10)) {
                    $0.forgetsToSync = true
                }
                do throws(SimulationFailure) {
                    _ = try cluster.runAndCheck()
                } catch {
                    rules.insert(error.invariant)
                }
            }
            #expect(!rules.isEmpty, "it was not found")
            print("found by: \(rules.sorted())")
        }

        /// Of a true history one answer is changed, as a mistake in the cluster would have changed it.
        @Test func oneWrongAnswerIsFound() throws {
            let cluster = SimulatedCluster(seed: 4, settings: SimulationSettings(seconds: 10))
            _ = try cluster.runAndCheck()
            let history = Array(cluster.history)
            #expect(HistoryReport(checking: history).isLinearizable)
            var tried = 0
            let puts = Dictionary(
                grouping: history.filter { record in
                    if case .put = record.input, case .ok = record.outcome { true } else { false }
                }, by: \.key)
            let deleted = Set(history.filter { $0.input == .delete }.map(\.key))
            for (place, record) in history.enumerated() where place % 7 == 0 && tried < 40 {
                guard record.input == .get, case .ok(.found(_?, _)) = record.outcome else { continue }
                // What was overwritten before it was read.
                let before = (puts[record.key] ?? []).filter { $0.end ?? .max < record.call }
                guard let old = before.first, case .put(let oldValue) = old.input,
                    before.contains(where: { $0.call > old.end ?? .max })
                else { continue }
                tried += 1
                // What was before; nothing; and what nobody wrote.
                var wrong: [Bytes?] = [oldValue, Bytes("nobody's")]
                if !deleted.contains(record.key) { wrong.append(nil) }
                for value in wrong {
                    var broken = history
                    broken[place].outcome = .ok(.found(value, revision: nil))
                    #expect(
                        !HistoryReport(checking: broken).isLinearizable, "\(record) with \(String(describing: value))")
                }
            }
            #expect(tried == 40)
        }

        /// And if one acknowledged write is not there: as if it had not been made.
        @Test func oneLostWriteIsFound() throws {
            let cluster = SimulatedCluster(seed: 9, settings: SimulationSettings(seconds: 10))
            _ = try cluster.runAndCheck()
            let history = Array(cluster.history)
            // Of what somebody read later.
            var read: Set<Bytes> = []
            for record in history { if case .ok(.found(let value?, _)) = record.outcome { read.insert(value) } }
            var tried = 0
            for (place, record) in history.enumerated() where tried < 40 {
                guard case .put(let value) = record.input, read.contains(value) else { continue }
                tried += 1
                var broken = history
                broken.remove(at: place)
                #expect(!HistoryReport(checking: broken).isLinearizable, "\(record)")
            }
            #expect(tried == 40)
        }
    }
}
