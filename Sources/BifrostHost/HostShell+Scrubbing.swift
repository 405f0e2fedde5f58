// Verifies cold data piece by piece, between pauses that keep to the rate. Decides nothing.

import HostCore
import Logging
import NIOCore
import Primitives
import Storage

extension HostShell {
    private static var firstPause: TimeAmount { .seconds(1) }
    /// After a read that failed for a reason that passes.
    private static var retryPause: TimeAmount { .seconds(60) }

    /// On loop 0.
    func beginScrubbing(_ store: Store<LMDBDisk>, seed: UInt64) {
        let settings = configuration.settings
        guard let scrubber = Scrubber(store: store, journal: journal, settings: settings, seed: seed) else { return }
        // Behind the start's own reads.
        let first = min(Int64(clamping: settings.scrubRoundNanoseconds), Self.firstPause.nanoseconds)
        scheduleScrubbing(scrubber, in: .nanoseconds(first))
    }

    private func scheduleScrubbing(_ scrubber: Scrubber<LMDBDisk>, in pause: TimeAmount) {
        main.eventLoop.scheduleTask(in: pause) { [self] in
            guard !isStopping else { return }
            copies.submit { [self] in
                do {
                    let step = try scrubber.step()
                    main.eventLoop.execute { [self] in
                        take(step)
                        scheduleScrubbing(scrubber, in: .nanoseconds(Int64(clamping: step.pauseNanoseconds)))
                    }
                } catch {
                    if let error = error as? DiskError, error.code == .failed {
                        return fail(error, "verifying what is on disk")
                    }
                    logger.error("cold data can't be verified", metadata: ["error": "\(error)"])
                    main.eventLoop.execute { [self] in scheduleScrubbing(scrubber, in: Self.retryPause) }
                }
            }
        }
    }

    private func take(_ step: ScrubStep) {
        guard !isStopping else { return }
        scrubbed.statistics = step.statistics
        if step.endsRound {
            scrubbed.roundEnded = .now()
            logger.info(
                "all that is on disk was verified",
                metadata: [
                    "bytes": "\(step.statistics.lastRoundBytes)", "damaged": "\(step.statistics.damages)",
                ])
        }
        for finding in step.findings {
            logger.error("the scrubber found damage", metadata: ["what": "\(finding)"])
            let loop = loops[finding.group.map { LoopPlace.owner(of: $0, loops: loops.count) } ?? 0]
            loop.run { loop.scrubbed(finding) }
        }
    }
}
