import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage

/// Looks at a bucket with the keys that an agent would use, on threads of its own. Each call blocks.
final class BucketLook: Sendable {
    private let io: ThreadExecutor
    private let client: S3Client
    private let source: any CredentialsSource
    private let told = Notices()
    private let prefix: [UInt8]
    private let clock: WallClock

    /// - Throws: `invalidConfiguration`; nobody is asked yet.
    init(_ bucket: Configuration.S3, clock: WallClock) throws(SafeBackupError) {
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.doctor", count: 2)
        } catch {
            throw .noThread(error)
        }
        // Nothing is downloaded into a file.
        var bucket = bucket
        // What is tried is removed again, which a lock would forbid.
        (bucket.lockMode, bucket.holdsLegally) = (nil, false)
        let opening = BucketOpening(bucket, scratch: "/", io: io, clock: clock)
        do throws(SafeBackupError) {
            (client, source) = try opening.connection { [told] notice in told.list.withLock { $0.append(notice) } }
        } catch {
            io.stop()
            throw error
        }
        prefix = bucket.url.prefix
        self.clock = clock
    }

    deinit { io.stop() }

    /// What the client found out by itself.
    var notices: [S3Notice] { told.list.withLock { $0 } }

    /// Which keys are used, without a secret.
    func keys() throws(SafeBackupError) -> String {
        let source = source
        return try blocking { () async throws(SafeBackupError) in
            try await source.credentials(after: nil).description
        }
    }

    func probe() throws(SafeBackupError) -> BucketFindings {
        let probe = BucketProbe(client, prefix: prefix, clock: clock)
        return try blocking { () async throws(SafeBackupError) in try await probe.run() }
    }
}

private final class Notices: Sendable {
    let list = Locked<[S3Notice]>([])
}
