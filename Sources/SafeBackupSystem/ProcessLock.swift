package import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// An advisory lock on a file, held until the object goes or the process ends, in whatever way.
/// The corresponding C function is `flock`.
package final class ProcessLock: Sendable {
    /// Why a lock was not taken.
    package enum Refusal: Error {
        /// Another process has it; its number, if the file says so.
        case held(by: Int32?)
        case failed(Errno)
    }

    private let descriptor: Descriptor

    /// Locks the file at `path`, made if it is missing, and writes our process number into it.
    package init(at path: FilePath) throws(Refusal) {
        do throws(Errno) {
            descriptor = try Descriptor.open(path, O_RDWR | O_CREAT | O_NOFOLLOW)
        } catch {
            throw .failed(error)
        }
        do throws(Errno) {
            try systemCall("flock") { flock(descriptor.raw, LOCK_EX | LOCK_NB) }
        } catch {
            guard error == .wouldBlock || error == .resourceTemporarilyUnavailable else { throw .failed(error) }
            var text = ""
            if let bytes = try? descriptor.readAll(limit: 64) {  // ignored because the number is only for the message
                text = String(decoding: bytes.prefix { $0 >= 0x30 && $0 <= 0x39 }, as: UTF8.self)
            }
            throw .held(by: Int32(text))
        }
        do throws(Errno) {
            try descriptor.setSize(0)
            try descriptor.writeAll(Array("\(getpid())\n".utf8))
        } catch {
            // A full disk must not keep the agent from starting: the lock is held, only the number is missing.
            if error != .noSpace && error != .diskQuotaExceeded { throw .failed(error) }
        }
    }

    /// Locks an open directory or file against a second holder; `false` if another process has it.
    package static func tryLock(_ descriptor: Descriptor) throws(Errno) -> Bool {
        do {
            try systemCall("flock") { flock(descriptor.raw, LOCK_EX | LOCK_NB) }
            return true
        } catch {
            if error == .wouldBlock || error == .resourceTemporarilyUnavailable { return false }
            throw error
        }
    }
}
