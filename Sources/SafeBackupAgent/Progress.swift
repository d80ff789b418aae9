import SafeBackupCore
import SafeBackupSystem

/// What the agent is doing now, for the line on a terminal. Counters since the start.
package final class Progress: Sendable {
    package struct Snapshot: Sendable {
        package var savedFiles = 0
        package var savedBytes: Int64 = 0
        /// Entries that the walks have seen.
        package var scanned = 0
        /// Walks that are under way.
        fileprivate var scans = 0
        package var isScanning: Bool { scans > 0 }
        /// Walks that ended.
        package var walks = 0
        package var current: String?
    }

    private let state = Locked(Snapshot())

    package init() {}

    package var snapshot: Snapshot { state.withLock { $0 } }

    func saved(files: Int, bytes: Int64) {
        state.withLock { state in
            state.savedFiles += files
            state.savedBytes += bytes
        }
    }

    func scanned(_ entries: Int) { state.withLock { $0.scanned += entries } }

    /// A walk begins or ends; several sources may be walked at once.
    func scanning(_ isScanning: Bool) {
        state.withLock { state in
            if !isScanning { state.walks += 1 }
            state.scans += isScanning ? 1 : -1
        }
    }

    func storing(_ path: RelativePath?) { state.withLock { $0.current = path?.description } }
}
