package import SafeBackupSystem

/// One HTTP request as it goes over the wire: nothing is encoded, added or removed below this, except what the transport
/// names (`Host`, `Content-Length`, `Expect`, `User-Agent`).
package struct HTTPRequest: Sendable {
    package enum Method: String, Sendable, Hashable {
        case get = "GET"
        case head = "HEAD"
        case put = "PUT"
        case post = "POST"
        case delete = "DELETE"
    }

    /// What the request carries. All of it is in memory, so that it can be sent again from its beginning.
    package enum Body: Sendable {
        case none
        case bytes([UInt8])
        /// The first `count` bytes of a buffer that stays unchanged until the request has ended.
        case buffer(PartBuffer)

        package var count: Int {
            switch self {
            case .none: 0
            case .bytes(let bytes): bytes.count
            case .buffer(let buffer): buffer.count
            }
        }
    }

    /// Where the answer's body goes if the status is 2xx; any other answer's body goes into memory.
    package enum Sink: Sendable {
        /// Into memory; more than `limit` bytes fail the request.
        case memory(limit: Int)
        /// Written to a file from `offset` on, by the transport's thread.
        case file(Descriptor, offset: Int64)
    }

    package var method: Method
    package var origin: HTTPOrigin
    /// Percent-encoded, exactly as it is signed and sent; begins with `/`.
    package var path: String
    /// Not encoded; a `nil` value is sent as the name alone (`?uploads`).
    package var query: [(name: String, value: String?)]
    /// Names in lower case. `host` and `content-length` are not among them.
    package var headers: [(name: String, value: String)]
    package var body: Body
    package var sink: Sink = .memory(limit: 16 << 20)
    package var limits = TransferLimits()
    /// Instance metadata and container credentials are never asked through a proxy.
    package var mayUseProxy = true
    /// Send the body only when the server agreed, where that pays.
    package var expectsContinue = false
    /// On a connection of its own: for a retry after a time-out or a server's failure, which then asks the names again.
    package var needsNewConnection = false

    package init(
        _ method: Method, _ origin: HTTPOrigin, path: String, query: [(name: String, value: String?)] = [],
        headers: [(name: String, value: String)] = [], body: Body = .none
    ) {
        self.method = method
        self.origin = origin
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
    }
}

/// How long a request may take.
package struct TransferLimits: Sendable, Hashable {
    /// To connect, TLS included.
    package var connect: Duration = .seconds(10)
    /// Without a byte in either direction while a body is under way.
    package var stall: Duration = .seconds(60)
    /// From the last byte sent to the first byte of the answer.
    package var answer: Duration = .seconds(60)

    package init() {}
}

/// Scheme, host and port.
package struct HTTPOrigin: Sendable, Hashable {
    package enum Scheme: String, Sendable, Hashable {
        case http, https
    }

    package var scheme: Scheme
    /// Lower case; an IPv6 address in brackets.
    package var host: String
    /// `nil`: the scheme's own.
    package var port: Int?

    package init(scheme: Scheme, host: String, port: Int? = nil) {
        self.scheme = scheme
        self.host = host
        self.port = port
    }

    /// The value of the header `Host`: the port only where it is not the scheme's own.
    package var hostHeader: String {
        guard let port, port != (scheme == .https ? 443 : 80) else { return host }
        return "\(host):\(port)"
    }
}

/// An answer, whatever its status.
package struct HTTPResponse: Sendable {
    package var status: Int
    /// Names in lower case, in the order of the answer.
    package var headers: [(name: String, value: String)]
    /// Empty where the body went to a file.
    package var body: [UInt8]
    /// Bytes of the body, wherever they went.
    package var bodyCount: Int64

    package init(status: Int, headers: [(name: String, value: String)], body: [UInt8], bodyCount: Int64? = nil) {
        self.status = status
        self.headers = headers
        self.body = body
        self.bodyCount = bodyCount ?? Int64(body.count)
    }

    /// The first header of that name (lower case).
    package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
}

/// Why no answer came.
package struct TransportFailure: Error, Sendable, Hashable {
    package enum Kind: Sendable, Hashable {
        case nameNotFound, proxyNotFound, cannotConnect, connectTimedOut, stalled, tlsFailed, certificateNotTrusted
        case certificateFileFailed, connectionLost, notHTTP, tooLarge, localFile, cancelled, badRequest, noMemory
    }

    package var kind: Kind
    /// For a person: what failed, with the host.
    package var message: String
    /// The error number of the system call behind it, where there is one.
    package var systemError: Int32?
    /// Some of the request may have reached the server.
    package var mayHaveArrived: Bool

    package init(_ kind: Kind, _ message: String, systemError: Int32? = nil, mayHaveArrived: Bool = false) {
        self.kind = kind
        self.message = message
        self.systemError = systemError
        self.mayHaveArrived = mayHaveArrived
    }
}

/// Sends requests. The seam between the S3 client and libcurl; tests put a scripted one in its place.
package protocol HTTPTransport: Sendable {
    /// Sends the request once, follows no redirect, and gives the answer whatever its status. A cancelled task ends the
    /// transfer with `cancelled`.
    ///
    /// (libcurl may send it again by itself where a kept connection turned out to be closed.)
    func send(_ request: HTTPRequest) async throws(TransportFailure) -> HTTPResponse
}
