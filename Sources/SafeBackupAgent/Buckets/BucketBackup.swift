import Glibc
import Logging
package import SafeBackupConfiguration
package import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage

/// A backup in a bucket, for a verb that only reads, on a thread of its own: each call blocks.
package final class BucketBackup: Sendable {
    /// Only while this lives.
    let destination: S3Destination
    private let io: ThreadExecutor
    /// A directory of ours, removed at the end.
    private let scratch: FilePath
    /// Empty: stands for the backup where something is looked for beside copies.
    let nothing: FilePath
    package let location: [UInt8]

    /// - Throws: `invalidConfiguration`; nobody is asked yet.
    package init(_ bucket: Configuration.S3) throws(SafeBackupError) {
        var template = Array("/var/tmp/safebackup-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            let error = Errno(rawValue: errno)
            throw SafeBackupError(
                .exhausted, "No temporary directory can be made in /var/tmp: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
        scratch = FilePath(platformString: template)
        nothing = scratch.appending("nothing")
        location = bucket.location
        nothing.withPlatformString { _ = mkdir($0, 0o700) }
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.bucket", count: 4)
        } catch {
            throw .noThread(error)
        }
        destination = try BucketOpening(bucket, scratch: scratch.appending("s3"), io: io).reader(
            logger: Logger(label: "safebackup") { _ in SwiftLogNoOpLogHandler() })
    }

    deinit {
        io.stop()
        let files = ["catalogue-a.db", "catalogue-b.db"].map { scratch.appending("s3").appending($0) }
        for file in files { file.withPlatformString { _ = unlink($0) } }
        for directory in [nothing, scratch.appending("s3"), scratch] { directory.withPlatformString { _ = rmdir($0) } }
    }

    /// A copy, as a file without a name. Throws `damaged` where it is not there.
    func read(_ location: RelativePath) throws(SafeBackupError) -> Descriptor {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in try await destination.read(location) }
    }

    /// How much is downloaded before it is looked at: it lies on this machine's disk meanwhile.
    private static let portion: Int64 = 256 << 20

    /// What may be downloaded together; something larger comes alone.
    static func portions<Item>(of items: [Item], size: (Item) -> Int64) -> [[Item]] {
        var portions: [[Item]] = []
        var bytes: Int64 = 0
        for item in items {
            bytes += size(item)
            if portions.isEmpty || bytes > portion {
                portions.append([])
                bytes = size(item)
            }
            portions[portions.count - 1].append(item)
        }
        return portions
    }

    /// What lies under each location, in their order. All of it is on this machine's disk at the same time.
    /// - Throws: what keeps the bucket from being read.
    func contents(of locations: [RelativePath]) throws(SafeBackupError) -> [ObjectReading] {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in try await destination.contents(of: locations) }
    }

    /// As of `S3Destination.directory`.
    func directory(at location: RelativePath) throws(SafeBackupError) -> CopyMetadata? {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in try await destination.directory(at: location) }
    }

    /// As of `S3Destination.objects`.
    func objects(
        below location: RelativePath, after: String?
    ) throws(SafeBackupError) -> (objects: [StoredObject], next: String?) {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in
            try await destination.objects(below: location, after: after)
        }
    }

    /// The sentinel's; `nil` where there is none, or the keys may not read it.
    func identifier() throws(SafeBackupError) -> String? {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in try await destination.inspect().sentinel?.id }
    }

    /// Paths of the catalogue copies, newest first. Throws what keeps the bucket from being read.
    func catalogues() throws(SafeBackupError) -> [FilePath] {
        let destination = destination
        return try blocking { () async throws(SafeBackupError) in
            guard try await destination.inspect().sentinel != nil else {
                throw SafeBackupError(
                    .sentinelMissing,
                    "\(printable(destination.location)) holds no backup of safebackup, or these keys may not read it; check "
                        + "the prefix", disposition: .destinationUnavailable)
            }
            return try await destination.catalogues()
        }
    }
}
