import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch

/// A walk that is pulled from an I/O thread, one batch at a time; the lock is never contended.
final class SharedScanner: Sendable {
    private let scanner: Locked<Scanner>

    init(_ scanner: consuming sending Scanner) { self.scanner = Locked(scanner) }

    func next(on io: ThreadExecutor) async throws(SafeBackupError) -> [ListedDirectory]? {
        try await io.run { () throws(SafeBackupError) in
            try self.scanner.withLock { (scanner) throws(SafeBackupError) in try scanner.next(entryLimit: 4_096) }
        }
    }

    /// See `Scanner.letGo`.
    func letGo(on io: ThreadExecutor) async -> Bool {
        await io.run { self.scanner.withLock { (scanner) in scanner.letGo() } }
    }

    /// Throws what is wrong with the root.
    func goOn(in root: SourceRoot, on io: ThreadExecutor) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in
            let tree = try root.opened()
            self.scanner.withLock { (scanner) in scanner.goOn(in: tree) }
        }
    }
}

extension ListedEntry {
    /// Something that would be saved, as against what is listed only.
    var isSaved: Bool {
        if case .status = finding { return true }
        return false
    }
}
