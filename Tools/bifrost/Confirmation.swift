// Asking a person before something is done.

enum Confirmation {
    /// On standard error, so that results stay alone on standard output.
    ///
    /// - Parameters:
    ///   - words: that have to be typed.
    ///   - outcome: of any other answer, and of none.
    /// - Throws: `negative` if they are not.
    static func ask(_ question: String, for words: String, otherwise outcome: String) throws(ToolError) {
        Output.error("\n\(question)\n")
        let answer = readLine()
        guard answer == words else {
            throw ToolError(
                .negative, "expected '\(words)', found \(answer.map { "'\($0)'" } ?? "nothing"): \(outcome)")
        }
    }
}
