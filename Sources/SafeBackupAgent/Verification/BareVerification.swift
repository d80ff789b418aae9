import Glibc
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
package import SystemPackage

/// Reads the copies of a backup that is there by itself, as on a new machine, and compares them with its catalogue copy.
/// Writes nothing: nothing is marked, and nothing saved again.
///
/// The catalogue copy may be older than the backup. So what is not where it says is looked for among the files that it does
/// not know, and what was replaced after it was written is told as not compared, not as damaged.
package struct BareVerification: Sendable {
    private let destination: FilePath
    private let paths: [[UInt8]]
    private let tell: @Sendable (String) -> Void

    private static let batch = 200
    /// For how many copies that are not where the catalogue says the backup is searched: they are kept in memory.
    private static let searchLimit = 20_000

    /// - Parameters:
    ///   - paths: as of `Verification`.
    ///   - tell: called for each damaged copy.
    package init(from destination: FilePath, paths: [[UInt8]], tell: @escaping @Sendable (String) -> Void) {
        self.destination = destination
        self.paths = paths
        self.tell = tell
    }

    /// Throws `invalidConfiguration` where there is no catalogue copy that can be used, and a holding error where there is
    /// no backup, or where its disk went away meanwhile.
    package func run() async throws(SafeBackupError) -> VerifyReport {
        try SHA256.requireAvailable()
        let io: ThreadExecutor
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.verify", isBackground: true)
        } catch {
            throw .noThread(error)
        }
        defer { io.stop() }
        return try await io.run { () throws(SafeBackupError) in
            var work = try Work(destination, tell)
            return try work.run(paths)
        }
    }

    /// A copy that has not its content where the catalogue says.
    private struct Suspect {
        var copy: CopyRecord
        var fault: CopyFault
    }

    /// What may be what is looked for.
    private struct Look: Hashable {
        var size: Int64
        var mtime: FileTime
    }

    /// In one thread.
    private struct Work {
        let destination: FilePath
        let tell: @Sendable (String) -> Void
        let root: ConfinedDirectory
        let file: CatalogueFileReader
        let selection: CatalogueSelection
        let copyReader: CopyReader
        /// The sentinel's, at the beginning.
        let identifier: String?
        var report = VerifyReport()
        var suspects: [Look: [Suspect]] = [:]
        /// Those that no file is known by.
        var others: [Suspect] = []
        var count = 0
        /// Where something else lies than the catalogue says.
        var replaced: Set<RelativePath> = []

        init(_ destination: FilePath, _ tell: @escaping @Sendable (String) -> Void) throws(SafeBackupError) {
            self.destination = destination
            self.tell = tell
            root = try CatalogueSelection.openBackup(destination)
            let (found, notes) = CatalogueSelection.checkedFile(beside: destination)
            guard let found else {
                throw SafeBackupError(
                    .invalidConfiguration,
                    ([
                        "\(printable(destination.bytes)) has no catalogue copy that can be used, and without one nobody knows "
                            + "what was saved; 'safebackup restore --from' gets the files as they lie there"
                    ] + notes)
                    .joined(separator: "\n"), disposition: .permanent)
            }
            file = found
            selection = try CatalogueSelection(found, destination)
            copyReader = CopyReader(root)
            // One that is damaged is as much a finding as a damaged copy.
            report.failures = notes
            report.catalogueFrom = found.header.exportedAt.iso8601
            (report.notKnown, report.notKnownNames) = (0, [])
            var identifier: String?
            do throws(SafeBackupError) {
                identifier = try LocalDestination.inspect(destination).sentinel?.id
                if identifier == nil {
                    report.failures.append(
                        "\(printable(destination.bytes)) has no .safebackup/destination.json any more; an agent does not save "
                            + "to it without ('safebackup accept' shows what can be done)")
                } else if identifier != found.header.sentinel {
                    report.failures.append(
                        "The catalogue copy is that of another destination than .safebackup/destination.json tells: what is "
                            + "told here may be wrong")
                }
            } catch {
                report.failures.append(error.message)
            }
            self.identifier = identifier
        }

        mutating func run(_ paths: [[UInt8]]) throws(SafeBackupError) -> VerifyReport {
            let began = ContinuousClock.now
            let scopes = try selection.scopes(of: paths)
            for scope in scopes { try read(scope) }
            for scope in scopes {
                switch scope {
                case .all: try walk(from: .root, counts: true)
                case .below(let location): try walk(from: location, counts: true)
                case .of: break  // what lies at the path itself is where the walk of what is below it begins
                }
            }
            // It may have been renamed to anywhere.
            if count > 0 && scopes != [.all] { try walk(from: .root, counts: false) }
            try judge()
            report.finish(hasPaths: !paths.isEmpty, since: began)
            return report
        }

        // MARK: What the catalogue knows

        private mutating func read(_ scope: CopyScope) throws(SafeBackupError) {
            var cursor: CopyCursor?
            repeat {
                let page = try file.copies(scope, after: cursor, limit: BareVerification.batch)
                for copy in page.copies { try read(copy) }
                cursor = page.next
            } while cursor != nil
        }

        private mutating func read(_ copy: CopyRecord) throws(SafeBackupError) {
            if copy.digest == nil {
                report.withoutDigest += 1
                return
            }
            switch try finding(copy) {
            case .sound: noteSound(copy)
            case .forbidden(let reason):
                report.note(unverified: "The stored copy \(copy.location) cannot be read: \(reason)")
            case .faulty(let fault):
                let suspect = Suspect(copy: copy, fault: fault)
                if fault.kind == .unreadable || count >= BareVerification.searchLimit { return try settle(suspect) }
                count += 1
                if fault.kind != .missing { replaced.insert(copy.location) }
                if copy.kind == .file, let mtime = copy.mtime {
                    suspects[Look(size: copy.size, mtime: mtime), default: []].append(suspect)
                } else {
                    others.append(suspect)
                }
            }
        }

        private mutating func noteSound(_ copy: CopyRecord) {
            report.copies += 1
            report.bytes += copy.size
            if copy.isDamaged { report.soundAgain += 1 }
        }

        private func finding(_ copy: CopyRecord) throws(SafeBackupError) -> CopyReader.Finding {
            do throws(Errno) {
                return try copyReader.read(copy)
            } catch {
                throw VerifiedDestination.failure(error, copy.location)
            }
        }

        // MARK: What it does not know

        /// At a backup's top, and no part of it; of ours only the versions are.
        private static let ownNames = [Layout.area.bytes, Array("lost+found".utf8)]

        /// - Parameter counts: what is not in the catalogue is told; else it is only looked for what is missed.
        private mutating func walk(from start: RelativePath, counts: Bool) throws(SafeBackupError) {
            let root = root
            if !start.isRoot {
                guard let kind = try attempt(start, { () throws(Errno) in try root.status(of: start).kind }) else {
                    return
                }
                if kind != .directory { return try meet(start, counts) }
            }
            var waiting = start.isRoot ? [Layout.versions, .root] : [start]
            while let path = waiting.popLast() {
                guard let directory = try attempt(path, { () throws(Errno) in try root.openDirectory(path) }) else {
                    continue
                }
                while let entries = try attempt(path, { () throws(Errno) in try Self.entries(directory) }) ?? nil {
                    for (leaf, kind) in entries where !(path.isRoot && Self.ownNames.contains(leaf)) {
                        let place = path.appending(leaf)
                        if kind == .directory { waiting.append(place) } else { try meet(place, counts) }
                    }
                }
            }
        }

        /// The next some hundred; `nil` at the end.
        private static func entries(_ directory: Descriptor) throws(Errno) -> [(leaf: [UInt8], kind: EntryKind)]? {
            var found: [(leaf: [UInt8], kind: EntryKind?)] = []
            guard try directory.readEntries({ leaf, kind, _ in found.append((leaf, kind)) }) else { return nil }
            var entries: [(leaf: [UInt8], kind: EntryKind)] = []
            for (leaf, kind) in found {
                if let kind {
                    entries.append((leaf, kind))
                    continue
                }
                do throws(Errno) {
                    entries.append((leaf, try directory.status(of: leaf).kind))
                } catch {
                    if error != .noSuchFileOrDirectory { throw error }
                }
            }
            return entries
        }

        /// `nil`: it is not there any more, or may not be read, which is noted.
        private mutating func attempt<Result>(
            _ path: RelativePath, _ body: () throws(Errno) -> Result
        ) throws(SafeBackupError) -> Result? {
            do throws(Errno) {
                return try body()
            } catch {
                switch error {
                case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return nil
                case .permissionDenied, .notPermitted:
                    report.note(unverified: "\(path) may not be read: \(error.explanation)")
                    return nil
                default: throw VerifiedDestination.failure(error, path)
                }
            }
        }

        /// A file, a link or something else that is no directory.
        private mutating func meet(_ place: RelativePath, _ counts: Bool) throws(SafeBackupError) {
            let isKnown = try file.hasCopy(at: place)
            // What took a copy's place may be another copy.
            if isKnown && !replaced.contains(place) { return }
            if try isFound(at: place) || isKnown || !counts { return }
            report.note(notKnown: place)
        }

        /// Whether it is one that is looked for.
        private mutating func isFound(at place: RelativePath) throws(SafeBackupError) -> Bool {
            if suspects.isEmpty { return false }
            let root = root
            guard let status = try attempt(place, { () throws(Errno) in try root.status(of: place) }),
                status.kind == .file
            else { return false }
            let look = Look(size: status.size, mtime: status.fingerprint.mtime)
            for (index, suspect) in (suspects[look] ?? []).enumerated() {
                var copy = suspect.copy
                copy.location = place
                guard case .sound = try finding(copy) else { continue }
                noteSound(suspect.copy)
                suspects[look]?.remove(at: index)
                if suspects[look]?.isEmpty == true { suspects[look] = nil }
                return true
            }
            return false
        }

        // MARK: Telling

        /// What was found nowhere.
        private mutating func judge() throws(SafeBackupError) {
            let rest = (suspects.values.joined() + others).sorted { $0.copy.location < $1.copy.location }
            for suspect in rest { try settle(suspect) }
        }

        private mutating func settle(_ suspect: Suspect) throws(SafeBackupError) {
            try checkPlace()
            var (copy, fault) = (suspect.copy, suspect.fault)
            let root = root
            if fault.kind == .content || fault.kind == .kind {
                let status = try attempt(copy.location) { () throws(Errno) in try root.status(of: copy.location) }
                if status == nil { fault.kind = .missing }
                if let status, isNewer(status, than: copy) {
                    return report.note(
                        unverified: VerifyReport.replaced(copy.location))
                }
            }
            tell(try report.add(copy, fault.kind, by: file, of: destination.bytes))
        }

        /// It came there after the catalogue was written, and does not even look like the copy.
        private func isNewer(_ status: FileStatus, than copy: CopyRecord) -> Bool {
            if status.fingerprint.ctime.nanoseconds / 1_000 <= file.header.exportedAt.microseconds { return false }
            return status.kind != copy.kind || status.size != copy.size || status.fingerprint.mtime != copy.mtime
        }

        /// Of a disk that went away nothing is missing.
        private func checkPlace() throws(SafeBackupError) {
            guard let identifier else { return }
            let found: String?
            do throws(SafeBackupError) {
                found = try LocalDestination.inspect(destination).sentinel?.id
            } catch {
                if error.code != .sentinelForeign { throw error }
                found = nil
            }
            if found == identifier { return }
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(destination.bytes)) is not the backup any more that it was when this began; mount its disk",
                disposition: .destinationUnavailable)
        }
    }
}
