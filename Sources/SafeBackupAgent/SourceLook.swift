import Glibc
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// A look at a source as it is now, for a verb that explains; read only, and it opens directories only.
struct SourceLook {
    /// What is at a path.
    enum Finding: Sendable {
        case present(FileStatus)
        case absent
        /// Nobody knows: the source is not there, or may not be read.
        case unclear(String)
    }

    /// Why a path is left out of the backup.
    enum Obstacle: Sendable {
        case rule(ExcludeRules.Finding)
        /// Of the path itself or of one of its directories.
        case skipped(SkipReason, at: RelativePath)
    }

    private let rules: ExcludeRules
    private let filter: TreeFilter?
    private let tree: ConfinedDirectory?
    /// Why the source cannot be looked at; `nil` if it can.
    let failure: SafeBackupError?

    /// - Parameter own: the state directory and the destinations, which are left out where they lie in the source.
    init(_ source: SourceRecord, rules: ExcludeRules, own: [(FilePath, SkipReason)]) {
        self.rules = rules
        do throws(SafeBackupError) {
            let root = try SourceRoot(path: FilePath(bytes: source.path), known: source.identity)
            tree = try root.opened()
            filter = TreeFilter(root: root.status, rules: rules, own: TreeFilter.ownPlaces(own))
            failure = nil
        } catch {
            (tree, filter) = (nil, nil)
            failure = error
        }
    }

    /// Rules alone, of a source that is not known.
    init(rules: ExcludeRules) {
        self.rules = rules
        (tree, filter, failure) = (nil, nil, nil)
    }

    /// What is at the path, never through a link.
    func find(_ path: RelativePath) -> Finding {
        guard let tree else { return .unclear(failure?.message ?? "The source is not known") }
        do throws(Errno) {
            return .present(try tree.status(of: path))
        } catch {
            switch error {
            // A directory of the path is a file or a link: nothing of the source is there.
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return .absent
            default: return .unclear("\(path) cannot be looked at: \(error.explanation)")
            }
        }
    }

    /// The directory of the path that is a symbolic link, if one is: what it leads to is no part of the source.
    func link(above path: RelativePath) -> RelativePath? {
        path.ancestors.first { ancestor in
            if case .present(let status) = find(ancestor) { return status.kind == .symlink }
            return false
        }
    }

    /// Why the path is left out; `nil`: nothing is against it. Also of a path that is not there.
    func obstacle(_ path: RelativePath, isDirectory: Bool) -> Obstacle? {
        if path.isRoot { return nil }
        var directories = path.ancestors
        directories.append(path)
        for part in directories {
            let isLast = part == path
            var isDirectory = isLast ? isDirectory : true
            var status: FileStatus?
            if case .present(let found) = find(part) {
                status = found
                isDirectory = found.kind == .directory
            }
            if part.parent.isRoot && part.leaf == Array(".safebackup".utf8) { return .skipped(.reservedName, at: part) }
            if let finding = rules.finding(for: part, isDirectory: isDirectory), finding.isExcluded {
                // Asked of the whole path: a `!` for it that has no effect is worth telling.
                return .rule(rules.finding(for: path, isDirectory: isLast ? isDirectory : false) ?? finding)
            }
            if let status, let reason = filter?.skipReason(of: status) { return .skipped(reason, at: part) }
        }
        return nil
    }
}
