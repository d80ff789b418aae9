import SafeBackupCore

/// What `safebackup plan` tells: what a run would do now. Keys may be added to the JSON; those that are there keep their
/// meaning.
package struct DrainPlan: Sendable, Encodable {
    package struct Source: Sendable, Encodable {
        package var path: String
        /// What would be saved of it.
        package var files = 0
        package var bytes: Int64 = 0
        package var directories = 0
        package var links = 0
        /// What the files take on the source's disk.
        package var allocatedBytes: Int64 = 0
        package var skipped: [Skipped] = []
        package var largest: [Directory] = []
        /// Why it would not be saved now; nothing of it was counted then, or it is empty.
        package var held: String?
        package var seconds: Double = 0
    }

    /// Entries that would not be saved, for one reason.
    package struct Skipped: Sendable, Encodable {
        package var reason: String
        package var count: Int
        package var explanation: String
        /// The first of them.
        package var paths: [String]
        /// Something of the user's is missing in the backup.
        package var isMissing: Bool

        enum CodingKeys: String, CodingKey {
            case reason, count, explanation, paths
            case isMissing = "missing"
        }
    }

    package struct Directory: Sendable, Encodable {
        package var path: String
        package var files: Int
        package var bytes: Int64
    }

    package struct Destination: Sendable, Encodable {
        package var path: String
        package var exists = false
        /// `nil` where nothing can be asked.
        package var availableBytes: Int64?
        package var totalBytes: Int64?
        package var fileSystem: String?
        /// What new copies take, in whole blocks.
        package var neededBytes: Int64 = 0
        /// While less is free, what makes the backup larger waits.
        package var floorBytes: Int64?
        /// `nil` where nothing can be asked.
        package var fits: Bool?
        /// Why nothing would be saved to it now.
        package var held: String?
        package var pairs: [Pair] = []
        package var notes: [String] = []
    }

    /// A source at a destination.
    package struct Pair: Sendable, Encodable {
        package var source: String
        package var prefix: String?
        /// What it is compared with: `nothing` (all is new), `catalogue`, `catalogueCopy` (of a lost state).
        package var basis: String
        package var new = PlannedAmount()
        package var changed = PlannedAmount()
        package var compared = PlannedAmount()
        package var moved = PlannedAmount()
        package var deleted = PlannedAmount()
        package var unchanged = PlannedAmount()
        /// Jobs that no try could do so far.
        package var stuck = 0
    }

    /// How long saving takes, roughly.
    package struct Estimate: Sendable, Encodable {
        package var fromSeconds: Int
        package var toSeconds: Int
    }

    package var sources: [Source]
    package var destinations: [Destination]
    /// `nil`: there is nothing to store.
    package var estimate: Estimate?
    package var notes: [String]

    /// Something of the sources could not be saved.
    package var isMissing: Bool { sources.contains { $0.skipped.contains(where: \.isMissing) } }

    package var isHeld: Bool { sources.contains { $0.held != nil } || destinations.contains { $0.held != nil } }

    /// There is not enough room somewhere.
    package var isTooLarge: Bool { destinations.contains { $0.fits == false } }

    /// 4: something is held; 3: not all could be saved, or there is no room for it.
    package var exitCode: Int32 { isHeld ? 4 : isTooLarge || isMissing ? 3 : 0 }
}

extension DrainPlan {
    /// From what good and poor disks do with this program: 200 MB and 2,000 files a second, 20 MB and 200 files.
    static func estimate(files: Int, bytes: Int64) -> Estimate? {
        if files == 0 { return nil }
        func seconds(_ factor: Double) -> Int {
            max(1, Int((Double(bytes) / (20e6 * factor) + Double(files) / (200 * factor)).rounded()))
        }
        return Estimate(fromSeconds: seconds(10), toSeconds: seconds(1))
    }
}

// MARK: - For people

extension DrainPlan {
    package var text: String {
        var lines: [String] = []
        for source in sources {
            if !lines.isEmpty { lines.append("") }
            lines += source.lines
        }
        for destination in destinations { lines += [""] + destination.lines }
        if let estimate, estimate.toSeconds >= 10 {
            let (from, to) = (Self.span(estimate.fromSeconds), Self.span(estimate.toSeconds))
            lines += ["", "Saving this takes between about \(from) (a fast disk) and \(to) (a slow one)."]
        }
        if !notes.isEmpty { lines.append("") }
        for note in notes { lines.append("note: \(note)") }
        lines += ["", verdict]
        return lines.joined(separator: "\n")
    }

    private static func span(_ seconds: Int) -> String { ReportText.span(.seconds(seconds)) }

    private var verdict: String {
        if isHeld { return "Something is held and would not be saved: see HELD above." }
        if isTooLarge {
            return "There is not enough room: what fits would be saved, and the rest waits. Leave something out "
                + "(--exclude), or take a larger disk."
        }
        if isMissing { return "Not everything can be saved: see 'not saved' above. Nothing was written." }
        return "Everything can be saved. Nothing was written."
    }
}

extension DrainPlan.Source {
    fileprivate var lines: [String] {
        var lines = ["Source \(path)"]
        if let held { return lines + ["  HELD          \(held)"] }
        lines.append(
            "  holds         \(counted(files, "file")) (\(ByteCount(bytes))), "
                + "\(counted(directories, "directory", "directories")), \(counted(links, "link"))")
        for skip in skipped {
            let head = skip.isMissing ? "not saved" : "left out"
            lines.append(
                "  \(ReportText.padded(head, 13)) \(counted(skip.count, "entry", "entries")): each \(skip.explanation)")
            for path in skip.paths.prefix(3) { lines.append("                  \(path)") }
            if skip.count > 3 { lines.append("                  … and \(grouped(skip.count - 3)) more") }
        }
        for (index, directory) in largest.prefix(5).enumerated() {
            let head = index == 0 ? "largest" : ""
            lines.append(
                "  \(ReportText.padded(head, 13)) \(ReportText.padded(ByteCount(directory.bytes).description, 9))  "
                    + directory.path)
        }
        return lines
    }
}

extension DrainPlan.Destination {
    fileprivate var lines: [String] {
        var lines = ["Destination \(path)" + (exists ? "" : " (not there yet)")]
        if let held { return lines + ["  HELD          \(held)"] }
        for pair in pairs { lines += pair.lines(isOnly: pairs.count == 1) }
        if let availableBytes, let totalBytes, let fits {
            let room =
                "\(ByteCount(neededBytes)) needed, \(ByteCount(availableBytes)) of \(ByteCount(totalBytes)) free"
            let floor = floorBytes.map { " (saving waits below \(ByteCount($0)))" } ?? ""
            lines.append("  room          \(fits ? "" : "NOT ENOUGH: ")\(room)\(floor)")
        }
        if let fileSystem { lines.append("  file system   \(fileSystem)") }
        for note in notes { lines.append("  note          \(note)") }
        return lines
    }
}

extension DrainPlan.Pair {
    fileprivate func lines(isOnly: Bool) -> [String] {
        var lines: [String] = []
        if !isOnly { lines.append("  from \(source)" + (prefix.map { " (in \($0))" } ?? "")) }
        func add(_ head: String, _ amount: PlannedAmount, _ remark: String = "") {
            if !amount.isNothing { lines.append("  \(ReportText.padded(head, 13)) \(amount.text)\(remark)") }
        }
        add("new", new)
        add("changed", changed)
        add("to compare", compared, " (probably the same content, read to be sure)")
        add("renamed", moved, " (moved there, not stored again)")
        add("deleted", deleted, " (their copies stay)")
        add("unchanged", unchanged)
        if new.isNothing && changed.isNothing && compared.isNothing && moved.isNothing && deleted.isNothing {
            lines.append("  to do         nothing")
        }
        if stuck > 0 { lines.append("  stuck         \(grouped(stuck)) before ('safebackup status' tells why)") }
        return lines
    }
}

extension PlannedAmount {
    fileprivate var text: String {
        var parts: [String] = []
        if files > 0 { parts.append("\(counted(files, "file")) (\(ByteCount(bytes)))") }
        if directories > 0 { parts.append(counted(directories, "directory", "directories")) }
        if links > 0 { parts.append(counted(links, "link")) }
        return parts.joined(separator: ", ")
    }
}
