/// The address of a service that gives keys: origin, path and query, without user, password or fragment.
struct ServiceURL: Sendable, Hashable {
    var origin: HTTPOrigin
    /// As written; begins with `/`.
    var path: String
    /// Not decoded: what a container's address may have after `?`.
    var query: String?

    /// `nil` for anything but `http://` and `https://` with a host.
    init?(_ text: String) {
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), let colon = text.firstRange(of: "://") else {
            return nil
        }
        guard let scheme = HTTPOrigin.Scheme(rawValue: text[..<colon.lowerBound].lowercased()) else { return nil }
        let rest = text[colon.upperBound...]
        let end = rest.firstIndex { $0 == "/" || $0 == "?" || $0 == "#" } ?? rest.endIndex
        let authority = rest[..<end]
        guard let (host, port) = Self.hostAndPort(authority) else { return nil }
        origin = HTTPOrigin(scheme: scheme, host: host, port: port)
        let target = rest[end...].prefix { $0 != "#" }
        if let mark = target.firstIndex(of: "?") {
            path = String(target[..<mark])
            query = String(target[target.index(after: mark)...])
        } else {
            path = String(target)
            query = nil
        }
        if path.isEmpty { path = "/" }
    }

    private static func hostAndPort(_ authority: Substring) -> (String, Int?)? {
        if authority.contains("@") { return nil }
        var host = authority
        var port: Int?
        let bracket = authority.lastIndex(of: "]")
        if let colon = authority.lastIndex(of: ":"), bracket.map({ $0 < colon }) ?? true {
            guard let number = Int(authority[authority.index(after: colon)...]), (1...65_535).contains(number) else {
                return nil
            }
            port = number
            host = authority[..<colon]
        }
        if host.isEmpty || (host.first == "[") != (bracket != nil) { return nil }
        return (host.lowercased(), port)
    }

    /// `query` in pieces, decoded.
    var queryItems: [(name: String, value: String?)] {
        (query ?? "").split(separator: "&").map { item in
            let halves = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let decoded = halves.map { half in
                PercentEncoding.decode(half.utf8).map { String(decoding: $0, as: UTF8.self) } ?? String(half)
            }
            return (decoded[0], decoded.count > 1 ? decoded[1] : nil)
        }
    }
}
