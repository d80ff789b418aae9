import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("An agent with a configuration")
    struct Configured {
        /// Sources `a` and `b`, which both have a file, and a configuration beside them.
        private func bench(_ configuration: (FilePath) -> String) throws -> (bench: Bench, file: FilePath) {
            let bench = try Bench()
            for name in ["a", "b"] {
                try bench.makeDirectory(bench.root.appending(name))
                try bench.write(bench.root.appending("\(name)/file"), Array("of \(name)\n".utf8))
                try bench.write(bench.root.appending("\(name)/only \(name)"), Array("\(name)\n".utf8))
            }
            let file = bench.root.appending("agent.conf")
            try bench.write(file, Array(configuration(bench.root).utf8))
            return (bench, file)
        }

        private static func twoDestinations(_ root: FilePath) -> String {
            """
            [agent]
            state = \(root)/state
            [source "a"]
            path = \(root)/a
            destination = here
            destination = there
            [destination "here"]
            path = \(root)/here
            [destination "there"]
            path = \(root)/mount/there
            """
        }

        private static func twoSources(_ root: FilePath) -> String {
            """
            [agent]
            state = \(root)/state
            [source "a"]
            path = \(root)/a
            destination = one
            prefix = from/a
            [source "b"]
            path = \(root)/b
            destination = one
            prefix = from/b
            exclude = *.tmp
            [destination "one"]
            path = \(root)/one
            """
        }

        private func start(_ bench: Bench, _ file: FilePath) async throws -> Program {
            let agent = try bench.spawn(["run", "--config", file])
            let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
            try #require(isReady && agent.poll() == nil, "\(agent.errorTail)")
            return agent
        }

        private func isThere(_ path: FilePath, _ content: String) -> Bool {
            do { return try read(path) == Array(content.utf8) } catch { return false }
        }

        private func restore(_ bench: Bench, _ what: FilePath, from destination: FilePath?) async throws -> Tree {
            let target = bench.root.appending("restored")
            try command(["rm", "-rf", target])
            let origin: [FilePath] = destination.map { ["--from", $0] } ?? ["--state", bench.state]
            let program = try await bench.run(["restore", what, "--to", target] + origin)
            #expect(program.ending == .exit(0), "\(program.errorText)")
            return try Tree(target)
        }

        @Test("A destination that was never there holds up no other one, and gets everything when it comes")
        func newDestinationAway() async throws {
            let (bench, file) = try bench(Self.twoDestinations)
            let (a, here) = (bench.root.appending("a"), bench.root.appending("here"))
            let there = bench.root.appending("mount/there")
            let agent = try await start(bench, file)
            let isSaved = try await eventually { isThere(here.appending("file"), "of a\n") }
            #expect(isSaved, "\(agent.errorTail)")
            let isHeld = try await eventually {
                try await bench.status().destinations.map { $0.held?.reason } == [nil, "destinationMissing"]
            }
            #expect(isHeld, "\(agent.errorTail)")
            try bench.write(a.appending("later"), Array("changed meanwhile\n".utf8))
            #expect(try await eventually { isThere(here.appending("later"), "changed meanwhile\n") })
            // Its disk comes.
            try bench.makeDirectory(bench.root.appending("mount"))
            let isCaughtUp = try await eventually {
                guard isThere(there.appending("later"), "changed meanwhile\n") else { return false }
                return try Tree(a).differences(in: try Tree(there)).isEmpty
                    && StateFile(copying: bench.state).jobCounts().isEmpty
            }
            #expect(isCaughtUp, "\(agent.errorTail)")
            #expect(try await bench.status().destinations.allSatisfy { $0.held == nil })
            try await bench.stop(agent)
            for destination in [here, there] {
                #expect(try Tree(a).differences(in: try await restore(bench, ".", from: destination)) == [])
            }
        }

        @Test("A destination's name goes before a directory here that is called so, which is told")
        func nameOrDirectory() async throws {
            let (bench, file) = try bench(Self.twoDestinations)
            try bench.makeDirectory(bench.root.appending("mount"))
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            let elsewhere = bench.root.appending("elsewhere")
            try command(["mkdir", "-p", elsewhere.appending("here")])
            for (number, directory) in [elsewhere, bench.root].enumerated() {
                bench.prefix = ["env", "-C", directory]
                let back = bench.root.appending("back\(number)")
                for verb in [["restore", ".", "--to", back], ["verify"], ["ls"]] as [[FilePath]] {
                    let program = try await bench.run(verb + ["--from", "here", "--config", file])
                    #expect(program.ending == .exit(0), "\(verb): \(program.errorText)")
                    // From the directory above it both are the same.
                    let isTold = program.errorText.contains("is taken for what the configuration calls so")
                    #expect(isTold == (number == 0), "\(verb): \(program.errorText)")
                }
                #expect(isThere(back.appending("file"), "of a\n"))
            }
        }

        @Test("A destination that goes away holds up no other one; a restore takes the one that is there")
        func destinationGoes() async throws {
            let (bench, file) = try bench(Self.twoDestinations)
            let (a, there) = (bench.root.appending("a"), bench.root.appending("mount"))
            try bench.makeDirectory(there)
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            for away in ["here", "mount"] {
                let moved = bench.root.appending("\(away).away")
                try command(["mv", bench.root.appending(away), moved])
                try bench.write(a.appending("file"), Array("while \(away) is away\n".utf8))
                let held = try await bench.run(["run", "--config", file, "--once"])
                #expect(held.ending == .exit(4), "\(held.errorTail)")
                let other = away == "here" ? there.appending("there/file") : bench.root.appending("here/file")
                #expect(isThere(other, "while \(away) is away\n"), "\(held.errorTail)")
                #expect(try Tree(a).differences(in: try await restore(bench, a, from: nil)) == [])
                try command(["mv", moved, bench.root.appending(away)])
            }
            let again = try await bench.run(["run", "--config", file, "--once"])
            #expect(again.ending == .exit(0), "\(again.errorTail)")
            for destination in [bench.root.appending("here"), there.appending("there")] {
                #expect(try Tree(a).differences(in: try Tree(destination)) == [])
            }
        }

        @Test("A destination that is added gets everything, and one that is taken out holds nothing up any more")
        func changedDestinations() async throws {
            let (bench, file) = try bench(Self.twoDestinations)
            let (a, there) = (bench.root.appending("a"), bench.root.appending("mount/there"))
            try bench.makeDirectory(bench.root.appending("mount"))
            let both = String(decoding: try read(file), as: UTF8.self)
            func write(without name: String, at directory: String) throws {
                let lines = both.split(separator: "\n").filter {
                    !["destination = \(name)", "[destination \"\(name)\"]", "path = \(bench.root)/\(directory)"]
                        .contains(String($0))
                }
                try bench.write(file, Array(lines.joined(separator: "\n").utf8))
            }
            try write(without: "there", at: "mount/there")
            let first = try await bench.run(["run", "--config", file, "--once"])
            #expect(first.ending == .exit(0), "\(first.errorTail)")
            try bench.write(file, Array(both.utf8))
            let second = try await bench.run(["run", "--config", file, "--once"])
            #expect(second.ending == .exit(0), "\(second.errorTail)")
            #expect(try Tree(a).differences(in: try Tree(there)) == [])

            try command(["mv", bench.root.appending("here"), bench.root.appending("sold")])
            try bench.write(a.appending("new"), Array("new\n".utf8))
            let held = try await bench.run(["run", "--config", file, "--once"])
            #expect(held.ending == .exit(4), "\(held.errorTail)")
            try write(without: "here", at: "here")
            let last = try await bench.run(["run", "--config", file, "--once"])
            #expect(last.ending == .exit(0), "\(last.errorTail)")
            #expect(isThere(there.appending("new"), "new\n"))
            let status = try await bench.run(["status", "--state", bench.state])
            #expect(status.ending == .exit(0), "\(status.outputText)")
            #expect(status.outputText.contains("here (inactive)"), "\(status.outputText)")
        }

        @Test("Two sources share a destination, each under its prefix, and each comes back by itself")
        func twoSources() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let (a, b, one) = (bench.root.appending("a"), bench.root.appending("b"), bench.root.appending("one"))
            try bench.write(b.appending("left.tmp"), Array("out\n".utf8))
            try bench.write(a.appending("kept.tmp"), Array("in\n".utf8))
            let agent = try await start(bench, file)
            func isInSync() throws -> Bool {
                guard isThere(one.appending("from/a/kept.tmp"), "in\n"), isThere(one.appending("from/b/only b"), "b\n"),
                    try StateFile(copying: bench.state).jobCounts().isEmpty
                else { return false }
                let saved = try Tree(one.appending("from/b"))
                return try Tree(a).differences(in: try Tree(one.appending("from/a"))) { _ in true }.isEmpty
                    && Tree(b).differences(in: saved) { _ in true } == ["left.tmp is missing"]
            }
            #expect(try await eventually(isInSync), "\(agent.errorTail)")
            // Changes of one are not the other's, also when both have the same path.
            try bench.write(a.appending("file"), Array("changed in a\n".utf8))
            try command(["mv", b.appending("file"), b.appending("renamed")])
            try command(["rm", a.appending("only a")])
            let isChanged = try await eventually {
                try isInSync() && !Tree(one.appending("from/b")).entries.keys.contains(RelativePath("file"))
            }
            #expect(isChanged, "\(agent.errorTail)")
            try await bench.stop(agent)
            // The catalogue copy is of both.
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            #expect(try StateFile(copying: bench.state).lies(about: one) == [])
            try command(["rm", b.appending("left.tmp")])
            for origin in [nil, one] {
                #expect(try Tree(a).differences(in: try await restore(bench, a, from: origin)) == [])
                #expect(try Tree(b).differences(in: try await restore(bench, b, from: origin)) == [])
            }
            let mixed = try await bench.run(
                ["restore", "file", "--to", bench.root.appending("mixed"), "--state", bench.state])
            #expect(mixed.ending == .exit(2))
            #expect(mixed.errorText.contains("\(a)") && mixed.errorText.contains("\(b)"), "\(mixed.errorText)")
        }

        @Test("After a lost state both sources of a destination go on with their history, without a second copy")
        func lostState() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            let copy = bench.root.appending("one/from/b")
            let before = try Descriptor.open(copy, O_RDONLY).status(of: Array("file".utf8))
            try command(["rm", "-rf", bench.state])
            let again = try await bench.run(["run", "--config", file, "--once"])
            #expect(again.ending == .exit(0), "\(again.errorTail)")
            #expect(again.errorText.contains("The catalogue was read"), "\(again.errorTail)")
            let after = try Descriptor.open(copy, O_RDONLY).status(of: Array("file".utf8))
            #expect(after.fingerprint == before.fingerprint, "an unchanged file was stored again")
            let names = try StateFile(copying: bench.state).liveNames().filter { $0.kind == "file" }
            #expect(names.count == 4)
        }

        @Test("A source that is held keeps neither the other source nor the agent's start waiting")
        func sourceHeld() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let first = try await bench.run(["run", "--config", file, "--once"])
            #expect(first.ending == .exit(0), "\(first.errorTail)")
            try command(["mv", bench.root.appending("a"), bench.root.appending("away")])
            try bench.write(bench.root.appending("b/new"), Array("new\n".utf8))
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(4), "\(once.errorTail)")
            #expect(isThere(bench.root.appending("one/from/b/new"), "new\n"), "\(once.errorTail)")

            let agent = try await start(bench, file)
            try bench.write(bench.root.appending("b/newer"), Array("newer\n".utf8))
            let isSaved = try await eventually { isThere(bench.root.appending("one/from/b/newer"), "newer\n") }
            #expect(isSaved, "\(agent.errorTail)")
            #expect(try await bench.status().sources.map { $0.held?.reason } == ["rootMissing", nil])
            try command(["mv", bench.root.appending("away"), bench.root.appending("a")])
            try bench.write(bench.root.appending("a/new"), Array("back\n".utf8))
            let isBack = try await eventually { isThere(bench.root.appending("one/from/a/new"), "back\n") }
            #expect(isBack, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        @Test("A destination never takes a source that does not fit to those it has")
        func unfitting() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let (a, one) = (bench.root.appending("a"), bench.root.appending("one"))
            let once = try await bench.run(["run", "--config", file, "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            let before = try Tree(one).entries.count
            // At the top, where the prefixes are.
            for state in [bench.state, bench.root.appending("other state")] {
                let top = try await bench.run(["run", a, one, "--once", "--state", state])
                #expect(top.ending == .exit(2), "\(top.errorTail)")
            }
            // Another agent of this machine, with a prefix that would do.
            let other = bench.root.appending("other.conf")
            try bench.makeDirectory(bench.root.appending("c"))
            try bench.write(
                other,
                Array(
                    """
                    [source "c"]
                    path = \(bench.root)/c
                    destination = one
                    prefix = from/c
                    [destination "one"]
                    path = \(one)
                    """.utf8))
            let third = try await bench.run(
                ["run", "--config", other, "--once", "--state", bench.root.appending("third state")])
            #expect(third.ending == .exit(2), "\(third.errorTail)")
            #expect(third.errorText.contains("already holds the backup of"), "\(third.errorTail)")
            #expect(try Tree(one).entries.count == before)
        }

        @Test("A destination inside one source is not saved by another agent's path through it")
        func destinationInsideOtherSource() async throws {
            let (bench, file) = try bench { root in
                """
                [source "all"]
                path = \(root)/a
                destination = far
                [source "b"]
                path = \(root)/b
                destination = near
                [destination "far"]
                path = \(root)/far
                [destination "near"]
                path = \(root)/a/near
                """
            }
            for _ in 0..<2 {
                let once = try await bench.run(["run", "--config", file, "--once", "--state", bench.state])
                #expect(once.ending == .exit(0), "\(once.errorTail)")
            }
            #expect(isThere(bench.root.appending("a/near/file"), "of b\n"))
            let far = try Tree(bench.root.appending("far")).entries.keys.map(\.description).sorted()
            #expect(far == ["file", "only a"])
        }

        @Test("Mistakes are told with their places by check-config and run, with exit code 2; nothing is started")
        func mistakes() async throws {
            let (bench, file) = try bench { root in
                """
                [source "a"]
                path = \(root)/a
                destination = on
                exclude = [z-a
                exclude-from = \(root)/missing
                [destination "one"]
                path = \(root)/a/..
                """
            }
            for arguments: [FilePath] in [["check-config", file], ["run", "--config", file, "--once"]] {
                let program = try await bench.run(arguments + ["--state", bench.state])
                #expect(program.ending == .exit(2))
                #expect(
                    program.errorText.contains("agent.conf:3:15: there is no [destination \"on\"]; did you mean 'one'?")
                )
            }
            let fixed = String(decoding: try read(file), as: UTF8.self).split(separator: "\n").map { line in
                line == "destination = on" ? "destination = one" : String(line)
            }
            try bench.write(file, Array(fixed.joined(separator: "\n").utf8))
            let program = try await bench.run(["check-config", file, "--state", bench.state])
            #expect(program.ending == .exit(2))
            for expected in ["agent.conf:5:16: ", "agent.conf:7:8: "] {
                #expect(program.errorText.contains(expected), "\(program.errorText)")
            }
            #expect(throws: Errno.noSuchFileOrDirectory) { try Descriptor.open(bench.state, O_RDONLY) }
            let neither = try await bench.run(["run", "--config", file, bench.source])
            #expect(neither.ending == .exit(2))
        }

        @Test("SIGHUP applies what the file says now, keeps what cannot be used away, and loses no change")
        func reload() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let one = bench.root.appending("one")
            let agent = try await start(bench, file)
            #expect(try await eventually { isThere(one.appending("from/b/file"), "of b\n") })
            let content = String(decoding: try read(file), as: UTF8.self)
            // A mistake.
            try bench.write(file, Array((content + "\nidle-tim = 1s").utf8))
            agent.send(SIGHUP)
            let isRefused = try await eventually { agent.errorText.contains("did you mean 'idle-time'?") }
            #expect(isRefused, "\(agent.errorTail)")
            // What only the start finds: a source that is not there.
            let third = content + "\n[source \"c\"]\npath = \(bench.root)/c\ndestination = one\nprefix = from/c\n"
            try bench.write(file, Array(third.utf8))
            let check = try await bench.run(["check-config", file])
            #expect(check.ending == .exit(2) && check.errorText.contains("/c is not there, and was never saved"))
            agent.send(SIGHUP)
            let isTold = try await eventually { agent.errorText.contains("cannot be used; the agent goes on") }
            #expect(isTold, "\(agent.errorTail)")
            #expect(!agent.errorText.contains("changes="), "a change is told that is none:\n\(agent.errorText)")
            #expect(!agent.errorText.contains("holds from now on"), "told before it was used:\n\(agent.errorText)")
            // Back to the one that is used: nothing has changed, as the other one never held.
            try bench.write(file, Array(content.utf8))
            agent.send(SIGHUP)
            let isSame = try await eventually { agent.errorText.contains("nothing has changed") }
            #expect(isSame, "\(agent.errorTail)")
            try bench.write(file, Array(third.utf8))
            try bench.write(bench.root.appending("a/kept on"), Array("by the former\n".utf8))
            #expect(try await eventually { isThere(one.appending("from/a/kept on"), "by the former\n") })
            // Now it is there, and the file is as before.
            try bench.makeDirectory(bench.root.appending("c"))
            try bench.write(bench.root.appending("c/file"), Array("of c\n".utf8))
            agent.send(SIGHUP)
            #expect(try await eventually { isThere(one.appending("from/c/file"), "of c\n") }, "\(agent.errorTail)")
            let holds = try await eventually { agent.errorText.contains("holds from now on") }
            #expect(holds && !agent.errorText.contains("state's directory"), "\(agent.errorText)")
            // One goes, and another rule comes; changes go on meanwhile.
            let last = content.split(separator: "\n").map { $0 == "exclude = *.tmp" ? "exclude = *.log" : String($0) }
            try bench.write(file, Array(last.joined(separator: "\n").utf8))
            agent.send(SIGHUP)
            for number in 0..<20 {
                try bench.write(bench.root.appending("b/\(number).tmp"), Array("\(number)\n".utf8))
                try bench.write(bench.root.appending("b/\(number).log"), Array("\(number)\n".utf8))
            }
            let isApplied = try await eventually {
                let saved = try Tree(one.appending("from/b")).entries.keys
                return (0..<20).allSatisfy { number in saved.contains { $0.description == "\(number).tmp" } }
            }
            #expect(isApplied, "\(agent.errorTail)")
            let isActive = try await eventually {
                try StateFile(copying: bench.state).rows("SELECT active FROM source ORDER BY path").map {
                    $0[0].integer
                }
                    == [1, 1, 0]
            }
            #expect(isActive)
            #expect(agent.errorText.contains("exclude: *.tmp → *.log"), "\(agent.errorText)")
            try await bench.stop(agent)
            #expect(agent.outputText == "ready\n")
            #expect(try StateFile(copying: bench.state).lies(about: one) == [])
        }

        @Test("check-config finds what a start would refuse by its state and its destinations, and writes nothing")
        func refusals() async throws {
            let (bench, file) = try bench(Self.twoSources)
            #expect(try await bench.run(["check-config", file]).ending == .exit(0))
            try bench.write(bench.root.appending("a/file"), Array("saved under the prefix\n".utf8))
            let saved = try await bench.run(["run", "--once", "--config", file])
            #expect(saved.ending == .exit(0), "\(saved.errorTail)")
            #expect(try await bench.run(["check-config", file]).ending == .exit(0))
            let content = String(decoding: try read(file), as: UTF8.self)
            func refusal(_ content: String, _ more: [FilePath] = []) async throws -> String {
                try bench.write(file, Array(content.utf8))
                let check = try await bench.run(["check-config", file] + more)
                let run = try await bench.run(["run", "--once", "--config", file] + more)
                #expect(check.ending == .exit(2) && run.ending == .exit(2), "\(check.outputText)\(run.errorTail)")
                return check.errorText
            }
            // By the destination, and while that is away by the state.
            let other = content.replacing("prefix = from/a", with: "prefix = other")
            #expect(try await refusal(other).contains("agent.conf:") && other != content)
            let one = bench.root.appending("one")
            try command(["mv", one, bench.root.appending("away")])
            #expect(try await refusal(other).contains("under the prefix from/a, not other"))
            try command(["mv", bench.root.appending("away"), one])
            // Another state's destination.
            let none = bench.root.appending("another-state")
            let taken = content.replacing("\(bench.root)/a", with: "\(bench.root)/one-more").replacing(
                "\(bench.root)/b", with: "\(bench.root)/two-more"
            ).split(separator: "\n").filter {
                !$0.hasPrefix("state")
            }.joined(separator: "\n")
            for name in ["one-more", "two-more"] { try bench.makeDirectory(bench.root.appending(name)) }
            let text = try await refusal(taken, ["--state", none])
            #expect(text.contains("already holds the backup of"), "\(text)")
        }

        @Test(
            "A configuration in a directory that may not be entered is told with that directory",
            .timeLimit(.minutes(1)))
        func closedDirectory() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let folder = bench.root.appending("conf")
            try command(["mkdir", "-p", folder.appending("in/agent.conf.d")])
            try command(["cp", file, folder.appending("in/agent.conf")])
            try command(["chmod", "0", folder])
            if geteuid() == 0 {
                let program = bench.root.appending("safebackup")
                try command(["cp", Bench.program, program])
                try command(["chmod", "0755", bench.root])
                bench.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
            }
            let check = try await bench.run(["check-config", folder.appending("in/agent.conf")])
            try command(["chmod", "0755", folder])
            #expect(check.ending == .exit(2))
            #expect(
                check.errorText.contains("in/agent.conf:1:1: the file cannot be read: the directory \(folder) may not"))
            #expect(!check.errorText.contains("agent.conf.d"), "\(check.errorText)")
            try command(["chmod", "0", folder.appending("in/agent.conf.d")])
            let dropIns = try await bench.run(["check-config", folder.appending("in/agent.conf")])
            #expect(dropIns.ending == .exit(2) && dropIns.errorText.contains("agent.conf.d:1:1: "))
        }

        @Test("Commands find the state through the configuration, and take its names where they are not ambiguous")
        func commands() async throws {
            let (bench, file) = try bench(Self.twoSources)
            #expect(try await bench.run(["run", "--config", file, "--once"]).ending == .exit(0))
            let status = try await bench.run(["status", "--config", file])
            #expect(status.ending == .exit(0) && status.outputText.contains("\(bench.root)/a"), "\(status.errorText)")
            let pause = try await bench.run(["pause", "b", "--config", file])
            #expect(pause.ending == .exit(0) && pause.outputText.contains("\(bench.root)/b"), "\(pause.errorText)")
            let paused = try StateFile(copying: bench.state).rows("SELECT path FROM source WHERE paused_at IS NOT NULL")
            #expect(paused.count == 1)
            let back = try await bench.run([
                "restore", bench.root.appending("a/file"), "--from", "one", "--to", bench.root.appending("back"),
                "--config", file,
            ])
            #expect(
                back.ending == .exit(0) && isThere(bench.root.appending("back/file"), "of a\n"), "\(back.errorText)")
            // One name for two things; no such file.
            let text = String(decoding: try read(file), as: UTF8.self)
            let twice = bench.root.appending("twice.conf")
            try bench.write(
                twice,
                Array(
                    text.replacing("destination = one", with: "destination = a").replacing(
                        "[destination \"one\"]", with: "[destination \"a\"]"
                    ).utf8))
            let ambiguous = try await bench.run(["pause", "a", "--config", twice])
            #expect(ambiguous.ending == .exit(2) && ambiguous.errorText.contains("of a source and of a destination"))
            let missing = try await bench.run(["status", "--config", bench.root.appending("none.conf")])
            #expect(missing.ending == .exit(2), "\(missing.errorText)")
        }

        @Test("Paths of two sources are refused as that, and not called unknown")
        func twoSourcesAtOnce() async throws {
            let (bench, file) = try bench(Self.twoSources)
            #expect(try await bench.run(["run", "--config", file, "--once"]).ending == .exit(0))
            let program = try await bench.run([
                "restore", bench.root.appending("a/file"), bench.root.appending("b/file"), "--to",
                bench.root.appending("back"), "--state", bench.state,
            ])
            #expect(program.ending == .exit(2) && program.errorText.contains("one at a time"), "\(program.errorText)")
        }

        @Test("At the first start too it is told that source and destination share a disk")
        func sharedDisk() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let program = try await bench.run(["run", "--config", file, "--once"])
            #expect(program.ending == .exit(0))
            #expect(program.errorText.contains("lie on the same file system"), "\(program.errorText)")
        }

        @Test("A relative --state is the same directory when the configuration is read again")
        func relativeState() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let content = String(decoding: try read(file), as: UTF8.self)
            let lines = content.split(separator: "\n").filter { !$0.hasPrefix("state") }.joined(separator: "\n") + "\n"
            try bench.write(file, Array(lines.utf8))
            let script = "cd \(bench.root) && exec \(Bench.program) run --config \(file) --state here"
            let agent = try Program(
                ["bash", "-c", FilePath(script)], output: bench.root.appending("out"),
                errors: bench.root.appending("err"))
            #expect(try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil })
            try bench.write(file, Array(lines.replacing("*.tmp", with: "*.log").utf8))
            agent.send(SIGHUP)
            let holds = try await eventually { agent.errorText.contains("holds from now on") }
            try await bench.stop(agent)
            #expect(holds && !agent.errorText.contains("state's directory"), "\(agent.errorText)")
        }

        @Test("config example can be checked and shown, and says the same as its effective form")
        func example() async throws {
            let (bench, file) = try bench(Self.twoSources)
            let shown = try await bench.run(["config", "show", "--effective", "--config", file])
            #expect(shown.ending == .exit(0) && shown.outputText.contains("idle-time = 10s"), "\(shown.errorText)")
            let again = bench.root.appending("again.conf")
            try bench.write(again, Array(shown.outputText.utf8))
            let checked = try await bench.run(["check-config", again])
            #expect(checked.ending == .exit(0), "\(checked.errorText)")
            #expect(checked.outputText.contains("sources: 2, destinations: 1, pairs: 2"))
            let example = try await bench.run(["config", "example"])
            #expect(example.ending == .exit(0) && example.outputText.contains("[destination \"disk\"]"))
        }
    }
}
