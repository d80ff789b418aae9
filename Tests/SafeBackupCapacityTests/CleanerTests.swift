import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupCapacity

@Suite("The cleaner")
struct CleanerTests {
    /// A disk of 1 GiB as a test declares it: what the cleaner removes becomes free.
    private final class DeclaredDisk: Sendable {
        let free: Locked<Int64>
        /// Of each removed byte so much becomes free, in percent.
        let honesty: Int64

        init(free: Int64, honesty: Int64 = 100) {
            self.free = Locked(free)
            self.honesty = honesty
        }

        var usage: DiskUsage {
            let free = free.withLock { $0 }
            return DiskUsage(
                total: .gibibytes(1), used: ByteCount(ByteCount.gibibytes(1).bytes - free), available: ByteCount(free))
        }

        func note(_ event: CleaningEvent) {
            guard case .deletedFile(_, let bytes) = event else { return }
            free.withLock { $0 += bytes * honesty / 100 }
        }

        func join(_ configuration: inout CleaningConfiguration) {
            let other = configuration.onEvent
            configuration.usage = { () throws(SafeBackupError) in self.usage }
            configuration.onEvent = {
                self.note($0)
                other?($0)
            }
        }
    }

    private func collecting(_ events: Locks, _ configuration: inout CleaningConfiguration) {
        configuration.onEvent = { event in events.add(event) }
    }

    /// What was told, as words.
    private final class Locks: Sendable {
        let words = Locked<[String]>([])

        func add(_ event: CleaningEvent) {
            let word =
                switch event {
                case .started: "started"
                case .scanned: "scanned"
                case .deleting: "deleting"
                case .deletedFile(let path, _): "\(path)"
                case .deletedDirectory(let path): "\(path)/"
                case .failed(let problem): "failed \(problem.path)"
                case .completed: "completed"
                }
            words.withLock { $0.append(word) }
        }

        var all: [String] { words.withLock { $0 } }
    }

    @Test(
        "What goes is the oldest, and no more than is needed and one file",
        arguments: ["days", "one slot", "one instant", "two instants"], [1, 3])
    func exact(spread: String, threads: Int) throws {
        let grove = try Grove()
        var size: Int64 = 0
        for folder in 0..<5 { try grove.make(directory: "\(folder)") }
        for number in 0..<100 {
            let age =
                switch spread {
                case "days": number * 26_000
                case "one slot": number * 3
                case "two instants": number < 50 ? 0 : 1
                default: 0
                }
            size = try grove.write("\(number % 5)/\(number)", age: age)
        }
        // Nothing at all is freed by what does not hold the whole disk.
        let disk = DeclaredDisk(free: 1 << 20)
        let need = 10 * size - 1
        let cleaner = try grove.cleaner(CleaningLimits(minFree: ByteCount(1 << 20 + need))) {
            $0.concurrency = threads
            disk.join(&$0)
        }
        let report = try cleaner.clean()
        #expect(report.failure == nil)
        #expect(report.problems.count == 0)
        #expect(report.freed >= need && report.freed <= need + size)
        #expect(report.files == 10 && report.rounds == 1)
        let left = try grove.files()
        #expect(left.count == 90)
        if spread == "days" || spread == "one slot" {
            #expect(left == Set((10..<100).map { "\($0 % 5)/\($0)" }))
        } else if spread == "two instants" {
            #expect((50..<100).allSatisfy { left.contains("\($0 % 5)/\($0)") })
        }
        #expect(try grove.directories().count == 5)
    }

    @Test("When everything is old and must go, the directory itself and what is above it stay")
    func everything() throws {
        let grove = try Grove()
        try grove.make(directory: "a")
        try grove.make(directory: "a/b")
        try grove.make(directory: "was empty before")
        for number in 0..<20 { try grove.write(number % 2 == 0 ? "\(number)" : "a/b/\(number)", age: -1_000_000) }
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(0))) { $0.removesEmptyDirectories = true }
        let report = try cleaner.clean()
        #expect(report.failure == nil)
        #expect(report.files == 20 && report.directories == 2)
        #expect(try grove.files() == [])
        #expect(try grove.directories() == ["was empty before/"])
        #expect(grove.exists("/") && grove.exists(grove.top) && grove.exists(""))
    }

    @Test("Only directories that it emptied go, from below, and none in which something is left")
    func directories() throws {
        let grove = try Grove()
        for name in ["a", "a/b", "a/b/c", "d", "d/e", "f"] { try grove.make(directory: name) }
        for name in ["a/b/c/1", "a/b/2", "d/e/3", "f/4"] { try grove.write(name, age: 0) }
        try grove.write("d/young", age: 100)
        // Holds nothing, is as old, and goes with the rest.
        try grove.symlink("/nowhere", "f/link")
        let size = try grove.write("young", age: 101)
        var configuration = CleaningConfiguration(CleaningLimits(maxSize: ByteCount(2 * size)))
        configuration.removesEmptyDirectories = true
        let events = Locks()
        collecting(events, &configuration)
        let cleaner = try BackupCleaner(FilePath(grove.path), configuration)
        let report = try cleaner.clean()
        #expect(report.failure == nil)
        #expect(try grove.files() == ["d/young", "young", "f/link"])
        #expect(try grove.directories() == ["d/", "f/"])
        #expect(report.directories == 4)
        let told = events.all
        #expect(told.first == "started" && told.last == "completed")
        let below = try #require(told.firstIndex(of: "a/b/c/"))
        let above = try #require(told.firstIndex(of: "a/"))
        #expect(below < above)
    }

    @Test("Links that are older than the cut go with it; what is mounted or special never does")
    func links() throws {
        let grove = try Grove()
        try grove.symlink("/etc/passwd", "old-link")
        try grove.write("empty", age: 5, blocks: 0)
        try Grove.check(mkfifo(grove.absolute("fifo"), 0o600), "fifo")
        // The link's own time is now: what is younger than it must go too.
        var size: Int64 = 0
        for number in 0..<10 { size = try grove.write("\(number)", age: 2_000_000_000 + number) }
        let report = try grove.cleaner(CleaningLimits(maxSize: ByteCount(8 * size))).clean()
        #expect(report.failure == nil)
        #expect(try grove.files() == Set((2..<10).map(String.init) + ["fifo"]))
    }

    @Test("What a session has not finished is left alone, wherever it is, and so is its directory")
    func sessions() throws {
        let grove = try Grove()
        try grove.make(directory: "app")
        try grove.make(directory: "app/.safebackup-session")
        try grove.make(directory: "app/.safebackup-session/staging")
        try grove.write("app/.safebackup-session/staging/s1-1", age: -1_000)
        try grove.write("app/copy", age: 0)
        let report = try grove.cleaner(CleaningLimits(maxSize: ByteCount(0))) { $0.removesEmptyDirectories = true }
            .clean()
        #expect(report.failure == nil && report.files == 1 && report.directories == 0)
        #expect(try grove.files() == ["app/.safebackup-session/staging/s1-1"])
    }

    @Test("The plan counts names as the result does: links, empty files and all names of an inode")
    func countsAlike() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<10 {
            size = try grove.write("\(number)", age: number * 10)
            try grove.link("\(number)", "also \(number)")
            try grove.write("empty \(number)", age: number * 10 + 1, blocks: 0)
            try grove.symlink("\(number)", "link \(number)")
            try grove.touchLink("link \(number)", age: number * 10 + 2)
        }
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(4 * size)))
        let plan = try cleaner.plan()
        let report = cleaner.execute(plan)
        #expect(report.failure == nil && report.freed == 6 * size && plan.bytes == 6 * size)
        #expect(plan.files == report.files && report.files == 6 * 2 + 5 * 2, "\(plan.files) \(report.files)")
    }

    @Test("A file with another name elsewhere stays; one with all its names here goes with all of them, counted once")
    func hardLinks() throws {
        let grove = try Grove()
        try grove.make(directory: "a")
        try grove.make(directory: "b")
        let size = try grove.write("a/elsewhere", age: 0)
        try grove.link("a/elsewhere", grove.top + "/outside")
        for number in 0..<4 {
            try grove.write("a/\(number)", age: 10 + number)
            try grove.link("a/\(number)", "b/\(number)")
            try grove.link("a/\(number)", "b/again-\(number)")
        }
        try grove.write("b/young", age: 100)
        // Six inodes; two must go: those of 10 and 11, as the one of 0 would free nothing.
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(4 * size))) { $0.concurrency = 3 }
        let plan = try cleaner.plan()
        #expect(plan.scan.files == 14 && plan.scan.bytes == 6 * size && plan.scan.linkedElsewhere == 1)
        #expect(plan.bytes == 2 * size && plan.files == 6)
        let report = cleaner.execute(plan)
        #expect(report.failure == nil)
        #expect(report.freed == 2 * size && report.files == 6)
        #expect(
            try grove.files()
                == ["a/elsewhere", "a/2", "a/3", "b/2", "b/3", "b/again-2", "b/again-3", "b/young"])
    }

    @Test("Names of one inode that were removed at the same time by several threads are counted once")
    func manyLinks() throws {
        let grove = try Grove()
        for folder in 0..<8 { try grove.make(directory: "\(folder)") }
        var size: Int64 = 0
        for number in 0..<60 {
            size = try grove.write("0/\(number)", age: number)
            for folder in 1..<8 { try grove.link("0/\(number)", "\(folder)/\(number)") }
        }
        let report = try grove.cleaner(CleaningLimits(maxSize: ByteCount(20 * size))) { $0.concurrency = 4 }.clean()
        #expect(report.failure == nil)
        #expect(report.freed == 40 * size && report.files == 320)
        #expect(try grove.files().count == 160)
    }

    @Test("When all of it would not be enough, nothing goes; asked to, it removes what it can and says what is missing")
    func notEnough() throws {
        let grove = try Grove()
        let size = try grove.write("a", age: 0)
        try grove.write("b", age: 1)
        try grove.link("b", grove.top + "/outside")
        let disk = DeclaredDisk(free: 0)
        let limits = CleaningLimits(minFree: ByteCount(size + 1))
        let report = try grove.cleaner(limits) { disk.join(&$0) }.clean()
        #expect(report.failure?.code == .cannotFreeEnough)
        #expect(report.failure?.message.contains("another name elsewhere, which free nothing: 1") == true)
        #expect(report.files == 0)
        #expect(try grove.files() == ["a", "b"])

        let forced = try grove.cleaner(limits) {
            $0.removesWhatItCan = true
            disk.join(&$0)
        }.clean()
        #expect(forced.failure?.code == .cannotFreeEnough)
        #expect(forced.files == 1 && forced.freed == size)
        #expect(try grove.files() == ["b"])
    }

    @Test("Where removing frees nothing, because others fill the disk or keep the blocks, it stops after one round")
    func somebodyElse() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<50 { size = try grove.write("\(number)", age: number) }
        let disk = DeclaredDisk(free: 0, honesty: 10)
        let cleaner = try grove.cleaner(CleaningLimits(minFree: ByteCount(10 * size))) { disk.join(&$0) }
        let report = try cleaner.clean()
        #expect(report.failure?.code == .cannotFreeEnough)
        #expect(report.failure?.message.contains("somebody else fills the disk") == true)
        #expect(report.files == 10)
        #expect(try grove.files().count == 40)
    }

    @Test("What its owner writes meanwhile takes what it frees, and does not stop it")
    func ownWriting() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<50 { size = try grove.write("\(number)", age: number) }
        let disk = DeclaredDisk(free: 0, honesty: 30)
        let written = Locked<Int64>(0)
        let report = try grove.cleaner(CleaningLimits(minFree: ByteCount(2 * size))) {
            disk.join(&$0)
            $0.written = { [size] in
                written.withLock { written in
                    defer { written += 2 * size }
                    return written...written
                }
            }
        }.clean()
        #expect(report.failure == nil && report.rounds > 2, "\(report)")
        #expect(disk.usage.available.bytes >= 2 * size)
        #expect((6..<10).contains(report.files))
    }

    @Test("What is still missing after a round is removed by the next, from where the first ended")
    func rounds() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<100 { size = try grove.write("\(number)", age: number) }
        let disk = DeclaredDisk(free: 0, honesty: 60)
        let report = try grove.cleaner(CleaningLimits(minFree: ByteCount(12 * size))) { disk.join(&$0) }.clean()
        #expect(report.failure == nil)
        #expect(report.rounds > 1)
        // Of each file 60 % become free.
        #expect(report.files == 20 || report.files == 21)
        #expect(try grove.files() == Set((report.files..<100).map(String.init)))
    }

    @Test("Files that vanish between plan and removal are no error, and are not made up for when the limit is kept")
    func vanishing() throws {
        let grove = try Grove()
        try grove.make(directory: "gone")
        var size: Int64 = 0
        for number in 0..<40 { size = try grove.write(number < 10 ? "gone/\(number)" : "\(number)", age: number) }
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(20 * size)))
        let plan = try cleaner.plan()
        for number in 0..<10 { grove.remove("gone/\(number)") }
        _ = rmdir(grove.absolute("gone"))
        for number in 15..<18 { grove.remove("\(number)") }
        let report = cleaner.execute(plan)
        #expect(report.failure == nil)
        #expect(report.problems.count == 0)
        #expect(try grove.files() == Set((20..<40).map(String.init)))
    }

    @Test("A file that was written again since the plan is young now, and stays")
    func rewritten() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<20 { size = try grove.write("\(number)", age: number) }
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(18 * size)))
        let plan = try cleaner.plan()
        // Replaced, as a backup does it, and changed in place.
        try grove.write("new", age: 1_000)
        _ = rename(grove.absolute("new"), grove.absolute("0"))
        try grove.touch("1", age: 1_001)
        let report = cleaner.execute(plan)
        #expect(report.failure == nil)
        // Two others go in a second round, because the limit is not kept yet.
        #expect(try grove.files() == Set(["0", "1"] + (4..<20).map(String.init)))
    }

    @Test("A directory that becomes a link to another place during the cleaning is not followed", arguments: [1, 3])
    func planted(threads: Int) throws {
        let grove = try Grove()
        try grove.make(directory: grove.top + "/outside")
        var size: Int64 = 0
        for folder in 0..<4 {
            try grove.make(directory: "\(folder)")
            for number in 0..<10 {
                size = try grove.write("\(folder)/\(number)", age: number)
                if folder == 0 { try grove.write("\(grove.top)/outside/\(number)", age: number) }
            }
        }
        let (path, top) = (grove.path, grove.top)
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(4 * size))) {
            $0.concurrency = threads
            $0.removesEmptyDirectories = true
            $0.onEvent = { event in
                guard case .deleting = event else { return }
                for folder in ["1", "2"] {
                    _ = rename("\(path)/\(folder)", "\(top)/moved-\(folder)")
                    _ = Glibc.symlink("\(top)/outside", "\(path)/\(folder)")
                }
            }
        }
        let report = try cleaner.clean()
        #expect(try grove.files(below: grove.top + "/outside").count == 10)
        #expect(try grove.files(below: grove.top + "/moved-1").count == 10)
        #expect(report.failure == nil)
        #expect(grove.exists("1") && grove.exists("2"))
    }

    @Test("Names that are no text, deep directories and large ones are cleaned like others", arguments: [1, 3])
    func names(threads: Int) throws {
        let grove = try Grove()
        let odd: [[UInt8]] = [[0xFF, 0xFE], [0x0A], [0x08, 0x20], Array(repeating: 0xC3, count: 255)]
        var size: Int64 = 0
        for (number, name) in odd.enumerated() {
            size = try grove.write(bytes: Array(grove.path.utf8) + [0x2F] + name, age: number)
        }
        // Deeper than descriptors are kept open, and longer than a path may be.
        var directory = try Descriptor.open(FilePath(grove.path), O_RDONLY | O_DIRECTORY)
        let leaf = [UInt8](repeating: 0x64, count: 100)
        for level in 0..<90 {
            // Each of these comes after the way down, or before it: the place in the listing must not be lost.
            for sibling in [[UInt8(ascii: "a")], [UInt8(ascii: "z")]] { try directory.makeDirectory(sibling) }
            for sibling in ["a", "z"] {
                let file = try directory.open(Array(sibling.utf8), O_RDONLY | O_DIRECTORY)
                    .open([0x66], O_WRONLY | O_CREAT)
                try Grove.fill(file, 4_096)
                try file.setModified(FileTime(seconds: 1_700_000_000 + Int64(level) + 10, nanoseconds: 0))
            }
            try directory.makeDirectory(leaf)
            directory = try directory.open(leaf, O_RDONLY | O_DIRECTORY)
        }
        for number in 0..<300 { try grove.write("young-\(number)", age: 1_000) }
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(300 * size))) {
            $0.concurrency = threads
            $0.removesEmptyDirectories = true
        }
        let report = try cleaner.clean()
        #expect(report.failure == nil)
        #expect(report.problems.count == 0, "\(report.problems.first)")
        #expect(report.files == odd.count + 180 && report.rounds == 1)
        #expect(try grove.files().count == 300)
        // Two a level; the directories of the way down held no file, so that nothing of theirs was removed but these.
        #expect(report.directories >= 180)
    }

    @Test(
        "A directory that holds an agent's backup, lies in one, or has one below is refused before anything goes",
        arguments: ["", "above", "below/deep", "as capitals"])
    func sentinel(place: String) throws {
        let grove = try Grove()
        try grove.make(directory: "below")
        try grove.make(directory: "below/deep")
        let size = try grove.write("a", age: 0)
        try grove.write("below/b", age: 1)
        switch place {
        case "above": try grove.make(directory: grove.top + "/.safebackup")
        case "as capitals": try grove.make(directory: "below/.SafeBackup")
        default: try grove.make(directory: place.isEmpty ? ".safebackup" : "\(place)/.safebackup")
        }
        let name = place == "above" ? "below" : ""
        #expect {
            _ = try grove.cleaner(CleaningLimits(maxSize: ByteCount(size)), at: name).clean()
        } throws: { ($0 as? SafeBackupError)?.code == .destinationTaken }
        #expect(try grove.files() == ["a", "below/b"])
    }

    @Test("An agent's backup that appears after the plan ends the cleaning")
    func lateSentinel() throws {
        let grove = try Grove()
        let size = try grove.write("a", age: 0)
        try grove.make(directory: "below")
        try grove.write("below/b", age: 0)
        let cleaner = try grove.cleaner(CleaningLimits(maxSize: ByteCount(size)))
        let plan = try cleaner.plan()
        try grove.make(directory: "below/.safebackup")
        let report = cleaner.execute(plan)
        #expect(report.failure?.code == .destinationTaken)
        #expect(grove.exists("below/b"))
    }

    @Test("The time of storing is another order than the time in the file")
    func stored() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<6 {
            size = try grove.write("\(number)", age: -number)
            // The next one must be born at a later time.
            var (now, before) = (timespec(), timespec())
            clock_gettime(CLOCK_REALTIME_COARSE, &before)
            repeat { clock_gettime(CLOCK_REALTIME_COARSE, &now) } while now.tv_nsec == before.tv_nsec
        }
        let limits = CleaningLimits(maxSize: ByteCount(4 * size))
        let byFile = try grove.cleaner(limits).plan()
        #expect(byFile.newest == FileTime(seconds: 1_700_000_000 - 4, nanoseconds: 0))
        let report = try grove.cleaner(limits) { $0.order = .stored }.clean()
        #expect(report.failure == nil)
        #expect(try grove.files() == ["2", "3", "4", "5"])
    }

    @Test("A rehearsal names what would go, removes nothing, and the cleaning then removes just that")
    func rehearsal() throws {
        let grove = try Grove()
        var size: Int64 = 0
        for number in 0..<30 { size = try grove.write("\(number)", age: number / 4) }
        let (would, did) = (Locks(), Locks())
        let limits = CleaningLimits(maxSize: ByteCount(20 * size))
        let rehearsing = try grove.cleaner(limits) { collecting(would, &$0) }
        _ = rehearsing.rehearse(try rehearsing.plan())
        #expect(try grove.files().count == 30)
        _ = try grove.cleaner(limits) { collecting(did, &$0) }.clean()
        let words: Set<String> = ["started", "scanned", "deleting", "completed"]
        let gone = Set(did.all).subtracting(words)
        #expect(gone.count == 10)
        #expect(Set(would.all).subtracting(words) == gone)
    }

    @Test("Without the disk's usage only a limit of the size can be kept to")
    func noUsage() throws {
        let grove = try Grove()
        let size = try grove.write("a", age: 0)
        try grove.write("b", age: 1)
        let unknown: @Sendable (inout CleaningConfiguration) -> Void = {
            $0.usage = { () throws(SafeBackupError) -> DiskUsage? in nil }
        }
        #expect(throws: SafeBackupError.self) {
            try grove.cleaner(CleaningLimits(minFree: .gibibytes(1)), unknown).plan()
        }
        let report = try grove.cleaner(
            CleaningLimits(minFree: .gibibytes(1), maxSize: ByteCount(size)), unknown
        ).clean()
        #expect(report.failure == nil && report.after == nil)
        #expect(try grove.files() == ["b"])
    }

    @Test("Limits that nothing can keep to are refused with the value, and nothing goes")
    func impossible() throws {
        let grove = try Grove()
        try grove.write("a", age: 0)
        let disk = DeclaredDisk(free: 0)
        #expect {
            _ = try grove.cleaner(CleaningLimits(minFree: .gibibytes(2))) { disk.join(&$0) }.clean()
        } throws: {
            let error = $0 as? SafeBackupError
            return error?.code == .invalidConfiguration && error?.message.hasPrefix("2.0 GiB cannot be free") == true
        }
        for limits in [CleaningLimits(), CleaningLimits(maxUsagePercent: 100), CleaningLimits(maxSize: ByteCount(-1))] {
            #expect(throws: SafeBackupError.self) { try grove.cleaner(limits) }
        }
        #expect(throws: SafeBackupError.self) {
            try BackupCleaner(FilePath("/"), CleaningConfiguration(CleaningLimits(maxSize: ByteCount(0))))
        }
        #expect(try grove.files() == ["a"])
    }

    #if SAFEBACKUP_FAULTS
        @Test("Whichever call fails, the others go on; each failure is told, and nothing young goes", arguments: 1...40)
        func failing(nth: Int) throws {
            let grove = try Grove()
            var size: Int64 = 0
            for folder in 0..<2 { try grove.make(directory: "\(folder)") }
            for number in 0..<12 { size = try grove.write("\(number % 2)/\(number)", age: number) }
            let limits = CleaningLimits(maxSize: ByteCount(6 * size))
            let plan = FaultPlan(nth: nth, error: .permissionDenied)
            let report = plan.run { () -> CleaningReport? in
                do {
                    return try grove.cleaner(limits) {
                        $0.concurrency = 1
                        $0.removesEmptyDirectories = true
                    }.clean()
                } catch {
                    // Refused before anything went.
                    return nil
                }
            }
            let left = try grove.files()
            guard let report else {
                #expect(left.count == 12)
                return
            }
            // What cannot be looked at or removed is made up for by what is next in age, and never by more.
            #expect(left.isSuperset(of: (7..<12).map { "\($0 % 2)/\($0)" }) || report.problems.count > 0)
            #expect(left.count >= 5)
            if report.failure == nil && report.problems.count == 0 { #expect(left.count == 6) }
        }
    #endif
}
