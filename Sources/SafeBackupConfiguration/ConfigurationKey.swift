import SafeBackupCore

/// A row of the table of all keys: what one key means. The parser, the example, `config show --effective` and the
/// manual page are made from these rows.
package struct ConfigurationEntry: Sendable {
    /// The sections that there are.
    package enum Section: String, Sendable, Hashable, CaseIterable {
        case agent, source, destination

        /// There may be any number of them, each with a name.
        package var isNamed: Bool { self != .agent }
    }

    /// How often a key stands in its section.
    package enum Presence: Sendable, Hashable {
        case required
        /// As it would be written.
        case standard([UInt8])
        /// A part of a sentence: what holds without the key.
        case absent(String)
    }

    package let section: Section
    package let name: String
    /// What a person writes: `time`, `absolute path`.
    package let form: String
    package let presence: Presence
    /// May be repeated.
    package let isList: Bool
    /// One sentence without a final period.
    package let summary: String
    /// As it may stand in the example.
    package let example: [UInt8]

    /// Checks a value that is not empty. The result goes on after the value; `nil`: nothing is wrong.
    let fault: @Sendable ([UInt8]) -> String?
}

/// A key with the type of its value.
package struct ConfigurationKey<Value: ConfigurationValue>: Sendable {
    package let entry: ConfigurationEntry
    /// Without the key.
    package let standard: Value?

    /// A key that has a default.
    init(
        _ section: ConfigurationEntry.Section, _ name: String, standard: Value, in range: ClosedRange<Value>,
        _ summary: String
    ) where Value: Comparable {
        self.init(
            section, name, standard: standard, .standard(standard.written), example: standard.written, isList: false,
            summary
        ) { Self.fault($0, range) }
    }

    /// A key that must be there at least once.
    init(
        required section: ConfigurationEntry.Section, _ name: String, example: String, isList: Bool = false,
        _ summary: String
    ) {
        self.init(
            section, name, standard: nil, .required, example: Array(example.utf8), isList: isList, summary
        ) { _ in nil }
    }

    /// A key that may be left out; `absence` says what holds then.
    init(
        optional section: ConfigurationEntry.Section, _ name: String, example: String, absence: String,
        isList: Bool = false, _ summary: String
    ) {
        self.init(
            section, name, standard: nil, .absent(absence), example: Array(example.utf8), isList: isList, summary
        ) { _ in nil }
    }

    /// A key with a default that is one of some words.
    init(
        _ section: ConfigurationEntry.Section, _ name: String, standard: Value, _ summary: String
    ) {
        self.init(
            section, name, standard: standard, .standard(standard.written), example: standard.written, isList: false,
            summary
        ) { _ in nil }
    }

    /// A key that may be left out, with bounds; `absence` says what holds then.
    init(
        optional section: ConfigurationEntry.Section, _ name: String, example: String, in range: ClosedRange<Value>,
        absence: String, _ summary: String
    ) where Value: Comparable {
        self.init(
            section, name, standard: nil, .absent(absence), example: Array(example.utf8), isList: false, summary
        ) { Self.fault($0, range) }
    }

    private static func fault(_ value: Value, _ range: ClosedRange<Value>) -> String? where Value: Comparable {
        if range.contains(value) { return nil }
        return "is not from \(printable(range.lowerBound.written)) to \(printable(range.upperBound.written))"
    }

    private init(
        _ section: ConfigurationEntry.Section, _ name: String, standard: Value?,
        _ presence: ConfigurationEntry.Presence,
        example: [UInt8], isList: Bool, _ summary: String, check: @escaping @Sendable (Value) -> String?
    ) {
        self.standard = standard
        entry = ConfigurationEntry(
            section: section, name: name, form: Value.form, presence: presence, isList: isList, summary: summary,
            example: example,
            fault: { text in
                do throws(ConfigurationFault) {
                    return check(try Value.read(text))
                } catch {
                    return error.message
                }
            })
    }
}
