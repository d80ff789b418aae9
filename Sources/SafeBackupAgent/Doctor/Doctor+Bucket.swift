import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem

/// A bucket: what it can do, and what the keys may do there.
extension Doctor {
    /// One of the agent's. The state alone knows where a bucket is, and nothing of how it is spoken to.
    mutating func checkBucket(known bucket: Configuration.S3, _ subject: String) {
        let record = status?.destinations.first { $0.record.location == bucket.location }?.record
        // What is paused is not touched; that it is was told.
        if record?.pausedAt != nil { return }
        if settings != nil { return checkBucket(bucket, subject) }
        do throws(SafeBackupError) {
            if let configured = try configured(bucket.location).get() { return checkBucket(configured, subject) }
        } catch {
            report.add(.problem, "destination", error.message, subject: subject)
            return
        }
        report.add(
            .warning, "destination",
            "It is a bucket, and the state does not say at which server and with which keys: it was not looked at",
            subject: subject,
            action:
                "safebackup doctor --config FILE   (or: safebackup doctor \(printable(bucket.location)) --endpoint URL)"
        )
    }

    /// Asks the bucket.
    mutating func checkBucket(_ bucket: Configuration.S3, _ subject: String) {
        do throws(SafeBackupError) {
            try look(at: bucket, subject)
        } catch {
            report.add(.problem, "destination", error.message, subject: subject)
        }
        report.add(
            .ok, "permissions", "Its keys need no more than this policy (in the words of AWS IAM)", subject: subject,
            action: bucket.leastPolicy.json)
    }

    private mutating func look(at bucket: Configuration.S3, _ subject: String) throws(SafeBackupError) {
        let look = try BucketLook(bucket, clock: clock)
        do throws(SafeBackupError) {
            report.add(.ok, "keys", "They come from: \(try look.keys())", subject: subject)
        } catch {
            report.add(.problem, "keys", error.message, subject: subject)
            return
        }
        let found = try look.probe()
        if let error = found.storing, found.readBack == nil, found.sentinel == nil {
            report.add(.problem, "destination", error.message, subject: subject)
            return
        }
        tellServer(found, look.notices, subject)
        tellStoring(found, subject)
        tellPrefix(found, subject)
        tellVersions(found, bucket.versions, subject)
        tellLifecycle(found, bucket, subject)
        tellUploads(found, subject)
    }

    private mutating func tellServer(_ found: BucketFindings, _ notices: [S3Notice], _ subject: String) {
        let (origin, region) = (found.address.origin, found.address.region)
        let isHere = origin.host == "localhost" || origin.host == "[::1]" || origin.host.hasPrefix("127.")
        if origin.scheme == .http && !isHere {
            report.add(
                .warning, "destination",
                "\(origin.hostHeader) answers without TLS: whoever is on the way there reads what is saved",
                subject: subject, action: "endpoint = https://\(origin.hostHeader)   (if the server has it)")
        } else {
            report.add(
                .ok, "destination",
                "\(origin.hostHeader) answers\(origin.scheme == .https ? " over TLS" : ""), with the region \(region)",
                subject: subject)
        }
        for case .regionChanged(let old, let new) in notices {
            report.add(
                .warning, "destination", "The bucket is in the region \(new), not \(old): each start makes a detour",
                subject: subject, action: "region = \(new)")
        }
        guard let offset = found.clockOffset?.components.seconds else { return }
        if abs(offset) > 60 {
            report.add(
                .warning, "clock",
                "This machine's clock is \(abs(offset)) s \(offset > 0 ? "behind" : "ahead of") the server's; from 900 s on "
                    + "each start makes a detour, and other programs are refused",
                subject: subject, action: "timedatectl set-ntp true")
        } else {
            report.add(.ok, "clock", "It agrees with the server's to \(abs(offset) + 1) s", subject: subject)
        }
    }

    private mutating func tellStoring(_ found: BucketFindings, _ subject: String) {
        if let error = found.storing {
            report.add(.problem, "probe", error.message, subject: subject)
        } else {
            report.add(
                .ok, "probe", "1 KiB was stored in \(secondsText(found.time)) s, with everything that is configured",
                subject: subject)
            switch found.checksum {
            case .confirmed(let name): report.add(.ok, "checksums", "The server compares \(name)", subject: subject)
            case .unconfirmed(let name):
                report.add(
                    .ok, "checksums",
                    "The server says nothing of \(name); the signed SHA-256 of each body protects what is sent",
                    subject: subject)
            case .refused:
                report.add(
                    .warning, "checksums",
                    "The server refuses the checksum that is configured; the signed SHA-256 of each body protects what is "
                        + "sent", subject: subject, action: "checksum = none")
            case .signature:
                report.add(
                    .ok, "checksums", "The signed SHA-256 of each body protects what is sent", subject: subject)
            }
        }
        switch found.readBack {
        case nil: break
        case .known(true): report.add(.ok, "probe", "It came back with the same content", subject: subject)
        case .known(false):
            report.add(.problem, "probe", "What came back is not what was stored", subject: subject)
        case .denied:
            report.add(
                .warning, "permissions",
                "These keys may not read objects (s3:GetObject). Saving works; but nothing can be restored or verified with "
                    + "them, no older version is kept, and a renamed file is sent again. Whose bucket it is cannot be checked; after a "
                    + "loss of the state another prefix must be begun", subject: subject,
                action: "keep other keys, which may read, for restoring")
        case .notSupported:
            report.add(.problem, "probe", "The server cannot give objects back", subject: subject)
        case .failed(let error): report.add(.warning, "probe", error.message, subject: subject)
        }
        switch found.keepsExisting {
        case .known(true):
            report.add(.ok, "probe", "An object is not replaced where only a new one is allowed", subject: subject)
        case .known(false), .notSupported:
            report.add(
                .ok, "probe",
                "The server ignores If-None-Match: two agents that begin the same prefix at once do not notice each other",
                subject: subject)
        case .failed(let error): report.add(.warning, "probe", error.message, subject: subject)
        case nil, .denied: break
        }
        tellRemoval(found, subject)
    }

    private mutating func tellRemoval(_ found: BucketFindings, _ subject: String) {
        switch found.removal {
        case nil: break
        case .known: report.add(.ok, "probe", "It was removed again", subject: subject)
        case .denied where found.hasVersion:
            report.add(
                .ok, "probe",
                "These keys may not remove versions (s3:DeleteObjectVersion), so that what is stored is safe from them; the "
                    + "object of this trial stays: \(found.key)", subject: subject)
        case .denied:
            report.add(
                .ok, "probe",
                "These keys may not remove objects (s3:DeleteObject), so that what is stored is safe from them; what is "
                    + "renamed stays under both names, and the object of this trial stays: \(found.key)",
                subject: subject)
        case .notSupported:
            report.add(.warning, "probe", "The server cannot remove \(found.key), which stays", subject: subject)
        case .failed(let error): report.add(.warning, "probe", error.message, subject: subject)
        }
    }

    private mutating func tellPrefix(_ found: BucketFindings, _ subject: String) {
        let stranger = found.stranger?.value ?? ""
        switch found.sentinel {
        case .known(true): report.add(.ok, "destination", "It is a destination of safebackup", subject: subject)
        case .known(false) where !stranger.isEmpty:
            report.add(
                .problem, "destination",
                "It is no destination yet, and holds objects that safebackup did not write, as \(stranger): it is not "
                    + "begun there", subject: subject, action: "choose another prefix")
        case .known(false):
            report.add(.ok, "destination", "It is no destination yet: the first run begins it", subject: subject)
        case .failed(let error): report.add(.warning, "destination", error.message, subject: subject)
        case nil, .denied, .notSupported: break
        }
        switch found.stranger {
        case .denied:
            report.add(
                .warning, "permissions",
                "These keys may not list objects (s3:ListBucket): whether a prefix is empty is not known before it is begun, "
                    + "and an object that is not there looks like one that may not be read", subject: subject)
        case .failed(let error): report.add(.warning, "permissions", error.message, subject: subject)
        case .notSupported:
            report.add(.warning, "permissions", "The server does not list objects", subject: subject)
        case nil, .known: break
        }
    }

    private mutating func tellVersions(
        _ found: BucketFindings, _ wanted: BucketVersions, _ subject: String
    ) {
        switch found.versioning {
        case .known(.enabled):
            let prefix = found.prefix
            let days = found.lifecycle?.value?.filter { $0.reach(below: prefix) == .everything }
                .compactMap(\.versionDays).min()
            if let days {
                report.add(
                    .ok, "versions", "The bucket keeps what is replaced, for \(days) days", subject: subject)
            } else if wanted == .bucket {
                report.add(
                    .ok, "versions", "The bucket keeps what is replaced, without an end that is known",
                    subject: subject)
            } else {
                report.add(
                    .warning, "versions",
                    "The bucket keeps every object that is replaced or deleted, without an end that is known, though "
                        + "versions = \(wanted.rawValue): each of them costs", subject: subject,
                    action:
                        "give the bucket a lifecycle rule that ends noncurrent versions after some days, or suspend its "
                        + "versioning")
            }
        case .known(let state):
            let text = state == .suspended ? "has suspended its versioning" : "keeps no versions"
            if wanted == .bucket {
                report.add(
                    .warning, "versions", "The bucket \(text), though versions = bucket: what is replaced is gone",
                    subject: subject, action: "enable the bucket's versioning, or set versions = copy")
            } else {
                report.add(
                    .ok, "versions", "The bucket \(text) of its own; versions = \(wanted.rawValue)", subject: subject)
            }
        case let answer?:
            tellUnknown(answer, "versions", "Whether the bucket keeps versions", "s3:GetBucketVersioning", subject)
        case nil: break
        }
        switch found.lock {
        case .known(let lock?):
            report.add(
                .warning, "lock",
                "Object lock (\(lock.mode)) keeps each version for \(lock.time), whoever deletes it: each change costs so "
                    + "long", subject: subject)
        case .known(nil):
            report.add(.ok, "lock", "No object lock holds by itself", subject: subject)
        case let answer?:
            tellUnknown(answer, "lock", "The object lock", "s3:GetBucketObjectLockConfiguration", subject)
        case nil: break
        }
    }

    private mutating func tellLifecycle(
        _ found: BucketFindings, _ bucket: Configuration.S3, _ subject: String
    ) {
        guard let rules = found.lifecycle?.value else {
            guard let answer = found.lifecycle else { return }
            tellUnknown(answer, "lifecycle", "Rules that remove objects", "s3:GetLifecycleConfiguration", subject)
            return
        }
        let prefix = found.prefix
        var isHarmless = true
        for rule in rules where rule.reach(below: prefix) != .nothing {
            let isWhole = rule.reach(below: prefix) == .everything
            let name = rule.name.isEmpty ? "A lifecycle rule" : "The lifecycle rule \(printable(rule.name.utf8))"
            let what = isWhole ? "what is saved" : "a part of what is saved"
            if let removal = rule.removal {
                isHarmless = false
                report.add(
                    isWhole ? .problem : .warning, "lifecycle",
                    "\(name) removes \(what) \(removal), and safebackup takes it for saved", subject: subject,
                    action: "end the rule, or leave the prefix out of it")
            }
            if let archive = rule.archive {
                isHarmless = false
                report.add(
                    .warning, "lifecycle",
                    "\(name) moves \(what) to \(archive), from where it must be brought back before it can be restored",
                    subject: subject)
            }
        }
        if isHarmless {
            report.add(.ok, "lifecycle", "No rule of the bucket removes what is saved", subject: subject)
        }
        let ends = rules.contains { $0.uploadDays != nil && $0.reach(below: prefix) == .everything }
        if !ends {
            report.add(
                .ok, "lifecycle",
                "No rule ends uploads that were not finished; the agent ends its own after a day or more",
                subject: subject, action: "add a rule AbortIncompleteMultipartUpload, of 7 days")
        }
    }

    private mutating func tellUploads(_ found: BucketFindings, _ subject: String) {
        switch found.uploads {
        case .known(let uploads):
            guard let oldest = uploads.oldest, clock.now - oldest > .seconds(8 * 86_400) else {
                let text = "\(counted(uploads.count, "upload")) in parts under way, none of them old"
                report.add(.ok, "uploads", uploads.count == 0 ? "None is unfinished" : text, subject: subject)
                return
            }
            report.add(
                .warning, "uploads",
                "\(counted(uploads.count, "upload")) in parts unfinished, the oldest of \(oldest.iso8601): their parts cost",
                subject: subject,
                action: "start the agent, which ends those that nobody goes on with, or add a rule "
                    + "AbortIncompleteMultipartUpload")
        case let answer?:
            tellUnknown(
                answer, "uploads", "Which uploads are unfinished", "s3:ListBucketMultipartUploads", subject)
        case nil: break
        }
    }

    /// What need not be known.
    private mutating func tellUnknown<Value>(
        _ answer: ProbeAnswer<Value>, _ area: String, _ what: String, _ permission: String, _ subject: String
    ) {
        switch answer {
        case .known: break
        case .denied:
            report.add(.ok, area, "\(what) is not known: these keys may not ask (\(permission))", subject: subject)
        case .notSupported:
            report.add(.ok, area, "\(what) is not known: the server does not tell", subject: subject)
        case .failed(let error): report.add(.warning, area, error.message, subject: subject)
        }
    }
}
