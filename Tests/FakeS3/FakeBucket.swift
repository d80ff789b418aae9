/// One version of an object.
package struct FakeObject: Sendable {
    package var bytes: [UInt8]
    package var etag: String
    /// `null` where the bucket kept no versions.
    package var version: String
    /// In seconds since 1970, by the server's clock.
    package var modified: Int
    /// The headers that belong to the object: `x-amz-meta-…`, `content-type`, class, ACL, encryption, lock, tags.
    package var headers: [String: String]
    /// By their names, base64; with `-N` where they are of parts.
    package var checksums: [String: String] = [:]
    package var isDeleteMarker = false

    /// Without `x-amz-meta-`.
    package var metadata: [String: String] {
        var result: [String: String] = [:]
        for (name, value) in headers where name.hasPrefix("x-amz-meta-") { result[String(name.dropFirst(11))] = value }
        return result
    }
}

/// An upload in parts that is neither completed nor aborted.
package struct FakeUpload: Sendable {
    package struct Part: Sendable {
        package var bytes: [UInt8]
        package var etag: String
        package var md5: [UInt8]
        package var modified: Int
        package var checksums: [String: String]
    }

    package var id: String
    package var key: [UInt8]
    package var begun: Int
    package var headers: [String: String]
    package var parts: [Int: Part] = [:]
}

/// What a bucket holds.
package struct FakeBucket: Sendable {
    package enum Versioning: String, Sendable {
        case never = "", enabled = "Enabled", suspended = "Suspended"
    }

    package var versioning = Versioning.never
    /// The newest version last; never an empty list.
    package internal(set) var versions: [[UInt8]: [FakeObject]] = [:]
    package internal(set) var uploads: [String: FakeUpload] = [:]
    private var made = 0

    package init() {}

    /// Unique in this bucket, later ones sort behind.
    mutating func makeIdentifier(_ prefix: String) -> String {
        made += 1
        let text = String(made)
        return "\(prefix)\(String(repeating: "0", count: max(0, 8 - text.count)))\(text)+/="
    }

    package func current(_ key: [UInt8]) -> FakeObject? {
        guard let last = versions[key]?.last, !last.isDeleteMarker else { return nil }
        return last
    }

    package func object(_ key: [UInt8], version: String?) -> FakeObject? {
        guard let version else { return current(key) }
        return versions[key]?.first { $0.version == version }
    }

    /// The version that it became.
    mutating func store(_ key: [UInt8], _ object: FakeObject) -> String {
        var object = object
        object.version = versioning == .enabled ? makeIdentifier("v") : "null"
        if object.version == "null" { versions[key]?.removeAll { $0.version == "null" } }
        versions[key, default: []].append(object)
        return object.version
    }

    /// What a DELETE did.
    struct Removal {
        var version: String?
        var isMarker = false
    }

    mutating func remove(_ key: [UInt8], version: String?, now: Int) -> Removal {
        if let version {
            let wasMarker = object(key, version: version)?.isDeleteMarker ?? false
            versions[key]?.removeAll { $0.version == version }
            if versions[key]?.isEmpty == true { versions[key] = nil }
            return Removal(version: version, isMarker: wasMarker)
        }
        if versioning == .never {
            versions[key] = nil
            return Removal()
        }
        let marker = FakeObject(
            bytes: [], etag: "", version: "", modified: now, headers: [:], isDeleteMarker: true)
        return Removal(version: store(key, marker), isMarker: true)
    }

    /// In the order of their bytes.
    package var keys: [[UInt8]] {
        versions.keys.filter { current($0) != nil }.sorted { $0.lexicographicallyPrecedes($1) }
    }
}
