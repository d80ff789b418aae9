package import SafeBackupCore
package import SafeBackupWatch

/// What `agent.conf` and its drop-ins say: which sources go to which destinations, and how. Pure: whether the paths are
/// there is found when the agent starts.
package struct Configuration: Sendable, Hashable {
    /// What a source leaves out.
    package enum Exclude: Sendable, Hashable {
        case pattern(ExcludePattern, ConfigurationPlace)
        /// A file of patterns at this path.
        case file([UInt8], ConfigurationPlace)
    }

    package struct Source: Sendable, Hashable {
        package var name: String
        /// Absolute.
        package var path: [UInt8]
        /// Names of destinations, each once.
        package var destinations: [String]
        /// What its copies lie under.
        package var prefix: RelativePath
        package var excludes: [Exclude]
        package var reconcileInterval: Duration
        /// Where its path stands.
        package var place: ConfigurationPlace
    }

    package struct Destination: Sendable, Hashable {
        package var name: String
        /// Absolute.
        package var path: [UInt8]
        package var settle: SettlePolicy
        package var idleTime: Duration
        package var onDelete: DeletePolicy
        /// Threads that copy at the same time.
        package var concurrency: Int
        /// Bytes that are read in a second; `nil`: any number.
        package var bandwidth: ByteCount?
        package var room: Room
        package var retention: Retention
        /// A bucket; then `path` is its URL.
        package var s3: S3?
        /// Where its path stands.
        package var place: ConfigurationPlace
    }

    /// What is kept free in a destination; what is not given comes from the size of its disk.
    package struct Room: Sendable, Hashable {
        package var threshold: ByteCount?
        package var target: ByteCount?
        package var floor: ByteCount?
        package var checkInterval: ByteCount?
        package var maxSize: ByteCount?
        package var maxUsage: Percent?

        package init() {}
    }

    /// Which older versions are kept; without any of these, all that there is room for.
    package struct Retention: Sendable, Hashable {
        package var last: Int?
        package var within: Duration?
        package var daily: Int?
        package var weekly: Int?
        package var monthly: Int?
        package var yearly: Int?

        package init() {}
    }

    /// The state's directory, if the file names one.
    package private(set) var state: [UInt8]?
    package private(set) var sources: [Source] = []
    package private(set) var destinations: [Destination] = []
    /// What the files say, section by section, in the order of their first headings; `[agent]` always, and first.
    package let sections: [ConfigurationSection]

    /// Reads the files in their order; a later one adds to lists and replaces single values.
    /// Throws everything that is wrong in them.
    package init(_ files: [(path: [UInt8], content: [UInt8])]) throws(ConfigurationFailure) {
        var merge = ConfigurationMerge(files)
        sections = merge.sections
        for section in sections {
            switch section.kind {
            case .agent: state = section[ConfigurationKeys.state]?.bytes
            case .source: sources.append(Source(section))
            case .destination: destinations.append(Destination(section))
            }
        }
        merge.check(self)
        if !merge.problems.isEmpty { throw ConfigurationFailure(merge.inOrder) }
    }

    package func destination(named name: String) -> Destination? { destinations.first { $0.name == name } }

    /// The sources that are saved to a destination.
    package func sources(of destination: String) -> [Source] {
        sources.filter { $0.destinations.contains(destination) }
    }
}

extension Configuration.Source {
    fileprivate init(_ section: ConfigurationSection) {
        var names: [String] = []
        for (name, _) in section.list(ConfigurationKeys.destination) where !names.contains(name.text) {
            names.append(name.text)
        }
        self.init(
            name: section.name, path: section[ConfigurationKeys.sourcePath]?.bytes ?? [], destinations: names,
            prefix: section[ConfigurationKeys.prefix] ?? .root, excludes: section.excludes,
            reconcileInterval: section[ConfigurationKeys.reconcileInterval] ?? .zero,
            place: section.place(of: ConfigurationKeys.sourcePath))
    }
}

extension Configuration.Destination {
    fileprivate init(_ section: ConfigurationSection) {
        var settle = SettlePolicy()
        settle.closeDelay = section[ConfigurationKeys.closeDelay] ?? settle.closeDelay
        settle.quiet = section[ConfigurationKeys.quietTime] ?? settle.quiet
        settle.limit = section[ConfigurationKeys.settleLimit] ?? settle.limit
        let bucket = Configuration.S3(section)
        if bucket != nil && section.assigned(ConfigurationKeys.closeDelay.entry).isEmpty {
            settle.closeDelay = ConfigurationKeys.bucketCloseDelay
        }
        self.init(
            name: section.name, path: bucket?.location ?? section[ConfigurationKeys.destinationPath]?.bytes ?? [],
            settle: settle,
            idleTime: section[ConfigurationKeys.idleTime] ?? .zero,
            onDelete: section[ConfigurationKeys.onDelete] ?? .keep,
            concurrency: (section[ConfigurationKeys.concurrency] ?? ThreadCount(4)).count,
            bandwidth: section[ConfigurationKeys.bandwidth], room: Configuration.Room(section),
            retention: Configuration.Retention(section), s3: bucket,
            place: bucket == nil
                ? section.place(of: ConfigurationKeys.destinationPath) : section.place(of: ConfigurationKeys.url))
    }
}

extension Configuration.Room {
    fileprivate init(_ section: ConfigurationSection) {
        threshold = section[ConfigurationKeys.freeSpaceThreshold]
        target = section[ConfigurationKeys.freeSpaceTarget]
        floor = section[ConfigurationKeys.freeSpaceFloor]
        checkInterval = section[ConfigurationKeys.checkInterval]
        maxSize = section[ConfigurationKeys.maxSize]
        maxUsage = section[ConfigurationKeys.maxUsage]
    }
}

extension Configuration.Retention {
    fileprivate init(_ section: ConfigurationSection) {
        last = section[ConfigurationKeys.keepLast]
        within = section[ConfigurationKeys.keepWithin]
        daily = section[ConfigurationKeys.keepDaily]
        weekly = section[ConfigurationKeys.keepWeekly]
        monthly = section[ConfigurationKeys.keepMonthly]
        yearly = section[ConfigurationKeys.keepYearly]
    }
}
