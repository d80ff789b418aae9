package import SafeBackupCore
package import SafeBackupSystem

/// An object that was read whole, or what is known instead.
package enum ObjectReading: Sendable {
    /// Its content is in a file without a name.
    /// - `modifiedAt`: by the server's clock.
    case content(Descriptor, size: Int64, CopyMetadata, modifiedAt: Timestamp?)
    case missing
    /// It came twice with other bytes than its checksum tells.
    case damaged
    /// The server does not give it, though it gives others; why.
    case refused(SafeBackupError)
}

/// An object as a listing tells of it.
package struct StoredObject: Sendable, Hashable {
    package var location: RelativePath
    package var size: Int64
    /// It stands for a directory, and has no content.
    package var isDirectory: Bool

    package init(location: RelativePath, size: Int64, isDirectory: Bool) {
        (self.location, self.size, self.isDirectory) = (location, size, isDirectory)
    }
}

/// Reading what is stored, for those who restore and verify.
extension S3Destination {
    private static let readsAtOnce = 16

    /// Downloads the copy into a file without a name. Throws `damaged` when nothing is there.
    package func read(_ location: RelativePath) async throws(SafeBackupError) -> Descriptor {
        let file = try await temporaryFile()
        guard try await store.get(try keys.key(location), version: nil, into: file) != nil else {
            throw SafeBackupError(
                .damaged,
                "The stored copy \(location) is not in \(settings.name); save it again, or look for a version",
                disposition: .permanent)
        }
        return file
    }

    /// What lies under each location, in their order. All of it is on this machine's disk at the same time.
    /// - Throws: what keeps the bucket from being read; nothing is known then of any of them.
    package func contents(of locations: [RelativePath]) async throws(SafeBackupError) -> [ObjectReading] {
        let found = await atOnce(locations, limit: Self.readsAtOnce, ends: \.isFailure) { location in
            await Result.of { () async throws(SafeBackupError) in try await self.content(of: location) }
        }
        return try found.successes()
    }

    private func content(of location: RelativePath) async throws(SafeBackupError) -> ObjectReading {
        do throws(SafeBackupError) {
            do throws(SafeBackupError) {
                return try await download(location)
            } catch {
                guard error.code == .damaged else { throw error }
                // It may have happened on the way.
                return try await download(location)
            }
        } catch {
            if error.code == .damaged { return .damaged }
            if error.isRefusal || error.disposition == .permanent { return .refused(error) }
            // Where the server gives another object, the trouble is this one's alone.
            if !error.isOfBucket, try await readSentinel() != nil { return .refused(error) }
            throw error
        }
    }

    private func download(_ location: RelativePath) async throws(SafeBackupError) -> ObjectReading {
        let file = try await temporaryFile()
        guard let head = try await store.get(try keys.key(location), version: nil, into: file) else { return .missing }
        return .content(
            file, size: head.size, CopyMetadata(head.metadata, modified: head.modifiedAt), modifiedAt: head.modifiedAt)
    }

    /// What the object of an empty directory says of itself; `nil`: it is not there.
    package func directory(at location: RelativePath) async throws(SafeBackupError) -> CopyMetadata? {
        let head = try await store.head(try keys.key(location, isDirectory: true), version: nil)
        return head.map { CopyMetadata($0.metadata, modified: $0.modifiedAt) }
    }

    /// Objects below a location, in the order of their keys.
    /// - Parameter after: the `next` of the page before.
    package func objects(
        below location: RelativePath, after: String?
    ) async throws(SafeBackupError) -> (objects: [StoredObject], next: String?) {
        let prefix = location.isRoot ? keys.prefix : try keys.key(location, isDirectory: true).bytes
        let page = try await store.list(below: prefix, after: after)
        var objects: [StoredObject] = []
        for object in page.objects {
            guard let place = keys.location(of: object.key) else { continue }
            objects.append(
                StoredObject(location: place.location, size: object.size, isDirectory: place.isDirectory))
        }
        return (objects, page.next)
    }
}
