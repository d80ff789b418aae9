import Foundation
import SafeBackupFakeS3
import Testing

@Suite("The fake S3 server and a client of somebody else's")
struct ClientTests {
    /// Runs it to its end; what it printed.
    static func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = arguments
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }

    static let hasBoto = {
        do { return try run(["python3", "-c", "import boto3"]).status == 0 } catch { return false }
    }()

    @Test("boto3 gets from every operation what it gets from S3", .enabled(if: hasBoto, "boto3 is not installed"))
    func boto() throws {
        let server = try FakeS3.start()
        let script = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "client.py").path
        let credential = server.options.credentials[0]
        let done = try Self.run(["python3", script, server.endpoint, credential.accessKey, credential.secretKey])
        #expect(done.status == 0, "\(done.output)")
        #expect(server.requests.allSatisfy { $0.operation != .unknown })
    }

    @Test("A fault strikes the request that it is for, as often as it is to, and a server that is down comes back")
    func faults() throws {
        let server = try FakeS3.start()
        let url = "\(server.endpoint)/bucket"
        func status() throws -> String {
            try Self.run([
                "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", url,
            ]).output
        }
        // Not signed, and so refused, except where the fault is first.
        #expect(try status() == "403")
        server.faults.add(.closeAfterHead, on: .listObjects, skipping: 1, times: 2)
        server.faults.add(.slowDown, on: .putObject)
        #expect(try status() == "403")
        #expect(try status() == "000")
        #expect(try status() == "000")
        #expect(try status() == "403")
        #expect(!server.faults.isSpent)
        server.goDown()
        #expect(try status() == "000")
        try server.comeBack()
        #expect(try status() == "403")
        #expect(
            server.requests.map(\.code) == ["AccessDenied", "AccessDenied", nil, nil, "AccessDenied", "AccessDenied"])
    }
}
