import CSafeBackupCurl

/// What libcurl's codes mean.
extension TransportFailure {
    /// - Parameter reason: libcurl's own sentence, for a person.
    init(_ code: CURLcode, _ reason: String, transfer: CurlTransfer, easy: UnsafeMutableRawPointer) {
        let host = transfer.request.origin.hostHeader
        let detail = reason.isEmpty ? String(cString: curl_easy_strerror(code)) : reason
        let systemError = sb_easy_get_long(easy, CURLINFO_OS_ERRNO)
        let isConnected = sb_easy_get_offset(easy, CURLINFO_PRETRANSFER_TIME_T) > 0
        let proxyStatus = sb_easy_get_long(easy, CURLINFO_HTTP_CONNECTCODE)
        let (kind, message): (Kind, String)
        switch code {
        case _ where !isConnected && proxyStatus == 407:
            (kind, message) = (
                .cannotConnect, "The proxy wants a name and a password to reach \(host); set them: \(detail)"
            )
        case _ where !isConnected && proxyStatus >= 300:
            (kind, message) = (.cannotConnect, "The proxy refuses to connect to \(host): \(detail)")
        case CURLE_COULDNT_RESOLVE_HOST:
            (kind, message) = (.nameNotFound, "The name \(host) is not found now: \(detail)")
        case CURLE_COULDNT_RESOLVE_PROXY:
            (kind, message) = (.proxyNotFound, "The proxy's name is not found: \(detail)")
        case CURLE_COULDNT_CONNECT, CURLE_PROXY, CURLE_INTERFACE_FAILED:
            (kind, message) = (.cannotConnect, "No connection to \(host): \(detail)")
        case CURLE_OPERATION_TIMEDOUT where !isConnected:
            (kind, message) = (.connectTimedOut, "Connecting to \(host) takes too long: \(detail)")
        case CURLE_OPERATION_TIMEDOUT: (kind, message) = (.stalled, "\(host) does not answer: \(detail)")
        case CURLE_SSL_CONNECT_ERROR:
            (kind, message) = (.tlsFailed, "No TLS with \(host): \(detail)")
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS:
            (kind, message) = (.certificateNotTrusted, "The certificate of \(host) is not trusted: \(detail)")
        case CURLE_SSL_CERTPROBLEM, CURLE_SSL_CACERT_BADFILE, CURLE_SSL_CIPHER, CURLE_SSL_CRL_BADFILE,
            CURLE_SSL_ENGINE_NOTFOUND, CURLE_SSL_ENGINE_SETFAILED, CURLE_SSL_ENGINE_INITFAILED:
            (kind, message) = (.certificateFileFailed, "A certificate or key file cannot be used: \(detail)")
        case CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_GOT_NOTHING, CURLE_PARTIAL_FILE, CURLE_SEND_FAIL_REWIND,
            CURLE_SSL_SHUTDOWN_FAILED:
            (kind, message) = (.connectionLost, "The connection to \(host) was lost: \(detail)")
        case CURLE_WEIRD_SERVER_REPLY, CURLE_BAD_CONTENT_ENCODING, CURLE_UNSUPPORTED_PROTOCOL, CURLE_HTTP2,
            CURLE_HTTP2_STREAM:
            (kind, message) = (.notHTTP, "What \(host) answers is not HTTP: \(detail)")
        case CURLE_OUT_OF_MEMORY: (kind, message) = (.noMemory, "There is no memory for a request to \(host)")
        case CURLE_URL_MALFORMAT, CURLE_BAD_FUNCTION_ARGUMENT, CURLE_UNKNOWN_OPTION, CURLE_NOT_BUILT_IN:
            (kind, message) = (.badRequest, "libcurl refuses the request to \(host): \(detail)")
        default:
            (kind, message) = (.connectionLost, "The request to \(host) failed (\(code.rawValue)): \(detail)")
        }
        self.init(
            kind, message, systemError: systemError == 0 ? nil : Int32(truncatingIfNeeded: systemError),
            mayHaveArrived: isConnected)
    }
}
