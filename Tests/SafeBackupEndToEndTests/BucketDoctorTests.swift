import Foundation
import SafeBackupFakeS3
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// `doctor` and keys that may little, with a strict server in the test's process.
    @Suite("doctor of a bucket")
    struct BucketDoctor {
        private func configure(_ bench: Bench, _ server: FakeS3, _ lines: String = "") throws -> FilePath {
            let file = bench.root.appending("agent.conf")
            let text = """
                [agent]
                state = \(bench.state)
                [source "s"]
                path = \(bench.source)
                destination = d
                [destination "d"]
                type = s3
                url = s3://bucket/home
                endpoint = \(server.endpoint)
                access-key-id = \(FakeCredential().accessKey)
                secret-access-key = \(FakeCredential().secretKey)
                close-delay = 50ms
                quiet-time = 100ms
                \(lines)
                """
            try bench.write(file, Array(text.utf8))
            try command(["chmod", "600", file])
            return file
        }

        private static let keys = [
            "AWS_ACCESS_KEY_ID": FakeCredential().accessKey, "AWS_SECRET_ACCESS_KEY": FakeCredential().secretKey,
        ]

        private func examine(
            _ bench: Bench, _ arguments: [FilePath], exit: Int32 = 0, environment: [String: String] = [:],
            sourceLocation: SourceLocation = #_sourceLocation
        ) async throws -> Doctors.Report {
            let program = try await bench.run(["doctor", "--json"] + arguments, environment: environment)
            #expect(
                program.ending == .exit(exit), "\(program.outputText)\(program.errorTail)",
                sourceLocation: sourceLocation)
            #expect(!program.outputText.contains(FakeCredential().secretKey), "the secret is shown")
            return try JSONDecoder().decode(Doctors.Report.self, from: Data(program.outputText.utf8))
        }

        private func allowOnly(_ allowed: Set<FakeOperation>, _ server: FakeS3) {
            for operation in FakeOperation.allCases where !allowed.contains(operation) {
                server.faults.add(.failure(403, "AccessDenied"), on: operation, times: nil)
            }
        }

        @Test("A bucket alone is looked at by its name and server, with few requests, and nothing is left in it")
        func alone() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            let report = try await examine(
                bench, ["s3://bucket/home", "--endpoint", FilePath(server.endpoint), "--state", bench.state],
                environment: Self.keys)
            #expect(report.problems == [])
            for area in ["keys", "destination", "clock", "probe", "checksums", "versions", "lifecycle", "uploads"] {
                #expect(report.found("ok", area) != nil, "nothing is said of \(area)")
            }
            #expect(report.findings.filter { $0.level == "warning" && $0.subject != "Machine" }.isEmpty)
            let policy = try #require(report.found("ok", "permissions")?.action)
            #expect(policy.contains("arn:aws:s3:::bucket/home/*") && !policy.contains("s3:PutObjectAcl"))
            _ = try JSONSerialization.jsonObject(with: Data(policy.utf8))
            #expect(server.objects.isEmpty && server.requests.count <= 12, "\(server.requests.map(\.operation))")
            let text = try await bench.run(
                ["doctor", "s3://bucket/home", "--endpoint", FilePath(server.endpoint), "--state", bench.state],
                environment: Self.keys)
            #expect(text.outputText.contains(#"→ {"#) && !text.outputText.contains("PROBLEM"))
        }

        @Test(
            "By the configuration, and by the state with the configuration, a saved bucket is well, and stays as it is")
        func configured() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let file = try configure(bench, server)
            let run = try await bench.run(["run", "--config", file, "--once"])
            try #require(run.ending == .exit(0), "\(run.errorTail)")
            let before = server.objects.mapValues(\.etag)
            let report = try await examine(bench, ["--config", file])
            #expect(report.problems == [])
            #expect(report.findings.contains { $0.message == "It is a destination of safebackup" })
            #expect(server.objects.mapValues(\.etag) == before)
            let alone = try await examine(bench, ["s3://bucket/home", "--config", file])
            #expect(alone.findings.contains { $0.message == "It is a destination of safebackup" })
            server.forgetRequests()
            let unknown = try await examine(bench, ["--state", bench.state])
            #expect(unknown.found("warning", "destination")?.action?.contains("--config FILE") == true)
            #expect(server.requests.isEmpty)
        }

        @Test(
            "A rule that removes what is saved, an ACL that is refused and wrong keys are problems that name the way out"
        )
        func problems() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let rule =
                "<Rule><ID>old</ID><Status>Enabled</Status><Filter/><Expiration><Days>30</Days></Expiration></Rule>"
            server.faults.add(
                .answer(FakeAnswer(200, xml: "<LifecycleConfiguration>\(rule)</LifecycleConfiguration>")),
                on: .getLifecycle)
            let file = try configure(bench, server)
            let expiring = try await examine(bench, ["--config", file], exit: 3)
            #expect(
                expiring.found("problem", "lifecycle")?.message.contains("old removes what is saved after 30 days")
                    == true)
            _ = try configure(bench, server, "acl = public-read")
            let acl = try await examine(bench, ["--config", file], exit: 3)
            #expect(acl.problems.contains { $0.contains("remove the option acl") }, "\(acl.problems)")
            #expect(acl.findings.contains { $0.action?.contains("s3:PutObjectAcl") == true })
            let wrong = try await examine(
                bench, ["s3://bucket/home", "--endpoint", FilePath(server.endpoint), "--state", bench.state], exit: 3,
                environment: ["AWS_ACCESS_KEY_ID": "AKIDNOBODY", "AWS_SECRET_ACCESS_KEY": "nothing"])
            #expect(wrong.found("problem", "destination") != nil && wrong.found("ok", "probe") == nil)
        }

        @Test("Versions that nobody asked for are a warning about their cost")
        func versions() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            server.changeBucket { $0.versioning = .enabled }
            let report = try await examine(bench, ["--config", try configure(bench, server)])
            #expect(report.found("warning", "versions")?.action?.contains("noncurrent") == true)
            #expect(server.bucket()?.versions.isEmpty == true, "a version of the trial is left")
        }

        @Test("Keys that may only put objects save, are told of once, and doctor says what is missing without an error")
        func putOnly() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let file = try configure(bench, server)
            allowOnly([.putObject], server)
            for content in ["one\n", "two\n"] {
                try bench.write("a", content)
                let run = try await bench.run(["run", "--config", file, "--once", "--log-format", "json"])
                #expect(run.ending == .exit(0), "\(run.errorTail)")
                let told = run.errorText.split(separator: "\n").count { $0.contains("\"bucketBlind\"") }
                #expect(told == 1, "\(run.errorTail)")
                #expect(server.object("home/a").map { String(decoding: $0.bytes, as: UTF8.self) } == content)
            }
            let report = try await examine(bench, ["--config", file])
            #expect(report.problems == [])
            let blind = report.findings.filter { $0.level == "warning" && $0.area == "permissions" }.map(\.message)
            #expect(blind.contains { $0.contains("nothing can be restored") }, "\(blind)")
            #expect(report.found("ok", "versions")?.message.contains("may not ask (s3:GetBucketVersioning)") == true)
            try command(["rm", "-r", bench.state])
            let lost = try await bench.run(["run", "--config", file, "--once"])
            #expect(lost.ending != .exit(0) && lost.errorText.contains("choose another prefix"), "\(lost.errorTail)")
        }

        @Test("What of the command line cannot be meant is a mistake of usage")
        func usage() async throws {
            let bench = try Bench()
            for arguments in [
                ["s3://bucket/home", "--exclude", "x"], ["--endpoint", "http://127.0.0.1:1"], ["s3://b"],
                [bench.source, bench.backup, "--endpoint", "http://127.0.0.1:1"],
            ] {
                let program = try await bench.run(["doctor", "--state", bench.state] + arguments)
                #expect(program.ending == .exit(2), "\(arguments): \(program.outputText)")
            }
        }
    }
}
