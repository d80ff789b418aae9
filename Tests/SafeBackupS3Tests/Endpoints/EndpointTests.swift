import Foundation
import SafeBackupCore
import SafeBackupS3
import Testing

@Suite("Where a bucket is")
struct EndpointTests {
    struct Case: Decodable, Sendable, CustomTestStringConvertible {
        struct Expected: Decodable, Sendable {
            var result: String
            var url: String?
            var signingRegion: String?
        }

        var name: String
        var contested: String
        var bucket: String
        var key: String
        var explicitRegion: String?
        var explicitEndpoint: String?
        var addressingStyle: String
        var useDualstack: Bool
        var useFips: Bool
        var useAccelerate: Bool
        var configFile: String?
        var expected: Expected
        var testDescription: String { name }
    }

    /// Names of variables, which the decoder of `Case` would change.
    private static let environments: [String: [String: String]] = {
        struct Named: Decodable {
            var name: String
            var env: [String: String]
        }
        struct File: Decodable { var cases: [Named] }
        let url = Vectors.directory.appending(path: "endpoints/cases.json")
        guard let data = FileManager.default.contents(atPath: url.path),
            let file = try? JSONDecoder().decode(File.self, from: data)
        else { return [:] }
        return Dictionary(uniqueKeysWithValues: file.cases.map { ($0.name, $0.env) })
    }()

    /// Where other programs differ, and what this one does.
    private static let decided: [String: (url: String?, region: String?)] = [
        // The regional host, not the old one of all the world.
        "us-east-1": ("https://backup-bucket.s3.us-east-1.amazonaws.com/dir/k%201", "us-east-1"),
        // Needs sessions of its own.
        "directory-bucket-name": (nil, nil),
        // Read by every SDK but botocore.
        "region-AWS_REGION": ("https://backup-bucket.s3.sa-east-1.amazonaws.com/dir/k%201", "sa-east-1"),
    ]

    @Test("Address and region are the known ones", arguments: try Vectors.read("endpoints/cases.json", Case.self))
    func vector(_ vector: Case) throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "endpoint-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        if let file = vector.configFile { try Data(file.utf8).write(to: directory.appending(path: "config")) }
        var variables: [String: [UInt8]] = [:]
        for (name, value) in try #require(Self.environments[vector.name]) {
            variables[name] = Array(value.replacingOccurrences(of: "${DIR}", with: directory.path).utf8)
        }
        let environment = AWSEnvironment(variables)
        let profiles = try AWSProfiles(environment, profile: nil)

        var settings = EndpointSettings(bucket: vector.bucket)
        settings.region = vector.explicitRegion
        settings.endpoint = vector.explicitEndpoint
        settings.addressing = try #require(EndpointSettings.Addressing(rawValue: vector.addressingStyle))
        if vector.useDualstack { settings.usesDualStack = true }
        if vector.useFips { settings.usesFIPS = true }
        if vector.useAccelerate { settings.usesAcceleration = true }

        #expect(vector.contested.isEmpty == (Self.decided[vector.name] == nil))
        let expected = Self.decided[vector.name] ?? (vector.expected.url, vector.expected.signingRegion)
        var found: (url: String, region: String)?
        do {
            let endpoint = try Endpoint(settings, environment: environment, profiles: profiles)
            let address = try endpoint.address(in: nil)
            let path = address.pathPrefix + "/" + PercentEncoding.encode(vector.key, keepsSlash: true)
            found = ("\(address.origin.scheme.rawValue)://\(address.origin.hostHeader)\(path)", address.region)
        } catch {
            #expect(error.code == .invalidConfiguration)
        }
        // Hosts are the same in any case; ours go out in lower case.
        #expect(found?.url.lowercased() == expected.url?.lowercased())
        #expect(found?.region == expected.region)
    }

    private func endpoint(_ change: (inout EndpointSettings) -> Void) throws -> Endpoint {
        var settings = EndpointSettings(bucket: "bucket")
        change(&settings)
        return try Endpoint(settings, environment: AWSEnvironment([:]), profiles: nil)
    }

    @Test(
        "Buckets that this client does not speak to, and names that are none, are refused",
        arguments: [
            "", ".", "..", "a/b", "a b", "bücket", "a:b", "a@b", "x\r\ny", "arn:aws:s3:eu-west-1:1:accesspoint/a",
            "b--use1-az4--x-s3", "mfzwi23gnjvgw.mrap", "a--op-s3", "a--ol-s3", String(repeating: "a", count: 256),
        ])
    func buckets(_ name: String) {
        #expect(throws: SafeBackupError.self) { try endpoint { $0.bucket = name } }
    }

    @Test(
        "An endpoint that is none is refused, and a password in it is not repeated",
        arguments: [
            "", "minio:9000", "ftp://h", "https://", "https://user:geheim@h", "https://h?x=1", "https://h/#f",
            "https://h:0", "https://h:99999", "https://h x", "https://[::1", "https:///b", "https://h\r\nX: y",
        ])
    func endpoints(_ url: String) {
        let error = #expect(throws: SafeBackupError.self) { try endpoint { $0.endpoint = url } }
        #expect(error?.message.contains("geheim") == false)
    }

    @Test("A region that the server names changes the host at AWS, and only the signature elsewhere")
    func otherRegion() throws {
        let aws = try endpoint { $0.region = "eu-west-1" }
        let moved = try aws.address(in: "cn-north-1")
        #expect(moved.origin.host == "bucket.s3.cn-north-1.amazonaws.com.cn")
        #expect(moved.region == "cn-north-1")
        let custom = try endpoint { $0.endpoint = "http://h:9000/base/" }
        let same = try custom.address(in: "cn-north-1")
        #expect(same.origin == HTTPOrigin(scheme: .http, host: "h", port: 9_000))
        #expect(same.pathPrefix == "/base/bucket")
        #expect(same.region == "cn-north-1")
        #expect(throws: SafeBackupError.self) { try aws.address(in: "evil.test/") }
    }

    @Test(
        "The bucket stands in the host where that is asked for and possible",
        arguments: [
            ("bucket", "https://oss.example.test", "bucket.oss.example.test", ""),
            ("Bucket", "https://oss.example.test", "oss.example.test", "/Bucket"),
            ("a.bucket", "https://oss.example.test/p", "oss.example.test", "/p/a.bucket"),
            ("bucket", "https://10.0.0.1:9000", "10.0.0.1", "/bucket"),
            ("bucket", "https://[::1]:9000", "[::1]", "/bucket"),
        ])
    func virtual(_ bucket: String, _ url: String, _ host: String, _ prefix: String) throws {
        let endpoint = try endpoint {
            ($0.bucket, $0.endpoint, $0.addressing) = (bucket, url, .virtual)
        }
        let address = try endpoint.address(in: nil)
        #expect(address.origin.host == host)
        #expect(address.pathPrefix == prefix)
    }

    @Test(
        "Servers that have their region in the name need no setting",
        arguments: [
            ("https://s3.us-west-004.backblazeb2.com", "us-west-004"), ("https://x.r2.cloudflarestorage.com", "auto"),
            ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"), ("https://minio.example.test", "us-east-1"),
        ])
    func regionInHost(_ url: String, _ region: String) throws {
        #expect(try endpoint { $0.endpoint = url }.region == region)
    }

    @Test("Plain HTTP is warned of, but not to this machine")
    func plain() throws {
        #expect(try endpoint { $0.endpoint = "http://nas.example.test" }.warnings.count == 1)
        for url in ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:1", "https://nas.example.test"] {
            #expect(try endpoint { $0.endpoint = url }.warnings.isEmpty)
        }
    }
}
