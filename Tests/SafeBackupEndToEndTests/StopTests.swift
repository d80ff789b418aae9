import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("A run that is told to stop")
    struct Stops {
        /// The program, held in the middle of a copy that has far to go.
        private func copying(_ bench: Bench, _ more: [FilePath]) async throws -> Program {
            try command([
                "bash", "-c", #"yes "$0" | head -c 300M >"$1""#, "a large file without a hole", bench.at("large"),
            ])
            let program = try bench.spawnAgent(fault: "stop=copying", more)
            let isStopped = try await eventually { program.state == "T" || program.poll() != nil }
            try #require(isStopped && program.poll() == nil, "\(program.errorTail)")
            return program
        }

        @Test("With --once it says that something is left to do, with exit code 3", .needsFaults)
        func once() async throws {
            let bench = try Bench()
            let program = try await copying(bench, ["--once"])
            program.send(SIGTERM)
            program.send(SIGCONT)
            #expect(try await program.wait(within: .seconds(10)) == .exit(3), "\(program.errorTail)")
            #expect(program.errorText.contains("stopped before everything was saved"), "\(program.errorTail)")
            #expect(access(bench.backup.appending("large").string, F_OK) != 0, "stopped too late")
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test("A second signal ends it at once with exit code 130, and nothing is lost", .needsFaults)
        func second() async throws {
            let bench = try Bench()
            let program = try await copying(bench, [])
            // Two, as a signal that is pending already is not counted again.
            program.send(SIGTERM)
            program.send(SIGINT)
            program.send(SIGCONT)
            #expect(try await program.wait(within: .seconds(10)) == .exit(130), "\(program.errorTail)")
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test("SIGHUP does nothing to an agent without a configuration, and is told", .timeLimit(.minutes(1)))
        func hangUp() async throws {
            let bench = try Bench()
            try bench.write("before", "content\n")
            let agent = try await bench.startAgent()
            agent.send(SIGHUP)
            #expect(try await eventually { agent.errorText.contains("SIGHUP is ignored") || agent.poll() != nil })
            #expect(agent.poll() == nil, "\(agent.errorTail)")
            try bench.write("after", "content\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
        }
    }
}
