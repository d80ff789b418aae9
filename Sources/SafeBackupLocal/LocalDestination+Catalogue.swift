package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage
import Glibc

/// The two catalogue copies beside the backups. One of them is always whole: a new one replaces the older of the two.
extension LocalDestination {
    static let names = ["a.db", "b.db"]

    private static let stage = Array("catalogue.db".utf8)

    /// A path for a new catalogue copy in staging, which SQLite can open; it leads there through a descriptor of ours,
    /// so that a disk that was replaced meanwhile is not written to. Valid until the copy is installed, or until the
    /// path is asked for again. An unfinished copy from before is gone.
    package func catalogueStagePath() throws(SafeBackupError) -> FilePath {
        let root = try attachedRoot()
        try root.check()
        do throws(Errno) {
            try root.staging.remove(Self.stage)
        } catch {
            if error != .noSuchFileOrDirectory { throw Failure.destination(error, "replace", Layout.staging) }
        }
        exporting.withLock { $0 = root.staging }
        return FilePath("/proc/self/fd/\(root.staging.raw)/catalogue.db")
    }

    /// No catalogue copy is being written any more, whether it was finished or not: its path is not valid from now on.
    package func endCatalogueExport() { exporting.withLock { $0 = nil } }

    /// Removes an unfinished copy. What cannot be removed now is, before the next one, or with all of staging at a start.
    package func abandonCatalogueNow() {
        guard let staging = exporting.withLock({ $0 }) else { return }
        endCatalogueExport()
        do throws(Errno) {
            try staging.remove(Self.stage)
        } catch {
            // Ignored: see above.
        }
    }

    /// Makes the finished file in staging the newest catalogue copy; it survives a power cut when this returns, and
    /// the other copy stays as it is.
    package func installCatalogueNow() throws(SafeBackupError) {
        defer { endCatalogueExport() }
        let root = try attachedRoot()
        try root.check()
        do throws(Errno) {
            try root.staging.open(Self.stage, O_RDONLY).sync()
            var older = (name: Array(Self.names[0].utf8), mtime: FileTime?.none)
            for (index, name) in Self.names.enumerated() {
                let mtime = try Self.modified(Array(name.utf8), in: root.catalogue)
                if index == 0 {
                    older.mtime = mtime
                } else if let first = older.mtime, mtime.map({ $0 < first }) ?? true {
                    older = (Array(name.utf8), mtime)
                }
            }
            try root.staging.rename(Self.stage, to: root.catalogue, older.name)
            try root.catalogue.sync()
        } catch {
            throw Failure.destination(error, "install the catalogue copy in", Layout.catalogue)
        }
    }

    /// The catalogue copies that are there, newest first, as paths for SQLite. Valid until `detach`.
    package func cataloguesNow() throws(SafeBackupError) -> [FilePath] {
        let root = try attachedRoot()
        var found: [(name: String, mtime: FileTime)] = []
        do throws(Errno) {
            for name in Self.names {
                if let mtime = try Self.modified(Array(name.utf8), in: root.catalogue) { found.append((name, mtime)) }
            }
        } catch {
            throw Failure.destination(error, "look at", Layout.catalogue)
        }
        let directory = FilePath("/proc/self/fd/\(root.catalogue.raw)")
        return found.sorted { $0.mtime > $1.mtime }.map { directory.appending($0.name) }
    }

    private static func modified(_ name: [UInt8], in catalogue: Descriptor) throws(Errno) -> FileTime? {
        do {
            let status = try catalogue.status(of: name)
            return status.kind == .file ? status.fingerprint.mtime : nil
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }
}
