import SafeBackupCore

/// The table of keys as a file for people.
extension ConfigurationKeys {
    /// `agent.conf.example`: a small configuration that works, and every other key with its default as a comment.
    package static var example: String {
        var lines = [
            "# The configuration of a safebackup agent. Copy it to /etc/safebackup/agent.conf, change it, and look at it",
            "# with 'safebackup check-config'. Start the agent with 'safebackup run --config /etc/safebackup/agent.conf'.",
            "#",
            "# A line that begins with # or ; is a comment, and one that ends in a backslash goes on in the next. An empty",
            "# value sets a key back to its default. Files in agent.conf.d/ whose names end in .conf are read after this",
            "# one, in the order of their names: they add to lists and replace single values.",
            "#",
            "# Times are 500ms, 90s, 5min, 1h 30min, 2d. Paths are absolute; one with a line's end in it, or with blanks at",
            "# its ends, stands in double quotes with the escapes of C.",
        ]
        for section in ConfigurationEntry.Section.allCases {
            lines.append("")
            switch section {
            case .agent: lines.append("[agent]")
            case .source:
                lines += [
                    "# A directory that is saved. There may be many, each with a name of its own.",
                    "[source \"home\"]",
                ]
            case .destination: lines += ["# A place that copies go to. There may be many.", "[destination \"disk\"]"]
            }
            let ofOthers = section == .destination ? Set(ofBuckets.map(\.name)) : []
            for entry in of(section) where !ofOthers.contains(entry.name) { lines += described(entry) }
        }
        lines.append("")
        lines += wrapped(
            "A bucket of S3, or of a server that speaks its protocol, is such a place too; a source names it as it names a "
                + "disk. What is said above of times, "
                + "threads and versions holds for it as well; path, idle-time and what concerns the room of a disk do not."
        )
        lines += ["#[destination \"bucket\"]", "#\(type.entry.name) = s3"]
        for entry in ofBuckets { lines += described(entry) }
        return lines.joined(separator: "\n") + "\n"
    }

    /// What a key means, and a line that gives it; a comment, unless the example needs it.
    private static func described(_ entry: ConfigurationEntry) -> [String] {
        var lines = [""] + wrapped("\(entry.summary).")
        let line = "\(entry.name) = \(printable(entry.example))"
        switch entry.presence {
        case .required: lines.append(line)
        case .standard: lines.append("#\(line)")
        case .absent(let what):
            lines += wrapped("Without it: \(what).")
            // A destination that works: on a disk.
            lines.append(entry.name == destinationPath.entry.name ? line : "#\(line)")
        }
        return lines
    }

    /// As comments of at most 115 columns.
    private static func wrapped(_ text: String) -> [String] {
        var lines = ["#"]
        for word in text.split(separator: " ") {
            if lines[lines.count - 1].utf8.count + 1 + word.utf8.count > 115 { lines.append("#") }
            lines[lines.count - 1] += " \(word)"
        }
        return lines
    }
}

extension Configuration {
    /// What the files say together; a file that says the same again.
    package var written: [UInt8] { text(withDefaults: false) }

    /// As `written`, with what is not written and its defaults.
    package var effective: [UInt8] { text(withDefaults: true) }

    private func text(withDefaults: Bool) -> [UInt8] {
        var text: [UInt8] = []
        func add(_ line: [UInt8]) { text += line + [UInt8(ascii: "\n")] }
        for (index, section) in sections.enumerated() {
            if index > 0 { add([]) }
            add(Array(section.heading.utf8))
            let entries = ConfigurationKeys.of(section.kind)
            // In the order in which they were written, because the last pattern that matches decides.
            let assigned = entries.flatMap { entry in section.assigned(entry).map { (entry, $0) } }
            for (entry, value) in assigned.sorted(by: { $0.1.number < $1.1.number }) {
                let isSecret = withDefaults && ConfigurationKeys.secrets.contains(entry.name)
                add(Array("\(entry.name) = ".utf8) + (isSecret ? Array("(secret)".utf8) : value.text))
            }
            var defaults: [[UInt8]] = []
            let foreign = Set(ConfigurationKeys.foreign(to: section).map(\.name))
            for entry in entries
            where withDefaults && section.assigned(entry).isEmpty && !foreign.contains(entry.name) {
                switch entry.presence {
                case .required: break
                case .standard(let value):
                    let isOfBucket = section.kind == .destination && section[ConfigurationKeys.type] == .s3
                    let isDelay = entry.name == ConfigurationKeys.closeDelay.entry.name
                    let text = isOfBucket && isDelay ? ConfigurationKeys.bucketCloseDelay.written : value
                    defaults.append(Array("\(entry.name) = ".utf8) + text)
                case .absent(let what): defaults.append(Array("# no \(entry.name): \(what)".utf8))
                }
            }
            if !defaults.isEmpty { add(Array("# by default:".utf8)) }
            for line in defaults { add(line) }
        }
        return text
    }
}
