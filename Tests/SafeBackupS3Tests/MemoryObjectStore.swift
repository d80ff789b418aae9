import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem

/// A bucket in memory that counts its requests, and can fail any of them: before it does anything, or after it did all of
/// it, as a lost answer is.
final class MemoryObjectStore: ObjectStore {
    enum Operation: String, Hashable, CaseIterable {
        case put, beginUpload, uploadPart, completeUpload, abortUpload, parts, uploads, head, get, copy, delete, list
    }

    enum Fault: Hashable {
        /// The request never arrived.
        case before
        /// It was done, and nobody was told.
        case after
    }

    struct Object: Hashable {
        var body: [UInt8]
        var metadata: [String: String]
        var etag: String
    }

    struct Upload {
        var key: ObjectKey
        var properties: ObjectProperties
        var parts: [Int: (body: [UInt8], receipt: PartReceipt)] = [:]
        var begunAt: Timestamp
    }

    private struct State {
        var objects: [[UInt8]: Object] = [:]
        var uploads: [String: Upload] = [:]
        var log: [Operation] = []
        /// By the number of the request, from 0 on.
        var faults: [Int: (Fault, SafeBackupError)] = [:]
        var denied: Set<Operation> = []
        var number = 0
        var bodiesInFlight = 0
        var mostInFlight = 0
        /// How often requests in flight were ended.
        var endings = 0
        var hook: (@Sendable (Operation) -> Void)?
    }

    private let state = Locked(State())

    static let lost = SafeBackupError(
        .init(rawValue: "serverUnreachable"), "no answer", disposition: .destinationUnavailable)
    static let failed = SafeBackupError(.init(rawValue: "serverFailed"), "500", disposition: .throttled)

    // MARK: - For tests

    /// The most bytes of parts that were under way at once.
    var mostInFlight: Int { state.withLock { $0.mostInFlight } }
    var requests: [Operation] { state.withLock { $0.log } }
    var uploadCount: Int { state.withLock { $0.uploads.count } }

    func object(_ key: ObjectKey) -> Object? { state.withLock { $0.objects[key.bytes] } }
    func object(_ key: String) -> Object? { state.withLock { $0.objects[Array(key.utf8)] } }
    /// All but the sentinel's.
    var keys: [String] {
        state.withLock { $0.objects.keys.map { String(decoding: $0, as: UTF8.self) } }.sorted().filter {
            !$0.hasSuffix(".safebackup/destination.json")
        }
    }
    func set(_ key: String, _ object: Object?) { state.withLock { $0.objects[Array(key.utf8)] = object } }

    func deny(_ operations: Set<Operation>) { state.withLock { $0.denied = operations } }

    /// The request with this number, counted from now on, fails.
    func fail(_ number: Int, _ fault: Fault, with error: SafeBackupError = failed) {
        state.withLock { $0.faults = [$0.log.count + number: (fault, error)] }
    }

    /// Every request from this one on fails, as when the process dies there: whatever it did before is done.
    func failAll(from number: Int, _ fault: Fault, with error: SafeBackupError = lost) {
        state.withLock { state in
            state.faults = [:]
            let first = state.log.count + number
            for index in first..<(first + 400) { state.faults[index] = (index == first ? fault : .before, error) }
        }
    }

    func heal() {
        state.withLock { $0.faults = [:] }
    }

    /// Called before each request that arrives.
    func onRequest(_ hook: (@Sendable (Operation) -> Void)?) { state.withLock { $0.hook = hook } }

    func forgetUploads() { state.withLock { $0.uploads = [:] } }

    func ageUploads(by duration: Duration) {
        state.withLock { state in
            for id in state.uploads.keys {
                if let begunAt = state.uploads[id]?.begunAt {
                    state.uploads[id]?.begunAt = begunAt + (.zero - duration)
                }
            }
        }
    }

    func clearLog() { state.withLock { $0.log = [] } }

    // MARK: - Requests

    private func run<R>(
        _ operation: Operation, _ body: (inout State) throws(SafeBackupError) -> R
    ) throws(SafeBackupError) -> R {
        let endings = state.withLock { $0.endings }
        state.withLock { $0.hook }?(operation)
        return try state.withLock { (state) throws(SafeBackupError) in
            if state.endings != endings {
                throw SafeBackupError(.interrupted, "the client stops", disposition: .transient)
            }
            let fault = state.faults[state.log.count]
            state.log.append(operation)
            if let (kind, error) = fault, kind == .before { throw error }
            if state.denied.contains(operation) {
                throw SafeBackupError(
                    .init(rawValue: "accessDenied"), "\(operation) denied", disposition: .transient)
            }
            let result = try body(&state)
            if let (_, error) = fault { throw error }
            return result
        }
    }

    private static func content(_ body: ObjectBody) -> [UInt8] {
        switch body {
        case .bytes(let bytes): return bytes
        case .buffer(let buffer, let digest):
            let bytes = buffer.withBytes { Array($0) }
            if let digest, SHA256.digest(of: bytes) != digest { return Array("not what was said".utf8) }
            return bytes
        }
    }

    private static func etag(_ bytes: [UInt8]) -> String { "\"\(SHA256.digest(of: bytes).hex.prefix(32))\"" }

    func put(
        _ key: ObjectKey, _ body: ObjectBody, _ properties: ObjectProperties
    ) async throws(SafeBackupError) -> ObjectReceipt {
        let bytes = Self.content(body)
        await Task.yield()
        return try run(.put) { (state) throws(SafeBackupError) in
            let etag = Self.etag(bytes)
            if properties.onlyIfAbsent, state.objects[key.bytes] != nil {
                throw SafeBackupError(.init(rawValue: "objectExists"), "412", disposition: .permanent)
            }
            state.objects[key.bytes] = Object(body: bytes, metadata: properties.metadata, etag: etag)
            return ObjectReceipt(etag: etag)
        }
    }

    func beginUpload(
        _ key: ObjectKey, _ properties: ObjectProperties
    ) async throws(SafeBackupError) -> UploadHandle {
        try run(.beginUpload) { (state) throws(SafeBackupError) in
            state.number += 1
            let id = "upload-\(state.number)"
            state.uploads[id] = Upload(key: key, properties: properties, begunAt: WallClock.system.now)
            return UploadHandle(key: key, id: id)
        }
    }

    func uploadPart(
        _ number: Int, of upload: UploadHandle, _ body: ObjectBody
    ) async throws(SafeBackupError) -> PartReceipt {
        let bytes = Self.content(body)
        state.withLock { state in
            state.bodiesInFlight += bytes.count
            state.mostInFlight = max(state.mostInFlight, state.bodiesInFlight)
        }
        for _ in 0..<4 { await Task.yield() }
        state.withLock { $0.bodiesInFlight -= bytes.count }
        return try run(.uploadPart) { (state) throws(SafeBackupError) in
            guard state.uploads[upload.id] != nil else { throw Self.uploadLost }
            let receipt = PartReceipt(number: number, size: Int64(bytes.count), etag: Self.etag(bytes))
            state.uploads[upload.id]?.parts[number] = (bytes, receipt)
            return receipt
        }
    }

    private static let uploadLost = SafeBackupError(
        .init(rawValue: "uploadLost"), "no such upload", disposition: .transient)

    func completeUpload(
        _ upload: UploadHandle, _ parts: [PartReceipt], size: Int64
    ) async throws(SafeBackupError) -> ObjectReceipt {
        try run(.completeUpload) { (state) throws(SafeBackupError) in
            guard let known = state.uploads[upload.id] else { throw Self.uploadLost }
            var body: [UInt8] = []
            for part in parts {
                guard let stored = known.parts[part.number], stored.receipt.etag == part.etag else {
                    throw SafeBackupError(.init(rawValue: "requestRefused"), "InvalidPart", disposition: .permanent)
                }
                body += stored.body
            }
            guard Int64(body.count) == size else {
                throw SafeBackupError(.init(rawValue: "requestRefused"), "size", disposition: .permanent)
            }
            let etag = "\"m-\(parts.count)\""
            state.objects[upload.key.bytes] = Object(body: body, metadata: known.properties.metadata, etag: etag)
            state.uploads[upload.id] = nil
            return ObjectReceipt(etag: etag)
        }
    }

    func abortUpload(_ upload: UploadHandle) async throws(SafeBackupError) {
        try run(.abortUpload) { (state) throws(SafeBackupError) in state.uploads[upload.id] = nil }
    }

    func parts(of upload: UploadHandle) async throws(SafeBackupError) -> [PartReceipt]? {
        try run(.parts) { (state) throws(SafeBackupError) in
            state.uploads[upload.id]?.parts.values.map(\.receipt).sorted { $0.number < $1.number }
        }
    }

    func uploads(
        below prefix: [UInt8]
    ) async throws(SafeBackupError) -> [(upload: UploadHandle, begunAt: Timestamp)] {
        try run(.uploads) { (state) throws(SafeBackupError) in
            state.uploads.filter { $0.value.key.bytes.starts(with: prefix) }.map {
                (UploadHandle(key: $0.value.key, id: $0.key), $0.value.begunAt)
            }
        }
    }

    func head(_ key: ObjectKey, version: String?) async throws(SafeBackupError) -> ObjectHead? {
        try run(.head) { (state) throws(SafeBackupError) in state.objects[key.bytes].map(Self.head) }
    }

    private static func head(_ object: Object) -> ObjectHead {
        ObjectHead(size: Int64(object.body.count), etag: object.etag, metadata: object.metadata)
    }

    func get(
        _ key: ObjectKey, version: String?, into file: Descriptor
    ) async throws(SafeBackupError) -> ObjectHead? {
        try run(.get) { (state) throws(SafeBackupError) in
            guard let object = state.objects[key.bytes] else { return nil }
            do { try file.writeAll(object.body) } catch { throw Self.failed }
            return Self.head(object)
        }
    }

    func bytes(
        of key: ObjectKey, limit: Int
    ) async throws(SafeBackupError) -> (bytes: [UInt8], head: ObjectHead)? {
        try run(.get) { (state) throws(SafeBackupError) in
            state.objects[key.bytes].map { ($0.body, Self.head($0)) }
        }
    }

    func copy(
        _ key: ObjectKey, version: String?, size: Int64, to target: ObjectKey, _ properties: ObjectProperties?
    ) async throws(SafeBackupError) -> ObjectReceipt {
        try run(.copy) { (state) throws(SafeBackupError) in
            guard var object = state.objects[key.bytes] else {
                throw SafeBackupError(.init(rawValue: "objectRefused"), "NoSuchKey", disposition: .permanent)
            }
            if let properties { object.metadata = properties.metadata }
            state.objects[target.bytes] = object
            return ObjectReceipt(etag: object.etag)
        }
    }

    func delete(_ keys: [ObjectKey]) async throws(SafeBackupError) -> [SafeBackupError?] {
        try run(.delete) { (state) throws(SafeBackupError) in
            for key in keys { state.objects[key.bytes] = nil }
            return keys.map { _ in nil }
        }
    }

    func list(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> ObjectPage {
        try run(.list) { (state) throws(SafeBackupError) in
            ObjectPage(
                objects: state.objects.filter { $0.key.starts(with: prefix) }.map {
                    ListedObject(
                        key: ObjectKey(unchecked: $0.key), size: Int64($0.value.body.count), etag: $0.value.etag)
                }.sorted { $0.key.bytes.lexicographicallyPrecedes($1.key.bytes) }, next: nil)
        }
    }

    func listVersions(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> VersionPage {
        throw SafeBackupError(.init(rawValue: "notSupported"), "no versions", disposition: .permanent)
    }

    func versioning() async throws(SafeBackupError) -> Bool? { false }

    func endRequests() { state.withLock { $0.endings += 1 } }
}
