import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// What a walk finds in a source: how much would be saved, and what not. Memory does not grow with the tree.
struct SourceSurvey {
    /// Entries that are not saved for one reason.
    struct Skipped: Sendable {
        var count = 0
        /// The first of them.
        var paths: [RelativePath] = []
    }

    private static let pathLimit = 10

    private(set) var files = 0
    private(set) var bytes: Int64 = 0
    /// What the files take on the source's disk: of sparse files less than they are long.
    private(set) var allocated: Int64 = 0
    private(set) var directories = 0
    private(set) var links = 0
    private(set) var skipped: [SkipReason: Skipped] = [:]
    private var largest = LargestDirectories()
    private let privileges: Privileges

    init(privileges: Privileges = .current) { self.privileges = privileges }

    var largestDirectories: [LargestDirectories.Directory] { largest.directories }

    /// Nothing that would be saved is there, besides the root itself.
    var isEmpty: Bool { files == 0 && links == 0 && directories <= 1 }

    /// Takes in what the walk told, and returns it with what this process may not read marked as such.
    mutating func add(_ listed: ListedDirectory, in root: ConfinedDirectory) -> ListedDirectory {
        var listed = listed
        largest.enter(listed.path)
        if listed.failure != nil { note(.unreadable, listed.path) }
        // The last part of a directory that came in parts has told of itself before.
        if listed.isWhole || listed.isLastPart { directories += 1 }
        markUnreadable(&listed, in: root)
        for entry in listed.entries {
            switch entry.finding {
            case .skipped(let reason, _): note(reason, listed.path.appending(entry.leaf))
            case .status(let status):
                switch status.kind {
                case .file:
                    files += 1
                    bytes += status.size.countedSize
                    allocated += min(status.size, status.allocated).countedSize
                    largest.add(status.size.countedSize)
                case .symlink: links += 1
                case .directory, .fifo, .socket, .device: break
                }
            }
        }
        return listed
    }

    mutating func finish() { largest.finish() }

    private mutating func note(_ reason: SkipReason, _ path: RelativePath) {
        skipped[reason, default: Skipped()].count += 1
        if skipped[reason, default: Skipped()].paths.count < Self.pathLimit { skipped[reason]?.paths.append(path) }
    }

    /// A walk looks at files and opens none.
    private func markUnreadable(_ listed: inout ListedDirectory, in root: ConfinedDirectory) {
        if privileges.readsEverything { return }
        var directory: Descriptor?
        for index in listed.entries.indices {
            guard case .status(let status) = listed.entries[index].finding, status.kind == .file else { continue }
            if directory == nil {
                do throws(Errno) { directory = try root.openDirectory(listed.path) } catch { return }
                // Ignored because a directory that went meanwhile has no file that could not be read.
            }
            if directory?.allowsReading(listed.entries[index].leaf) == false {
                listed.entries[index].finding = .skipped(.unreadable, .file)
            }
        }
    }
}
