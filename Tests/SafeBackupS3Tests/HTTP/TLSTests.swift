import Foundation
import SafeBackupS3
import SystemPackage
import Testing

@Suite("Requests over TLS", .timeLimit(.minutes(2)))
struct TLSTests {
    static let hasOpenSSL = FileManager.default.isExecutableFile(atPath: "/usr/bin/openssl")

    /// OpenSSL's own server, with a certificate for 127.0.0.1 that nobody else knows.
    private final class Server {
        let directory: URL
        let process = Process()
        private(set) var port = 0

        init() throws {
            directory = FileManager.default.temporaryDirectory.appending(path: "tls-\(UUID().uuidString)")
            try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
            let made = Process()
            made.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
            made.arguments = [
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path("key.pem"), "-out", path("cert.pem"),
                "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
            ]
            made.standardError = FileHandle.nullDevice
            try made.run()
            made.waitUntilExit()
            let output = Pipe()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
            process.arguments = [
                "s_server", "-accept", "127.0.0.1:0", "-cert", path("cert.pem"), "-key", path("key.pem"), "-www",
            ]
            process.standardInput = FileHandle.nullDevice
            process.standardOutput = output
            process.standardError = FileHandle.nullDevice
            try process.run()
            var text = ""
            while !text.contains("ACCEPT") || !text.hasSuffix("\n") {
                let data = output.fileHandleForReading.availableData
                if data.isEmpty { break }
                text += String(decoding: data, as: UTF8.self)
            }
            let line = text.split(separator: "\n").first { $0.hasPrefix("ACCEPT") } ?? ""
            port = line.split(separator: ":").last.flatMap { Int($0) } ?? 0
        }

        func path(_ name: String) -> String { directory.appending(path: name).path }

        deinit {
            process.terminate()
            try? FileManager.default.removeItem(at: directory)
        }
    }

    private func kind(_ server: Server, host: String, caBundle: String?) async throws -> TransportFailure.Kind? {
        var settings = TransportSettings()
        settings.proxy = ""
        settings.caBundle = caBundle.map { FilePath($0) }
        let transport = try CurlTransport(settings)
        let origin = HTTPOrigin(scheme: .https, host: host, port: server.port)
        var kind: TransportFailure.Kind?
        do throws(TransportFailure) {
            let response = try await transport.send(HTTPRequest(.get, origin, path: "/"))
            #expect(response.status == 200)
        } catch {
            kind = error.kind
            #expect(!error.mayHaveArrived)
        }
        await transport.close()
        return kind
    }

    @Test(
        "A server is trusted only with a known certificate of its own name",
        .enabled(if: TLSTests.hasOpenSSL, "the command openssl is not there"))
    func trust() async throws {
        let server = try Server()
        try #require(server.port > 0)
        #expect(try await kind(server, host: "127.0.0.1", caBundle: server.path("cert.pem")) == nil)
        #expect(try await kind(server, host: "127.0.0.1", caBundle: nil) == .certificateNotTrusted)
        // The certificate is not of that name.
        #expect(try await kind(server, host: "localhost", caBundle: server.path("cert.pem")) == .certificateNotTrusted)
        #expect(
            try await kind(server, host: "127.0.0.1", caBundle: server.path("missing.pem")) == .certificateFileFailed)
    }
}
