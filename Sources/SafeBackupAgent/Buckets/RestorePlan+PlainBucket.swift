import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage

/// What lies in a bucket where no catalogue copy tells of it.
extension RestorePlan {
    private static let linkLimit = 64 << 10

    /// Everything outside of `.safebackup`, with what the objects' own metadata tell. Digests are compared where those have
    /// one.
    /// - Parameter reason: why there is no catalogue; thrown where there are no objects either.
    func restorePlain(_ bucket: BucketBackup, without reason: SafeBackupError) throws(SafeBackupError) -> Result {
        if time != nil {
            throw SafeBackupError(
                .invalidConfiguration,
                reason.message + "\nWithout a catalogue copy nobody knows what was there at which time; without --at "
                    + "everything comes back as it lies there", disposition: .permanent)
        }
        let backup = try CatalogueSelection.openBackup(bucket.nothing)
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        var isAny = false
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            for (_, path) in try SourcePath.resolveArgument(argument, [((), Array("/".utf8))]) {
                let count = try restorePlain(path, of: bucket, with: &restorer)
                if count > 0 { isAny = true } else { restorer.note(path, "nothing in the bucket is called so") }
            }
        }
        if !isAny { throw reason }
        return Result(
            report: restorer.finish(),
            notes: [
                "\(reason.message)",
                "Objects come back as they lie in the bucket, also those that were deleted at the source; what was sent in "
                    + "parts, or is not safebackup's, is compared with no digest",
            ])
    }

    /// - Returns: how many entries were found.
    private func restorePlain(
        _ start: RelativePath, of bucket: BucketBackup, with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        if KeySpace.isReserved(start) { return 0 }
        var count = 0
        if !start.isRoot {
            count += try restore(
                [StoredObject(location: start, size: 0, isDirectory: false)], of: bucket, with: &restorer)
        }
        var next: String?
        repeat {
            let page = try bucket.objects(below: start, after: next)
            let objects = page.objects.filter { !KeySpace.isReserved($0.location) }
            for part in BucketBackup.portions(of: objects, size: \.size) {
                count += try restore(part, of: bucket, with: &restorer)
            }
            next = page.next
        } while next != nil
        return count
    }

    private func restore(
        _ objects: [StoredObject], of bucket: BucketBackup, with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        for directory in objects where directory.isDirectory {
            let own = try bucket.directory(at: directory.location)
            var entry = RestoreEntry(path: directory.location, kind: .directory, location: nil)
            if let own, own.lease != nil { (entry.mtime, entry.metadata) = (own.mtime, own.metadata) }
            restorer.restore(entry)
        }
        let files = objects.filter { !$0.isDirectory }.map(\.location)
        var count = objects.count - files.count
        for (path, reading) in zip(files, try bucket.contents(of: files)) {
            if case .missing = reading { continue }
            count += 1
            switch reading {
            case .missing: break
            case .damaged: restorer.note(path, "it came twice with other bytes than its checksum tells")
            case .refused(let error): restorer.note(path, error.message)
            case .content(let file, let size, let own, _):
                restorer.fetch = { _ in file }
                var entry = RestoreEntry(
                    path: path, kind: own.kind, location: path, digest: own.digest, mtime: own.mtime)
                // Others' objects get the mode and the owner that new files get.
                if own.lease != nil { entry.metadata = own.metadata }
                if own.kind == .symlink {
                    do throws(Errno) {
                        entry.linkTarget = try Self.text(of: file, size: size)
                    } catch {
                        restorer.note(path, "what was downloaded cannot be read back: \(error.explanation)")
                        continue
                    }
                }
                restorer.restore(entry)
            }
        }
        restorer.fetch = nil
        return count
    }

    private static func text(of file: Descriptor, size: Int64) throws(Errno) -> [UInt8] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: linkLimit, alignment: 1)
        defer { buffer.deallocate() }
        let wanted = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(size, Int64(linkLimit)))])
        return Array(wanted[..<(try file.read(into: wanted, at: 0))])
    }
}
