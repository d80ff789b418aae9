package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What may end a name: an absence that lstat confirms after a successful listing of the parent, with the root's
/// identity rechecked in the same attempt. Everything else leaves the name alone. Blocks: runs on an I/O thread.
package struct AbsenceCheck {
    package enum Verdict: Sendable, Hashable {
        case absent
        /// Something is there (again).
        case present
        /// Not known: a listing failed, or the root is not the one we know.
        case unknown(SafeBackupError)
    }

    /// The leaves that are asked about, by directory: a listing keeps only these, whatever the directory's size.
    private let wanted: [RelativePath: Set<[UInt8]>]
    private var listings: [RelativePath: Result<Set<[UInt8]>, Errno>] = [:]

    private init(of paths: [RelativePath]) {
        var wanted: [RelativePath: Set<[UInt8]>] = [:]
        for path in paths {
            for part in path.ancestors + [path] { wanted[part.parent, default: []].insert(part.leaf) }
        }
        self.wanted = wanted
    }

    /// One verdict per path, in the same order.
    package static func verdicts(for paths: [RelativePath], below root: SourceRoot) -> [Verdict] {
        var check = AbsenceCheck(of: paths)
        do throws(SafeBackupError) {
            let tree = try root.opened(staysOnMount: true)
            let verdicts = paths.map { check.verdict(for: $0, in: tree) }
            // The root could have gone away while we looked: then every absence was its own.
            try root.verify()
            return verdicts
        } catch {
            return paths.map { _ in .unknown(error) }
        }
    }

    private mutating func verdict(for path: RelativePath, in tree: ConfinedDirectory) -> Verdict {
        // From the top: the first component that is missing, or no directory, decides.
        for ancestor in path.ancestors {
            switch look(at: ancestor, in: tree) {
            case .absent: return .absent
            case .unknown(let error): return .unknown(error)
            case .found(let kind): if kind != .directory { return .absent }
            }
        }
        switch look(at: path, in: tree) {
        case .absent: return .absent
        case .unknown(let error): return .unknown(error)
        // Such an entry is never saved: whatever was saved under its name is there no more.
        case .found(let kind): return kind.isSpecial ? .absent : .present
        }
    }

    private enum Look {
        case absent
        case found(EntryKind)
        case unknown(SafeBackupError)
    }

    private mutating func look(at path: RelativePath, in tree: ConfinedDirectory) -> Look {
        do throws(Errno) {
            return .found(try tree.status(of: path).kind)
        } catch {
            guard error == .noSuchFileOrDirectory else { return .unknown(Self.unclear(path, error)) }
        }
        switch listing(of: path.parent, in: tree) {
        case .success(let leaves):
            return leaves.contains(path.leaf) ? .unknown(Self.unclear(path, .noSuchFileOrDirectory)) : .absent
        case .failure(let error):
            return .unknown(Self.unclear(path.parent, error))
        }
    }

    private mutating func listing(
        of directory: RelativePath, in tree: ConfinedDirectory
    ) -> Result<Set<[UInt8]>, Errno> {
        if let known = listings[directory] { return known }
        let result: Result<Set<[UInt8]>, Errno>
        do throws(Errno) {
            var leaves: Set<[UInt8]> = []
            let wanted = wanted[directory] ?? []
            try tree.openDirectory(directory).forEachEntry { leaf, _ in
                if wanted.contains(leaf) { leaves.insert(leaf) }
            }
            result = .success(leaves)
        } catch {
            result = .failure(error)
        }
        listings[directory] = result
        return result
    }

    private static func unclear(_ path: RelativePath, _ error: Errno) -> SafeBackupError {
        if error == .improperLink { return .otherFileSystem(path) }
        return SafeBackupError(
            .sourceFailed, "Whether \(path) still exists at the source is not clear: \(error.explanation)",
            disposition: .transient, systemError: error.rawValue)
    }
}
