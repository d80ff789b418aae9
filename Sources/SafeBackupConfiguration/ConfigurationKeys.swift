package import SafeBackupCore
import SafeBackupWatch

/// All keys that there are. A key is here when it has an effect, and only then.
package enum ConfigurationKeys {
    // MARK: [agent]

    package static let state = ConfigurationKey<ConfigurationPath>(
        optional: .agent, "state", example: "/var/lib/safebackup",
        absence:
            "STATE_DIRECTORY of systemd, else /var/lib/safebackup for root and ~/.local/state/safebackup for others",
        "The directory of the agent's state; --state comes before it, and other verbs need --state to find it")

    // MARK: [source]

    package static let sourcePath = ConfigurationKey<ConfigurationPath>(
        required: .source, "path", example: "/home", "The directory to save")

    package static let destination = ConfigurationKey<ConfigurationName>(
        required: .source, "destination", example: "disk", isList: true,
        "The name of a destination that it is saved to; repeat it for each")

    package static let prefix = ConfigurationKey<RelativePath>(
        optional: .source, "prefix", example: "home", absence: "its copies lie at the destination's top",
        "The directory of each destination that its copies lie in; needed where several sources share a destination")

    package static let exclude = ConfigurationKey<ConfigurationPattern>(
        optional: .source, "exclude", example: "*.tmp", absence: "nothing is left out", isList: true,
        "Leave out what matches, in the syntax of .gitignore; may be repeated, the last one that matches decides")

    package static let excludeFrom = ConfigurationKey<ConfigurationPath>(
        optional: .source, "exclude-from", example: "/etc/safebackup/excludes", absence: "no such file is read",
        isList: true,
        "Leave out what matches a line of this file, as of a .gitignore; may be repeated and mixed with exclude")

    package static let reconcileInterval = ConfigurationKey<Duration>(
        .source, "reconcile-interval", standard: .seconds(86_400), in: .seconds(60)...(.seconds(366 * 86_400)),
        "The time from one comparison of the whole source with what is saved to the next")

    // MARK: [destination]

    package static let destinationPath = ConfigurationKey<ConfigurationPath>(
        required: .destination, "path", example: "/mnt/backup/home",
        "The directory that holds the copies; it is made if its parent is there")

    package static let closeDelay = ConfigurationKey<Duration>(
        .destination, "close-delay", standard: SettlePolicy().closeDelay, in: .zero...(.seconds(3_600)),
        "How long a file waits after it was closed or renamed")

    package static let quietTime = ConfigurationKey<Duration>(
        .destination, "quiet-time", standard: SettlePolicy().quiet, in: .zero...(.seconds(3_600)),
        "How long a file that stays open waits after it was last written")

    package static let settleLimit = ConfigurationKey<Duration>(
        .destination, "settle-limit", standard: SettlePolicy().limit, in: .milliseconds(1)...(.seconds(86_400)),
        "No change waits longer than this for quiet")

    package static let idleTime = ConfigurationKey<Duration>(
        .destination, "idle-time", standard: .seconds(10), in: .milliseconds(1)...(.seconds(86_400)),
        "After this time without work nothing of it stays open, so that its disk can be unmounted")

    package static let onDelete = ConfigurationKey<DeletePolicy>(
        .destination, "on-delete", standard: .keep,
        "What becomes of a file that was deleted at the source: keep leaves its copy in its place, mirror moves it to "
            + ".safebackup/versions, at most ten minutes later, and never while the source is held, paused or emptied")

    package static let concurrency = ConfigurationKey<ThreadCount>(
        .destination, "concurrency", standard: ThreadCount(4), in: ThreadCount(1)...ThreadCount(64),
        "How many threads copy to it at the same time")

    package static let bandwidth = ConfigurationKey<ByteCount>(
        optional: .destination, "bandwidth", example: "20MiB", in: ByteCount(1 << 10)...ByteCount(1 << 50),
        absence: "as much as the disks give",
        "How much is read from the sources in a second, to be copied to it or compared with it, by all threads together"
    )

    /// In the order of the example.
    package static let all: [ConfigurationEntry] = [
        state.entry,
        sourcePath.entry, destination.entry, prefix.entry, exclude.entry, excludeFrom.entry, reconcileInterval.entry,
        destinationPath.entry, closeDelay.entry, quietTime.entry, settleLimit.entry, idleTime.entry, onDelete.entry,
        concurrency.entry, bandwidth.entry,
    ]

    static func of(_ section: ConfigurationEntry.Section) -> [ConfigurationEntry] {
        all.filter { $0.section == section }
    }
}
