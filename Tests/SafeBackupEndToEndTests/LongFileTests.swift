import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// Files that are wholly a hole, of a length that no disk could hold.
    @Suite("Files longer than any disk")
    struct LongFiles {
        private func isLeased(_ bench: Bench, _ count: Int64) throws -> Bool {
            try StateFile(copying: bench.state).rows("SELECT count(*) FROM job WHERE state = 'leased'").first?[0]
                .integer
                == count
        }

        @Test("A hole that takes hours to hash does not hold up a stop, and other files are saved meanwhile")
        func stops() async throws {
            let bench = try Bench()
            try bench.write("small", "content\n")
            try command(["truncate", "-s", "12T", bench.at("hole")])
            let agent = try await bench.startAgent()
            let isReading = try await eventually {
                guard try isLeased(bench, 1) else { return false }
                return access(bench.backup.appending("small").string, F_OK) == 0
            }
            try #require(isReading, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        /// Memory is a file system that has files as long as a number can be; so are XFS and Btrfs.
        private static let memory = FilePath("/dev/shm")

        private static let hasLongest: Bool = {
            let probe = memory.appending("safebackup-test-probe.\(getpid())")
            defer { _ = probe.withPlatformString { unlink($0) } }
            do {
                try make(probe)
                return true
            } catch {
                return false
            }
        }()

        private static func make(_ path: FilePath) throws {
            try Descriptor.open(path, O_WRONLY | O_CREAT, mode: 0o644).setSize(.max)
        }

        @Test(
            "Of several that are as long as a number can be nothing ends: neither plan, nor the agent, nor what it tells",
            .enabled(if: hasLongest, "needs a file system in /dev/shm that has files of 8 EiB"))
        func sums() async throws {
            let bench = try Bench()
            bench.source = Self.memory.appending("safebackup-test-long.\(getpid())")
            try bench.makeDirectory(bench.source)
            for name in ["a", "b", "c"] { try Self.make(bench.at(name)) }
            let plan = try await bench.run(["plan", bench.source, bench.backup, "--state", bench.state])
            #expect([.exit(0), .exit(3)].contains(plan.ending), "\(plan.errorTail)")
            let agent = try await bench.startAgent()
            let isReading = try await eventually { try isLeased(bench, 3) || agent.poll() != nil }
            #expect(isReading && agent.poll() == nil, "\(agent.errorTail)")
            for verb: FilePath in ["status", "exposure", "queue"] {
                let told = try await bench.run([verb, "--state", bench.state])
                #expect([.exit(0), .exit(3)].contains(told.ending), "\(verb): \(told.errorTail)")
            }
            try await bench.stop(agent)
            try command(["rm", "-rf", bench.source])
        }
    }

    @Suite("Started without standard streams")
    struct ClosedStreams {
        @Test("What the log would say goes nowhere, and not into the next file that is opened")
        func closed() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            bench.prefix = ["bash", "-c", #"exec "$@" <&- >&- 2>&-"#, "bash"]
            let agent = try bench.spawnAgent(["--verbose"])
            let isThere = try await eventually { access(bench.backup.appending("file").string, F_OK) == 0 }
            try #require(isThere)
            for number in 0...2 {
                let target = try command(["readlink", FilePath("/proc/\(agent.process)/fd/\(number)")])
                #expect(target == "/dev/null\n", "\(number)")
            }
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }
    }
}
