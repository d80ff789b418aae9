package import SafeBackupCore
package import SystemPackage

/// How a cleaner works.
package struct CleaningConfiguration: Sendable {
    /// Which time of a file is its age.
    package enum Order: String, Sendable, Hashable {
        /// When its content last changed, as the file says: a copy keeps the time of what it was copied from.
        case modified
        /// When it came into this directory's file system: its birth time, or where there is none the last change of
        /// the file's own entry.
        case stored

        func time(of status: FileStatus) -> Int64 {
            switch self {
            case .modified: status.fingerprint.mtime.nanoseconds
            case .stored: (status.birthTime ?? status.fingerprint.ctime).nanoseconds
            }
        }
    }

    package var limits: CleaningLimits
    package var order = Order.modified
    /// Directories that the cleaning emptied go too.
    package var removesEmptyDirectories = false
    /// Remove what may be removed also when that is not enough to keep to the limits; else nothing goes then.
    package var removesWhatItCan = false
    /// Directories that are not cleaned, and neither is anything that holds one of them.
    package var protected: [ProtectedDirectory] = []
    /// Threads that look at files and remove them.
    package var concurrency = 2
    /// The space on the disk, asked before, between and after; `nil` is returned where it cannot be told. By default the
    /// file system of the directory is asked.
    package var usage: (@Sendable () throws(SafeBackupError) -> DiskUsage?)?
    /// Told from several threads, one at a time. It blocks the cleaning.
    package var onEvent: (@Sendable (CleaningEvent) -> Void)?

    package init(_ limits: CleaningLimits) { self.limits = limits }
}

/// A directory whose files are no backups.
package struct ProtectedDirectory: Sendable, Hashable {
    package var path: FilePath
    /// What it is, for the message: "a source of the agent".
    package var meaning: String
    /// What lies in it is protected too.
    package var coversInside: Bool

    package init(_ path: FilePath, _ meaning: String, coversInside: Bool = true) {
        self.path = path
        self.meaning = meaning
        self.coversInside = coversInside
    }
}

/// What a cleaning tells while it goes on.
package enum CleaningEvent: Sendable {
    case started
    case scanned(CleaningPlan)
    /// What follows is removed.
    case deleting(CleaningPlan)
    case deletedFile(RelativePath, bytes: Int64)
    case deletedDirectory(RelativePath)
    case failed(CleaningProblem)
    case completed(CleaningReport)
}

/// Something that could not be looked at or removed; the cleaning went on.
package struct CleaningProblem: Sendable, Hashable {
    package var path: RelativePath
    /// A sentence without a final period.
    package var reason: String
}

/// What a walk before a cleaning found.
package struct CleaningScan: Sendable, Hashable {
    /// Names of regular files and symbolic links.
    package var files = 0
    package var directories = 0
    /// What the regular files hold in blocks, each inode once.
    package var bytes: Int64 = 0
    /// Of these names, such as have another one outside of the directory: removing them would free nothing.
    package var linkedElsewhere = 0
    /// Inodes with several names of which some were not counted, because there are too many such inodes: they stay.
    package var hasUncountedLinks = false
    /// Names in directories that this user may not change.
    package var protected = 0
    /// Directories on which something is mounted.
    package var mounts = 0
    package var duration = Duration.zero
}

/// What a cleaning would remove; made before anything goes.
package struct CleaningPlan: Sendable {
    /// `nil`: the limits are kept, nothing is to be done.
    package var need: CleaningNeed?
    package var usage: DiskUsage?
    package var scan: CleaningScan
    /// The bytes that will go, about as many as are needed; all that can go if that is not enough.
    package var bytes: Int64 = 0
    /// Inodes that will go, about.
    package var files = 0
    /// Up to this age files go; `nil` if none does.
    package var newest: FileTime?
    package var isEnough = true
    package var problems = CleaningProblems()
    var cut: AgeCut?
    var floor: AgeKey?
    var census = LinkCensus()
    var filter: InodeFilter?
}

/// The first problems, and how many there were.
package struct CleaningProblems: Sendable, Hashable {
    package static let limit = 20
    package private(set) var first: [CleaningProblem] = []
    package private(set) var count = 0

    mutating func add(_ problem: CleaningProblem) {
        count += 1
        if first.count < Self.limit { first.append(problem) }
    }

    mutating func add(_ others: CleaningProblems) {
        count += others.count
        first += others.first.prefix(Self.limit - first.count)
    }
}

/// What a cleaning did.
package struct CleaningReport: Sendable {
    /// `nil`: the limits were kept, nothing was done.
    package var need: CleaningNeed?
    package var before: DiskUsage?
    package var after: DiskUsage?
    /// Of the first walk.
    package var scan: CleaningScan
    /// Names of files and links that went.
    package var files = 0
    package var directories = 0
    /// What went, in blocks × 512, of inodes whose last name went.
    package var freed: Int64 = 0
    /// The newest age of what was to go.
    package var newest: FileTime?
    /// All walks that looked for what to remove.
    package var scanDuration = Duration.zero
    package var deleteDuration = Duration.zero
    /// How often it was planned: again when what went did not free enough.
    package var rounds = 0
    package var problems = CleaningProblems()
    /// `cannotFreeEnough`, or why the cleaning broke off; `nil` if the limits are kept now.
    package var failure: SafeBackupError?

    /// Units of 512 bytes.
    package var blocks: Int64 { freed / 512 }
}
