import SafeBackupCore
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem

/// What a bucket is found to be, for a person who is asked about it.
struct BucketFinding: Sendable {
    /// What keeps it from being read.
    var failure: SafeBackupError?
    var sentinel: Sentinel?
    /// Something damaged the sentinel.
    var isDamaged = false
    /// Nothing is there but what is ours.
    var isEmpty = false
    /// Of the newest catalogue copy that can be used.
    var catalogue: CatalogueHeader?

    /// Looks; writes nothing there.
    init(at bucket: S3Destination) async {
        do throws(SafeBackupError) {
            do throws(SafeBackupError) {
                let found = try await bucket.inspect()
                if bucket.isBlind {
                    failure = SafeBackupError(
                        .sentinelMissing,
                        "these keys may not read objects there (s3:GetObject), so that nobody can look",
                        disposition: .auth)
                    return
                }
                (sentinel, isEmpty) = (found.sentinel, found.isEmpty)
            } catch {
                guard error.code == .sentinelForeign, try await bucket.hasDamagedSentinel() else { throw error }
                isDamaged = true
            }
            if sentinel == nil {
                catalogue = CatalogueFile.newestFinished(of: try await bucket.catalogues()).newest?.header
            }
        } catch {
            failure = error
        }
    }
}

extension Acceptance {
    /// Of a destination in a bucket. Its name and prefix are what it is known by, so that one which only lost its mark goes
    /// on as it was, where its catalogue copy proves whose it is.
    init(_ destination: StateStatus.Destination, _ look: BucketFinding) {
        let record = destination.record
        let name = "The destination \(printable(record.location))"
        if let failure = look.failure {
            self.init(
                record.location, step: nil, isStillHeld: true,
                ["There is nothing to accept at it now: " + failure.message])
            return
        }
        if let sentinel = look.sentinel {
            self = Acceptance(
                sentinel, record, name, elsewhere: "give the right bucket and prefix, or save to another prefix")
            return
        }
        let known =
            "  known          \(counted(destination.counts.files, "file")), \(ByteCount(destination.counts.bytes)) saved there"
        let what = look.isDamaged ? "has a damaged mark" : "has lost the mark"
        let mark = "\(name) \(what) (.safebackup/destination.json)."
        if let catalogue = look.catalogue, catalogue.sentinel == record.sentinel {
            self.init(
                record.location, step: .repair(record.id),
                [
                    "\(mark) By its catalogue copy it is the one that is known.", known,
                    "  found now      a catalogue copy of \(catalogue.exportedAt.iso8601)", "If you accept:",
                    "  * the mark is written anew from what this state knows",
                    "  * saving goes on; no object is touched. 'safebackup verify' tells whether any was lost too.",
                ])
            return
        }
        if look.isEmpty && look.catalogue == nil {
            self.init(
                record.location, step: .replacement(record.id),
                [
                    "\(name) was emptied, or is another bucket.", known, "  found now      no object",
                    "If you accept:", "  * it is the destination from now on, and gets a new mark",
                    "  * all copies and older versions that were in the former one are recorded as lost",
                    "  * everything is saved again.",
                ])
            return
        }
        self.init(
            record.location, step: nil, isStillHeld: true,
            [
                "\(mark) It holds "
                    + (look.catalogue == nil
                        ? "objects, and no catalogue copy that tells whose they are."
                        : "the catalogue copy of another destination (\(printable((look.catalogue?.sentinel ?? "").utf8))).")
                    + " Nothing is written there: put the mark back, or save to another prefix."
            ])
    }
}
