package import SafeBackupCore

/// What the configuration says about where a bucket is; what it leaves open comes from the environment and the profile
/// (see `Endpoint`).
package struct EndpointSettings: Sendable, Hashable {
    /// Where in a request the bucket's name stands.
    package enum Addressing: String, Sendable, Hashable, CaseIterable {
        /// In the host at AWS, where its name allows that; in the path at every other server.
        case auto
        case path
        /// In the host, if a certificate can cover it.
        case virtual
    }

    package var bucket: String
    /// `nil`: `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, else us-east-1.
    package var region: String?
    /// `https://host[:port][/path]` of a server that is not AWS; `nil`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the
    /// profile's, else AWS.
    package var endpoint: String?
    package var addressing = Addressing.auto
    /// Hosts with IPv6 addresses. `nil`: `AWS_USE_DUALSTACK_ENDPOINT`, else the profile's.
    package var usesDualStack: Bool?
    /// Hosts whose cryptography is validated. `nil`: `AWS_USE_FIPS_ENDPOINT`, else the profile's.
    package var usesFIPS: Bool?
    /// Amazon's network from the nearest place on. `nil`: the profile's.
    package var usesAcceleration: Bool?

    package init(bucket: String) { self.bucket = bucket }
}

/// Where the requests for one bucket go.
///
/// Of settings that say the same, the first counts: configuration, environment, profile. `AWS_REGION` comes before
/// `AWS_DEFAULT_REGION`, as in all AWS programs but those in Python.
package struct Endpoint: Sendable, Hashable {
    package let bucket: BucketName
    /// The configured one, or us-east-1.
    package let region: String
    /// Somebody has named the region; else it may be asked for, or learned from the first answer.
    package let isRegionKnown: Bool
    package let isAWS: Bool

    private let custom: Custom?
    private let addressing: EndpointSettings.Addressing
    private let usesDualStack: Bool
    private let usesFIPS: Bool
    private let usesAcceleration: Bool

    private struct Custom: Sendable, Hashable {
        var origin: HTTPOrigin
        /// Without a slash at its end; percent-encoded.
        var path: String
    }

    /// - Parameter profiles: `nil`: there are none.
    /// - Throws: `invalidConfiguration` with the setting that cannot be used.
    package init(
        _ settings: EndpointSettings, environment: AWSEnvironment, profiles: AWSProfiles?
    ) throws(SafeBackupError) {
        bucket = try BucketName(settings.bucket)
        func option(_ name: String) -> String? { profiles?.option(name) }
        func isTrue(_ name: String) -> Bool { option(name)?.lowercased() == "true" }
        usesDualStack =
            settings.usesDualStack
            ?? (environment.text("AWS_USE_DUALSTACK_ENDPOINT").map { $0.lowercased() == "true" }
                ?? (isTrue("use_dualstack_endpoint")
                    || profiles?.nested("use_dualstack_endpoint", in: "s3")?.lowercased() == "true"))
        usesFIPS =
            settings.usesFIPS
            ?? (environment.text("AWS_USE_FIPS_ENDPOINT").map { $0.lowercased() == "true" }
                ?? isTrue("use_fips_endpoint"))
        usesAcceleration =
            settings.usesAcceleration
            ?? (profiles?.nested("use_accelerate_endpoint", in: "s3")?.lowercased() == "true")
        if settings.addressing == .auto,
            let style = profiles?.nested("addressing_style", in: "s3").flatMap(EndpointSettings.Addressing.init)
        {
            addressing = style
        } else {
            addressing = settings.addressing
        }

        let url = settings.endpoint ?? Self.configuredURL(environment, profiles)
        custom = try url.map { url throws(SafeBackupError) in try Self.custom(url) }
        // A host of AWS is AWS, however it is named; but its name is then kept as it is given.
        isAWS = custom.map { Self.isAWS($0.origin.host) } ?? true
        let named =
            settings.region ?? environment.text("AWS_REGION") ?? environment.text("AWS_DEFAULT_REGION")
            ?? option("region") ?? custom.flatMap { Self.regionInHost($0.origin.host) }
        region = named ?? "us-east-1"
        isRegionKnown = named != nil
        try Self.check(region: region)
        if custom != nil && usesAcceleration {
            throw Self.refusal(
                "Acceleration is AWS's own; with an endpoint of one's own there is none: remove one of both")
        }
        _ = try address(in: region)
    }

    /// The address for a region, which the server may have named. At a server that is not AWS only the signature changes.
    package func address(in region: String?) throws(SafeBackupError) -> BucketAddress {
        let region = region ?? self.region
        try Self.check(region: region)
        if let custom {
            let name = bucket.text
            let isInHost = addressing == .virtual && bucket.isLabel && !Self.isNumeric(custom.origin.host)
            var origin = custom.origin
            if isInHost { origin.host = "\(name).\(origin.host)" }
            return BucketAddress(
                origin: origin, pathPrefix: isInHost ? custom.path : "\(custom.path)/\(name)", region: region,
                isAWS: isAWS)
        }
        let partition = AWSPartition(of: region)
        if usesFIPS && !partition.hasFIPS {
            throw Self.refusal("There are no FIPS endpoints in \(region); remove that setting")
        }
        if usesAcceleration {
            if usesFIPS { throw Self.refusal("Acceleration and FIPS endpoints do not go together; remove one of both") }
            if !partition.hasAcceleration {
                throw Self.refusal("There is no acceleration in \(region); remove that setting")
            }
            guard bucket.isLabel else {
                throw Self.refusal(
                    "A bucket with dots or capitals in its name cannot be accelerated; remove that setting")
            }
            let host = usesDualStack ? "s3-accelerate.dualstack" : "s3-accelerate"
            return BucketAddress(
                origin: HTTPOrigin(scheme: .https, host: "\(bucket.text).\(host).\(partition.suffix)"), pathPrefix: "",
                region: region, isAWS: true)
        }
        let host =
            (usesFIPS ? "s3-fips." : "s3.") + (usesDualStack ? "dualstack." : "") + "\(region).\(partition.suffix)"
        // A certificate for `*.s3.…` covers one label.
        let isInHost = addressing != .path && bucket.isLabel
        return BucketAddress(
            origin: HTTPOrigin(scheme: .https, host: isInHost ? "\(bucket.text).\(host)" : host),
            pathPrefix: isInHost ? "" : "/\(bucket.text)", region: region, isAWS: true)
    }

    /// What a person should know before the first request; empty: nothing.
    package var warnings: [String] {
        guard let custom, custom.origin.scheme == .http, !Self.isLoopback(custom.origin.host) else { return [] }
        return [
            "\(custom.origin.hostHeader) is asked over plain HTTP: whoever is on the way can read what is saved; use https://"
        ]
    }

    // MARK: Parts

    private static func configuredURL(_ environment: AWSEnvironment, _ profiles: AWSProfiles?) -> String? {
        let isIgnored =
            environment.text("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").map { $0.lowercased() == "true" }
            ?? (profiles?.option("ignore_configured_endpoint_urls")?.lowercased() == "true")
        if isIgnored { return nil }
        return environment.text("AWS_ENDPOINT_URL_S3") ?? environment.text("AWS_ENDPOINT_URL")
            ?? profiles?.endpoint(of: "s3")
    }

    private static func custom(_ text: String) throws(SafeBackupError) -> Custom {
        guard let url = ServiceURL(text) else {
            throw refusal(
                "\(withoutUser(text)) is no endpoint; give https://HOST, with :PORT and /PATH where needed, and no user"
            )
        }
        if text.contains("?") || text.contains("#") {
            throw refusal("The endpoint \(text) has a query or a fragment; remove what begins with ? or #")
        }
        var path = url.path
        while path.hasSuffix("/") { path.removeLast() }
        return Custom(origin: url.origin, path: path)
    }

    /// A URL's user part may be a password.
    private static func withoutUser(_ text: String) -> String {
        guard let at = text.lastIndex(of: "@") else { return text }
        return "…" + text[at...]
    }

    /// It stands in a host's name and in signatures: one label.
    private static func check(region: String) throws(SafeBackupError) {
        let bytes = Array(region.utf8)
        let isLabel =
            (1...63).contains(bytes.count) && bytes.first != UInt8(ascii: "-") && bytes.last != UInt8(ascii: "-")
            && bytes.allSatisfy {
                switch $0 {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
        if !isLabel {
            throw refusal("\(String(reflecting: region)) is no region; it is one word, such as eu-central-1")
        }
    }

    private static func isAWS(_ host: String) -> Bool {
        ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"].contains { host == $0 || host.hasSuffix(".\($0)") }
    }

    /// Backblaze has the region in the host, and refuses others in signatures; Cloudflare wants `auto`.
    private static func regionInHost(_ host: String) -> String? {
        let labels = host.split(separator: ".")
        if host.hasSuffix(".r2.cloudflarestorage.com") { return "auto" }
        if labels.count == 4, labels[0] == "s3", host.hasSuffix(".backblazeb2.com") { return String(labels[1]) }
        if labels.count == 4, labels[0] == "s3", host.hasSuffix(".amazonaws.com") { return String(labels[1]) }
        return nil
    }

    private static func isNumeric(_ host: String) -> Bool {
        host.hasPrefix("[") || host.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }
    }

    private static func isLoopback(_ host: String) -> Bool {
        host == "localhost" || host == "[::1]" || (host.hasPrefix("127.") && isNumeric(host))
    }

    private static func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }
}
