import CSafeBackupCurl
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

import Glibc

/// One request on its way, and what came back of it so far. Touched by the transport's thread only, except where it says.
final class CurlTransfer: @unchecked Sendable {
    /// A kept answer of an error is not longer than this: the rest of a proxy's page is of no use.
    static let errorLimit = 1 << 20

    let request: HTTPRequest
    /// Marked whenever bytes move: the watchdog of the task that waits.
    private let pulse = Pulse.current
    /// The outcome comes back under a lock and not with the continuation; see `ThreadExecutor.run`.
    private struct Wait {
        var waiter: UnsafeContinuation<Void, Never>?
        var outcome: Result<HTTPResponse, TransportFailure>?
    }

    private let wait = Locked(Wait())
    /// Set by any thread.
    private let cancelled = Locked(false)

    /// While it is with libcurl.
    var easy: CurlEasy?
    var headers: UnsafeMutablePointer<curl_slist>?
    /// What ended it from our side; libcurl only knows that a callback said so.
    var failure: TransportFailure?
    /// Bytes of the body that libcurl has taken.
    private(set) var offset = 0
    private(set) var status = 0
    /// The blank line after the final status has come.
    private(set) var hasHeader = false
    private(set) var answered: [(name: String, value: String)] = []
    private(set) var body: [UInt8] = []
    private(set) var bodyCount: Int64 = 0
    private(set) var headerCount: Int64 = 0
    var isPaused = false
    /// Sent a second time, after a kept connection was lost.
    private(set) var isRepeated = false
    /// What the last look saw, and when it last saw a change; see `CurlLoop.endStalled`.
    var seen = -1
    var changedAt = ContinuousClock.now
    /// The last byte was sent, as a look saw it.
    var isSent = false

    /// How much of the body may be sent now; 0: the transfer is paused. `nil`: all of it.
    var allowance: ((CurlTransfer, Int) -> Int)?

    init(_ request: HTTPRequest) { self.request = request }

    // MARK: Called by any thread

    func cancel() { cancelled.withLock { $0 = true } }
    var isCancelled: Bool { cancelled.withLock { $0 } }

    /// Waits until `finish`; `begin` hands the transfer to the thread. It may have ended before: a task that is
    /// cancelled tells so at any time.
    func result(_ begin: () -> Void) async -> Result<HTTPResponse, TransportFailure> {
        await withUnsafeContinuation { continuation in
            let hasEnded = wait.withLock { wait in
                if wait.outcome != nil { return true }
                wait.waiter = continuation
                return false
            }
            if hasEnded { continuation.resume() } else { begin() }
        }
        guard let result = wait.withLock({ $0.outcome }) else {
            // Broken only if the runtime resumes a task by itself: `finish` sets the outcome before it resumes.
            preconditionFailure("a task went on before its transfer had ended")
        }
        return result
    }

    /// Ends the wait; only the first call counts.
    func finish(_ result: Result<HTTPResponse, TransportFailure>) {
        let waiter: UnsafeContinuation<Void, Never>? = wait.withLock { wait in
            if wait.outcome != nil { return nil }
            wait.outcome = result
            defer { wait.waiter = nil }
            return wait.waiter
        }
        waiter?.resume()
    }

    func mark() { pulse?.mark() }

    var response: HTTPResponse {
        HTTPResponse(status: status, headers: answered, body: body, bodyCount: bodyCount)
    }

    // MARK: Called by libcurl

    /// One line of a header. A status line begins a new answer: those of `100 Continue` are forgotten.
    func takeHeader(_ bytes: UnsafeRawBufferPointer) {
        headerCount += Int64(bytes.count)
        let line = bytes.prefix { $0 != 0x0D && $0 != 0x0A }
        if line.starts(with: "HTTP/".utf8) {
            let parts = line.split(separator: UInt8(ascii: " "), maxSplits: 2)
            status = parts.count > 1 ? Int(String(decoding: parts[1], as: UTF8.self)) ?? 0 : 0
            hasHeader = false
            answered.removeAll(keepingCapacity: true)
            body.removeAll()
            bodyCount = 0
            return
        }
        if line.isEmpty {
            hasHeader = status >= 200
            return
        }
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { return }
        let name = String(decoding: line[..<colon], as: UTF8.self).lowercased()
        let value = line[(colon + 1)...].drop { $0 == 0x20 || $0 == 0x09 }
        answered.append((name: name, value: Self.trimmed(value)))
    }

    private static func trimmed(_ value: Slice<UnsafeRawBufferPointer>) -> String {
        var end = value.endIndex
        while end > value.startIndex, value[end - 1] == 0x20 || value[end - 1] == 0x09 { end -= 1 }
        return String(decoding: value[value.startIndex..<end], as: UTF8.self)
    }

    /// A piece of the answer's body; `false` ends the transfer.
    func takeBody(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let isSuccess = (200..<300).contains(status)
        switch request.sink {
        case .file(let file, let offset) where isSuccess:
            if let error = Self.write(bytes, to: file, at: offset + bodyCount) {
                failure = TransportFailure(
                    .localFile, "Writing what \(request.origin.hostHeader) sent failed: \(error.explanation)",
                    systemError: error.rawValue, mayHaveArrived: true)
                return false
            }
        case .memory(let limit) where isSuccess:
            if body.count + bytes.count > limit {
                failure = TransportFailure(
                    .tooLarge, "\(request.origin.hostHeader) answers with more than \(ByteCount(Int64(limit)))",
                    mayHaveArrived: true)
                return false
            }
            body.append(contentsOf: bytes)
        default:
            body.append(contentsOf: bytes.prefix(Self.errorLimit - body.count))
        }
        bodyCount += Int64(bytes.count)
        return true
    }

    private static func write(_ bytes: UnsafeRawBufferPointer, to file: Descriptor, at offset: Int64) -> Errno? {
        var rest = bytes
        var place = offset
        while !rest.isEmpty {
            do throws(Errno) {
                let count = try systemCall("pwrite") { pwrite(file.raw, rest.baseAddress, rest.count, off_t(place)) }
                rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(count))
                place += Int64(count)
            } catch {
                return error
            }
        }
        return nil
    }

    /// Fills `buffer` with what comes next of the request's body; the count.
    func giveBody(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        func give(_ bytes: UnsafeRawBufferPointer) -> Int {
            let count = min(buffer.count, bytes.count - offset)
            if count > 0 {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + count)]))
            }
            return max(0, count)
        }
        let count =
            switch request.body {
            case .none: 0
            case .bytes(let bytes): bytes.withUnsafeBytes { give($0) }
            case .buffer(let part): part.withBytes { give($0) }
            }
        offset += count
        return count
    }

    /// For the second time, on a connection of its own. No byte of an answer has come.
    func rewind() {
        isRepeated = true
        (offset, seen, isSent, isPaused) = (0, -1, false, false)
    }

    /// libcurl sends the body again, on another connection.
    func seek(to place: Int64) -> Bool {
        guard place >= 0 && place <= Int64(request.body.count) else { return false }
        offset = Int(place)
        isSent = false
        return true
    }
}

/// A handle of libcurl, used for one request after the other.
final class CurlEasy {
    let raw: UnsafeMutableRawPointer
    /// libcurl writes the reason of a failure here.
    private let message: UnsafeMutablePointer<CChar>

    /// `nil`: no memory.
    init?() {
        guard let raw = curl_easy_init() else { return nil }
        self.raw = raw
        message = .allocate(capacity: Int(CURL_ERROR_SIZE))
        message.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
    }

    deinit {
        curl_easy_cleanup(raw)
        message.deallocate()
    }

    /// As new, but with its buffers.
    func reset() {
        curl_easy_reset(raw)
        message[0] = 0
        _ = sb_easy_set_pointer(raw, CURLOPT_ERRORBUFFER, message)
    }

    var reason: String { String(cString: message) }
}
