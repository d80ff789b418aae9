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
    /// The file system of a source or a destination does not answer.
    public static let notAnswering = Self(rawValue: "notAnswering")
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

    // A server that objects are stored at.
    /// No connection, or no answer: the network, the name, the port, or the server.
    public static let serverUnreachable = Self(rawValue: "serverUnreachable")
    /// The connection is not safe: the certificate is not trusted, or TLS fails.
    public static let serverUntrusted = Self(rawValue: "serverUntrusted")
    /// The server asks for fewer requests.
    public static let serverBusy = Self(rawValue: "serverBusy")
    /// The server failed with the request, and failed again.
    public static let serverFailed = Self(rawValue: "serverFailed")
    /// What answers does not speak S3: a web server, a proxy, or the page of a network that wants a login.
    public static let notObjectStore = Self(rawValue: "notObjectStore")
    /// No source of keys is configured, or none of them has any.
    public static let credentialsMissing = Self(rawValue: "credentialsMissing")
    /// A source of keys is configured, and gave none.
    public static let credentialsFailed = Self(rawValue: "credentialsFailed")
    /// The keys are unknown, wrong or expired.
    public static let credentialsRefused = Self(rawValue: "credentialsRefused")
    /// The machine's clock is too far from the server's.
    public static let clockSkewed = Self(rawValue: "clockSkewed")
    /// The keys are right, and their policy does not allow the request.
    public static let accessDenied = Self(rawValue: "accessDenied")
    /// The bucket or the server does not take what the configuration asks for.
    public static let settingRefused = Self(rawValue: "settingRefused")
    /// The server refuses this object, and not others.
    public static let objectRefused = Self(rawValue: "objectRefused")
    /// An object is under the key where none may be.
    public static let objectExists = Self(rawValue: "objectExists")
    /// The server does not know the unfinished upload any more: it begins again.
    public static let uploadLost = Self(rawValue: "uploadLost")
    /// What arrived is not what was sent.
    public static let transferDamaged = Self(rawValue: "transferDamaged")
    /// The server does not have this operation.
    public static let notSupported = Self(rawValue: "notSupported")
    /// The server understood the request as a mistake of ours.
    public static let requestRefused = Self(rawValue: "requestRefused")

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

extension SafeBackupError {
    /// No call to the file system at the root of a source or a destination, which `name` tells for a person, comes back.
    package static func notAnswering(_ name: String, disposition: Disposition) -> SafeBackupError {
        SafeBackupError(
            .notAnswering,
            "\(name) cannot be looked at: its file system does not answer, as that of a server that is gone; nothing is "
                + "saved or removed there meanwhile, and saving goes on by itself when it answers; look at the server, or "
                + "unmount it (umount -l)",
            disposition: disposition)
    }
}
