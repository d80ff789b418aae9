import SafeBackupS3
import Testing

@Suite("What a request names")
struct HTTPRequestTests {
    @Test(
        "The header Host names the port only where it is not the scheme's own",
        arguments: [
            (HTTPOrigin(scheme: .https, host: "b.s3.eu-west-1.amazonaws.com"), "b.s3.eu-west-1.amazonaws.com"),
            (HTTPOrigin(scheme: .https, host: "h", port: 443), "h"),
            (HTTPOrigin(scheme: .http, host: "h", port: 443), "h:443"),
            (HTTPOrigin(scheme: .http, host: "[::1]", port: 9_000), "[::1]:9000"),
        ])
    func hostHeader(_ origin: HTTPOrigin, _ expected: String) { #expect(origin.hostHeader == expected) }
}
