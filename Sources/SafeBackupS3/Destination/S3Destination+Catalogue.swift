package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage
import Glibc

/// The two catalogue copies beside the backups. One of them is always whole: a new one replaces the older of the two.
extension S3Destination {
    static let catalogueNames = ["a.db", "b.db"]

    private static let stage = Array("catalogue-stage.db".utf8)

    private func catalogueKey(_ name: String) throws(SafeBackupError) -> ObjectKey {
        try keys.key(KeySpace.catalogue.appending(name.utf8))
    }

    package func catalogueStagePath() throws(SafeBackupError) -> FilePath {
        try removeScratch(Self.stage)
        return settings.scratch.appending("catalogue-stage.db")
    }

    package func abandonCatalogueNow() {
        do throws(SafeBackupError) {
            try removeScratch(Self.stage)
        } catch {
            // Ignored: it is removed before the next one is written.
        }
    }

    package func endCatalogueExport() {}

    package func installCatalogue() async throws(SafeBackupError) {
        let scratch = try scratchDirectory()
        let file: Descriptor
        let status: FileStatus
        do {
            file = try scratch.open(Self.stage, O_RDONLY)
            status = try file.status()
        } catch {
            throw scratchFailure(error)
        }
        let name = try await olderCatalogue()
        let now = clock.now.fileTime
        var order = Uploader.Order(
            key: try catalogueKey(name), path: KeySpace.catalogue.appending(name.utf8), file: file, status: status,
            stage: "catalogue",
            properties: { digest, token in
                let own = CopyMetadata(
                    kind: .file, mtime: now, metadata: FileMetadata(mode: 0o600, uid: 0, gid: 0), digest: digest,
                    lease: token)
                return ObjectProperties(metadata: own.encoded)
            })
        // An orderly end writes the last one.
        order.endsAtStop = false
        _ = try await uploader.upload(order) { (_) throws(SafeBackupError) in true }
        learn { $0.newestCatalogue = name }
        abandonCatalogueNow()
    }

    /// The name that the next copy gets. Where objects may not be looked at, the two take turns.
    private func olderCatalogue() async throws(SafeBackupError) -> String {
        if let newest = known.newestCatalogue {
            return Self.catalogueNames.first { $0 != newest } ?? Self.catalogueNames[0]
        }
        var older = (name: Self.catalogueNames[0], time: FileTime?.none)
        do throws(SafeBackupError) {
            for (index, name) in Self.catalogueNames.enumerated() {
                let head = try await store.head(try catalogueKey(name), version: nil)
                let time = head.map { CopyMetadata($0.metadata, modified: $0.modifiedAt).mtime }
                if index == 0 {
                    older.time = time
                } else if let first = older.time, time.map({ $0 < first }) ?? true {
                    older = (name, time)
                }
            }
        } catch {
            guard error.isRefusal else { throw error }
        }
        return older.name
    }

    package func catalogues() async throws(SafeBackupError) -> [FilePath] {
        if known.isBlind { return [] }
        var found: [(path: FilePath, mtime: FileTime)] = []
        for name in Self.catalogueNames {
            let leaf = Array("catalogue-\(name)".utf8)
            try removeScratch(leaf)
            let scratch = try scratchDirectory()
            let file: Descriptor
            do { file = try scratch.open(leaf, O_RDWR | O_CREAT | O_EXCL) } catch { throw scratchFailure(error) }
            do throws(SafeBackupError) {
                guard let head = try await store.get(try catalogueKey(name), version: nil, into: file) else {
                    try removeScratch(leaf)
                    continue
                }
                let own = CopyMetadata(head.metadata, modified: head.modifiedAt)
                found.append((settings.scratch.appending("catalogue-\(name)"), own.mtime))
            } catch {
                try removeScratch(leaf)
                guard error.isRefusal else { throw error }
                return []
            }
        }
        return found.sorted { $0.mtime > $1.mtime }.map(\.path)
    }
}
