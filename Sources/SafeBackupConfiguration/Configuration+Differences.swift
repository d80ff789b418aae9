import SafeBackupCore

extension Configuration {
    /// What is other than in `former`, a sentence for each section and key; none if both say the same.
    package func differences(from former: Configuration) -> [String] {
        var found: [String] = []
        for section in former.sections where self.section(like: section) == nil {
            found.append("\(section.heading) is gone")
        }
        for section in sections {
            guard let old = former.section(like: section) else {
                found.append("\(section.heading) is new")
                continue
            }
            for entry in ConfigurationKeys.of(section.kind) {
                let (before, now) = (old.texts(of: entry), section.texts(of: entry))
                if before == now { continue }
                found.append("\(section.heading) \(entry.name): \(Self.shown(before)) → \(Self.shown(now))")
            }
            if old.excludes.map(\.text) != section.excludes.map(\.text),
                !found.contains(where: { $0.hasPrefix("\(section.heading) exclude") })
            {
                found.append("\(section.heading) exclude: the order of the rules")
            }
        }
        return found
    }

    private func section(like other: ConfigurationSection) -> ConfigurationSection? {
        sections.first { $0.kind == other.kind && $0.name == other.name }
    }

    private static func shown(_ texts: [[UInt8]]) -> String {
        texts.isEmpty ? "none" : texts.map { shortened($0) }.joined(separator: ", ")
    }
}

extension ConfigurationSection {
    /// As written, else the default as it would be written.
    fileprivate func texts(of entry: ConfigurationEntry) -> [[UInt8]] {
        let assigned = assigned(entry).map(\.text)
        if assigned.isEmpty, case .standard(let text) = entry.presence { return [text] }
        return assigned
    }
}

extension Configuration.Exclude {
    /// Without its place.
    fileprivate var text: [UInt8] {
        switch self {
        case .pattern(let pattern, _): Array("pattern ".utf8) + pattern.bytes
        case .file(let path, _): Array("file ".utf8) + path
        }
    }
}
