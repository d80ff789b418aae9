import SafeBackupCore

/// Brings the sections of all files together, and finds everything that is wrong.
struct ConfigurationMerge {
    private(set) var sections: [ConfigurationSection]
    private(set) var problems: [ConfigurationProblem] = []
    /// In the order in which they are read.
    private let files: [[UInt8]]
    private var assignments = 0

    init(_ files: [(path: [UInt8], content: [UInt8])]) {
        self.files = files.map(\.path)
        sections = [
            ConfigurationSection(
                .agent, name: "", place: ConfigurationPlace(file: files.first?.path ?? [], line: 1, column: 1))
        ]
        for file in files {
            let text = ConfigurationText(file.content, file: file.path)
            problems += text.problems
            var headings: [String: ConfigurationPlace] = [:]
            for section in text.sections { add(section, &headings) }
        }
    }

    /// By file, line and column.
    var inOrder: [ConfigurationProblem] {
        problems.sorted { left, right in
            let (first, second) = (files.firstIndex(of: left.place.file), files.firstIndex(of: right.place.file))
            return (first ?? 0, left.place.line, left.place.column) < (
                second ?? 0, right.place.line, right.place.column
            )
        }
    }

    mutating func report(_ place: ConfigurationPlace, _ message: String) {
        problems.append(ConfigurationProblem(place, message))
    }

    // MARK: Sections

    private mutating func add(
        _ read: ConfigurationText.Section, _ headings: inout [String: ConfigurationPlace]
    ) {
        guard let (kind, name) = identify(read) else { return }
        var index = sections.firstIndex { $0.kind == kind && $0.name == name }
        if index == nil {
            sections.append(ConfigurationSection(kind, name: name, place: read.place))
            index = sections.count - 1
        }
        guard let index else { return }
        let heading = sections[index].heading
        if let first = headings[heading] {
            report(
                read.place, "\(heading) stands here for the second time, first in line \(first.line); put both together"
            )
        }
        headings[heading] = headings[heading] ?? read.place
        var singles: [String: ConfigurationPlace] = [:]
        for assignment in read.assignments { add(assignment, to: index, &singles) }
    }

    private mutating func identify(
        _ read: ConfigurationText.Section
    ) -> (kind: ConfigurationEntry.Section, name: String)? {
        let known = ConfigurationEntry.Section.allCases
        guard let kind = known.first(where: { $0.rawValue.utf8.elementsEqual(read.word) }) else {
            let nearest = EditDistance.nearest(to: read.word, among: known.map(\.rawValue))
            report(
                read.place,
                "there is no section [\(shortened(read.word))]"
                    + (nearest.map { "; did you mean [\($0)]?" } ?? "; there are [agent], [source \"NAME\"] and "
                        + "[destination \"NAME\"]"))
            return nil
        }
        guard kind.isNamed else {
            if read.name != nil { report(read.place, "[agent] has no name; there is one agent") }
            return (kind, "")
        }
        guard let text = read.name else {
            report(read.place, "[\(kind.rawValue)] needs a name, as in [\(kind.rawValue) \"photos\"]")
            return nil
        }
        do throws(ConfigurationFault) {
            return (kind, try ConfigurationName.read(text).text)
        } catch {
            report(read.place, "\"\(shortened(text))\" \(error.message)")
            return nil
        }
    }

    // MARK: Assignments

    private mutating func add(
        _ read: ConfigurationText.Assignment, to index: Int, _ singles: inout [String: ConfigurationPlace]
    ) {
        let kind = sections[index].kind
        let entries = ConfigurationKeys.of(kind)
        guard let entry = entries.first(where: { $0.name.utf8.elementsEqual(read.key) }) else {
            report(read.keyPlace, unknown(read.key, in: kind, entries))
            return
        }
        if read.value.isEmpty {
            sections[index].reset(entry)
            singles[entry.name] = nil
            return
        }
        if !entry.isList {
            if let first = singles[entry.name] {
                report(
                    read.keyPlace,
                    "\(entry.name) is given for the second time in this section, first in line \(first.line)"
                )
                return
            }
            singles[entry.name] = read.keyPlace
        }
        if let fault = entry.fault(read.value) {
            sections[index].noteFault(of: entry)
            report(read.valuePlace, "\(entry.name): '\(shortened(read.value))' \(fault)")
            return
        }
        assignments += 1
        sections[index].assign(
            ConfigurationSection.Assigned(text: read.value, place: read.valuePlace, number: assignments), to: entry)
    }

    private func unknown(
        _ key: [UInt8], in kind: ConfigurationEntry.Section, _ entries: [ConfigurationEntry]
    ) -> String {
        let start = "there is no key '\(shortened(key))' in [\(kind.rawValue)]"
        let others = ConfigurationKeys.all.filter { $0.section != kind && $0.name.utf8.elementsEqual(key) }
        if let other = others.first { return "\(start); it belongs into [\(other.section.rawValue)]" }
        if let nearest = EditDistance.nearest(to: key, among: entries.map(\.name)) {
            return "\(start); did you mean '\(nearest)'?"
        }
        return "\(start); there are \(entries.map(\.name).joined(separator: ", "))"
    }

    // MARK: What belongs together

    /// Finds what is wrong with sections that are right each by itself.
    mutating func check(_ configuration: Configuration) {
        for section in sections {
            for entry in ConfigurationKeys.of(section.kind)
            where entry.presence == .required && section.assigned(entry).isEmpty && !section.hasFault(entry) {
                report(
                    section.place,
                    "\(section.heading) has no \(entry.name); add it, as in '\(entry.name) = "
                        + "\(printable(entry.example))'")
            }
        }
        if configuration.sources.isEmpty && problems.isEmpty {
            report(
                ConfigurationPlace(file: files.first ?? [], line: 1, column: 1),
                "there is no [source \"NAME\"], so that nothing would be saved; 'safebackup config example' shows one")
        }
        checkReferences(configuration)
        checkPaths(configuration)
        for destination in configuration.destinations { checkPrefixes(of: destination, configuration) }
        for section in sections where section.kind == .destination {
            checkType(of: section)
            checkRoom(of: section)
        }
    }

    private mutating func checkReferences(_ configuration: Configuration) {
        let names = configuration.destinations.map(\.name)
        for section in sections where section.kind == .source {
            for (name, place) in section.list(ConfigurationKeys.destination) where !names.contains(name.text) {
                let nearest = EditDistance.nearest(to: Array(name.text.utf8), among: names)
                report(
                    place,
                    "there is no [destination \"\(name.text)\"]"
                        + (nearest.map { "; did you mean '\($0)'?" } ?? "; add it, or name one that is there"))
            }
        }
        for section in sections
        where section.kind == .destination && configuration.sources(of: section.name).isEmpty {
            report(
                section.place,
                "no source is saved to \(section.heading); add 'destination = \(section.name)' to one, or remove it")
        }
    }

    private mutating func checkPaths(_ configuration: Configuration) {
        reportRepeated(
            configuration.sources.map { ($0.path, $0.place) }, "source", "one source may have several destinations")
        reportRepeated(
            configuration.destinations.map { ($0.path, $0.place) }, "destination",
            "several sources may share one, each with a prefix")
    }

    /// Two sections of one path; `what` they are, and what to do instead.
    private mutating func reportRepeated(
        _ paths: [(path: [UInt8], place: ConfigurationPlace)], _ what: String, _ advice: String
    ) {
        var known: [[UInt8]: ConfigurationPlace] = [:]
        for (path, place) in paths where !path.isEmpty {
            let path = BucketURL.isMeant(by: path) ? path : Self.plain(path)
            if let first = known[path] {
                report(
                    place,
                    "\(BucketURL.isMeant(by: path) ? "url" : "path"): \(printable(path)) is a \(what) already, at \(first); \(advice)"
                )
            }
            known[path] = known[path] ?? place
        }
    }

    /// Without empty and `.` components; links and `..` are for the file system to tell.
    private static func plain(_ path: [UInt8]) -> [UInt8] {
        let components = path.split(separator: UInt8(ascii: "/")).filter { Array($0) != Array(".".utf8) }
        return components.reduce(into: []) { $0 += [UInt8(ascii: "/")] + $1 }
    }

    /// Several sources of a destination all need prefixes, none of which lies in another, also where case is folded.
    private mutating func checkPrefixes(of destination: Configuration.Destination, _ configuration: Configuration) {
        let sources = configuration.sources(of: destination.name)
        if sources.count < 2 { return }
        for (index, source) in sources.enumerated() {
            let section = sections.first { $0.kind == .source && $0.name == source.name }
            let place = section?.place(of: ConfigurationKeys.prefix) ?? source.place
            if source.prefix.isRoot {
                if section?.hasFault(ConfigurationKeys.prefix.entry) == true { continue }
                report(
                    section?.place ?? place,
                    "several sources share [destination \"\(destination.name)\"], so each needs a prefix of its own; add "
                        + "one to [source \"\(source.name)\"], as in 'prefix = \(source.name)', or another destination")
                continue
            }
            let own = Self.folded(source.prefix)
            let other = sources[..<index].first { other in
                if other.prefix.isRoot { return false }
                let theirs = Self.folded(other.prefix)
                return own.isWithin(theirs) || theirs.isWithin(own)
            }
            guard let other else { continue }
            report(
                place,
                "prefix: '\(source.prefix)' and '\(other.prefix)' of [source \"\(other.name)\"] lie in each other in "
                    + "[destination \"\(destination.name)\"]; give prefixes that do not nest")
        }
    }

    /// Sizes that cannot be together, on whatever disk; and rules that keep nothing.
    private mutating func checkRoom(of section: ConfigurationSection) {
        let threshold = section[ConfigurationKeys.freeSpaceThreshold]
        let target = section[ConfigurationKeys.freeSpaceTarget]
        let floor = section[ConfigurationKeys.freeSpaceFloor]
        if let threshold, let target, target < threshold {
            report(
                section.place(of: ConfigurationKeys.freeSpaceTarget),
                "free-space-target: it is below free-space-threshold; a cleaning would never end, give more")
        }
        if let floor, let above = threshold ?? target, above < floor {
            report(
                section.place(of: ConfigurationKeys.freeSpaceFloor),
                "free-space-floor: it is above free-space-\(threshold == nil ? "target" : "threshold"); saving would stop "
                    + "before older versions go, give less")
        }
        if let interval = section[ConfigurationKeys.checkInterval], interval.bytes < 1 {
            report(section.place(of: ConfigurationKeys.checkInterval), "check-interval: give more than nothing")
        }
        let rules = [
            ConfigurationKeys.keepLast, ConfigurationKeys.keepDaily, ConfigurationKeys.keepWeekly,
            ConfigurationKeys.keepMonthly, ConfigurationKeys.keepYearly,
        ]
        let given = rules.filter { section[$0] != nil }
        // Nobody means to have no version at all by a typing mistake.
        if let first = given.first, given.allSatisfy({ section[$0] == 0 }), section[ConfigurationKeys.keepWithin] == nil
        {
            report(
                section.place(of: first),
                "\(first.entry.name): these rules keep no version; name one that keeps some, as 'keep-last = 1'")
        }
    }

    private static func folded(_ path: RelativePath) -> RelativePath {
        RelativePath(unchecked: path.bytes.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 })
    }
}
