import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// A backup and what tells of its content: the state's own catalogue, or the copy beside the backups.
struct CatalogueSelection {
    /// A source at the destination.
    struct Choice: Sendable {
        var source: SourceID
        var destination: DestinationID
        /// The source's, absolute.
        var path: [UInt8]
        var root: FilePath
        /// Of a bucket: its URL.
        var location: [UInt8]
        var sentinel: String?
        var isActive: Bool
        /// What its copies lie under.
        var prefix: RelativePath
    }

    let reader: any CatalogueReading
    /// All of one destination.
    let choices: [Choice]
    /// The destination's root.
    let root: FilePath
    /// Of the catalogue copy, which may be older than the backup; `nil` for the state's own.
    let exportedAt: Timestamp?

    /// As the state knows the destination: `root`, or a bucket.
    var location: [UInt8] { choices.first?.location ?? root.bytes }

    private init(_ reader: any CatalogueReading, _ choices: [Choice], root: FilePath, exportedAt: Timestamp?) {
        self.reader = reader
        self.choices = choices
        self.root = root
        self.exportedAt = exportedAt
    }

    /// By the local state: one for each destination, those that lack the least first.
    /// - Throws: `stateFailed` if it has saved nothing, `invalidPath` for a path that no source holds.
    static func known(to directory: StateDirectory, paths: [[UInt8]]) throws(SafeBackupError) -> [CatalogueSelection] {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let status = try reader.status()
        var chosen: [Choice] = []
        for pair in status.pairs {
            guard let source = status.sources.first(where: { $0.record.id == pair.record.source })?.record,
                let destination = status.destinations.first(where: { $0.record.id == pair.record.destination })?.record
            else { continue }
            chosen.append(
                Choice(
                    source: source.id, destination: destination.id, path: source.path,
                    root: FilePath(bytes: destination.location), location: destination.location,
                    sentinel: destination.sentinel,
                    isActive: pair.record.isActive, prefix: pair.record.prefix))
        }
        // A path that was named in full tells its source; else it is one of those that the agent ran with last.
        let isNamed = !paths.isEmpty && paths.allSatisfy { $0.first == UInt8(ascii: "/") }
        if isNamed {
            var wanted: Set<SourceID> = []
            for path in paths {
                wanted.formUnion(
                    try SourcePath.resolveArgument(path, chosen.map { ($0.source, $0.path) }).map(\.source))
            }
            chosen.removeAll { !wanted.contains($0.source) }
            if chosen.contains(where: \.isActive) { chosen.removeAll { !$0.isActive } }
        } else if chosen.contains(where: \.isActive) {
            chosen.removeAll { !$0.isActive }
        }
        var selections: [CatalogueSelection] = []
        for choice in Self.bestFirst(chosen, in: status)
        where !selections.contains(where: { $0.choices[0].destination == choice.destination }) {
            selections.append(
                CatalogueSelection(
                    reader, chosen.filter { $0.destination == choice.destination }, root: choice.root, exportedAt: nil))
        }
        if !selections.isEmpty { return selections }
        throw SafeBackupError(
            .stateFailed, "This state has saved nothing yet; name the backup with --from DESTINATION",
            disposition: .permanent)
    }

    /// Destinations that lack the least first.
    private static func bestFirst(_ choices: [Choice], in status: StateStatus) -> [Choice] {
        func lack(_ choice: Choice) -> (Int, Int) {
            let destination = status.destinations.first { $0.record.id == choice.destination }
            guard let destination else { return (1, .max) }
            let counts = destination.counts
            return (destination.record.hold == nil ? 0 : 1, counts.pending + counts.leased + counts.stuck)
        }
        return choices.enumerated().sorted { left, right in
            let (first, second) = (lack(left.element), lack(right.element))
            return first == second ? left.offset < right.offset : first < second
        }.map(\.element)
    }

    /// The first whose backup is there.
    /// - Throws: what is wrong with the first of them, if none is.
    static func firstThatIsThere(
        _ selections: [CatalogueSelection],
        bucket: ((CatalogueSelection) throws(SafeBackupError) -> ConfinedDirectory?)? = nil
    ) throws(SafeBackupError) -> (selection: CatalogueSelection, backup: ConfinedDirectory) {
        var failure: SafeBackupError?
        for selection in selections {
            do throws(SafeBackupError) {
                if let backup = try bucket?(selection) { return (selection, backup) }
                return (selection, try selection.openBackup())
            } catch {
                failure = failure ?? error
            }
        }
        throw failure
            ?? SafeBackupError(.stateFailed, "This state has saved nothing yet", disposition: .permanent)
    }

    /// Where the catalogue copies of a destination are.
    private static func catalogues(_ destination: FilePath) -> [FilePath] {
        let catalogue = destination.appending(".safebackup").appending("catalogue")
        return [catalogue.appending("a.db"), catalogue.appending("b.db")]
    }

    /// The newest catalogue copy in the destination that is whole to its last row; `nil` if there is none. Also why others
    /// are not used.
    static func checkedFile(beside destination: FilePath) -> (file: CatalogueFileReader?, notes: [String]) {
        checkedFile(of: catalogues(destination))
    }

    /// The newest of these that is whole to its last row.
    static func checkedFile(of catalogues: [FilePath]) -> (file: CatalogueFileReader?, notes: [String]) {
        var waiting = catalogues
        var notes: [String] = []
        while !waiting.isEmpty {
            let (newest, refused) = CatalogueFile.newestFinished(of: waiting)
            notes += refused.map(note(refused:))
            guard let newest else { break }
            do throws(SafeBackupError) {
                try newest.check()
                return (newest, notes)
            } catch {
                notes.append(note(refused: (newest.path, error)))
            }
            waiting.removeAll { path in path == newest.path || refused.contains { $0.path == path } }
        }
        return (nil, notes)
    }

    private static func note(refused: (path: FilePath, error: SafeBackupError)) -> String {
        "A catalogue copy is not used: \(refused.error.message)"
    }

    /// By the newest whole catalogue copy in the destination; `nil` if there is none. Also why others are not used.
    static func beside(
        _ destination: FilePath
    ) throws(SafeBackupError) -> (selection: CatalogueSelection?, notes: [String]) {
        let (newest, refused) = CatalogueFile.newestFinished(of: catalogues(destination))
        let notes = refused.map(note(refused:))
        guard let newest else { return (nil, notes) }
        return (try CatalogueSelection(newest, destination), notes)
    }

    /// By a catalogue copy in the destination.
    init(_ newest: CatalogueFileReader, _ destination: FilePath) throws(SafeBackupError) {
        let choices = try newest.catalogueSources().map { source in
            Choice(
                source: source.id, destination: CatalogueFileReader.destination, path: source.path, root: destination,
                location: destination.bytes, sentinel: nil, isActive: true, prefix: source.prefix ?? .root)
        }
        self.init(newest, choices, root: destination, exportedAt: newest.header.exportedAt)
    }

    /// By the newest catalogue copy of a bucket, and what a person must know of it.
    /// - Throws: `destinationMissing` where there is none that can be used; what keeps the bucket from being read.
    static func inBucket(
        _ bucket: BucketBackup, zone: LocalZone
    ) throws(SafeBackupError) -> (selection: CatalogueSelection, notes: [String]) {
        let (newest, refused) = CatalogueFile.newestFinished(of: try bucket.catalogues())
        var notes = refused.map(note(refused:))
        guard let newest else {
            throw SafeBackupError(
                .destinationMissing,
                ([
                    "\(printable(bucket.location)) has no catalogue copy that can be used yet; its objects are plain files, which "
                        + "any client of S3 gets back"
                ] + notes).joined(separator: "\n"), disposition: .destinationUnavailable)
        }
        notes.append(
            "By the catalogue copy of \(zone.text(newest.header.exportedAt)); what was stored after that is not known to it, "
                + "and lies in the bucket under its own path")
        return (try CatalogueSelection(inBucket: newest, bucket.nothing, bucket.location), notes)
    }

    /// By a catalogue copy of a bucket, whose copies are as it tells.
    init(
        inBucket newest: CatalogueFileReader, _ scratch: FilePath, _ location: [UInt8]
    ) throws(SafeBackupError) {
        let choices = try newest.catalogueSources().map { source in
            Choice(
                source: source.id, destination: CatalogueFileReader.destination, path: source.path, root: scratch,
                location: location, sentinel: nil, isActive: true, prefix: source.prefix ?? .root)
        }
        self.init(newest, choices, root: scratch, exportedAt: nil)
    }

    /// The backup that the catalogue tells of.
    /// - Throws: a holding error if it is not there.
    func openBackup() throws(SafeBackupError) -> ConfinedDirectory {
        let backup = try Self.openBackup(root)
        if let sentinel = choices.first?.sentinel, try LocalDestination.inspect(root).sentinel?.id != sentinel {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(root.bytes)) does not hold the backup that this state knows; mount its disk, or name "
                    + "it with --from DESTINATION", disposition: .destinationUnavailable)
        }
        return backup
    }

    static func openBackup(_ path: FilePath) throws(SafeBackupError) -> ConfinedDirectory {
        do {
            return try ConfinedDirectory(opening: path)
        } catch {
            throw SafeBackupError(
                .destinationMissing,
                "The backup \(printable(path.bytes)) cannot be opened: \(error.explanation); mount its disk",
                disposition: .destinationUnavailable, systemError: error.rawValue)
        }
    }

    /// What a person's paths mean; none means everything.
    func targets(_ paths: [[UInt8]]) throws(SafeBackupError) -> [(choice: Choice, path: RelativePath)] {
        var wanted: [(choice: Choice, path: RelativePath)] = []
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            wanted += try SourcePath.resolveArgument(argument, choices.map { ($0, $0.path) }).map {
                ($0.source, $0.path)
            }
        }
        return wanted
    }

    /// Which copies a person's paths mean, with all below them; none means all.
    func scopes(of paths: [[UInt8]]) throws(SafeBackupError) -> [CopyScope] {
        if paths.isEmpty { return [.all] }
        var scopes: [CopyScope] = []
        for (choice, path) in try targets(paths) {
            scopes += Verification.scopes(choice.source, path, prefix: choice.prefix)
        }
        return scopes.contains(.all) ? [.all] : scopes
    }

    /// Below one target, the trees of several sources would be one.
    /// - Throws: `invalidPath` if the paths mean more than one source.
    func refuseMixing(_ paths: [[UInt8]]) throws(SafeBackupError) {
        let sources = Set(choices.map(\.path))
        if sources.count < 2 { return }
        let isAbsolute = !paths.isEmpty && paths.allSatisfy { $0.first == UInt8(ascii: "/") }
        let wanted = try paths.map { path throws(SafeBackupError) in
            try SourcePath.resolveArgument(path, choices.map { ($0.path, $0.path) }).map(\.source)
        }
        if isAbsolute, Set(wanted.joined()).count == 1 { return }
        let names = sources.map { printable($0) }.sorted().joined(separator: ", ")
        throw SafeBackupError(
            .invalidPath,
            "The backup holds several sources (\(names)); restore from one at a time, by absolute paths",
            disposition: .permanent)
    }

    /// What a person must know of a catalogue copy that was written before the first save of the source was complete.
    func incompleteness(_ choice: Choice) throws(SafeBackupError) -> String? {
        guard let exportedAt, let first = try reader.firstSave(choice.source, choice.destination), first.ended == nil
        else { return nil }
        return
            "The catalogue copy is of \(exportedAt.iso8601), and not everything of \(printable(choice.path)) had been saved "
            + "by then: what is missing here may never have been saved"
    }

    /// What a person must know who asks for a time: `isBefore`, if nothing of the source was saved by then.
    func remark(on time: Timestamp, _ choice: Choice, zone: LocalZone) throws(SafeBackupError) -> (
        text: String, isBefore: Bool
    )? {
        let name = printable(choice.path)
        guard let first = try reader.firstSave(choice.source, choice.destination) else {
            return ("Nothing of \(name) was saved yet", true)
        }
        if time < first.began {
            return (
                "At \(zone.text(time)) nothing of \(name) was saved yet: what the backup knows of it begins at "
                    + zone.text(first.began), true
            )
        }
        if let ended = first.ended, time < ended {
            return (
                "At \(zone.text(time)) the first save of \(name) was not complete, it ended at \(zone.text(ended)): "
                    + "what is missing here had not been saved yet", false
            )
        }
        if let exportedAt, exportedAt < time {
            return (
                "The catalogue copy is of \(zone.text(exportedAt)): what was saved, renamed or deleted between then and "
                    + "\(zone.text(time)) is not known", false
            )
        }
        return nil
    }
}
