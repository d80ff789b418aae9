import Foundation
import SafeBackupS3
import Testing

@Suite("The least that keys must be allowed")
struct BucketPolicyTests {
    private func statements(_ policy: BucketPolicy) throws -> [[String: Any]] {
        let object = try JSONSerialization.jsonObject(with: Data(policy.json.utf8)) as? [String: Any]
        return object?["Statement"] as? [[String: Any]] ?? []
    }

    private func actions(_ policy: BucketPolicy) throws -> Set<String> {
        Set(try statements(policy).flatMap { $0["Action"] as? [String] ?? [] })
    }

    @Test("Saving alone neither reads nor removes")
    func writing() throws {
        var policy = BucketPolicy(bucket: "b", prefix: Array("home".utf8))
        policy.reads = false
        #expect(
            try actions(policy) == [
                "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
                "s3:ListBucketMultipartUploads",
            ])
        #expect(try statements(policy)[0]["Resource"] as? String == "arn:aws:s3:::b/home/*")
    }

    @Test("What is configured asks for its actions, and no more")
    func configured() throws {
        var policy = BucketPolicy(bucket: "b", prefix: [])
        #expect(try !actions(policy).contains { $0.contains("Delete") || $0.contains("Version") || $0.contains("Acl") })
        policy.readsVersions = true
        policy.setsACL = true
        policy.kmsKey = "*"
        #expect(
            try actions(policy).isSuperset(of: [
                "s3:GetObjectVersion", "s3:ListBucketVersions", "s3:GetBucketVersioning", "s3:PutObjectAcl",
                "kms:GenerateDataKey", "kms:Decrypt",
            ]))
        #expect(try !actions(policy).contains("s3:DeleteObjectVersion"))
        policy.removes = true
        #expect(try actions(policy).isSuperset(of: ["s3:DeleteObject", "s3:DeleteObjectVersion"]))
    }

    @Test("A prefix with signs that mean something in policies or JSON stands for itself alone")
    func oddPrefix() throws {
        let policy = BucketPolicy(bucket: "b", prefix: Array("a*b\"?$\\ü".utf8))
        let resource = try #require(try statements(policy)[0]["Resource"] as? String)
        #expect(resource == "arn:aws:s3:::b/a${*}b\"${?}${$}\\ü/*")
        let condition = try statements(policy)[1]["Condition"] as? [String: [String: [String]]]
        #expect(condition?["StringLike"]?["s3:prefix"] == ["a${*}b\"${?}${$}\\ü", "a${*}b\"${?}${$}\\ü/*"])
    }
}
