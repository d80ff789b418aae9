import Glibc
public import SafeBackupCore
import SafeBackupSystem
public import SystemPackage

/// Frees space in a directory of backups without a catalogue: removes the oldest files until the limits are kept, and
/// no more. Blocks: for a thread of its own; in `async` code `import SafeBackup` brings `cleanInBackground()`, which does not.
///
/// It plans first, on a walk that removes nothing, then removes what is older than the cut on a second walk, each file
/// after another look. It removes neither the directory itself nor anything above or outside of it, follows no link and
/// enters no mount, and refuses a directory that holds an agent's backup or lies in one. Whenever it is killed, what it
/// removed is gone and everything else is whole; the next cleaning plans anew. Memory does not grow with the number of
/// files.
public struct BackupCleaner: Sendable {
    /// Plans in one cleaning, at most.
    private static let roundLimit = 8

    private let root: CleanedRoot
    private let configuration: CleaningConfiguration
    private let rules: AgeRules
    private let writtenAtStart: Int64
    private let report: @Sendable (CleaningEvent) -> Void

    /// Throws `invalidConfiguration` for limits or a directory that cannot be, `destinationTaken` for a directory that
    /// holds an agent's backup or lies in one, and `destinationForbidden`, `destinationReadOnly` or `destinationFailed`.
    public init(_ directory: FilePath, _ configuration: CleaningConfiguration) throws(SafeBackupError) {
        try configuration.limits.validate()
        if configuration.concurrency < 1 {
            throw CleaningLimits.invalid(
                "A concurrency of \(configuration.concurrency) removes nothing; give at least 1")
        }
        root = try CleanedRoot(directory, protected: configuration.protected)
        self.configuration = configuration
        writtenAtStart = configuration.written?().lowerBound ?? 0
        rules = AgeRules(order: configuration.order, hasStableInodes: root.volume.hasStableInodes)
        let listener = configuration.onEvent
        let gate = Locked(())
        report = { event in
            guard let listener else { return }
            gate.withLock { _ in listener(event) }
        }
    }

    /// Plans and does it, on the calling thread. What went wrong on the way is in the report; throws only as long as nothing was removed.
    public func clean() throws(SafeBackupError) -> CleaningReport {
        report(.started)
        let plan = try plan()
        return execute(plan)
    }

    // MARK: Plan

    /// Looks at everything and decides what would go. Removes nothing. Throws `destinationTaken` also for an agent's
    /// backup below the directory, and what `init` throws.
    public func plan() throws(SafeBackupError) -> CleaningPlan { try plan(after: nil, usage: try usage()) }

    private func plan(after floor: AgeKey?, usage: DiskUsage?) throws(SafeBackupError) -> CleaningPlan {
        let limits = configuration.limits
        if let usage {
            try limits.check(against: usage)
        } else if limits.needsUsage && limits.maxSize == nil {
            throw SafeBackupError(
                .destinationFailed,
                "How full the disk of \(root.path.printable) is cannot be told; give a limit for the size of the directory",
                disposition: .permanent)
        }
        let known = limits.need(usage: usage, size: nil)
        if known == nil && limits.maxSize == nil { return CleaningPlan(usage: usage, scan: CleaningScan()) }

        let clock = ContinuousClock()
        let started = clock.now
        // What the directory holds is known only at the end.
        var plan = try survey(
            AgeSelection(need: limits.maxSize == nil ? known?.bytes : nil, after: floor)
        ) { limits.need(usage: usage, size: $0) }
        while let need = plan.need, let cut = plan.cut, cut.isEnough, cut.files > Eraser.lateLimit {
            let refined = try survey(AgeHistogram(refining: cut)) { _ in need }
            // So much vanished meanwhile that the plan before is as good, or these files cannot be told apart.
            guard let finer = refined.cut, finer.isEnough, finer.files < cut.files else { break }
            (plan.cut, plan.census, plan.filter) = (finer, refined.census, refined.filter)
        }
        plan.scan.duration = started.duration(to: clock.now)
        plan.usage = usage
        plan.floor = floor
        plan.estimate()
        if plan.need != nil { report(.scanned(plan)) }
        return plan
    }

    private func survey(
        _ selection: some AgeCounting, _ need: (_ size: Int64) -> CleaningNeed?
    ) throws(SafeBackupError) -> CleaningPlan {
        let report = report
        let surveyor = Surveyor(rules, selection: selection, keepsFilter: rules.hasStableInodes) {
            report(.failed($0))
        }
        try walk(surveyor)
        return surveyor.finish(need)
    }

    private func walk(_ visitor: any TreeVisitor) throws(SafeBackupError) {
        let executor = threads()
        defer { executor?.stop() }
        var walk = TreeWalk(root, visitor, on: executor)
        try walk.run()
    }

    private func threads() -> ThreadExecutor? {
        guard configuration.concurrency > 1 else { return nil }
        do throws(Errno) {
            return try ThreadExecutor(name: "sb.clean", count: configuration.concurrency)
        } catch {
            return nil  // ignored because the caller's own thread does the same, slower
        }
    }

    private func usage() throws(SafeBackupError) -> DiskUsage? {
        if let usage = configuration.usage { return try usage() }
        do throws(Errno) {
            return try root.usage()
        } catch {
            throw root.failure("tell how full the disk is of", .root, error)
        }
    }

    // MARK: Execute

    /// Tells what the plan would remove, as events, and removes nothing.
    public func rehearse(_ plan: CleaningPlan) -> CleaningReport {
        var result = CleaningReport(need: plan.need, before: plan.usage, scan: plan.scan)
        if let need = plan.need { _ = run(plan, need, isRehearsal: true, &result) }
        return result
    }

    /// Removes what the plan selected. When that did not free enough, because files went or others wrote meanwhile, it
    /// plans again, from the cut on.
    public func execute(_ plan: CleaningPlan) -> CleaningReport {
        var result = CleaningReport(need: plan.need, before: plan.usage, after: plan.usage, scan: plan.scan)
        result.problems = plan.problems
        if plan.need != nil {
            do throws(SafeBackupError) {
                if root.isReadOnly { throw root.failure("remove files in", .root, .readOnlyFileSystem) }
                try execute(plan, &result)
            } catch {
                result.failure = error
            }
        }
        report(.completed(result))
        return result
    }

    private func execute(_ first: CleaningPlan, _ result: inout CleaningReport) throws(SafeBackupError) {
        var plan = first
        var writtenBefore = writtenAtStart
        while let need = plan.need {
            guard plan.isEnough || configuration.removesWhatItCan else { throw shortfall(plan, need, result) }
            result.rounds += 1
            result.scanDuration += plan.scan.duration
            let freedBefore = result.freed
            report(.deleting(plan))
            let reached = run(plan, need, isRehearsal: false, &result)
            if let failure = result.failure { throw failure }

            let freed = result.freed - freedBefore
            let size = first.scan.bytes - result.freed
            let limits = configuration.limits
            let written = configuration.written?() ?? 0...0
            var usage = try usage()
            if limits.need(usage: usage, size: size) != nil && usage != nil && configuration.usage == nil {
                // Some file systems free blocks only with the next commit. Best effort: the usage is asked again anyway.
                do throws(Errno) { try root.confined.root.syncFileSystem() } catch { _ = error }
                usage = try self.usage()
            }
            result.after = usage
            guard let rest = limits.need(usage: usage, size: size) else { return }
            guard plan.isEnough else { throw shortfall(plan, need, result) }
            if freed > 0, rest.limit != .maxSize, let before = plan.usage, let usage,
                usage.available.bytes - before.available.bytes < freed / 2 - (written.upperBound - writtenBefore)
            {
                throw enough(
                    "\(freedText(result)), and yet only \(ByteCount(max(0, usage.available.bytes - before.available.bytes))) "
                        + "more are free: somebody else fills the disk, or what was removed lives on in a snapshot, as a "
                        + "shared copy or in a program that has it open; nothing more is removed")
            }
            if result.rounds >= Self.roundLimit {
                throw enough(
                    "\(freedText(result)) in \(result.rounds) rounds, and \(ByteCount(rest.bytes)) are still missing")
            }
            writtenBefore = written.lowerBound
            plan = try self.plan(after: reached, usage: usage)
        }
    }

    /// One walk that removes. Returns up to which age everything was considered.
    private func run(
        _ plan: CleaningPlan, _ need: CleaningNeed, isRehearsal: Bool, _ result: inout CleaningReport
    ) -> AgeKey? {
        guard let cut = plan.cut else { return plan.floor }
        let clock = ContinuousClock()
        let started = clock.now
        let eraser = Eraser(
            root, rules, plan, cut: cut, need: need.bytes, removesDirectories: configuration.removesEmptyDirectories,
            isRehearsal: isRehearsal, listener: configuration.onEvent == nil ? nil : report)
        do throws(SafeBackupError) {
            try walk(eraser)
            eraser.finish()
        } catch {
            result.failure = error
        }
        eraser.add(to: &result)
        result.newest = FileTime(nanoseconds: cut.through.time)
        result.deleteDuration += started.duration(to: clock.now)
        return eraser.reached
    }

    // MARK: Texts

    private func freedText(_ result: CleaningReport) -> String {
        result.files == 0 ? "Nothing was removed" : "\(result.files) files were removed, \(ByteCount(result.freed))"
    }

    private func enough(_ text: String) -> SafeBackupError {
        SafeBackupError(.cannotFreeEnough, text, disposition: .destinationFull)
    }

    private func shortfall(_ plan: CleaningPlan, _ need: CleaningNeed, _ result: CleaningReport) -> SafeBackupError {
        var reasons: [String] = []
        if plan.scan.linkedElsewhere > 0 {
            reasons.append("files with another name elsewhere, which free nothing: \(plan.scan.linkedElsewhere)")
        }
        if plan.scan.protected > 0 {
            reasons.append("files in directories that this user may not change: \(plan.scan.protected)")
        }
        if plan.scan.mounts > 0 { reasons.append("other file systems, left alone: \(plan.scan.mounts)") }
        if plan.problems.count > 0 { reasons.append("not to be looked at: \(plan.problems.count)") }
        let why = reasons.isEmpty ? "" : " (\(reasons.joined(separator: "; ")))"
        let advice =
            result.files == 0
            ? "nothing was removed, because that would not be enough; give a lower limit, or make room otherwise"
            : "make room otherwise, or give a lower limit"
        return enough(
            "\(ByteCount(need.bytes)) must go, and what may be removed\(result.files == 0 ? "" : " is gone: it") holds "
                + "\(ByteCount(plan.isEnough ? 0 : plan.bytes))\(why); \(advice)")
    }
}

extension CleaningPlan {
    /// Fills in what the cut means.
    mutating func estimate() {
        guard let cut else { return }
        newest = FileTime(nanoseconds: cut.through.time)
        files = cut.filesBefore + cut.files
        bytes = cut.bytesBefore.addingClamped(cut.bytes)
        // Of the last stretch only a part is needed, in files of its mean size.
        if let need, isEnough, cut.first < cut.through, cut.files > 1, cut.bytes > 0 {
            let rest = need.bytes - cut.bytesBefore
            let mean = max(1, cut.bytes / Int64(cut.files))
            let last = min(Int64(cut.files), (rest + mean - 1) / mean)
            files = cut.filesBefore + Int(last)
            bytes = cut.bytesBefore.addingClamped(max(rest, last * mean))
        }
    }
}
