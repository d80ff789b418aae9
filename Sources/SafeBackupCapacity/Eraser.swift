import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Removes what a plan selected, on a second walk. Each file is looked at again right before it goes.
final class Eraser: TreeVisitor {
    /// A file of the last stretch, of which only the oldest go: known when the walk is over.
    private struct Late {
        var key: AgeKey
        var bytes: Int64
        var path: RelativePath
    }

    private struct State {
        var freed: Int64 = 0
        var files = 0
        var directories = 0
        var late: [Late] = []
        var latePathBytes = 0
        var hasMissedLate = false
        var problems = CleaningProblems()
    }

    /// At most so many files of the last stretch are remembered; a plan with more is refined before.
    static let lateLimit = 4_096

    private let root: CleanedRoot
    private let rules: AgeRules
    private let plan: CleaningPlan
    private let need: Int64
    private let cut: AgeCut
    private let removesDirectories: Bool
    private let isRehearsal: Bool
    private let report: @Sendable (CleaningEvent) -> Void
    private let hasListener: Bool
    private let state = Locked(State())
    /// Held while a file with several names is removed.
    private let linked = Locked(())

    /// - Parameters:
    ///   - need: bytes that are enough.
    ///   - isRehearsal: tells what would go, and removes nothing.
    init(
        _ root: CleanedRoot, _ rules: AgeRules, _ plan: CleaningPlan, cut: AgeCut, need: Int64,
        removesDirectories: Bool, isRehearsal: Bool, listener: (@Sendable (CleaningEvent) -> Void)?
    ) {
        self.root = root
        self.rules = rules
        self.plan = plan
        self.cut = cut
        self.need = need
        self.removesDirectories = removesDirectories
        self.isRehearsal = isRehearsal
        hasListener = listener != nil
        report = listener ?? { _ in }
    }

    let isDone = false

    func visit(_ batch: DirectoryBatch, in directory: WalkedDirectory, _ descriptor: Descriptor) -> Int {
        guard descriptor.allowsRemoval() else { return 0 }
        var gone = 0
        for entry in batch.entries where !(entry.kind?.isSpecial ?? false) {
            if let filter = plan.filter, !filter.mayContain(entry.inode) { continue }
            let outcome = Result { () throws(Errno) in try consider(entry, of: batch, in: directory, descriptor) }
            switch outcome {
            case .success(let isGone): gone += isGone ? 1 : 0
            case .failure(.noSuchFileOrDirectory): gone += 1
            case .failure(let error): failed(directory.path.appending(batch.name(of: entry)), error, "removed")
            }
        }
        return gone
    }

    /// Whether the entry is gone now.
    private func consider(
        _ entry: DirectoryBatch.Entry, of batch: DirectoryBatch, in directory: WalkedDirectory, _ descriptor: Descriptor
    ) throws(Errno) -> Bool {
        let status = try batch.status(of: entry, in: descriptor)
        guard rules.isRemovable(status) else { return false }
        let key = rules.key(of: entry, in: batch, status)
        if key > cut.through { return false }
        if let floor = plan.floor, key <= floor { return false }
        let links = rules.links(of: status)
        // Of a file whose other names lie elsewhere nothing is freed: it stays.
        if links > 1 && !plan.census.isComplete(status.fingerprint.inode) { return false }
        guard let before = cut.before, key <= before else {
            remember(
                Late(key: key, bytes: rules.bytes(of: status), path: directory.path.appending(batch.name(of: entry))))
            return false
        }
        if links > 1 {
            // One at a time, so that each sees the names that are left and the last one is known.
            let removal = linked.withLock { _ in
                Result { () throws(Errno) in try remove(entry, of: batch, in: directory, descriptor) }
            }
            return try removal.get()
        }
        return try remove(entry, of: batch, in: directory, descriptor, rules.bytes(of: status))
    }

    /// - Parameter bytes: what it frees; `nil`: what it does if it is the last name.
    private func remove(
        _ entry: DirectoryBatch.Entry, of batch: DirectoryBatch, in directory: WalkedDirectory,
        _ descriptor: Descriptor,
        _ bytes: Int64? = nil
    ) throws(Errno) -> Bool {
        let freed: Int64
        if let bytes { freed = bytes } else { freed = freeing(try batch.status(of: entry, in: descriptor)) }
        guard claim(freed) else { return false }
        do {
            if !isRehearsal { try batch.remove(entry, in: descriptor) }
        } catch {
            giveBack(freed)
            throw error
        }
        if hasListener { report(.deletedFile(directory.path.appending(batch.name(of: entry)), bytes: freed)) }
        return !isRehearsal
    }

    /// What removing one name frees: all with the last one. A rehearsal has no last one, and shares it out.
    private func freeing(_ status: FileStatus) -> Int64 {
        let links = rules.links(of: status)
        if isRehearsal { return rules.bytes(of: status) / Int64(max(1, links)) }
        return links > 1 ? 0 : rules.bytes(of: status)
    }

    /// Takes the right to remove a file, and counts it. `false` if enough went.
    private func claim(_ bytes: Int64) -> Bool {
        state.withLock { state in
            if state.freed >= need { return false }
            state.freed = state.freed.addingClamped(bytes)
            state.files += 1
            return true
        }
    }

    private func giveBack(_ bytes: Int64) {
        state.withLock { state in
            state.freed -= bytes
            state.files -= 1
        }
    }

    private func remember(_ file: Late) {
        // Links and empty files of the last stretch stay: they free nothing.
        if file.bytes == 0 { return }
        state.withLock { state in
            // More came since the plan was made, or it could not be made finer.
            if state.late.count >= 4 * Self.lateLimit || state.latePathBytes > 4 << 20 {
                state.hasMissedLate = true
                return
            }
            state.latePathBytes += file.path.bytes.count
            state.late.append(file)
        }
    }

    /// After the walk: of the last stretch, removes the oldest until it is enough.
    func finish() {
        let late = state.withLock { state in
            defer { state.late = [] }
            return state.late.sorted { $0.key < $1.key }
        }
        var directories = DirectoryCache(root.confined)
        var unfinished: AgeKey?
        for file in late {
            // All names of an inode go, or none; they have one key.
            if state.withLock({ $0.freed >= need }) && unfinished != file.key { break }
            unfinished = nil
            do throws(Errno) {
                let parent = try directories.directory(file.path.parent)
                let status = try parent.status(of: file.path.leaf)
                guard rules.isRemovable(status), rules.order.time(of: status) == file.key.time,
                    !rules.hasStableInodes || status.fingerprint.inode == file.key.inode
                else { continue }
                let links = rules.links(of: status)
                let bytes = freeing(status)
                if !isRehearsal { try parent.remove(file.path.leaf) }
                if links > 1 { unfinished = file.key }
                state.withLock { state in
                    state.freed = state.freed.addingClamped(bytes)
                    state.files += 1
                }
                if hasListener { report(.deletedFile(file.path, bytes: bytes)) }
            } catch {
                if error != .noSuchFileOrDirectory { failed(file.path, error, "removed") }
                continue
            }
            if removesDirectories && !isRehearsal { removeEmpty(file.path.parent, &directories) }
        }
    }

    /// The directory and those above it, as far as they are empty.
    private func removeEmpty(_ path: RelativePath, _ directories: inout DirectoryCache) {
        var path = path
        while !path.isRoot {
            do throws(Errno) {
                try directories.directory(path.parent).remove(path.leaf, isDirectory: true)
            } catch {
                if !Self.meansInUse(error) { failed(path, error, "removed") }
                return
            }
            directories.forget(path)
            noteRemoved(path)
            path = path.parent
        }
    }

    /// Something is in it, or mounted on it, or it went.
    private static func meansInUse(_ error: Errno) -> Bool {
        [.directoryNotEmpty, .fileExists, .resourceBusy, .noSuchFileOrDirectory, .notDirectory].contains(error)
    }

    private func noteRemoved(_ path: RelativePath) {
        state.withLock { $0.directories += 1 }
        if hasListener { report(.deletedDirectory(path)) }
    }

    // MARK: What the walk tells

    func enter(_ directory: WalkedDirectory, _ descriptor: Descriptor) -> Bool { true }

    func skipped(_ path: RelativePath) {}

    func failed(_ path: RelativePath, _ error: Errno) { failed(path, error, "read") }

    private func failed(_ path: RelativePath, _ error: Errno, _ action: String) {
        let problem = CleaningProblem(path: path, reason: "cannot be \(action): \(error.explanation)")
        state.withLock { $0.problems.add(problem) }
        report(.failed(problem))
    }

    func emptied(_ directory: WalkedDirectory, _ parent: Descriptor) -> Bool {
        guard removesDirectories, !isRehearsal else { return false }
        do throws(Errno) {
            try parent.remove(directory.path.leaf, isDirectory: true)
        } catch {
            if !Self.meansInUse(error) { failed(directory.path, error, "removed") }
            return error == .noSuchFileOrDirectory
        }
        noteRemoved(directory.path)
        return true
    }

    /// Up to where everything that could go was considered: there the next plan goes on.
    var reached: AgeKey? { state.withLock { $0.hasMissedLate } ? cut.before ?? plan.floor : cut.through }

    /// Adds what was done to a report.
    func add(to report: inout CleaningReport) {
        state.withLock { state in
            report.files += state.files
            report.directories += state.directories
            report.freed = report.freed.addingClamped(state.freed)
            report.problems.add(state.problems)
        }
    }
}
