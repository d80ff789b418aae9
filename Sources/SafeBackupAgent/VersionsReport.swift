package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// What `safebackup versions` tells: every state of a path that the backup holds, and where it lies.
package struct VersionsReport: Sendable, Encodable {
    /// A state that the path had.
    package struct Version: Sendable, Encodable {
        /// `current`, `kept`, `foreign`, `inTheWay` or `lastGood`; `nil` of a directory.
        package var role: String?
        package var kind: String
        package var from: String
        /// `nil`: until now.
        package var to: String?
        /// Why it ended: `replaced`, `deleted`, `metadata`, `moved` or `lost`.
        package var endReason: String?
        package var size: Int64
        package var mode: String?
        package var sha256: String?
        /// Below the destination.
        package var location: String?
        package var locationHex: String?
        package var linkTarget: String?
        package var isFuzzy: Bool
        /// Read so soon after a change that the next walk compares digests.
        package var isRacy: Bool
        package var isDamaged: Bool
        package var movedFrom: String?
        package var movedTo: String?

        private enum CodingKeys: String, CodingKey {
            case role, kind, from, to, endReason, size, mode, sha256, location, locationHex, linkTarget, movedFrom,
                movedTo
            case isFuzzy = "fuzzy"
            case isRacy = "racy"
            case isDamaged = "damaged"
        }
    }

    /// What lies below a directory.
    package struct Below: Sendable, Encodable {
        package var files: Int
        package var bytes: Int64
        package var directories: Int
        package var fuzzy: Int
        package var deleted: Int
        package var deletedBytes: Int64
        package var versions: Int
        package var versionBytes: Int64
        package var waiting: Int
        package var stuck: Int
        package var notSaved: Int
    }

    package struct Result: Sendable, Encodable {
        package var sourcePath: String
        package var destination: String
        package var path: String
        package var pathHex: String?
        /// Newest first.
        package var versions: [Version]
        package var below: Below?
        /// What lies at the path's place in the destination, its kind, while the catalogue knows nothing of the path: saved
        /// before the state was lost, or somebody else's.
        package var unlisted: String?
    }

    package var results: [Result] = []

    private enum CodingKeys: String, CodingKey { case results }

    /// Reads the state beside a running agent, or without one. Up to `limit` states of the path at each destination.
    package init(_ argument: [UInt8], _ directory: StateDirectory, limit: Int) throws(SafeBackupError) {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let destinations = try reader.destinations()
        let pairs = try reader.pairs()
        for target in try SourcePath.targets(argument, in: try reader.sources()) {
            for pair in pairs where pair.source == target.source.id {
                guard let destination = destinations.first(where: { $0.id == pair.destination }) else { continue }
                let versions = try reader.versions(target, pair, limit: limit)
                let below = try reader.summary(target.source.id, pair.destination, below: target.path)
                var unlisted: EntryKind?
                if versions.isEmpty && below.isEmpty {
                    unlisted = Self.kind(of: pair.prefix.appending(target.path), at: destination)
                    if unlisted == nil { continue }
                }
                results.append(
                    Result(
                        sourcePath: printable(target.source.path), destination: printable(destination.location),
                        path: target.path.description, pathHex: ReportText.hex(ifNeeded: target.path),
                        versions: versions.map(Version.init), below: below.isEmpty ? nil : Below(below),
                        unlisted: unlisted?.rawValue))
            }
        }
    }

    /// What lies there, if the destination is there and ours.
    private static func kind(of location: RelativePath, at destination: DestinationRecord) -> EntryKind? {
        if location.isRoot || location.isWithin(Layout.area) { return nil }
        let root = FilePath(bytes: destination.location)
        do {
            guard let sentinel = destination.sentinel, try LocalDestination.inspect(root).sentinel?.id == sentinel
            else {
                return nil
            }
            return try ConfinedDirectory(opening: root).status(of: location).kind
        } catch {
            return nil  // ignored because the answer is then only the catalogue's, as it always was
        }
    }

    /// 3: the backup holds nothing of this path, else 0.
    package var exitCode: Int32 { results.isEmpty ? 3 : 0 }

    package var text: String {
        if results.isEmpty { return "Nothing in the backup has, or had, this path" }
        var lines: [String] = []
        for result in results {
            if !lines.isEmpty { lines.append("") }
            lines.append("\(result.path) of \(result.sourcePath), at \(result.destination)")
            for version in result.versions { lines += version.lines }
            if let unlisted = result.unlisted {
                lines.append(
                    "  A \(unlisted) lies there, of which the catalogue knows nothing: saved before the state was lost, or "
                        + "put there by somebody else; 'safebackup restore' brings it back as it lies there")
            }
            lines += result.below?.lines ?? []
        }
        return lines.joined(separator: "\n")
    }
}

extension StateReader {
    /// The states of the target's path, also copies that lie where its versions do.
    func versions(_ target: PathTarget, _ pair: PairRecord, limit: Int) throws(SafeBackupError) -> [PathVersion] {
        try versions(
            target.source.id, pair.destination, target.path,
            versionsPrefix: Layout.versions.appending(pair.prefix.appending(target.path)),
            cutMark: target.path.isRoot ? [] : Layout.mark(of: target.path.leaf), limit: limit)
    }
}

extension VersionsReport.Version {
    init(_ version: PathVersion) {
        let kind = version.name?.kind ?? version.copy?.kind ?? .file
        self.init(
            role: version.role, kind: kind.rawValue, from: version.beganAt.iso8601, to: version.endedAt?.iso8601,
            endReason: version.endReason, size: version.name?.fingerprint.size ?? version.copy?.size ?? 0,
            mode: version.name.map { String($0.metadata.mode, radix: 8) }, sha256: version.copy?.digest?.hex,
            location: version.copy?.location.description,
            locationHex: version.copy.flatMap { ReportText.hex(ifNeeded: $0.location) },
            linkTarget: version.name?.linkTarget.map { printable($0) },
            isFuzzy: version.name?.isFuzzy ?? version.copy?.isFuzzy ?? false,
            isRacy: version.name?.isRacy ?? false, isDamaged: version.copy?.isDamaged ?? false,
            movedFrom: version.movedFrom?.description,
            movedTo: version.movedTo?.description)
    }

    var lines: [String] {
        let isStray = mode == nil
        var span = to.map { "\(from) to \($0)" } ?? "\(from) until now"
        if isStray { span = "found \(from)" }
        if let endReason { span += " (\(endReason))" }
        var what = kind == "file" ? ByteCount(size).description : kind
        if let linkTarget { what += " to \(linkTarget)" }
        if isFuzzy { what += ", fuzzy" }
        if isDamaged { what += ", damaged" }
        // A copy in its own place that no live path has any more.
        var word = role == "current" && endReason == "deleted" ? "tombstone" : role ?? "-"
        if role == nil && kind != "directory" {
            // It was replaced too soon to be kept, or removed since.
            (word, what) = ("gone", what + ", not in the backup any more")
        }
        var lines = ["  \(ReportText.padded(word, 9)) \(span)  \(what)"]
        if let location {
            lines.append("            \(location)" + (sha256.map { "  sha256 \($0.prefix(16))…" } ?? ""))
        }
        if let movedFrom { lines.append("            moved from \(movedFrom)") }
        if let movedTo { lines.append("            moved to \(movedTo)") }
        return lines
    }
}

extension VersionsReport.Below {
    init(_ sum: BelowSummary) {
        self.init(
            files: sum.files, bytes: sum.bytes, directories: sum.directories, fuzzy: sum.fuzzy, deleted: sum.deleted,
            deletedBytes: sum.deletedBytes, versions: sum.versions, versionBytes: sum.versionBytes,
            waiting: sum.waiting,
            stuck: sum.stuck, notSaved: sum.notSaved)
    }

    var lines: [String] {
        var lines = [
            "  below it  \(ReportText.count(files, "file")), \(ByteCount(bytes)), "
                + ReportText.count(directories, "directory", "directories")
        ]
        if deleted > 0 {
            lines.append(
                "            \(grouped(deleted)) deleted at the source and kept, \(ByteCount(deletedBytes))")
        }
        if versions > 0 {
            lines.append("            \(ReportText.count(versions, "older version")), \(ByteCount(versionBytes))")
        }
        for (number, word) in [(waiting, "waiting"), (stuck, "stuck"), (notSaved, "not saved"), (fuzzy, "fuzzy")]
        where number > 0 {
            lines.append("            \(grouped(number)) \(word)")
        }
        return lines
    }
}
