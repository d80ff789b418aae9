import SafeBackupCore
import SafeBackupState
import SafeBackupWatch

/// Everything that is known of one path of a source at one destination.
struct PathFacts {
    var source: SourceRecord
    var destination: DestinationRecord
    var path: RelativePath
    var now: Timestamp
    var isAgentRunning: Bool
    /// What is at the source now.
    var finding: SourceLook.Finding
    var obstacle: SourceLook.Obstacle?
    /// A directory of the path that is a symbolic link at the source.
    var link: RelativePath?
    /// The path, or the directory of it, that a walk found and could not save.
    var notSaved: (path: RelativePath, reason: String, seenAt: Timestamp)?
    var job: QueuedJob?
    /// See `ExposurePart.reason`.
    var phase: String?
    /// Newest first; the live one, if there is one, is the first.
    var versions: [PathVersion]
    var below = BelowSummary()
    /// The copy of the path that was removed last, where none is its current one.
    var cleaned: CleanedCopy?

    enum Difference {
        case none
        case metadata
        case content
    }

    /// How the source differs from what is saved, by what a look tells.
    func difference(from status: FileStatus) -> Difference {
        guard let name = live?.name else { return .content }
        if name.kind != status.kind { return .content }
        // A directory's size and times change with its entries.
        if name.kind != .directory
            && (name.fingerprint.size != status.size || name.fingerprint.mtime != status.fingerprint.mtime)
        {
            return .content
        }
        let saved = name.metadata
        return saved.mode == status.mode && saved.uid == status.uid && saved.gid == status.gid ? .none : .metadata
    }

    var live: PathVersion? { versions.first.flatMap { $0.name != nil && $0.endedAt == nil ? $0 : nil } }
}

/// The answer to "is it in the backup, and if not, why": a word for programs and a sentence for people.
struct PathVerdict: Equatable {
    enum Code: String {
        case saved
        /// Gone from the source, and in the backup.
        case deleted
        case moved
        /// In the course of things.
        case saving
        case settling
        case queued
        /// A person stopped it.
        case paused
        /// A directory that is saved, with something below it that is not.
        case partly
        case failing
        case stuck
        case fuzzy
        case excluded
        case notSaved
        /// It differs from what was saved, and nothing is queued for it.
        case changed
        /// It is there, and nobody has seen it yet.
        case unseen
        /// In the backup, but the source cannot be compared.
        case unclear
        case held
        /// The backup had it, and has no good copy of it any more.
        case lost
        /// Neither at the source nor in the backup.
        case unknown
    }

    var code: Code
    var text: String

    init(_ code: Code, _ text: String) {
        self.code = code
        self.text = text
    }

    /// 0: saved, or about to be without anybody's help; 4: held; 3: anything else.
    var exitCode: Int32 {
        switch code {
        case .saved, .deleted, .moved, .saving, .settling, .queued: 0
        case .held: 4
        default: 3
        }
    }

    // MARK: - Deciding

    /// Pure. What keeps the path out of the backup comes first, then what its job says, then what is saved.
    init(_ facts: PathFacts) {
        if facts.path.isRoot {
            self.init(.saved, "This is the source itself: 'safebackup status' tells how it is.")
            return
        }
        let isThere = if case .absent = facts.finding { false } else { true }
        if isThere, let verdict = Self.leftOut(facts) {
            self = verdict
        } else if let sure = Self.comparedAgain(facts) {
            self = sure
        } else if let job = facts.job {
            self = Self.waiting(job, facts)
        } else if let live = facts.live {
            self = Self.saved(live, facts)
        } else {
            self = Self.notSaved(facts)
        }
    }

    private static func leftOut(_ facts: PathFacts) -> PathVerdict? {
        let kept =
            facts.live.map { " What was saved \(ReportText.ago($0.beganAt, facts.now)) stays in the backup." } ?? ""
        switch facts.obstacle {
        case .rule(let finding):
            return PathVerdict(.excluded, "Not saved: \(finding.explanation(for: facts.path)).\(kept)")
        case .skipped(let reason, let place):
            let what = place == facts.path ? "it" : "its directory \(place)"
            return PathVerdict(.notSaved, "Not saved: \(what) \(reason.explanation).\(kept)")
        case nil: break
        }
        guard let row = facts.notSaved, facts.job == nil else { return nil }
        let what = row.path == facts.path ? "it" : "its directory \(row.path)"
        let why = SkipReason(rawValue: row.reason)?.explanation ?? "could not be saved (\(row.reason))"
        return PathVerdict(
            .notSaved, "Not saved: \(what) \(why); seen so \(ReportText.ago(row.seenAt, facts.now)).\(kept)")
    }

    /// A job that only makes sure: what is saved looks like what is there.
    private static func comparedAgain(_ facts: PathFacts) -> PathVerdict? {
        guard let job = facts.job, job.hashFirst, job.action == .store, job.state != .stuck, job.errorCode == nil,
            let live = facts.live, case .present(let status) = facts.finding, facts.difference(from: status) == .none
        else { return nil }
        return PathVerdict(
            .saved,
            "Saved \(ReportText.ago(live.beganAt, facts.now)) and unchanged since, as far as size and times tell; its digest "
                + "is compared once more, to be sure.")
    }

    private static func waiting(_ job: QueuedJob, _ facts: PathFacts) -> PathVerdict {
        let now = facts.now
        let meanwhile =
            facts.live.map { live in
                let state = " The state saved \(ReportText.ago(live.beganAt, now))"
                return live.copy?.isDamaged == true
                    ? "\(state) was found damaged or missing in the backup." : "\(state) is in the backup meanwhile."
            } ?? ""
        let since = ReportText.span(now - job.firstSeenAt)
        let error = "\(job.error ?? "it failed") (\(job.errorCode ?? "unknown"))"
        let tries = job.attempts > 0 ? " after \(ReportText.count(job.attempts, "try", "tries"))" : ""
        if job.action == .delete && job.state != .stuck {
            return PathVerdict(
                .deleted,
                "Deleted at the source \(since) ago; that waits to be noted, and the copy stays in the backup.")
        }
        switch facts.phase {
        case "stuck":
            return PathVerdict(
                .stuck,
                "Stuck since \(since)\(tries): \(error). It is tried again when it changes, by 'safebackup retry', and by "
                    + "itself \(ReportText.ahead(job.notBefore, now)).\(meanwhile)")
        case "held":
            let hold = facts.source.hold ?? facts.destination.hold
            let what = facts.source.hold == nil ? "destination" : "source"
            return PathVerdict(
                .held,
                "Waiting since \(since): the \(what) is held: \(hold?.message ?? "see 'safebackup status'").\(meanwhile)"
            )
        case "paused":
            return PathVerdict(
                .paused, "Waiting since \(since): a person paused it; 'safebackup resume' goes on.\(meanwhile)")
        case "saving": return PathVerdict(.saving, "It is being saved now.\(meanwhile)")
        case "fuzzy":
            return PathVerdict(
                .fuzzy,
                "Saved, but it changed each time it was read, so that the copy mixes several states (fuzzy); it is read "
                    + "again \(ReportText.ahead(job.notBefore, now)).")
        case "failing":
            return PathVerdict(
                .failing,
                "Not saved yet\(tries), since \(since): \(error); next try \(ReportText.ahead(job.notBefore, now))."
                    + meanwhile)
        default: break
        }
        if !facts.isAgentRunning {
            return PathVerdict(
                .queued, "Waiting since \(since): no agent runs; it is saved when one is started.\(meanwhile)")
        }
        if facts.phase == "settling" {
            return PathVerdict(
                .settling,
                "Waiting: changed \(since) ago, and settles until \(job.notBefore.iso8601) (in "
                    + "\(ReportText.span(job.notBefore - now))).\(meanwhile)")
        }
        return PathVerdict(.queued, "Waiting: queued \(since) ago, and saved as soon as its turn comes.\(meanwhile)")
    }

    private static func saved(_ live: PathVersion, _ facts: PathFacts) -> PathVerdict {
        let when = ReportText.ago(live.beganAt, facts.now)
        switch facts.finding {
        case .absent:
            if live.copy?.isDamaged == true {
                return PathVerdict(
                    .lost, "Gone from the source, which nobody has noted yet; \(lostState(live, facts))")
            }
            return PathVerdict(
                .deleted, "Gone from the source, which nobody has noted yet; what was saved \(when) is in the backup.")
        case .unclear(let message):
            if facts.source.hold != nil {
                return PathVerdict(
                    .held, "Saved \(when); the source is held since, and cannot be compared: \(message).")
            }
            return PathVerdict(.unclear, "Saved \(when); whether it changed since is not known: \(message).")
        case .present(let status):
            guard let name = live.name else { break }
            let difference = facts.difference(from: status)
            if difference != .none {
                let what = difference == .content ? "It changed" : "Its mode or owner changed"
                let next =
                    facts.source.hold != nil
                    ? "the source is held"
                    : facts.isAgentRunning
                        ? "no event has told of that yet; the next walk finds it"
                        : "no agent runs; its next start saves it"
                return PathVerdict(
                    facts.source.hold == nil ? .changed : .held,
                    "\(what) at the source since it was saved \(when): \(next).")
            }
            if name.isFuzzy {
                return PathVerdict(
                    .fuzzy,
                    "Saved \(when), but it changed each time it was read, so that the copy mixes several states (fuzzy)."
                )
            }
            if live.copy?.isDamaged == true {
                return PathVerdict(
                    .lost,
                    "Saved \(when), but the stored copy was found damaged or missing: the backup has not what was saved. The "
                        + "source still has it: 'safebackup verify \(facts.path)' has it saved again.")
            }
        }
        let below = facts.below
        if below.stuck + below.notSaved + below.fuzzy > 0 {
            return PathVerdict(
                .partly,
                "Saved \(when); below it \(grouped(below.stuck)) stuck, \(grouped(below.notSaved)) "
                    + "not saved, \(grouped(below.fuzzy)) fuzzy.")
        }
        if below.waiting > 0 {
            return PathVerdict(
                .queued, "Saved \(when); below it \(ReportText.count(below.waiting, "path")) still wait.")
        }
        if let hold = facts.destination.hold {
            return PathVerdict(
                .held, "Saved \(when) and unchanged since, but the destination is held: \(hold.message).")
        }
        return PathVerdict(.saved, "Saved \(when) and unchanged since.")
    }

    private static func notSaved(_ facts: PathFacts) -> PathVerdict {
        let last = facts.versions.first
        switch facts.finding {
        case .present:
            if let hold = facts.source.hold {
                return PathVerdict(.held, "Not saved: the source is held: \(hold.message).")
            }
            let next =
                !facts.isAgentRunning
                ? "no agent runs, and its next start saves it"
                : facts.source.lastReconcileAt == nil
                    ? "the first walk has not come to it yet"
                    : "no event has told of it yet, and the next walk finds it"
            return PathVerdict(.unseen, "Not saved: \(next).")
        case .unclear(let message) where last == nil:
            return PathVerdict(
                facts.source.hold == nil ? .unknown : .held,
                "Nothing in the backup has, or had, this path, and the source cannot be looked at: \(message).")
        case .absent, .unclear: break
        }
        if last == nil, let link = facts.link {
            return PathVerdict(
                .notSaved,
                "Not saved: its directory \(link) is a symbolic link, which is saved as a link; what it leads to is no part "
                    + "of the source: save that by itself.")
        }
        guard let last else {
            return PathVerdict(
                .unknown,
                "Nothing is known of it: it is not at the source, and nothing in the backup has, or had, this path.")
        }
        guard let ended = last.endedAt, last.name != nil else {
            return PathVerdict(
                .deleted, "It is not at the source; the backup holds what was in the destination before the first save."
            )
        }
        let when = ReportText.ago(ended, facts.now)
        switch last.endReason {
        case "moved": return PathVerdict(.moved, "Moved \(when)\(last.movedTo.map { " to \($0)" } ?? "").")
        case "lost": return PathVerdict(.lost, "Its copies were lost \(when), when the destination was replaced.")
        default:
            if let place = last.movedTo { return PathVerdict(.moved, "Moved to \(place) \(when).") }
            return deleted(last, facts, when)
        }
    }

    /// Its last state ended with a deletion, and lies nowhere else.
    private static func deleted(_ last: PathVersion, _ facts: PathFacts, _ when: String) -> PathVerdict {
        let what = "Deleted at the source \(when); "
        if last.name?.kind == .directory { return PathVerdict(.deleted, "\(what)it was a directory.") }
        if let copy = last.copy {
            if copy.isDamaged { return PathVerdict(.lost, what + lostState(last, facts)) }
        } else if last.name?.linkTarget == nil {
            return PathVerdict(.lost, what + gone(last, facts))
        }
        return PathVerdict(
            .deleted, "\(what)'safebackup restore \(facts.path) --to DIR' brings back its last state.")
    }

    /// What a damaged last copy means, and what to do.
    private static func lostState(_ last: PathVersion, _ facts: PathFacts) -> String {
        "its last copy was found damaged or missing, so that what was saved \(ReportText.ago(last.beganAt, facts.now)) is lost"
            + " unless it lies elsewhere ('safebackup verify \(facts.path)' reads it again, and tells where the same content "
            + "is); \(olderState(facts))"
    }

    /// What became of a last copy that the backup has no more.
    private static func gone(_ last: PathVersion, _ facts: PathFacts) -> String {
        let older = olderState(facts)
        guard let cleaned = facts.cleaned, let ended = last.endedAt, cleaned.at >= ended else {
            return
                "its last state is not in the backup any more: it was replaced too soon to be kept, or removed since; \(older)"
        }
        if cleaned.reason == "missing" {
            return "its last copy was not there any more when it was to be removed "
                + "\(ReportText.ago(cleaned.at, facts.now)): somebody else took it (reason 'missing' in v_cleaned); \(older)"
        }
        return "its last copy (\(ByteCount(cleaned.size))) was removed from the backup "
            + "\(ReportText.ago(cleaned.at, facts.now)), \(cleaned.cause) (reason '\(cleaned.reason)' in v_cleaned); \(older)"
    }

    /// What else can be had.
    private static func olderState(_ facts: PathFacts) -> String {
        let good = facts.versions.first { version in
            guard let name = version.name, let copy = version.copy else { return false }
            return version.endedAt != nil && !copy.isDamaged && !name.isFuzzy && name.kind != .directory
        }
        guard let good else { return "no other good state of it is kept." }
        return "'safebackup restore \(facts.path) --at \(good.beganAt.iso8601) --to DIR' brings back an older one."
    }
}

extension CleanedCopy {
    /// Goes on after "it was removed".
    fileprivate var cause: String {
        if reason.hasPrefix("prune") { return "as somebody asked by 'safebackup prune'" }
        if reason.hasPrefix("clean") { return "as somebody asked by 'safebackup clean'" }
        if reason.hasPrefix("policy") { return "by the keep- keys of the configuration" }
        return switch reason {
        case "space": "to make room on the destination's disk"
        case "versionLimit": "because many newer states of it were kept"
        case "damaged": "because it was damaged"
        default: "by a rule"
        }
    }
}
