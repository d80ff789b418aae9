import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A thread for work that blocks, until it is let go.
final class OneThread: Sendable {
    private let executor: ThreadExecutor

    init(_ name: String) throws(SafeBackupError) {
        do throws(Errno) {
            executor = try ThreadExecutor(name: name, count: 1)
        } catch {
            throw .noThread(error)
        }
    }

    deinit { executor.stop() }

    func run<R: Sendable>(_ body: @escaping @Sendable () throws(SafeBackupError) -> R) async throws(SafeBackupError)
        -> R
    {
        try await executor.run(body)
    }
}
