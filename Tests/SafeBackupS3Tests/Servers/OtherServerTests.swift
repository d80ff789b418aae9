import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif
#if canImport(Glibc)
    import Glibc
#endif

/// An S3 server of somebody else's, run for one test on a port of the loopback.
final class OtherServer {
    enum Kind: String, CaseIterable, CustomTestStringConvertible {
        case rclone, moto

        var program: String { self == .rclone ? "rclone" : "moto_server" }
        var testDescription: String { program }

        func arguments(_ directory: String, port: Int) -> [String] {
            switch self {
            case .rclone:
                [
                    "serve", "s3", "--config", "/dev/null", "--addr", "127.0.0.1:\(port)", "--auth-key",
                    "\(OtherServer.keys.accessKey),\(OtherServer.keys.secretKey)", "--vfs-cache-mode", "off", directory,
                ]
            case .moto: ["-H", "127.0.0.1", "-p", String(port)]
            }
        }

        /// Where the program is; `nil`: not installed.
        var path: String? {
            let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
            return folders.map { "\($0)/\(program)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
        }
    }

    static let keys = S3Credentials(accessKey: "AKIDOTHER", secretKey: "other-secret", provider: "configuration")

    private let process = Process()
    private let directory: URL
    let endpoint: String

    init(_ kind: Kind) async throws {
        directory = FileManager.default.temporaryDirectory.appending(path: "safebackup-\(UUID().uuidString)")
        try FileManager.default.createDirectory(
            at: directory.appending(path: "bucket"), withIntermediateDirectories: true)
        let port = try Self.freePort()
        endpoint = "http://127.0.0.1:\(port)"
        process.executableURL = URL(filePath: try #require(kind.path))
        process.arguments = kind.arguments(directory.path, port: port)
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        let deadline = ContinuousClock.now + .seconds(60)
        while !Self.listens(port) {
            try #require(process.isRunning && ContinuousClock.now < deadline, "\(kind.program) did not start")
            await Task.yield()
        }
        if kind == .moto {
            // It takes every signature.
            let made = try await URLSession.shared.data(for: Self.making("\(endpoint)/bucket"))
            #expect((made.1 as? HTTPURLResponse)?.statusCode == 200)
        }
    }

    deinit {
        // The test runner's blocked signals are its children's too, so that a gentler one would not arrive.
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        do { try FileManager.default.removeItem(at: directory) } catch { print("left behind: \(directory): \(error)") }
    }

    /// A port that nobody has now.
    private static func freePort() throws -> Int {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        return try withAddress(0) { address, size in
            guard bind(socket, address, size) == 0 else { throw CocoaError(.fileReadUnknown) }
            var size = size
            guard getsockname(socket, address, &size) == 0 else { throw CocoaError(.fileReadUnknown) }
            return address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                Int(UInt16(bigEndian: $0.pointee.sin_port))
            }
        }
    }

    private static func listens(_ port: Int) -> Bool {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        return withAddress(port) { address, size in connect(socket, address, size) == 0 }
    }

    private static func withAddress<Value>(
        _ port: Int, _ body: (UnsafeMutablePointer<sockaddr>, socklen_t) throws -> Value
    ) rethrows -> Value {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return try withUnsafeMutablePointer(to: &address) { address in
            try address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                try body(address, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    private static func making(_ bucket: String) throws -> URLRequest {
        var request = URLRequest(url: try #require(URL(string: bucket)))
        request.httpMethod = "PUT"
        return request
    }
}

@Suite(
    "The S3 client and servers of others",
    .enabled(
        if: OtherServer.Kind.allCases.contains { $0.path != nil }, "neither rclone nor moto_server is installed"))
struct OtherServerTests {
    static let kinds = OtherServer.Kind.allCases.filter { $0.path != nil }

    @Test("Objects, uploads in parts, copies, listings and deletions are what they are at S3", arguments: kinds)
    func everything(_ kind: OtherServer.Kind) async throws {
        let server = try await OtherServer(kind)
        let client = try Customer(endpoint: server.endpoint, [OtherServer.keys]).client
        let names = ["p/a b+c%20", "p/übung/✓", "p/(1)!~'*", "p/q?x=1&y", "p/<&>"]
        let metadata = ["mtime": "1700000000.123456789", "sha256": "0"]
        for name in names {
            _ = try await client.put(name, Array(name.utf8), ObjectProperties(metadata: ["mtime": "1.5"]))
        }
        for name in names {
            let held = try await client.bytes(of: ObjectKey(name), limit: 1_000)
            #expect(held?.bytes == Array(name.utf8))
            #expect(held?.head.metadata["mtime"] == "1.5")
        }
        let page = try await client.list(below: Array("p/".utf8), after: nil)
        #expect(Set(page.objects.map(\.key)) == Set(names.map { ObjectKey($0) }))
        let absent = try await client.head(ObjectKey("p/absent"), version: nil)
        #expect(absent == nil)

        let size = 5 << 20
        let content = patterned(2 * size + 7)
        let upload = try await client.beginUpload(ObjectKey("big one"), ObjectProperties(metadata: metadata))
        var parts: [PartReceipt] = []
        for number in 1...3 {
            let bytes = content[((number - 1) * size)..<min(number * size, content.count)]
            parts.append(try await client.uploadPart(number, of: upload, .bytes(Array(bytes))))
        }
        _ = try await client.completeUpload(upload, parts, size: Int64(content.count))
        let head = try await client.head(ObjectKey("big one"), version: nil)
        #expect(head?.size == Int64(content.count))
        let whole = try await client.bytes(of: ObjectKey("big one"), limit: 1 << 24)?.bytes
        let isWhole = whole == content
        #expect(isWhole)

        _ = try await client.copy(
            ObjectKey("p/a b+c%20"), version: nil, size: 10, to: ObjectKey("copy of ü"), nil)
        let copied = try await client.bytes(of: ObjectKey("copy of ü"), limit: 1_000)
        #expect(copied?.bytes == Array("p/a b+c%20".utf8))

        let results = try await client.delete(names.map { ObjectKey($0) } + [ObjectKey("absent")])
        #expect(results.allSatisfy { $0 == nil })
        let rest = try await client.list(below: Array("p/".utf8), after: nil)
        #expect(rest.objects.isEmpty)
    }

    @Test("Pages of a thousand are put together", arguments: kinds)
    func pages(_ kind: OtherServer.Kind) async throws {
        let server = try await OtherServer(kind)
        let client = try Customer(endpoint: server.endpoint, [OtherServer.keys]).client
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<1_100 {
                group.addTask { _ = try await client.put("n/\(index)", [1], ObjectProperties()) }
            }
            try await group.waitForAll()
        }
        var keys: Set<ObjectKey> = []
        var after: String?
        repeat {
            let page = try await client.list(below: Array("n/".utf8), after: after)
            keys.formUnion(page.objects.map(\.key))
            after = page.next
        } while after != nil
        #expect(keys.count == 1_100)
    }
}
