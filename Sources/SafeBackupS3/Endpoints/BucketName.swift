package import SafeBackupCore

/// What a bucket's name can be, and what follows from it.
package struct BucketName: Sendable, Hashable {
    package let text: String

    /// Names of old buckets may hold capitals, `_` and up to 255 characters.
    /// - Throws: `invalidConfiguration` for what is no name, and for what this client does not speak to.
    package init(_ text: String) throws(SafeBackupError) {
        if text.isEmpty { throw Self.refusal("The bucket's name is empty; give it, as in s3://BUCKET/PREFIX") }
        if text.hasPrefix("arn:") {
            throw Self.refusal(
                "\(text) is an ARN; give the bucket's name, or an access point's alias (it ends in -s3alias)")
        }
        if text.hasSuffix("--x-s3") || text.hasSuffix("--xa-s3") {
            throw Self.refusal(
                "\(text) is a directory bucket (S3 Express), which needs sessions of its own; give a bucket of another kind"
            )
        }
        if text.hasSuffix(".mrap") {
            throw Self.refusal("\(text) is a multi-region access point, which needs other signatures; give a bucket")
        }
        if text.hasSuffix("--op-s3") {
            throw Self.refusal("\(text) is an access point of S3 on Outposts, which is not supported; give a bucket")
        }
        if text.hasSuffix("--ol-s3") {
            throw Self.refusal(
                "\(text) is an Object Lambda access point, which takes no objects; give the bucket's name")
        }
        let isName = text.utf8.allSatisfy { byte in
            Self.isLowerOrDigit(byte) || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_")
        }
        guard isName, text.utf8.count <= 255, text != ".", text != ".." else {
            throw Self.refusal(
                "\(String(reflecting: text)) is no name of a bucket; it has 3 to 63 lower-case letters, digits, - and ."
            )
        }
        self.text = text
    }

    /// It can be the first label of a host that a certificate for `*.…` covers.
    package var isLabel: Bool {
        let bytes = Array(text.utf8)
        guard (3...63).contains(bytes.count), let first = bytes.first, let last = bytes.last else { return false }
        return Self.isLowerOrDigit(first) && Self.isLowerOrDigit(last)
            && bytes.allSatisfy { Self.isLowerOrDigit($0) || $0 == UInt8(ascii: "-") }
    }

    private static func isLowerOrDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }

    private static func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }
}
