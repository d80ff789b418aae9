import ArgumentParser
import SafeBackupAgent
import SafeBackupCore
import Synchronization
import SystemPackage

/// The options that leave paths out.
struct ExcludeOptions: ParsableArguments {
    /// Remembers its place among all such options: the last rule that matches decides, whichever option it came by.
    struct Placed: ExpressibleByArgument, Sendable {
        let bytes: [UInt8]
        let order: Int
        private static let counter = Atomic(0)

        init?(argument: String) {
            guard let bytes = ArgumentBytes(argument: argument)?.bytes else { return nil }
            self.bytes = bytes
            // The parser reads the command line from left to right.
            order = Self.counter.add(1, ordering: .relaxed).newValue
        }
    }

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Leave out what matches, in gitignore syntax; may be given several times.", valueName: "pattern"))
    var exclude: [Placed] = []

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Leave out what matches a line of FILE, as of a .gitignore; may be given several times.",
            valueName: "file"))
    var excludeFrom: [Placed] = []

    /// As they stand in a configuration, in the order of the command line; paths are made absolute.
    func assignments() -> [NewConfiguration.Exclude] {
        let patterns = exclude.map { ($0.order, NewConfiguration.Exclude.pattern($0.bytes)) }
        let files = excludeFrom.map { option in
            let path = ConfiguredRun.absolutePath(FilePath(bytes: option.bytes))
            return (option.order, NewConfiguration.Exclude.file(path.bytes))
        }
        return (patterns + files).sorted { $0.0 < $1.0 }.map(\.1)
    }

    /// All patterns in the order of the command line; `nil` if no option was given.
    func patterns() throws(SafeBackupError) -> [ExcludePattern]? {
        if exclude.isEmpty && excludeFrom.isEmpty { return nil }
        var parts: [(order: Int, patterns: [ExcludePattern])] = []
        for (index, option) in exclude.enumerated() {
            parts.append((option.order, [ExcludePattern(bytes: option.bytes, line: index + 1)]))
        }
        for option in excludeFrom { parts.append((option.order, try ExcludeFile.patterns(option.bytes))) }
        return parts.sorted { $0.order < $1.order }.flatMap(\.patterns)
    }
}
