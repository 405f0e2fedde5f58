// `--feature-level`: what this program is taken to know, by commands that start a host or work on its files. For trials of
// clusters of several versions, and of a level that is in the making.

import ArgumentParser
import Primitives

struct TrialLevel: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "For trials of clusters of several versions: know no more than this feature level, or one that is in the "
                + "making. A directory never goes back to a lower one.", valueName: "level", visibility: .hidden))
    var featureLevel: UInt32?

    var level: UInt32 { featureLevel ?? FeatureLevel.current }

    func validate() throws {
        let newest = max(FeatureLevel.current, FeatureLevel.inTheMaking)
        if let featureLevel, !(FeatureLevel.first...newest).contains(featureLevel) {
            throw ValidationError("--feature-level is \(FeatureLevel.first) to \(newest), not \(featureLevel)")
        }
    }
}
