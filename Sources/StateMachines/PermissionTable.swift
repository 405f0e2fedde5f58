// What every request needs, as text: the table in Documentation/Permissions.md, which is generated and compared.

import Ring

/// Rows of Markdown, made from what hosts ask for.
public enum PermissionTable {
    /// All tables, each under a heading.
    ///
    /// - Parameter dataTypes: Bifrost's own machines. Users' machines have rows for all of theirs together.
    public static func text(dataTypes: [any StateMachine.Type]) -> String {
        var lines: [String] = []
        func table(_ heading: String, _ columns: [String], _ rows: [[String]]) {
            if !lines.isEmpty { lines.append("") }
            lines += ["### \(heading)", "", line(columns), line(columns.map { _ in "---" })] + rows.map(line)
        }
        table(
            "Services", ["service", "method", "call", "needs"],
            ServiceCall.allCases.map { ["\($0.service)", "\($0.method)", $0.rawValue, words($0.rule)] })
        table("Commands", ["command", "needs"], CommandKind.allCases.map { [words($0.rawValue), words($0.rule)] })
        table("Queries", ["query", "needs"], QueryKind.allCases.map { [words($0.rawValue), words($0.rule)] })
        table(
            "Commands of data types", ["machine", "command", "needs"],
            dataTypes.flatMap { commands(of: $0) })
        table("Queries of data types", ["machine", "query", "needs"], dataTypes.flatMap { queries(of: $0) })
        table(
            "Commands for the meta group", ["command", "needs"],
            AdministerKind.allCases.map { [words($0.rawValue), words($0.rule)] })
        return lines.joined(separator: "\n") + "\n"
    }

    private static func line(_ cells: [String]) -> String { "| \(cells.joined(separator: " | ")) |" }

    private static func commands<Machine: StateMachine>(of machine: Machine.Type) -> [[String]] {
        machine.commands.map { command in
            let kind: CommandKind = command.tellsWhatIsThere ? .machine : .machineWithoutAnswer
            return ["\(machine.number)", "\(command.number) `\(name(of: command))`", words(kind.rule)]
        }
    }

    private static func queries<Machine: StateMachine>(of machine: Machine.Type) -> [[String]] {
        machine.queries.map { query in
            ["\(machine.number)", "\(query.number) `\(name(of: query))`", words(QueryKind.machine.rule)]
        }
    }

    /// Without the machine that it may be generic over.
    private static func name(of type: Any.Type) -> String { String("\(type)".prefix { $0 != "<" }) }

    private static func words(_ rule: PermissionRule) -> String {
        switch rule {
        case .byContent: "what is in it needs"
        case .user: "to be a user"
        case .something(let verbs): "\(words(verbs)) on some key"
        case .named(let verbs): "\(words(verbs)) on each key that it names"
        case .everything(let verbs): "\(words(verbs)) on everything"
        case .hosts: "to be a host"
        }
    }

    private static func words(_ verbs: VerbSet) -> String { verbs.each.map(\.description).joined(separator: " and ") }

    /// "sessionKeepAlive" as "session keep alive".
    private static func words(_ name: String) -> String {
        name.reduce(into: "") { $0 += $1.isUppercase ? " " + $1.lowercased() : String($1) }
    }
}
