import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("The client of a bucket, with scripted answers")
struct S3ClientTests {
    private static let once = ObjectProperties(metadata: ["mtime": "1.5"], onlyIfAbsent: true)

    @Test("A changed file is exactly one PUT, and its body's SHA-256 is the one that the reader has")
    func onePut() async throws {
        let transport = ScriptedTransport([.stored])
        let client = try S3Client.scripted(transport)
        let buffer = PartBuffer(capacity: 16)
        buffer.fill { memory in
            memory.copyBytes(from: Array("hello".utf8))
            return 5
        }
        let digest = SHA256.digest(of: Array("hello".utf8))
        let receipt = try await client.put(
            ObjectKey(unchecked: Array("p/ä b+.txt".utf8)), .buffer(buffer, sha256: digest),
            ObjectProperties(metadata: ["mtime": "1.5"]))
        #expect(receipt == ObjectReceipt(etag: "\"e\""))
        let request = try #require(transport.requests.first)
        #expect(transport.requests.count == 1)
        #expect(request.line == "PUT /b/p/%C3%A4%20b%2B.txt")
        #expect(request.header("x-amz-content-sha256") == digest.hex)
        #expect(request.header("x-amz-meta-mtime") == "1.5")
        let sent = Set(request.headers.map(\.name))
        #expect(
            sent == [
                "content-type", "x-amz-meta-mtime", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token",
                "authorization",
            ])
    }

    @Test("AWS over HTTPS compares a CRC64NVME; every other server gets the SHA-256 and no header that it may not know")
    func integrity() async throws {
        let transport = ScriptedTransport([.stored])
        _ = try await S3Client.scripted(transport, isAWS: true).put(key("k"), .bytes([1, 2]), ObjectProperties())
        _ = try await S3Client.scripted(transport).put(key("k"), .bytes([1, 2]), ObjectProperties())
        _ = try await S3Client.scripted(transport) { $0.checksum = .md5 }.put(
            key("k"), .bytes(Array("hello".utf8)), ObjectProperties())
        let requests = transport.requests
        #expect(requests[0].header("x-amz-content-sha256") == "UNSIGNED-PAYLOAD")
        #expect(requests[0].header("x-amz-checksum-crc64nvme")?.count == 12)
        #expect(requests[1].header("x-amz-content-sha256") == SHA256.digest(of: [1, 2]).hex)
        #expect(!requests[1].headers.contains { $0.name.contains("checksum") || $0.name == "content-md5" })
        #expect(requests[2].header("content-md5") == "XUFAKrxLKna5cZ2REBfFkg==")
    }

    @Test("A server that knows no checksums is asked without, now and from now on, and somebody is told once")
    func dropChecksums() async throws {
        let record = Record()
        let transport = ScriptedTransport { request, _ in
            request.header("x-amz-checksum-crc32") == nil && request.header("x-amz-checksum-algorithm") == nil
                ? request.method == .post
                    ? .answer(
                        200, "<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>")
                    : .stored
                : .error(
                    400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received for this API call.")
        }
        let first = try S3Client.scripted(transport, record) { $0.checksum = .crc32 }
        _ = try await first.beginUpload(key("k"), ObjectProperties())
        #expect(transport.requests.count == 2)
        let client = try S3Client.scripted(transport, record) { $0.checksum = .crc32 }
        for _ in 0..<2 { _ = try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(transport.requests.count == 5)
        #expect(record.notices == [.checksumsDropped, .checksumsDropped])
        #expect(record.waits.isEmpty)
    }

    @Test("Waits double from one failure to the next, the budget pays for them, and a success ends it")
    func retries() async throws {
        let record = Record()
        let transport = ScriptedTransport([
            .error(500, "InternalError"), .lost(), .error(503, "SlowDown"),
            .answer(503, headers: [("retry-after", "7")]),
            .stored,
        ])
        let client = try S3Client.scripted(transport, record)
        _ = try await client.put(key("k"), .bytes([1]), ObjectProperties())
        #expect(record.waits == [.milliseconds(50), .milliseconds(100), .seconds(4), .seconds(7)])
        #expect(record.notices == [.slowedDown(to: 8)])
        #expect(client.currentLimit == 8)
        // Each attempt has a signature of its own.
        #expect(transport.requests.allSatisfy { $0.header("authorization")?.contains("AKIDA") == true })
    }

    @Test("A server that fails for everybody is not drowned in retries")
    func budget() async throws {
        let transport = ScriptedTransport([.error(500, "InternalError")])
        let client = try S3Client.scripted(transport)
        for index in 0..<100 {
            _ = await failure { try await client.put(key("\(index)"), .bytes([1]), ObjectProperties()) }
        }
        #expect(transport.requests.count == 100 + 500 / 14)
    }

    @Test("A wrong clock is corrected by the server's time, once for all, and without a wait")
    func clock() async throws {
        let record = Record()
        let server = Timestamp(microseconds: 1_795_405_512_000_000)
        let transport = ScriptedTransport { request, _ in
            request.header("x-amz-date") == "20261123T034512Z"
                ? .stored
                : .error(
                    403, "RequestTimeTooSkewed", more: "<ServerTime>2026-11-23T03:45:12Z</ServerTime>",
                    headers: [("date", "Mon, 23 Nov 2026 03:45:11 GMT")])
        }
        let client = try S3Client.scripted(
            transport, record, clock: WallClock { server + .seconds(-3_600) })
        for _ in 0..<2 { _ = try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(transport.requests.count == 3)
        #expect(record.notices == [.clockCorrected(by: .seconds(3_600))])
        #expect(client.clockOffset == .seconds(3_600))
        #expect(record.waits.isEmpty)
    }

    @Test("A refused signature is the clock's fault only if the clock is off")
    func signature() async throws {
        let record = Record()
        let server = Timestamp(microseconds: 1_795_405_512_000_000)
        let transport = ScriptedTransport([
            .error(403, "SignatureDoesNotMatch", headers: [("date", "Mon, 23 Nov 2026 03:45:12 GMT")])
        ])
        for (offset, sent) in [(Duration.seconds(200), 1), (.seconds(-1_000), 2)] {
            let before = transport.requests.count
            let client = try S3Client.scripted(transport, record, clock: WallClock { server + offset })
            let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
            #expect(error?.code == .credentialsRefused)
            #expect(error?.disposition == .auth)
            #expect(transport.requests.count - before == sent)
        }
    }

    @Test("Expired keys are renewed once, and a refusal of those too holds the destination")
    func renewal() async throws {
        let transport = ScriptedTransport { request, _ in
            request.header("x-amz-security-token") == "token-B-value" ? .stored : .error(400, "ExpiredToken")
        }
        let keys = ScriptedCredentials([ScriptedCredentials.key("A"), ScriptedCredentials.key("B")])
        let client = try S3Client.scripted(transport, credentials: keys)
        for _ in 0..<2 { _ = try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(transport.requests.count == 3)

        let refusing = ScriptedTransport([.error(403, "InvalidAccessKeyId")])
        let others = ScriptedCredentials(["A", "B", "C"].map { ScriptedCredentials.key($0) })
        let held = try S3Client.scripted(refusing, credentials: others)
        let error = await failure { try await held.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(refusing.requests.count == 2)
        #expect(error?.disposition == .auth)
        #expect(error?.message.contains("env …KIDB") == true)
    }

    @Test("The region that the server names is used from then on: host and signature at AWS, the signature elsewhere")
    func region() async throws {
        let record = Record()
        let transport = ScriptedTransport { request, _ in
            request.header("authorization")?.contains("/eu-central-1/") == true
                ? .stored
                : .error(301, "PermanentRedirect", headers: [("x-amz-bucket-region", "eu-central-1")])
        }
        let aws = try S3Client.scripted(transport, record, isAWS: true)
        for _ in 0..<2 { _ = try await aws.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(
            transport.requests.map(\.origin.host)
                == ["b.s3.eu-west-1.amazonaws.com"] + [String](repeating: "b.s3.eu-central-1.amazonaws.com", count: 2))
        #expect(record.notices == [.regionChanged(from: "eu-west-1", to: "eu-central-1")])

        let other = ScriptedTransport { request, _ in
            request.header("authorization")?.contains("/garage/") == true
                ? .stored
                : .error(400, "AuthorizationHeaderMalformed", more: "<Region>garage</Region>")
        }
        _ = try await S3Client.scripted(other).put(key("k"), .bytes([1]), ObjectProperties())
        #expect(other.requests.map(\.origin.host) == ["s3.test", "s3.test"])
    }

    @Test("A redirection is never followed to another host", arguments: ["evil.example", "a/b", "", "-x", "x.y@z"])
    func evil(_ region: String) async throws {
        let transport = ScriptedTransport([
            .error(
                307, "TemporaryRedirect", more: "<Endpoint>evil.example</Endpoint>",
                headers: [("x-amz-bucket-region", region), ("location", "https://evil.example/k")])
        ])
        let client = try S3Client.scripted(transport, isAWS: true)
        let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(error?.code == .settingRefused)
        #expect(transport.requests.allSatisfy { $0.origin.host == "b.s3.eu-west-1.amazonaws.com" })
    }

    @Test("One key that is denied is tried again, a bucket that denies three keys is held")
    func denied() async throws {
        let transport = ScriptedTransport { request, _ in
            request.path.hasSuffix("/ok") ? .stored : .error(403, "AccessDenied", "no identity-based policy allows it")
        }
        let client = try S3Client.scripted(transport) { $0.acl = "private" }
        var dispositions: [Disposition?] = []
        for name in ["a", "a", "b", "ok", "a", "b", "c", "d"] {
            let error = await failure { try await client.put(key(name), .bytes([1]), ObjectProperties()) }
            dispositions.append(error?.disposition)
            if let error {
                for part in ["s3:PutObject", "arn:aws:s3:::b/\(name)", "s3:PutObjectAcl", "identity-based"] {
                    #expect(error.message.contains(part))
                }
            }
        }
        #expect(dispositions == [.transient, .transient, .transient, nil, .transient, .transient, .auth, .auth])
    }

    @Test("A PUT whose answer was lost and that finds its own object there has succeeded; a stranger's object stays")
    func onlyIfAbsent() async throws {
        for (metadata, size, isOurs) in [("1.5", 1, true), ("9.9", 1, false), ("1.5", 2, false)] {
            let transport = ScriptedTransport { request, index in
                if request.method == .head {
                    return .answer(
                        200,
                        headers: [("etag", "\"o\""), ("content-length", "\(size)"), ("x-amz-meta-mtime", metadata)])
                }
                return index == 0 ? .lost() : .error(412, "PreconditionFailed")
            }
            let client = try S3Client.scripted(transport)
            do {
                let receipt = try await client.put(key("k"), .bytes([1]), Self.once)
                #expect(isOurs && receipt.etag == "\"o\"")
            } catch { #expect(!isOurs && error.code == .objectExists) }
        }
        // Nothing of ours can be there if no attempt was lost.
        let transport = ScriptedTransport([.error(412, "PreconditionFailed")])
        let client = try S3Client.scripted(transport)
        let error = await failure { try await client.put(key("k"), .bytes([1]), Self.once) }
        #expect(error?.code == .objectExists)
        #expect(transport.requests.count == 1)
    }

    @Test("Encryption that the server ignores without a word is told, and the object does not count as stored")
    func ignoredEncryption() async throws {
        let customer = try #require(S3CustomerKey(bytes: [UInt8](repeating: 7, count: 32)))
        let kinds: [(S3ClientSettings.Encryption, [(name: String, value: String)])] = [
            (.server, [("x-amz-server-side-encryption", "AES256")]),
            (.kms(key: "k1", twice: false, bucketKey: true), [("x-amz-server-side-encryption", "aws:kms")]),
            (.customer(customer), [("x-amz-server-side-encryption-customer-algorithm", "AES256")]),
        ]
        for (encryption, answer) in kinds {
            let good = ScriptedTransport([.answer(200, headers: answer + [("etag", "\"e\"")])])
            let client = try S3Client.scripted(good, isAWS: true) { $0.encryption = encryption }
            _ = try await client.put(key("k"), .bytes([1]), ObjectProperties())
            #expect(good.requests[0].headers.contains { $0.name.hasPrefix("x-amz-server-side-encryption") })
            let silent = ScriptedTransport([.stored])
            let other = try S3Client.scripted(silent, isAWS: true) { $0.encryption = encryption }
            let error = await failure { try await other.put(key("k"), .bytes([1]), ObjectProperties()) }
            #expect(error?.code == .settingRefused)
            #expect(error?.message.contains("encryption") == true)
        }
        #expect(throws: SafeBackupError.self) {
            _ = try S3Client.scripted(ScriptedTransport([.stored])) { $0.encryption = .customer(customer) }
        }
        #expect(!"\(S3ClientSettings.Encryption.customer(customer))".contains("7, 7"))
    }

    @Test("Object lock that the server ignores is told after the first object, and looked at only until it is seen")
    func ignoredLock() async throws {
        for isKept in [true, false] {
            let transport = ScriptedTransport { request, _ in
                var headers = [(name: "etag", value: "\"e\""), (name: "content-length", value: "1")]
                if isKept { headers.append(("x-amz-object-lock-mode", "COMPLIANCE")) }
                return request.method == .head ? .answer(200, headers: headers) : .stored
            }
            let client = try S3Client.scripted(transport) {
                $0.objectLock = S3ClientSettings.ObjectLock(mode: .compliance, retention: .seconds(86_400))
            }
            var codes: [SafeBackupError.Code?] = []
            for _ in 0..<3 {
                let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
                codes.append(error?.code)
            }
            #expect(codes == [SafeBackupError.Code?](repeating: isKept ? nil : .settingRefused, count: 3))
            #expect(transport.requests.count == (isKept ? 4 : 6))
            #expect(transport.requests[0].header("content-md5") != nil)
            #expect(transport.requests[0].header("x-amz-object-lock-retain-until-date") != nil)
        }
    }

    @Test("What may break a header apart is refused before anything is sent")
    func headers() async throws {
        let transport = ScriptedTransport([.stored])
        let client = try S3Client.scripted(transport)
        for value in ["a\r\nx-amz-acl: public-read", "a\u{0}", "ä", "a  b", " a", "a\t"] {
            let error = await failure {
                try await client.put(key("k"), .bytes([1]), ObjectProperties(metadata: ["m": value]))
            }
            #expect(error?.code == .objectRefused)
        }
        #expect(throws: SafeBackupError.self) {
            _ = try S3Client.scripted(transport) { $0.acl = "private\r\nx: y" }
        }
        #expect(transport.requests.isEmpty)
    }

    @Test("HEAD has no words, so a refusal is asked for again with GET: denied is no object, wrong keys are an error")
    func head() async throws {
        let denied = ScriptedTransport { request, _ in
            request.method == .head ? .answer(403) : .error(403, "AccessDenied")
        }
        let none = try await S3Client.scripted(denied).head(key("k"), version: nil)
        #expect(none == nil)
        #expect(denied.requests.map(\.line) == ["HEAD /b/k", "GET /b/k"])
        #expect(denied.requests[1].header("range") == "bytes=0-0")
        let wrong = ScriptedTransport { request, _ in
            request.method == .head ? .answer(403) : .error(403, "InvalidAccessKeyId")
        }
        let client = try S3Client.scripted(wrong)
        let error = await failure { try await client.head(key("k"), version: nil) }
        #expect(error?.code == .credentialsRefused)
        let absent = ScriptedTransport([.answer(404)])
        let missing = try await S3Client.scripted(absent).head(key("k"), version: "v 1")
        #expect(missing == nil)
        #expect(absent.requests.map(\.line) == ["HEAD /b/k?versionId=v%201"])
    }

    @Test("A wait for another attempt is ended with the requests in flight; what begins later is sent")
    func endRequests() async throws {
        let transport = ScriptedTransport([.error(503, "SlowDown"), .answer(200)])
        let waiting = Locked(false)
        let client = try S3Client(
            S3ClientSettings(bucket: "b"), transport: transport, credentials: ScriptedCredentials(),
            locate: { _ in S3Client.elsewhere },
            pause: { _ in
                waiting.withLock { $0 = true }
                do { try await Task.sleep(for: .seconds(3_600)) } catch { return }
            })
        let task = Task { await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) } }
        while !waiting.withLock({ $0 }) { await Task.yield() }
        client.endRequests()
        #expect(await task.value?.code == .interrupted)
        #expect(transport.requests.count == 1)
        _ = try await client.put(key("k"), .bytes([1]), ObjectProperties())
        #expect(transport.requests.count == 2)
    }
}
