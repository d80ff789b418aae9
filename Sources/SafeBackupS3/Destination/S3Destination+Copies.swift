package import SafeBackupCore
package import SafeBackupSystem

/// Looking at, removing and retiring what is stored.
extension S3Destination {
    /// As many keys as one request takes.
    private static let batch = 1_000

    func delete(_ doomed: [ObjectKey]) async throws(SafeBackupError) {
        var rest = doomed[...]
        while !rest.isEmpty {
            for result in try await store.delete(Array(rest.prefix(Self.batch))) {
                if let error = result { throw error }
            }
            rest = rest.dropFirst(Self.batch)
        }
    }

    package func remove(tombstones: [CopyRecord]) async throws(SafeBackupError) {
        let looks = try await look(tombstones.map { Expected($0) })
        var doomed: [ObjectKey] = []
        for (copy, look) in zip(tombstones, looks) {
            if case .same = look { doomed.append(try keys.key(copy.location)) }
        }
        try await delete(doomed)
    }

    /// Empty directories have objects of their own; where the keys may not remove, they stay.
    package func removeEmpty(_ directories: [RelativePath]) async throws(SafeBackupError) {
        if directories.isEmpty || known.refusesRemovals { return }
        var doomed: [ObjectKey] = []
        for directory in directories { doomed.append(try keys.key(directory, isDirectory: true)) }
        do throws(SafeBackupError) {
            try await delete(doomed)
        } catch {
            guard error.isRefusal else { throw error }
            learn { $0.refusesRemovals = true }
        }
    }

    package var versionInterval: Duration { settings.versionPolicy.interval }

    package func versionName(of copy: CopyRecord, at time: Timestamp) throws(SafeBackupError) -> RelativePath {
        keys.version(of: copy.location, at: time, id: String(copy.id, radix: 36) + "d")
    }

    // MARK: - Looking

    /// What an object should be.
    struct Expected: Sendable {
        var location: RelativePath
        var kind: EntryKind
        var size: Int64
        var mtimes: [FileTime]
        var digest: Digest?

        init(_ copy: CopyRecord) {
            (location, kind, size, digest) = (copy.location, copy.kind, copy.size, copy.digest)
            mtimes = copy.mtime.map { [$0] } ?? []
        }

        init(_ copy: ExpectedCopy) {
            (location, kind, size, mtimes) = (copy.location, copy.kind, copy.size, copy.mtimes)
        }

        /// By digest, where the object and the catalogue both have one; else by the time, which a server-side copy that
        /// was refused may have left as it was.
        func isSame(_ head: ObjectHead) -> Bool {
            let own = CopyMetadata(head.metadata, modified: nil)
            guard own.kind == kind, head.size == size else { return false }
            if let digest, let found = own.digest { return digest == found }
            return mtimes.isEmpty || mtimes.contains(own.mtime)
        }
    }

    package func differing(_ copies: [ExpectedCopy]) async throws(SafeBackupError) -> [Int] {
        let looks = try await look(at: copies)
        return looks.indices.filter { index in
            if case .same = looks[index] { return false }
            return true
        }
    }

    package func look(at copies: [ExpectedCopy]) async throws(SafeBackupError) -> [CopyLook] {
        try await look(copies.map { Expected($0) })
    }

    private func look(_ copies: [Expected]) async throws(SafeBackupError) -> [CopyLook] {
        let looks = await atOnce(copies, limit: settings.filesAtOnce, ends: \.isFailure) { copy in
            await Result.of { () async throws(SafeBackupError) in try await self.look(copy) }
        }
        return try looks.successes()
    }

    private func look(_ copy: Expected) async throws(SafeBackupError) -> CopyLook {
        // Only an empty one has an object, which it may keep when it is empty no more.
        if copy.kind == .directory { return .same(frees: 0) }
        guard let head = try await store.head(try keys.key(copy.location), version: nil) else { return .missing }
        return copy.isSame(head) ? .same(frees: head.size) : .other
    }

    // MARK: - Retiring

    package func retire(_ retirements: [Retirement]) async throws(SafeBackupError) -> [RetirementOutcome] {
        var outcomes: [RetirementOutcome] = []
        for retirement in retirements {
            Pulse.current?.mark()
            if isInterrupted { throw ReadFailure.interrupted(retirement.copy.location) }
            outcomes.append(try await retire(retirement))
        }
        return outcomes
    }

    private func retire(_ retirement: Retirement) async throws(SafeBackupError) -> RetirementOutcome {
        let (copy, version) = (retirement.copy, retirement.version)
        guard !copy.location.isRoot, !KeySpace.isReserved(copy.location), version.isWithin(KeySpace.versions) else {
            return .notThere
        }
        var expected = Expected(copy)
        let moved = RetirementOutcome.moved(
            Displacement(
                from: copy.location, to: version, reason: .kept, kind: copy.kind, inode: Self.identity(copy.digest),
                size: copy.size, mtime: copy.mtime ?? FileTime(nanoseconds: 0)))
        do throws(SafeBackupError) {
            if case .same = try await look(expected) {
                let from = try keys.key(copy.location)
                _ = try await store.copy(from, version: nil, size: copy.size, to: try keys.key(version), nil)
                Faults.reach("retired")
                try await delete([from])
                return moved
            }
            // Perhaps it was moved before a crash.
            expected.location = version
            if case .same = try await look(expected) { return moved }
            return .notThere
        } catch {
            if error.isRefusal || error.disposition == .permanent { return .refused(error) }
            throw error
        }
    }
}
