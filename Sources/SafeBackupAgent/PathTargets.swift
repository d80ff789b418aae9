import Glibc
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// A path that a person named, in one source.
struct PathTarget: Sendable {
    var source: SourceRecord
    var path: RelativePath
}

extension SourcePath {
    /// An absolute path in the source that it lies in, also when it leads there through a link; a relative one in each
    /// source that the agent ran with last.
    /// - Throws: `invalidPath` for one that no source holds, `stateFailed` if the state has none.
    static func targets(_ argument: [UInt8], in sources: [SourceRecord]) throws(SafeBackupError) -> [PathTarget] {
        let active = sources.filter(\.isActive)
        let isAbsolute = argument.first == UInt8(ascii: "/")
        let candidates = isAbsolute || active.isEmpty ? sources : active
        if candidates.isEmpty {
            throw SafeBackupError(
                .stateFailed, "This state knows no source yet; 'safebackup run SOURCE DESTINATION' begins one",
                disposition: .permanent)
        }
        return try resolveArgument(argument, candidates.map { (id: $0, path: $0.path) }).map {
            PathTarget(source: $0.source, path: $0.path)
        }
    }

    /// As `resolve`, for what a person typed: an absolute path may lead into its source through a link, and an empty
    /// one, as of a variable that a script forgot to set, does not mean everything. Blocks: links are followed.
    static func resolveArgument<ID>(
        _ argument: [UInt8], _ sources: [(id: ID, path: [UInt8])]
    ) throws(SafeBackupError) -> [(source: ID, path: RelativePath)] {
        if argument.isEmpty {
            throw SafeBackupError(
                .invalidPath, "The path is empty; '.' stands for the whole source", disposition: .permanent)
        }
        do throws(SafeBackupError) {
            return try resolve(argument, sources)
        } catch {
            if argument.first != UInt8(ascii: "/") { throw error }
            // The argument itself may be the link that leads to the source.
            for path in [canonical(argument), followed(argument)] {
                do throws(SafeBackupError) {
                    if let path, path != argument { return try resolve(path, sources) }
                } catch { continue }  // ignored because what the person typed is refused below, by its own name
            }
            throw error
        }
    }

    private static func followed(_ path: [UInt8]) -> [UInt8]? {
        guard let resolved = FilePath(bytes: path).withPlatformString({ realpath($0, nil) }) else { return nil }
        defer { free(resolved) }
        return FilePath(platformString: resolved).bytes
    }

    /// Without links in its directories; the last component is kept as it is, because a link is saved as a link.
    private static func canonical(_ argument: [UInt8]) -> [UInt8]? {
        var bytes = argument[...]
        while bytes.count > 1, bytes.last == UInt8(ascii: "/") { bytes = bytes.dropLast() }
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return nil }
        let leaf = bytes[(slash + 1)...]
        let isPlain = !leaf.isEmpty && !leaf.elementsEqual(Array(".".utf8)) && !leaf.elementsEqual(Array("..".utf8))
        let directory = isPlain ? Array(bytes[..<max(slash, bytes.startIndex + 1)]) : Array(bytes)
        guard let parent = followed(directory) else { return nil }
        if !isPlain { return parent }
        return parent == Array("/".utf8) ? parent + leaf : parent + Array("/".utf8) + leaf
    }
}
