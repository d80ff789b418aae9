package import SafeBackupCore

/// A request that failed for good, with what the code that made it may want to know besides the error.
package struct S3Failure: Error, Sendable {
    package let rule: S3Rule
    package let status: Int?
    /// The server's own code.
    package let serverCode: String?
    package let error: SafeBackupError
    /// An earlier attempt may have had its effect, although no answer said so.
    package var mayHaveArrived = false

    /// The agent stops, or the client was shut down.
    package static let interrupted = SafeBackupError(
        .interrupted, "The request was ended because the agent stops", disposition: .transient)

    package init(_ error: SafeBackupError, rule: S3Rule = S3Rule(.tell, .interrupted)) {
        self.rule = rule
        status = nil
        serverCode = nil
        self.error = error
    }

    /// What was asked for, for a message.
    package struct Subject: Sendable {
        package var operation: S3Operation
        package var bucket: String
        package var key: ObjectKey?
        package var host: String
        /// Whose keys were used, without a secret.
        package var credentials: String?

        package init(
            _ operation: S3Operation, bucket: String, key: ObjectKey?, host: String, credentials: String? = nil
        ) {
            self.operation = operation
            self.bucket = bucket
            self.key = key
            self.host = host
            self.credentials = credentials
        }

        var text: String {
            let object = key.map { " of \"\($0)\"" } ?? ""
            return "\(operation.rawValue)\(object) in bucket \(bucket) at \(host)"
        }
    }

    package init(_ answer: S3ErrorAnswer, rule: S3Rule, _ subject: Subject, isOfBucket: Bool = false) {
        self.rule = rule
        status = answer.status
        serverCode = answer.code
        var cause = answer.code ?? (answer.isHTML ? "a page of HTML" : "no code")
        if let message = answer.message, message != answer.code { cause += ": \(message)" }
        var details = ["status \(answer.status)"]
        if let id = answer.requestID { details.append("request \(id)") }
        if let id = answer.hostID { details.append("host \(id)") }
        if rule.outcome == .credentials, let keys = subject.credentials { details.append("keys from \(keys)") }
        var text = "\(subject.text) was answered with \(cause) (\(details.joined(separator: ", ")))"
        if !rule.advice.isEmpty { text += "; \(rule.advice)" }
        if rule.outcome == .denied {
            text += "; the resource is arn:aws:s3:::\(subject.bucket)" + (subject.key.map { "/\($0)" } ?? "")
        }
        error = SafeBackupError(
            rule.outcome.code, text, disposition: isOfBucket ? .auth : rule.outcome.disposition)
    }

    package init(_ failure: TransportFailure, rule: S3Rule, _ subject: Subject) {
        self.rule = rule
        status = nil
        serverCode = nil
        var text = "\(subject.text) failed: \(failure.message)"
        if !rule.advice.isEmpty { text += "; \(rule.advice)" }
        error = SafeBackupError(
            rule.outcome.code, text, disposition: rule.outcome.disposition, systemError: failure.systemError)
    }
}

extension ObjectKey: CustomStringConvertible {
    /// For people: bytes that are no printable UTF-8 as `%XX`, at most 300 characters.
    package var description: String {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            return Self.cut(PercentEncoding.encode(bytes, keepsSlash: true))
        }
        var result = ""
        for scalar in text.unicodeScalars {
            // Control characters, and those that turn the direction of what follows.
            switch scalar.value {
            case 0..<0x20, 0x7F..<0xA0, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069:
                result += PercentEncoding.encode(String(Character(scalar)))
            default: result.unicodeScalars.append(scalar)
            }
        }
        return Self.cut(result)
    }

    private static func cut(_ text: String) -> String { text.count > 300 ? text.prefix(300) + "…" : text }
}
