import CSafeBackupCurl
import SafeBackupCore
import SafeBackupSystem

import Glibc

/// The thread that moves the bytes of all requests: one multi handle of libcurl, asked by one thread.
///
/// Other threads only append commands and wake it. Everything without `shared` is touched by the thread alone.
final class CurlLoop: @unchecked Sendable {
    private enum Command {
        case add(CurlTransfer)
        case cancel(CurlTransfer)
        case close
    }

    /// A handle of libcurl that goes from thread to thread, but is used only as `shared` and the thread allow.
    private struct Multi: @unchecked Sendable {
        let raw: UnsafeMutableRawPointer
    }

    private struct Shared {
        var commands: [Command] = []
        /// For `curl_multi_wakeup`, which any thread may call as long as the handle is there.
        var multi: Multi?
        /// No command is taken any more.
        var isClosing = false
        var hasEnded = false
        var closers: [UnsafeContinuation<Void, Never>] = []
    }

    /// Connections that were not used for so long are closed by most servers; then they are dropped here too.
    private static let idleLimit = Duration.seconds(20)
    private static let longestWait = Duration.seconds(1)

    private let settings: TransportSettings
    private let shared = Locked(Shared())

    private var multi: Multi
    private var active: [ObjectIdentifier: CurlTransfer] = [:]
    /// First come, first served.
    private var waiting: [CurlTransfer] = []
    private var waitingHead = 0
    private var handles: [CurlEasy] = []
    /// Connections may be open.
    private var isUsed = false
    private var idleSince = ContinuousClock.now
    private var nextLook = ContinuousClock.now
    private var pace: ReadingPace?
    private let slice: Int
    private var nextUpload = ContinuousClock.now
    /// Wait for the bandwidth, in the order in which they found it used up.
    private var paused: [CurlTransfer] = []

    /// `nil`: no memory.
    init?(_ settings: TransportSettings) {
        self.settings = settings
        pace = settings.bandwidth.map { ReadingPace($0) }
        slice = Int(clamping: min(256 << 10, max(4_096, (settings.bandwidth?.bytes ?? 0) / 20)))
        guard let multi = Self.makeMulti(settings) else { return nil }
        self.multi = multi
        shared.withLock { $0.multi = multi }
    }

    private static func makeMulti(_ settings: TransportSettings) -> Multi? {
        guard let raw = curl_multi_init() else { return nil }
        // Kept open for the next requests; libcurl's own limit follows the number of handles.
        _ = sb_multi_set_long(raw, CURLMOPT_MAXCONNECTS, max(4, settings.concurrency))
        return Multi(raw: raw)
    }

    // MARK: Called by any thread

    /// `false`: it was closed.
    func add(_ transfer: CurlTransfer) -> Bool { post(.add(transfer)) }

    func cancel(_ transfer: CurlTransfer) { _ = post(.cancel(transfer)) }

    private func post(_ command: Command) -> Bool {
        shared.withLock { shared in
            if shared.isClosing { return false }
            if case .close = command { shared.isClosing = true }
            shared.commands.append(command)
            if shared.commands.count == 1, let multi = shared.multi { curl_multi_wakeup(multi.raw) }
            return true
        }
    }

    /// Ends all requests; the thread ends after them.
    func beginClosing() { _ = post(.close) }

    /// Waits for the end of the thread.
    func ended() async {
        await withUnsafeContinuation { continuation in
            let hasEnded = shared.withLock { shared in
                if !shared.hasEnded { shared.closers.append(continuation) }
                return shared.hasEnded
            }
            if hasEnded { continuation.resume() }
        }
    }

    // MARK: The thread

    func run() {
        // A write to a connection that the other side has closed is an error here and no signal for the process.
        var all = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_BLOCK, &all, nil)
        while takeCommands() {
            begin()
            var running: Int32 = 0
            let result = curl_multi_perform(multi.raw, &running)
            if result != CURLM_OK { fail(result) }
            finishDone()
            begin()
            let now = ContinuousClock.now
            if now >= nextLook { look(now) }
            resumeOne(now)
            wait(now)
        }
        end()
    }

    /// `false`: it is to end.
    private func takeCommands() -> Bool {
        let commands = shared.withLock { shared in
            defer { shared.commands.removeAll(keepingCapacity: true) }
            return shared.commands
        }
        var goesOn = true
        for command in commands {
            switch command {
            case .add(let transfer): waiting.append(transfer)
            case .cancel(let transfer):
                if transfer.easy == nil { waiting[waitingHead...].removeAll { $0 === transfer } }
                cancel(transfer, "The request was cancelled")
            case .close: goesOn = false
            }
        }
        return goesOn
    }

    private func cancel(_ transfer: CurlTransfer, _ message: String) {
        let mayHaveArrived = transfer.easy.map { sb_easy_get_offset($0.raw, CURLINFO_PRETRANSFER_TIME_T) > 0 } ?? false
        release(transfer)
        transfer.finish(.failure(TransportFailure(.cancelled, message, mayHaveArrived: mayHaveArrived)))
    }

    /// As many as may be in flight.
    private func begin() {
        while active.count < max(1, settings.concurrency), waitingHead < waiting.count {
            let transfer = waiting[waitingHead]
            waitingHead += 1
            if transfer.isCancelled {
                cancel(transfer, "The request was cancelled")
                continue
            }
            do throws(TransportFailure) {
                try begin(transfer)
            } catch {
                release(transfer)
                transfer.finish(.failure(error))
            }
        }
        if waitingHead == waiting.count || waitingHead > 1_024 {
            waiting.removeFirst(waitingHead)
            waitingHead = 0
        }
    }

    private func begin(_ transfer: CurlTransfer) throws(TransportFailure) {
        guard let easy = handles.popLast() ?? CurlEasy() else {
            throw TransportFailure(.noMemory, "There is no memory for a request")
        }
        transfer.easy = easy
        if pace != nil { transfer.allowance = { [unowned self] transfer, count in allowance(transfer, count) } }
        transfer.changedAt = .now
        try transfer.prepare(easy, settings)
        let result = curl_multi_add_handle(multi.raw, easy.raw)
        if result != CURLM_OK {
            throw TransportFailure(
                result == CURLM_OUT_OF_MEMORY ? .noMemory : .badRequest,
                "libcurl takes no request: \(String(cString: curl_multi_strerror(result)))")
        }
        active[ObjectIdentifier(transfer)] = transfer
        isUsed = true
        let limits = transfer.request.limits
        nextLook = min(nextLook, .now + min(limits.stall, limits.answer, Self.longestWait))
    }

    private func finishDone() {
        var code = CURLE_OK
        while let easy = sb_multi_next_done(multi.raw, &code) {
            guard let context = sb_easy_get_context(easy) else { continue }
            let transfer = Unmanaged<CurlTransfer>.fromOpaque(context).takeUnretainedValue()
            if Self.lostKeptConnection(transfer, code) {
                withExtendedLifetime(transfer) { release(transfer) }
                beginAgain(transfer)
                continue
            }
            let result = Self.result(of: transfer, code)
            // Kept until the end of this turn: what `context` points to must outlive the handle.
            withExtendedLifetime(transfer) { release(transfer) }
            transfer.finish(result)
        }
    }

    /// Whether a connection kept from an earlier request ended before a byte of the answer: the server had closed it
    /// while the request was on its way. libcurl repeats such a request by itself when reading fails, not when sending
    /// does, and which of both it meets is chance.
    private static func lostKeptConnection(_ transfer: CurlTransfer, _ code: CURLcode) -> Bool {
        guard code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING else { return false }
        guard let easy = transfer.easy, transfer.failure == nil, !transfer.isCancelled else { return false }
        return !transfer.isRepeated && transfer.headerCount == 0
            && sb_easy_get_long(easy.raw, CURLINFO_NUM_CONNECTS) == 0
    }

    /// Once, from the beginning of its body, on a connection of its own.
    private func beginAgain(_ transfer: CurlTransfer) {
        transfer.rewind()
        do throws(TransportFailure) {
            try begin(transfer)
        } catch {
            release(transfer)
            transfer.finish(.failure(error))
        }
    }

    /// Whether what came is an answer.
    private static func result(of transfer: CurlTransfer, _ code: CURLcode) -> Result<HTTPResponse, TransportFailure> {
        if let failure = transfer.failure { return .failure(failure) }
        guard let easy = transfer.easy else {
            return .failure(TransportFailure(.badRequest, "A request ended that had not begun"))
        }
        if code == CURLE_OK && transfer.status >= 200 { return .success(transfer.response) }
        // An early refusal counts, even when the server cuts the connection after it, or in the middle of its body. A
        // success counts only whole.
        let isCut = code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_PARTIAL_FILE
        if isCut && transfer.hasHeader && transfer.status >= 300 { return .success(transfer.response) }
        return .failure(TransportFailure(code, easy.reason, transfer: transfer, easy: easy.raw))
    }

    /// Takes the transfer away from libcurl.
    private func release(_ transfer: CurlTransfer) {
        if active.removeValue(forKey: ObjectIdentifier(transfer)) != nil, let easy = transfer.easy {
            curl_multi_remove_handle(multi.raw, easy.raw)
        }
        if transfer.isPaused { paused.removeAll { $0 === transfer } }
        transfer.releaseHeaders()
        transfer.allowance = nil
        if let easy = transfer.easy, handles.count < settings.concurrency { handles.append(easy) }
        transfer.easy = nil
        if active.isEmpty { idleSince = .now }
    }

    /// libcurl's own state is broken, or there is no memory: all that is in flight failed.
    private func fail(_ result: CURLMcode) {
        let reason = String(cString: curl_multi_strerror(result))
        for transfer in Array(active.values) {
            release(transfer)
            transfer.finish(.failure(TransportFailure(.noMemory, "libcurl failed: \(reason)", mayHaveArrived: true)))
        }
    }

    // MARK: Time

    /// Ends transfers that do not move.
    private func look(_ now: ContinuousClock.Instant) {
        var next = now + Self.longestWait
        for transfer in Array(active.values) {
            guard let easy = transfer.easy?.raw else { continue }
            // Until it is connected, libcurl's own limit holds.
            guard sb_easy_get_offset(easy, CURLINFO_PRETRANSFER_TIME_T) > 0 else {
                transfer.changedAt = now
                continue
            }
            let sent = sb_easy_get_offset(easy, CURLINFO_SIZE_UPLOAD_T)
            let seen = sent + sb_easy_get_offset(easy, CURLINFO_SIZE_DOWNLOAD_T) + Int(transfer.headerCount)
            let isSent = sent >= transfer.request.body.count
            if seen != transfer.seen || transfer.isPaused || isSent != transfer.isSent {
                (transfer.seen, transfer.isSent, transfer.changedAt) = (seen, isSent, now)
                transfer.mark()
            }
            let waitsForAnswer = isSent && !transfer.hasHeader
            let limit = waitsForAnswer ? transfer.request.limits.answer : transfer.request.limits.stall
            let host = transfer.request.origin.hostHeader
            if transfer.changedAt + limit <= now {
                let message =
                    waitsForAnswer
                    ? "\(host) gave no answer within \(limit)" : "No byte went to or came from \(host) for \(limit)"
                release(transfer)
                transfer.finish(.failure(TransportFailure(.stalled, message, mayHaveArrived: true)))
            } else {
                next = min(next, transfer.changedAt + limit)
            }
        }
        nextLook = next
    }

    /// Bytes that may be sent now; 0: the transfer waits until it is resumed.
    private func allowance(_ transfer: CurlTransfer, _ count: Int) -> Int {
        let left = transfer.request.body.count - transfer.offset
        if left <= 0 { return count }
        let now = ContinuousClock.now
        if now < nextUpload {
            transfer.isPaused = true
            paused.append(transfer)
            return 0
        }
        let taken = min(count, left, slice)
        if let wait = pace?.take(taken, at: now) { nextUpload = now + wait }
        return taken
    }

    private func resumeOne(_ now: ContinuousClock.Instant) {
        guard now >= nextUpload, !paused.isEmpty else { return }
        let transfer = paused.removeFirst()
        transfer.isPaused = false
        if let easy = transfer.easy { curl_easy_pause(easy.raw, CURLPAUSE_CONT) }
    }

    private func wait(_ now: ContinuousClock.Instant) {
        var until = nextLook
        if !paused.isEmpty { until = min(until, nextUpload) }
        if active.isEmpty {
            if isUsed && idleSince + Self.idleLimit <= now { dropConnections() }
            // Nothing to do until a command wakes it.
            until = isUsed ? idleSince + Self.idleLimit : now + .seconds(3_600)
        }
        let milliseconds = Int32(clamping: max(0, (until - now).milliseconds + 1))
        var count: Int32 = 0
        curl_multi_poll(multi.raw, nil, 0, milliseconds, &count)
    }

    private func dropConnections() {
        isUsed = false
        guard let fresh = Self.makeMulti(settings) else { return }
        let old = multi
        shared.withLock { shared in
            shared.multi = fresh
            // It may have been woken for these.
            if !shared.commands.isEmpty { curl_multi_wakeup(fresh.raw) }
        }
        multi = fresh
        handles.removeAll()
        curl_multi_cleanup(old.raw)
    }

    private func end() {
        for transfer in Array(active.values) + waiting[waitingHead...] {
            cancel(transfer, "The transport is closed")
        }
        handles.removeAll()
        let closers = shared.withLock { shared in
            shared.multi = nil
            shared.hasEnded = true
            return shared.closers
        }
        curl_multi_cleanup(multi.raw)
        for closer in closers { closer.resume() }
    }
}
