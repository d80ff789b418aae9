import Glibc
package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

/// Copies files to objects below a prefix of a bucket under names that the callers give, as an `S3Destination` does:
/// without sentinel, catalogue and versions.
///
/// After a failure, or a crash, each key has its old object or the new one, whole. Of one key one save at a time.
package final class KeyedBucket: Sendable {
    /// How often a file is tried that changes while it is read.
    private static let attemptLimit = 6

    private let store: any ObjectStore
    private let keys: KeySpace
    private let name: String
    private let uploader: Uploader
    private let io: ThreadExecutor
    private let found: @Sendable (FilePath) -> Void
    /// No agent has the prefix, as far as these keys may know.
    private let isFree = Flag()
    private let sequence = Locked<Int64>(0)

    /// - Parameters:
    ///   - name: for words, without secrets: `s3://bucket/prefix`.
    ///   - io: its threads may block.
    ///   - found: called on one of them when a file was looked at and is about to be read; for tests, who change it.
    package init(
        store: any ObjectStore, prefix: [UInt8], name: String, limits: Uploader.Limits = Uploader.Limits(),
        io: ThreadExecutor, found: @escaping @Sendable (FilePath) -> Void = { _ in }
    ) {
        self.store = store
        self.found = found
        self.name = name
        self.io = io
        keys = KeySpace(prefix: prefix)
        uploader = Uploader(store: store, ledger: MemoryLedger(), limits: limits, io: io)
    }

    /// Stores a file; the server has confirmed the object when this returns.
    ///
    /// - Throws: `invalidPath`, `reservedName` and `nameTooLong` for a key that cannot be; `sourceGone`, `specialFile`,
    ///   `unreadable`, `sourceFailed`, and `torn` for a file that changed each time it was read; `destinationTaken` below
    ///   the prefix of an agent; else what the server refused.
    package func save(_ file: FilePath, as key: RelativePath) async throws(SafeBackupError) {
        let object = try objectKey(key)
        try await refuseAgents()
        var attempt = 1
        while true {
            do throws(SafeBackupError) {
                try await send(file, as: key, to: object)
                return
            } catch {
                await abandon(object)
                guard Self.goesBy(error), attempt < Self.attemptLimit else { throw error }
            }
            await CredentialsChain.pause(.milliseconds(10 << attempt))
            attempt += 1
        }
    }

    /// Tells the server to forget what uploads in parts left, where that failed before.
    package func close() async {
        do throws(SafeBackupError) { try await uploader.forgetAll() } catch {
            // Ignored: parts without an object cost money, and no data; a lifecycle rule ends them.
        }
    }

    private func abandon(_ object: ObjectKey) async {
        do throws(SafeBackupError) { try await uploader.forget(object) } catch {
            // Ignored because what failed before matters; `close` tries again.
        }
    }

    /// The file changed while it was read, or the server lost the upload.
    private static func goesBy(_ error: SafeBackupError) -> Bool {
        [.torn, .changedKind, S3Code.uploadLost].contains(error.code)
    }

    private func objectKey(_ key: RelativePath) throws(SafeBackupError) -> ObjectKey {
        if key.isRoot {
            throw SafeBackupError(
                .invalidPath, "The key is empty; give the name that the copy gets", disposition: .permanent)
        }
        if key.components.contains(KeySpace.area.bytes) {
            throw SafeBackupError(
                .reservedName, "\(key) is not saved: .safebackup is a name of safebackup's own; give another key",
                disposition: .permanent)
        }
        return try keys.key(key)
    }

    /// Asks until the server has answered once; keys that may only put objects are enough.
    private func refuseAgents() async throws(SafeBackupError) {
        if isFree.isSet { return }
        do throws(SafeBackupError) {
            if try await store.head(try keys.key(KeySpace.sentinel), version: nil) != nil {
                throw SafeBackupError(
                    .destinationTaken,
                    "An agent of safebackup has \(name), and only it writes there; give another prefix",
                    disposition: .permanent)
            }
        } catch {
            guard error.isRefusal else { throw error }
        }
        isFree.set()
    }

    // MARK: - One attempt

    private struct Found: Sendable {
        var file: Descriptor
        var status: FileStatus
        var metadata: FileMetadata
    }

    private static func find(_ path: FilePath) throws(SafeBackupError) -> Found {
        do throws(Errno) {
            let resolved = try GivenFile.resolve(path)
            // Looked at before, because opening a FIFO or a device may do something.
            guard try Descriptor.status(of: resolved).kind == .file else { throw .isDirectory }
            let file = try Descriptor.open(resolved, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
            let status = try file.status()
            guard status.kind == .file else { throw .isDirectory }
            return Found(
                file: file, status: status,
                metadata: FileMetadata(
                    mode: status.mode, uid: status.uid, gid: status.gid, xattrs: try file.extendedAttributes()))
        } catch {
            throw GivenFile.failure(path, error)
        }
    }

    private func send(_ file: FilePath, as key: RelativePath, to object: ObjectKey) async throws(SafeBackupError) {
        let tell = self.found
        let found = try await io.run { () throws(SafeBackupError) in
            let found = try Self.find(file)
            tell(file)
            return found
        }
        // For words: not below any root.
        let words = RelativePath(
            unchecked: file.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) })
        let path = KeySpace.isMapped(key.bytes) ? key.bytes : nil
        var order = Uploader.Order(
            key: object, path: words, file: found.file, status: found.status, stage: nextName(),
            properties: { digest, _ in
                let own = CopyMetadata(
                    kind: .file, mtime: found.status.fingerprint.mtime, metadata: found.metadata, digest: digest,
                    path: path)
                return ObjectProperties(metadata: own.encoded)
            })
        order.endsAtStop = false
        let content = try await uploader.upload(order) { (content) throws(SafeBackupError) in
            if content.size != found.status.size || content.after.fingerprint != found.status.fingerprint {
                throw ReadFailure.torn(words)
            }
            return true
        }
        guard content != nil else { throw ReadFailure.interrupted(words) }
        try await uploader.forgetStored(object)
    }

    private func nextName() -> String {
        let number = sequence.withLock { sequence in
            sequence += 1
            return sequence
        }
        return "k" + String(number, radix: 36)
    }
}
