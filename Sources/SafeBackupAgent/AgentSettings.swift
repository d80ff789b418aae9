package import SafeBackupConfiguration
package import SafeBackupCore
import SafeBackupSystem
package import SafeBackupWatch
package import SystemPackage

/// What one agent does: which sources go to which destinations, and how.
package struct AgentSettings: Sendable {
    package struct Source: Sendable {
        /// Absolute, without links.
        package var path: FilePath
        package var excludes: ExcludeRules
        /// From the end of one walk of the source to the next, when nothing is known to be missing.
        package var reconcileInterval: Duration
    }

    /// A source of a destination.
    package struct Member: Sendable {
        /// Which of `sources`.
        package var source: Int
        /// Its copies lie under it.
        package var prefix: RelativePath
        /// The two share a file system.
        package var isSameDevice: Bool
    }

    package struct Destination: Sendable {
        /// Absolute, without links. Of a bucket: a directory of the state, for what is on its way.
        package var path: FilePath
        /// A bucket.
        package var s3: Configuration.S3?
        /// How the state and people know it: a path, or `s3://bucket/prefix`.
        package var location: [UInt8] { s3?.location ?? path.bytes }
        package var members: [Member]
        package var settle: SettlePolicy
        /// After this time without work nothing below the destination stays open, so that it can be unmounted.
        package var idleTime: Duration
        /// What is deleted at the source becomes a version.
        package var mirrorsDeletions = false
        /// Groups that are stored at the same time.
        package var lanes = DestinationUnit.GroupLimits().lanes
        /// Bytes that are read from the sources in a second; `nil`: any number.
        package var bandwidth: ByteCount?
        /// What is kept free there, and what is removed for that.
        package var room = Configuration.Room()
        /// Which older versions are kept; without a rule all, as long as there is room.
        package var retention = RetentionPolicy()
    }

    package var sources: [Source]
    package var destinations: [Destination]
    package var state: StateDirectory
    /// Walk, save what differs, and end.
    package var isOnce: Bool
    package var backoff: BackoffPolicy
    /// Also one that was never seen: nobody is there who would mount it and start again.
    package var awaitsNewDestinations = false

    /// One source and one destination.
    package init(
        preflight: Preflight, bucket: Configuration.S3? = nil, state: StateDirectory, excludes: ExcludeRules,
        isOnce: Bool
    ) {
        var settle = SettlePolicy()
        if bucket != nil { settle.closeDelay = ConfigurationKeys.bucketCloseDelay }
        self.init(
            sources: [
                Source(
                    path: preflight.source, excludes: excludes,
                    reconcileInterval: ConfigurationKeys.reconcileInterval.standard ?? .zero)
            ],
            destinations: [
                Destination(
                    path: preflight.destination, s3: bucket,
                    members: [Member(source: 0, prefix: .root, isSameDevice: preflight.isSameDevice)],
                    settle: settle, idleTime: ConfigurationKeys.idleTime.standard ?? .zero)
            ], state: state, isOnce: isOnce)
    }

    init(sources: [Source], destinations: [Destination], state: StateDirectory, isOnce: Bool) {
        self.sources = sources
        self.destinations = destinations
        self.state = state
        self.isOnce = isOnce
        backoff = BackoffPolicy()
        if isOnce {
            // Somebody waits for the end: what does not go by soon is reported, and tried again by the next run.
            backoff.initial = .milliseconds(100)
            backoff.maximum = .seconds(2)
            backoff.attemptLimit = 5
            for index in destinations.indices {
                self.destinations[index].settle.limit = min(destinations[index].settle.limit, .seconds(5))
            }
        }
    }

    /// Every source to every one of its destinations, for the log: `/a to /x; /b to /x`.
    var summary: String {
        let pairs = destinations.flatMap { destination in
            destination.members.map { member in
                let lies = member.prefix.isRoot ? "" : " (in \(member.prefix))"
                return "\(printable(sources[member.source].path.bytes)) to \(printable(destination.location))\(lies)"
            }
        }
        return pairs.joined(separator: "; ")
    }
}
