import Glibc
import SafeBackupConfiguration
package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// A configuration that saves one source to one destination, for whoever has none yet, or has another already. Never
/// changes a file that is there.
package struct NewConfiguration: Sendable {
    /// One `exclude` or `exclude-from`, as it was given.
    package enum Exclude: Sendable, Hashable {
        case pattern([UInt8])
        /// The absolute path of a file of patterns.
        case file([UInt8])
    }

    /// Where it goes: the usual file, or, where that is there, one of its drop-ins.
    package let file: FilePath
    package let content: [UInt8]
    /// The file is one of `agent.conf.d/`, besides others.
    package let isDropIn: Bool
    /// The source's copies lie under it.
    package let prefix: RelativePath

    /// Composes the file, and reads it as an agent would, with what is there already.
    /// - Parameters:
    ///   - source: absolute, as is `destination`.
    ///   - prefix: the source's copies are to lie under it; `nil`: at the destination's top, or where it holds other
    ///     sources, under the source's name.
    ///   - sharing: what the configuration calls the destination, if it has it already.
    ///   - state: `nil`: where it is found without being named.
    ///   - main: the configuration that an agent would be started with.
    /// - Throws: `invalidConfiguration` for what an agent would refuse.
    package init(
        source: [UInt8], destination: [UInt8], prefix: RelativePath?, sharing: String?, state: [UInt8]?,
        excludes: [Exclude], main: FilePath
    ) throws(SafeBackupError) {
        var names: (sources: [String], destinations: [String]) = ([], [])
        var sharers: [Configuration.Source] = []
        isDropIn = Self.exists(main)
        if isDropIn {
            let existing = try Self.load(main, adding: nil)
            names = (existing.sources.map(\.name), existing.destinations.map(\.name))
            if let sharing { sharers = existing.sources(of: sharing) }
        }
        let sourceName = Self.name(for: source, not: names.sources)
        let destinationName = sharing ?? Self.name(for: destination, not: names.destinations)
        self.prefix = try SharedPlace(destination, sharers).prefix(for: source, named: sourceName, asked: prefix)
        file = isDropIn ? Self.freeDropIn(of: main, sourceName) : main
        content = Self.text(
            source, sourceName, self.prefix, sharing == nil ? destination : nil, destinationName,
            state: isDropIn ? nil : state, excludes)
        try check(source, sharing == nil ? destination : nil, sourceName, excludes, main)
    }

    /// What is written is what is read: a pattern that a line of the file cannot hold must not become another one.
    private func check(
        _ source: [UInt8], _ destination: [UInt8]?, _ name: String, _ excludes: [Exclude], _ main: FilePath
    ) throws(SafeBackupError) {
        let read = try Self.load(main, adding: (file, content))
        guard let added = read.sources.first(where: { $0.name == name }), added.path == source, added.prefix == prefix,
            let found = read.destination(named: added.destinations.first ?? ""), found.path == destination ?? found.path
        else {
            throw Preflight.refusal(
                "The paths cannot be written into a configuration; name others, or write \(printable(main.bytes)) by hand"
            )
        }
        let written = added.excludes.map { exclude -> Exclude in
            switch exclude {
            case .pattern(let pattern, _): .pattern(pattern.bytes)
            case .file(let path, _): .file(path)
            }
        }
        if written == excludes { return }
        throw Preflight.refusal(
            "A pattern of --exclude cannot stand in a configuration as it is (blanks at its ends, a comment); put it into "
                + "a file, and give that with --exclude-from")
    }

    private static func load(
        _ main: FilePath, adding: (path: FilePath, content: [UInt8])?
    ) throws(SafeBackupError) -> Configuration {
        do throws(ConfigurationFailure) {
            return try ConfigurationFiles.load(main, adding: adding)
        } catch {
            throw error.error
        }
    }

    package static func exists(_ path: FilePath) -> Bool {
        do throws(Errno) {
            _ = try Descriptor.status(of: path)
            return true
        } catch {
            // One that may not be looked at is there for all we know.
            return error != .noSuchFileOrDirectory && error != .notDirectory
        }
    }

    // MARK: Text

    private static func text(
        _ source: [UInt8], _ sourceName: String, _ prefix: RelativePath, _ destination: [UInt8]?,
        _ destinationName: String, state: [UInt8]?, _ excludes: [Exclude]
    ) -> [UInt8] {
        var text = Array("# Written by 'safebackup init'. All keys: agent.conf(5), 'safebackup config example'.\n".utf8)
        func add(_ line: String) { text += Array(line.utf8) + [UInt8(ascii: "\n")] }
        func add(_ key: String, _ value: [UInt8]) { text += Array("\(key) = ".utf8) + value + [UInt8(ascii: "\n")] }
        if let state {
            add("\n[agent]")
            add("state", ConfigurationPath(state).written)
        }
        add("\n[source \"\(sourceName)\"]")
        add("path", ConfigurationPath(source).written)
        add("destination = \(destinationName)")
        if !prefix.isRoot { add("prefix", prefix.written) }
        for exclude in excludes {
            switch exclude {
            case .pattern(let pattern): add("exclude", pattern)
            case .file(let path): add("exclude-from", ConfigurationPath(path).written)
            }
        }
        // `nil`: it stands in another file already.
        guard let destination else { return text }
        add("\n[destination \"\(destinationName)\"]")
        add("path", ConfigurationPath(destination).written)
        return text
    }

    /// From the last part of the path: what of it may stand in a name, and not one that is taken.
    private static func name(for path: [UInt8], not taken: [String]) -> String {
        let leaf = path.split(separator: UInt8(ascii: "/")).last ?? []
        let allowed = leaf.filter { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ".")].contains(byte)
        }
        let plain = String(decoding: allowed.prefix(40).drop { $0 == UInt8(ascii: ".") }, as: UTF8.self)
        let base = plain.isEmpty ? "files" : plain
        if !taken.contains(base) { return base }
        var number = 2
        while taken.contains("\(base)-\(number)") { number += 1 }
        return "\(base)-\(number)"
    }

    private static func freeDropIn(of main: FilePath, _ name: String) -> FilePath {
        let directory = FilePath(bytes: main.bytes + Array(".d".utf8))
        var file = directory.appending("\(name).conf")
        var number = 2
        while exists(file) {
            file = directory.appending("\(name)-\(number).conf")
            number += 1
        }
        return file
    }

    // MARK: Writing

    /// Makes the file, and its directory if that is missing. A file that came there meanwhile stays as it is. After a
    /// crash the whole file is there, or none.
    /// - Throws: `invalidConfiguration` with what to do instead.
    package func write() throws(SafeBackupError) {
        do throws(Errno) {
            let directory = try Self.makeDirectory(file.removingLastComponent())
            try AtomicFile.create(content, at: file.leafBytes, in: directory, mode: 0o644)
        } catch {
            let name = printable(file.bytes)
            throw Preflight.refusal(
                error == .fileExists
                    ? "\(name) is there meanwhile, and stays as it is; run this again"
                    : "\(name) cannot be written: \(error.explanation); name another place with --config FILE, or run this "
                        + "as a user who may")
        }
    }

    private static func makeDirectory(_ path: FilePath) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
        let parent = path.removingLastComponent()
        if parent == path || parent.isEmpty { throw .noSuchFileOrDirectory }
        let above = try makeDirectory(parent)
        do throws(Errno) {
            try above.makeDirectory(path.leafBytes, mode: 0o700)
        } catch {
            if error != .fileExists { throw error }
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        }
        let made = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        // The service reads /etc/safebackup as another user, whatever root's umask is.
        if geteuid() == 0 { try made.setMode(0o755) }
        try above.sync()
        return made
    }
}

extension FilePath {
    /// The last component's bytes; none of the root.
    var leafBytes: [UInt8] { Array(bytes.split(separator: UInt8(ascii: "/")).last ?? []) }
}
