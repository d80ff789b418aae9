package import SafeBackupCore
import SafeBackupState
import SafeBackupWatch
import SystemPackage

/// What `safebackup check-ignore` tells: of each path whether it is left out of the backup, and by what.
package struct IgnoreReport: Sendable, Encodable {
    package struct Entry: Sendable, Encodable {
        package var path: String
        package var pathHex: String?
        /// The source that the path lies in; `nil` if the rules were given without one.
        package var sourcePath: String?
        package var ignored: Bool
        /// A `SkipReason`; `nil` if it is saved.
        package var reason: String?
        /// `--exclude` or the file of the rule that decides, also of a `!` rule that includes the path again.
        package var ruleSource: String?
        package var ruleLine: Int?
        package var rule: String?
        package var explanation: String
    }

    package var paths: [Entry] = []

    private enum CodingKeys: String, CodingKey { case paths }

    /// - Parameter own: rules to ask instead of those that the agent was started with; they need no state.
    package init(
        _ arguments: [[UInt8]], state directory: StateDirectory, rules own: [ExcludePattern]?
    ) throws(SafeBackupError) {
        var ownRules: ExcludeRules?
        if let own { ownRules = try ExcludeRules(own) }
        if let ownRules, !directory.hasState {
            for argument in arguments {
                let path = try SourcePath.resolveArgument(argument, [((), Array("/".utf8))])[0].path
                paths.append(Self.entry(argument, nil, path, SourceLook(rules: ownRules), ownRules))
            }
            return
        }
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let sources = try reader.sources()
        let places = try OwnPlaces(directory, reader)
        var looks: [SourceID: (SourceLook, ExcludeRules)] = [:]
        for argument in arguments {
            for target in try SourcePath.targets(argument, in: sources) {
                let (look, rules): (SourceLook, ExcludeRules)
                if let known = looks[target.source.id] {
                    (look, rules) = known
                } else {
                    if let ownRules {
                        rules = ownRules
                    } else {
                        rules = try ExcludeRules(try reader.excludeRules(target.source.id))
                    }
                    look = SourceLook(target.source, rules: rules, own: places.all)
                    looks[target.source.id] = (look, rules)
                }
                paths.append(Self.entry(argument, target.source, target.path, look, rules))
            }
        }
    }

    /// 0: at least one path is left out, 1: none, as git check-ignore has it.
    package var exitCode: Int32 { paths.contains(where: \.ignored) ? 0 : 1 }

    private static func entry(
        _ argument: [UInt8], _ source: SourceRecord?, _ path: RelativePath, _ look: SourceLook, _ rules: ExcludeRules
    ) -> Entry {
        var entry = Entry(
            path: path.description, pathHex: ReportText.hex(ifNeeded: path),
            sourcePath: source.map { printable($0.path) },
            ignored: false, explanation: "It is saved: no rule matches")
        // Of a path that is not there, only a slash at its end tells that a directory is meant.
        let obstacle = look.obstacle(path, isDirectory: argument.last == UInt8(ascii: "/"))
        switch obstacle {
        case .skipped(let reason, let place):
            entry.ignored = true
            entry.reason = reason.rawValue
            entry.explanation =
                "It is not saved: \(place == path ? "it" : "its directory \(place)") \(reason.explanation)"
        case .rule(let finding):
            entry.ignored = true
            entry.reason = SkipReason.excluded.rawValue
            entry.set(finding.pattern)
            entry.explanation = "It is not saved: \(finding.explanation(for: path))"
        case nil:
            var isDirectory = argument.last == UInt8(ascii: "/")
            if case .present(let status) = look.find(path) { isDirectory = status.kind == .directory }
            guard let finding = rules.finding(for: path, isDirectory: isDirectory) else { break }
            entry.set(finding.pattern)
            entry.explanation = "It is saved: included again by \(finding.pattern.quoted)"
        }
        return entry
    }

    /// As git prints it: `SOURCE:LINE:PATTERN<TAB>PATH` for each path that is left out; what no rule leaves out has
    /// `safebackup::REASON` there. With `isVerbose` also for paths that a rule includes again, and each with its
    /// explanation; with `showsOthers` also for the rest, as `::<TAB>PATH`.
    package func lines(isVerbose: Bool, showsOthers: Bool) -> [String] {
        var lines: [String] = []
        for entry in paths {
            if let source = entry.ruleSource, let line = entry.ruleLine, let rule = entry.rule {
                guard entry.ignored || isVerbose || showsOthers else { continue }
                lines.append("\(entry.ignored || isVerbose ? "\(source):\(line):\(rule)" : "::")\t\(entry.path)")
            } else if let reason = entry.reason {
                lines.append("safebackup::\(reason)\t\(entry.path)")
            } else {
                guard showsOthers else { continue }
                lines.append("::\t\(entry.path)")
            }
            if isVerbose { lines.append("    \(entry.explanation)") }
        }
        return lines
    }
}

extension IgnoreReport.Entry {
    fileprivate mutating func set(_ pattern: ExcludePattern) {
        (ruleSource, ruleLine, rule) = (pattern.source, pattern.line, printable(pattern.bytes))
    }
}

extension ExcludePattern {
    /// `rule '*.tmp' (--exclude 2)`.
    var quoted: String { "rule '\(printable(bytes))' (\(place))" }
}

extension ExcludeRules.Finding {
    /// Goes on after "Not saved:".
    func explanation(for asked: RelativePath) -> String {
        let subject = path == asked ? "excluded" : "its directory \(path) is excluded"
        guard let withoutEffect else { return "\(subject) by \(pattern.quoted)" }
        return
            "\(subject) by \(pattern.quoted); \(withoutEffect.quoted) has no effect, because what lies in an excluded "
            + "directory cannot be included again: exclude '\(path)/*' instead of the directory, then include again"
    }
}

/// Where safebackup keeps what is its own: left out wherever it lies in a source.
struct OwnPlaces {
    var all: [(FilePath, SkipReason)]

    init(_ directory: StateDirectory, _ reader: StateReader) throws(SafeBackupError) {
        all = [(directory.path, .ownState)]
        for destination in try reader.destinations() where destination.kind == "local" {
            all.append((FilePath(bytes: destination.location), .ownDestination))
        }
    }
}
