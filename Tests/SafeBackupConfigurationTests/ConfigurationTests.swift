import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupWatch
import Testing

/// What a configuration of one file says; problems as `LINE:COLUMN message`.
private func problems(_ text: String) -> [String] { problems(["agent.conf": text]) }

/// The files are read in the order of their names.
private func problems(_ files: [String: String]) -> [String] {
    do {
        _ = try configuration(files)
        return []
    } catch {
        return error.problems.map { problem in
            let file = files.count > 1 ? "\(printable(problem.place.file)):" : ""
            return "\(file)\(problem.place.line):\(problem.place.column) \(problem.message)"
        }
    }
}

private func configuration(_ text: String) throws(ConfigurationFailure) -> Configuration {
    try configuration(["agent.conf": text])
}

private func configuration(_ files: [String: String]) throws(ConfigurationFailure) -> Configuration {
    let sorted = files.sorted { $0.key < $1.key }
    return try Configuration(sorted.map { (Array($0.key.utf8), Array($0.value.utf8)) })
}

private let small = """
    [source "home"]
    path = /home
    destination = disk
    [destination "disk"]
    path = /mnt/disk
    """

@Suite("What agent.conf says")
struct ConfigurationTests {
    @Test("Sizes of a destination's room that cannot be together, and rules that keep no version, are told")
    func room() throws {
        let faults = [
            ("free-space-threshold = 2GiB\nfree-space-target = 1GiB", "a cleaning would never end"),
            ("free-space-threshold = 1GiB\nfree-space-floor = 2GiB", "saving would stop"),
            ("check-interval = 0B", "more than nothing"), ("max-usage = 100%", "is not from"),
            ("keep-last = 0\nkeep-daily = 0", "keep no version"), ("keep-last = -1", "is no number"),
        ]
        for (lines, told) in faults {
            let found = problems(small + "\n" + lines)
            #expect(found.count == 1 && found[0].contains(told), "\(lines): \(found)")
        }
        let good = "free-space-threshold = 1GiB\nmax-size = 1TiB\nmax-usage = 90.5%\nkeep-last = 0\nkeep-within = 30d"
        let destination = try #require(try configuration(small + "\n" + good).destinations.first)
        #expect(destination.room.threshold == .gibibytes(1) && destination.room.maxSize == .gibibytes(1_024))
        #expect(destination.room.maxUsage == Percent(hundredths: 9_050) && destination.room.target == nil)
        #expect(destination.retention.last == 0 && destination.retention.within == .seconds(30 * 86_400))
    }

    @Test("Sources, destinations and their keys are read, and what is not written has its default")
    func values() throws {
        let read = try configuration(
            """
            # comment
              ; comment too
            [agent]
            state=/var/lib/other

            [source "My photos"]
            path   =   /home/me/my photos \t
            destination = disk
            destination = far away
            destination = disk
            prefix = photos/mine
            reconcile-interval = 1h 30min
            exclude = *.tmp
            exclude-from = /etc/ex
            exclude = !keep.tmp

            [source "etc"]
            path = /etc
            destination = disk
            prefix = etc

            [destination "disk"]
            path = /mnt/disk
            [destination "far away"]
            path = /mnt/far
            settle-limit = 5min
            quiet-time = 0s
            """)
        #expect(read.state == Array("/var/lib/other".utf8))
        let photos = try #require(read.sources.first)
        #expect(photos.name == "My photos")
        #expect(photos.path == Array("/home/me/my photos".utf8))
        #expect(photos.destinations == ["disk", "far away"])
        #expect(photos.prefix.description == "photos/mine")
        #expect(photos.reconcileInterval == .seconds(5_400))
        let written = photos.excludes.map { exclude in
            switch exclude {
            case .pattern(let pattern, _): "\(printable(pattern.bytes)) \(pattern.place)"
            case .file(let path, let place): "\(printable(path)) \(place)"
            }
        }
        #expect(written == ["*.tmp agent.conf:13", "/etc/ex agent.conf:14:16", "!keep.tmp agent.conf:15"])
        #expect(read.sources.last?.reconcileInterval == .seconds(86_400))
        #expect(read.sources(of: "disk").map(\.name) == ["My photos", "etc"])
        let far = try #require(read.destination(named: "far away"))
        #expect(far.settle.limit == .seconds(300))
        #expect(far.settle.quiet == .zero)
        #expect(far.settle.closeDelay == .milliseconds(100))
        #expect(far.idleTime == .seconds(10))
    }

    @Test("A backslash continues a line, over comments; two of them at its end do not")
    func continuation() throws {
        let read = try configuration(
            small + "\n[source \"b\"]\nprefix = b\ndestination = \\\n# comment\n  other\npath = /x/\\\r\n"
                + "y\n[destination \"other\"]\npath = /z\\\\\nidle-time = 1s \\\n  5ms")
        #expect(read.sources.last?.destinations == ["other"])
        #expect(read.sources.last?.path == Array("/x/ y".utf8))
        let other = try #require(read.destination(named: "other"))
        #expect(other.path == Array("/z\\\\".utf8))
        #expect(other.idleTime == .milliseconds(1_005))
        // The place of what stands in a continuing line is in that line.
        #expect(
            problems(small + "\nclose-\\\n delay = 1s\nidle-time = \\\n    7").map { $0.prefix(5) } == [
                "6:1 t", "9:5 i",
            ])
    }

    @Test("Paths are bytes: what is no UTF-8 is kept, and quotes hold what a line cannot")
    func paths() throws {
        let bytes: [UInt8] = Array("/caf".utf8) + [0xE9, 0xFF, 0x2F, 0x23] + Array(" x=\"y\" ;".utf8)
        let read = try Configuration([
            (
                Array("a".utf8),
                Array("[source \"s\"]\ndestination=d\npath=".utf8) + bytes
                    + Array("\n[destination \"d\"]\npath = \"/new\\nline\\x01 \\\"\\\\ \"".utf8)
            )
        ])
        #expect(read.sources.first?.path == bytes)
        #expect(read.destinations.first?.path == Array("/new\nline\u{1} \"\\ ".utf8))
        let again = try Configuration([(Array("b".utf8), read.effective)])
        #expect(again.sources.first?.path == bytes)
        #expect(again.destinations.first?.path == read.destinations.first?.path)
    }

    @Test("A byte order mark and the line ends of other systems do not count")
    func otherEditors() throws {
        let text = "\u{FEFF}" + small.split(separator: "\n").joined(separator: "\r\n") + "\r\n"
        #expect(try configuration(text).sources.first?.path == Array("/home".utf8))
    }

    @Test("Drop-ins add to lists, replace single values, and an empty value takes back what was said")
    func dropIns() throws {
        let read = try configuration([
            "1": small + "\nidle-time = 1min",
            "2": "[source \"home\"]\nexclude = a\nexclude = b\ndestination = other\n"
                + "[destination \"disk\"]\nidle-time = 2min",
            "3": "[destination \"other\"]\npath = /o\n[source \"home\"]\nexclude =\nexclude = c\n",
            "4": "[destination \"disk\"]\nidle-time=\n",
        ])
        #expect(read.sources.first?.destinations == ["disk", "other"])
        #expect(read.sources.first?.excludes.count == 1)
        #expect(read.destination(named: "disk")?.idleTime == .seconds(10))
    }

    @Test("Everything that is wrong is told at once, in order, each with its place")
    func allAtOnce() throws {
        #expect(
            problems(
                """
                stray = 1
                [sourse "a"]
                path = relative, and not told because the heading is wrong
                [source]
                [source "home"
                [source "b"]
                pth = /b
                path = b
                Path = /b
                idle-time = 5min
                destination = dsik
                reconcile-interval = 5
                what is this
                = 3
                [source "c"]
                destination = disk
                [destination "disk"]
                path = ~/disk
                idle-time = 5 parsecs
                settle-limit = 2d
                settle-limit = 1min
                [destination "unused"]
                path = /unused
                [agent "x"]
                """) == [
                    "1:1 'stray' stands above the first heading; put it below one",
                    "2:1 there is no section [sourse]; did you mean [source]?",
                    "4:1 [source] needs a name, as in [source \"photos\"]",
                    "5:1 a heading ends in ']', as in [source \"photos\"]",
                    "7:1 there is no key 'pth' in [source]; did you mean 'path'?",
                    "8:8 path: 'b' is not an absolute path; begin it with '/'",
                    "9:1 there is no key 'Path' in [source]; did you mean 'path'?",
                    "10:1 there is no key 'idle-time' in [source]; it belongs into [destination]",
                    "11:15 there is no [destination \"dsik\"]; did you mean 'disk'?",
                    "12:22 reconcile-interval: '5' has no unit; write it behind the number (ms, s, min, h, d, w), as in "
                        + "5min",
                    "13:1 'what is this' is neither a heading such as [agent] nor 'key = value'",
                    "14:1 there is no key before '='",
                    "15:1 [source \"c\"] has no path; add it, as in 'path = /home'",
                    "18:8 path: '~/disk' is not an absolute path; begin it with '/'; '~' is not replaced here",
                    "19:13 idle-time: '5 parsecs' is no time; write a number and its unit (ms, s, min, h, d, w), as in "
                        + "5min",
                    "20:16 settle-limit: '2d' is not from 1ms to 1d",
                    "21:1 settle-limit is given for the second time in this section, first in line 20",
                    "22:1 no source is saved to [destination \"unused\"]; add 'destination = unused' to one, or remove it",
                    "24:1 [agent] has no name; there is one agent",
                ])
    }

    private static let clashes: [(String, String)] = [
        ("", "1:1 there is no [source"),
        (small + "\n[source \"home\"]", "6:1 [source \"home\"] stands here for the second"),
        (
            small + "\n[source \"b\"]\npath=/b\nprefix=b\ndestination = disk",
            "1:1 several sources share [destination"
        ),
        (
            small + "\n[source \"b\"]\npath=/home/./\ndestination = e\n[destination \"e\"]\npath=/e",
            "7:6 path: /home is a"
        ),
        (
            small + "\n[source \"b\"]\npath=/b\ndestination = e\n[destination \"e\"]\npath=/mnt//disk",
            "10:6 path: /mnt/disk"
        ),
        (shared("a/b", "A"), "7:10 prefix: 'A' and 'a/b'"),
        (shared("same", "same"), "7:10 prefix: 'same' and 'same'"),
        (shared("a", "../b"), "7:10 prefix: '../b' is no path below"),
        (shared("a", "/b"), "7:10 prefix: '/b' is no path below"),
        (shared("a", ".SafeBackup/x"), "7:10 prefix: '.SafeBackup/x' lies in .safebackup"),
        (small + "\nidle-time = 1s\u{0}", "6:15 the line holds a NUL"),
        (small + "\n[source \"a\\b\"]", "6:1 \"a\\b\" is no name"),
        (small + "\npath = s3://bucket", "6:1 path is given for the second time"),
        (small + "\n[destination \"e\"]\npath = s3://bucket", "7:8 path: 's3://bucket' names a bucket"),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\nencryption = customer",
            "9:14 encryption: customer needs the key"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\ncustomer-key-file = k",
            "9:21 customer-key-file: give 'encryption = customer'"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\nbucket-key = yes",
            "9:14 bucket-key: give 'encryption = aws:kms'"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\nobject-lock-mode = governance",
            "9:20 object-lock-mode: say for how long"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\nobject-lock-time = 30d",
            "9:20 object-lock-time: give object-lock-mode"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\ntag = a=1\ntag = a=2",
            "10:7 tag: there is one of the name a already"
        ),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\n"
                + (0..<11).map { "tag = t\($0)=1\n" }.joined(), "19:7 tag: an object has at most 10 tags; remove 1"
        ),
        (small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\ntag = project", "9:7 tag: 'project' is no tag"),
        (
            small + "\n[destination \"e\"]\ntype = s3\nurl = s3://bucket\npart-size = 1MiB",
            "9:13 part-size: '1MiB' is not from"
        ),
    ]

    @Test("What is right by itself and does not go together is told", arguments: clashes)
    func together(text: String, expected: String) {
        let found = problems(text)
        #expect(found.contains { $0.hasPrefix(expected) }, "\(found)")
    }

    private static func shared(_ first: String, _ second: String) -> String {
        """
        [source "a"]
        path = /a
        prefix = \(first)
        destination = d
        [source "b"]
        path = /b
        prefix = \(second)
        destination = d
        [destination "d"]
        path = /d
        """
    }

    @Test("What is other than before is told by section and key; what says the same is not")
    func differences() throws {
        let former = try configuration(Self.shared("a", "b") + "\nidle-time = 1min\nquiet-time = 2s")
        let same = try configuration("# moved\n" + Self.shared("a", "b") + "\nidle-time = 1min")
        #expect(same.differences(from: former) == [])
        let other = try configuration(
            """
            [source "a"]
            path = /a
            prefix = a
            destination = d
            exclude = *.tmp
            [destination "d"]
            path = /d
            [source "c"]
            path = /c
            prefix = c
            destination = d
            """)
        #expect(
            other.differences(from: former) == [
                "[source \"b\"] is gone", "[source \"a\"] exclude: none → *.tmp",
                "[destination \"d\"] idle-time: 1min → 10s",
                "[source \"c\"] is new",
            ])
    }

    @Test("Prefixes that only begin alike do not nest")
    func siblings() throws {
        #expect(problems(Self.shared("a", "ab")) == [])
        #expect(problems(Self.shared("x/a", "x/b")) == [])
    }

    @Test("The error lists at most a hundred problems, and says how many more there are")
    func many() throws {
        let text = String(repeating: "nonsense\n", count: 250)
        do {
            _ = try configuration(text)
            Issue.record("nonsense was accepted")
        } catch {
            let lines = error.error.message.split(separator: "\n")
            #expect(lines.count == 102)
            #expect(lines.last?.contains("150 more") == true)
            #expect(error.error.code == .invalidConfiguration)
        }
    }
}

@Suite("The values of agent.conf")
struct ConfigurationValueTests {
    private static let timeTexts: [(String, Int, String)] = [
        ("0s", 0, "0s"), ("500ms", 500, "500ms"), ("1.5h", 5_400_000, "1h 30min"), ("90 s", 90_000, "1min 30s"),
        ("1d2h", 93_600_000, "1d 2h"), ("2 weeks", 1_209_600_000, "14d"), ("1min 1 s 1ms", 61_001, "1min 1s 1ms"),
    ]

    @Test("Times are read and written", arguments: timeTexts)
    func times(text: String, milliseconds: Int, written: String) throws {
        let read = try Duration.read(Array(text.utf8))
        #expect(read == .milliseconds(milliseconds))
        #expect(printable(read.written) == written)
        #expect(try Duration.read(read.written) == read)
    }

    @Test(
        "What is no time, or too long, is refused",
        arguments: [
            "5", "min", "-5min", "5mins", "5 min x", "1.min", "1e3s", "0x5s", "٣s", "999999999999999999w",
            "9999999999999999999s",
            "101 years", "5000w 5000w",
        ])
    func noTimes(text: String) { #expect(throws: ConfigurationFault.self) { try Duration.read(Array(text.utf8)) } }

    private static let sizeTexts: [(String, Int64, String)] = [
        ("20GiB", 20 << 30, "20GiB"), ("0B", 0, "0B"), ("1.5TiB", 3 << 39, "1536GiB"), ("10G", 10 << 30, "10GiB"),
        ("5 GB", 5_000_000_000, "4882812.5KiB"), ("1023B", 1_023, "1023B"), ("7EiB", 7 << 60, "7EiB"),
        ("0.5KiB", 512, "512B"),
    ]

    @Test("Sizes are read and written", arguments: sizeTexts)
    func sizes(text: String, bytes: Int64, written: String) throws {
        let read = try ByteCount.read(Array(text.utf8))
        #expect(read.bytes == bytes)
        #expect(try ByteCount.read(read.written) == read)
        if !written.contains(".") { #expect(printable(read.written) == written) }
    }

    @Test(
        "What is no size, or too large, is refused",
        arguments: [
            "20", "GiB", "-1GiB", "1 GiB 2", "8EiB", "99999999999999999EiB", "1gib", "1,5GiB", "1..5GiB", "10%",
        ])
    func noSizes(text: String) { #expect(throws: ConfigurationFault.self) { try ByteCount.read(Array(text.utf8)) } }

    @Test(
        "Percentages are read and written",
        arguments: [("0%", 0, "0%"), ("12.5 %", 1_250, "12.50%"), ("100%", 10_000, "100%"), ("0.01%", 1, "0.01%")])
    func percentages(text: String, hundredths: Int, written: String) throws {
        let read = try Percent.read(Array(text.utf8))
        #expect(read.hundredths == hundredths)
        #expect(printable(read.written) == written)
    }

    @Test("What is no percentage is refused", arguments: ["10", "%", "100.01%", "-1%", "0.001%", "10%%", "10% 5%"])
    func noPercentages(text: String) { #expect(throws: ConfigurationFault.self) { try Percent.read(Array(text.utf8)) } }

    @Test("Yes and no have the words that systemd knows")
    func words() throws {
        for text in ["yes", "TRUE", "on", "1"] { #expect(try Bool.read(Array(text.utf8))) }
        for text in ["no", "False", "off", "0"] { #expect(try !Bool.read(Array(text.utf8))) }
        #expect(throws: ConfigurationFault.self) { try Bool.read(Array("maybe".utf8)) }
    }

    @Test(
        "Quotes that are wrong are told",
        arguments: ["\"/a", "\"/a\" b", "\"/a\\", "\"/a\\q\"", "\"/a\\x0\"", "\"/\\x00\"", "\"/\\x+1\"", "\"\""])
    func quotes(text: String) {
        #expect(throws: ConfigurationFault.self) { try ConfigurationPath.read(Array(text.utf8)) }
    }

    @Test("A pattern that gitignore takes for a comment is refused, and so is one that the end of the line would cut")
    func patterns() throws {
        #expect(throws: ConfigurationFault.self) { try ConfigurationPattern.read(Array("#x#".utf8)) }
        #expect(throws: ConfigurationFault.self) { try ConfigurationPattern.read(Array("x\\".utf8)) }
        #expect(try ConfigurationPattern.read(Array("\\#x\\\\".utf8)).bytes == Array("\\#x\\\\".utf8))
    }

    @Test("What becomes of deletions, threads and bandwidth are read, and nonsense is told with its place")
    func destinationKeys() throws {
        let plain = try configuration(small).destinations[0]
        #expect(plain.onDelete == .keep && plain.concurrency == 4 && plain.bandwidth == nil)
        let full = try configuration(small + "\non-delete = mirror\nconcurrency = 16\nbandwidth = 1.5MiB").destinations[
            0]
        #expect(full.onDelete == .mirror && full.concurrency == 16 && full.bandwidth == ByteCount(1_572_864))
        for (key, message) in [
            ("on-delete = remove", "is neither keep nor mirror"), ("concurrency = 0", "is not from 1 to 64"),
            ("concurrency = 65", "is not from 1 to 64"), ("concurrency = -1", "is no number"),
            ("concurrency = 99999999999999999999", "is no number"), ("concurrency = 4 threads", "is no number"),
            ("bandwidth = 0B", "is not from 1KiB to 1PiB"), ("bandwidth = 100", "has no unit"),
            ("bandwidth = 20MiB/s", "is no size"),
        ] {
            let found = problems(small + "\n" + key)
            #expect(found.count == 1 && found[0].hasPrefix("6:") && found[0].contains(message), "\(key): \(found)")
        }
    }
}
