package import SafeBackupCore
package import SafeBackupSystem

/// Finds out what a bucket can do and what the keys may do there, by trying it with an object of 1 KiB below
/// `PREFIX/.safebackup/`, which is nobody's copy and is removed again.
///
/// At most 12 requests, those not counted that are repeated after a failure: two PUT, two GET, two listings (one where the
/// server knows their second form), the versions, lock and lifecycle of the bucket, its unfinished uploads, and up to two
/// DELETE. After the first failure that concerns the whole bucket nothing more is asked.
package struct BucketProbe: Sendable {
    private let client: S3Client
    private let keys: KeySpace
    private let clock: WallClock
    private static let size = 1 << 10

    /// - Parameter prefix: of all keys, as in `S3DestinationSettings`.
    package init(_ client: S3Client, prefix: [UInt8], clock: WallClock = .system) {
        (self.client, self.clock) = (client, clock)
        keys = KeySpace(prefix: prefix)
    }

    /// Never fails: what cannot be done is a finding.
    /// - Throws: only if the place cannot have any object.
    package func run() async throws(SafeBackupError) -> BucketFindings {
        var generator = SystemRandomNumberGenerator()
        var content: [UInt8] = []
        while content.count < Self.size { withUnsafeBytes(of: generator.next()) { content += $0 } }
        let name = "doctor-" + String(UInt64.random(in: .min ... .max, using: &generator), radix: 36)
        let key = try keys.key(KeySpace.area.appending(name.utf8))
        var found = BucketFindings(address: try client.address(), prefix: keys.prefix, key: key)
        var versions: [String?] = []
        let began = ContinuousClock.now
        do throws(SafeBackupError) {
            let answer = try await store(content, key, onlyIfAbsent: false)
            found.time = ContinuousClock.now - began
            found.clockOffset = answer.response.header("date").flatMap(S3Date.http).map { $0 - clock.now }
            found.checksum = checksum(of: answer)
            versions.append(S3Client.receipt(answer.response).version)
            try client.confirmEncryption(answer, .putObject)
        } catch {
            found.storing = error
        }
        found.address = try client.address()
        if let error = found.storing, error.isOfBucket, versions.isEmpty { return found }
        if !versions.isEmpty {
            found.hasVersion = versions[0].map { $0 != "null" } ?? false
            found.keepsExisting = await storeAgain(content, key, &versions)
            found.readBack = await readBack(content, key)
        }
        found.sentinel = await sentinel()
        found.stranger = await stranger()
        found.versioning = await versioning()
        // A bucket has no lock without versions.
        if found.versioning?.value == .enabled { found.lock = await lock() }
        found.lifecycle = await lifecycle()
        found.uploads = await uploads()
        if !versions.isEmpty { found.removal = await remove(key, versions) }
        return found
    }

    // MARK: - The object

    private func store(
        _ content: [UInt8], _ key: ObjectKey, onlyIfAbsent: Bool
    ) async throws(SafeBackupError) -> S3Answer {
        var call = S3Call(.putObject, .put, key, expected: .receipt)
        call.headers = try client.headers(of: ObjectProperties(onlyIfAbsent: onlyIfAbsent), key: key)
        call.content = .object(.bytes(content))
        call.onlyIfAbsent = onlyIfAbsent
        do { return try await client.perform(call) } catch { throw error.error }
    }

    private func checksum(of answer: S3Answer) -> BucketFindings.Checksum {
        guard let (algorithm, value) = answer.checksum else {
            return client.learnt.withLock { $0.checksumsRefused } ? .refused : .signature
        }
        // Content-MD5 is never repeated, and every server compares it.
        if algorithm == .md5 { return .confirmed("Content-MD5") }
        let isRepeated = answer.response.header(algorithm.header) == value
        return isRepeated ? .confirmed(algorithm.rawValue) : .unconfirmed(algorithm.rawValue)
    }

    private func storeAgain(
        _ content: [UInt8], _ key: ObjectKey, _ versions: inout [String?]
    ) async -> ProbeAnswer<Bool> {
        do throws(SafeBackupError) {
            let version = S3Client.receipt(try await store(content, key, onlyIfAbsent: true).response).version
            if version != versions[0] { versions.append(version) }
            return .known(false)
        } catch {
            return error.code == S3Code.objectExists ? .known(true) : ProbeAnswer(error)
        }
    }

    private func readBack(_ content: [UInt8], _ key: ObjectKey) async -> ProbeAnswer<Bool> {
        do throws(SafeBackupError) {
            return .known(try await client.bytes(of: key, limit: 2 * Self.size)?.bytes == content)
        } catch {
            return ProbeAnswer(error)
        }
    }

    private func remove(_ key: ObjectKey, _ versions: [String?]) async -> ProbeAnswer<Bool> {
        for version in versions {
            var call = S3Call(.deleteObject, .delete, key, expected: .nothing)
            // Without it a version would stay, below a marker.
            if let version, version != "null" { call.query.append((name: "versionId", value: version)) }
            do { _ = try await client.perform(call) } catch { return ProbeAnswer(error.error) }
        }
        return .known(true)
    }

    // MARK: - The prefix

    private func sentinel() async -> ProbeAnswer<Bool> {
        do throws(SafeBackupError) {
            return .known(try await client.bytes(of: try keys.key(KeySpace.sentinel), limit: 1 << 20) != nil)
        } catch {
            return ProbeAnswer(error)
        }
    }

    private func stranger() async -> ProbeAnswer<String> {
        do throws(SafeBackupError) {
            let page = try await client.list(below: keys.prefix, after: nil)
            let area = keys.prefix + KeySpace.area.bytes + [UInt8(ascii: "/")]
            let other = page.objects.first { !$0.key.bytes.starts(with: area) && $0.key.bytes != keys.prefix }
            return .known(other.map { "\($0.key)" } ?? "")
        } catch {
            return ProbeAnswer(error)
        }
    }

    /// One page: whether there are any, and how old they are, is what matters.
    private func uploads() async -> ProbeAnswer<BucketFindings.Uploads> {
        do throws(SafeBackupError) {
            var call = S3Call(.listUploads, .get, expected: .document("ListMultipartUploadsResult"))
            call.query = [
                ("uploads", nil), ("encoding-type", "url"), ("prefix", try S3Client.text(keys.prefix)),
            ]
            let page: XMLElement
            do { page = try await client.perform(call).document } catch { throw error.error }
            let uploads = page.all("Upload")
            let begun = uploads.compactMap { $0.string("Initiated").flatMap(S3Date.iso) }
            return .known(BucketFindings.Uploads(count: uploads.count, oldest: begun.min()))
        } catch {
            return ProbeAnswer(error)
        }
    }

    // MARK: - The bucket

    private func versioning() async -> ProbeAnswer<BucketFindings.Versioning> {
        switch await part("versioning", .getVersioning, "VersioningConfiguration") {
        case .known(let element):
            switch element?.string("Status") {
            case "Enabled": .known(.enabled)
            case "Suspended": .known(.suspended)
            default: .known(.never)
            }
        case .denied: .denied
        case .notSupported: .notSupported
        case .failed(let error): .failed(error)
        }
    }

    private func lock() async -> ProbeAnswer<BucketFindings.Lock?> {
        switch await part("object-lock", .getConfiguration, "ObjectLockConfiguration") {
        case .known(let element): .known(element.flatMap { Self.lock(in: $0) })
        case .denied: .denied
        case .notSupported: .notSupported
        case .failed(let error): .failed(error)
        }
    }

    /// What an `ObjectLockConfiguration` says of versions for which nothing else is said.
    static func lock(in configuration: XMLElement) -> BucketFindings.Lock? {
        guard configuration.string("ObjectLockEnabled") == "Enabled",
            let rule = configuration.first("Rule")?.first("DefaultRetention"), let mode = rule.string("Mode")
        else { return nil }
        let time = rule.number("Days").map { "\($0) days" } ?? rule.number("Years").map { "\($0) years" }
        return BucketFindings.Lock(mode: mode, time: time ?? "a time that it does not say")
    }

    private func lifecycle() async -> ProbeAnswer<[LifecycleRule]> {
        switch await part("lifecycle", .getConfiguration, "LifecycleConfiguration") {
        case .known(let element): .known(element.map { LifecycleRule.all(in: $0) } ?? [])
        case .denied: .denied
        case .notSupported: .notSupported
        case .failed(let error): .failed(error)
        }
    }

    /// A part of the bucket's configuration; `nil`: it has none.
    private func part(
        _ name: String, _ operation: S3Operation, _ root: String
    ) async -> ProbeAnswer<XMLElement?> {
        var call = S3Call(operation, .get, expected: .document(root))
        call.query = [(name, nil)]
        do { return .known(try await client.perform(call).document) } catch {
            if error.status == 404 && error.rule.outcome != .bucketMissing { return .known(nil) }
            switch error.rule.outcome {
            case .denied: return .denied
            // What is not asked for by others is not known by all, and refused in many words.
            case .notSupported, .ours, .object, .setting: return .notSupported
            default: return .failed(error.error)
            }
        }
    }
}
