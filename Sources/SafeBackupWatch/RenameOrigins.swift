import SafeBackupCore

/// Where renamed files lay before a set of changes began, as long as nothing but renames was told of them. Only then is
/// a file that has its saved size and time surely the saved one: a time can be put back after a write.
struct RenameOrigins: Sendable {
    enum Origin {
        case known(RelativePath)
        /// Something else was told of the file, or nobody knows whence it came.
        case unknown
        /// No file came to the path since the set began.
        case untold
    }

    /// Past this many they are lost: at the price of reading what was renamed.
    private static let limit = 65_536

    private(set) var arrivals: [RelativePath: RelativePath?] = [:]
    /// Nothing is known of any path until the set is taken.
    private(set) var areLost = false

    subscript(path: RelativePath) -> Origin {
        if areLost { return .unknown }
        guard let arrival = arrivals[path] else { return .untold }
        return arrival.map(Origin.known) ?? .unknown
    }

    mutating func arrive(_ path: RelativePath, from origin: RelativePath?) {
        if areLost { return }
        arrivals[path] = .some(origin)
        if arrivals.count > Self.limit { lose() }
    }

    /// Something else than a rename was told of the path.
    mutating func touch(_ path: RelativePath) {
        if !arrivals.isEmpty, arrivals[path] != nil { arrivals[path] = .some(nil) }
    }

    mutating func lose() {
        arrivals = [:]
        areLost = true
    }
}
