import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Save and restore")
    struct SaveAndRestore {
        /// Everything that a tree may hold and a careless program loses.
        private func fill(_ bench: Bench) throws {
            try bench.write("plain.txt", "content\n")
            try bench.write("empty file", "")
            try bench.write("a/b/c/deep", "deep\n")
            try bench.makeDirectory(bench.at("empty directory"))
            try bench.write("private", "mode 0600\n")
            try command(["chmod", "0600", bench.at("private")])
            try bench.write("tool", "#!/bin/sh\n")
            try command(["chmod", "0755", bench.at("tool")])
            try bench.write("old", "from 2001\n")
            try command(["touch", "-d", "2001-02-03 04:05:06.123456789", bench.at("old")])
            try command(["ln", "-s", "plain.txt", bench.at("link")])
            try command(["ln", "-s", "/nowhere/at all", bench.at("broken link")])
            try command(["ln", "-s", "/", bench.at("link to the root")])
            for name: [UInt8] in [
                Array("new\nline".utf8), [0xFF, 0xFE, 0x41], [0x08], Array("-rf".utf8), Array(" ".utf8),
                Array("caf\u{E9}".utf8), Array("cafe\u{301}".utf8), [UInt8](repeating: 0x6C, count: 255),
            ] {
                try bench.write(bench.source.appending(bytes: name), name)
            }
            // 40 levels of 255 bytes: longer than PATH_MAX, so it is made from inside.
            try command([
                "bash", "-c",
                #"cd "$0" && for _ in {1..40}; do mkdir "$1" && cd "$1" || exit 1; done; echo far >file"#,
                bench.source, FilePath(String(repeating: "d", count: 255)),
            ])
            let sparse = try Descriptor.open(bench.at("sparse"), O_WRONLY | O_CREAT, mode: 0o644)
            try sparse.setSize(256 << 20)
            try sparse.write(Array("in the middle".utf8), at: 100 << 20)
        }

        @Test("What was saved and restored equals the source, odd names and all", .timeLimit(.minutes(3)))
        func roundTrip() async throws {
            let bench = try Bench()
            try fill(bench)
            try await bench.saveOnce()
            try bench.expectSaved()
            let source = try Tree(bench.source)
            let saved = try Tree(bench.backup)
            #expect(source.differences(in: saved) == [])
            #expect(try #require(saved.entries[RelativePath("sparse")]).allocated < 8 << 20, "the hole was filled")

            let restored = bench.root.appending("restored")
            let program = try await bench.run(["restore", bench.source, "--to", restored, "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let back = try Tree(restored)
            #expect(source.differences(in: back) == [])
            #expect(try #require(back.entries[RelativePath("sparse")]).allocated < 8 << 20, "the hole was filled")
        }

        @Test("A bare machine restores from the destination alone", .timeLimit(.minutes(2)))
        func restoreWithoutState() async throws {
            let bench = try Bench()
            try fill(bench)
            try await bench.saveOnce()
            let source = try Tree(bench.source)
            try command(["rm", "-rf", bench.state])
            let restored = bench.root.appending("restored")
            let program = try await bench.run([
                "restore", bench.source, "--to", restored, "--from", bench.backup, "--state", bench.state,
            ])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(source.differences(in: try Tree(restored)) == [])
        }

        @Test("A single file is restored, one that was deleted only when it is named", .timeLimit(.minutes(1)))
        func restoreOne() async throws {
            let bench = try Bench()
            try bench.write("dir/kept", "kept\n")
            try bench.write("dir/deleted", "deleted\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("dir/deleted")])
            try await bench.saveOnce()

            let whole = bench.root.appending("whole")
            let all = try await bench.run(["restore", "dir", "--to", whole, "--state", bench.state])
            #expect(all.ending == .exit(0), "\(all.errorTail)")
            #expect(try Tree(whole).entries.keys.contains(RelativePath("dir/kept")))
            #expect(try !Tree(whole).entries.keys.contains(RelativePath("dir/deleted")))

            let one = bench.root.appending("one")
            let named = try await bench.run(["restore", "dir/deleted", "--to", one, "--state", bench.state])
            #expect(named.ending == .exit(0), "\(named.errorTail)")
            #expect(try read(one.appending("dir/deleted")) == Array("deleted\n".utf8))
        }

        @Test("A directory that is there already keeps its mode; what is missing in it comes back with its own")
        func restoreIntoExisting() async throws {
            let bench = try Bench()
            try bench.write("shared/below/file", "content\n")
            try command(["chmod", "0700", bench.at("shared"), bench.at("shared/below")])
            try await bench.saveOnce()
            let back = bench.root.appending("back")
            try command(["mkdir", "-p", back.appending("shared")])
            try command(["chmod", "2775", back.appending("shared")])
            try bench.write(back.appending("shared/mine"), Array("mine\n".utf8))
            let program = try await bench.run(["restore", "shared", "--to", back, "--state", bench.state])
            #expect(
                program.ending == .exit(3) && program.errorText.contains("keeps its own mode"), "\(program.errorTail)")
            let modes = try command([
                "find", back.appending("shared"), "-printf", "%P %m\\n",
            ]).split(separator: "\n").map(String.init).sorted()
            #expect(modes == [" 2775", "below 700", "below/file 644", "mine 644"])
        }

        @Test("The source is only ever read: nothing in it has another time, mode, owner or name afterwards")
        func sourceUntouched() async throws {
            let bench = try Bench()
            try fill(bench)
            let look: [FilePath] = [
                "find", bench.source, "-printf", FilePath(#"%i %T@ %C@ %m %U %G %s %n %P\0"#),
            ]
            let before = try command(look)
            try await bench.saveOnce()
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            let restored = bench.root.appending("restored")
            let program = try await bench.run(["restore", bench.source, "--to", restored, "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(try command(look) == before)
        }

        @Test("A deleted directory without a copy is removed in the backup, one with copies stays; both come back")
        func deletedDirectories() async throws {
            let bench = try Bench()
            try bench.write("kept", "content\n")
            try bench.write("full/file", "content\n")
            try command(["mkdir", "-p", bench.at("empty/below")])
            try await bench.saveOnce()
            try command(["rm", "-r", bench.at("full"), bench.at("empty")])
            try await bench.saveOnce()
            #expect(access(bench.backup.appending("empty").string, F_OK) != 0)
            #expect(try read(bench.backup.appending("full/file")) == Array("content\n".utf8))
            let back = bench.root.appending("back")
            let program = try await bench.run(["restore", "full", "empty", "--to", back, "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let names = try Tree(back).entries.keys.map(\.description).sorted()
            #expect(names == ["empty", "empty/below", "full", "full/file"])
        }

        @Test("What changed while the agent was down is saved at its next start, without a second copy of the rest")
        func changedWhileDown() async throws {
            let bench = try Bench()
            for number in 0..<50 { try bench.write("dir/\(number)", "first \(number)\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            let untouched = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("7".utf8))

            try bench.write("dir/3", "changed\n")
            try bench.write("new/file", "new\n")
            try command(["mv", bench.at("dir/4"), bench.at("dir/renamed")])
            try command(["rm", bench.at("dir/5")])
            try command(["chmod", "0600", bench.at("dir/6")])
            try command(["touch", "-d", "2002-02-02", bench.at("dir/8")])
            let again = try await bench.startAgent()
            try await bench.expectInSync(again)
            try await bench.stop(again)
            try bench.expectSaved()

            let after = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("7".utf8))
            #expect(after.fingerprint == untouched.fingerprint, "an unchanged file was stored again")
            #expect(try read(bench.backup.appending("dir/5")) == Array("first 5\n".utf8), "a tombstone is gone")
            let names = Set(try StateFile(copying: bench.state).liveNames().map(\.path))
            #expect(names == Set(try Tree(bench.source).entries.keys), "the live names are not the source's paths")
        }

        @Test("Each kind of change is saved while the agent runs")
        func changedWhileRunning() async throws {
            let bench = try Bench()
            try bench.write("file", "first\n")
            try bench.write("directory/file", "below\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)

            try bench.write("file", "second, longer\n")
            try bench.write("made/in/one/go/file", "new\n")
            try await bench.expectInSync(agent)
            try command(["mv", bench.at("made"), bench.at("moved")])
            try command(["chmod", "0700", bench.at("file")])
            try await bench.expectInSync(agent)
            // A directory becomes a file, and a file a directory.
            try command(["rm", "-r", bench.at("directory"), bench.at("file")])
            try bench.write("directory", "now a file\n")
            try bench.write("file/inside", "now a directory\n")
            try await bench.expectInSync(agent)
            // Moved in from outside with all that is in it.
            let outside = bench.root.appending("outside")
            try bench.write(outside.appending("x/y/z"), Array("moved in\n".utf8))
            try command(["mv", outside, bench.at("came")])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test("An excluded path is neither saved nor counted as unsaved")
        func excludes() async throws {
            let bench = try Bench()
            try bench.write("keep/file", "keep\n")
            try bench.write("keep/file.tmp", "leave\n")
            try bench.write("cache/file", "leave\n")
            let program = try await bench.once(["--exclude", "*.tmp", "--exclude", "/cache/"])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let saved = try Tree(bench.backup)
            #expect(Set(saved.entries.keys) == Set(try ["keep", "keep/file"].map { try RelativePath($0) }))
        }

        @Test("A directory that already holds files is adopted: equal ones stay, others are kept as versions")
        func adoption() async throws {
            let bench = try Bench()
            try bench.write("same", "same\n")
            try bench.write("other", "the source's\n")
            try command(["cp", "-a", bench.source, bench.backup])
            try bench.write(bench.backup.appending("other"), Array("was here before\n".utf8))
            try bench.write(bench.backup.appending("not ours"), Array("nobody's business\n".utf8))
            let before = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("same".utf8))
            try await bench.saveOnce()
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("same".utf8))
            #expect(after.fingerprint.inode == before.fingerprint.inode, "an identical file was copied again")
            #expect(try read(bench.backup.appending("not ours")) == Array("nobody's business\n".utf8))
            let versions = try Tree(bench.backup.appending(".safebackup/versions"))
            let contents = versions.entries.values.compactMap(\.digest)
            #expect(contents.contains(SHA256.digest(of: Array("was here before\n".utf8))), "a foreign file was lost")
        }

        @Test("Without the state, what was stored or renamed after the last catalogue copy comes back too")
        func olderCatalogue() async throws {
            let bench = try Bench()
            for number in 0..<5 { try bench.write("big/\(number)", "content \(number)\n") }
            try bench.write("tombstone", "deleted before\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("tombstone")])
            try await bench.saveOnce()
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["mv", bench.at("big"), bench.at("renamed")])
            try bench.write("renamed/3", "changed and longer\n")
            try bench.write("new", "new\n")
            try await bench.expectInSync(agent)
            // At an orderly stop a catalogue copy would be written.
            agent.crash()
            let target = bench.root.appending("restored")
            let program = try await bench.run(["restore", ".", "--to", target, "--from", bench.backup])
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            // What was deleted since may come back too: nothing tells.
            #expect(try Tree(bench.source).differences(in: try Tree(target)) { _ in true } == [])
            #expect(program.errorText.contains("not in the catalogue copy"), "\(program.errorTail)")
        }
    }
}
