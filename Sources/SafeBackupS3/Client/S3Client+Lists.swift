package import SafeBackupCore
import SafeBackupSystem

// Listings. A page is one request of at most a thousand entries.
extension S3Client {
    /// The `next` of a page: `t` and the server's token, or `m` and the last key, percent-encoded, where the server has
    /// only the first version of listings.
    package func list(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> ObjectPage {
        if after?.hasPrefix("m") ?? learnt.withLock({ $0.onlyListsV1 }) {
            return try await listV1(below: prefix, after: after)
        }
        var call = S3Call(.listObjects, .get, expected: .document("ListBucketResult"))
        call.query = [
            ("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1000"), ("prefix", try Self.text(prefix)),
        ]
        if let after { call.query.append(("continuation-token", String(after.dropFirst()))) }
        let page: XMLElement
        do { page = try await perform(call).document } catch {
            let isOld = error.rule.outcome == .notSupported || error.rule.outcome == .ours
            if isOld, after == nil {
                let result = try await listV1(below: prefix, after: nil)
                learnt.withLock { $0.onlyListsV1 = true }
                return result
            }
            throw error.error
        }
        let objects = Self.objects(of: page)
        guard page.string("IsTruncated") == "true" else { return ObjectPage(objects: objects, next: nil) }
        if let token = page.string("NextContinuationToken") {
            let next = "t" + token
            if next == after { throw Self.endless(.listObjects, settings.bucket) }
            return ObjectPage(objects: objects, next: next)
        }
        // A server that does not know list-type answered as ever.
        guard let last = objects.last, after == nil else { throw Self.endless(.listObjects, settings.bucket) }
        learnt.withLock { $0.onlyListsV1 = true }
        return ObjectPage(objects: objects, next: "m" + PercentEncoding.encode(last.key.bytes))
    }

    private func listV1(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> ObjectPage {
        var call = S3Call(.listObjects, .get, expected: .document("ListBucketResult"))
        call.query = [("encoding-type", "url"), ("max-keys", "1000"), ("prefix", try Self.text(prefix))]
        if let after, let marker = PercentEncoding.decode(after.dropFirst().utf8) {
            call.query.append(("marker", try Self.text(marker)))
        }
        let page: XMLElement
        do { page = try await perform(call).document } catch { throw error.error }
        let objects = Self.objects(of: page)
        guard page.string("IsTruncated") == "true" else { return ObjectPage(objects: objects, next: nil) }
        let isEncoded = page.string("EncodingType") == "url"
        let marker = objects.last?.key.bytes ?? Self.key(page.bytes("NextMarker"), isEncoded)
        guard let marker else { throw Self.endless(.listObjects, settings.bucket) }
        let next = "m" + PercentEncoding.encode(marker)
        if next == after { throw Self.endless(.listObjects, settings.bucket) }
        return ObjectPage(objects: objects, next: next)
    }

    private static func objects(of page: XMLElement) -> [ListedObject] {
        let isEncoded = page.string("EncodingType") == "url"
        return page.children.lazy.filter { $0.name == "Contents" }.compactMap { object(of: $0, isEncoded) }
    }

    private static func object(of element: XMLElement, _ isEncoded: Bool) -> ListedObject? {
        guard let key = key(element.bytes("Key"), isEncoded) else { return nil }
        return ListedObject(
            key: ObjectKey(unchecked: key), size: element.number("Size") ?? 0, etag: element.string("ETag") ?? "",
            modifiedAt: element.string("LastModified").flatMap(S3Date.iso))
    }

    /// A key of a listing: with `encoding-type=url` a plus sign is a space. `nil` for none.
    static func key(_ text: [UInt8]?, _ isEncoded: Bool) -> [UInt8]? {
        guard let text, !text.isEmpty else { return nil }
        // What does not decode was not encoded, whatever the answer says.
        return isEncoded ? PercentEncoding.decode(text, plusIsSpace: true) ?? text : text
    }

    /// A prefix or a marker as text: keys are UTF-8.
    static func text(_ bytes: [UInt8]) throws(SafeBackupError) -> String {
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        throw SafeBackupError(
            .objectRefused, "\"\(ObjectKey(unchecked: bytes))\" is no UTF-8, which keys of objects are",
            disposition: .permanent)
    }

    /// The `next` of a page is the key to go on after, percent-encoded, `&` and the version.
    package func listVersions(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> VersionPage {
        var call = S3Call(.listVersions, .get, expected: .document("ListVersionsResult"))
        call.query = [
            ("versions", nil), ("encoding-type", "url"), ("max-keys", "1000"), ("prefix", try Self.text(prefix)),
        ]
        if let after {
            let halves = after.split(separator: "&", maxSplits: 1, omittingEmptySubsequences: false)
            if let marker = halves.first.flatMap({ PercentEncoding.decode($0.utf8) }) {
                call.query.append(("key-marker", try Self.text(marker)))
            }
            if halves.count == 2, !halves[1].isEmpty { call.query.append(("version-id-marker", String(halves[1]))) }
        }
        let page: XMLElement
        do { page = try await perform(call).document } catch {
            if error.rule.outcome == .ours {
                throw SafeBackupError(.notSupported, error.error.message, disposition: .permanent)
            }
            throw error.error
        }
        let isEncoded = page.string("EncodingType") == "url"
        var versions: [ListedVersion] = []
        for element in page.children where element.name == "Version" || element.name == "DeleteMarker" {
            guard let object = Self.object(of: element, isEncoded) else { continue }
            versions.append(
                ListedVersion(
                    object: object, version: element.string("VersionId") ?? "null",
                    isLatest: element.string("IsLatest") == "true", isDeleteMarker: element.name == "DeleteMarker"))
        }
        guard page.string("IsTruncated") == "true" else { return VersionPage(versions: versions, next: nil) }
        guard let key = Self.key(page.bytes("NextKeyMarker"), isEncoded) else {
            throw Self.endless(.listVersions, settings.bucket)
        }
        let next = PercentEncoding.encode(key) + "&" + (page.string("NextVersionIdMarker") ?? "")
        if next == after { throw Self.endless(.listVersions, settings.bucket) }
        return VersionPage(versions: versions, next: next)
    }

    package func versioning() async throws(SafeBackupError) -> Bool? {
        guard let configuration = try await configuration("versioning", .getVersioning, "VersioningConfiguration")
        else { return nil }
        return configuration.string("Status") == "Enabled"
    }

    /// A part of the bucket's configuration (`lifecycle`, `object-lock`, `ownershipControls`…), whatever its root is
    /// called; `nil` where the server or the policy does not say, or nothing is configured.
    package func configuration(_ name: String, root: String) async throws(SafeBackupError) -> XMLElement? {
        try await configuration(name, .getConfiguration, root)
    }

    private func configuration(
        _ name: String, _ operation: S3Operation, _ root: String
    ) async throws(SafeBackupError) -> XMLElement? {
        var call = S3Call(operation, .get, expected: .document(root))
        call.query = [(name, nil)]
        do { return try await perform(call).document } catch {
            switch error.rule.outcome {
            case .denied, .notSupported, .absent, .object, .ours: return nil
            case .setting where error.status == 404: return nil
            default: throw error.error
            }
        }
    }
}
