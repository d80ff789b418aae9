import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch

/// Whether a source has lost everything that its rules let be saved, although names of it live on.
extension SourceUnit {
    /// With exclude rules the catalogue alone cannot tell that a source was emptied: what was saved and is excluded now keeps
    /// its name. Looks until a file is found that would be saved. A source that is held, or that cannot be read, counts as
    /// emptied, because nobody knows.
    func isEmptiedBesidesExcluded() async -> Bool {
        if settings.excludes.isEmpty { return false }
        guard let root = knownRoot else { return true }
        let (filter, stop) = (filter(for: root), stop)
        do throws(SafeBackupError) {
            return try await io.run { () throws(SafeBackupError) in
                var scanner = Scanner(root: try root.opened(), filter: filter)
                while !stop.isRequested, let listed = try scanner.next(entryLimit: 256) {
                    Pulse.current?.mark()
                    if listed.contains(where: { $0.entries.contains(where: \.isSavedFile) }) { return false }
                }
                return true
            }
        } catch {
            return true  // ignored because the walk and the watch tell what is wrong with the source
        }
    }
}

extension ListedEntry {
    fileprivate var isSavedFile: Bool {
        if case .status(let status) = finding { return status.kind != .directory }
        return false
    }
}

extension DestinationUnit {
    /// The sources whose deleted files' copies stay for now, besides those that the state knows as held or emptied.
    func emptiedSources(of asked: some Sequence<SourceID> & Sendable) async -> Set<SourceID> {
        var emptied: Set<SourceID> = []
        for source in asked {
            if let unit = sources[source], await unit.isEmptiedBesidesExcluded() { emptied.insert(source) }
        }
        return emptied
    }
}
