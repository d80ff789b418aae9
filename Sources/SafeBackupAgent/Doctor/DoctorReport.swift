import SafeBackupCore

/// What `safebackup doctor` tells. Keys may be added to the JSON; those that are there keep their meaning.
package struct DoctorReport: Sendable, Encodable {
    package enum Level: String, Sendable, Encodable {
        case ok
        /// It works, and something about it should be known.
        case warning
        /// Something is not saved, or soon will not be.
        case problem
    }

    package struct Finding: Sendable, Encodable {
        package var level: Level
        /// What was looked at: `library`, `watches`, `instances`, `openFiles`, `clock`, `state`, `agent`, `service`,
        /// `source`, `permissions`, `destination`, `space`, `probe`, `catalogue`, `queue`, `restore`; of a bucket also
        /// `keys`, `checksums`, `versions`, `lock`, `lifecycle`, `uploads`.
        package var area: String
        /// `Machine`, `State PATH`, `Source PATH` or `Destination PATH`.
        package var subject: String
        package var message: String
        /// What to do, with the command.
        package var action: String?
    }

    package private(set) var findings: [Finding] = []

    package init() {}

    mutating func add(
        _ level: Level, _ area: String, _ message: String, subject: String = "Machine", action: String? = nil
    ) {
        findings.append(Finding(level: level, area: area, subject: subject, message: message, action: action))
    }

    package var problems: Int { findings.count { $0.level == .problem } }
    package var warnings: Int { findings.count { $0.level == .warning } }

    /// 3: a problem was found.
    package var exitCode: Int32 { problems > 0 ? 3 : 0 }

    package var text: String {
        var lines: [String] = []
        var subjects: [String] = []
        for finding in findings where !subjects.contains(finding.subject) { subjects.append(finding.subject) }
        for subject in subjects {
            if !lines.isEmpty { lines.append("") }
            lines.append(subject)
            for finding in findings where finding.subject == subject { lines += finding.lines }
        }
        let counts = [counted(problems, "problem"), counted(warnings, "warning")].joined(separator: ", ")
        lines += ["", problems + warnings == 0 ? "All is well." : "\(counts)."]
        return lines.joined(separator: "\n")
    }
}

extension DoctorReport.Finding {
    fileprivate var lines: [String] {
        let head = level == .ok ? "ok" : level.rawValue.uppercased()
        let line = "  \(ReportText.padded(head, 8)) \(ReportText.padded(area, 12)) \(message)"
        let indent = String(repeating: " ", count: 24)
        let steps = (action ?? "").split(separator: "\n").enumerated()
        return [line] + steps.map { indent + ($0.offset == 0 ? "→ " : "  ") + $0.element }
    }
}
