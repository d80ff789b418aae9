import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Disks that are full, read-only or slow")
    struct Disks {
        /// Takes the free space of a file system until at most `leaving` bytes are left.
        private func fill(_ directory: FilePath, leaving: Int64) throws -> FilePath {
            let filler = directory.appending("filler")
            // What is free according to statfs is not all to be had in one piece, so it is taken until the disk is full.
            let script = #"cat /dev/zero >"$0" 2>/dev/null; sync -f "$0"; truncate -s "-$1" "$0""#
            try command(["bash", "-c", FilePath(script), filler, FilePath("\(leaving)")])
            return filler
        }

        @Test(
            "A full destination loses nothing, and saving goes on when there is room", .needsLoopDevice,
            .timeLimit(.minutes(4)))
        func fullDestination() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            try bench.write("kept", "before the disk was full\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)

            let filler = try fill(disk.mountPoint, leaving: 12 << 20)
            var random = SeededGenerator(seed: 1)
            for number in 0..<40 { try bench.write(bench.at("large/\(number)"), random.bytes(1 << 20)) }
            let isTold = try await eventually {
                let status = try await bench.status()
                let jobs = try StateFile(copying: bench.state).rows(
                    "SELECT 1 FROM job WHERE last_error_code = 'destinationFull' LIMIT 1")
                return status.destinations.first?.held != nil || !jobs.isEmpty
            }
            let told = try await bench.run(["status", "--state", bench.state])
            #expect(told.ending == .exit(3) && told.outputText.contains("FULL"), "\(told.outputText)")
            let queue = try await bench.run(["queue", "--state", bench.state])
            #expect(queue.ending == .exit(3) && queue.outputText.contains("FULL"), "\(queue.outputText)")
            #expect(isTold, "nobody is told that the destination is full:\n\(agent.errorTail)")
            #expect(agent.poll() == nil)
            try bench.expectCatalogueIsTrue()
            // What is under a final name is whole: nothing differs, some is missing.
            #expect(try bench.differences().filter { !$0.hasSuffix("is missing") } == [])
            #expect(try read(bench.backup.appending("kept")) == Array("before the disk was full\n".utf8))

            try command(["rm", filler])
            try await bench.expectInSync(agent, within: .seconds(150))
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test(
            "A full state disk stops no agent, and nothing is missed when there is room", .needsLoopDevice,
            .timeLimit(.minutes(4)), arguments: [4096, 1024])
        func fullState(blockSize: Int) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 24, blockSize: blockSize)
            bench.state = disk.mountPoint.appending("state")
            try bench.write("first", "first\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)

            let filler = try fill(disk.mountPoint, leaving: 0)
            // Long names, so that the rows need new pages soon.
            let tail = String(repeating: "x", count: 200)
            for number in 0..<2_000 { try bench.write("dir\(number % 4)/\(number)\(tail)", "\(number)\n") }
            let isNoticed = try await eventually { agent.errorText.contains("stateFailed") || agent.poll() != nil }
            #expect(isNoticed && agent.poll() == nil, "the full disk was not noticed:\n\(agent.errorTail)")
            try bench.expectCatalogueIsTrue()

            try command(["rm", filler])
            try await bench.expectInSync(agent, within: .seconds(150))
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test(
            "A full or read-only state disk at the start: exit 1, and the directory is named", .needsLoopDevice,
            arguments: [4096, 1024])
        func stateUnwritable(blockSize: Int) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 24, blockSize: blockSize)
            bench.state = disk.mountPoint.appending("state")
            try bench.write("file", "content\n")
            let filler = try fill(disk.mountPoint, leaving: 0)
            let full = try await bench.once()
            #expect(full.ending == .exit(1), "\(full.errorTail)")
            #expect(full.errorText.contains(bench.state.string), "\(full.errorTail)")
            try command(["rm", filler])
            try await bench.saveOnce()

            try disk.remount(readOnly: true)
            try bench.write("file", "changed\n")
            let readOnly = try await bench.once()
            #expect(readOnly.ending == .exit(1), "\(readOnly.errorTail)")
            #expect(readOnly.errorText.contains(bench.state.string), "\(readOnly.errorTail)")
            try disk.remount(readOnly: false)
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test(
            "A memory stick without links and with folded names: what it can hold is saved, the rest is named",
            .needsExFAT, .timeLimit(.minutes(2)), arguments: ["", "new/"])
        func memoryStick(directory: String) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("stick", mebibytes: 64, .exFAT)
            bench.backup = disk.mountPoint.appending("backup")
            for number in 0..<50 { try bench.write("\(directory)\(number)", "content \(number)\n") }
            try bench.write("\(directory)Case", "upper\n")
            try bench.write("\(directory)case", "lower, and longer\n")
            try command(["ln", "-s", "0", bench.at("\(directory)link")])
            for _ in 0..<2 {
                let program = try await bench.once()
                #expect(program.ending == .exit(3), "\(program.errorTail)")
                let names = try StateFile(copying: bench.state).liveNames().map { "\($0.path)" }
                let cases = names.filter { $0.hasSuffix("ase") }
                #expect(cases.count == 1, "both are called saved, and one of them is not: \(cases)")
                #expect(program.errorText.contains("nameCollision") && program.errorText.contains("symbolic link"))
                let told = directory + (cases.first?.hasSuffix("Case") == true ? "case" : "Case")
                #expect(program.errorText.contains("not saved: \(told): "), "\(program.errorTail)")
                // The stick has no modes; the folded name would be found under the other's.
                let differences = try bench.differences().filter {
                    !$0.contains(" has mode ") && !$0.hasPrefix("\(directory)link ") && !$0.hasPrefix("\(told) ")
                }
                #expect(differences == [])
                try bench.expectCatalogueIsTrue()
                // Rewritten: without links the older copy is renamed away first.
                for number in 0..<20 { try bench.write("\(directory)\(number)", "changed \(number)\n") }
                try bench.write("\(directory)new", "new\n")
            }
        }

        @Test("On a memory stick a file that is renamed only in case is saved under its new spelling", .needsExFAT)
        func spelling() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("stick", mebibytes: 64, .exFAT)
            bench.backup = disk.mountPoint.appending("backup")
            try bench.write("d/readme", "content\n")
            try await bench.saveOnce()
            try command(["mv", bench.at("d/readme"), bench.at("d/README")])
            try await bench.saveOnce()
            #expect(try command(["ls", bench.backup.appending("d")]) == "README\n")
            #expect(try read(bench.backup.appending("d/README")) == Array("content\n".utf8))
            try bench.expectCatalogueIsTrue()
        }

        @Test("A read-only destination is told, and a later run saves what it could not", .needsLoopDevice)
        func readOnlyDestination() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 24)
            bench.backup = disk.mountPoint.appending("backup")
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try disk.remount(readOnly: true)
            try bench.write("file", "changed\n")
            let program = try await bench.once()
            let ending = try #require(program.ending)
            #expect([.exit(1), .exit(3), .exit(4)].contains(ending), "\(program.errorTail)")
            #expect(program.errorText.lowercased().contains("read-only"), "\(program.errorTail)")
            #expect(try read(bench.backup.appending("file")) == Array("content\n".utf8))
            try disk.remount(readOnly: false)
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        /// 1 GiB, or 4 GiB in the long form.
        @Test(
            "SIGTERM in the middle of a large copy: exit 0 within 10 s, and the next start finishes it",
            .timeLimit(.minutes(5)))
        func stoppedInLargeCopy() async throws {
            let bench = try Bench()
            try command([
                "bash", "-c", #"yes "$0" | head -c "$1" >"$2""#, "a large file without a hole",
                Conditions.isLong ? "4G" : "1G", bench.at("large"),
            ])
            let agent = try bench.spawn(bench.arguments())
            let staging = bench.backup.appending(".safebackup/staging")
            let isCopying = try await eventually {
                if agent.poll() != nil { return true }
                guard access(staging.string, F_OK) == 0 else { return false }
                return try !command(["find", staging, "-ignore_readdir_race", "-type", "f", "-size", "+32768k"]).isEmpty
            }
            try #require(isCopying && agent.poll() == nil, "the copy did not begin:\n\(agent.errorTail)")
            try await bench.stop(agent)
            #expect(
                access(bench.backup.appending("large").string, F_OK) != 0, "the copy was complete: stopped too late")
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try bench.expectSaved()
        }
    }
}
