/// What each answer of an S3 server means. From what botocore, minio-go, rclone, s5cmd and the CRT do, and from S3's
/// list of error codes; where they differ, what loses no time and no data.
///
/// In this order: the code in the body, then the status. An unknown code goes by its status, so that a server with codes
/// of its own is retried where HTTP says so.
package enum S3ErrorMatrix {
    /// What a request had that decides what its refusal means.
    package struct Sent: Sendable, Hashable {
        package var operation: S3Operation
        package var hasChecksum = false
        package var hasACL = false
        package var onlyIfAbsent = false

        package init(_ operation: S3Operation) { self.operation = operation }
    }

    /// Local clocks this far from the server's explain a refused signature.
    package static let skewLimit = Duration.seconds(240)

    /// - Parameter isSkewed: the answer's time is more than `skewLimit` from ours.
    package static func rule(for answer: S3ErrorAnswer, _ sent: Sent, isSkewed: Bool = false) -> S3Rule {
        // Proxies and gateways answer some failures with a page; the status says which.
        if answer.isHTML, answer.status < 406 && answer.status != 401 { return S3Rule(.tell, .notS3, notS3) }
        guard let code = answer.code else {
            return statusRule(answer, sent) ?? S3Rule(.tell, .object)
        }
        return worded(code, answer, sent) ?? contextual(code, answer, sent, isSkewed: isSkewed) ?? codes[code]
            ?? statusRule(answer, sent) ?? S3Rule(.tell, .object)
    }

    static let notS3 = "what answers is no S3 server (a web server, a proxy, a login page?); check the endpoint"
    private static let slow = S3Rule(
        .slowDown, .busy, "the server asks for fewer requests; lower max-connections if it lasts")
    private static let fault = S3Rule(.retry, .failed, "the server failed again and again; it is tried again later")
    private static let full = S3Rule(
        .tell, .full, "the bucket or its account is full or over its quota; make room or raise the quota")

    /// Codes whose meaning is in their words.
    private static func worded(_ code: String, _ answer: S3ErrorAnswer, _ sent: Sent) -> S3Rule? {
        let words = (answer.message ?? "").lowercased()
        let header = (answer.header ?? "").lowercased()
        let isAboutChecksum =
            words.contains("checksum") || words.contains("content-md5") || header.contains("checksum")
            || header == "content-md5"
        switch code {
        case "NotImplemented", "ExcessHeaderValues", "InvalidArgument", "InvalidRequest":
            if code == "InvalidRequest", words.contains("content-md5") && words.contains("required") {
                return S3Rule(.tell, .ours, "object lock needs a checksum with each object")
            }
            if words.contains("object lock") {
                return S3Rule(.tell, .setting, "the bucket has no object lock; remove the retention settings")
            }
            if sent.hasChecksum && isAboutChecksum {
                return S3Rule(.dropChecksums, .setting, "the server does not know this checksum; set checksum = none")
            }
            if header.contains("x-amz-acl") || words.contains("x-amz-acl") {
                return S3Rule(.tell, .setting, "the server does not take this ACL; remove the option acl")
            }
            if header.contains("server-side-encryption") || words.contains("server-side-encryption")
                || words.contains("server side encryption") || words.contains("kms")
            {
                return S3Rule(
                    .tell, .setting, "the server does not take this encryption; correct the option encryption")
            }
            if words.contains("storage-class") || words.contains("storage class") {
                return S3Rule(
                    .tell, .setting, "the server does not have this storage class; correct the option storage-class")
            }
            if words.contains("tagging") || header.contains("tagging") {
                return S3Rule(.tell, .setting, "the server has no tags; remove the option tags")
            }
            return nil
        case "AccessDenied", "Forbidden":
            if words.contains("cap exceeded") || words.contains("quota") { return full }
            if words.contains("object lock") || words.contains("worm") {
                return S3Rule(.tell, .object, "object lock protects it until its retention ends")
            }
            return nil
        default:
            if words.contains("reduce your request rate") { return slow }
            if code.hasPrefix("KMS."), words.contains("rate") { return codes["KMS.ThrottlingException"] }
            return nil
        }
    }

    /// Codes that mean something else for another request.
    private static func contextual(
        _ code: String, _ answer: S3ErrorAnswer, _ sent: Sent, isSkewed: Bool
    ) -> S3Rule? {
        switch code {
        case "SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure":
            let advice =
                "the secret key is wrong, or a proxy on the way changes headers or paths; check secret-access-key"
            return isSkewed
                ? S3Rule(.correctClock, .clock, clockAdvice) : S3Rule(.renewCredentials, .credentials, advice)
        case "AuthorizationHeaderMalformed":
            if answer.region != nil { return S3Rule(.changeRegion, .setting, "set the region of the bucket") }
            return S3Rule(.tell, .setting, "the signature is not what the server expects; check region and endpoint")
        case "AccessDenied", "Forbidden":
            var advice = "the policy must allow \(sent.operation.action) there"
            if sent.operation.isWrite {
                if sent.hasACL { advice += " and, because of the option acl, s3:PutObjectAcl" }
                advice +=
                    "; with KMS also kms:GenerateDataKey and kms:Decrypt; a rule about TLS, the network or MFA denies too"
            }
            return S3Rule(.renewCredentials, .denied, advice)
        case "NoSuchUpload":
            switch sent.operation {
            case .completeUpload: return S3Rule(.verify, .uploadLost, lostUpload)
            default: return S3Rule(.beginUploadAgain, .uploadLost, lostUpload)
            }
        case "PreconditionFailed":
            if sent.onlyIfAbsent { return S3Rule(.verify, .exists, "something is under that key already") }
            return S3Rule(.tell, .object)
        case "ConditionalRequestConflict":
            if sent.operation == .completeUpload { return S3Rule(.beginUploadAgain, .uploadLost, lostUpload) }
            return S3Rule(.retry, .failed, "another request for the same key was under way")
        case "NotImplemented", "MethodNotAllowed":
            if !sent.operation.isWrite {
                return S3Rule(.tell, .notSupported, "the server does not have this operation")
            }
            return S3Rule(.tell, .setting, "the server does not have what the request asks for; \(options)")
        default: return nil
        }
    }

    static let clockAdvice = "the clock of this machine is wrong; enable time synchronisation"
    private static let lostUpload =
        "the unfinished upload was ended by a lifecycle rule or by somebody; it begins again"
    private static let options = "remove what it may not know: tags, storage-class, encryption, acl or object lock"

    /// Codes that mean the same for every request.
    private static let codes: [String: S3Rule] = {
        var table: [String: S3Rule] = [:]
        func add(_ names: [String], _ rule: S3Rule) { for name in names { table[name] = rule } }

        add(["InternalError", "InternalFailure", "ServiceUnavailable", "ServiceFailure", "OperationAborted"], fault)
        add(["XMinioServerNotInitialized", "XMinioBackendDown"], fault)
        add(
            ["RequestTimeout", "RequestTimeoutException"],
            S3Rule(
                .retry, .failed,
                "no data reached the server for some 20 s; the line stalls, or max-connections is too high"))
        add(["IncompleteBody"], S3Rule(.retry, .failed, "the connection was cut while the object was sent"))
        add(
            [
                "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "ThrottledException",
                "RequestThrottled", "RequestThrottledException", "RequestLimitExceeded", "LimitExceededException",
                "TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded", "PriorRequestNotComplete",
                "EC2ThrottledException",
            ], slow)
        add(
            ["KMS.ThrottlingException"],
            S3Rule(.slowDown, .busy, "KMS is asked too often; enable S3 Bucket Keys for the bucket"))
        add(
            ["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"],
            S3Rule(.correctClock, .clock, clockAdvice))
        add(
            ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"],
            S3Rule(
                .renewCredentials, .credentials, "the temporary credentials have expired; renew them at their source"))
        add(
            ["InvalidToken"],
            S3Rule(.renewCredentials, .credentials, "the session token is malformed or of another account"))
        add(
            ["InvalidAccessKeyId"],
            S3Rule(
                .renewCredentials, .credentials,
                "the access key is not known there: another endpoint's, deleted, or only just made"))
        add(
            ["AllAccessDisabled", "AccountProblem", "NotSignedUp", "UserSuspended", "InvalidPayer"],
            S3Rule(.tell, .credentials, "the account has a problem; ask the provider"))
        add(
            ["MissingSecurityElement", "MissingSecurityHeader", "InvalidSecurity", "CredentialsNotSupported"],
            S3Rule(.tell, .credentials, "the server wants another kind of signature; check the endpoint"))
        add(
            ["PermanentRedirect", "TemporaryRedirect", "Redirect", "IllegalLocationConstraintException"],
            S3Rule(
                .changeRegion, .setting,
                "the bucket is in another region or at another endpoint; set region or endpoint"))
        add(
            ["InvalidRegionName"],
            S3Rule(.tell, .setting, "the region is not enabled for the account; correct the option region"))
        add(
            ["NoSuchBucket"],
            S3Rule(.tell, .bucketMissing, "check bucket, endpoint, region, account and addressing-style"))
        add(["InvalidBucketName"], S3Rule(.tell, .setting, "correct the bucket's name"))
        add(
            ["AccessControlListNotSupported", "InvalidBucketAclWithObjectOwnership"],
            S3Rule(
                .tell, .setting,
                "the bucket has ACLs disabled (Bucket owner enforced); remove the option acl, or set it to "
                    + "bucket-owner-full-control"))
        add(["InvalidStorageClass"], S3Rule(.tell, .setting, "correct the option storage-class"))
        add(
            ["ObjectLockConfigurationNotFoundError", "InvalidRetentionPeriod"],
            S3Rule(.tell, .setting, "the bucket has no object lock, or not this period; correct the retention settings")
        )
        add(["ObjectLocked"], S3Rule(.tell, .object, "object lock protects it until its retention ends"))
        add(
            [
                "KMS.DisabledException", "KMS.NotFoundException", "KMS.InvalidStateException", "KMS.InvalidKeyUsage",
                "KMS.KMSInvalidStateException", "KMS.InvalidKeyUsageException",
            ],
            S3Rule(
                .tell, .setting,
                "the KMS key is disabled, deleted or not in the bucket's region; correct the option kms-key"))
        add(
            [
                "InvalidEncryptionAlgorithmError", "InvalidEncryptionAlgorithm",
                "ServerSideEncryptionConfigurationNotFoundError",
            ], S3Rule(.tell, .setting, "correct the option encryption"))
        add(
            [
                "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage",
                "StorageCapExceeded", "ServiceQuotaExceededException",
            ], full)
        add(
            ["BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"],
            S3Rule(.sendAgain, .damaged, "what arrived is not what was sent (memory, network card or a proxy?)"))
        add(
            ["InvalidPart"], S3Rule(.beginUploadAgain, .uploadLost, "the server misses a part; the upload begins again")
        )
        add(["NoSuchKey", "NoSuchVersion"], S3Rule(.tell, .absent))
        add(["InvalidObjectState"], S3Rule(.tell, .object, "it is archived; have it restored at the provider first"))
        add(
            ["EntityTooLarge", "MaxMessageLengthExceeded"],
            S3Rule(.tell, .object, "it is larger than the server allows"))
        add(["KeyTooLongError", "KeyTooLong"], S3Rule(.tell, .object, "its path is too long for a key (1,024 bytes)"))
        add(
            [
                "InvalidTag", "TooManyTags", "MetadataTooLarge", "InvalidObjectName", "XMinioInvalidObjectName",
                "UnexpectedContent",
            ],
            S3Rule(.tell, .object))
        add(
            [
                "InvalidDigest", "InvalidPartOrder", "EntityTooSmall", "MissingContentLength", "MalformedXML",
                "MalformedPOSTRequest", "MissingRequestBodyError", "InvalidURI", "InvalidRequest", "InvalidArgument",
                "RequestHeaderSectionTooLarge", "RequestIsNotMultiPartContent", "ExcessHeaderValues",
            ], S3Rule(.tell, .ours, "please report this with the request's id"))
        return table
    }()

    /// By the status alone; `nil` for one that says nothing but "no".
    private static func statusRule(_ answer: S3ErrorAnswer, _ sent: Sent) -> S3Rule? {
        switch answer.status {
        case 200...299: S3Rule(.retry, .failed, "the answer was cut off")
        case 301, 302, 307, 308:
            S3Rule(
                .changeRegion, .setting,
                "the bucket is in another region or at another endpoint; set region or endpoint")
        case 400 where sent.operation == .headObject || sent.operation == .headBucket:
            S3Rule(.changeRegion, .setting, "check region, endpoint and keys")
        case 401: S3Rule(.tell, .credentials, "a proxy or gateway before the server wants a login of its own")
        case 403 where answer.code == nil:
            S3Rule(.renewCredentials, .denied, "the policy must allow \(sent.operation.action) there")
        case 404:
            switch sent.operation {
            case .uploadPart, .uploadPartCopy, .listParts, .abortUpload:
                S3Rule(.beginUploadAgain, .uploadLost, lostUpload)
            case .completeUpload: S3Rule(.verify, .uploadLost, lostUpload)
            case .headObject, .getObject, .copyObject, .deleteObject, .getConfiguration: S3Rule(.tell, .absent)
            default: codes["NoSuchBucket"]
            }
        case 405:
            sent.operation.isWrite
                ? S3Rule(.tell, .notS3, notS3) : S3Rule(.tell, .notSupported, "the server does not have this operation")
        case 407: S3Rule(.tell, .setting, "the proxy wants a name and a password; put them into the option proxy")
        case 408, 499, 520...524:
            S3Rule(.retry, .failed, "a time-out before the server; it is tried again later")
        case 409: S3Rule(.retry, .failed, "it conflicts with another request")
        case 412 where sent.onlyIfAbsent: S3Rule(.verify, .exists, "something is under that key already")
        case 413: S3Rule(.tell, .setting, "a proxy or gateway limits the size of a body; lower part-size")
        case 411, 414, 415, 417, 431, 505: S3Rule(.tell, .ours, "please report this with the request's id")
        case 429: slow
        case 501:
            sent.operation.isWrite
                ? S3Rule(.tell, .setting, "the server does not have what the request asks for; \(options)")
                : S3Rule(.tell, .notSupported, "the server does not have this operation")
        case 507: full
        case 509: slow
        case 500...599: fault
        default: nil
        }
    }

    /// What a request without an answer means.
    package static func rule(for failure: TransportFailure) -> S3Rule {
        let later = "it is tried again by itself"
        return switch failure.kind {
        case .nameNotFound:
            S3Rule(
                .retry, .unreachable,
                "check the network and the endpoint; a wrong bucket name looks like this too, unless addressing-style = path"
            )
        case .proxyNotFound: S3Rule(.retry, .unreachable, "check the option proxy")
        case .cannotConnect, .connectTimedOut, .stalled, .connectionLost: S3Rule(.retry, .unreachable, later)
        case .tlsFailed:
            S3Rule(
                .sendAgain, .untrusted, "plain HTTP on that port, an old TLS, or a proxy between? Check the endpoint")
        case .certificateNotTrusted:
            S3Rule(
                .tell, .untrusted,
                "name its authority with ca-bundle; for a bucket with dots in its name set addressing-style = path")
        case .certificateFileFailed: S3Rule(.tell, .setting, "check ca-bundle and client-certificate")
        case .notHTTP, .tooLarge: S3Rule(.tell, .notS3, notS3)
        case .localFile: S3Rule(.tell, .failed, "a file of this machine failed")
        case .cancelled: S3Rule(.tell, .interrupted)
        case .badRequest: S3Rule(.tell, .setting, "check the endpoint")
        case .noMemory: S3Rule(.slowDown, .noMemory, "lower max-connections or part-size")
        }
    }
}
