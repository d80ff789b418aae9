package import SystemPackage

package import Glibc

/// Replaces small files so that a reader, or a crash at any moment, sees the old content or the new, never a part.
package enum AtomicFile {
    /// Writes `content` beside `leaf`, flushes it, renames it over `leaf` and flushes the directory. When this
    /// returns, the new content survives a power cut; when it throws, `leaf` is as it was.
    package static func write(
        _ content: [UInt8], to leaf: [UInt8], in directory: Descriptor, mode: mode_t = 0o600
    ) throws(Errno) {
        try stage(
            content, for: leaf, in: directory, mode, finish: { _ throws(Errno) in },
            publish: { stage throws(Errno) in try directory.rename(stage, to: directory, leaf) })
    }

    /// Writes `content` to `leaf`, which must not be there yet: `EEXIST`, and nothing is changed. When this returns, the
    /// file survives a power cut; after a crash the whole file is there, or none.
    package static func create(
        _ content: [UInt8], at leaf: [UInt8], in directory: Descriptor, mode: mode_t = 0o600
    ) throws(Errno) {
        try stage(
            content, for: leaf, in: directory, mode,
            // Whatever the umask leaves of it.
            finish: { file throws(Errno) in try file.setMode(UInt32(mode)) },
            publish: { stage throws(Errno) in
                Faults.reach("creating")
                // A link refuses a name that is taken, on every file system that has links.
                do throws(Errno) {
                    try directory.renameWithoutReplacing(stage, to: directory, leaf)
                } catch {
                    guard error == .invalidArgument || error == .noFunction else { throw error }
                    try directory.link(stage, to: directory, leaf)
                    try directory.remove(stage)
                }
            })
    }

    /// Writes, finishes and flushes the content under a name of its own, has it published, and flushes the directory.
    private static func stage(
        _ content: [UInt8], for leaf: [UInt8], in directory: Descriptor, _ mode: mode_t,
        finish: (Descriptor) throws(Errno) -> Void, publish: ([UInt8]) throws(Errno) -> Void
    ) throws(Errno) {
        let stage = Array(".".utf8) + leaf + Array(".new".utf8)
        do {
            try directory.remove(stage)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
        let file = try directory.open(stage, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
        do throws(Errno) {
            try file.writeAll(content)
            try finish(file)
            try file.sync()
            try publish(stage)
        } catch {
            discard(stage, in: directory)
            throw error
        }
        try directory.sync()
    }

    private static func discard(_ stage: [UInt8], in directory: Descriptor) {
        do {
            try directory.remove(stage)
        } catch {
            // Ignored because the first error is the one that matters, and the next write removes the stage.
        }
    }
}

extension Descriptor {
    /// Writes `content` from offset 0 on.
    package func writeAll(_ content: [UInt8]) throws(Errno) {
        var failure: Errno?
        content.withUnsafeBytes { bytes in
            do throws(Errno) { try write(bytes, at: 0) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
