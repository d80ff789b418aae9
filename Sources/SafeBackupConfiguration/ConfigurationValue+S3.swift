import SafeBackupCore

/// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
package struct BucketURL: ConfigurationValue {
    package let bucket: String
    /// Of all keys, without slashes at its ends; empty for the whole bucket.
    package let prefix: [UInt8]

    package static let scheme = Array("s3://".utf8)

    /// Whether somebody means a bucket, well-formed or not.
    package static func isMeant(by text: [UInt8]) -> Bool { text.starts(with: scheme) }

    package static var form: String { "s3://BUCKET/PREFIX" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> BucketURL {
        guard isMeant(by: text) else { throw ConfigurationFault("is no bucket, as in s3://BUCKET/PREFIX") }
        let rest = text.dropFirst(scheme.count)
        let name = rest.prefix { $0 != UInt8(ascii: "/") }
        let isName = name.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || ".-_".utf8.contains(byte)
        }
        guard isName, (3...255).contains(name.count), let first = name.first, !".-".utf8.contains(first) else {
            throw ConfigurationFault("names no bucket; its name has 3 to 63 letters, digits, dots and hyphens")
        }
        let components = rest.dropFirst(name.count).split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: true)
        let prefix = Array(components.joined(separator: [UInt8(ascii: "/")]))
        guard String(validating: prefix, as: UTF8.self) != nil, prefix.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
            throw ConfigurationFault("has a prefix that is not text")
        }
        if components.contains(where: { [".", "..", ".safebackup"].map { Array($0.utf8) }.contains(Array($0)) }) {
            throw ConfigurationFault("has a prefix with '.', '..' or '.safebackup' in it, which no object may have")
        }
        if prefix.count > 512 { throw ConfigurationFault("has a prefix of more than 512 bytes") }
        return BucketURL(bucket: String(decoding: name, as: UTF8.self), prefix: prefix)
    }

    package var written: [UInt8] {
        Self.scheme + Array(bucket.utf8) + (prefix.isEmpty ? [] : [UInt8(ascii: "/")] + prefix)
    }
}

/// One line of text.
package struct PlainText: ConfigurationValue {
    package let text: String

    package static var form: String { "text" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> PlainText {
        guard let string = String(validating: text, as: UTF8.self), text.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
            throw ConfigurationFault("is not one line of text")
        }
        return PlainText(text: string)
    }

    package var written: [UInt8] { Array(text.utf8) }
}

/// Text that is never shown.
package struct SecretText: ConfigurationValue, CustomStringConvertible, CustomDebugStringConvertible {
    package let text: String

    package init(_ text: String) { self.text = text }

    package static var form: String { "secret" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> SecretText {
        guard let string = String(validating: text, as: UTF8.self), text.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw ConfigurationFault("is no key: it has blanks or other signs in it")
        }
        return SecretText(string)
    }

    package var written: [UInt8] { Array(text.utf8) }
    package var description: String { "(secret)" }
    package var debugDescription: String { description }
}

/// `http://HOST:PORT` or `https://HOST`.
package struct ServerURL: ConfigurationValue {
    package let text: String

    package static var form: String { "URL" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ServerURL {
        let plain = try PlainText.read(text).text
        let starts = ["http://", "https://"]
        guard let start = starts.first(where: { plain.hasPrefix($0) }), plain.utf8.count > start.utf8.count,
            !plain.utf8.contains(UInt8(ascii: " ")), !plain.utf8.contains(UInt8(ascii: "@"))
        else { throw ConfigurationFault("is no server, as in https://s3.example.com:9000") }
        return ServerURL(text: plain)
    }

    package var written: [UInt8] { Array(text.utf8) }
}

/// A value that is one of some words.
package protocol ConfigurationWord: ConfigurationValue, RawRepresentable<String>, CaseIterable {}

extension ConfigurationWord {
    package static var form: String { allCases.map(\.rawValue).joined(separator: ", ") }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Self {
        guard let word = Self(rawValue: String(decoding: text, as: UTF8.self)) else {
            throw ConfigurationFault("is none of \(form)")
        }
        return word
    }

    package var written: [UInt8] { Array(rawValue.utf8) }
}

/// Where copies lie.
package enum DestinationType: String, ConfigurationWord {
    case local, s3
}

/// How the bucket is named in a request.
package enum BucketAddressing: String, ConfigurationWord {
    case auto, path, virtual
}

/// What becomes of the object that a newer one replaces.
package enum BucketVersions: String, ConfigurationWord {
    case none, bucket, copy
}

/// What proves to the server that what arrived is what was sent.
package enum BucketChecksum: String, ConfigurationWord {
    case auto, none, md5, crc32, crc32c, crc64nvme, sha256
}

/// How the server encrypts what it keeps.
package enum BucketEncryption: String, ConfigurationWord {
    case bucket
    case server = "AES256"
    case kms = "aws:kms"
    /// By KMS, in two layers.
    case kmsTwice = "aws:kms:dsse"
    /// With a key that is sent with each request, and that the server forgets.
    case customer
}

/// Who may remove a locked version before its time: with `governance` whoever has a special permission, with `compliance`
/// nobody.
package enum BucketLock: String, ConfigurationWord {
    case governance, compliance
}

/// `NAME=VALUE`, as S3 wants them: up to 128 and 256 characters.
package struct ObjectTag: ConfigurationValue {
    package let name: String
    package let value: String

    package static var form: String { "NAME=VALUE" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ObjectTag {
        let plain = try PlainText.read(text).text
        let parts = plain.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty else {
            throw ConfigurationFault("is no tag, as in project=backup")
        }
        let allowed: (Character) -> Bool = { $0.isLetter || $0.isNumber || " +-=._:/@".contains($0) }
        guard parts[0].allSatisfy(allowed), parts[1].allSatisfy(allowed) else {
            throw ConfigurationFault(
                "has signs that a tag cannot have: letters, digits, blanks and + - = . _ : / @ it can")
        }
        guard parts[0].unicodeScalars.count <= 128, parts[1].unicodeScalars.count <= 256 else {
            throw ConfigurationFault("is too long: a name has up to 128 characters, a value up to 256")
        }
        return ObjectTag(name: String(parts[0]), value: String(parts[1]))
    }

    package var written: [UInt8] { Array("\(name)=\(value)".utf8) }
}
