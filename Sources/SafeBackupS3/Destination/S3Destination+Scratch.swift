import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// Files of this machine that objects go through.
extension S3Destination {
    func scratchFailure(_ error: Errno) -> SafeBackupError {
        SafeBackupError(
            .exhausted,
            "A temporary file cannot be used in \(settings.scratch): \(error.explanation); free space there, and let the "
                + "agent's user write there",
            disposition: .transient, systemError: error.rawValue)
    }

    /// The directory; made if it is missing and its parent is there.
    func scratchDirectory() throws(SafeBackupError) -> Descriptor {
        let path = settings.scratch
        do throws(Errno) {
            do throws(Errno) {
                return try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            } catch {
                guard error == .noSuchFileOrDirectory, let leaf = path.lastComponent else { throw error }
                let parent = path.removingLastComponent()
                let above = try Descriptor.open(parent.isEmpty ? "." : parent, O_RDONLY | O_DIRECTORY)
                do throws(Errno) {
                    try above.makeDirectory(Array(leaf.description.utf8))
                } catch {
                    // Another thread came first.
                    if error != .fileExists { throw error }
                }
                return try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            }
        } catch {
            throw scratchFailure(error)
        }
    }

    /// One that is not there is no error.
    func removeScratch(_ leaf: [UInt8]) throws(SafeBackupError) {
        let scratch = try scratchDirectory()
        do {
            try scratch.remove(leaf)
        } catch {
            if error != .noSuchFileOrDirectory { throw scratchFailure(error) }
        }
    }

    /// Removes what an earlier process left.
    func emptyScratch() async {
        await io.run {
            do throws(SafeBackupError) {
                let scratch = try self.scratchDirectory()
                var names: [[UInt8]] = []
                do throws(Errno) {
                    try scratch.forEachEntry { name, _ in
                        if name.starts(with: Array("catalogue-".utf8)) || name.starts(with: Array("object-".utf8)) {
                            names.append(name)
                        }
                    }
                } catch {
                    throw self.scratchFailure(error)
                }
                for name in names { try self.removeScratch(name) }
            } catch {
                // Ignored because it is removed before its name is used again, or has none that is used again.
            }
        }
    }

    /// An empty file without a name: it is gone with its last reader, also after a crash.
    func temporaryFile() async throws(SafeBackupError) -> Descriptor {
        try await io.run { () throws(SafeBackupError) in
            let scratch = try self.scratchDirectory()
            do throws(Errno) {
                let leaf = Array("object-\(UInt64.random(in: .min ... .max))".utf8)
                let file = try scratch.open(leaf, O_RDWR | O_CREAT | O_EXCL)
                try scratch.remove(leaf)
                return file
            } catch {
                throw self.scratchFailure(error)
            }
        }
    }
}
