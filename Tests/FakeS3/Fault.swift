/// The operations that the server tells apart.
package enum FakeOperation: String, Sendable, Hashable, CaseIterable {
    case putObject, getObject, headObject, deleteObject, deleteObjects, copyObject
    case createUpload, uploadPart, uploadPartCopy, completeUpload, abortUpload, listParts, listUploads
    case listObjects, listObjectsV2, listVersions
    case listBuckets, headBucket, createBucket, deleteBucket, getLocation, getVersioning, putVersioning
    case getObjectLock, getOwnership, getLifecycle
    case unknown
}

/// Something that goes wrong with one request or some.
package struct Fault: Sendable {
    package enum Action: Sendable {
        /// The connection is closed when the head of the request has come.
        case closeAfterHead
        /// The connection is closed (with `reset`: reset) when that many bytes of the body have come.
        case closeAfterBody(Int, reset: Bool = false)
        /// The whole request was read, has no effect, and is not answered.
        case closeBeforeAnswer
        /// The request has its effect, but is not answered.
        case loseAnswer
        /// Answered before the body is read; then the connection is closed.
        case refuseEarly(FakeAnswer)
        /// Answered so, without effect.
        case answer(FakeAnswer)
        /// Answered so, after the effect.
        case answerAfterEffect(FakeAnswer)
        /// After the effect only so many bytes of the answer's body are sent, of the length that was announced.
        case cutAnswer(Int)
        /// After the effect the answer's body is only so many bytes, and is announced so.
        case shortenAnswer(Int)
        /// The body of the answer begins with white space, as a long Complete's does.
        case spaceBeforeAnswer(Int)
        /// One byte of the answer's body is another one.
        case flipAnswer(at: Int)
        /// The client is not told to send its body, as by servers that do not know `Expect`.
        case noContinue
        /// After the answer the connection is closed without a word about it.
        case idleClose
        /// The answer comes so much later.
        case delay(milliseconds: Int)
        /// The answer waits for `FakeS3.releaseHeld`; its effect happens before.
        case hold
        /// The request waits for `FakeS3.releaseHeld` before it has any effect.
        case holdBeforeEffect
    }

    package var operation: FakeOperation?
    /// Only requests for a key that contains this.
    package var key: String?
    /// So many requests that fit are left alone before.
    package var skipping: Int
    /// So many requests are struck; `nil`: all of them, until it is removed.
    package var times: Int?
    package var action: Action

    package init(
        _ action: Action, on operation: FakeOperation? = nil, key: String? = nil, skipping: Int = 0, times: Int? = 1
    ) {
        self.operation = operation
        self.key = key
        self.skipping = skipping
        self.times = times
        self.action = action
    }

    func fits(_ operation: FakeOperation, _ key: [UInt8]) -> Bool {
        if let wanted = self.operation, wanted != operation { return false }
        guard let wanted = self.key else { return true }
        return String(decoding: key, as: UTF8.self).contains(wanted)
    }
}

extension Fault.Action {
    /// `<Error>` with this code.
    package static func failure(
        _ status: Int, _ code: String, details: [(name: String, value: String)] = [],
        headers: [(name: String, value: String)] = []
    ) -> Fault.Action {
        .answer(S3Failure(status, code, "a fault of the test's", details: details, headers: headers).answer)
    }

    package static var slowDown: Fault.Action { .failure(503, "SlowDown") }
    package static var internalError: Fault.Action { .failure(500, "InternalError") }
    /// 200, and then an error.
    package static func okWithError(_ code: String) -> Fault.Action {
        var answer = S3Failure(200, code, "a fault of the test's").answer
        answer.status = 200
        return .answer(answer)
    }

    package static func wrongRegion(_ region: String) -> Fault.Action {
        .failure(
            301, "PermanentRedirect", details: [("Endpoint", "bucket.s3.\(region).amazonaws.com")],
            headers: [("x-amz-bucket-region", region)])
    }

    /// A web page where S3 should be.
    package static func page(_ status: Int) -> Fault.Action {
        .answer(
            FakeAnswer(
                status, headers: [("content-type", "text/html")], body: Array("<html><p>Log in first</p></html>".utf8)))
    }
}

/// The faults of a server, the oldest first.
package struct FaultScript: Sendable {
    private var faults: [Fault] = []

    package init() {}

    package mutating func add(_ fault: Fault) { faults.append(fault) }
    package mutating func removeAll() { faults = [] }
    /// What has not struck yet.
    package var isSpent: Bool { faults.isEmpty }

    mutating func next(_ operation: FakeOperation, _ key: [UInt8]) -> Fault.Action? {
        for index in faults.indices where faults[index].fits(operation, key) {
            if faults[index].skipping > 0 {
                faults[index].skipping -= 1
                continue
            }
            let action = faults[index].action
            if let times = faults[index].times {
                faults[index].times = times - 1
                if times <= 1 { faults.remove(at: index) }
            }
            return action
        }
        return nil
    }
}
