import Glibc
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Finds the source or the destination that a person names by its path.
enum NamedSide {
    /// A held one first, where a path is both: that of one pair's destination may be another's source.
    /// - Throws: `invalidConfiguration` when there is none.
    static func find(_ name: [UInt8], in status: StateStatus) throws(SafeBackupError) -> PairSide {
        let sides =
            status.sources.map { ($0.record.path, PairSide.source($0.record.id), $0.record.hold != nil) }
            + status.destinations.map {
                ($0.record.location, PairSide.destination($0.record.id), $0.record.hold != nil)
            }
        for spelling in spellings(of: name) {
            let found = sides.filter { $0.0 == spelling }
            if let side = found.first(where: \.2) ?? found.first { return side.1 }
        }
        throw unknown(name)
    }

    /// The path by which the state knows it, whatever directory or link a person named it from.
    /// - Throws: `invalidConfiguration` when there is none.
    static func path(_ name: [UInt8], in status: StateStatus) throws(SafeBackupError) -> [UInt8] {
        let found: [UInt8]? =
            switch try find(name, in: status) {
            case .source(let id): status.sources.first { $0.record.id == id }?.record.path
            case .destination(let id): status.destinations.first { $0.record.id == id }?.record.location
            }
        guard let found else { throw unknown(name) }
        return found
    }

    static func unknown(_ name: [UInt8]) -> SafeBackupError {
        SafeBackupError(
            .invalidConfiguration,
            "\(name.isEmpty ? "An empty name" : printable(name)) is no source and no destination of this state; 'safebackup status' lists them",
            disposition: .permanent)
    }

    /// As it is written, as an absolute path, and without links: what is away cannot be asked for its links.
    private static func spellings(of name: [UInt8]) -> [[UInt8]] {
        if name.isEmpty { return [] }
        var path = FilePath(bytes: name)
        if path.isRelative, let current = getcwd(nil, 0) {
            defer { free(current) }
            path = FilePath(platformString: current).pushing(path)
        }
        var spellings = [name, path.lexicallyNormalized().bytes]
        do throws(Errno) {
            spellings.append(try Preflight.realPath(path).bytes)
        } catch {
            // Ignored because what is not there, or does not answer, is known by the others.
        }
        return spellings
    }
}
