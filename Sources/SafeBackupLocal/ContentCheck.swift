import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Reads what lies in the destination where only the content tells whose it is. Not shared between threads; blocks for
/// as long as the file is large.
final class ContentCheck {
    private let isInterrupted: @Sendable () -> Bool
    /// Made when it is first needed, which is rarely: it has a large buffer.
    private lazy var copier = FileCopier(isInterrupted: isInterrupted)

    init(isInterrupted: @escaping @Sendable () -> Bool = { false }) { self.isInterrupted = isInterrupted }

    /// The digest of a file or a link, if it is what was found there before and stays it while it is read; `nil` also
    /// for what cannot be read. Throws `canceled` when the agent stops.
    func digest(of leaf: [UInt8], in parent: Descriptor, _ found: FinalState) throws(Errno) -> Digest? {
        guard case .present(let kind, _, let size, _) = found else { return nil }
        do {
            switch kind {
            case .file:
                let file = try parent.openForReading(leaf)
                guard FinalState(try file.status()) == found else { return nil }
                let digest = try copier.digest(of: file, size: size).digest
                return FinalState(try file.status()) == found ? digest : nil
            case .symlink:
                let digest = copier.digest(of: try parent.linkTarget(of: leaf))
                return FinalState(try parent.status(of: leaf)) == found ? digest : nil
            default: return nil
            }
        } catch {
            if error == .canceled { throw error }
            return nil
        }
    }
}
