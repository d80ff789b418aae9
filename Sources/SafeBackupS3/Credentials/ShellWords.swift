/// Splits a command as a POSIX shell splits one without any expansion: blanks, both kinds of quotes, and the backslash.
package enum ShellWords {
    /// `nil` if a quote is not closed, or nothing follows the last backslash.
    package static func split(_ text: String) -> [String]? {
        var words: [String] = []
        var word: String?
        var quote: Unicode.Scalar?
        var scalars = text.unicodeScalars.makeIterator()
        while let scalar = scalars.next() {
            if quote == "'" {
                if scalar == "'" { quote = nil } else { word?.unicodeScalars.append(scalar) }
                continue
            }
            switch scalar {
            case "\\":
                guard let next = scalars.next() else { return nil }
                // Within double quotes it takes the meaning of a few only.
                if quote != nil && next != "\"" && next != "\\" && next != "$" && next != "`" {
                    word?.unicodeScalars.append("\\")
                }
                word = word ?? ""
                word?.unicodeScalars.append(next)
            case "\"" where quote != nil: quote = nil
            case "\"", "'":
                if quote == nil {
                    quote = scalar
                    word = word ?? ""
                } else {
                    word?.unicodeScalars.append(scalar)
                }
            case " ", "\t", "\n", "\r":
                if quote != nil {
                    word?.unicodeScalars.append(scalar)
                } else if let finished = word {
                    words.append(finished)
                    word = nil
                }
            default:
                word = word ?? ""
                word?.unicodeScalars.append(scalar)
            }
        }
        if quote != nil { return nil }
        if let word { words.append(word) }
        return words
    }
}
