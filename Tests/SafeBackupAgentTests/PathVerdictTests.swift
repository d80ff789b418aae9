import SafeBackupCore
@testable import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import Testing

@testable import SafeBackupAgent

/// The one sentence that answers "is it in the backup, and if not, why".
@Suite struct PathVerdictTests {
    private static let now = Timestamp(microseconds: 1_790_000_000_000_000)
    private var now: Timestamp { Self.now }

    private func status(_ size: Int64 = 5, kind: EntryKind = .file, mode: UInt32 = 0o644) -> FileStatus {
        FileStatus(
            kind: kind,
            fingerprint: Fingerprint(
                inode: 7, size: size, mtime: FileTime(nanoseconds: 9), ctime: FileTime(nanoseconds: 9)), mode: mode,
            uid: 1, gid: 2)
    }

    private func version(
        endedAt: Timestamp? = nil, reason: String? = nil, kind: EntryKind = .file, isFuzzy: Bool = false
    ) throws -> PathVersion {
        let status = status(kind: kind)
        return PathVersion(
            name: NameRecord(
                id: 3, copy: kind == .directory ? nil : 4, kind: kind, fingerprint: status.fingerprint,
                metadata: FileMetadata(mode: status.mode, uid: 1, gid: 2), isFuzzy: isFuzzy),
            copy: kind == .directory
                ? nil
                : CopyRecord(
                    id: 4, location: try RelativePath("d/f"), kind: kind, digest: nil, size: 5, storedAt: now, inode: 1,
                    mtime: nil), role: "current", beganAt: now + .seconds(-12), endedAt: endedAt, endReason: reason)
    }

    private func job(
        _ state: QueuedJob.State = .pending, _ action: JobAction = .store, attempts: Int = 0, error: String? = nil
    ) throws -> QueuedJob {
        QueuedJob(
            source: SourceID(rawValue: 1), destination: DestinationID(rawValue: 1), path: try RelativePath("d/f"),
            state: state, action: action, sequence: 5, generation: 5, isDirectory: false, hashFirst: false,
            firstSeenAt: now + .milliseconds(-1_200), notBefore: now + .milliseconds(800), attempts: attempts,
            errorCode: error == nil ? nil : "sourceFailed", error: error)
    }

    private func facts(
        finding: SourceLook.Finding, versions: [PathVersion] = [], running: Bool = true
    ) throws -> PathFacts {
        let identity = RootIdentity(type: .ext, volume: nil, inode: 2, birthTime: nil)
        return PathFacts(
            source: SourceRecord(
                id: SourceID(rawValue: 1), uuid: "u", path: Array("/s".utf8), identity: identity, isDesynced: false,
                lastReconcileAt: now, isActive: true),
            destination: DestinationRecord(
                id: DestinationID(rawValue: 1), location: Array("/d".utf8), kind: "local", accumulatedSize: 0),
            path: try RelativePath("d/f"), now: now, isAgentRunning: running, finding: finding, versions: versions)
    }

    private func expect(
        _ facts: PathFacts, _ code: PathVerdict.Code, _ exit: Int32, _ text: String,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let verdict = PathVerdict(facts)
        #expect(verdict.code == code && verdict.exitCode == exit, sourceLocation: sourceLocation)
        #expect(verdict.text.hasPrefix(text), "\(verdict.text)", sourceLocation: sourceLocation)
    }

    private var when: String { "12 s ago (2026-09-21T14:13:08Z)" }

    @Test("What is saved is compared with the source as it is now")
    func saved() throws {
        let live = try version()
        expect(
            try facts(finding: .present(status()), versions: [live]), .saved, 0, "Saved \(when) and unchanged since.")
        let changed = try facts(finding: .present(status(6)), versions: [live])
        expect(
            changed, .changed, 3, "It changed at the source since it was saved \(when): no event has told of that yet")
        let down = try facts(finding: .present(status(mode: 0o600)), versions: [live], running: false)
        expect(down, .changed, 3, "Its mode or owner changed at the source since it was saved \(when): no agent runs")
        let fuzzy = try facts(finding: .present(status()), versions: [try version(isFuzzy: true)])
        expect(fuzzy, .fuzzy, 3, "Saved \(when), but it changed each time it was read")
        expect(try facts(finding: .absent, versions: [live]), .deleted, 0, "Gone from the source")
        expect(
            try facts(finding: .unclear("No"), versions: [live]), .unclear, 3,
            "Saved \(when); whether it changed since is not known: No.")
        // A directory's size and times change with its entries.
        var directory = try facts(
            finding: .present(status(4_096, kind: .directory)), versions: [try version(kind: .directory)])
        expect(directory, .saved, 0, "Saved")
        directory.below.waiting = 2
        expect(directory, .queued, 0, "Saved \(when); below it 2 paths still wait.")
        directory.below.stuck = 1
        expect(directory, .partly, 3, "Saved \(when); below it 1 stuck, 0 not saved")
    }

    @Test("A job tells what it waits for, and that the older state is there meanwhile")
    func waiting() throws {
        var facts = try facts(finding: .present(status(6)), versions: [try version()])
        facts.job = try job()
        facts.phase = "settling"
        expect(
            facts, .settling, 0,
            "Waiting: changed 1.2 s ago, and settles until 2026-09-21T14:13:20Z (in 0.8 s). The state saved \(when) is in"
        )
        facts.phase = "queued"
        expect(facts, .queued, 0, "Waiting: queued 1.2 s ago")
        facts.isAgentRunning = false
        expect(facts, .queued, 0, "Waiting since 1.2 s: no agent runs; it is saved when one is started.")
        facts.phase = "paused"
        expect(facts, .paused, 3, "Waiting since 1.2 s: a person paused it")
        facts.phase = "held"
        facts.destination.hold = Hold(reason: .sentinelMissing, message: "Not mounted", at: now)
        expect(facts, .held, 4, "Waiting since 1.2 s: the destination is held: Not mounted.")
        facts.job = try job(.leased)
        facts.phase = "saving"
        expect(facts, .saving, 0, "It is being saved now.")
        facts.job = try job(attempts: 2, error: "It is cold")
        facts.phase = "failing"
        expect(
            facts, .failing, 3, "Not saved yet after 2 tries, since 1.2 s: It is cold (sourceFailed); next try in 0.8 s"
        )
        facts.job = try job(.stuck, attempts: 8, error: "It is cold")
        facts.phase = "stuck"
        expect(facts, .stuck, 3, "Stuck since 1.2 s after 8 tries: It is cold (sourceFailed). It is tried again when")
        // A job that only compares digests, of a file that looks as it was saved.
        facts.job = try job(.leased)
        facts.job?.hashFirst = true
        facts.phase = "held"
        facts.finding = .present(status())
        expect(facts, .saved, 0, "Saved \(when) and unchanged since, as far as size and times tell")
        facts.finding = .present(status(mode: 0o600))
        expect(facts, .held, 4, "Waiting since")
        facts.finding = .present(status(6))
        facts.job = try job(.pending, .delete)
        facts.phase = "queued"
        expect(facts, .deleted, 0, "Deleted at the source 1.2 s ago")
    }

    @Test("What leaves a path out comes before everything else, but not for a path that is gone")
    func leftOut() throws {
        let rules = try ExcludeRules(patterns: ["d", "!d/f"])
        var facts = try facts(finding: .present(status()), versions: [try version()])
        facts.obstacle = rules.finding(for: facts.path, isDirectory: false).map { .rule($0) }
        expect(
            facts, .excluded, 3,
            "Not saved: its directory d is excluded by rule 'd' (--exclude 1); rule '!d/f' (--exclude 2) has no effect")
        #expect(PathVerdict(facts).text.hasSuffix("What was saved \(when) stays in the backup."))
        facts.finding = .absent
        facts.versions = [try version(endedAt: now, reason: "deleted")]
        expect(facts, .deleted, 0, "Deleted at the source")
        facts.finding = .present(status(kind: .fifo))
        facts.versions = []
        facts.obstacle = .skipped(.special, at: facts.path)
        expect(facts, .notSaved, 3, "Not saved: it is a FIFO")
        facts.obstacle = nil
        facts.notSaved = (try RelativePath("d"), "unreadable", now + .seconds(-100))
        expect(facts, .notSaved, 3, "Not saved: its directory d may not be read")
        // A job that came since knows more.
        facts.job = try job()
        facts.phase = "settling"
        expect(facts, .settling, 0, "Waiting")
    }

    @Test("What is not saved and not queued is explained by what the agent can know")
    func unseen() throws {
        var facts = try facts(finding: .present(status()))
        expect(facts, .unseen, 3, "Not saved: no event has told of it yet")
        facts.source.lastReconcileAt = nil
        expect(facts, .unseen, 3, "Not saved: the first walk has not come to it yet")
        facts.isAgentRunning = false
        expect(facts, .unseen, 3, "Not saved: no agent runs")
        facts.source.hold = Hold(reason: .rootReplaced, message: "Another disk", at: now)
        expect(facts, .held, 4, "Not saved: the source is held: Another disk.")
        facts.finding = .unclear("Another disk")
        expect(facts, .held, 4, "Nothing in the backup has, or had, this path")
        facts.finding = .absent
        expect(facts, .unknown, 3, "Nothing is known of it")
        facts.link = try RelativePath("d")
        expect(facts, .notSaved, 3, "Not saved: its directory d is a symbolic link, which is saved as a link")
        var moved = try version(endedAt: now + .seconds(-5), reason: "moved")
        moved.movedTo = try RelativePath("e")
        facts.versions = [moved]
        expect(facts, .moved, 0, "Moved 5.0 s ago (2026-09-21T14:13:15Z) to e.")
    }

    @Test("Of a deleted path whose last copy was removed it is said when, why, and what is left")
    func cleaned() throws {
        var last = try version(endedAt: now + .seconds(-100), reason: "deleted")
        last.copy = nil
        var facts = try facts(finding: .absent, versions: [last])
        let deleted = "Deleted at the source 100 s ago (2026-09-21T14:11:40Z); "
        expect(facts, .lost, 3, deleted + "its last state is not in the backup any more: it was replaced too soon")
        #expect(PathVerdict(facts).text.hasSuffix("no other good state of it is kept."))
        facts.cleaned = CleanedCopy(
            at: now + .seconds(-50), location: try RelativePath("d/f"), size: 2_048, reason: "space")
        expect(
            facts, .lost, 3,
            deleted
                + "its last copy (2.0 KiB) was removed from the backup 50 s ago (2026-09-21T14:12:30Z), to make room "
                + "on the destination's disk (reason 'space' in v_cleaned); no other")
        facts.cleaned?.reason = "policy: keep-last=1"
        expect(
            facts, .lost, 3,
            deleted + "its last copy (2.0 KiB) was removed from the backup 50 s ago "
                + "(2026-09-21T14:12:30Z), by the keep- keys of the configuration (reason 'policy: keep-last=1'")
        facts.versions.append(try version(endedAt: now + .seconds(-200), reason: "replaced"))
        #expect(
            PathVerdict(facts).text.hasSuffix(
                "'safebackup restore d/f --at 2026-09-21T14:13:08Z --to DIR' brings back an older one."))
        // A row of an earlier file of this name says nothing of the last state.
        facts.cleaned?.at = now + .seconds(-101)
        expect(facts, .lost, 3, deleted + "its last state is not in the backup any more")
        // A directory never had a copy.
        facts.versions = [try version(endedAt: now + .seconds(-100), reason: "deleted", kind: .directory)]
        expect(facts, .deleted, 0, deleted + "it was a directory.")
        // A link's target is in the catalogue, where the destination takes no links.
        last.name?.linkTarget = Array("x".utf8)
        facts.versions = [last]
        expect(facts, .deleted, 0, deleted + "'safebackup restore d/f --to DIR' brings back its last state.")
    }

    @Test("A damaged copy is never said to be in the backup, and what to do is told")
    func damaged() throws {
        var live = try version()
        live.copy?.isDamaged = true
        var facts = try facts(finding: .present(status()), versions: [live])
        expect(facts, .lost, 3, "Saved \(when), but the stored copy was found damaged or missing: the backup has not")
        #expect(PathVerdict(facts).text.contains("'safebackup verify d/f' has it saved again"))
        facts.finding = .absent
        expect(facts, .lost, 3, "Gone from the source, which nobody has noted yet; its last copy was found damaged")
        facts.finding = .present(status(6))
        facts.job = try job()
        facts.phase = "settling"
        #expect(
            PathVerdict(facts).text.hasSuffix("The state saved \(when) was found damaged or missing in the backup."))
        facts.job = nil
        facts.finding = .absent
        live.endedAt = now
        live.endReason = "deleted"
        facts.versions = [live, try version(endedAt: now + .seconds(-5), reason: "replaced")]
        expect(
            facts, .lost, 3, "Deleted at the source 0.0 s ago (2026-09-21T14:13:20Z); its last copy was found damaged")
        #expect(PathVerdict(facts).text.contains("--at 2026-09-21T14:13:08Z --to DIR' brings back an older one"))
    }
}
