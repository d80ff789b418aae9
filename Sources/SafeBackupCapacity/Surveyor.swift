import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Looks at all files below a root, counts them, and finds where to cut. Removes nothing.
final class Surveyor<Selection: AgeCounting>: TreeVisitor {
    private struct State {
        var scan = CleaningScan()
        var selection: Selection
        var census = LinkCensus()
        var filter: AgeFilter?
        var problems = CleaningProblems()

        mutating func note(_ file: Seen, isProtected: Bool) {
            // Its share, where it is not known whether the other names are counted too.
            let share = file.bytes / Int64(max(1, file.links))
            if isProtected {
                scan.bytes = scan.bytes.addingClamped(share)
                return
            }
            if file.links > 1 {
                switch census.see(file.key.inode, links: file.links) {
                case .first: scan.bytes = scan.bytes.addingClamped(file.bytes)
                case .another: break
                case .complete: selection.add(file.key, bytes: file.bytes, names: Int(file.links))
                case .ignored: scan.bytes = scan.bytes.addingClamped(share)
                }
            } else {
                scan.bytes = scan.bytes.addingClamped(file.bytes)
                selection.add(file.key, bytes: file.bytes, names: 1)
            }
            if file.key <= selection.bound { filter?.insert(file.listedInode, time: file.key.time) }
        }
    }

    /// What a look told, until a batch is noted under the lock.
    private struct Seen {
        var key: AgeKey
        var bytes: Int64
        var links: UInt32
        /// As its directory has it.
        var listedInode: UInt64
    }

    private let rules: AgeRules
    private let report: @Sendable (CleaningProblem) -> Void
    private let state: Locked<State>

    init(
        _ rules: AgeRules, selection: Selection, keepsFilter: Bool,
        report: @escaping @Sendable (CleaningProblem) -> Void
    ) {
        self.rules = rules
        self.report = report
        state = Locked(State(selection: selection, filter: keepsFilter ? AgeFilter() : nil))
    }

    let isDone = false

    func visit(_ batch: DirectoryBatch, in directory: WalkedDirectory, _ descriptor: Descriptor) -> Int {
        let isProtected = !descriptor.allowsRemoval()
        var seen: [Seen] = []
        var (names, gone, failed) = (0, 0, [CleaningProblem]())
        seen.reserveCapacity(batch.entries.count)
        for entry in batch.entries where !(entry.kind?.isSpecial ?? false) {
            do throws(Errno) {
                let status = try batch.status(of: entry, in: descriptor)
                guard rules.isRemovable(status) else { continue }
                names += 1
                seen.append(
                    Seen(
                        key: rules.key(of: entry, in: batch, status),
                        bytes: rules.bytes(of: status), links: rules.links(of: status), listedInode: entry.inode))
            } catch {
                if error == .noSuchFileOrDirectory {
                    gone += 1
                } else {
                    failed.append(
                        CleaningProblem(
                            path: directory.path.appending(batch.name(of: entry)),
                            reason: "cannot be looked at: \(error.explanation)"))
                }
            }
        }
        if isProtected && names > 0 {
            failed.append(
                CleaningProblem(
                    path: directory.path, reason: "may not be changed by this user; what lies in it stays"))
        }
        let (counted, looked, problems) = (names, seen, failed)
        state.withLock { state in
            state.scan.files += counted
            if isProtected { state.scan.protected += counted }
            for file in looked { state.note(file, isProtected: isProtected) }
            for problem in problems { state.problems.add(problem) }
        }
        for problem in failed { report(problem) }
        return gone
    }

    func enter(_ directory: WalkedDirectory, _ descriptor: Descriptor) -> Bool {
        if !directory.path.isRoot { state.withLock { $0.scan.directories += 1 } }
        return true
    }

    func skipped(_ path: RelativePath) { state.withLock { $0.scan.mounts += 1 } }

    func failed(_ path: RelativePath, _ error: Errno) {
        let problem = CleaningProblem(path: path, reason: "cannot be read: \(error.explanation)")
        state.withLock { $0.problems.add(problem) }
        report(problem)
    }

    func emptied(_ directory: WalkedDirectory, _ parent: Descriptor) -> Bool { false }

    /// What was found, after the walk. `need` is told the size of all files.
    func finish(_ need: (_ size: Int64) -> CleaningNeed?) -> CleaningPlan {
        state.withLock { state in
            state.scan.linkedElsewhere = state.census.names
            state.scan.hasUncountedLinks = state.census.isPartial
            var plan = CleaningPlan(
                need: need(state.scan.bytes), scan: state.scan, problems: state.problems)
            plan.census = state.census
            guard let need = plan.need else { return plan }
            plan.cut = state.selection.cut(need: need.bytes)
            plan.filter = state.filter
            if let cut = plan.cut { plan.filter?.select(through: cut.through.time) }
            plan.isEnough = plan.cut?.isEnough ?? false
            return plan
        }
    }
}
