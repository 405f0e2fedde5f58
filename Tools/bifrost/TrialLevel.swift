// `--feature-level`: what this program is taken to know, by commands that start a host or work on its files. For trials of
// clusters of several versions.

import ArgumentParser
import Primitives

struct TrialLevel: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "For trials of clusters of several versions: know no more than this feature level. A directory never goes back "
                + "to a lower one.", valueName: "level", visibility: .hidden))
    var featureLevel: UInt32?

    var level: UInt32 { featureLevel ?? FeatureLevel.current }

    func validate() throws {
        guard let featureLevel, !(FeatureLevel.first...FeatureLevel.current).contains(featureLevel) else { return }
        throw ValidationError(
            "--feature-level is \(FeatureLevel.first) to \(FeatureLevel.current), not \(featureLevel)")
    }
}
