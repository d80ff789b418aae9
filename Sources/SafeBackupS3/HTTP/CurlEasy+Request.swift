import CSafeBackupCurl
import SafeBackupCore
import SystemPackage

/// Options of one request.
extension CurlTransfer {
    /// Sets everything that libcurl must know. The list of headers lives until `releaseHeaders`.
    /// Throws `badRequest` or `noMemory`.
    func prepare(_ easy: CurlEasy, _ settings: TransportSettings) throws(TransportFailure) {
        easy.reset()
        let raw = easy.raw
        var options = CurlOptions(raw)
        let origin = request.origin
        options.set(CURLOPT_URL, "\(origin.scheme.rawValue)://\(origin.hostHeader)\(request.target)")
        // Dot segments belong to the key: the path is signed as it is.
        options.set(CURLOPT_PATH_AS_IS, 1)
        options.set(CURLOPT_PROTOCOLS_STR, "http,https")
        options.set(CURLOPT_FOLLOWLOCATION, 0)
        options.set(CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_1_1))
        options.set(CURLOPT_NOSIGNAL, 1)
        options.set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        options.set(CURLOPT_USERAGENT, settings.userAgent)
        options.set(CURLOPT_CONNECTTIMEOUT_MS, max(1, request.limits.connect.milliseconds))
        options.set(CURLOPT_MAXAGE_CONN, Self.idleSeconds)
        options.set(CURLOPT_MAXLIFETIME_CONN, 300)
        options.set(CURLOPT_DNS_SHUFFLE_ADDRESSES, 1)
        options.set(CURLOPT_DNS_CACHE_TIMEOUT, 60)
        options.set(CURLOPT_TCP_KEEPALIVE, 1)
        if request.needsNewConnection || isRepeated { options.set(CURLOPT_FRESH_CONNECT, 1) }
        if request.needsNewConnection { options.set(CURLOPT_DNS_CACHE_TIMEOUT, 0) }
        switch settings.addressFamily {
        case .any: break
        case .ipv4: options.set(CURLOPT_IPRESOLVE, Int(CURL_IPRESOLVE_V4))
        case .ipv6: options.set(CURLOPT_IPRESOLVE, Int(CURL_IPRESOLVE_V6))
        }
        setSecurity(&options, settings)
        setProxy(&options, settings)
        setMethod(&options)
        try setHeaders(&options)
        let context = Unmanaged.passUnretained(self).toOpaque()
        options.note(sb_easy_set_callbacks(raw, context, takeHeaderLine, takeBodyPiece, giveBodyPiece, seekBody))
        if let failure = options.failure {
            releaseHeaders()
            throw TransportFailure(
                failure == CURLE_OUT_OF_MEMORY ? .noMemory : .badRequest,
                "libcurl refuses the request to \(origin.hostHeader): \(String(cString: curl_easy_strerror(failure)))")
        }
    }

    /// S3 closes a connection that it kept for some seconds; one that is older is not tried.
    static var idleSeconds: Int { 4 }

    private func setSecurity(_ options: inout CurlOptions, _ settings: TransportSettings) {
        guard request.origin.scheme == .https || settings.proxy?.hasPrefix("https:") == true else { return }
        options.set(CURLOPT_SSLVERSION, Int(CURL_SSLVERSION_TLSv1_2))
        options.set(CURLOPT_SSL_VERIFYPEER, settings.verifiesCertificates ? 1 : 0)
        options.set(CURLOPT_SSL_VERIFYHOST, settings.verifiesCertificates ? 2 : 0)
        if let path = settings.caBundle {
            options.set(CURLOPT_CAINFO, path)
            // Else the system's directory of authorities stays trusted beside it.
            options.unset(CURLOPT_CAPATH)
        }
        if let path = settings.clientCertificate { options.set(CURLOPT_SSLCERT, path) }
        if let path = settings.clientKey { options.set(CURLOPT_SSLKEY, path) }
        if let password = settings.clientKeyPassword { options.set(CURLOPT_KEYPASSWD, password) }
    }

    private func setProxy(_ options: inout CurlOptions, _ settings: TransportSettings) {
        if !request.mayUseProxy {
            options.set(CURLOPT_PROXY, "")
            options.set(CURLOPT_NOPROXY, "*")
            return
        }
        if let proxy = settings.proxy { options.set(CURLOPT_PROXY, proxy) }
        if let hosts = settings.noProxy { options.set(CURLOPT_NOPROXY, hosts) }
    }

    private func setMethod(_ options: inout CurlOptions) {
        let count = request.body.count
        switch request.method {
        case .get: options.set(CURLOPT_HTTPGET, 1)
        case .head: options.set(CURLOPT_NOBODY, 1)
        case .delete: options.set(CURLOPT_CUSTOMREQUEST, "DELETE")
        case .put, .post:
            // As an upload, whose body comes from the callback, has a length and adds no header of a form.
            options.set(CURLOPT_UPLOAD, 1)
            options.set(offset: CURLOPT_INFILESIZE_LARGE, Int64(count))
            if request.method == .post { options.set(CURLOPT_CUSTOMREQUEST, "POST") }
            if count > 64 << 10 { options.set(CURLOPT_UPLOAD_BUFFERSIZE, 256 << 10) }
        }
    }

    private func setHeaders(_ options: inout CurlOptions) throws(TransportFailure) {
        // `host` exactly as it was signed; libcurl's own `Accept` and `Expect` only where they are of use.
        var lines = ["Host: \(request.origin.hostHeader)", "Accept:"]
        lines.append(request.expectsContinue && request.body.count > 0 ? "Expect: 100-continue" : "Expect:")
        for header in request.headers {
            guard !(header.name + header.value).utf8.contains(where: { $0 == 0x0D || $0 == 0x0A || $0 == 0 }) else {
                throw TransportFailure(.badRequest, "The header \(header.name) holds a line end or a NUL")
            }
            lines.append(header.value.isEmpty ? "\(header.name);" : "\(header.name): \(header.value)")
        }
        for line in lines {
            guard let longer = curl_slist_append(headers, line) else {
                releaseHeaders()
                throw TransportFailure(.noMemory, "There is no memory for the headers of a request")
            }
            headers = longer
        }
        options.note(sb_easy_set_list(options.easy, CURLOPT_HTTPHEADER, headers))
    }

    func releaseHeaders() {
        curl_slist_free_all(headers)
        headers = nil
    }
}

/// Sets options until one is refused.
private struct CurlOptions {
    let easy: UnsafeMutableRawPointer
    private(set) var failure: CURLcode?

    init(_ easy: UnsafeMutableRawPointer) { self.easy = easy }

    mutating func note(_ result: CURLcode) { if result != CURLE_OK && failure == nil { failure = result } }
    mutating func set(_ option: CURLoption, _ value: Int) { note(sb_easy_set_long(easy, option, value)) }
    mutating func set(_ option: CURLoption, _ value: String) { note(sb_easy_set_text(easy, option, value)) }
    mutating func set(offset option: CURLoption, _ value: Int64) {
        note(sb_easy_set_offset(easy, option, curl_off_t(value)))
    }
    mutating func unset(_ option: CURLoption) { note(sb_easy_set_text(easy, option, nil)) }
    mutating func set(_ option: CURLoption, _ path: FilePath) {
        note(path.withPlatformString { sb_easy_set_text(easy, option, $0) })
    }
}

extension Duration {
    /// Whole milliseconds, rounded down.
    var milliseconds: Int {
        let (seconds, attoseconds) = components
        return Int(clamping: seconds &* 1_000 &+ attoseconds / 1_000_000_000_000_000)
    }
}

// MARK: Callbacks

private func transfer(_ context: UnsafeMutableRawPointer?) -> CurlTransfer? {
    context.map { Unmanaged<CurlTransfer>.fromOpaque($0).takeUnretainedValue() }
}

private let takeHeaderLine: sb_data_callback = { bytes, size, count, context in
    transfer(context)?.takeHeader(UnsafeRawBufferPointer(start: bytes, count: size * count))
    return size * count
}

private let takeBodyPiece: sb_data_callback = { bytes, size, count, context in
    guard let transfer = transfer(context) else { return 0 }
    return transfer.takeBody(UnsafeRawBufferPointer(start: bytes, count: size * count)) ? size * count : 0
}

private let giveBodyPiece: sb_data_callback = { bytes, size, count, context in
    guard let transfer = transfer(context) else { return sb_read_abort() }
    let allowed = transfer.allowance?(transfer, size * count) ?? size * count
    if allowed == 0 { return sb_read_pause() }
    return transfer.giveBody(UnsafeMutableRawBufferPointer(start: bytes, count: allowed))
}

private let seekBody: sb_seek_callback = { context, offset, origin in
    guard let transfer = transfer(context), origin == 0, transfer.seek(to: Int64(offset)) else {
        return Int32(CURL_SEEKFUNC_FAIL)
    }
    return Int32(CURL_SEEKFUNC_OK)
}
