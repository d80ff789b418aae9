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
            for entry in of(section) {
                lines.append("")
                lines += wrapped("\(entry.summary).")
                let line = "\(entry.name) = \(printable(entry.example))"
                switch entry.presence {
                case .required: lines.append(line)
                case .standard: lines.append("#\(line)")
                case .absent(let what): lines += wrapped("Without it: \(what).") + ["#\(line)"]
                }
            }
        }
        return lines.joined(separator: "\n") + "\n"
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
                add(Array("\(entry.name) = ".utf8) + value.text)
            }
            var defaults: [[UInt8]] = []
            for entry in entries where withDefaults && section.assigned(entry).isEmpty {
                switch entry.presence {
                case .required: break
                case .standard(let value): defaults.append(Array("\(entry.name) = ".utf8) + value)
                case .absent(let what): defaults.append(Array("# no \(entry.name): \(what)".utf8))
                }
            }
            if !defaults.isEmpty { add(Array("# by default:".utf8)) }
            for line in defaults { add(line) }
        }
        return text
    }
}
