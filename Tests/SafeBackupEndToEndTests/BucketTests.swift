import SafeBackupCore
import SafeBackupFakeS3
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// The program with a bucket: a strict server in the test's process.
    @Suite("A bucket")
    struct Bucket {
        /// Writes a configuration for the server's bucket, below the prefix `home`.
        private func configure(
            _ bench: Bench, _ server: FakeS3, secret: String = FakeCredential().secretKey, _ lines: String = ""
        ) throws -> FilePath {
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
                secret-access-key = \(secret)
                close-delay = 50ms
                quiet-time = 100ms
                \(lines)
                """
            try bench.write(file, Array(text.utf8))
            try command(["chmod", "600", file])
            return file
        }

        private func content(_ server: FakeS3, _ key: String) -> String? {
            server.object(key).map { String(decoding: $0.bytes, as: UTF8.self) }
        }

        private func saveOnce(_ bench: Bench, _ file: FilePath) async throws {
            let program = try await bench.run(["run", "--config", file, "--once"])
            try #require(program.ending == .exit(0), "\(program.errorTail)")
        }

        private func expectRestored(_ bench: Bench, _ arguments: [FilePath], _ name: String) async throws {
            let back = bench.root.appending(name)
            let program = try await bench.run(["restore", ".", "--to", back] + arguments)
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let differences = try Tree(bench.source).differences(in: try Tree(back)) { _ in true }
            #expect(differences.isEmpty, "\(differences.prefix(10))")
        }

        @Test("A tree is saved as plain objects, and comes back by the state and from the bucket alone")
        func saveAndRestore() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a.txt", "one\n")
            try bench.write("deep/er/b.txt", "two\n")
            try bench.write("caf\u{e9} +%?&", "three\n")
            try command(["ln", "-s", "a.txt", bench.at("link")])
            try command(["mkdir", bench.at("empty")])
            try command(["chmod", "640", bench.at("a.txt")])
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            #expect(content(server, "home/a.txt") == "one\n")
            #expect(content(server, "home/deep/er/b.txt") == "two\n")
            try await expectRestored(bench, ["--config", file], "back")
            try command(["rm", "-r", bench.state])
            try await expectRestored(bench, ["--config", file, "--from", "d"], "bare")
            for name: FilePath in ["d", "s3://bucket/home"] {
                let list = try await bench.run(["ls", "--recursive", "--from", name, "--config", file])
                #expect(list.ending == .exit(0), "\(list.errorTail)")
                #expect(list.outputText.contains("deep/er/b.txt") && list.outputText.contains("link"))
            }
        }

        @Test("What somebody changed or removed in a bucket is found by reading it, marked, and saved again")
        func verify() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            try bench.write("d/b", "two\n")
            try bench.write("c", "three\n")
            try command(["ln", "-s", "a", bench.at("link")])
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            func verify() async throws -> Program { try await bench.run(["verify", "--config", file]) }
            var program = try await verify()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(program.outputText.contains("4 copies read"), "\(program.outputText)")
            server.plant("home/a", Array("ONE\n".utf8), headers: try #require(server.object("home/a")).headers)
            server.plant("home/link", Array("c".utf8), headers: try #require(server.object("home/link")).headers)
            server.uproot("home/d/b")
            program = try await verify()
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            for text in [
                "a: the stored copy a has not the content that was saved; it is saved again",
                "link: the stored copy link has not the content that was saved; it is saved again",
                "d/b: the stored copy d/b is not there any more; it is saved again", "3 damaged or missing",
            ] {
                #expect(program.outputText.contains(text), "\(text) in \(program.outputText)")
            }
            try await saveOnce(bench, file)
            #expect(content(server, "home/a") == "one\n" && content(server, "home/d/b") == "two\n")
            program = try await verify()
            #expect(program.ending == .exit(0), "\(program.outputText)")
            // One object that the server cannot give keeps nobody from reading the others.
            server.faults.add(.internalError, on: .getObject, key: "home/c", times: nil)
            program = try await verify()
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            #expect(program.outputText.contains("The stored copy c cannot be read"), "\(program.outputText)")
            #expect(program.outputText.contains("3 copies read"), "\(program.outputText)")
            server.faults.removeAll()
            _ = try configure(bench, server, secret: "Zq9-nobody-knows")
            program = try await verify()
            #expect(program.ending == .exit(4), "\(program.outputText)")
        }

        @Test("A bucket without a catalogue copy gives back what lies in it; one without objects says so")
        func restoreWithoutCatalogue() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a.txt", "one\n")
            try bench.write("deep/er/b.txt", "two\n")
            try command(["ln", "-s", "a.txt", bench.at("link")])
            try command(["mkdir", bench.at("empty")])
            try command(["chmod", "640", bench.at("a.txt")])
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            try command(["rm", "-r", bench.state])
            for key in server.objects.keys where key.contains("/.safebackup/catalogue/") { server.uproot(key) }
            server.plant("home/theirs", Array("three\n".utf8))
            func restore(_ path: FilePath, _ name: String, _ arguments: FilePath...) async throws -> Program {
                try await bench.run(
                    ["restore", path, "--config", file, "--from", "d", "--to", bench.root.appending(name)] + arguments)
            }
            for hasMark in [true, false] {
                if !hasMark { server.uproot("home/.safebackup/destination.json") }
                let back = bench.root.appending("back\(hasMark)")
                var program = try await restore(".", "back\(hasMark)")
                #expect(program.ending == .exit(0), "\(program.errorTail)")
                #expect(program.errorText.contains("as they lie in the bucket"), "\(program.errorTail)")
                #expect(program.outputText.contains("Restored 3 files"), "\(program.outputText)")
                try command(["rm", back.appending("theirs")])
                let differences = try Tree(bench.source).differences(in: try Tree(back)) { path in
                    !["", ".", "deep", "deep/er"].contains(path.description)
                }
                #expect(differences.isEmpty, "\(differences.prefix(10))")
                program = try await restore("deep", "part\(hasMark)")
                #expect(program.ending == .exit(0) && program.outputText.contains("Restored 1 file "))
                program = try await restore("nothing", "none\(hasMark)")
                #expect(program.ending != .exit(0), "\(program.outputText)")
                program = try await restore(".", "then\(hasMark)", "--at", "2020-01-01")
                #expect(program.ending == .exit(2), "\(program.errorTail)")
                #expect(program.errorText.contains("without --at everything"), "\(program.errorTail)")
            }
            // What its own digest tells is not what it is.
            server.plant(
                "home/a.txt", Array("ONE\n".utf8), headers: try #require(server.object("home/a.txt")).headers)
            var program = try await restore("a.txt", "damaged")
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            for key in server.objects.keys { server.uproot(key) }
            program = try await restore(".", "nobody")
            #expect(program.ending != .exit(0) && program.errorText.contains("holds no backup"), "\(program.errorTail)")
        }

        @Test("A bucket that lost its mark goes on when a person says so, and one that was emptied is filled again")
        func accept() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            func accept(_ arguments: FilePath...) async throws -> Program {
                try await bench.run(["accept", "--config", file] + arguments)
            }
            var program = try await accept("d")
            #expect(
                program.ending == .exit(0) && program.outputText.contains("nothing to accept"), "\(program.errorTail)")
            let mark = "home/.safebackup/destination.json"
            let former = try #require(content(server, mark))
            // With an agent: it is held, and goes on.
            for (spoiled, text) in [(nil, "two\n"), ("{\"layout\": 1, \"id\"", "three\n")] as [(String?, String)] {
                server.uproot(mark)
                if let spoiled { server.plant(mark, Array(spoiled.utf8)) }
                server.forgetRequests()
                try bench.write("b", text)
                let agent = try bench.spawn(["run", "--config", file])
                let isHeld = try await eventually { agent.errorText.contains("is held") || agent.poll() != nil }
                #expect(isHeld && agent.poll() == nil, "\(agent.errorTail)")
                program = try await accept("s3://bucket/home")
                #expect(program.ending == .exit(4), "\(program.errorTail)")
                #expect(program.outputText.contains("By its catalogue copy it is the one"), "\(program.outputText)")
                program = try await accept("s3://bucket/home/", "--yes")
                #expect(program.ending == .exit(0), "\(program.errorTail)")
                #expect(try await eventually { self.content(server, "home/b") == text }, "\(agent.errorTail)")
                try await bench.stop(agent)
                #expect(content(server, mark) == former)
                // What is there is not sent again.
                let again = server.requests.filter { $0.operation == .putObject && $0.key == Array("home/a".utf8) }
                #expect(again.isEmpty)
            }
            // Without one.
            for key in server.objects.keys { server.uproot(key) }
            program = try await bench.run(["run", "--config", file, "--once"])
            #expect(program.ending == .exit(4), "\(program.errorTail)")
            program = try await accept("d", "--yes")
            #expect(program.ending == .exit(0) && program.outputText.contains("was emptied"), "\(program.errorTail)")
            try await saveOnce(bench, file)
            #expect(content(server, "home/a") == "one\n" && content(server, mark) != former)
            try await expectRestored(bench, ["--config", file, "--from", "d"], "back")
            // Objects, and nothing that tells whose they are.
            for key in server.objects.keys where key.contains("/.safebackup/") { server.uproot(key) }
            program = try await accept("d", "--yes")
            #expect(program.ending == .exit(4), "\(program.errorTail)")
            #expect(program.outputText.contains("no catalogue copy that tells whose they are"), "\(program.outputText)")
            #expect(server.object(mark) == nil)
        }

        @Test("A bucket is read by itself, and compared with its catalogue copy; nothing is written")
        func verifyAlone() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            for name in ["a", "b", "c", "d/e"] { try bench.write(name, "of \(name)\n") }
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            try command(["rm", "-r", bench.state])
            server.forgetRequests()
            func verify(_ arguments: FilePath...) async throws -> Program {
                try await bench.run(["verify", "--config", file] + arguments)
            }
            for name: FilePath in ["d", "s3://bucket/home"] {
                let program = try await verify("--from", name)
                #expect(program.ending == .exit(0), "\(program.errorTail)")
                #expect(program.outputText.contains("4 copies read"), "\(program.outputText)")
            }
            // Renamed by an agent after the catalogue copy was written, and something new.
            let moved = try #require(server.object("home/d/e"))
            server.plant("home/elsewhere", moved.bytes, headers: moved.headers)
            server.uproot("home/d/e")
            server.plant("home/new", Array("by nobody\n".utf8))
            var program = try await verify("--from", "d")
            #expect(program.ending == .exit(0), "\(program.outputText)")
            #expect(program.outputText.contains("1 file is not in it") && program.outputText.contains(": new\n"))
            // Damaged; lost; and replaced by an agent, as its own digest tells.
            let headers = try #require(server.object("home/a")).headers
            server.plant("home/a", Array("OF a\n".utf8), headers: headers)
            server.uproot("home/b")
            let newer = Array("newer\n".utf8)
            server.plant(
                "home/c", newer, headers: headers.merging(["x-amz-meta-sha256": SHA256.digest(of: newer).hex]) { $1 })
            program = try await verify("--from", "d")
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            for text in [
                "a: the stored copy a has not the content that was saved", "b: the stored copy b is not there any more",
                "c was replaced after the catalogue copy was written", "2 damaged or missing",
            ] {
                #expect(program.outputText.contains(text), "\(text) in \(program.outputText)")
            }
            program = try await verify("--from", "d", "d")
            #expect(program.ending == .exit(0), "\(program.outputText)")
            #expect(server.count(.putObject) == 0)
        }

        @Test("Objects have the tags, the lock and the encryption that the configuration asks for")
        func objectSettings() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a.txt", "one\n")
            let lines = "tag = project=backup\ntag = kind=a b\nobject-lock-mode = governance\nobject-lock-time = 30d\n"
            try await saveOnce(bench, try configure(bench, server, lines + "encryption = AES256"))
            let headers = try #require(server.object("home/a.txt")).headers
            #expect(headers["x-amz-tagging"] == "kind=a%20b&project=backup")
            #expect(headers["x-amz-object-lock-mode"] == "GOVERNANCE")
            #expect(headers["x-amz-object-lock-retain-until-date"] != nil)
            #expect(headers["x-amz-server-side-encryption"] == "AES256")
        }

        @Test("A key of ours is never sent in the clear, and one that is none is told with its file")
        func customerKey() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a.txt", "one\n")
            let key = bench.root.appending("key")
            let file = try configure(bench, server, "encryption = customer\ncustomer-key-file = \(key)")
            for (content, words) in [
                ("c2hvcnQ=\n", "holds no key of 32 bytes"),
                (String(repeating: "A", count: 43) + "=\n", "needs an endpoint with https://"),
            ] {
                try bench.write(key, Array(content.utf8))
                try command(["chmod", "600", key])
                let program = try await bench.run(["run", "--config", file, "--once"])
                #expect(program.ending == .exit(2) && program.errorText.contains(words), "\(program.errorTail)")
            }
            #expect(server.requests.isEmpty)
        }

        @Test("A change, a new file and a rename are one request each to be written, without a listing")
        func steadyState() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let agent = try await start(bench, try configure(bench, server))
            #expect(try await eventually { self.content(server, "home/a") == "one\n" }, "\(agent.errorTail)")
            _ = try await eventually { try StateFile(copying: bench.state).jobCounts().isEmpty }
            server.forgetRequests()
            try bench.write("a", "two\n")
            #expect(try await eventually { self.content(server, "home/a") == "two\n" }, "\(agent.errorTail)")
            _ = try await eventually { try StateFile(copying: bench.state).jobCounts().isEmpty }
            #expect(server.count(.putObject) == 1)
            let others = server.requests.filter { $0.operation != .putObject }.map(\.operation)
            #expect(others.isEmpty, "\(others)")
            try command(["mv", bench.at("a"), bench.at("b")])
            #expect(try await eventually { self.content(server, "home/b") == "two\n" }, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        private func start(_ bench: Bench, _ file: FilePath) async throws -> Program {
            let agent = try bench.spawn(["run", "--config", file])
            let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
            try #require(isReady && agent.poll() == nil, "\(agent.errorTail)")
            return agent
        }

        @Test("Killed and with the server away, everything arrives when both are back")
        func killedAndAway() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            let file = try configure(bench, server)
            try bench.write("first", "1\n")
            var agent = try await start(bench, file)
            #expect(try await eventually { self.content(server, "home/first") == "1\n" }, "\(agent.errorTail)")
            server.goDown()
            for number in 0..<20 { try bench.write("d/\(number)", "\(number)\n") }
            agent.send(SIGKILL)
            _ = try await agent.wait(within: .seconds(10))
            agent = try await start(bench, file)
            try server.comeBack()
            let isThere = try await eventually(within: .seconds(90)) {
                (0..<20).allSatisfy { self.content(server, "home/d/\($0)") == "\($0)\n" }
            }
            #expect(isThere, "\(agent.errorTail)")
            try await bench.stop(agent)
            try await saveOnce(bench, file)
            try await expectRestored(bench, ["--config", file], "back")
        }

        @Test("Keys that are refused hold the destination with one message, and no file is called stuck")
        func refusedKeys() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            try await saveOnce(bench, try configure(bench, server))
            try bench.write("b", "two\n")
            let agent = try bench.spawn(["run", "--config", try configure(bench, server, secret: "Zq9-nobody-knows")])
            let isHeld = try await eventually { agent.errorText.contains("is held") || agent.poll() != nil }
            #expect(isHeld && agent.poll() == nil, "\(agent.errorTail)")
            #expect(!agent.errorText.contains("Zq9-nobody-knows"), "the secret is in the log")
            let status = try await bench.run(["status", "--state", bench.state])
            #expect(status.ending == .exit(4), "\(status.outputText)")
            try await bench.stop(agent)
            try await saveOnce(bench, try configure(bench, server))
            #expect(content(server, "home/b") == "two\n")
        }

        @Test("Refused keys end a run that saves once as held, whether the bucket was seen before or not")
        func refusedKeysOnce() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            let wrong = try configure(bench, server, secret: "Zq9-nobody-knows")
            for _ in 1...2 {
                let program = try await bench.run(["run", "--config", wrong, "--once"])
                #expect(program.ending == .exit(4), "\(program.errorTail)")
                try await saveOnce(bench, try configure(bench, server))
                _ = try configure(bench, server, secret: "Zq9-nobody-knows")
            }
        }

        @Test("A server that fails when the agent sees it for the first time is held, and saved to when it is well")
        func failsAtFirst() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("a", "one\n")
            server.faults.add(.internalError, times: nil)
            let agent = try bench.spawn(["run", "--config", try configure(bench, server)])
            let isHeld = try await eventually { agent.errorText.contains("is held") || agent.poll() != nil }
            #expect(isHeld && agent.poll() == nil, "\(agent.errorTail)")
            server.faults.removeAll()
            let isThere = try await eventually(within: .seconds(60)) { self.content(server, "home/a") == "one\n" }
            #expect(isThere, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        @Test("Everything arrives from a server that answers 503 for a while, and nothing is called stuck")
        func slowDown() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("first", "1\n")
            let file = try configure(bench, server)
            let agent = try await start(bench, file)
            #expect(try await eventually { self.content(server, "home/first") == "1\n" }, "\(agent.errorTail)")
            // More than the attempts of one request, of every file.
            server.faults.add(.slowDown, on: .putObject, times: 100)
            for number in 0..<20 { try bench.write("d/\(number)", "\(number)\n") }
            let isThere = try await eventually(within: .seconds(120)) {
                (0..<20).allSatisfy { self.content(server, "home/d/\($0)") == "\($0)\n" }
            }
            #expect(isThere, "\(agent.errorTail)")
            #expect(server.faults.isSpent)
            #expect(!agent.errorText.contains("stuck"), "\(agent.errorTail)")
            try await bench.stop(agent)
            try await expectRestored(bench, ["--config", file], "back")
        }

        @Test("Killed amid an upload in parts, the agent sends no part again that the server has")
        func killedAmidParts() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            try bench.write("first", "1\n")
            let file = try configure(bench, server)
            try await saveOnce(bench, file)
            try command([
                "dd", "if=/dev/urandom", FilePath("of=\(bench.at("large"))"), "bs=1M", "count=40", "status=none",
            ])
            server.faults.add(.holdBeforeEffect, on: .uploadPart, skipping: 2, times: nil)
            var agent = try await start(bench, file)
            func sent() -> Set<String> {
                Set(
                    server.requests.filter { $0.operation == .uploadPart && $0.status == 200 }
                        .compactMap { $0.request.parameter("partNumber") })
            }
            let isMidway = try await eventually(within: .seconds(60)) {
                try sent().count == 2 && server.held > 0 && StateFile(copying: bench.state).uploadedParts() == 2
            }
            #expect(isMidway, "\(agent.errorTail)")
            let had = sent()
            agent.send(SIGKILL)
            _ = try await agent.wait(within: .seconds(10))
            server.faults.removeAll()
            server.forgetRequests()
            server.releaseHeld()
            agent = try await start(bench, file)
            let isSaved = try await eventually(within: .seconds(60)) {
                try server.object("home/large") != nil && StateFile(copying: bench.state).jobCounts().isEmpty
            }
            #expect(isSaved, "\(agent.errorTail)")
            try await bench.stop(agent)
            #expect(sent().isDisjoint(with: had), "\(sent()) \(had)")
            #expect(server.count(.createUpload) == 0)
            try await expectRestored(bench, ["--config", file], "back")
        }

        @Test("A configuration with a secret that others may read is refused, and its secret is never shown")
        func secrets() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            let file = try configure(bench, server)
            let shown = try await bench.run(["config", "show", "--config", file, "--effective"])
            #expect(shown.ending == .exit(0) && shown.outputText.contains("secret-access-key = (secret)"))
            #expect(!shown.outputText.contains(FakeCredential().secretKey))
            try command(["chmod", "640", file])
            let program = try await bench.run(["run", "--config", file, "--once"])
            #expect(program.ending == .exit(2) && program.errorText.contains("chmod 600"), "\(program.errorTail)")
        }
    }
}
