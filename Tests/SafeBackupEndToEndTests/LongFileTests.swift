import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// Files that are mostly, or wholly, a hole: of a length that no disk could hold.
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

        @Test(
            "Of several that are as long as a number can be nothing ends: neither plan, nor the agent, nor what it tells"
        )
        func sums() async throws {
            let bench = try Bench()
            let long = FilePath("/dev/shm/safebackup-test-long.\(getpid())")
            guard access("/dev/shm", W_OK) == 0 else { return }
            try bench.makeDirectory(long)
            defer { _ = try? command(["rm", "-rf", long]) }
            bench.source = long
            for name in ["a", "b", "c"] {
                // Only some file systems have such files.
                guard try await size(.max, of: bench.at(name)) else { return }
            }
            let plan = try await bench.run(["plan", bench.source, bench.backup, "--state", bench.state])
            #expect([.exit(0), .exit(3)].contains(plan.ending), "\(plan.errorTail)")
            let agent = try await bench.startAgent()
            let isReading = try await eventually { try isLeased(bench, 3) || agent.poll() != nil }
            try #require(isReading && agent.poll() == nil, "\(agent.errorTail)")
            #expect(try await bench.status().destinations[0].leased == 3)
            for verb: FilePath in ["exposure", "queue"] {
                let told = try await bench.run([verb, "--state", bench.state])
                #expect([.exit(0), .exit(3)].contains(told.ending), "\(verb): \(told.errorTail)")
            }
            try await bench.stop(agent)
        }

        private func size(_ size: Int64, of path: FilePath) async throws -> Bool {
            do {
                try Descriptor.open(path, O_WRONLY | O_CREAT, mode: 0o644).setSize(size)
                return true
            } catch {
                return false
            }
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
            try await bench.expectInSync(agent)
            for number in 0...2 {
                let target = try command(["readlink", FilePath("/proc/\(agent.process)/fd/\(number)")])
                #expect(target == "/dev/null\n", "\(number)")
            }
            try await bench.stop(agent)
            try bench.expectSaved()
        }
    }
}
