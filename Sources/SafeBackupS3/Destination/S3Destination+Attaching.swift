package import SafeBackupCore
package import SafeBackupSystem

/// The sentinel under `.safebackup/destination.json`, which proves that the prefix is the destination that we know.
extension S3Destination {
    private static let sentinelLimit = 1 << 20

    package func inspect() async throws(SafeBackupError) -> DestinationInspection {
        let sentinel = try await readSentinel()
        if known.isBlind { return DestinationInspection(exists: true, isEmpty: true) }
        if let sentinel { return DestinationInspection(exists: true, isEmpty: false, sentinel: sentinel) }
        return DestinationInspection(exists: true, isEmpty: try await stranger() == nil)
    }

    /// Makes the prefix a destination. What is there already is nobody's to overwrite: a prefix that holds objects is
    /// refused, as far as the keys may look.
    package func create(id: String, sources: [SentinelSource]) async throws(SafeBackupError) {
        if let sentinel = try await readSentinel() {
            if sentinel.id == id { return }
            throw taken("is a destination already (\(printable(sentinel.id.utf8)))")
        }
        if !known.isBlind, let stranger = try await stranger() {
            throw taken("holds objects that safebackup did not write, as \(printable(stranger.bytes))")
        }
        let sentinel = Sentinel(id: id, sources: sources, capabilities: Capabilities(nameLimit: KeySpace.keyLimit))
        do throws(SafeBackupError) {
            try await write(sentinel, onlyIfAbsent: true)
        } catch {
            guard error.code == S3Code.objectExists else { throw error }
            // A lost answer, or another agent at the same moment.
            if let sentinel = try await readSentinel(), sentinel.id == id { return }
            throw taken("is a destination already")
        }
    }

    private func taken(_ what: String) -> SafeBackupError {
        SafeBackupError(
            .destinationTaken, "\(settings.name) \(what); choose another prefix, or use the state that knows it",
            disposition: .permanent)
    }

    /// An object below the prefix that is not ours; `nil`: there is none, or it is not for us to look.
    private func stranger() async throws(SafeBackupError) -> ObjectKey? {
        do throws(SafeBackupError) {
            var next: String?
            repeat {
                let page = try await store.list(below: keys.prefix, after: next)
                let area = keys.prefix + KeySpace.area.bytes + [UInt8(ascii: "/")]
                // Some consoles make an object of the prefix itself.
                if let object = page.objects.first(where: {
                    !$0.key.bytes.starts(with: area) && $0.key.bytes != keys.prefix
                }) {
                    return object.key
                }
                next = page.next
            } while next != nil
            return nil
        } catch {
            guard error.isRefusal else { throw error }
            return nil
        }
    }

    package func attach(expecting id: String) async throws(SafeBackupError) {
        let sentinel = try await find(id)
        learn {
            $0.isAttached = true
            $0.sentinel = sentinel
        }
    }

    package func look(expecting id: String) async throws(SafeBackupError) { _ = try await find(id) }

    private func find(_ id: String) async throws(SafeBackupError) -> Sentinel {
        let sentinel = try await readSentinel()
        // It cannot be proven then: the keys and the prefix are trusted.
        if known.isBlind { return Sentinel(id: id, sources: [], capabilities: Capabilities()) }
        guard let sentinel else {
            throw SafeBackupError(
                .sentinelMissing,
                "\(settings.name) is there, and its .safebackup/destination.json is not: it was emptied, or this is "
                    + "another bucket; nothing is written until it is back or 'safebackup accept' says what it is",
                disposition: .destinationUnavailable)
        }
        guard sentinel.id == id else {
            throw SafeBackupError(
                .sentinelForeign,
                "\(settings.name) is another destination (\(printable(sentinel.id.utf8))) than the one that is known "
                    + "(\(printable(id.utf8))); give the right bucket and prefix, or accept it",
                disposition: .destinationUnavailable)
        }
        return sentinel
    }

    /// `nil`: there is none, or it may not be read, which is remembered.
    func readSentinel() async throws(SafeBackupError) -> Sentinel? {
        do throws(SafeBackupError) {
            let found = try await store.bytes(of: try keys.key(KeySpace.sentinel), limit: Self.sentinelLimit)
            learn { $0.isBlind = false }
            return try found.map { (found) throws(SafeBackupError) in try Sentinel(decoding: found.bytes) }
        } catch {
            guard error.isRefusal else { throw error }
            learn { $0.isBlind = true }
            return nil
        }
    }

    /// A sentinel is there that something has damaged, as against one of a newer release.
    package func hasDamagedSentinel() async throws(SafeBackupError) -> Bool {
        let found = try await store.bytes(of: try keys.key(KeySpace.sentinel), limit: Self.sentinelLimit)
        return found.map { Sentinel.isDamaged($0.bytes) } ?? false
    }

    /// Writes the sentinel anew where it is lost or damaged; copies stay as they are.
    /// - Throws: `destinationTaken` where there is another one.
    package func repair(id: String, sources: [SentinelSource]) async throws(SafeBackupError) {
        if try await !hasDamagedSentinel(), let found = try await readSentinel() {
            if found.id == id { return }
            throw taken("is a destination already (\(printable(found.id.utf8)))")
        }
        let sentinel = Sentinel(id: id, sources: sources, capabilities: Capabilities(nameLimit: KeySpace.keyLimit))
        try await write(sentinel, onlyIfAbsent: false)
    }

    private func write(_ sentinel: Sentinel, onlyIfAbsent: Bool) async throws(SafeBackupError) {
        _ = try await store.put(
            try keys.key(KeySpace.sentinel), .bytes(try sentinel.encoded()),
            ObjectProperties(onlyIfAbsent: onlyIfAbsent))
    }

    package func updateSentinel(sources: [SentinelSource]) async throws(SafeBackupError) {
        guard var sentinel = known.sentinel, !known.isBlind else { return }
        sentinel.sources = sources
        try await write(sentinel, onlyIfAbsent: false)
        learn { [sentinel] in $0.sentinel = sentinel }
    }

    package func detach() async { learn { $0.isAttached = false } }

    package var isAttached: Bool { known.isAttached }

    package var sentinel: Sentinel? { known.isAttached ? known.sentinel : nil }

    /// Each request proves it: a bucket is not unmounted.
    package func verify() async throws(SafeBackupError) {
        if known.isAttached { return }
        throw SafeBackupError(
            .destinationMissing, "The destination \(settings.name) is not open now; it is tried again",
            disposition: .destinationUnavailable)
    }

    /// Ends uploads that nobody goes on with, and removes what lies about on this machine.
    package func emptyStaging() async throws(SafeBackupError) {
        await emptyScratch()
        do throws(SafeBackupError) {
            try await uploader.abandonStale(below: keys.prefix)
        } catch {
            // Where the keys may not list uploads, a rule of the bucket must end them.
            guard error.isRefusal else { throw error }
        }
    }
}
