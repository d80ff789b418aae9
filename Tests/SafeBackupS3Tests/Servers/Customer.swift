import Foundation
import SafeBackupCore
import SafeBackupFakeS3
import SafeBackupS3
import SafeBackupSystem
import Testing

/// Keys that a test hands out: the next ones when those before were refused.
final class KeyRing: CredentialsSource {
    private let keys: Locked<[S3Credentials]>

    init(_ keys: [S3Credentials]) { self.keys = Locked(keys) }

    func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials {
        let next: S3Credentials? = keys.withLock { keys in
            if let refused, keys.first == refused, keys.count > 1 { keys.removeFirst() }
            return keys.first
        }
        guard let next else { throw SafeBackupError(.invalidConfiguration, "no keys", disposition: .permanent) }
        return next
    }
}

/// A client of one bucket of a server, with the real transport; it waits for nothing between attempts.
final class Customer: Sendable {
    /// What the client told of itself.
    final class Notices: Sendable {
        private let list = Locked<[S3Notice]>([])
        var all: [S3Notice] { list.withLock { $0 } }
        func add(_ notice: S3Notice) { list.withLock { $0.append(notice) } }
    }

    let client: S3Client
    let notices = Notices()

    init(
        endpoint: String, _ keys: [S3Credentials], bucket: String = "bucket",
        _ change: (inout S3ClientSettings) -> Void = { _ in }
    ) throws {
        var settings = S3ClientSettings(bucket: bucket)
        change(&settings)
        let url = try #require(URL(string: endpoint))
        let origin = HTTPOrigin(scheme: .http, host: try #require(url.host()), port: url.port)
        let address = BucketAddress(origin: origin, pathPrefix: "/\(bucket)", region: "us-east-1", isAWS: false)
        client = try S3Client(
            settings, transport: try CurlTransport(), credentials: KeyRing(keys),
            locate: { _ throws(SafeBackupError) in address }, pause: { _ in },
            notice: { [notices] notice in notices.add(notice) })
    }

    convenience init(_ server: FakeS3, _ change: (inout S3ClientSettings) -> Void = { _ in }) throws {
        try self.init(endpoint: server.endpoint, server.options.credentials.map(\.keys), change)
    }
}

extension FakeCredential {
    var keys: S3Credentials {
        S3Credentials(accessKey: accessKey, secretKey: secretKey, sessionToken: sessionToken, provider: "configuration")
    }
}

extension ObjectKey {
    init(_ text: String) { self.init(unchecked: Array(text.utf8)) }
}

/// `count` bytes that differ from place to place.
func patterned(_ count: Int, seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: ($0 &+ seed) &* 131 &+ ($0 >> 8) &* 17) }
}
