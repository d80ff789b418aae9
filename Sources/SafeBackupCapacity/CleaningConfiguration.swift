public import SafeBackupCore
public import SystemPackage

/// How a cleaner works.
///
/// ```swift
/// var configuration = CleaningConfiguration(CleaningLimits(minFree: .gibibytes(20)))
/// configuration.removesEmptyDirectories = true
/// configuration.onEvent = { event in
///     if case .deletedFile(let path, let bytes) = event { print(path, bytes) }
/// }
/// ```
public struct CleaningConfiguration: Sendable {
    /// Which time of a file is its age.
    public enum Order: String, Sendable, Hashable {
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

    /// What must hold afterwards. A `LocalBackupSession` adds its free-space target.
    public var limits: CleaningLimits
    /// Which files are the oldest.
    public var order = Order.modified
    /// Directories that the cleaning emptied go too.
    public var removesEmptyDirectories = false
    /// Remove what may be removed also when that is not enough to keep to the limits; else nothing goes then.
    public var removesWhatItCan = false
    /// Directories that are not cleaned, and neither is anything that holds one of them.
    public var protected: [ProtectedDirectory] = []
    /// Threads that look at files and remove them.
    public var concurrency = 2
    /// The space on the disk, asked before, between and after; `nil` is returned where it cannot be told. By default the
    /// file system of the directory is asked.
    public var usage: (@Sendable () throws(SafeBackupError) -> DiskUsage?)?
    /// How much whoever has the disk cleaned wrote there so far, at least and at most: that took what the cleaning freed, and
    /// is no sign that removing is in vain.
    package var written: (@Sendable () -> ClosedRange<Int64>)?
    /// Told from several threads, one at a time. It blocks the cleaning.
    public var onEvent: (@Sendable (CleaningEvent) -> Void)?

    /// Everything but the limits as it is by default.
    public init(_ limits: CleaningLimits = CleaningLimits()) { self.limits = limits }
}

/// A directory whose files are no backups.
public struct ProtectedDirectory: Sendable, Hashable {
    /// Need not be there.
    public var path: FilePath
    /// What it is, for the message: "a source of the agent".
    public var meaning: String
    /// What lies in it is protected too.
    public var coversInside: Bool

    /// A directory with all in it, unless `coversInside` is `false`; then only what holds it is not cleaned.
    public init(_ path: FilePath, _ meaning: String, coversInside: Bool = true) {
        self.path = path
        self.meaning = meaning
        self.coversInside = coversInside
    }
}

/// What a cleaning tells while it goes on.
public enum CleaningEvent: Sendable {
    /// Before anything is looked at.
    case started
    /// The walk is over, and something must go.
    case scanned(CleaningPlan)
    /// What follows is removed.
    case deleting(CleaningPlan)
    /// A file or link went, and so many bytes with it: none with a name that is not its inode's last.
    case deletedFile(RelativePath, bytes: Int64)
    /// A directory went that the cleaning had emptied.
    case deletedDirectory(RelativePath)
    /// Something could not be looked at or removed; the cleaning goes on.
    case failed(CleaningProblem)
    /// The last event, also of a cleaning that had nothing to do or broke off.
    case completed(CleaningReport)
}

/// Something that could not be looked at or removed; the cleaning went on.
public struct CleaningProblem: Sendable, Hashable {
    /// Below the directory that is cleaned.
    public var path: RelativePath
    /// A sentence without a final period.
    public var reason: String
}

/// What a walk before a cleaning found.
public struct CleaningScan: Sendable, Hashable {
    /// Names of regular files and symbolic links.
    public var files = 0
    /// Below the directory, without itself.
    public var directories = 0
    /// What the regular files hold in blocks, each inode once.
    public var bytes: Int64 = 0
    /// Of these names, such as have another one outside of the directory: removing them would free nothing.
    public var linkedElsewhere = 0
    /// Inodes with several names of which some were not counted, because there are too many such inodes: they stay.
    public var hasUncountedLinks = false
    /// Names in directories that this user may not change.
    public var protected = 0
    /// Directories on which something is mounted.
    public var mounts = 0
    /// Of the walk, and of those that made the plan finer.
    public var duration = Duration.zero
}

/// What a cleaning would remove; made before anything goes.
public struct CleaningPlan: Sendable {
    /// `nil`: the limits are kept, nothing is to be done.
    public var need: CleaningNeed?
    /// The space on the disk when the plan was made; `nil` where it cannot be told.
    public var usage: DiskUsage?
    /// What was found.
    public var scan: CleaningScan
    /// The bytes that will go, about as many as are needed; all that can go if that is not enough.
    public var bytes: Int64 = 0
    /// Names of files and links that will go, about: what a report counts.
    public var files = 0
    /// Up to this age files go; `nil` if none does.
    public var newest: FileTime?
    /// What may be removed is enough to keep to the limits.
    public var isEnough = true
    /// What could not be looked at.
    public var problems = CleaningProblems()
    var cut: AgeCut?
    var floor: AgeKey?
    var census = LinkCensus()
    var filter: AgeFilter?
}

/// The first problems, and how many there were.
public struct CleaningProblems: Sendable, Hashable {
    /// So many are kept.
    public static let limit = 20
    /// In the order they were met, `limit` at most.
    public private(set) var first: [CleaningProblem] = []
    /// All of them.
    public private(set) var count = 0

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
public struct CleaningReport: Sendable {
    /// `nil`: the limits were kept, nothing was done.
    public var need: CleaningNeed?
    /// The space on the disk at the start; `nil` where it cannot be told.
    public var before: DiskUsage?
    /// The space on the disk at the end; `nil` where it cannot be told.
    public var after: DiskUsage?
    /// Of the first walk.
    public var scan: CleaningScan
    /// Names of files and links that went.
    public var files = 0
    /// Directories that went because they were emptied.
    public var directories = 0
    /// What went, in blocks × 512, of inodes whose last name went.
    public var freed: Int64 = 0
    /// The newest age of what was to go.
    public var newest: FileTime?
    /// All walks that looked for what to remove.
    public var scanDuration = Duration.zero
    /// All walks that removed.
    public var deleteDuration = Duration.zero
    /// How often it was planned: again when what went did not free enough.
    public var rounds = 0
    /// What could not be looked at or removed.
    public var problems = CleaningProblems()
    /// `cannotFreeEnough`, or why the cleaning broke off; `nil` if the limits are kept now.
    public var failure: SafeBackupError?

    /// Units of 512 bytes.
    public var blocks: Int64 { freed / 512 }
}
