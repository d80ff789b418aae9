import SafeBackupConfiguration
import SafeBackupS3

extension Configuration.S3 {
    /// What the keys must be allowed for what is configured. Removing is among it: a file that was deleted is deleted in the
    /// bucket too, and a renamed one is copied and its old object removed.
    var leastPolicy: BucketPolicy {
        var policy = BucketPolicy(bucket: url.bucket, prefix: url.prefix)
        if region?.hasPrefix("cn-") == true { policy.partition = "aws-cn" }
        if region?.hasPrefix("us-gov-") == true { policy.partition = "aws-us-gov" }
        policy.removes = true
        policy.copiesVersions = versions == .copy
        policy.setsACL = acl != nil
        policy.setsTags = !tags.isEmpty
        policy.locksObjects = lockMode != nil || holdsLegally
        if encryption == .kms || encryption == .kmsTwice {
            // Only an ARN may stand in a policy; an alias or an id has to be looked up by a person.
            policy.kmsKey = kmsKey.flatMap { $0.hasPrefix("arn:") && $0.contains(":key/") ? $0 : nil } ?? "*"
        }
        return policy
    }
}
