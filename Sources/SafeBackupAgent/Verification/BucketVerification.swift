package import SafeBackupCore
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem

/// Reads the copies in a bucket by itself, as on a new machine, and compares them with its catalogue copy. Writes nothing.
///
/// As with a directory, the catalogue copy may be older than the backup: what is not where it says is looked for among the
/// objects that it does not know, and what an agent stored after it is told as not compared, not as damaged.
package struct BucketVerification {
    private let bucket: BucketBackup
    private let tell: (String) -> Void
    private let file: CatalogueFileReader
    private var report = VerifyReport()
    /// By the size under which they may lie somewhere else.
    private var suspects: [Int64: [Suspect]] = [:]
    private var count = 0
    /// Where something else lies than the catalogue says.
    private var replaced: Set<RelativePath> = []

    private static let batch = 200
    /// For how many copies that are not where the catalogue says the backup is searched: they are kept in memory.
    private static let searchLimit = 20_000

    /// A copy that has not its content where the catalogue says.
    private struct Suspect {
        var copy: CopyRecord
        var fault: CopyFault.Kind
        /// By an agent, after the catalogue copy was written.
        var isReplaced: Bool
    }

    /// Blocks.
    /// - Parameters:
    ///   - paths: as of `Verification`.
    ///   - tell: called for each damaged copy.
    /// - Throws: `invalidConfiguration` where there is no catalogue copy that can be used, and a holding error where there
    ///   is no backup, or where the bucket cannot be read any more.
    package static func run(
        from bucket: BucketBackup, paths: [[UInt8]], tell: @escaping (String) -> Void
    ) throws(SafeBackupError) -> VerifyReport {
        try SHA256.requireAvailable()
        let (found, notes) = CatalogueSelection.checkedFile(of: try bucket.catalogues())
        guard let found else {
            throw SafeBackupError(
                .invalidConfiguration,
                ([
                    "\(printable(bucket.location)) has no catalogue copy that can be used, and without one nobody knows what "
                        + "was saved; its objects are plain files, which any client of S3 gets back"
                ] + notes)
                .joined(separator: "\n"), disposition: .permanent)
        }
        let began = ContinuousClock.now
        let scopes = try CatalogueSelection(inBucket: found, bucket.nothing, bucket.location).scopes(of: paths)
        var work = BucketVerification(bucket, found, tell)
        // One that is damaged is as much a finding as a damaged copy.
        work.report.failures = notes
        if try bucket.identifier() != found.header.sentinel {
            work.report.failures.append(
                "The catalogue copy is that of another destination than .safebackup/destination.json tells: what is told "
                    + "here may be wrong")
        }
        try work.go(through: scopes)
        work.report.finish(hasPaths: !paths.isEmpty, since: began)
        return work.report
    }

    private init(_ bucket: BucketBackup, _ file: CatalogueFileReader, _ tell: @escaping (String) -> Void) {
        (self.bucket, self.file, self.tell) = (bucket, file, tell)
        report.catalogueFrom = file.header.exportedAt.iso8601
        (report.notKnown, report.notKnownNames) = (0, [])
    }

    private mutating func go(through scopes: [CopyScope]) throws(SafeBackupError) {
        for scope in scopes {
            var cursor: CopyCursor?
            repeat {
                let page = try file.copies(scope, after: cursor, limit: Self.batch)
                try read(page.copies)
                cursor = page.next
            } while cursor != nil
        }
        for scope in scopes {
            switch scope {
            case .all: try list(below: .root, counts: true)
            case .below(let location): try list(below: location, counts: true)
            case .of: break
            }
        }
        // It may have been renamed to anywhere.
        if count > 0 && scopes != [.all] { try list(below: .root, counts: false) }
        for suspect in suspects.values.joined().sorted(by: { $0.copy.location < $1.copy.location }) {
            try settle(suspect)
        }
    }

    // MARK: What the catalogue knows

    private mutating func read(_ copies: [CopyRecord]) throws(SafeBackupError) {
        let known = copies.filter { $0.digest != nil }
        report.withoutDigest += copies.count - known.count
        for (copy, result) in zip(known, try bucket.read(known)) {
            switch result.finding {
            case .sound: noteSound(copy)
            case .forbidden(let reason):
                report.note(unverified: "The stored copy \(copy.location) cannot be read: \(reason)")
            case .faulty(let fault):
                let isReplaced = result.found.map(isNewer) ?? false
                let suspect = Suspect(copy: copy, fault: fault.kind, isReplaced: isReplaced)
                if count >= Self.searchLimit {
                    try settle(suspect)
                    continue
                }
                count += 1
                if fault.kind != .missing { replaced.insert(copy.location) }
                suspects[copy.size, default: []].append(suspect)
            }
        }
    }

    private mutating func noteSound(_ copy: CopyRecord) {
        report.copies += 1
        report.bytes += copy.size
        if copy.isDamaged { report.soundAgain += 1 }
    }

    /// An agent made it after the catalogue was written, and it is what that says of itself.
    private func isNewer(_ found: ObjectContent) -> Bool {
        guard found.metadata.lease != nil, let modifiedAt = found.modifiedAt,
            // The server's times are whole seconds.
            modifiedAt.microseconds / 1_000_000 >= file.header.exportedAt.microseconds / 1_000_000
        else { return false }
        return found.metadata.digest.map { $0 == found.digest } ?? true
    }

    // MARK: What it does not know

    /// - Parameter counts: what is not in the catalogue is told; else it is only looked for what is missed.
    private mutating func list(below location: RelativePath, counts: Bool) throws(SafeBackupError) {
        var next: String?
        repeat {
            let page = try bucket.objects(below: location, after: next)
            for object in page.objects
            where !object.isDirectory
                && (!KeySpace.isReserved(object.location) || object.location.isWithin(KeySpace.versions))
            {
                try meet(object, counts)
            }
            next = page.next
        } while next != nil
    }

    private mutating func meet(_ object: StoredObject, _ counts: Bool) throws(SafeBackupError) {
        let isKnown = try file.hasCopy(at: object.location)
        // What took a copy's place may be another copy.
        if isKnown && !replaced.contains(object.location) { return }
        if try isFound(object) || isKnown || !counts { return }
        // Some servers take the slash from the name of a directory's object.
        if object.size == 0, try bucket.content(at: object.location)?.kind == .directory { return }
        report.note(notKnown: object.location)
    }

    /// Whether it is one that is looked for.
    private mutating func isFound(_ object: StoredObject) throws(SafeBackupError) -> Bool {
        guard suspects[object.size] != nil, let content = try bucket.content(at: object.location) else { return false }
        guard let index = suspects[object.size]?.firstIndex(where: { content.isContent(of: $0.copy) }),
            let suspect = suspects[object.size]?.remove(at: index)
        else { return false }
        if suspects[object.size]?.isEmpty == true { suspects[object.size] = nil }
        noteSound(suspect.copy)
        return true
    }

    /// What was found nowhere.
    private mutating func settle(_ suspect: Suspect) throws(SafeBackupError) {
        if suspect.isReplaced { return report.note(unverified: VerifyReport.replaced(suspect.copy.location)) }
        tell(try report.add(suspect.copy, suspect.fault, by: file, of: bucket.location))
    }
}
