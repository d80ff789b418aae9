package import SystemPackage

import Glibc

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
            var looks = 20
            // Whoever asks for the holder has a shared lock for a moment: that is no other agent.
            while try !Self.tryLock(descriptor) {
                looks -= 1
                if looks == 0 { throw Errno.wouldBlock }
                usleep(5_000)
            }
        } catch {
            guard error == .wouldBlock else { throw .failed(error) }
            throw .held(by: Self.writtenProcess(in: descriptor))
        }
        do throws(Errno) {
            try descriptor.setSize(0)
            try descriptor.writeAll(Array("\(getpid())\n".utf8))
        } catch {
            // A full disk must not keep the agent from starting: the lock is held, only the number is missing.
            if error != .noSpace && error != .diskQuotaExceeded { throw .failed(error) }
        }
    }

    /// Whether a process has the lock now, and which, if the file says so. Takes nothing.
    package static func holder(of path: FilePath) throws(Refusal) -> (isHeld: Bool, process: Int32?) {
        do throws(Errno) {
            let descriptor = try Descriptor.open(path, O_RDONLY | O_NOFOLLOW)
            // A shared lock is refused exactly while the exclusive one is held; it goes with the descriptor.
            do {
                try systemCall("flock") { flock(descriptor.raw, LOCK_SH | LOCK_NB) }
                return (false, nil)
            } catch {
                guard error == .wouldBlock || error == .resourceTemporarilyUnavailable else { throw error }
                return (true, writtenProcess(in: descriptor))
            }
        } catch {
            if error == .noSuchFileOrDirectory { return (false, nil) }
            throw .failed(error)
        }
    }

    private static func writtenProcess(in descriptor: Descriptor) -> Int32? {
        do throws(Errno) {
            let digits = try descriptor.readAll(limit: 4_096).prefix { $0 >= 0x30 && $0 <= 0x39 }
            return Int32(String(decoding: digits, as: UTF8.self))
        } catch {
            return nil  // ignored because the number is only for the message
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

    /// Lets go of a lock at once. Closing alone does not while a process that is just being started still has a copy
    /// of the descriptor.
    package static func unlock(_ descriptor: Descriptor) {
        flock(descriptor.raw, LOCK_UN)
    }
}
