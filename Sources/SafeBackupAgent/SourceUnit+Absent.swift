import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// What is missing in directories that are too large to hold in memory.
extension SourceUnit {
    /// For a directory too large to compare in one piece: asks the source about each live name. All of them are gone if
    /// the directory is, which each delete confirms before a name ends.
    /// Returns how many are not there; `nil` if the directory cannot be asked now, and what it lacks is not known.
    /// - Throws: what is wrong with the root.
    func queueAbsent(from directory: RelativePath, in root: SourceRoot) async throws(SafeBackupError) -> Int? {
        let (id, destinations) = (id, destinations)
        var total = 0
        for destination in destinations {
            var after: [UInt8]?
            while true {
                let position = after
                let leaves = try await state.durably { (store) throws(SafeBackupError) in
                    try store.liveLeaves(
                        id, destination, in: directory, after: position, limit: 8_192)
                }
                guard let last = leaves.last else { break }
                after = last
                let found = try await io.run { () throws(SafeBackupError) in
                    let tree = try root.opened()
                    return Self.absent(leaves, from: directory, in: tree)
                }
                let absent: [[UInt8]]
                switch found {
                case .success(let leaves): absent = leaves
                case .failure(let error):
                    logger.error(
                        .directoryUnreadable, "A directory cannot be read; what it lacks is found by a later walk",
                        metadata: ["path": "\(directory)", "error": "\(error.explanation)"])
                    return nil
                }
                if absent.isEmpty { continue }
                total += absent.count
                let (now, limit) = (clock.now, settle(for: destination).limit)
                let deletes = absent.map {
                    QueuedChange(
                        path: directory.appending($0), action: .delete, notBefore: now, settleLimit: limit,
                        isDirectory: false, size: nil, hashFirst: false)
                }
                try await state.durably { (store) throws(SafeBackupError) in
                    _ = try store.enqueue([(destination, deletes)], source: id)
                }
            }
        }
        return total
    }

    /// Blocks.
    private static func absent(
        _ leaves: [[UInt8]], from directory: RelativePath, in tree: ConfinedDirectory
    ) -> Result<[[UInt8]], Errno> {
        let parent: Descriptor
        do throws(Errno) {
            parent = try tree.openDirectory(directory)
        } catch {
            switch error {
            // It went, or is none any more, since it was listed.
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return .success(leaves)
            default: return .failure(error)
            }
        }
        var absent: [[UInt8]] = []
        for leaf in leaves {
            do throws(Errno) {
                _ = try parent.status(of: leaf)
            } catch {
                if error != .noSuchFileOrDirectory { return .failure(error) }
                absent.append(leaf)
            }
        }
        return .success(absent)
    }
}
