import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupAgent
@testable import SafeBackupState

/// What `exposure` says it does not know: it must never claim that nothing is exposed where that is a guess.
@Suite struct ExposureReportTests {
    private let temporary: TemporaryDirectory
    private let directory: StateDirectory
    private let store: StateStore
    private let source: SourceID
    private let destination: DestinationID

    init() async throws {
        temporary = try TemporaryDirectory()
        directory = StateDirectory(path: temporary.path.appending("state"))
        _ = try temporary.make("source")
        _ = try temporary.make("backup")
        let root = try SourceRoot(path: temporary.path.appending("source"), known: nil)
        store = try await StateStore.open(in: directory.path).0
        source = try await store.registerSource(path: root.path.bytes, identity: root.identity, uuid: "u").id
        destination = try await store.registerDestination(
            location: temporary.path.appending("backup").bytes, kind: "local"
        ).id
        try await store.setPair(source, destination, prefix: .root)
        try await store.activate(pairs: [(source, destination)])
    }

    private func walk(complete: Bool = true) async throws {
        let id = try await store.beginReconcile(source, reason: "start")
        try await store.finishReconcile(id, complete: complete)
        try await set("directories = 3, watched = 3, coverage = 'events'")
    }

    private func set(_ columns: String) async throws {
        try await store.write { (connection) throws(SafeBackupError) in
            try connection.execute("UPDATE source SET \(columns)")
        }
    }

    /// The report, as if an agent ran, or not.
    private func report(isRunning: Bool = true) throws -> ExposureReport {
        let lock = isRunning ? try directory.lock() : nil
        defer { withExtendedLifetime(lock) {} }
        return try ExposureReport(directory)
    }

    private func gaps(_ report: ExposureReport) -> [String] { report.sources.flatMap { $0.gaps.map(\.code) } }

    @Test("Only a walk that ended, an agent that runs and a source that is in sync make zero a fact")
    func known() async throws {
        #expect(gaps(try report()) == ["neverWalked", "notWatched"])
        try await walk(complete: false)
        #expect(gaps(try report()) == ["neverWalked"])
        try await walk()
        var known = try report()
        #expect(known.isKnown && known.exitCode == 0)
        #expect(known.text.hasPrefix("Nothing would be lost if the source's disk died now."), "\(known.text)")
        // Both lie in one temporary directory.
        #expect(known.text.contains("a failing disk takes both"))
        try await store.markDesynced(source, true)
        known = try report()
        #expect(gaps(known) == ["desynced"] && known.exitCode == 3)
        #expect(known.text.hasPrefix("What would be lost if the source's disk died now is not known."))
    }

    @Test("While the only destination is held, the report does not leave it at nothing being lost")
    func destinationHeld() async throws {
        try await walk()
        #expect(!(try report().text.contains("still exist is not known")))
        let error = SafeBackupError(.sentinelMissing, "Not there", disposition: .destinationUnavailable)
        try await store.hold(.destination(destination), error)
        let held = try report()
        #expect(held.exitCode == 4 && held.text.contains("still exist is not known"), "\(held.text)")
    }

    @Test("After a start nothing is known of what changed before it, until the first walk has ended")
    func started() async throws {
        try await walk()
        try await store.markStarted(source)
        #expect(gaps(try report()) == ["desynced"])
        let id = try await store.beginReconcile(source, reason: "start")
        #expect(gaps(try report()) == ["desynced"])
        try await store.finishReconcile(id, complete: true)
        #expect(gaps(try report()) == [])
        // A walk that only makes sure takes nothing back; one after the watches were lost does.
        _ = try await store.beginReconcile(source, reason: "periodic")
        #expect(gaps(try report()) == [])
        _ = try await store.beginReconcile(source, reason: "start")
        #expect(gaps(try report()) == ["desynced"])
    }

    @Test("What waits with a size that no change told is unknown, not nothing")
    func unknownSizes() async throws {
        func enqueue(_ path: String, _ action: JobAction = .store, size: Int64? = nil) async throws {
            let change = QueuedChange(
                path: try RelativePath(path), action: action, notBefore: WallClock.system.now, size: size)
            try await store.enqueue([(destination, [change])], source: source)
        }
        func texts() throws -> [String] {
            [try StatusReport(directory).text, try QueueReport(directory, onlyStuck: false, limit: 9).text]
        }
        try await enqueue("gone", .delete)
        for text in try texts() { #expect(text.contains(", 0 B"), "\(text)") }
        try await enqueue("told by an event")
        for text in try texts() { #expect(text.contains(", size not known yet"), "\(text)") }
        #expect(try texts()[1].contains(" unknown "))
        #expect(try StatusReport(directory).destinations[0].pendingBytes == nil)
        #expect(try QueueReport(directory, onlyStuck: false, limit: 9).destinations[0].pendingBytes == nil)
        try await enqueue("seen by a walk", size: 2_048)
        for text in try texts() { #expect(text.contains(", 2.0 KiB and 1 of unknown size"), "\(text)") }
        #expect(try StatusReport(directory).destinations[0].pendingUnknownSize == 1)
    }

    @Test("One of something is not several")
    func plural() async throws {
        try await walk()
        try await set("directories = 1, watched = 1, excluded = 1")
        let lock = try directory.lock()
        defer { withExtendedLifetime(lock) {} }
        let text = try StatusReport(directory).text
        #expect(text.contains("its directory is watched") && text.contains("1 entry by rule"), "\(text)")
    }

    @Test("Without an agent nothing is known since its last sign of life")
    func notRunning() async throws {
        try await walk()
        let report = try report(isRunning: false)
        #expect(gaps(report) == ["agentNotRunning"] && !report.isKnown && report.exitCode == 3)
        #expect(report.sources[0].gaps[0].since == (try StateReader(in: directory.path).lastSignOfLife())?.iso8601)
    }

    @Test("A source that nobody can look at is not known, and held")
    func held() async throws {
        try await walk()
        try await store.hold(.source(source), SafeBackupError(.rootMissing, "It is away", disposition: .transient))
        let report = try report()
        #expect(gaps(report) == ["sourceHeld"] && report.exitCode == 4)
        #expect(report.text.contains("It is away"))
    }

    @Test("Directories that are polled, and those that cannot be read, are part of the number")
    func coverage() async throws {
        try await walk()
        try await set("directories = 1200, watched = 90, coverage = 'partly', coverage_message = 'Raise the limit'")
        var report = try report()
        #expect(gaps(report) == ["polled"])
        #expect(report.text.contains("Raise the limit"))
        try await set("coverage_message = NULL")
        #expect(try self.report().text.contains("90 of 1,200 directories are watched; the others are polled"))
        try await set("watched = NULL, directories = NULL, coverage = NULL")
        report = try self.report()
        #expect(gaps(report) == ["notWatched"] && !report.isKnown)
        try await set("directories = 1200, watched = 1200, coverage = 'events', coverage_message = NULL, excluded = 3")
        try await store.recordNotSaved(source, [(try RelativePath("d"), .unreadable, .directory)])
        report = try self.report()
        #expect(gaps(report) == ["unreadableDirectories"] && report.exitCode == 3)
        #expect(report.text.contains("left out      3 entries by exclude rules"))
    }

    @Test("What only waits for its turn is exposed, but no reason to worry; FIFOs and other disks are not in the sum")
    func sums() async throws {
        try await walk()
        try temporary.write(String(repeating: "a", count: 1_000), to: "source/a")
        try temporary.write(String(repeating: "b", count: 24), to: "source/b")
        let soon = WallClock.system.now + .seconds(100)
        let changes = try ["a", "b", "gone"].map {
            QueuedChange(path: try RelativePath($0), action: .store, notBefore: soon)
        }
        try await store.enqueue([(destination, changes)], source: source)
        try await store.recordNotSaved(
            source,
            [(try RelativePath("p"), .special, .fifo), (try RelativePath("m"), .otherFileSystem, .directory)])
        let report = try report()
        #expect(report.exitCode == 0 && report.isKnown)
        #expect(report.total.files == 3 && report.total.bytes == 1_024 && report.total.filesOfUnknownSize == 1)
        #expect(
            report.text.hasPrefix(
                "If the source's disk died now, 3 files (1.0 KiB and 1 of unknown size) would be lost"))
        #expect(report.sources[0].destinations[0].parts.map(\.reason) == ["settling", "otherFileSystem", "special"])
    }

    @Test("What one of two destinations holds is not lost; an inactive source is shown and not counted")
    func total() async throws {
        try await walk()
        let other = try await store.registerDestination(location: Array("/nowhere/at-all".utf8), kind: "local").id
        try await store.setPair(source, other, prefix: .root)
        try await store.activate(pairs: [(source, destination), (source, other)])
        let change = QueuedChange(
            path: try RelativePath("a"), action: .store, notBefore: WallClock.system.now, size: 7)
        try await store.enqueue([(other, [change])], source: source)
        #expect(try report().total.files == 0)
        try await store.enqueue([(destination, [change])], source: source)
        #expect(try report().total.files == 1)
        try await store.activate(pairs: [])
        let inactive = try report()
        #expect(gaps(inactive) == ["inactive"] && !inactive.isKnown && inactive.exitCode == 3)
        #expect(inactive.total.files == 0 && inactive.sources[0].destinations.isEmpty)
    }
}
