import Glibc
package import SafeBackupCore
import SafeBackupConfiguration
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
package import SystemPackage

/// Gets paths back from a local destination: by the state's catalogue, else by the copy beside the backups, else by
/// the plain layout alone.
package struct RestorePlan: Sendable {
    /// Absolute, below a source, or relative to it; none means everything.
    package var paths: [[UInt8]]
    /// Made if it is missing.
    package var target: FilePath
    package var overwrites: Bool
    /// Also what was deleted at the source.
    package var includesDeleted: Bool
    /// As the backup had it then; `nil`: as it has it now.
    package var time: Timestamp?
    /// How a bucket is reached that the state knows, or that was named.
    package var bucket: (@Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup)?
    /// In which times are told.
    package var zone = LocalZone.system

    package init(
        paths: [[UInt8]], target: FilePath, overwrites: Bool, includesDeleted: Bool, time: Timestamp? = nil
    ) {
        self.paths = paths
        self.target = target
        self.overwrites = overwrites
        self.includesDeleted = includesDeleted
        self.time = time
    }

    /// What came back, and what a person must know of it.
    package struct Result: Sendable {
        package var report: Restorer.Report
        package var notes: [String]
    }

    /// By the local state. Throws `stateFailed` if there is none, `invalidPath` for a path that no source holds, and
    /// a holding error if the destination is not there.
    package func run(state directory: StateDirectory) throws(SafeBackupError) -> Result {
        let selections = try CatalogueSelection.known(to: directory, paths: paths)
        let buckets = Shared<[DestinationID: BucketBackup]>([:])
        let (selection, backup) = try CatalogueSelection.firstThatIsThere(selections) {
            (selection) throws(SafeBackupError) in
            guard BucketURL.isMeant(by: selection.location), let bucket else { return nil }
            let opened = try bucket(selection.location)
            _ = try opened.catalogues()
            buckets.set([selection.choices[0].destination: opened])
            return try CatalogueSelection.openBackup(opened.nothing)
        }
        let notes = selections.count > 1 ? ["From \(printable(selection.location))"] : []
        return try restore(
            by: selection, backup: backup, bucket: buckets.value[selection.choices[0].destination], notes: notes)
    }

    /// From the destination alone, on this or any other machine. Throws `invalidConfiguration` when a time is asked for
    /// and nothing there tells of times.
    package func run(from destination: FilePath) throws(SafeBackupError) -> Result {
        let backup = try CatalogueSelection.openBackup(destination)
        let (selection, refused) = try CatalogueSelection.beside(destination)
        var notes = refused
        guard let selection else {
            if time != nil {
                throw SafeBackupError(
                    .invalidConfiguration,
                    ([CatalogueSelection.noTimes(destination)] + notes).joined(separator: "\n"),
                    disposition: .permanent)
            }
            notes.append(
                "There is no catalogue copy: files come back as they lie in the backup, also those that were deleted "
                    + "at the source, and nothing is compared with a digest")
            return try restorePlain(backup, notes: notes)
        }
        if let exportedAt = selection.exportedAt, time == nil {
            notes.append(
                "By the catalogue copy of \(exportedAt.iso8601); what was stored since comes back as it lies in the backup"
            )
        }
        return try restore(by: selection, backup: backup, notes: notes)
    }

    /// From a bucket alone, on this or any other machine: by its catalogue copy, else as its objects lie there.
    package func run(from bucket: BucketBackup) throws(SafeBackupError) -> Result {
        let (selection, notes): (CatalogueSelection, [String])
        do throws(SafeBackupError) {
            (selection, notes) = try CatalogueSelection.inBucket(bucket, zone: zone)
        } catch {
            guard error.code == .destinationMissing || error.code == .sentinelMissing else { throw error }
            return try restorePlain(bucket, without: error)
        }
        let backup = try CatalogueSelection.openBackup(bucket.nothing)
        return try restore(by: selection, backup: backup, bucket: bucket, notes: notes)
    }

    func openTarget() throws(SafeBackupError) -> ConfinedDirectory {
        try SHA256.requireAvailable()
        try refuseBackup()
        do throws(Errno) {
            do throws(Errno) {
                try systemCall("mkdir") { target.withPlatformString { mkdir($0, 0o755) } }
            } catch {
                if error != .fileExists { throw error }
            }
            return try ConfinedDirectory(opening: target)
        } catch {
            throw SafeBackupError(
                .invalidConfiguration,
                "The target \(printable(target.bytes)) cannot be used: \(error.explanation); name a directory whose "
                    + "parent is there", disposition: .permanent, systemError: error.rawValue)
        }
    }

    /// What is restored into a backup would lie among its copies, or over them.
    private func refuseBackup() throws(SafeBackupError) {
        var place = target
        while true {
            if let path = place.withPlatformString({ realpath($0, nil) }) {
                place = FilePath(platformString: path)
                free(path)
                break
            }
            // Not there yet: what it is made in decides.
            let parent = place.removingLastComponent()
            if parent == place || parent.isEmpty {
                place = "."
                guard let path = realpath(".", nil) else { return }
                place = FilePath(platformString: path)
                free(path)
                break
            }
            place = parent
        }
        while true {
            let mark = place.appending(path: Layout.area).appending("destination.json")
            if mark.withPlatformString({ access($0, F_OK) }) == 0 {
                throw SafeBackupError(
                    .invalidConfiguration,
                    "The target \(printable(target.bytes)) is, or lies in, the backup \(printable(place.bytes)); a backup is "
                        + "never restored into: name another directory", disposition: .permanent)
            }
            let parent = place.removingLastComponent()
            if parent == place || parent.isEmpty { return }
            place = parent
        }
    }

    private func restore(
        by selection: CatalogueSelection, backup: ConfinedDirectory, bucket: BucketBackup? = nil, notes: [String]
    ) throws(SafeBackupError) -> Result {
        try selection.refuseMixing(paths)
        let wanted = try selection.targets(paths)
        var notes = notes
        var told: Set<[UInt8]> = []
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        if let bucket {
            restorer.fetch = { (location) throws(SafeBackupError) in try bucket.read(location) }
        }
        let lookup = selection.exportedAt == nil ? nil : PlainLookup(backup, findsVersions: time != nil)
        var unknown: [RelativePath] = []
        var known: Set<RelativePath> = []
        var judged: Set<[UInt8]> = []
        for (choice, path) in wanted {
            if judged.insert(choice.path).inserted, let text = try selection.incompleteness(choice) {
                notes.append(text)
            }
            if let time {
                let remark = try selection.remark(on: time, choice, zone: zone)
                if let remark, told.insert(choice.path).inserted { notes.append(remark.text) }
                if remark?.isBefore == true { continue }
                let found = try restore(choice, path, .at(time), from: selection.reader, lookup, with: &restorer)
                if found > 0 { known.insert(path) } else { unknown.append(path) }
                continue
            }
            var found = try restore(choice, path, .live, from: selection.reader, lookup, with: &restorer)
            if lookup != nil {
                let newer = try restoreNewer(choice, path, than: selection.reader, in: backup, with: &restorer)
                if newer > 0 {
                    notes.append("\(counted(newer, "entry", "entries")) below \(path) not in the catalogue copy")
                }
                found += newer
            }
            if includesDeleted || (found == 0 && !path.isRoot) {
                found += try restore(choice, path, .deleted, from: selection.reader, nil, with: &restorer)
            }
            if lookup == nil, includesDeleted || found == 0 {
                // A state that was begun anew may not know all that it saved before.
                let unlisted = try restoreNewer(
                    choice, path, than: selection.reader, onlyUnknown: true, in: backup, with: &restorer)
                if unlisted > 0 { notes.append(Self.unlisted(unlisted, path)) }
                found += unlisted
            }
            if found > 0 { known.insert(path) } else { unknown.append(path) }
        }
        // A relative path is looked for in each source, and need not be in all of them.
        for path in unknown where known.insert(path).inserted {
            restorer.note(
                path,
                time.map { "nothing in the backup was called so at \(zone.text($0)); 'safebackup versions' tells when" }
                    ?? "nothing in the backup is called so, neither in the catalogue nor at its place")
        }
        if !unknown.isEmpty, let state = selection.reader as? StateReader {
            for destination in Set(selection.choices.map(\.destination)) {
                guard let event = try state.newestEvent("catalogueRead", of: destination) else { continue }
                notes.append("\(event.message) (\(zone.text(event.at)))")
            }
        }
        return Result(report: restorer.finish(), notes: notes)
    }

    private static func unlisted(_ count: Int, _ path: RelativePath) -> String {
        "The catalogue does not know \(path.isRoot ? "" : "\(path), or ")\(counted(count, "entry", "entries")) of what lies "
            + "there in the backup: it came back as it lies there, and is compared with no digest"
    }

    private func restore(
        _ choice: CatalogueSelection.Choice, _ path: RelativePath, _ scope: NameScope,
        from reader: any CatalogueReading, _ lookup: PlainLookup?, with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        var cursor: NameCursor?
        var count = 0
        let versions = PlainLookup(restorer.backup, findsVersions: true)
        repeat {
            let page = try reader.names(
                choice.source, choice.destination, within: path, scope, after: cursor, limit: 1_000)
            for entry in page.entries {
                var location = entry.copy?.location
                switch entry.isUnavailable ? nil : lookup?.find(entry) {
                case nil, .asRecorded: break
                case .displaced(let version): location = version
                case .newer(let status):
                    if time == nil {
                        restorer.restore(RestoreEntry(plain: entry.path, at: entry.copy?.location, status))
                    } else {
                        restorer.note(
                            entry.path,
                            "its stored copy was replaced after the catalogue copy was written, and is not found among the "
                                + "versions")
                    }
                    continue
                case .missing:
                    // It may have been deleted since, at a destination that mirrors deletions.
                    if includesDeleted || entry.path == path, case .displaced(let version) = versions.find(entry) {
                        location = version
                        break
                    }
                    restorer.note(
                        entry.path,
                        "its stored copy was renamed or removed after the catalogue copy was written, or is lost")
                    continue
                }
                // A deleted file's copy may just have become a version, and a crash have kept the catalogue from knowing it.
                if lookup == nil, entry.endedAt != nil, case .displaced(let version) = versions.find(entry) {
                    location = version
                }
                if entry.isUnavailable {
                    restorer.note(entry.path, Self.unavailable(entry, zone))
                    continue
                }
                if entry.copy?.isDamaged == true {
                    restorer.note(entry.path, "its stored copy was found damaged or missing ('safebackup verify')")
                }
                restorer.restore(
                    RestoreEntry(
                        path: entry.path, kind: entry.name.kind, location: location,
                        digest: entry.copy?.digest, mtime: entry.name.fingerprint.mtime,
                        metadata: entry.name.metadata, linkTarget: entry.name.linkTarget,
                        isFuzzy: entry.name.isFuzzy))
            }
            count += page.entries.count
            cursor = page.next
        } while cursor != nil
        return count
    }

    /// Why an entry of an earlier time does not come back.
    static func unavailable(_ entry: CatalogueEntry, _ zone: LocalZone) -> String {
        let until = entry.endedAt.map { " to \(zone.text($0))" } ?? ""
        return
            "what it was from \(zone.text(entry.beganAt))\(until) is not in the backup any more: it was replaced too "
            + "soon to be kept, or removed since"
    }
}

extension CatalogueSelection {
    /// Why no time can be asked for without a catalogue.
    static func noTimes(_ destination: FilePath) -> String {
        "\(printable(destination.bytes)) has no catalogue copy that can be used, and without one nobody knows what was "
            + "there at which time, or what was deleted since; without --at everything comes back as it lies there, and "
            + "older versions lie below .safebackup/versions with the time in their names"
    }
}
