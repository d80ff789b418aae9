package import SafeBackupCore
package import SystemPackage

/// How requests leave this machine; the same for all requests of one transport.
package struct TransportSettings: Sendable, Hashable {
    /// Which addresses of a name are used.
    package enum AddressFamily: String, Sendable, Hashable, CaseIterable {
        case any, ipv4, ipv6
    }

    /// `http://host:port` or `socks5h://…`; empty: none, whatever the environment says; `nil`: the environment's
    /// (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`).
    package var proxy: String?
    /// Hosts that are asked directly, comma-separated; `nil`: the environment's.
    package var noProxy: String?
    /// Authorities to trust instead of the system's; PEM.
    package var caBundle: FilePath?
    /// What this client shows to the server; PEM.
    package var clientCertificate: FilePath?
    package var clientKey: FilePath?
    package var clientKeyPassword: String?
    /// False: anybody on the way can read and change everything.
    package var verifiesCertificates = true
    package var addressFamily = AddressFamily.any
    /// Requests in flight; others wait their turn.
    package var concurrency = 16
    /// Of all uploads together, in bytes a second; `nil`: no limit.
    package var bandwidth: ByteCount?
    package var userAgent = "safebackup"

    package init() {}
}
