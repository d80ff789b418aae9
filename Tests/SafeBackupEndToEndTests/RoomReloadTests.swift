import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Limits of room that change while the agent runs")
    struct RoomReload {
        private func number(_ bench: Bench, _ sql: String) throws -> Int64 {
            try StateFile(copying: bench.state).rows(sql).first?[0].integer ?? 0
        }

        private func available(_ disk: LoopDisk) throws -> Int64 {
            try VolumeStatistics(Descriptor.open(disk.mountPoint, O_RDONLY | O_DIRECTORY)).available.bytes
        }

        @Test(
            "SIGHUP applies a new threshold, size, policy and floor, and takes them back", .needsLoopDevice,
            .timeLimit(.minutes(4)))
        func reload() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            for round in UInt64(0)..<2 {
                var random = SeededGenerator(seed: round)
                for name in 0..<24 {
                    try bench.write(bench.at("\(name)"), random.bytes(1 << 20))
                }
                try await bench.saveOnce()
            }
            let file = try bench.configure()
            let agent = try bench.spawn(["run", "--config", file])
            let isReady = try await eventually { agent.outputText.contains("ready\n") }
            try #require(isReady, "\(agent.errorTail)")
            try await bench.expectInSync(agent)
            let versions = "SELECT count(*) FROM copy WHERE role = 'kept'"
            #expect(try number(bench, versions) == 24, "one of each file")

            // A threshold above what is free, and a target that ten versions make.
            let free = try available(disk)
            let target = free + 10 << 20 - 1 << 19
            try bench.configure("free-space-threshold = \(free + 1 << 20)B\nfree-space-target = \(target)B")
            agent.send(SIGHUP)
            let isCleaned = try await eventually { try self.number(bench, versions) == 14 }
            #expect(isCleaned, "\(agent.errorTail)")
            #expect(try available(disk) >= target)
            #expect(try number(bench, "SELECT count(*) FROM cleaned WHERE reason = 'space'") == 10)

            try bench.configure("max-size = 30MiB")
            agent.send(SIGHUP)
            let isSmaller = try await eventually { try self.number(bench, "SELECT sum(size) FROM copy") <= 30 << 20 }
            #expect(isSmaller, "\(agent.errorTail)")
            #expect(try number(bench, versions) == 6)
            #expect(try number(bench, "SELECT max_size FROM capacity") == 30 << 20)

            try bench.configure("keep-last = 1")
            agent.send(SIGHUP)
            let isPruned = try await eventually { try self.number(bench, versions) == 0 }
            #expect(isPruned, "\(agent.errorTail)")
            #expect(try number(bench, "SELECT max_size IS NULL FROM capacity") == 1)

            // Under a floor that the disk does not have, nothing grows.
            let most = try available(disk) + 4 << 20
            let limits = ["threshold", "target", "floor"].map { "free-space-\($0) = \(most)B" }
            try bench.configure(limits.joined(separator: "\n"))
            agent.send(SIGHUP)
            let isHigh = try await eventually { try self.number(bench, "SELECT floor FROM capacity") == most }
            #expect(isHigh, "\(agent.errorTail)")
            try bench.write("new", String(repeating: "n", count: 1 << 20))
            let isWaiting = try await eventually {
                try self.number(bench, "SELECT count(*) FROM job WHERE last_error_code = 'destinationFull'") == 1
            }
            #expect(isWaiting, "\(agent.errorTail)")
            #expect(access(bench.backup.appending("new").string, F_OK) != 0)
            try bench.configure("free-space-floor = 1MiB")
            agent.send(SIGHUP)
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }
    }
}
