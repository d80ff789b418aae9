import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("File systems that do not answer", .needsSilentMount)
    struct SilentMounts {
        /// Sources `a` and `b` and destinations `here` and `there`; `b` and `there` lie behind the mount.
        private func bench() throws -> (bench: Bench, mount: SilentMount, file: FilePath) {
            let bench = try Bench()
            let root = bench.root
            for name in ["a", "server/b"] {
                try bench.write(root.appending("\(name)/file"), Array("of \(name)\n".utf8))
            }
            let mount = try SilentMount(of: root.appending("server"), at: root.appending("mount"))
            let file = root.appending("agent.conf")
            try bench.write(
                file,
                Array(
                    """
                    [agent]
                    state = \(root)/state
                    [source "a"]
                    path = \(root)/a
                    destination = here
                    destination = there
                    prefix = a
                    [source "b"]
                    path = \(root)/mount/b
                    destination = here
                    prefix = b
                    [destination "here"]
                    path = \(root)/here
                    [destination "there"]
                    path = \(root)/mount/there
                    """.utf8))
            return (bench, mount, file)
        }

        private func has(_ path: FilePath) -> Bool { path.withPlatformString { access($0, F_OK) } == 0 }

        @Test(
            "An agent starts beside a server that is silent, saves the rest, and saves to and from it when it answers")
        func start() async throws {
            let (bench, mount, file) = try bench()
            defer { mount.end() }
            let root = bench.root
            mount.silence()
            // Neither the source nor the destination behind it was ever seen.
            let agent = try bench.spawn(["run", "--config", file])
            let isSaved = try await eventually { has(root.appending("here/a/file")) || agent.poll() != nil }
            try #require(isSaved && agent.poll() == nil, "\(agent.errorTail)")
            let isHeld = try await eventually {
                let status = try await bench.status()
                return status.destinations.contains { $0.held?.reason == "notAnswering" }
            }
            #expect(isHeld, "\(agent.errorTail)")
            #expect(agent.errorText.contains("A source that was never saved does not answer"), "\(agent.errorTail)")
            #expect(try await eventually { agent.outputText.contains("ready\n") }, "\(agent.errorTail)")
            mount.goOn()
            let isAllSaved = try await eventually {
                has(root.appending("here/b/file")) && has(root.appending("server/there/a/file"))
            }
            #expect(isAllSaved, "\(agent.errorTail)")
            try await bench.stop(agent)
            // Now both are known: a start beside the silent server holds both, and nothing ends.
            mount.silence()
            try bench.write(root.appending("a/later"), Array("later\n".utf8))
            let again = try bench.spawn(["run", "--config", file])
            let areHeld = try await eventually {
                let status = try await bench.status()
                return status.sources.contains { $0.held?.reason == "notAnswering" }
                    && status.destinations.contains { $0.held?.reason == "notAnswering" }
            }
            #expect(areHeld, "\(again.errorTail)")
            #expect(try await eventually { has(root.appending("here/a/later")) }, "\(again.errorTail)")
            mount.goOn()
            #expect(try await eventually { has(root.appending("server/there/a/later")) }, "\(again.errorTail)")
            try bench.write(root.appending("mount/b/more"), Array("more\n".utf8))
            #expect(try await eventually { has(root.appending("here/b/more")) }, "\(again.errorTail)")
            try await bench.stop(again)
        }

        @Test("Verbs that look at a silent server end, and say that it does not answer")
        func verbs() async throws {
            let (bench, mount, file) = try bench()
            defer { mount.end() }
            let root = bench.root
            let first = try await bench.run(["run", "--config", file, "--once"])
            try #require(first.ending == .exit(0), "\(first.errorTail)")
            mount.silence()
            for (arguments, code) in [
                (["status", "--config", file], 0), (["check-config", file], 0), (["plan", "--config", file], 4),
                (["doctor", "--config", file], 3), (["run", "--config", file, "--once"], 4),
                (["plan", root.appending("a"), root.appending("mount/new"), "--state", root.appending("other")], 4),
                (
                    [
                        "init", root.appending("a"), root.appending("mount/new"), "--yes", "--config",
                        root.appending("c"),
                    ], 4
                ),
            ] as [([FilePath], Int32)] {
                let program = try await bench.run(arguments, within: .seconds(60))
                let text = program.outputText + program.errorText
                #expect(program.ending == .exit(code), "\(arguments): \(text)")
                if arguments[0] != "status" { #expect(text.contains("does not answer"), "\(arguments): \(text)") }
            }
        }
    }
}
