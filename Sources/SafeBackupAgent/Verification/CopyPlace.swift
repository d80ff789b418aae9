import SafeBackupCore
import SafeBackupLocal
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Where a verification reads copies. Blocks.
enum CopyPlace: Sendable {
    case directory(ConfinedDirectory)
    case bucket(BucketBackup)

    /// - Parameter bucket: reaches one that the state knows.
    /// - Throws: what holds it, if it is not there; `invalidConfiguration` if a person has it paused.
    static func open(
        _ record: DestinationRecord, bucket: (([UInt8]) throws(SafeBackupError) -> BucketBackup)?
    ) throws(SafeBackupError) -> CopyPlace {
        guard record.kind != "local", let bucket else {
            return .directory(try VerifiedDestination.open(record, for: "verify"))
        }
        if record.pausedAt != nil { throw VerifiedDestination.paused(record) }
        let place = CopyPlace.bucket(try bucket(record.location))
        try place.check(record)
        return place
    }

    /// Proves that it still is the destination that the state knows.
    func check(_ record: DestinationRecord) throws(SafeBackupError) {
        guard case .bucket(let bucket) = self else { return try VerifiedDestination.check(record) }
        guard try bucket.identifier() == record.sentinel, record.sentinel != nil else {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(record.location)) does not hold the backup that this state knows, or these keys may not read "
                    + "it; nothing can be compared", disposition: .destinationUnavailable)
        }
    }

    /// One finding for each, in their order.
    /// - Throws: what is the destination's failure and not a copy's.
    func read(_ copies: [CopyRecord]) throws(SafeBackupError) -> [CopyReader.Finding] {
        switch self {
        case .bucket(let bucket): return try bucket.read(copies).map(\.finding)
        case .directory(let root):
            let reader = CopyReader(root)
            var found: [CopyReader.Finding] = []
            for copy in copies {
                do throws(Errno) {
                    found.append(try reader.read(copy))
                } catch {
                    throw VerifiedDestination.failure(error, copy.location)
                }
            }
            return found
        }
    }
}

/// What an object was found to be.
struct ObjectContent: Sendable {
    var kind: EntryKind
    var size: Int64
    var digest: Digest
    /// What it says of itself.
    var metadata: CopyMetadata
    /// By the server's clock.
    var modifiedAt: Timestamp?

    /// Whether it is what the catalogue tells of the copy.
    func isContent(of copy: CopyRecord) -> Bool {
        kind == copy.kind && digest == copy.digest && (kind != .file || size == copy.size)
    }
}

extension BucketBackup {
    /// Reads copies and compares them; of one that has another content, that as well.
    func read(
        _ copies: [CopyRecord]
    ) throws(SafeBackupError) -> [(finding: CopyReader.Finding, found: ObjectContent?)] {
        var results: [(finding: CopyReader.Finding, found: ObjectContent?)] = []
        for part in Self.portions(of: copies, size: \.size) {
            for (copy, reading) in zip(part, try contents(of: part.map(\.location))) {
                switch reading {
                case .missing: results.append((.faulty(CopyFault(kind: .missing)), nil))
                case .damaged: results.append((.faulty(CopyFault(kind: .content)), nil))
                case .refused(let error): results.append((.forbidden(error.message), nil))
                case .content: results.append(Self.judge(try Self.content(reading, at: copy.location), copy))
                }
            }
        }
        return results
    }

    /// One object; `nil` where it is not there, or cannot be had whole.
    func content(at location: RelativePath) throws(SafeBackupError) -> ObjectContent? {
        guard let reading = try contents(of: [location]).first else { return nil }
        return try Self.content(reading, at: location)
    }

    private static func judge(
        _ found: ObjectContent?, _ copy: CopyRecord
    ) -> (finding: CopyReader.Finding, found: ObjectContent?) {
        guard let found else { return (.faulty(CopyFault(kind: .missing)), nil) }
        if found.isContent(of: copy) { return (.sound, nil) }
        return (.faulty(CopyFault(kind: found.kind == copy.kind ? .content : .kind)), found)
    }

    private static func content(
        _ reading: ObjectReading, at location: RelativePath
    ) throws(SafeBackupError) -> ObjectContent? {
        guard case .content(let file, let size, let metadata, let modifiedAt) = reading else { return nil }
        do throws(Errno) {
            let digest = try StoredContent().read(file, size: size) { (_, _) throws(Errno) in }
            return ObjectContent(
                kind: metadata.kind, size: size, digest: digest, metadata: metadata, modifiedAt: modifiedAt)
        } catch {
            throw SafeBackupError(
                .exhausted, "What was downloaded of \(location) cannot be read back: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
    }
}
