package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

import Glibc

/// Moving what a deleted path left at its own place to the versions: for a destination that mirrors deletions.
///
/// A copy has one name at any time, its own or its version's: it is renamed, never over anything. So the disk alone tells
/// after a crash how far a retirement came, and `retire` may be asked again.
extension LocalDestination {
    /// Where a copy goes when it is retired.
    package func versionName(of copy: CopyRecord, at time: Timestamp) throws(SafeBackupError) -> RelativePath {
        try attachedRoot().layout.version(of: copy.location, at: time, id: String(copy.id, radix: 36) + "d")
    }

    /// See `retireNow`.
    package func retire(_ retirements: [Retirement]) async throws(SafeBackupError) -> [RetirementOutcome] {
        try await io.run { () throws(SafeBackupError) in try self.retireNow(retirements) }
    }

    /// Moves these copies to their version names where they still are what was stored. When it returns, what it tells
    /// survives a power cut; when it throws, ask again: nothing is lost by that. Not to be called while a group is in
    /// flight.
    package func retireNow(_ retirements: [Retirement]) throws(SafeBackupError) -> [RetirementOutcome] {
        let root = try attachedRoot()
        try root.check()
        do throws(Errno) {
            var flush = try GroupFlush(root)
            defer { flush.end() }
            var directories = DirectoryCache(root.base)
            var outcomes: [RetirementOutcome] = []
            for retirement in retirements {
                Pulse.current?.mark()
                outcomes.append(try retire(retirement, in: root, &directories, &flush))
                Faults.reach("retired")
            }
            try findMoved(retirements, &outcomes, in: root, &directories, &flush)
            try flush.flush()
            return outcomes
        } catch {
            throw Failure.destination(error, "move deleted files to the versions of", at: path)
        }
    }

    private func retire(
        _ retirement: Retirement, in root: AttachedRoot, _ directories: inout DirectoryCache, _ flush: inout GroupFlush
    ) throws(Errno) -> RetirementOutcome {
        let (copy, version) = (retirement.copy, retirement.version)
        guard !copy.location.isRoot, !copy.location.isWithin(Layout.area), version.isWithin(Layout.versions) else {
            return .notThere
        }
        do throws(Errno) {
            if let status = try Self.status(of: copy.location, in: root, &directories),
                FinalState(status).holds(copy, live: nil, root)
            {
                flush.willMake(version.parent)
                var made: [(RelativePath, Descriptor)] = []
                let versions = try directories.makingDirectory(version.parent) { made.append(($0, $1)) }
                for (directory, parent) in made { try flush.changed(parent, at: directory.parent) }
                let parent = try directories.directory(copy.location.parent)
                try parent.moveToFreeName(copy.location.leaf, to: versions, version.leaf)
                try flush.changed(versions, at: version.parent)
                try flush.changed(parent, at: copy.location.parent)
                return .moved(Displacement(from: copy.location, to: version, reason: .kept, status: status))
            }
            // Perhaps it was moved before a crash.
            guard let status = try Self.status(of: version, in: root, &directories),
                FinalState(status).holds(copy, live: nil, root)
            else { return .notThere }
            try flush.changed(directories.directory(version.parent), at: version.parent)
            do throws(Errno) {
                try flush.changed(directories.directory(copy.location.parent), at: copy.location.parent)
            } catch {
                // Its directory is gone too: nothing is left to flush there.
                if ![.noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels].contains(error) { throw error }
            }
            return .moved(Displacement(from: copy.location, to: version, reason: .kept, status: status))
        } catch {
            switch error {
            case .noSpace, .diskQuotaExceeded: return .postponed
            case .notPermitted, .permissionDenied, .resourceBusy, .fileExists, .notDirectory, .isDirectory,
                .noSuchFileOrDirectory, .tooManySymbolicLinkLevels, .improperLink, .fileNameTooLong, .tooManyLinks:
                return .refused(Failure.destination(error, "move to the versions", copy.location))
            default: throw error
            }
        }
    }

    /// Looks for copies that are not at their places among the versions of their paths: a state that was lost may have
    /// moved them, under names that no row tells. The inode, size and time of the row say which file it was; a file of
    /// somebody else has another inode. One pass over each directory, whatever the number of its versions.
    private func findMoved(
        _ retirements: [Retirement], _ outcomes: inout [RetirementOutcome], in root: AttachedRoot,
        _ directories: inout DirectoryCache, _ flush: inout GroupFlush
    ) throws(Errno) {
        guard root.type.hasStableInodes else { return }
        var wanted: [RelativePath: [UInt64: Int]] = [:]
        for (index, outcome) in outcomes.enumerated() {
            guard outcome == .notThere, let inode = retirements[index].copy.inode else { continue }
            // Another file at its place is what was stored after it.
            guard try Self.status(of: retirements[index].copy.location, in: root, &directories) == nil else { continue }
            wanted[retirements[index].version.parent, default: [:]][inode] = index
        }
        for (path, inodes) in wanted {
            let versions: Descriptor
            do throws(Errno) {
                versions = try directories.directory(path)
            } catch {
                if [.noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels].contains(error) { continue }
                throw error
            }
            let batch = DirectoryBatch()
            let listing = try versions.open([UInt8(ascii: ".")], O_RDONLY | O_DIRECTORY)
            while try batch.fill(from: listing) {
                Pulse.current?.mark()
                for entry in batch.entries {
                    guard let index = inodes[entry.inode] else { continue }
                    let (copy, name) = (retirements[index].copy, batch.name(of: entry))
                    guard Layout.isVersion(name, of: copy.location.leaf),
                        let status = try Self.status(of: path.appending(name), in: root, &directories),
                        FinalState(status).holds(copy, live: nil, root)
                    else { continue }
                    try flush.changed(versions, at: path)
                    outcomes[index] = .moved(
                        Displacement(from: copy.location, to: path.appending(name), reason: .kept, status: status))
                }
            }
        }
    }

    /// `nil`: nothing is under the name.
    private static func status(
        of path: RelativePath, in root: AttachedRoot, _ directories: inout DirectoryCache
    ) throws(Errno) -> FileStatus? {
        do {
            let parent = try directories.directory(path.parent)
            // Another name's entry may answer to this one.
            if root.layout.foldsCase, try !parent.lists(path.leaf) { return nil }
            return try parent.status(of: path.leaf)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return nil
            default: throw error
            }
        }
    }
}
