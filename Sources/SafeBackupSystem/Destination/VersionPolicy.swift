package import SafeBackupCore

/// Which replaced copies are kept as versions. Pure.
///
/// A file that is rewritten each second would push the versions of all others out of the room that there is. (The agent
/// thins out those of a path that has too many.)
package struct VersionPolicy: Sendable, Hashable {
    /// At most one version of a path is kept in this time.
    package var interval: Duration = .seconds(600)

    package init() {}

    /// Whether a copy that is replaced now is kept, where the newest version of its path became one at `newest`.
    /// A newest version in the future, after the clock was set back, counts by its distance.
    package func keeps(newest: Timestamp?, now: Timestamp) -> Bool {
        guard let newest else { return true }
        return (newest > now ? newest - now : now - newest) >= interval
    }
}
