package import SafeBackupCore

/// What an object's own metadata (`x-amz-meta-…`) tells of the copy, so that it can be restored without a catalogue.
///
/// | name | value |
/// |---|---|
/// | `mtime` | seconds since 1970 with nanoseconds, as rclone writes it |
/// | `mode` | type and permissions in octal, as rclone writes it (`0100644`) |
/// | `uid`, `gid` | decimal |
/// | `kind` | `symlink` (the object holds its target) or `directory`; a file has none |
/// | `sha256` | of the content, hexadecimal; not of what is sent in parts |
/// | `lease` | who wrote it: a crashed agent knows its own by it |
/// | `path` | percent-encoded, where the key differs from it |
/// | `xattrs` | percent-encoded `name=value` pairs joined by `&`, where they fit |
package struct CopyMetadata: Sendable, Hashable {
    package var kind: EntryKind
    package var mtime: FileTime
    package var metadata: FileMetadata
    package var digest: Digest?
    package var lease: String?
    /// Where the key differs from it.
    package var path: [UInt8]?

    package init(
        kind: EntryKind, mtime: FileTime, metadata: FileMetadata, digest: Digest? = nil, lease: String? = nil,
        path: [UInt8]? = nil
    ) {
        self.kind = kind
        self.mtime = mtime
        self.metadata = metadata
        self.digest = digest
        self.lease = lease
        self.path = path
    }

    /// AWS counts the bytes of names and values together.
    static let limit = 2_048
    /// Of each name, where a server counts `x-amz-meta-` too.
    private static let nameOverhead = 11

    /// What does not fit is left out: extended attributes first, then the path; the catalogue has both.
    package var encoded: [String: String] {
        var fields = [
            "mtime": Self.text(mtime), "mode": "0" + String(Self.type(kind) | metadata.mode & 0o7777, radix: 8),
            "uid": String(metadata.uid), "gid": String(metadata.gid),
        ]
        if kind != .file { fields["kind"] = kind.rawValue }
        if let digest { fields["sha256"] = digest.hex }
        if let lease { fields["lease"] = lease }
        var used = fields.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count + Self.nameOverhead }
        func add(_ name: String, _ value: String) {
            let size = name.utf8.count + value.utf8.count + Self.nameOverhead
            if used + size > Self.limit { return }
            fields[name] = value
            used += size
        }
        if let path { add("path", Self.escaped(path)) }
        if !metadata.xattrs.isEmpty {
            let pairs = metadata.xattrs.map { Self.escaped($0.name) + "=" + Self.escaped($0.value) }
            add("xattrs", pairs.joined(separator: "&"))
        }
        return fields
    }

    /// Reads what a head tells. What is missing, or somebody else's, has the values of an ordinary file.
    /// - Parameter modified: when the object was stored, for one without an mtime of its own.
    package init(_ fields: [String: String], modified: Timestamp?) {
        let mode = fields["mode"].flatMap { UInt32($0, radix: 8) } ?? 0o100600
        kind = fields["kind"].flatMap(EntryKind.init(rawValue:)) ?? .file
        mtime = fields["mtime"].flatMap(Self.time) ?? modified?.fileTime ?? FileTime(nanoseconds: 0)
        var xattrs: [ExtendedAttribute] = []
        for pair in fields["xattrs"]?.split(separator: "&") ?? [] {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let name = Self.bytes(parts[0]), let value = Self.bytes(parts[1]) else { continue }
            xattrs.append(ExtendedAttribute(name: name, value: value))
        }
        metadata = FileMetadata(
            mode: mode & 0o7777, uid: fields["uid"].flatMap { UInt32($0) } ?? 0,
            gid: fields["gid"].flatMap { UInt32($0) } ?? 0, xattrs: xattrs)
        digest = fields["sha256"].flatMap { Self.digits($0) }.flatMap { Digest(bytes: $0) }
        lease = fields["lease"]
        path = fields["path"].flatMap { Self.bytes($0[...]) }
    }

    private static func type(_ kind: EntryKind) -> UInt32 {
        switch kind {
        case .directory: 0o040000
        case .symlink: 0o120000
        default: 0o100000
        }
    }

    /// Seconds with nine places, also before 1970: a sign, then the distance.
    static func text(_ time: FileTime) -> String {
        let (seconds, rest) = time.nanoseconds.magnitude.quotientAndRemainder(dividingBy: 1_000_000_000)
        let places = String(rest)
        return (time.nanoseconds < 0 ? "-" : "") + "\(seconds)."
            + String(repeating: "0", count: 9 - places.utf8.count) + places
    }

    static func time(_ text: String) -> FileTime? {
        var digits = text[...]
        let isNegative = digits.hasPrefix("-")
        if isNegative { digits = digits.dropFirst() }
        let parts = digits.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, !first.isEmpty, first.utf8.allSatisfy({ (48...57).contains($0) }),
            let seconds = Int64(first)
        else { return nil }
        var nanoseconds: Int64 = 0
        if parts.count == 2 {
            let places = parts[1].prefix(9)
            guard places.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
            nanoseconds = Int64(places + String(repeating: "0", count: 9 - places.utf8.count)) ?? 0
        }
        return isNegative
            ? FileTime(seconds: -seconds, nanoseconds: -nanoseconds)
            : FileTime(seconds: seconds, nanoseconds: nanoseconds)
    }

    /// Unreserved characters and slashes as they are, each other byte as `%XX`.
    static func escaped(_ bytes: [UInt8]) -> String {
        var text = ""
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"), UInt8(ascii: "/"):
                text.unicodeScalars.append(Unicode.Scalar(byte))
            default: text += "%" + hexadecimal([byte]).uppercased()
            }
        }
        return text
    }

    static func bytes(_ text: Substring) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte != UInt8(ascii: "%") {
                bytes.append(byte)
                continue
            }
            guard let decoded = digits(String(decoding: rest.prefix(2), as: UTF8.self)), decoded.count == 1 else {
                return nil
            }
            bytes += decoded
            rest = rest.dropFirst(2)
        }
        return bytes
    }

    private static func digits(_ text: String) -> [UInt8]? {
        let digits = Array(text.utf8)
        guard digits.count % 2 == 0 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index..<(index + 2)], as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(byte)
        }
        return bytes
    }
}
