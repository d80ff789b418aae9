import FoundationEssentials
package import SafeBackupCore

/// `.safebackup/destination.json`: proves that a directory is the destination we know, and whose it is.
package struct Sentinel: Sendable, Hashable {
    /// The layout that this release writes; a higher number is refused.
    package static let currentLayout = 1

    /// The destination's own, a UUID in text.
    package var id: String
    package var sources: [SentinelSource]
    package var capabilities: Capabilities

    package init(id: String, sources: [SentinelSource], capabilities: Capabilities) {
        self.id = id
        self.sources = sources
        self.capabilities = capabilities
    }

    /// The file's content.
    package func encoded() throws(SafeBackupError) -> [UInt8] {
        let file = SentinelFile(self)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do {
            return Array(try encoder.encode(file)) + [0x0A]
        } catch {
            throw SafeBackupError(
                .destinationFailed, "The sentinel cannot be written as JSON: \(error)", disposition: .permanent)
        }
    }

    /// Throws `sentinelForeign` for what is not a sentinel, and for one of a newer layout.
    package init(decoding bytes: [UInt8]) throws(SafeBackupError) {
        let data = Data(bytes)
        let layout: Int
        do {
            layout = try JSONDecoder().decode(SentinelFile.Head.self, from: data).layout
            if layout <= Self.currentLayout {
                self = try JSONDecoder().decode(SentinelFile.self, from: data).sentinel()
                return
            }
        } catch {
            throw Self.foreign("is not readable; 'safebackup accept DESTINATION' shows whether it can be written anew")
        }
        throw Self.foreign("was written by a newer release (layout \(layout)); install that release")
    }

    /// Whether this is a sentinel that something has damaged, as against one of this or a newer release.
    package static func isDamaged(_ bytes: [UInt8]) -> Bool {
        let data = Data(bytes)
        do {
            if try JSONDecoder().decode(SentinelFile.Head.self, from: data).layout > currentLayout { return false }
            _ = try JSONDecoder().decode(SentinelFile.self, from: data).sentinel()
            return false
        } catch {
            return true
        }
    }

    private static func foreign(_ what: String) -> SafeBackupError {
        SafeBackupError(
            .sentinelForeign, "The destination's .safebackup/destination.json \(what)",
            disposition: .destinationUnavailable)
    }
}

/// A source that is stored in a destination.
package struct SentinelSource: Sendable, Hashable {
    package var id: String
    /// The machine's `/etc/machine-id`, or `host:` and its name.
    package var machine: String
    /// Absolute.
    package var path: [UInt8]
    package var identity: RootIdentity?
    /// The root for a destination's only source.
    package var prefix: RelativePath

    package init(id: String, machine: String, path: [UInt8], identity: RootIdentity?, prefix: RelativePath) {
        self.id = id
        self.machine = machine
        self.path = path
        self.identity = identity
        self.prefix = prefix
    }
}

/// What the destination's file system can do; found by `Probe`, kept in the sentinel.
package struct Capabilities: Sendable, Hashable, Codable {
    package var hardLinks: Bool
    package var symbolicLinks: Bool
    /// `A` and `a` are one name.
    package var foldsCase: Bool
    package var extendedAttributes: Bool
    /// The step of its time stamps in nanoseconds.
    package var timeStep: Int64
    /// The longest name in bytes.
    package var nameLimit: Int

    package init(
        hardLinks: Bool = true, symbolicLinks: Bool = true, foldsCase: Bool = false, extendedAttributes: Bool = true,
        timeStep: Int64 = 1, nameLimit: Int = 255
    ) {
        self.hardLinks = hardLinks
        self.symbolicLinks = symbolicLinks
        self.foldsCase = foldsCase
        self.extendedAttributes = extendedAttributes
        self.timeStep = timeStep
        self.nameLimit = nameLimit
    }

    /// Whether two time stamps are one after this file system rounded them.
    package func isSame(_ left: FileTime, _ right: FileTime) -> Bool {
        left == right
            || left.nanoseconds.subtractingReportingOverflow(right.nanoseconds).partialValue.magnitude
                < UInt64(clamping: max(timeStep, 1))
    }
}

/// The sentinel as it stands in the file. Paths are text where they are UTF-8, else hexadecimal in `…Bytes`.
private struct SentinelFile: Codable {
    struct Head: Codable {
        var layout: Int
    }

    struct Source: Codable {
        var id: String
        var machine: String
        var path: String?
        var pathBytes: String?
        var prefix: String?
        var prefixBytes: String?
        var root: Root?
    }

    struct Root: Codable {
        var type: Int64
        var volume: String?
        var inode: UInt64
        var birthTime: Int64?
    }

    var layout: Int
    var id: String
    var sources: [Source]
    var capabilities: Capabilities

    init(_ sentinel: Sentinel) {
        layout = Sentinel.currentLayout
        id = sentinel.id
        capabilities = sentinel.capabilities
        sources = sentinel.sources.map { source in
            let path = String(validating: source.path, as: UTF8.self)
            let prefix = String(validating: source.prefix.bytes, as: UTF8.self)
            return Source(
                id: source.id, machine: source.machine, path: path,
                pathBytes: path == nil ? hexadecimal(source.path) : nil, prefix: prefix,
                prefixBytes: prefix == nil ? hexadecimal(source.prefix.bytes) : nil,
                root: source.identity.map {
                    Root(
                        type: $0.type.rawValue, volume: $0.volume, inode: $0.inode,
                        birthTime: $0.birthTime?.nanoseconds)
                })
        }
    }

    func sentinel() throws -> Sentinel {
        var known: [SentinelSource] = []
        for source in sources {
            known.append(
                SentinelSource(
                    id: source.id, machine: source.machine, path: try bytes(source.path, source.pathBytes),
                    identity: source.root.map {
                        RootIdentity(
                            type: VolumeType(rawValue: $0.type), volume: $0.volume, inode: $0.inode,
                            birthTime: $0.birthTime.map(FileTime.init(nanoseconds:)))
                    },
                    prefix: try RelativePath(try bytes(source.prefix, source.prefixBytes))))
        }
        return Sentinel(id: id, sources: known, capabilities: capabilities)
    }

    private struct NoBytes: Error {}

    private func bytes(_ text: String?, _ hexadecimal: String?) throws -> [UInt8] {
        if let text { return Array(text.utf8) }
        guard let digits = hexadecimal.map({ Array($0.utf8) }), digits.count % 2 == 0 else { throw NoBytes() }
        return try stride(from: 0, to: digits.count, by: 2).map { index in
            guard let byte = UInt8(String(decoding: digits[index..<(index + 2)], as: UTF8.self), radix: 16) else {
                throw NoBytes()
            }
            return byte
        }
    }
}
