import Glibc
import SafeBackup
import SafeBackupFakeS3
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("A session on a bucket")
struct S3BackupSessionTests {
    /// Below the prefix `home`, with files in parts of 5 MiB from 6 MiB on.
    private func session(
        _ server: FakeS3, _ change: (inout S3BackupConfiguration) -> Void = { _ in },
        found: @escaping @Sendable (FilePath) -> Void = { _ in }
    ) async throws -> S3BackupSession {
        var configuration = S3BackupConfiguration(bucket: "bucket", prefix: "/home/")
        configuration.endpoint = server.endpoint
        configuration.region = "us-east-1"
        configuration.accessKey = FakeCredential().accessKey
        configuration.secretKey = FakeCredential().secretKey
        change(&configuration)
        var backoff = RetryBackoff()
        backoff.transientBase = .milliseconds(1)
        backoff.throttledBase = .milliseconds(1)
        backoff.attempts = 3
        var limits = Uploader.Limits()
        limits.single = 6 << 20
        limits.part = 5 << 20
        limits.memory = 12 << 20
        return try await S3BackupSession(
            configuration, environment: AWSEnvironment([:]), backoff: backoff, limits: limits, found: found)
    }

    private func content(_ server: FakeS3, _ key: String) -> String? {
        server.object(key).map { String(decoding: $0.bytes, as: UTF8.self) }
    }

    private func reason(_ body: () async throws(BackupSessionError) -> Void) async -> SafeBackupError? {
        guard case .backupFailed(_, _, let reason)? = await failure(body) else { return nil }
        return reason
    }

    @Test("An object has the bytes of its file, and in its metadata the time and the mode; a second save replaces it")
    func saves() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        #expect(session.location == "s3://bucket/home")
        let file = try yard.write("files/a", "first", age: 500)
        chmod(file.string, 0o640)
        try await session.save(file, as: "d/e/a")
        #expect(content(server, "home/d/e/a") == "first")
        let object = try #require(server.object("home/d/e/a"))
        #expect(object.metadata["mtime"] == "1699999500.000000000" && object.metadata["mode"] == "0100640")
        #expect(object.metadata["sha256"]?.utf8.count == 64)
        #expect(!object.headers.keys.contains("x-amz-acl"))

        try yard.write("files/a", "other", age: 500)
        try await session.save(file, as: "d/e/a")
        #expect(content(server, "home/d/e/a") == "other")
        symlink("a", yard.top + "/files/link")
        try await session.save(FilePath(yard.top + "/files/link"), as: "linked")
        try await session.save(try yard.write("files/empty", ""), as: "empty")
        #expect(content(server, "home/linked") == "other" && content(server, "home/empty") == "")
        try await session.waitForCompletion()
        await session.close()
        #expect(Set(server.objects.keys) == ["home/d/e/a", "home/linked", "home/empty"])
        // One request each, and one look for an agent.
        #expect(server.count(.putObject) == 4 && server.count(.headObject) == 1 && server.requests.count == 5)
    }

    @Test("A large file is sent in parts, and sent again when it is saved again; nothing unfinished is left")
    func parts() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        for round in ["x", "y"] {
            let file = try yard.write("files/big", String(repeating: "\(round)123456789abcdef", count: 1 << 20))
            try await session.save(file, as: "big")
            #expect(server.object("home/big")?.bytes.count == 16 << 20)
            #expect(content(server, "home/big")?.hasPrefix(round) == true)
        }
        // The same file, unchanged.
        try await session.save(FilePath(yard.absolute("files/big")), as: "big")
        await session.close()
        #expect(server.count(.uploadPart) == 12 && server.count(.createUpload) == 3)
        #expect(server.bucket()?.uploads.isEmpty == true && server.count(.abortUpload) == 0)
    }

    @Test("Sixteen tasks that save at once have at most as many requests under way as may be")
    func concurrent() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server) { $0.concurrency = 4 }
        let first = try yard.write("files/first", "first")
        try await session.save(first, as: "first")
        server.faults.add(.hold, on: .putObject, times: nil)
        var saves: [Task<Void, any Error>] = []
        for number in 0..<16 {
            let file = try yard.write("files/\(number)", "content \(number)")
            saves.append(Task { try await session.save(file, as: "\(number)") })
        }
        #expect(try await eventually { server.held == 4 && session.unfinishedSaves == 16 })
        let told = await failure { () throws(BackupSessionError) in
            try await session.waitForCompletion(timeout: .milliseconds(20))
        }
        #expect(told == .cleaningTimeout(after: .milliseconds(20), saves: 16, isCleaning: false))
        #expect(server.held == 4)
        server.releaseHeld()
        for save in saves { try await save.value }
        try await session.waitForCompletion(timeout: .seconds(60))
        for number in 0..<16 { #expect(content(server, "home/\(number)") == "content \(number)") }
        await session.close()
    }

    @Test("What cannot be saved is told with the file, the key and the reason, and again, once, by the wait for all")
    func refuses() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        let good = try yard.write("files/good", "good")
        try yard.make(directory: "files/directory")
        mkfifo(yard.absolute("files/fifo"), 0o600)
        var expected: [BackupSessionError] = []
        for (file, code) in [
            ("files/nothing", SafeBackupError.Code.sourceGone), ("files/directory", .specialFile),
            ("files/fifo", .specialFile), ("files/good/below", .sourceGone),
        ] {
            let path = FilePath(yard.absolute(file))
            let told = await failure { () throws(BackupSessionError) in try await session.save(path, as: "k") }
            guard case .backupFailed(path, "k", let reason)? = told else {
                Issue.record("\(file): \(String(describing: told))")
                continue
            }
            #expect(reason.code == code, "\(file)")
            expected.append(.backupFailed(file: path, key: "k", reason: reason))
        }
        for (key, code) in [
            ("", SafeBackupError.Code.invalidPath), (".safebackup/x", .reservedName), ("d/.safebackup", .reservedName),
            (String(repeating: "n", count: 1_020), .nameTooLong),
        ] {
            let told = await failure { () throws(BackupSessionError) in try await session.save(good, as: key) }
            guard case .backupFailed(good, _, let reason)? = told else {
                Issue.record("\(key): \(String(describing: told))")
                continue
            }
            #expect(reason.code == code, "\(key)")
            if let told { expected.append(told) }
        }
        // Refused before the session has them.
        for key in ["../x", "/x", "a//b", "a\0b"] {
            #expect(
                await reason { () throws(BackupSessionError) in try await session.save(good, as: key) }?.code
                    == .invalidPath)
        }
        #expect(server.objects.isEmpty)
        let told = await failure { () throws(BackupSessionError) in try await session.waitForCompletion() }
        #expect(told == .savesFailed(count: 8, first: expected))
        try await session.waitForCompletion()
        try await session.save(good, as: String(repeating: "n", count: 1_019))
        try await session.waitForCompletion()
        await session.close()
    }

    @Test("Keys are bytes: what is no UTF-8 is written so that no two keys become one, and the metadata has it")
    func oddKeys() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        let keys: [[UInt8]] = [
            [0xFF, 0x61], [0xFE, 0x61], Array("\u{201B}FFa".utf8), Array("e\u{301}".utf8), Array("\u{E9}".utf8),
            Array("a b+c%'*".utf8),
        ]
        for (number, key) in keys.enumerated() {
            try await session.save(try yard.write("files/\(number)", "\(number)"), as: RelativePath(key))
        }
        #expect(content(server, "home/\u{201B}FFa") == "0" && content(server, "home/a b+c%'*") == "5")
        #expect(server.object("home/\u{201B}FFa")?.metadata["path"] == "%FFa")
        #expect(server.bucket()?.keys.count == keys.count)
        await session.close()
    }

    @Test("A file that changes each time it is read is not saved, whole or in parts, and the older object stays")
    func tears() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let isTearing = Locked(false)
        let times = Locked<Int64>(0)
        let session = try await session(
            server,
            found: { file in
                guard isTearing.withLock({ $0 }) else { return }
                let time = times.withLock { times in
                    times += 1
                    return times
                }
                do throws(Errno) {
                    try Descriptor.open(file, O_WRONLY).setModified(FileTime(nanoseconds: time * 1_000_000_000))
                } catch { Issue.record("\(error)") }
            })
        for (name, count) in [("small", 5), ("large", 7 << 20)] {
            let file = try yard.write("files/\(name)", String(repeating: "x", count: count))
            try await session.save(file, as: name)
            isTearing.withLock { $0 = true }
            times.withLock { $0 = 0 }
            let reason = await reason { () throws(BackupSessionError) in try await session.save(file, as: name) }
            isTearing.withLock { $0 = false }
            #expect(reason?.code == .torn && times.withLock { $0 } == 6, "\(name)")
            #expect(server.object("home/\(name)")?.bytes.count == count)
            #expect(server.count(name == "small" ? .putObject : .completeUpload) == 1)
        }
        #expect(server.bucket()?.uploads.isEmpty == true)
        await session.close()
    }

    @Test("A server that is busy is asked again; one that stays so fails the save, and its parts are taken back")
    func busy() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        let file = try yard.write("files/a", "a")
        server.faults.add(.slowDown, on: .putObject)
        server.faults.add(.internalError, on: .putObject)
        try await session.save(file, as: "a")
        #expect(content(server, "home/a") == "a" && server.faults.isSpent)

        let big = try yard.write("files/big", String(repeating: "b", count: 11 << 20))
        server.faults.add(.internalError, on: .uploadPart, skipping: 1, times: nil)
        let told = await reason { () throws(BackupSessionError) in try await session.save(big, as: "big") }
        #expect(told?.code == .serverFailed, "\(String(describing: told))")
        #expect(server.object("home/big") == nil && server.bucket()?.uploads.isEmpty == true)
        server.faults.removeAll()
        try await session.save(big, as: "big")
        #expect(server.object("home/big")?.bytes.count == 11 << 20)
        await session.close()
    }

    @Test("With the server down a save fails and says so, and the next one works when it is back")
    func down() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let session = try await session(server)
        let file = try yard.write("files/a", "a")
        server.goDown()
        let told = await failure { () throws(BackupSessionError) in try await session.save(file, as: "a") }
        guard case .backupFailed(file, "a", let reason)? = told else {
            Issue.record("\(String(describing: told))")
            return
        }
        #expect(reason.code == .serverUnreachable)
        let all = await failure { () throws(BackupSessionError) in try await session.waitForCompletion() }
        #expect(all == .savesFailed(count: 1, first: [.backupFailed(file: file, key: "a", reason: reason)]))
        try server.comeBack()
        try await session.save(file, as: "a")
        try await session.waitForCompletion()
        #expect(content(server, "home/a") == "a")
        await session.close()
    }

    @Test("The session token signs each request, and the ACL, the class and the encryption go with each object")
    func headers() async throws {
        var options = FakeS3Options()
        options.credentials = [FakeCredential(sessionToken: "TOKEN/EXAMPLE==")]
        let (yard, server) = (try Yard(), try FakeS3.start(options))
        let session = try await session(server) {
            $0.sessionToken = "TOKEN/EXAMPLE=="
            $0.acl = "bucket-owner-full-control"
            $0.storageClass = "STANDARD_IA"
            $0.encryption = .server
        }
        try await session.save(try yard.write("files/a", "a"), as: "a")
        try await session.save(try yard.write("files/big", String(repeating: "b", count: 7 << 20)), as: "big")
        for operation in [FakeOperation.putObject, .createUpload] {
            let request = try #require(server.requests.first { $0.operation == operation }).request
            #expect(request.header("x-amz-acl") == "bucket-owner-full-control")
            #expect(request.header("x-amz-storage-class") == "STANDARD_IA")
            #expect(request.header("x-amz-server-side-encryption") == "AES256")
        }
        #expect(server.requests.allSatisfy { $0.request.header("x-amz-security-token") == "TOKEN/EXAMPLE==" })
        await session.close()

        let stranger = try await self.session(server)
        let file = FilePath(yard.absolute("files/a"))
        let told = await reason { () throws(BackupSessionError) in try await stranger.save(file, as: "b") }
        #expect(told?.disposition == .auth && server.object("home/b") == nil)
        await stranger.close()
    }

    @Test("Without keys of its own a session takes those of the environment")
    func chain() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        var configuration = S3BackupConfiguration(bucket: "bucket")
        configuration.concurrency = 1
        let environment = [
            "AWS_ACCESS_KEY_ID": FakeCredential().accessKey, "AWS_SECRET_ACCESS_KEY": FakeCredential().secretKey,
            "AWS_ENDPOINT_URL_S3": server.endpoint, "AWS_REGION": "us-east-1", "HOME": yard.top,
        ]
        let session = try await S3BackupSession(
            configuration, environment: AWSEnvironment(environment.mapValues { Array($0.utf8) }))
        try await session.save(try yard.write("files/a", "a"), as: "a")
        #expect(content(server, "a") == "a")
        await session.close()
    }

    @Test("Below the prefix of an agent nothing is written; with keys that may only put, all is")
    func agents() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let file = try yard.write("files/a", "a")
        server.plant("home/.safebackup/destination.json", Array("{}".utf8))
        let session = try await session(server)
        let told = await reason { () throws(BackupSessionError) in try await session.save(file, as: "a") }
        #expect(told?.code == .destinationTaken && server.count(.putObject) == 0)
        await session.close()

        let blind = try await self.session(server) { $0.prefix = "other" }
        server.faults.add(.failure(403, "AccessDenied"), on: .headObject, times: nil)
        server.faults.add(.failure(403, "AccessDenied"), on: .getObject, times: nil)
        try await blind.save(file, as: "a")
        #expect(content(server, "other/a") == "a")
        await blind.close()
    }

    @Test("Values that cannot be are refused by name, and no secret is shown")
    func wrongValues() async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        let cases: [(String, (inout S3BackupConfiguration) -> Void)] = [
            ("bucket", { $0.bucket = "" }), ("bucket", { $0.bucket = "a/b" }),
            ("prefix", { $0.prefix = "a//b" }), ("prefix", { $0.prefix = "../b" }),
            ("prefix", { $0.prefix = "a/.safebackup" }),
            ("prefix", { $0.prefix = String(repeating: "p", count: 1_024) }),
            ("region", { $0.region = "two words" }), ("endpoint", { $0.endpoint = "ftp://example.com" }),
            ("endpoint", { $0.endpoint = "https://user:SECRETPART@" }), ("secretKey", { $0.secretKey = nil }),
            ("accessKey", { $0.accessKey = nil }), ("secretKey", { $0.secretKey = "SECRETPART with space" }),
            ("sessionToken", { $0.sessionToken = "SECRETPART\n" }),
            (
                "sessionToken",
                {
                    ($0.accessKey, $0.secretKey) = (nil, nil)
                    $0.sessionToken = "SECRETPART"
                }
            ),
            ("acl", { $0.acl = "" }), ("storageClass", { $0.storageClass = "a\r\nx: y" }),
            ("encryption", { $0.encryption = .kms(key: "") }), ("concurrency", { $0.concurrency = 0 }),
            ("concurrency", { $0.concurrency = 257 }),
            ("caBundle", { $0.caBundle = FilePath(yard.absolute("nothing")) }),
        ]
        for (value, change) in cases {
            do {
                _ = try await session(server, change)
                Issue.record("\(value) was accepted")
            } catch let error as BackupSessionError {
                guard case .invalidConfiguration(value, let reason) = error else {
                    Issue.record("\(value): \(error)")
                    continue
                }
                #expect(!reason.message.isEmpty && !"\(error)".contains("SECRETPART"), "\(error)")
            }
        }
        var configuration = S3BackupConfiguration(bucket: "bucket")
        configuration.secretKey = "SECRETPART"
        var shown = ""
        dump(configuration, to: &shown)
        #expect(!"\(configuration)\(String(reflecting: configuration))\(shown)".contains("SECRETPART"))
    }

    @Test(
        "Closing waits for the saves that were asked for, also when it is cancelled, and a cancelled save goes on",
        arguments: [false, true])
    func closes(isCancelled: Bool) async throws {
        let (yard, server) = (try Yard(), try FakeS3.start())
        server.faults.add(.holdBeforeEffect, on: .putObject, times: nil)
        let session = try await session(server) { $0.concurrency = 2 }
        var saves: [Task<Void, any Error>] = []
        for number in 0..<4 {
            let file = try yard.write("files/\(number)", "\(number)")
            saves.append(Task { try await session.save(file, as: "key") })
            #expect(try await eventually { session.unfinishedSaves == number + 1 })
        }
        for save in saves { save.cancel() }
        let waiting = Task { await failure { () throws(BackupSessionError) in try await session.waitForCompletion() } }
        waiting.cancel()
        #expect(await waiting.value == .cleaningTimeout(after: .zero, saves: 4, isCleaning: false))
        let isClosed = Locked(false)
        let closing = Task {
            while isCancelled && !Task.isCancelled { await Task.yield() }
            await session.close()
            isClosed.withLock { $0 = true }
        }
        if isCancelled { closing.cancel() }
        let late = try yard.write("files/late", "late")
        #expect(try await eventually { session.isClosing })
        #expect(await failure { () throws(BackupSessionError) in try await session.save(late, as: "late") } == .closed)
        #expect(!isClosed.withLock { $0 })
        server.releaseHeld()
        await closing.value
        for save in saves { try await save.value }
        // Of one key one after the other.
        #expect(content(server, "home/key") == "3" && server.object("home/late") == nil)
        await session.close()
    }
}
