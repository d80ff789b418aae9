package import SafeBackupCore

/// Where something stands in a configuration file.
package struct ConfigurationPlace: Sendable, Hashable {
    /// The file's path, as it was given.
    package var file: [UInt8]
    /// From 1.
    package var line: Int
    /// From 1, in bytes.
    package var column: Int

    package init(file: [UInt8], line: Int, column: Int) {
        self.file = file
        self.line = line
        self.column = column
    }
}

extension ConfigurationPlace: CustomStringConvertible {
    /// `FILE:LINE:COLUMN`, as compilers write it.
    package var description: String { "\(printable(file)):\(line):\(column)" }
}

/// One thing that is wrong in a configuration file, and where.
package struct ConfigurationProblem: Sendable, Hashable {
    package var place: ConfigurationPlace
    /// What is wrong and what to do; a sentence without a final period.
    package var message: String

    package init(_ place: ConfigurationPlace, _ message: String) {
        self.place = place
        self.message = message
    }
}

extension ConfigurationProblem: CustomStringConvertible {
    package var description: String { "\(place): \(message)" }
}

/// All that is wrong in a configuration.
package struct ConfigurationFailure: Error, Sendable {
    /// In the order of the files and their lines; never empty.
    package var problems: [ConfigurationProblem]

    /// More would not be read.
    private static let limit = 100

    package init(_ problems: [ConfigurationProblem]) { self.problems = problems }

    /// All of them, a line each.
    package var error: SafeBackupError {
        var lines = problems.prefix(Self.limit).map(\.description)
        if problems.count > Self.limit { lines.append("… and \(problems.count - Self.limit) more") }
        let heading =
            problems.count == 1
            ? "there is a mistake in the configuration:" : "there are mistakes in the configuration:"
        return SafeBackupError(
            .invalidConfiguration, ([heading] + lines).joined(separator: "\n"), disposition: .permanent)
    }
}

/// What is wrong with one value; a part of a sentence that goes on after the value.
package struct ConfigurationFault: Error, Sendable {
    package var message: String

    package init(_ message: String) { self.message = message }
}
