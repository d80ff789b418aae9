/// The state's number of a source.
package struct SourceID: RawRepresentable, Hashable, Sendable {
    package let rawValue: Int64
    package init(rawValue: Int64) { self.rawValue = rawValue }
}

/// The state's number of a destination.
package struct DestinationID: RawRepresentable, Hashable, Sendable {
    package let rawValue: Int64
    package init(rawValue: Int64) { self.rawValue = rawValue }
}

/// What a job was queued for. Advice only: what the drain finds at the source decides.
package enum JobAction: String, Sendable, Hashable {
    case store
    case delete
    case move
}

/// A live name, as the catalogue has it: what the source held at a path when we last saved it.
package struct NameRecord: Sendable, Hashable {
    package var id: Int64
    /// `nil` for a directory.
    package var copy: Int64?
    package var kind: EntryKind
    package var fingerprint: Fingerprint
    package var metadata: FileMetadata
    package var linkTarget: [UInt8]?
    /// The copy mixes several states of the file (see DESIGN: torn read).
    package var isFuzzy: Bool
    /// Read within 2 s of its mtime or ctime: the next reconcile compares digests.
    package var isRacy: Bool

    package init(
        id: Int64, copy: Int64?, kind: EntryKind, fingerprint: Fingerprint, metadata: FileMetadata,
        linkTarget: [UInt8]? = nil, isFuzzy: Bool = false, isRacy: Bool = false
    ) {
        self.id = id
        self.copy = copy
        self.kind = kind
        self.fingerprint = fingerprint
        self.metadata = metadata
        self.linkTarget = linkTarget
        self.isFuzzy = isFuzzy
        self.isRacy = isRacy
    }
}

/// One stored object, as the catalogue has it.
package struct CopyRecord: Sendable, Hashable {
    package var id: Int64
    /// Below the destination's root.
    package var location: RelativePath
    package var kind: EntryKind
    /// Of the stored bytes; a symbolic link's is of its target. `nil` for a foreign copy that was never read.
    package var digest: Digest?
    package var size: Int64
    package var storedAt: Timestamp
    /// The stored file's own inode; `nil` after a recovery, until it has been hashed again.
    package var inode: UInt64?
    /// The stored file's own mtime.
    package var mtime: FileTime?
    package var isFuzzy: Bool
    package var isDamaged: Bool

    package init(
        id: Int64, location: RelativePath, kind: EntryKind, digest: Digest?, size: Int64, storedAt: Timestamp,
        inode: UInt64?, mtime: FileTime?, isFuzzy: Bool = false, isDamaged: Bool = false
    ) {
        self.id = id
        self.location = location
        self.kind = kind
        self.digest = digest
        self.size = size
        self.storedAt = storedAt
        self.inode = inode
        self.mtime = mtime
        self.isFuzzy = isFuzzy
        self.isDamaged = isDamaged
    }
}

/// The stored copy that a path's content is already: the source's file was found to have lain under another path, and
/// to be there no more.
package struct MoveOrigin: Sendable, Hashable {
    /// The path that the file had.
    package var path: RelativePath
    /// Its name there: live, or ended a short time ago.
    package var name: NameRecord
    /// Lies at that path's own location, or at a version name if another file was stored at that path since.
    package var copy: CopyRecord
    /// Inode, birth time, size and mtime say that it is the same file, unchanged; else the digest must say it.
    package var isProven: Bool

    package init(path: RelativePath, name: NameRecord, copy: CopyRecord, isProven: Bool) {
        self.path = path
        self.name = name
        self.copy = copy
        self.isProven = isProven
    }
}

/// A pending job that is due, with what the catalogue knows about its path.
package struct DueJob: Sendable, Hashable {
    package var source: SourceID
    package var path: RelativePath
    /// The final name of the path's copy, below the destination's root.
    package var location: RelativePath
    package var sequence: Int64
    package var generation: Int64
    package var action: JobAction
    /// Failures so far.
    package var attempts: Int
    /// When the oldest change that is not saved yet was seen; `nil`: long ago.
    package var firstSeenAt: Timestamp?
    /// Compare the digest with the copy's before anything is staged.
    package var hashFirst: Bool
    package var live: NameRecord?
    /// The copy that the catalogue has at `location`: the live name's, or a tombstone's.
    package var occupant: CopyRecord?
    /// Versions already kept for this path (without foreign, in-the-way and last good copies).
    package var keptVersions: Int
    /// When the newest of them was moved to its version name.
    package var newestVersionAt: Timestamp?
    /// What can be moved here instead of storing it again.
    package var origin: MoveOrigin?

    package init(
        source: SourceID, path: RelativePath, location: RelativePath, sequence: Int64, generation: Int64,
        action: JobAction, attempts: Int = 0, firstSeenAt: Timestamp? = nil, hashFirst: Bool = false,
        live: NameRecord? = nil, occupant: CopyRecord? = nil, keptVersions: Int = 0,
        newestVersionAt: Timestamp? = nil, origin: MoveOrigin? = nil
    ) {
        self.source = source
        self.path = path
        self.location = location
        self.sequence = sequence
        self.generation = generation
        self.action = action
        self.attempts = attempts
        self.firstSeenAt = firstSeenAt
        self.hashFirst = hashFirst
        self.live = live
        self.occupant = occupant
        self.keptVersions = keptVersions
        self.newestVersionAt = newestVersionAt
        self.origin = origin
    }
}

/// Why an older copy keeps existing under `versions/`.
package enum VersionReason: String, Sendable, Hashable {
    /// By the version policy.
    case kept
    /// It was in the destination before us, or somebody changed it there: a file that is not the one we stored, by its
    /// inode, has not the content either. Never a candidate for cleaning, and never a state of the path.
    case foreign
    /// It stood where a live path needs another kind of entry.
    case inTheWay
    /// The newest copy that is neither fuzzy nor damaged, replaced by one that is.
    case lastGood
}

/// What was under the final name when the job was leased; recovery compares with it.
package enum FinalState: Sendable, Hashable {
    case absent
    case present(kind: EntryKind, inode: UInt64, size: Int64, mtime: FileTime)
}

/// What a lease commits to before anything is written, so that recovery can tell how far it came.
package struct LeasePlan: Sendable, Hashable {
    /// The unfinished copy's name in the destination's staging area.
    package var stageName: String
    package var final: FinalState
    /// Where what is under the final name goes, if it is replaced; `nil`: it is not kept.
    package var version: RelativePath?
    package var versionReason: VersionReason?
    /// An ancestor of the location that is not a directory, and where it goes.
    package var obstruction: RelativePath?
    package var obstructionVersion: RelativePath?

    package init(
        stageName: String, final: FinalState, version: RelativePath? = nil, versionReason: VersionReason? = nil,
        obstruction: RelativePath? = nil, obstructionVersion: RelativePath? = nil
    ) {
        self.stageName = stageName
        self.final = final
        self.version = version
        self.versionReason = versionReason
        self.obstruction = obstruction
        self.obstructionVersion = obstructionVersion
    }
}

/// A job under a lease.
package struct LeasedJob: Sendable, Hashable {
    package var job: DueJob
    package var plan: LeasePlan

    package init(job: DueJob, plan: LeasePlan) {
        self.job = job
        self.plan = plan
    }
}

/// Something moved to `versions/`: a file, a link, or a directory with all below it.
package struct Displacement: Sendable, Hashable {
    package var from: RelativePath
    package var to: RelativePath
    package var reason: VersionReason
    package var kind: EntryKind
    package var inode: UInt64
    package var size: Int64
    package var mtime: FileTime
    /// Of what was moved, where nobody had compared it with the catalogue before; `nil` where it was compared, or the
    /// file system keeps no inodes that tell one file from another.
    package var digest: Digest?

    package init(
        from: RelativePath, to: RelativePath, reason: VersionReason, kind: EntryKind, inode: UInt64, size: Int64,
        mtime: FileTime, digest: Digest? = nil
    ) {
        self.from = from
        self.to = to
        self.reason = reason
        self.kind = kind
        self.inode = inode
        self.size = size
        self.mtime = mtime
        self.digest = digest
    }
}

/// What a finished job left under the final name.
package struct StoredEntry: Sendable, Hashable {
    package enum Content: Sendable, Hashable {
        /// A new copy is under the final name; the occupant was displaced, or is gone.
        case copied(StoredCopy)
        /// The occupant is still the copy; only metadata, or nothing, changed.
        case kept
        /// The copy of the job's origin is under the final name now, and no more at the origin's.
        case moved
        /// A directory.
        case directory
    }

    package var kind: EntryKind
    package var content: Content
    /// The source's, taken before and after reading.
    package var fingerprint: Fingerprint
    package var metadata: FileMetadata
    package var linkTarget: [UInt8]?
    package var isFuzzy: Bool
    package var isRacy: Bool
    /// Of the source's inode, where its file system keeps one.
    package var birthTime: FileTime?
    /// The source's file has other names.
    package var hasOtherLinks: Bool
    /// In the order they were done; the occupant's own, if it was kept, is the one whose `from` is the location.
    package var displaced: [Displacement]

    package init(
        kind: EntryKind, content: Content, fingerprint: Fingerprint, metadata: FileMetadata,
        linkTarget: [UInt8]? = nil, isFuzzy: Bool = false, isRacy: Bool = false, birthTime: FileTime? = nil,
        hasOtherLinks: Bool = false, displaced: [Displacement] = []
    ) {
        self.kind = kind
        self.content = content
        self.fingerprint = fingerprint
        self.metadata = metadata
        self.linkTarget = linkTarget
        self.isFuzzy = isFuzzy
        self.isRacy = isRacy
        self.birthTime = birthTime
        self.hasOtherLinks = hasOtherLinks
        self.displaced = displaced
    }
}

package struct StoredCopy: Sendable, Hashable {
    package var digest: Digest
    package var size: Int64
    /// The stored file's own; `nil` when recovery found it: then it is compared by digest before it is trusted.
    package var inode: UInt64?
    package var mtime: FileTime?
    /// It was in the destination before us and is identical to the source.
    package var isAdopted: Bool

    package init(digest: Digest, size: Int64, inode: UInt64?, mtime: FileTime?, isAdopted: Bool = false) {
        self.digest = digest
        self.size = size
        self.inode = inode
        self.mtime = mtime
        self.isAdopted = isAdopted
    }
}

/// How a job ended.
package enum JobOutcome: Sendable, Hashable {
    /// Durable under its final name.
    case stored(StoredEntry)
    /// Nothing is at the source's path. The name ends only when the agent has confirmed that.
    case gone
    case failed(SafeBackupError)
}

/// What recovery found of a lease. The job is pending again in each case.
package struct RecoveredLease: Sendable, Hashable {
    package enum Finding: Sendable, Hashable {
        /// The final name holds what it held before the lease, or nothing as before.
        case unchanged
        /// The final name holds a complete file or link that the lease put there.
        case replaced(StoredCopy, kind: EntryKind, linkTarget: [UInt8]?)
        /// The final name holds the copy of the job's origin, which the origin's name holds no more.
        case moved
        /// The final name is a directory, or nothing, and was not before.
        case cleared
    }

    package var lease: LeasedJob
    package var finding: Finding
    package var displaced: [Displacement]

    package init(lease: LeasedJob, finding: Finding, displaced: [Displacement] = []) {
        self.lease = lease
        self.finding = finding
        self.displaced = displaced
    }
}
