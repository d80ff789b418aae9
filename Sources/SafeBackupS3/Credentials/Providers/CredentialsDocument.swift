import FoundationEssentials
import SafeBackupCore

/// Keys as containers, instance metadata and programs print them: one JSON object.
struct CredentialsDocument: Decodable {
    var version: Int?
    var code: String?
    var message: String?
    var accessKey: String?
    var secretKey: String?
    /// `Token` in an answer over HTTP, `SessionToken` in a program's output.
    var token: String?
    var sessionToken: String?
    var expirationText: String?

    private enum CodingKeys: String, CodingKey {
        case version = "Version"
        case code = "Code"
        case message = "Message"
        case accessKey = "AccessKeyId"
        case secretKey = "SecretAccessKey"
        case token = "Token"
        case sessionToken = "SessionToken"
        case expirationText = "Expiration"
    }

    /// `nil` if it is not such an object. What is wrong with it is not said: the decoder's words may quote a secret.
    static func read(_ bytes: [UInt8]) -> CredentialsDocument? {
        do {
            return try JSONDecoder().decode(CredentialsDocument.self, from: Data(bytes))
        } catch {
            return nil
        }
    }

    /// - Parameter from: what printed it, for messages, as in `The container's endpoint http://…`.
    func credentials(
        provider: String, token: String?, from: String
    ) throws(CredentialsFailure) -> S3Credentials {
        for (name, value) in [("AccessKeyId", accessKey), ("SecretAccessKey", secretKey)] where value?.isEmpty ?? true {
            throw CredentialsFailure(.retrieval, "\(from) gave no \(name)")
        }
        var expiration: Timestamp?
        if let expirationText, !expirationText.isEmpty {
            expiration = Self.time(expirationText)
            if expiration == nil {
                throw CredentialsFailure(.retrieval, "\(from) gave an Expiration that is no ISO 8601 time in UTC")
            }
        }
        return S3Credentials(
            accessKey: accessKey ?? "", secretKey: secretKey ?? "", sessionToken: token?.isEmpty == true ? nil : token,
            expiration: expiration, provider: provider)
    }

    /// `2026-11-23T03:45:12Z`, or with an offset as in `+00:00`.
    static func time(_ text: String) -> Timestamp? {
        if let time = S3Date.iso(text) { return time }
        guard text.count > 6, let sign = text.dropLast(5).last, sign == "+" || sign == "-" else { return nil }
        let offset = text.suffix(5)
        guard offset.dropFirst(2).first == ":", let hours = Int64(offset.prefix(2)),
            let minutes = Int64(offset.suffix(2)),
            let local = S3Date.iso(text.dropLast(6) + "Z")
        else { return nil }
        let seconds = (hours * 60 + minutes) * 60
        return local + .seconds(sign == "+" ? -seconds : seconds)
    }
}
