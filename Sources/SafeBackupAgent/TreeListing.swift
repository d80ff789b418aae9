package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
package import SystemPackage

/// What `safebackup ls` tells: the entries of a directory as the backup has, or had, them. Each is written as it is
/// read, so that a tree of any size takes no memory.
package struct TreeListing {
    /// Absolute, below a source, or relative to it; none means the sources themselves.
    package var paths: [[UInt8]]
    /// As the backup had it then; `nil`: as it has it now.
    package var time: Timestamp?
    /// The time as it was understood.
    package var timeText: String?
    package var isRecursive: Bool
    /// Also what was deleted at the source and has not come back.
    package var includesDeleted: Bool
    package var isJSON: Bool
    package var zone = LocalZone.system

    package init(
        paths: [[UInt8]], time: Timestamp?, timeText: String?, isRecursive: Bool, includesDeleted: Bool, isJSON: Bool
    ) {
        self.paths = paths
        self.time = time
        self.timeText = timeText
        self.isRecursive = isRecursive
        self.includesDeleted = includesDeleted
        self.isJSON = isJSON
    }

    /// An entry as `--json` gives it.
    private struct Entry: Encodable {
        var path: String
        var pathHex: String?
        var kind: String
        var size: Int64
        var mode: String
        var uid: UInt32
        var gid: UInt32
        var mtime: String
        var linkTarget: String?
        var sha256: String?
        var location: String?
        var locationHex: String?
        /// The time from, and to which, it was so; `nil`: until now.
        var from: String
        var to: String?
        var deleted: Bool
        /// The backup has its content.
        var available: Bool
        var fuzzy: Bool
        var damaged: Bool
    }

    /// By the local state.
    /// - Returns: the exit code: 3 if nothing was found at some path.
    package func run(state directory: StateDirectory, _ write: (String) -> Void) throws(SafeBackupError) -> Int32 {
        let selections = try CatalogueSelection.known(to: directory, paths: paths)
        let notes = selections.count > 1 ? ["At \(printable(selections[0].location))"] : []
        return try list(selections[0], notes: notes, write)
    }

    /// By the catalogue copy in the destination. Throws `invalidConfiguration` where there is none.
    package func run(from destination: FilePath, _ write: (String) -> Void) throws(SafeBackupError) -> Int32 {
        _ = try CatalogueSelection.openBackup(destination)
        let (selection, notes) = try CatalogueSelection.beside(destination)
        guard let selection else {
            throw SafeBackupError(
                .invalidConfiguration, ([CatalogueSelection.noTimes(destination)] + notes).joined(separator: "\n"),
                disposition: .permanent)
        }
        var told = notes
        if let exportedAt = selection.exportedAt {
            told.append("By the catalogue copy of \(zone.text(exportedAt)); what was saved since is not in it")
        }
        return try list(selection, notes: told, write)
    }

    /// By the catalogue copy in a bucket. Blocks. Throws `destinationMissing` where there is none, and what keeps the bucket
    /// from being read.
    package func run(from bucket: BucketBackup, _ write: (String) -> Void) throws(SafeBackupError) -> Int32 {
        let (selection, notes) = try CatalogueSelection.inBucket(bucket, zone: zone)
        return try list(selection, notes: notes, write)
    }

    private func list(
        _ selection: CatalogueSelection, notes: [String], _ write: (String) -> Void
    ) throws(SafeBackupError) -> Int32 {
        let targets = try selection.targets(paths)
        var notes = notes
        if let timeText { notes.insert("As the backup had it at \(timeText)", at: 0) }
        if isJSON {
            write(
                #"{"at":\#(try quoted(time?.iso8601)),"notes":\#(try ReportText.json(notes, isPretty: false)),"results":["#
            )
        } else {
            for note in notes { write(note + "\n") }
        }
        // A relative path is looked for in each source, and need not be in all of them.
        var (known, unknown): (Set<RelativePath>, [RelativePath]) = ([], [])
        for (index, target) in targets.enumerated() {
            let remark = try time.flatMap { (time) throws(SafeBackupError) in
                try selection.remark(on: time, target.choice, zone: zone)
            }
            if isJSON {
                if index > 0 { write(",") }
                write(
                    #"{"sourcePath":\#(try quoted(printable(target.choice.path))),"# + #""destination":"#
                        + #"\#(try quoted(printable(selection.location))),"path":\#(try quoted(target.path.description)),"#
                        + #""remark":\#(try quoted(remark?.text)),"entries":["#)
            } else {
                if let remark { write(remark.text + "\n") }
                if targets.count > 1 { write("\(target.path) of \(printable(target.choice.path)):\n") }
            }
            var count = 0
            if remark?.isBefore != true { count = try list(target.path, target.choice, selection.reader, write) }
            if isJSON { write("]}") }
            if count > 0 { known.insert(target.path) } else { unknown.append(target.path) }
        }
        if isJSON { write("]}\n") }
        unknown.removeAll { known.contains($0) }
        if !isJSON { for path in Set(unknown).sorted() { write(nothing(path) + "\n") } }
        return unknown.isEmpty ? 0 : 3
    }

    private func nothing(_ path: RelativePath) -> String {
        guard let time else { return "Nothing in the backup is called \(path); --deleted shows what was deleted" }
        return
            "At \(zone.text(time)) nothing in the backup was called \(path); 'safebackup versions' tells when it was there"
    }

    /// How many entries the path and what is in it have.
    private func list(
        _ path: RelativePath, _ choice: CatalogueSelection.Choice, _ reader: any CatalogueReading,
        _ write: (String) -> Void
    ) throws(SafeBackupError) -> Int {
        var walk = CatalogueWalk(
            reader, choice.source, choice.destination, within: path, at: time, includesDeleted: includesDeleted,
            depth: isRecursive ? .all : .children)
        var (count, written) = (0, 0)
        while let entry = try walk.next() {
            count += 1
            // Of a directory what is in it is asked for.
            if entry.path == path && entry.name.kind == .directory { continue }
            if isJSON {
                write((written == 0 ? "\n" : ",\n") + (try ReportText.json(json(entry), isPretty: false)))
            } else {
                write(line(entry) + "\n")
            }
            written += 1
        }
        return count
    }

    private func json(_ entry: CatalogueEntry) -> Entry {
        Entry(
            path: entry.path.description, pathHex: ReportText.hex(ifNeeded: entry.path), kind: entry.name.kind.rawValue,
            size: entry.name.fingerprint.size, mode: String(entry.name.metadata.mode, radix: 8),
            uid: entry.name.metadata.uid, gid: entry.name.metadata.gid,
            mtime: Timestamp(microseconds: entry.name.fingerprint.mtime.nanoseconds / 1_000).iso8601,
            linkTarget: entry.name.linkTarget.map { printable($0) }, sha256: entry.copy?.digest?.hex,
            location: entry.copy?.location.description,
            locationHex: entry.copy.flatMap { ReportText.hex(ifNeeded: $0.location) }, from: entry.beganAt.iso8601,
            to: entry.endedAt?.iso8601, deleted: time == nil && entry.endedAt != nil, available: !entry.isUnavailable,
            fuzzy: entry.name.isFuzzy, damaged: entry.copy?.isDamaged ?? false)
    }

    /// `-rw-r--r--  1.2 MiB  2026-11-23 14:05:00  name`.
    private func line(_ entry: CatalogueEntry) -> String {
        let name = entry.name
        let isDirectory = name.kind == .directory
        var text = Self.mode(name.kind, name.metadata.mode)
        let size = isDirectory ? "-" : ByteCount(name.fingerprint.size).description
        text += String(repeating: " ", count: max(1, 12 - size.count)) + size
        let mtime = zone.text(Timestamp(microseconds: name.fingerprint.mtime.nanoseconds / 1_000))
        text += "  " + mtime.prefix(10) + " " + mtime.dropFirst(11).prefix(8) + "  "
        text += isRecursive ? entry.path.description : printable(entry.path.leaf)
        if isDirectory { text += "/" }
        if let target = name.linkTarget { text += " -> " + printable(target) }
        var marks: [String] = []
        if time == nil, let endedAt = entry.endedAt { marks.append("deleted \(zone.text(endedAt))") }
        if entry.isUnavailable { marks.append("not available any more") }
        if name.isFuzzy { marks.append("fuzzy") }
        if entry.copy?.isDamaged == true { marks.append("damaged") }
        return marks.isEmpty ? text : text + "  (\(marks.joined(separator: ", ")))"
    }

    private static func mode(_ kind: EntryKind, _ mode: UInt32) -> String {
        var text =
            switch kind {
            case .directory: "d"
            case .symlink: "l"
            case .file: "-"
            case .fifo, .socket, .device: "?"
            }
        for shift: UInt32 in [6, 3, 0] {
            let bits = mode >> shift & 7
            text += bits & 4 != 0 ? "r" : "-"
            text += bits & 2 != 0 ? "w" : "-"
            text += bits & 1 != 0 ? "x" : "-"
        }
        return text
    }

    private func quoted(_ text: String?) throws(SafeBackupError) -> String {
        try ReportText.json([text], isPretty: false).dropBrackets
    }
}

extension String {
    /// Of an array with one element, that element.
    fileprivate var dropBrackets: String { String(dropFirst().dropLast()) }
}
