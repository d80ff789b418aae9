import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage
import Testing

@Suite("Where keys come from, beyond the cases")
struct CredentialsSourcesTests {
    private func resolve(
        config: String = "", configMode: Int = 0o600, environment: [String: String] = [:],
        rules: [PlayedTransport.Rule] = [], settings: CredentialsChain.Settings = .init()
    ) async throws -> (result: String, requests: [HTTPRequest]) {
        let scratch = try Scratch()
        try scratch.write(config.replacingOccurrences(of: "DIR", with: scratch.path), to: "config", mode: configMode)
        var variables = [
            "AWS_CONFIG_FILE": "\(scratch.path)/config", "AWS_SHARED_CREDENTIALS_FILE": "\(scratch.path)/none",
            "AWS_EC2_METADATA_DISABLED": "true", "PATH": "/usr/bin:/bin",
        ]
        variables.merge(environment) { $1 }
        let played = try PlayedChain(rules, environment: variables, settings: settings)
        switch await played.resolve() {
        case .success(let keys):
            return ("\(keys.accessKey) \(keys.secretKey) \(keys.provider)", played.transport.requests)
        case .failure(let failure): return ("\(failure.kind.rawValue): \(failure.message)", played.transport.requests)
        }
    }

    @Test("A program for keys sees none of our secrets, and what it needs")
    func processEnvironment() async throws {
        let config = """
            [default]
            credential_process = /bin/sh -c 'printf "{\\"Version\\":1,\\"AccessKeyId\\":\\"A$AWS_ACCESS_KEY_ID\\",\\"SecretAccessKey\\":\\"$AWS_SECRET_ACCESS_KEY$AWS_SESSION_TOKEN$SAFEBACKUP_X$HOME\\"}"'
            """
        let answer = try await resolve(
            config: config,
            environment: [
                "AWS_ACCESS_KEY_ID": "LEAK", "AWS_SECRET_ACCESS_KEY": "LEAK", "AWS_SESSION_TOKEN": "LEAK",
                "SAFEBACKUP_X": "LEAK", "HOME": "/here",
            ], settings: .init(profile: "default"))
        #expect(answer.result == "A /here custom-process")
    }

    @Test(
        "A program that fails or prints nonsense is told without its output",
        arguments: ["exit 3", "echo SECRET", "true"])
    func processFails(_ command: String) async throws {
        let answer = try await resolve(config: "[default]\ncredential_process = /bin/sh -c '\(command)'\n")
        #expect(answer.result.hasPrefix("retrieval_failed: The program /bin/sh of the option credential_process"))
        #expect(!answer.result.contains("SECRET"))
    }

    @Test("A program is not run from a file that others may write")
    func writableConfig() async throws {
        let answer = try await resolve(
            config: "[default]\ncredential_process = /bin/false\n", configMode: 0o664)
        #expect(answer.result.hasPrefix("invalid_configuration:"))
        #expect(answer.result.contains("chmod go-w"))
    }

    @Test("A program that does not end is killed with what it started, at the limit")
    func processLimit() throws {
        let begin = ContinuousClock.now
        var failure: Errno?
        do throws(Errno) {
            _ = try ChildProcess.run(
                ["/bin/sh", "-c", "sleep 600 & sleep 600"].map { Array($0.utf8) }, environment: [],
                within: .milliseconds(200))
        } catch { failure = error }
        #expect(failure == .timedOut)
        #expect(ContinuousClock.now - begin < .seconds(60))
    }

    @Test("What a program leaves in the background holding its output does not hold us up")
    func backgroundChild() throws {
        let begin = ContinuousClock.now
        let result = try ChildProcess.run(
            ["/bin/sh", "-c", "sleep 100 & echo done; exit 4"].map { Array($0.utf8) },
            environment: ["PATH=/usr/bin:/bin"].map { Array($0.utf8) },
            within: .seconds(60))
        #expect(result.code == 4)
        #expect(result.output == Array("done\n".utf8))
        #expect(ContinuousClock.now - begin < .seconds(60))
    }

    @Test("A large output is read to its end")
    func largeOutput() throws {
        let result = try ChildProcess.run(
            ["/bin/sh", "-c", "head -c 300000 /dev/zero"].map { Array($0.utf8) },
            environment: ["PATH=/usr/bin:/bin"].map { Array($0.utf8) }, within: .seconds(60))
        #expect(result.output.count == 300_000)
    }

    @Test(
        "A profile that needs a browser is refused with the way out",
        arguments: ["sso_session = x", "sso_start_url = https://x", "login_session = x"])
    func interactive(_ line: String) async throws {
        let answer = try await resolve(config: "[default]\n\(line)\n")
        #expect(answer.result.hasPrefix("invalid_configuration:"))
        #expect(answer.result.contains("credential_process = aws configure export-credentials --profile default"))
    }

    @Test("A role that asks for a code is refused")
    func mfa() async throws {
        let config = """
            [default]
            role_arn = arn:r
            source_profile = s
            mfa_serial = arn:m
            [profile s]
            aws_access_key_id = A
            aws_secret_access_key = B
            """
        let answer = try await resolve(config: config)
        #expect(answer.result.contains("mfa_serial"))
        #expect(answer.requests.isEmpty)
    }

    @Test(
        "A container's keys are asked for over plain HTTP on this machine only",
        arguments: [
            ("http://example.com/x", false), ("http://127.evil.example/x", false), ("http://169.254.170.3/", false),
            ("http://localhost:1/x", true), ("http://[::1]:1/x", true), ("http://169.254.170.23/v1", true),
            ("http://[fd00:ec2::23]/v1", true), ("https://example.com/x", true),
            ("http://127.0.0.1@example.com/", false),
        ])
    func containerHosts(_ url: String, _ isAsked: Bool) async throws {
        let answer = try await resolve(environment: [
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken",
        ])
        #expect(answer.requests.isEmpty != isAsked)
        #expect(answer.requests.allSatisfy { !$0.mayUseProxy })
        #expect(!answer.result.contains("t0ken"))
    }

    @Test("A token that was replaced between two attempts is sent anew")
    func tokenRotation() async throws {
        let scratch = try Scratch()
        try scratch.write("old\n", to: "jwt")
        let body =
            "<R><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>S</SecretAccessKey>"
            + "<SessionToken>T</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
            + "</AssumeRoleWithWebIdentityResult></R>"
        let refusal =
            "<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>m</Message></Error></ErrorResponse>"
        let transport = PlayedTransport([
            .init(method: "POST", path: "/", form: ["WebIdentityToken": "old"], status: 400, body: Array(refusal.utf8)),
            .init(method: "POST", path: "/", form: ["WebIdentityToken": "new"], body: Array(body.utf8)),
        ])
        let io = try ThreadExecutor(name: "credentials", count: 1)
        defer { io.stop() }
        let environment = [
            "AWS_WEB_IDENTITY_TOKEN_FILE": "\(scratch.path)/jwt", "AWS_ROLE_ARN": "arn:r", "HOME": scratch.path,
            "AWS_REGION": "eu-west-1",
        ]
        let chain = CredentialsChain(
            environment: AWSEnvironment(environment.mapValues { Array($0.utf8) }), transport: transport, io: io,
            sleep: { _ in do { try scratch.write("new", to: "jwt") } catch { Issue.record("not written: \(error)") } })
        let keys = try await chain.resolve()
        #expect(keys.accessKey == "A")
        #expect(transport.requests.map(\.origin.host) == Array(repeating: "sts.eu-west-1.amazonaws.com", count: 2))
    }

    @Test("A region that is switched off is left for us-east-1")
    func regionDisabled() async throws {
        let refusal = "<ErrorResponse><Error><Code>RegionDisabledException</Code></Error></ErrorResponse>"
        let config = """
            [default]
            region = ap-east-1
            role_arn = arn:r
            source_profile = s
            external_id = x y
            [profile s]
            aws_access_key_id = A
            aws_secret_access_key = B
            """
        let answer = try await resolve(
            config: config, rules: [.init(method: "POST", path: "/", status: 403, body: Array(refusal.utf8))])
        #expect(answer.result.hasPrefix("sts_error:"))
        #expect(
            answer.requests.map(\.origin.host).prefix(2) == [
                "sts.ap-east-1.amazonaws.com", "sts.us-east-1.amazonaws.com",
            ])
        #expect(PlayedTransport.form(answer.requests[0])["ExternalId"] == "x y")
    }

    @Test("A time with an offset is taken for what it is")
    func offset() async throws {
        let config = """
            [default]
            credential_process = /bin/echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"B","Expiration":"2020-01-01T00:00:00+00:00"}'
            """
        let answer = try await resolve(config: config)
        #expect(answer.result.contains("have expired"))
    }

    @Test("Neither keys nor their descriptions print a secret")
    func descriptions() {
        let keys = S3Credentials(
            accessKey: "AKIAEXAMPLE1234", secretKey: "hush", sessionToken: "quiet", provider: "env")
        for text in ["\(keys)", String(reflecting: keys), "\([keys])"] {
            #expect(!text.contains("hush") && !text.contains("quiet") && !text.contains("AKIAEXAMPLE"))
        }
    }
}

@Suite("The dialect of the shared files")
struct ProfileFileTests {
    private func read(_ text: String, _ kind: ProfileFile.Kind = .config) -> ProfileFile {
        ProfileFile(Array(text.utf8), kind)
    }

    @Test("A header that is broken does not give its lines to the profile before")
    func brokenHeader() {
        let file = read("[profile a]\nregion = x\n[profile b\nregion = y\naws_access_key_id = K\n")
        #expect(file.profile("a")?.options == ["region": "x"])
        #expect(file.junk == [3, 4, 5])
    }

    @Test("Lines that are all indented alike are options, and deeper ones belong to the one before")
    func indentation() {
        let file = read("[default]\n  a = 1\n  b = 2\n  s3 =\n    x = y\n  c = 3\n")
        #expect(file.profile("default")?.options == ["a": "1", "b": "2", "s3": "", "c": "3"])
        #expect(file.profile("default")?.nested == ["s3": ["x": "y"]])
    }

    @Test("Names may be quoted, and stand apart by white space")
    func names() {
        let file = read(
            "[profile \"a b\"]\nx=1\n[ profile\tc ] # note\nX = 2\n[services s]\ns3 =\n  endpoint_url = u\n")
        #expect(file.profile("a b")?.options == ["x": "1"])
        #expect(file.profile("c")?.options == ["x": "2"])
        #expect(file.sections[.init(type: "services", name: "s")]?.nested == ["s3": ["endpoint_url": "u"]])
        #expect(file.junk == [])
    }

    @Test("Bytes that are no text cost their line only")
    func odd() {
        let file = ProfileFile(Array("[default]\na = 1\nb = ".utf8) + [0xFF, 0x0A] + Array("c = 3".utf8), .credentials)
        #expect(file.profile("default")?.options == ["a": "1", "c": "3"])
        #expect(file.junk == [3])
    }

    @Test(
        "A command is split as a shell would",
        arguments: [
            ("a b  c", ["a", "b", "c"]), ("'a b' \"c d\"e", ["a b", "c de"]), ("a\\ b ''", ["a b", ""]),
            ("\"a\\\"b\\n\" '\\'", ["a\"b\\n", "\\"]), ("\"it's\"", ["it's"]),
        ] as [(String, [String])])
    func words(_ text: String, _ words: [String]) { #expect(ShellWords.split(text) == words) }

    @Test("A quote that is not closed is no command", arguments: ["'a", "\"a", "a\\"])
    func openQuote(_ text: String) { #expect(ShellWords.split(text) == nil) }
}
