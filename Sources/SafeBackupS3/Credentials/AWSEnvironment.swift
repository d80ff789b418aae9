import Glibc
package import SystemPackage

/// The process's environment as the credential chain reads it: an empty variable is one that is not set.
package struct AWSEnvironment: Sendable {
    private let variables: [String: [UInt8]]

    package init(_ variables: [String: [UInt8]]) { self.variables = variables }

    /// As it is now.
    package static func current() -> AWSEnvironment {
        var variables: [String: [UInt8]] = [:]
        var entry = environ
        while let text = entry.pointee {
            let bytes = UnsafeRawBufferPointer(start: text, count: strlen(text))
            if let equals = bytes.firstIndex(of: UInt8(ascii: "=")) {
                variables[String(decoding: bytes[..<equals], as: UTF8.self)] = Array(bytes[(equals + 1)...])
            }
            entry += 1
        }
        return AWSEnvironment(variables)
    }

    /// The variable's text; `nil` where it is not set, empty or no UTF-8.
    package func text(_ name: String) -> String? {
        guard let bytes = bytes(name) else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }

    /// The variable as a path, whatever its bytes.
    package func path(_ name: String) -> FilePath? { bytes(name).map { FilePath(machineBytes: $0) } }

    package func isTrue(_ name: String) -> Bool { text(name)?.lowercased() == "true" }

    private func bytes(_ name: String) -> [UInt8]? {
        guard let bytes = variables[name], !bytes.isEmpty else { return nil }
        return bytes
    }

    /// `NAME=VALUE` for another program, without what is secret or ours alone.
    package var forOtherPrograms: [[UInt8]] {
        variables.filter { name, _ in !Self.ours.contains(name) && !Self.prefixes.contains { name.hasPrefix($0) } }
            .map { Array("\($0.key)=".utf8) + $0.value }
    }

    private static let ours: Set<String> = [
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY",
    ]
    private static let prefixes = ["SAFEBACKUP_", "LISTEN_", "WATCHDOG_"]
}
