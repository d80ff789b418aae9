import Glibc
package import SafeBackupCore
package import SafeBackupState
import SafeBackupSystem
package import SystemPackage

/// Brings one stored file back, into a temporary directory that is removed again, and compares it. Blocks.
package struct RestoreTrial {
    package struct Result: Sendable {
        /// Relative to its source.
        package var path: RelativePath
        package var size: Int64
        /// It was also compared with what the source has now.
        package var isComparedWithSource: Bool
        /// What is not as it was saved; empty if all is well.
        package var differences: [String]
    }

    private let reader: StateReader
    private let destination: DestinationRecord
    /// Larger files are tried only where no smaller one is.
    private static let sizeLimit: Int64 = 64 << 20
    /// One that is larger still is not brought back for a trial: it could fill the temporary directory, which is often memory.
    private static let largestSize: Int64 = 1 << 30
    /// So many copies are looked at for one that is current.
    private static let lookLimit = 20_000

    /// - Throws: `stateFailed`, or a holding error if the destination is not there.
    package init(_ reader: StateReader, _ destination: DestinationRecord) {
        self.reader = reader
        self.destination = destination
    }

    /// See `run`, for the destination at a path, by the state in a directory; `nil` also if the state does not know it.
    package static func run(
        in directory: StateDirectory, at path: FilePath, comparesSource: Bool
    ) throws(SafeBackupError) -> Result? {
        let reader = try StateReader(in: directory.path)
        guard let record = try reader.destinations().first(where: { $0.location == path.bytes }) else { return nil }
        return try RestoreTrial(reader, record).run(comparesSource: comparesSource)
    }

    /// A live name with a copy.
    private struct Candidate {
        var source: SourceRecord
        var entry: CatalogueEntry
        var copy: CopyRecord
    }

    /// Of a file chosen at random; `nil` if no file is stored, or only such as are too large for a trial.
    /// - Parameter comparesSource: the file is also compared with the source's, unless that has changed since.
    package func run(comparesSource: Bool) throws(SafeBackupError) -> Result? {
        let root = try VerifiedDestination.open(destination, for: "doctor")
        var differing: Result?
        // A running agent may replace what was chosen before it is read.
        for _ in 0..<4 {
            guard let candidate = try choose() else { return differing }
            let result = try restore(candidate, root, comparesSource: comparesSource)
            if result.differences.isEmpty { return result }
            if try reader.copy(candidate.copy.id) == candidate.copy { return result }
            differing = result
        }
        return differing
    }

    // MARK: Choosing

    private func choose() throws(SafeBackupError) -> Candidate? {
        var generator = SystemRandomNumberGenerator()
        let last = try reader.newestNumber()
        var start = Int64.random(in: 0...max(0, last), using: &generator)
        var large: CopyRecord?
        var (hasWrapped, looked) = (start == 0, 0)
        while true {
            let page = try reader.copies(destination.id, .all, after: .after(start), limit: 200)
            for copy in page.copies.shuffled(using: &generator)
            where copy.kind == .file && copy.digest != nil && !copy.isDamaged && !copy.isFuzzy {
                if copy.size > Self.sizeLimit {
                    if copy.size <= Self.largestSize, copy.size < large?.size ?? .max { large = copy }
                    continue
                }
                if let candidate = try candidate(copy) { return candidate }
            }
            looked += page.copies.count
            if let last = page.copies.last?.id, page.next != nil, looked < Self.lookLimit {
                start = last
            } else if hasWrapped || looked >= Self.lookLimit {
                return try large.flatMap { (copy) throws(SafeBackupError) in try candidate(copy) }
            } else {
                (start, hasWrapped) = (0, true)
            }
        }
    }

    private func candidate(_ copy: CopyRecord) throws(SafeBackupError) -> Candidate? {
        guard let path = try reader.path(ofCopy: copy.id) else { return nil }
        for source in try reader.sources() {
            let page = try reader.names(
                source.id, destination.id, within: path, .live, depth: .children, after: nil, limit: 1)
            if let entry = page.entries.first(where: { $0.path == path && $0.copy?.id == copy.id }) {
                return Candidate(source: source, entry: entry, copy: copy)
            }
        }
        return nil
    }

    // MARK: Restoring

    private func restore(
        _ candidate: Candidate, _ backup: ConfinedDirectory, comparesSource: Bool
    ) throws(SafeBackupError) -> Result {
        let (entry, copy) = (candidate.entry, candidate.copy)
        let name = RelativePath(unchecked: entry.path.leaf)
        let directory = try TemporaryPlace()
        defer { directory.remove(name) }
        let target = try directory.opened()
        try directory.requireRoom(copy.size, in: target)
        var restorer = Restorer(backup: backup, target: target, overwrites: false)
        restorer.restore(
            RestoreEntry(
                path: name, kind: .file, location: copy.location, digest: copy.digest,
                mtime: entry.name.fingerprint.mtime, metadata: entry.name.metadata))
        var differences = restorer.finish().problems.map(\.reason)
        Faults.reach("restoring")
        var isCompared = false
        do throws(Errno) {
            if differences.isEmpty {
                let found = try target.status(of: name)
                differences = Self.differences(found, from: entry.name)
                if comparesSource {
                    isCompared = try compare(candidate, with: target.open(name, O_RDONLY), &differences)
                }
            }
        } catch {
            differences.append("it cannot be compared: \(error.explanation)")
        }
        return Result(
            path: entry.path, size: copy.size, isComparedWithSource: isCompared, differences: differences)
    }

    private static func differences(_ found: FileStatus, from name: NameRecord) -> [String] {
        var differences: [String] = []
        if found.size != name.fingerprint.size { differences.append("its size is \(found.size)") }
        if found.fingerprint.mtime != name.fingerprint.mtime { differences.append("its time is another") }
        let isOwner = found.uid == name.metadata.uid && found.gid == name.metadata.gid
        // Only root may give files away, and setuid bits do not follow to another owner.
        if geteuid() == 0 && !isOwner { differences.append("its owner is another") }
        if found.mode & 0o777 != name.metadata.mode & 0o777 { differences.append("its mode is another") }
        return differences
    }

    /// `false`: the source has changed since, so that nothing can be said.
    private func compare(
        _ candidate: Candidate, with restored: Descriptor, _ differences: inout [String]
    ) throws(Errno) -> Bool {
        let source: Descriptor
        do throws(Errno) {
            let tree = try ConfinedDirectory(opening: FilePath(bytes: candidate.source.path))
            source = try tree.openDirectory(candidate.entry.path.parent).openForReading(candidate.entry.path.leaf)
            let now = try source.status().fingerprint
            guard now.size == candidate.entry.name.fingerprint.size,
                now.mtime == candidate.entry.name.fingerprint.mtime
            else { return false }
        } catch {
            return false  // gone, or not for this user: it was compared with its digest
        }
        if try !Self.isSame(source, restored) { differences.append("its content is not that of the source") }
        return true
    }

    private static func isSame(_ left: Descriptor, _ right: Descriptor) throws(Errno) -> Bool {
        let size = 128 << 10
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * size, alignment: 4_096)
        defer { buffer.deallocate() }
        let first = UnsafeMutableRawBufferPointer(rebasing: buffer[..<size])
        let second = UnsafeMutableRawBufferPointer(rebasing: buffer[size...])
        var offset: Int64 = 0
        while true {
            let count = try fill(first, from: left, at: offset)
            guard try fill(second, from: right, at: offset) == count, first[..<count].elementsEqual(second[..<count])
            else { return false }
            if count < size { return true }
            offset += Int64(count)
        }
    }

    private static func fill(
        _ buffer: UnsafeMutableRawBufferPointer, from file: Descriptor, at offset: Int64
    ) throws(Errno) -> Int {
        var done = 0
        while done < buffer.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            let count = try file.read(into: rest, at: offset + Int64(done))
            if count == 0 { break }
            done += count
        }
        return done
    }
}

/// A directory of our own for a file that comes back for a moment.
private struct TemporaryPlace {
    private let path: FilePath

    init() throws(SafeBackupError) {
        var base = "/tmp"
        if let pointer = getenv("TMPDIR"), pointer.pointee == UInt8(ascii: "/") { base = String(cString: pointer) }
        var template = Array("\(base)/safebackup-restore.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            let error = Errno(rawValue: errno)
            throw SafeBackupError(
                .stateFailed, "No temporary directory can be made in \(base) (TMPDIR): \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
        path = FilePath(platformString: template)
    }

    func opened() throws(SafeBackupError) -> ConfinedDirectory {
        do throws(Errno) {
            return try ConfinedDirectory(opening: path)
        } catch {
            throw SafeBackupError(
                .stateFailed, "The temporary directory \(printable(path.bytes)) cannot be opened: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
    }

    /// Throws `destinationFull` where the file would take more than half of what is free: others need the place too.
    func requireRoom(_ size: Int64, in directory: ConfinedDirectory) throws(SafeBackupError) {
        do throws(Errno) {
            if size <= (try VolumeStatistics(directory.root)).available.bytes / 2 { return }
        } catch {
            return  // ignored because the restore tells what is wrong there
        }
        throw SafeBackupError(
            .destinationFull,
            "The temporary directory \(printable(path.removingLastComponent().bytes)) has no room for a file of "
                + "\(ByteCount(size)) that is to be restored for a trial; name another directory with TMPDIR",
            disposition: .transient)
    }

    /// With the file in it.
    func remove(_ name: RelativePath) {
        do throws(Errno) {
            let parent = try Descriptor.open(path.removingLastComponent(), O_RDONLY | O_DIRECTORY)
            let leaf = path.leafBytes
            do throws(Errno) {
                try parent.open(leaf, O_RDONLY | O_DIRECTORY).remove(name.leaf)
            } catch {
                if error != .noSuchFileOrDirectory { throw error }
            }
            try parent.remove(leaf, isDirectory: true)
        } catch {
            // Ignored because what stays in the temporary directory is the system's to remove.
        }
    }
}
