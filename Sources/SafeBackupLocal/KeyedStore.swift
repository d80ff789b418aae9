package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage
import Glibc

/// A file, and the name that its copy gets.
package struct KeyedFile: Sendable, Hashable {
    /// Links on the way to it are followed, and so is a link that it is itself.
    package var file: FilePath
    /// Below the store's directory.
    package var key: RelativePath

    package init(_ file: FilePath, as key: RelativePath) {
        self.file = file
        self.key = key
    }
}

/// Copies files below a directory under names that the callers give, by the same groups as a `LocalDestination`:
/// without sentinel, catalogue and versions.
///
/// ```
/// ROOT/<key>                           the copies
/// ROOT/.safebackup-session/staging/    unfinished ones, removed at the next open
/// ```
///
/// After a crash at any moment each key has its old copy or the new one, whole. Blocks: for threads of their own. Two
/// groups may be stored at the same time if no key is in both.
package final class KeyedStore: Sendable {
    /// Where a file lies when all links are followed, and its size.
    package struct Located: Sendable {
        fileprivate var directory: FilePath
        fileprivate var leaf: [UInt8]
        /// Bytes that a copy takes.
        package var size: ByteCount
        fileprivate var key: RelativePath
    }

    package let path: FilePath
    private let root: AttachedRoot
    /// What groups in flight at the same time share of the room.
    private let share = RoomShare()
    private let sequence = Locked<Int64>(0)
    private let clock = WallClock.system

    /// Opens the directory, which must be there, and takes it for this store alone until the object goes. Throws
    /// `destinationTaken` if another store or an agent has it, `destinationMissing`, `destinationForbidden`,
    /// `destinationReadOnly`, `destinationFull` or `destinationFailed`.
    package init(opening path: FilePath) throws(SafeBackupError) {
        self.path = path
        root = try AttachedRoot(keyed: path)
    }

    /// Makes the directory if its parent is there; whether it was made. Durable when it returns.
    package static func makeDirectory(_ path: FilePath) throws(SafeBackupError) -> Bool {
        do throws(Errno) {
            do {
                try systemCall("mkdir") { path.withPlatformString { mkdir($0, 0o700) } }
            } catch {
                if error == .fileExists { return false }
                throw error
            }
            let parent = path.removingLastComponent()
            try Descriptor.open(parent.isEmpty ? "." : parent, O_RDONLY | O_DIRECTORY).sync()
            return true
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory {
                throw SafeBackupError(
                    .destinationMissing,
                    "\(printable(path.bytes)) cannot be made, because the directory that it would lie in is not there; "
                        + "make that, or mount its disk",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            }
            throw Failure.destination(error, "make", at: path)
        }
    }

    /// Takes back what `makeDirectory` made.
    package static func removeIfEmpty(_ path: FilePath) {
        // Ignored if it fails: an empty directory is no harm.
        _ = path.withPlatformString { rmdir($0) }
    }

    /// A path that holds wherever the process goes.
    package static func absolute(_ path: FilePath) throws(SafeBackupError) -> FilePath {
        do {
            return try GivenFile.resolve(path)
        } catch {
            throw Failure.destination(error, "find", at: path)
        }
    }

    /// Proves that the directory is still at its path, and still nobody else's. Throws `destinationMissing` and
    /// `destinationTaken`.
    package func check() throws(SafeBackupError) { try root.check() }

    /// Space on the file system, asked now.
    package func statistics() throws(SafeBackupError) -> VolumeStatistics {
        do {
            return try VolumeStatistics(root.base.root)
        } catch {
            throw Failure.destination(error, "look at", at: path)
        }
    }

    /// Finds a file. Throws `sourceGone`, `specialFile`, `unreadable` and `sourceFailed`.
    package func locate(_ file: KeyedFile) throws(SafeBackupError) -> Located {
        do throws(Errno) {
            let resolved = try GivenFile.resolve(file.file)
            let status = try Descriptor.status(of: resolved)
            // A sparse file's copy is sparse; but what was written just now may have no blocks yet.
            let held = status.size < 1 << 20 ? status.size : min(status.size, max(status.allocated, 0))
            guard status.kind == .file, let name = resolved.lastComponent else { throw .isDirectory }
            return Located(
                directory: resolved.removingLastComponent(), leaf: FilePath(root: nil, [name]).bytes,
                size: ByteCount(held), key: file.key)
        } catch {
            throw GivenFile.failure(file.file, error)
        }
    }

    /// Stores a group; one result for each. What is called stored survives a power cut. What failed left its key as it
    /// was, or, if the failure was in making it durable, perhaps with the new copy. A key may be in the group once.
    package func storeNow(_ files: [Located]) -> [Result<StoredCopy, SafeBackupError>] {
        var planner: Planner
        do throws(SafeBackupError) {
            try root.check()
            do throws(Errno) {
                planner = try Planner(root, policy: VersionPolicy(), share: share, tornLimit: .max, now: clock.now)
            } catch {
                throw Failure.destination(error, "look at", at: path)
            }
        } catch {
            return files.map { _ in .failure(error) }
        }
        var sources: [SourceID: ConfinedDirectory] = [:]
        var numbers: [FilePath: SourceID] = [:]
        var results: [Result<StoredCopy, SafeBackupError>?] = []
        var group: [LeasedJob] = []
        for file in files {
            do throws(SafeBackupError) {
                let source = try open(file.directory, &numbers, &sources)
                let job = DueJob(
                    source: source, path: RelativePath(unchecked: file.leaf), location: file.key, sequence: next(),
                    generation: 1, action: .store)
                group.append(LeasedJob(job: job, plan: try planner.plan(job).get()))
                results.append(nil)
            } catch {
                results.append(.failure(error))
            }
        }
        var outcomes = store(group, sources).makeIterator()
        return results.map { result in
            if let result { return result }
            return outcomes.next().map(Self.result) ?? .failure(Self.untold)
        }
    }

    private func next() -> Int64 {
        sequence.withLock { sequence in
            sequence += 1
            return sequence
        }
    }

    private func open(
        _ directory: FilePath, _ numbers: inout [FilePath: SourceID], _ sources: inout [SourceID: ConfinedDirectory]
    ) throws(SafeBackupError) -> SourceID {
        if let known = numbers[directory] { return known }
        do {
            // To pass it is enough; it need not be listed.
            let source = ConfinedDirectory(root: try Descriptor.openPath(directory))
            let number = SourceID(rawValue: Int64(sources.count))
            (numbers[directory], sources[number]) = (number, source)
            return number
        } catch {
            throw GivenFile.failure(directory, error)
        }
    }

    private func store(_ group: [LeasedJob], _ sources: [SourceID: ConfinedDirectory]) -> [JobOutcome] {
        if group.isEmpty { return [] }
        do throws(Errno) {
            var store = try GroupStore(in: root, from: sources, share: share, tornLimit: .max, clock: clock)
            return store.run(group)
        } catch {
            let failure = Failure.destination(error, "open", at: path)
            return group.map { _ in .failed(failure) }
        }
    }

    /// For what the rules of a group exclude: nothing is called saved that nobody said is, and the caller's process lives.
    private static var untold: SafeBackupError {
        SafeBackupError(
            .destinationFailed, "It is not known whether the file was stored; save it again", disposition: .transient)
    }

    private static func result(_ outcome: JobOutcome) -> Result<StoredCopy, SafeBackupError> {
        switch outcome {
        case .stored(let entry):
            // What has no live name in a catalogue is copied, always.
            guard case .copied(let copy) = entry.content else { return .failure(untold) }
            return .success(copy)
        case .gone:
            return .failure(
                SafeBackupError(
                    .sourceGone, "The file went before it was copied; save it again if it comes back",
                    disposition: .sourceGone))
        case .failed(let error): return .failure(error)
        }
    }
}
