// The files that a recovery hands from host to host: a report or a plan as JSON, with its kind, version and a checksum,
// so that what was cut off or edited by hand shows before anything is written because of it.

import Foundation
package import Primitives
package import Recovery

package enum RecoveryFile {
    case report(HostReport)
    case plan(RecoveryPlan)

    private static let version = 1
    private static let reportKind = "bifrost recovery report"
    private static let planKind = "bifrost recovery plan"
    /// Two maps of 15 MiB as digits, and the replicas.
    static let bytesMax = 256 << 20

    private struct Head: Decodable {
        var kind: String
        var version: Int
    }

    private struct Envelope<Body: Codable>: Codable {
        var kind: String
        var version: Int
        /// CRC-32C of the body as this program writes it, in hexadecimal digits.
        var checksum: String
        var body: Body
    }

    package func encoded() throws(ToolError) -> [UInt8] {
        switch self {
        case .report(let report): try Self.encoded(report, Self.reportKind)
        case .plan(let plan): try Self.encoded(plan, Self.planKind)
        }
    }

    private static func encoded(_ body: some Codable, _ kind: String) throws(ToolError) -> [UInt8] {
        let envelope = Envelope(kind: kind, version: version, checksum: try checksum(body), body: body)
        return Array(try Output.jsonText(envelope).utf8) + [UInt8(ascii: "\n")]
    }

    private static func checksum(_ body: some Codable) throws(ToolError) -> String {
        String(Bytes(try Output.jsonText(body)).checksum, radix: 16)
    }

    /// - Parameter name: the file, for errors.
    package init(_ bytes: Bytes, name: String) throws(ToolError) {
        let data = bytes.withUnsafeBytes { Data($0) }
        guard let head = try? JSONDecoder().decode(Head.self, from: data),
            [Self.reportKind, Self.planKind].contains(head.kind)
        else {
            throw ToolError(
                .badData,
                "\(name): expected a file of 'bifrost recover report' or 'bifrost recover plan', found another")
        }
        guard head.version == Self.version else {
            throw ToolError(
                .badData,
                "\(name) has version \(head.version), this program reads \(Self.version): use the program that wrote it"
            )
        }
        let problem: String?
        if head.kind == Self.reportKind {
            let report: HostReport = try Self.decoded(data, name)
            problem = report.problem()
            self = .report(report)
        } else {
            let plan: RecoveryPlan = try Self.decoded(data, name)
            problem = plan.problem()
            self = .plan(plan)
        }
        if let problem { throw ToolError(.badData, "\(name) makes no sense: \(problem); make it anew") }
    }

    private static func decoded<Body: Codable>(_ data: Data, _ name: String) throws(ToolError) -> Body {
        let envelope: Envelope<Body>
        do { envelope = try JSONDecoder().decode(Envelope<Body>.self, from: data) } catch {
            throw ToolError(.badData, "\(name) is damaged: \(Self.words(of: error)); make it anew")
        }
        guard try checksum(envelope.body) == envelope.checksum else {
            throw ToolError(.badData, "\(name) is damaged or was edited: its checksum does not fit; make it anew")
        }
        return envelope.body
    }

    private static func words(of error: any Error) -> String {
        switch error as? DecodingError {
        case .dataCorrupted(let context), .typeMismatch(_, let context), .valueNotFound(_, let context),
            .keyNotFound(_, let context):
            context.debugDescription
        default: "\(error)"
        }
    }

    static func read(_ path: String) throws(ToolError) -> RecoveryFile {
        let file = try InputFile(opening: path)
        defer { file.close() }
        return try RecoveryFile(try file.readAll(bytesMax: bytesMax), name: file.name)
    }

    /// - Returns: whether standard output is taken by the file.
    func write(to path: String) throws(ToolError) -> Bool {
        let bytes = try encoded()
        let file = try OutputFile(creating: path)
        do throws(ToolError) { try file.write(bytes) } catch {
            file.abandon()
            throw error
        }
        try file.finish()
        return file.isStandard
    }
}
