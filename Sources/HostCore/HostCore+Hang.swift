// What a host does whose journal's disk hangs: nothing that it is asked for becomes durable, and no error says so. What it
// leads it hands over, or gives up where that fails, and it leads nothing new before its disk answers again.

import Primitives
import RaftCore

extension HostCore {
    /// Ticks for which the journal has completed nothing, though something waits for it; 0: nothing does. A disk that is
    /// slow gets on, and is none that hangs.
    private var journalWaitTicks: UInt64 { doneTicket + 1 < nextTicket ? tickCount - journalTick : 0 }

    /// Looks at the journal's disk, and finds other leaders where it hangs. Costs nothing while it does not.
    func watchJournal() {
        // Who waits for space says so, and goes on serving what it can; and the first commit that fits may be another's.
        if space == .out { journalTick = tickCount }
        let isHung =
            settings.journalHangTicks > 0 && space < .out && journalWaitTicks >= UInt64(settings.journalHangTicks)
        if isHung != isJournalHung { journalHangs(isHung) }
        guard isJournalHung, !isPlanted("hang-unheeded") else { return }
        var left = settings.wakesPerTick
        for replica in replicas where left > 0 && replica.role == .leader {
            guard replica.withCore({ $0.transferee }) == nil, doOthersGetOn(replica) else { continue }
            left -= 1
            if !replica.isHandedOverForHang, let next = successor(of: replica, where: { _ in true }),
                replica.core.transfer(to: next) == .accepted
            {
                replica.isHandedOverForHang = true
                replica.lastTurns[next] = tickCount
                hangHandOvers += 1
            } else {
                // It did not come about within an election time-out, or there is nobody to ask. Who is there elects.
                replica.core.stepDown()
                hangStepDowns += 1
            }
            activate(replica)
            markReady(replica)
        }
    }

    private func journalHangs(_ isHung: Bool) {
        isJournalHung = isHung
        if isHung {
            for replica in replicas { replica.isHandedOverForHang = false }
            effects.notices.append(
                "the journal's disk has completed nothing for "
                    + "\(journalWaitTicks * settings.tickNanoseconds / 1_000_000) ms: this host hands over what it leads"
            )
        } else {
            effects.notices.append("the journal's disk answers again")
        }
    }

    /// The others have written what this disk has not, and are a majority without it. If not, to give leadership up would
    /// end reads as well, and gain nothing: their disks may hang as this one does, and then nobody would be elected.
    private func doOthersGetOn(_ replica: Replica) -> Bool {
        let stable = replica.withCore { $0.stableIndex }
        return canDoWithout(replica) { replica.core.progress(of: $0).map { $0.match > stable } ?? false }
    }

    /// The other voters that are heard are a majority of each half of the configuration, as far as they count. A connection
    /// alone says nothing: that its other end is gone is noticed up to 40 s later.
    func canDoWithout(_ replica: Replica, counting: (ReplicaID) -> Bool = { _ in true }) -> Bool {
        let configuration = replica.withCore { $0.configuration }
        func isEnough(_ voters: [ReplicaID]) -> Bool {
            let there = voters.count { $0 != replica.id && isHeardNow($0, of: replica) && counting($0) }
            return voters.isEmpty || there * 2 > voters.count
        }
        return isEnough(configuration.voters) && isEnough(configuration.outgoing)
    }
}
