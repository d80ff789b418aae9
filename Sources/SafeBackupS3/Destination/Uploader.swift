package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// Sends files: a small one with one request, from one buffer; a large one in parts, several at a time, which a later
/// attempt, also of a later process, does not send again. What all uploads hold in memory is bounded.
///
/// What it calls stored was confirmed by the server. After a failure of any kind the object is as it was, or new and
/// whole: which, only a look tells.
package final class Uploader: Sendable {
    package struct Limits: Sendable, Hashable {
        /// Bytes that buffers may take together.
        package var memory = 96 << 20
        /// Up to this size a file is sent with one request.
        package var single: Int64 = 16 << 20
        /// Of a part, as long as 10,000 of them are enough.
        package var part: Int64 = 8 << 20
        /// Parts of one file that are under way at the same time.
        package var partsAtOnce = 12

        package init() {}
    }

    /// One file to send.
    package struct Order: Sendable {
        package var key: ObjectKey
        /// For words.
        package var path: RelativePath
        package var file: Descriptor
        /// As it was found before it is read.
        package var status: FileStatus
        /// Names this attempt, and after a crash the object that it made.
        package var stage: String
        /// Not begun, and not read on, once the agent stops.
        package var endsAtStop = true
        /// What the object says of itself, given the digest, where that is known, and the name of the attempt.
        package var properties: @Sendable (_ digest: Digest?, _ token: String) -> ObjectProperties

        package init(
            key: ObjectKey, path: RelativePath, file: Descriptor, status: FileStatus, stage: String,
            properties: @escaping @Sendable (_ digest: Digest?, _ token: String) -> ObjectProperties
        ) {
            self.key = key
            self.path = path
            self.file = file
            self.status = status
            self.stage = stage
            self.properties = properties
        }
    }

    package let store: any ObjectStore
    package let limits: Limits
    package let budget: BufferBudget
    let book: UploadBook
    let io: ThreadExecutor
    let clock: WallClock
    private let throttle: Throttle?
    let isInterrupted: @Sendable () -> Bool

    package init(
        store: any ObjectStore, ledger: any UploadLedger, limits: Limits = Limits(), io: ThreadExecutor,
        clock: WallClock = .system, bandwidth: ByteCount? = nil,
        isInterrupted: @escaping @Sendable () -> Bool = { false }
    ) {
        self.store = store
        self.limits = limits
        self.io = io
        self.clock = clock
        self.isInterrupted = isInterrupted
        budget = BufferBudget(limits.memory)
        book = UploadBook(ledger)
        throttle = bandwidth.map { Throttle($0) }
    }

    func reader(_ order: Order) -> PartReader {
        let goesOn: @Sendable () -> Bool = { false }
        return PartReader(
            order.file, order.path, throttle: throttle, isInterrupted: order.endsAtStop ? isInterrupted : goesOn)
    }

    /// The digest of a file, which is read and not sent.
    package func digest(of order: Order) async throws(SafeBackupError) -> ReadContent {
        let reader = reader(order)
        let size = order.status.size
        return try await io.run { () throws(SafeBackupError) in try reader.digest(size: size) }
    }

    /// Sends a file.
    ///
    /// - Parameter accept: asked when everything was read, before there is an object of it: `false`, it is not wanted
    ///   after all; what it throws ends the attempt.
    /// - Returns: `nil` if it was not wanted.
    package func upload(
        _ order: Order, accept: (ReadContent) async throws(SafeBackupError) -> Bool
    ) async throws(SafeBackupError) -> ReadContent? {
        order.status.size <= limits.single
            ? try await uploadAtOnce(order, accept) : try await uploadInParts(order, accept)
    }

    private func uploadAtOnce(
        _ order: Order, _ accept: (ReadContent) async throws(SafeBackupError) -> Bool
    ) async throws(SafeBackupError) -> ReadContent? {
        let size = Int(order.status.size)
        await budget.take(size)
        defer { budget.give(size) }
        let reader = reader(order)
        let (buffer, content) = try await io.run { () throws(SafeBackupError) in
            let buffer = try reader.next(size, hashesPart: false).buffer
            return (buffer, try reader.finish())
        }
        guard try await accept(content) else { return nil }
        try await forget(order.key)
        try checkGoing(order)
        _ = try await store.put(
            order.key, .buffer(buffer, sha256: content.digest), order.properties(content.digest, order.stage))
        return content
    }

    func checkGoing(_ order: Order) throws(SafeBackupError) {
        if order.endsAtStop && isInterrupted() { throw ReadFailure.interrupted(order.path) }
    }

    /// Ends an upload in parts of the same object, which something else replaces, or which nobody goes on with.
    package func forget(_ key: ObjectKey) async throws(SafeBackupError) {
        if let record = try await book.record(of: key) { await abandon(record) }
    }

    /// Ends all uploads in parts that are left.
    package func forgetAll() async throws(SafeBackupError) {
        for record in try await book.all() { await abandon(record) }
    }

    /// For who never asks how an upload in parts ended that became an object: it is remembered no longer.
    package func forgetStored(_ key: ObjectKey) async throws(SafeBackupError) {
        if let record = try await book.record(of: key) { try await book.end(record) }
    }

    /// Tells the server to forget an upload. Where that fails it stays in the ledger, for `abandonStale`.
    func abandon(_ record: UploadRecord) async {
        do throws(SafeBackupError) {
            try await store.abortUpload(UploadHandle(key: ObjectKey(unchecked: record.key), id: record.upload))
            try await book.end(record)
        } catch {
            // Ignored: see above. Its parts cost money, and no data.
        }
    }
}
