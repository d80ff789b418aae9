/// The least that the agent's keys must be allowed, as a policy of AWS IAM.
///
/// Who has the keys of a machine must not be able to remove its backup: without restoring, old versions or pruning, nothing
/// but writing below one prefix is allowed.
package struct BucketPolicy: Sendable, Hashable {
    package var bucket: String
    /// Of all keys, without slashes at its ends; empty for the whole bucket.
    package var prefix: [UInt8]
    /// Reading what was saved: restoring, verifying, and finding what is there after the state was lost.
    package var reads = true
    /// Older versions are kept as copies within the bucket.
    package var copiesVersions = false
    /// Older versions are the bucket's own.
    package var readsVersions = false
    /// Objects may be removed: deleted files, and versions that are pruned.
    package var removes = false
    package var setsACL = false
    package var setsTags = false
    package var locksObjects = false
    /// The ARN of the KMS key, where one is configured; `*` where only its alias is known.
    package var kmsKey: String?
    /// `aws`, `aws-cn` or `aws-us-gov`.
    package var partition = "aws"

    package init(bucket: String, prefix: [UInt8]) {
        self.bucket = bucket
        self.prefix = prefix
    }

    /// Actions on objects below the prefix.
    package var objectActions: [String] {
        var actions = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        if reads || copiesVersions { actions.append("s3:GetObject") }
        if readsVersions { actions.append("s3:GetObjectVersion") }
        if removes { actions.append("s3:DeleteObject") }
        if removes && readsVersions { actions.append("s3:DeleteObjectVersion") }
        if setsACL { actions.append("s3:PutObjectAcl") }
        if setsTags { actions.append("s3:PutObjectTagging") }
        if locksObjects { actions += ["s3:PutObjectRetention", "s3:PutObjectLegalHold"] }
        return actions
    }

    /// Actions that list, limited to the prefix.
    package var listActions: [String] {
        var actions: [String] = []
        if reads || removes { actions.append("s3:ListBucket") }
        if readsVersions { actions.append("s3:ListBucketVersions") }
        return actions
    }

    /// Of the bucket as a whole: S3 knows no prefix as a condition there.
    package var bucketActions: [String] {
        ["s3:ListBucketMultipartUploads"] + (readsVersions ? ["s3:GetBucketVersioning"] : [])
    }

    /// JSON, a line for each statement, as the consoles take it.
    package var json: String {
        let arn = "arn:\(partition):s3:::\(bucket)"
        let literal = Self.literal(prefix)
        let below = prefix.isEmpty ? "*" : literal + "/*"
        var statements = [
            #"{"Effect":"Allow","Action":\#(Self.list(objectActions)),"Resource":\#(Self.text("\(arn)/\(below)"))}"#
        ]
        if !listActions.isEmpty {
            let condition =
                prefix.isEmpty
                ? "" : #","Condition":{"StringLike":{"s3:prefix":\#(Self.list([literal, below]))}}"#
            statements.append(
                #"{"Effect":"Allow","Action":\#(Self.list(listActions)),"Resource":\#(Self.text(arn))\#(condition)}"#)
        }
        statements.append(
            #"{"Effect":"Allow","Action":\#(Self.list(bucketActions)),"Resource":\#(Self.text(arn))}"#)
        if let kmsKey {
            let actions = Self.list(["kms:GenerateDataKey", "kms:Decrypt"])
            statements.append(#"{"Effect":"Allow","Action":\#(actions),"Resource":\#(Self.text(kmsKey))}"#)
        }
        let lines = statements.map { "    \($0)" }.joined(separator: ",\n")
        return "{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [\n\(lines)\n  ]\n}"
    }

    /// What stands for itself in a resource: `*`, `?` and `$` of a key have a meaning in policies.
    private static func literal(_ bytes: [UInt8]) -> String {
        String(decoding: bytes, as: UTF8.self).unicodeScalars.map { scalar in
            switch scalar {
            case "*", "?", "$": "${\(scalar)}"
            default: String(scalar)
            }
        }.joined()
    }

    private static func list(_ texts: [String]) -> String { "[\(texts.map(text).joined(separator: ","))]" }

    private static func text(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
