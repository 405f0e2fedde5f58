// What a chaos run does: kinds of rounds and how many of each. Pure.

import ArgumentParser

/// A kind of damage that is done to real hosts.
package enum ChaosKind: String, CaseIterable, Encodable, Sendable {
    /// SIGKILL, one host after the other; in the last round all at once.
    case kill
    /// SIGSTOP of a host for seconds: a leader that wakes up must not answer with what it knew.
    case stop
    /// Hosts in network namespaces: one cut off, one that reaches no other host, one way between two.
    case partition
    /// All traffic through proxies that delay it, cut connections, and change bytes.
    case proxy
    /// fdatasync answers EIO: the host ends at once, and believes nothing that was not flushed.
    case eio
    /// SIGKILL in front of one exact write or sync: what was written before it is in the page cache, and not synced.
    case killcall
    /// A host's disk has no space left, and then has.
    case full
    /// A host is drained and taken back, and hosts die meanwhile.
    case members
}

package struct ChaosPlan: Equatable, Sendable, CustomStringConvertible {
    package struct Part: Equatable, Sendable {
        package var kind: ChaosKind
        package var rounds: Int
    }
    package static let roundsMax = 100_000
    package var parts: [Part]

    /// As in `kill:3,stop:2`. A kind stands once.
    package init(parsing text: String) throws {
        parts = []
        for piece in text.split(separator: ",", omittingEmptySubsequences: false) {
            let words = piece.split(separator: ":", omittingEmptySubsequences: false)
            guard words.count == 2, let kind = ChaosKind(rawValue: String(words[0])) else {
                let kinds = ChaosKind.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("expected KIND:COUNT with one of \(kinds), found '\(piece)'")
            }
            guard let rounds = Int(words[1]), (1...Self.roundsMax).contains(rounds) else {
                throw ValidationError("expected 1 to \(Self.roundsMax) rounds of \(kind), found '\(words[1])'")
            }
            guard !parts.contains(where: { $0.kind == kind }) else {
                throw ValidationError("\(kind) stands twice in '\(text)'")
            }
            parts.append(Part(kind: kind, rounds: rounds))
        }
    }

    package var description: String { parts.map { "\($0.kind):\($0.rounds)" }.joined(separator: ",") }
}

/// Kinds that may be skipped on a machine that can't do them. A file has a line `kind: reason` for each.
package struct PermittedSkips: Equatable, Sendable {
    package private(set) var kinds: [ChaosKind] = []

    package init() {}

    package init(parsing text: String) throws {
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            guard !line.hasPrefix("#"), line.contains(where: { $0 != " " }) else { continue }
            let words = line.split(separator: ":", maxSplits: 1)
            guard words.count == 2, let kind = ChaosKind(rawValue: String(words[0])),
                words[1].contains(where: { $0 != " " })
            else { throw ValidationError("line \(number + 1): expected 'kind: reason', found '\(line)'") }
            kinds.append(kind)
        }
    }
}
