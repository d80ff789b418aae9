package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// What a person may agree to where a source or a destination is held: what was known, what is found there now, and
/// what would follow. Looks only; `carryOut` does it. Blocks: runs on an I/O thread.
package struct Acceptance: Sendable {
    enum Step: Sendable, Hashable {
        /// The known root was emptied (no identity), or another root takes its place.
        case root(SourceID, SafeBackupError.Code, RootIdentity?)
        /// A directory without a sentinel becomes the destination.
        case replacement(DestinationID)
        /// Its damaged sentinel is written anew, by what the state knows.
        case repair(DestinationID)
        /// A replacement that a crash interrupted: the new sentinel is there.
        case finish(DestinationID)
    }

    /// `nil`: there is nothing to accept, `lines` say why.
    let step: Step?
    /// For a person.
    package private(set) var lines: [String]
    /// The path by which the state knows it.
    package let path: [UInt8]
    /// Its hold goes by itself, or not at all: nothing that a person says here changes it.
    package let isStillHeld: Bool

    package var isPossible: Bool { step != nil }

    /// Another one when something else is found: an answer is only for what was shown.
    package var token: String {
        SHA256.digest(of: Array(lines.joined(separator: "\n").utf8)).hex
    }

    /// Looks at what the person names: the path of a source or of a destination, or the URL of a bucket.
    /// - Parameter bucket: reaches a bucket that the state knows.
    /// - Throws: `invalidConfiguration` when the state knows nothing of that name.
    package static func look(
        of name: [UInt8], in directory: StateDirectory,
        bucket: @Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup
    ) async throws(SafeBackupError) -> Acceptance {
        guard let record = try Self.bucket(name, in: directory) else {
            return try Acceptance(of: name, in: directory, nil)
        }
        let backup = try bucket(record.location)
        let look = await BucketFinding(at: backup.destination)
        // What it looked through goes with it.
        return try withExtendedLifetime(backup) { () throws(SafeBackupError) in
            try Acceptance(of: name, in: directory, look)
        }
    }

    /// The destination in a bucket that is named; `nil`: it is something else.
    static func bucket(_ name: [UInt8], in directory: StateDirectory) throws(SafeBackupError) -> DestinationRecord? {
        try directory.requireState()
        let status = try StateReader(in: directory.path).status()
        guard case .destination(let id) = try NamedSide.find(name, in: status) else { return nil }
        return status.destinations.first { $0.record.id == id && $0.record.kind != "local" }?.record
    }

    /// - Parameter bucket: what was found, where a bucket is named.
    init(of name: [UInt8], in directory: StateDirectory, _ bucket: BucketFinding?) throws(SafeBackupError) {
        try SHA256.requireAvailable()
        try directory.requireState()
        let status = try StateReader(in: directory.path).status()
        switch try NamedSide.find(name, in: status) {
        case .source(let id):
            guard let source = status.sources.first(where: { $0.record.id == id }) else {
                throw NamedSide.unknown(name)
            }
            self = try Acceptance(source)
        case .destination(let id):
            guard let destination = status.destinations.first(where: { $0.record.id == id }) else {
                throw NamedSide.unknown(name)
            }
            if destination.record.kind == "local" {
                self = try Acceptance(destination)
            } else if let bucket {
                self = Acceptance(destination, bucket)
            } else {
                throw NamedSide.unknown(name)
            }
        }
    }

    init(_ path: [UInt8], step: Step?, isStillHeld: Bool = false, _ lines: [String]) {
        self.path = path
        self.step = step
        self.isStillHeld = isStillHeld
        self.lines = lines
    }

    // MARK: Sources

    private init(_ source: StateStatus.Source) throws(SafeBackupError) {
        let record = source.record
        let name = "The source \(printable(record.path))"
        let root: SourceRoot
        do throws(SafeBackupError) {
            root = try SourceRoot(path: FilePath(bytes: record.path), known: nil)
        } catch {
            self.init(
                record.path, step: nil, isStillHeld: true, ["There is nothing to accept at it now: " + error.message])
            return
        }
        let top = try Self.leaves(of: root)
        let saved = "\(counted(source.files, "file")), \(ByteCount(source.bytes))"
        if record.identity.matches(root.identity) {
            let isEmptied = record.hold?.reason == .rootEmptied || (top.isEmpty && source.files > 0)
            guard isEmptied, record.accepted != .rootEmptied else {
                self.init(record.path, step: nil, ["\(name) is the one that is known; there is nothing to accept."])
                return
            }
            self.init(
                record.path, step: .root(record.id, .rootEmptied, nil),
                [
                    "\(name) was emptied.", "  saved before   \(saved)",
                    "  found now      \(top.count == 0 ? "nothing" : counted(top.count, "other entry", "other entries") + " at its top")",
                    "If you accept:",
                    "  * every file that is not there any more is recorded as deleted; its copy stays in the "
                        + "backup, and 'safebackup restore' gets it back when it is named",
                    "  * what is there is saved.",
                ])
            return
        }
        // Whoever was shown that nothing is in it agrees to that too.
        let reason = top.isEmpty ? SafeBackupError.Code.rootEmptied : .rootReplaced
        self.init(
            record.path, step: .root(record.id, reason, root.identity),
            [
                "\(name) is another directory than the one that was saved.",
                "  known          \(record.identity.text)", "  found now      \(root.identity.text)",
                "  saved before   \(saved)",
                "  found now      \(top.count == 0 ? "nothing" : counted(top.count, "entry", "entries") + " at its top")",
                "If you accept:", "  * this directory is the source from now on",
                "  * what is in it is saved; a saved file that differs is replaced, and kept as a version as usual",
                "  * every saved file that is not in it is recorded as deleted; its copy stays in the backup.",
            ])
    }

    private static func leaves(of root: SourceRoot) throws(SafeBackupError) -> [[UInt8]] {
        var leaves: [[UInt8]] = []
        let tree = try root.opened()
        do throws(Errno) {
            try tree.openDirectory(.root).forEachEntry { leaf, _ in
                if leaf != Layout.area.bytes { leaves.append(leaf) }
            }
        } catch {
            throw SafeBackupError(
                .sourceFailed, "The source \(printable(root.path.bytes)) cannot be listed: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
        return leaves
    }

    // MARK: Destinations

    private init(_ destination: StateStatus.Destination) throws(SafeBackupError) {
        let record = destination.record
        let name = "The destination \(printable(record.location))"
        let path = FilePath(bytes: record.location)
        let found: LocalDestination.Inspection
        do throws(SafeBackupError) {
            found = try LocalDestination.inspect(path)
        } catch {
            if error.code == .sentinelForeign, let repair = try Self.repair(record, path, destination.counts) {
                self.init(
                    record.location, step: repair.isOurs ? .repair(record.id) : nil, isStillHeld: !repair.isOurs,
                    repair.lines)
                return
            }
            self.init(
                record.location, step: nil, isStillHeld: true,
                ["There is nothing to accept at it now: " + error.message])
            return
        }
        let stays = "it goes on by itself when that is gone"
        if let sentinel = found.sentinel {
            self = Acceptance(
                sentinel, record, name, elsewhere: "mount the right disk, or save to another directory")
            return
        }
        guard found.exists, found.statistics?.isReadOnly != true else {
            let what = found.exists ? "is read-only" : "is not there"
            self.init(
                record.location, step: nil, isStillHeld: true,
                ["\(name) \(what): there is nothing to accept, and \(stays)."])
            return
        }
        var lines = [
            "\(name) has lost the mark (.safebackup) by which it was known.",
            "  known          \(counted(destination.counts.files, "file")), \(ByteCount(destination.counts.bytes)) saved there",
            "  found now      \(found.isEmpty ? "an empty directory" : "a directory with files in it"), "
                + Self.text(of: found),
        ]
        if let mount = Self.mountPoint(above: path) {
            lines.append(
                "  ATTENTION      it lies on the file system that is mounted at \(printable(mount.bytes)). If that is not "
                    + "the backup's own disk, that disk is NOT mounted: mount it instead, and saving goes on by itself")
        }
        lines += [
            "If you accept:",
            "  * this directory is the destination from now on, and gets a new mark",
            "  * all copies and older versions that were in the former one are recorded as lost",
            "  * everything is saved again"
                + (found.isEmpty
                    ? "." : "; files that are there and identical are taken over, others kept as versions."),
        ]
        self.init(record.location, step: .replacement(record.id), lines)
    }

    /// Of a destination that has a sentinel.
    /// - Parameter elsewhere: what to do where it is another one's.
    init(_ sentinel: Sentinel, _ record: DestinationRecord, _ name: String, elsewhere: String) {
        if sentinel.id == record.accepted {
            self.init(
                record.location, step: .finish(record.id),
                ["\(name) was accepted before, and not finished: what lay in the former one is recorded as lost."])
        } else if sentinel.id == record.sentinel {
            self.init(
                record.location, step: nil, isStillHeld: record.hold != nil,
                [
                    "\(name) is the one that is known; there is nothing to accept."
                        + (record.hold.map {
                            " It is held for another reason, and it goes on by itself when that is gone: \($0.message)"
                        } ?? "")
                ])
        } else {
            self.init(
                record.location, step: nil, isStillHeld: true,
                [
                    "\(name) holds the backup of another agent or state (\(printable(sentinel.id.utf8)), of "
                        + "\(sentinel.sources.map { printable($0.path) }.joined(separator: ", "))). It is never "
                        + "taken over: \(elsewhere). To go on with that backup, run with another --state: it is read from "
                        + "its catalogue."
                ])
        }
    }

    /// What a person must know of a destination whose sentinel is damaged; `nil` if it is not that. It is ours if its
    /// newest catalogue copy is of the destination that this state knows.
    private static func repair(
        _ record: DestinationRecord, _ path: FilePath, _ counts: QueueCounts
    ) throws(SafeBackupError) -> (isOurs: Bool, lines: [String])? {
        let copies: [FilePath]
        do throws(SafeBackupError) {
            guard let found = try LocalDestination.damaged(at: path) else { return nil }
            copies = found
        } catch {
            return nil  // ignored because the caller tells what it found itself
        }
        let name = "The destination \(printable(record.location))"
        guard let newest = CatalogueFile.newestFinished(of: copies).newest else {
            return (
                false,
                [
                    "\(name) has a damaged mark (.safebackup/destination.json), and no catalogue copy that tells whose it "
                        + "is. Nothing is written there. Put the mark back from a copy; or, if this is the right disk, "
                        + "move the damaged file away and accept the directory as a new destination."
                ]
            )
        }
        guard newest.header.sentinel == record.sentinel else {
            return (
                false,
                [
                    "\(name) has a damaged mark (.safebackup/destination.json), and by its catalogue it is another "
                        + "destination (\(printable(newest.header.sentinel.utf8))) than the one that is known. It is never "
                        + "taken over: mount the right disk."
                ]
            )
        }
        return (
            true,
            [
                "\(name) has a damaged mark (.safebackup/destination.json). By its catalogue it is the one that is known.",
                "  known          \(counted(counts.files, "file")), \(ByteCount(counts.bytes)) saved there",
                "  found now      a catalogue copy of \(newest.header.exportedAt.iso8601)", "If you accept:",
                "  * the mark is written anew from what this state knows",
                "  * saving goes on; no copy is touched.",
            ]
        )
    }

    private static func text(of found: LocalDestination.Inspection) -> String {
        guard let statistics = found.statistics else { return "" }
        // Not what is free: that changes at any time, and an answer is only for what was shown.
        return "\(statistics.type.name) of \(statistics.total)"
    }

    /// Where the file system that holds the directory is mounted; `nil` if that is the directory itself, or is not known.
    static func mountPoint(above path: FilePath) -> FilePath? {
        do throws(Errno) {
            // As the state knows it: absolute, and without links.
            var point = path
            while !point.components.isEmpty {
                let parent = point.removingLastComponent()
                let (here, above) = (try Descriptor.status(of: point), try Descriptor.status(of: parent))
                if here.isMountRoot || here.device != above.device { return point == path ? nil : point }
                point = parent
            }
            return point
        } catch {
            return nil  // ignored because it is only a hint
        }
    }
}

extension RootIdentity {
    /// For a person who compares two.
    fileprivate var text: String {
        var parts = [type.name, "inode \(inode)"]
        if let volume { parts.insert("volume \(volume)", at: 1) }
        if let birthTime {
            parts.append("made \(Timestamp(microseconds: birthTime.nanoseconds / 1_000).iso8601)")
        }
        return parts.joined(separator: ", ")
    }
}
