/// What failed, classified once at the edge that knows. The rest of the program switches on `disposition`.
public struct SafeBackupError: Error, Sendable, Hashable {
    /// A stable name of the kind of failure, the same in code, log, `--json`, SQL and documentation.
    public struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        /// The name as it is stored and printed.
        public let rawValue: String

        /// A code of the given name.
        public init(rawValue: String) { self.rawValue = rawValue }

        /// The name as it is stored and printed.
        public var description: String { rawValue }
    }

    /// The kind of failure.
    public let code: Code
    /// A sentence for a person: what failed, and the next step.
    public let message: String
    /// What the failure means for the job.
    public let disposition: Disposition
    /// The error number of the system call behind it, if there was one.
    public let systemError: Int32?

    /// An error of this kind; `message` is a sentence without a final period.
    public init(_ code: Code, _ message: String, disposition: Disposition, systemError: Int32? = nil) {
        self.code = code
        self.message = message
        self.disposition = disposition
        self.systemError = systemError
    }
}

extension SafeBackupError: CustomStringConvertible {
    /// `message (code)`.
    public var description: String { "\(message) (\(code))" }
}

extension SafeBackupError.Code {
    // The path and what lies there.
    /// A path that is absolute, leaves its root, or holds a NUL.
    public static let invalidPath = Self(rawValue: "invalidPath")
    /// The name is used by safebackup itself (`.safebackup` at the top of a source).
    public static let reservedName = Self(rawValue: "reservedName")
    /// A FIFO, socket or device: listed, never opened.
    public static let specialFile = Self(rawValue: "specialFile")
    /// Two names fold onto one in the destination.
    public static let nameCollision = Self(rawValue: "nameCollision")
    /// The destination's file system cannot hold this name.
    public static let nameTooLong = Self(rawValue: "nameTooLong")

    // The source.
    /// Permission to read was refused.
    public static let unreadable = Self(rawValue: "unreadable")
    /// Nothing is at the path any more.
    public static let sourceGone = Self(rawValue: "sourceGone")
    /// The file changed while it was read.
    public static let torn = Self(rawValue: "torn")
    /// The path became another kind of thing, or a link, between look and open.
    public static let changedKind = Self(rawValue: "changedKind")
    /// Something is mounted over what was saved before.
    public static let otherFileSystem = Self(rawValue: "otherFileSystem")
    /// Somebody writes the file: it is read when it is quiet, or at the settle limit.
    public static let unsettled = Self(rawValue: "unsettled")
    /// Reading the source failed.
    public static let sourceFailed = Self(rawValue: "sourceFailed")
    /// The source's root is not there.
    public static let rootMissing = Self(rawValue: "rootMissing")
    /// Another directory or file system is where the source's root was.
    public static let rootReplaced = Self(rawValue: "rootReplaced")
    /// The source has no entry left, although live names exist.
    public static let rootEmptied = Self(rawValue: "rootEmptied")

    // The destination.
    /// The destination's root is not there.
    public static let destinationMissing = Self(rawValue: "destinationMissing")
    /// The root is there, its sentinel is not: the disk is probably not mounted.
    public static let sentinelMissing = Self(rawValue: "sentinelMissing")
    /// The sentinel is another destination's, or cannot be read.
    public static let sentinelForeign = Self(rawValue: "sentinelForeign")
    /// The destination belongs to another source or agent.
    public static let destinationTaken = Self(rawValue: "destinationTaken")
    /// Too little space for a job that grows the backup.
    public static let destinationFull = Self(rawValue: "destinationFull")
    /// A cleaning could not free what was asked.
    public static let cannotFreeEnough = Self(rawValue: "cannotFreeEnough")
    /// The destination's file system is read-only.
    public static let destinationReadOnly = Self(rawValue: "destinationReadOnly")
    /// Permission to write was refused.
    public static let destinationForbidden = Self(rawValue: "destinationForbidden")
    /// Writing to the destination failed.
    public static let destinationFailed = Self(rawValue: "destinationFailed")
    /// What is stored does not have the digest that was recorded.
    public static let damaged = Self(rawValue: "damaged")

    // The program.
    /// Too many open files, or no memory: goes by.
    public static let exhausted = Self(rawValue: "exhausted")
    /// The state database cannot be read or written now.
    public static let stateFailed = Self(rawValue: "stateFailed")
    /// The state database is damaged.
    public static let stateDamaged = Self(rawValue: "stateDamaged")
    /// The state database was written by a newer release.
    public static let stateNewer = Self(rawValue: "stateNewer")
    /// Another agent has this state directory.
    public static let stateLocked = Self(rawValue: "stateLocked")
    /// The command line, or a file of settings, is not usable.
    public static let invalidConfiguration = Self(rawValue: "invalidConfiguration")
    /// The agent stops: the copy was not finished, and begins again at the next start.
    public static let interrupted = Self(rawValue: "interrupted")
    /// The agent was stopped before it could answer.
    public static let agentRestarted = Self(rawValue: "agentRestarted")
}

extension SafeBackupError {
    /// Something is mounted at or above `path`, in a directory that was saved before. What was saved of it stays.
    package static func otherFileSystem(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .otherFileSystem,
            "Another file system is mounted at or above \(path); what was saved of it stays, and saving goes on by "
                + "itself when it is unmounted",
            disposition: .transient)
    }
}
