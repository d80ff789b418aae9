import CSafeBackupCurl
package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Sends requests with libcurl, all from one thread, `sb.transfer`: HTTP/1.1 on connections that are kept for the next
/// request. May be used by any number of tasks; requests beyond the settings' concurrency wait.
package final class CurlTransport: HTTPTransport {
    package let settings: TransportSettings
    private let loop: CurlLoop
    private let thread: ThreadExecutor

    /// Not thread-safe, therefore once. See: man 3 curl_global_init.
    private static let isReady = sb_global_init() == CURLE_OK

    /// Starts the thread. Throws `exhausted` if the system gives no thread or no memory.
    package init(_ settings: TransportSettings = TransportSettings()) throws(SafeBackupError) {
        self.settings = settings
        guard Self.isReady, let loop = CurlLoop(settings) else {
            throw SafeBackupError(.exhausted, "libcurl cannot be started", disposition: .transient)
        }
        self.loop = loop
        do throws(Errno) {
            thread = try ThreadExecutor(name: "sb.transfer")
        } catch {
            throw .noThread(error)
        }
        thread.submit { loop.run() }
    }

    deinit {
        // Whoever waited for an answer held the transport: there is none.
        loop.beginClosing()
        thread.stop()
    }

    package func send(_ request: HTTPRequest) async throws(TransportFailure) -> HTTPResponse {
        let transfer = CurlTransfer(request)
        let result = await withTaskCancellationHandler {
            await transfer.result {
                if !loop.add(transfer) {
                    transfer.finish(.failure(TransportFailure(.cancelled, "The transport is closed")))
                }
            }
        } onCancel: {
            transfer.cancel()
            loop.cancel(transfer)
        }
        Pulse.current?.mark()
        return try result.get()
    }

    /// Ends requests in flight with `cancelled`, and waits until the thread is done. May be called again.
    package func close() async {
        loop.beginClosing()
        await loop.ended()
        thread.stop()
    }
}
