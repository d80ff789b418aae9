/// An enabled rule of a bucket's lifecycle configuration: what the server does to objects by itself.
package struct LifecycleRule: Sendable, Hashable {
    /// How much of what lies below a prefix it is about.
    package enum Reach: Sendable, Hashable {
        case nothing
        case part
        case everything
    }

    /// As its owner named it; empty where nobody did.
    package var name: String
    package var prefix: [UInt8]
    /// Only objects with certain tags, of which safebackup's have none.
    package var wantsTags = false
    /// Only objects of certain sizes.
    package var wantsSizes = false
    /// When it removes current objects: `after 30 days` or `on 2026-12-01`; `nil`: never.
    package var removal: String?
    /// The class that it moves current objects to, if that must be thawed before it can be read.
    package var archive: String?
    /// Days after which it removes versions that are not the newest.
    package var versionDays: Int64?
    /// Days after which it ends uploads in parts that were not finished.
    package var uploadDays: Int64?

    /// `nil` for a rule that is disabled.
    package init?(_ rule: XMLElement) {
        guard rule.string("Status") == "Enabled" else { return nil }
        let filter = rule.first("Filter")
        let parts = filter?.first("And") ?? filter
        name = rule.string("ID") ?? ""
        prefix = rule.bytes("Prefix") ?? parts?.bytes("Prefix") ?? []
        wantsTags = parts?.first("Tag") != nil
        wantsSizes = parts?.first("ObjectSizeGreaterThan") != nil || parts?.first("ObjectSizeLessThan") != nil
        if let expiration = rule.first("Expiration") {
            removal =
                expiration.number("Days").map { "after \($0) days" }
                ?? expiration.string("Date").map { "on \($0.prefix(10))" }
        }
        archive = rule.all("Transition").compactMap { $0.string("StorageClass") }
            .first { ["GLACIER", "DEEP_ARCHIVE"].contains($0) }
        versionDays = rule.first("NoncurrentVersionExpiration")?.number("NoncurrentDays")
        uploadDays = rule.first("AbortIncompleteMultipartUpload")?.number("DaysAfterInitiation")
    }

    /// The enabled rules of a `LifecycleConfiguration`.
    package static func all(in configuration: XMLElement) -> [LifecycleRule] {
        configuration.all("Rule").compactMap { LifecycleRule($0) }
    }

    /// - Parameter prefix: with a slash at its end, or empty.
    package func reach(below prefix: [UInt8]) -> Reach {
        if wantsTags { return .nothing }
        if prefix.starts(with: self.prefix) { return wantsSizes ? .part : .everything }
        return self.prefix.starts(with: prefix) ? .part : .nothing
    }
}
