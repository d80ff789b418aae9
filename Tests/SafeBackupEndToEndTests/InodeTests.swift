import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// On disks of about 1,000 inodes: older copies go below 102 until 204 are free; saving leaves 10.
    @Suite("A disk that can hold few files")
    struct Inodes {
        private func inodes(_ disk: LoopDisk) throws -> InodeCount {
            try #require(VolumeStatistics(Descriptor.open(disk.mountPoint, O_RDONLY | O_DIRECTORY)).inodes)
        }

        private func bench() throws -> (Bench, LoopDisk) {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 64, inodes: 1_024)
            bench.backup = disk.mountPoint.appending("backup")
            return (bench, disk)
        }

        private func fill(_ bench: Bench, _ directory: String, _ files: Int, _ text: String) throws {
            for number in 0..<files { try bench.write("\(directory)/\(number)", "\(text) \(number)\n") }
        }

        private func texts(_ bench: Bench, _ sql: String) throws -> [String] {
            try StateFile(copying: bench.state).rows(sql).map { $0[0].text }
        }

        /// Somebody makes files until no more fit, but for so many.
        private func exhaust(_ disk: LoopDisk, but left: Int) throws -> FilePath {
            let filler = disk.mountPoint.appending("filler")
            try command(["mkdir", filler])
            let count = Int(try inodes(disk).available) - left
            try command(["bash", "-c", #"cd "$0" && seq "$1" | xargs touch"#, filler, FilePath("\(count)")])
            #expect(try inodes(disk).available == Int64(left))
            return filler
        }

        @Test(
            "When few more files fit, older versions go, as many as are needed, and everything is saved",
            .needsLoopDevice, .timeLimit(.minutes(2)))
        func versions() async throws {
            let (bench, disk) = try bench()
            try fill(bench, "early", 300, "first")
            try await bench.saveOnce()
            try fill(bench, "early", 300, "second, longer")
            try await bench.saveOnce()
            #expect(try texts(bench, "SELECT path FROM cleaned") == [])
            try fill(bench, "new", 350, "new")
            try await bench.saveOnce()
            try bench.expectSaved()
            let gone = try texts(bench, "SELECT path FROM cleaned WHERE reason = 'space'")
            #expect((100...260).contains(gone.count) && gone.allSatisfy { $0.hasPrefix("early/") }, "\(gone.count)")
            #expect(try (102...260).contains(inodes(disk).available))
            // More than ever fit beside what must stay: what finds no room waits, and what was saved is saved.
            try fill(bench, "more", 400, "more")
            let program = try await bench.once()
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            #expect(try inodes(disk).available >= 4, "saving leaves some")
            #expect(try texts(bench, "SELECT DISTINCT last_error_code FROM job") == ["destinationFull"])
            #expect(try texts(bench, "SELECT last_error FROM job LIMIT 1")[0].contains("inodes"))
            #expect(try texts(bench, "SELECT missing FROM capacity")[0].contains("inodes"))
            try bench.expectCatalogueIsTrue()
            #expect(try bench.differences().filter { !$0.hasSuffix("is missing") } == [])
        }

        @Test(
            "A disk on which somebody else made all files there can be ends no run with an error, and the agent goes on alone",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func somebodyElse() async throws {
            let (bench, disk) = try bench()
            try fill(bench, "kept", 20, "first")
            try bench.write("deleted", "the only copy of it is in the backup\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("deleted")])
            try fill(bench, "kept", 20, "second, longer")
            try await bench.saveOnce()
            let filler = try exhaust(disk, but: 0)
            try command(["rm", filler.appending("1")])

            // Nothing can be made any more: neither a copy nor a catalogue copy.
            try fill(bench, "kept", 5, "the third is longer again")
            try command(["chattr", "+i", filler])
            let taken = disk.mountPoint.appending("taken")
            try command(["touch", taken])
            let program = try await bench.once()
            #expect(program.ending == .exit(0) || program.ending == .exit(3), "\(program.errorTail)")
            try bench.expectCatalogueIsTrue()
            let agent = try await bench.startAgent()
            // What the rules allow goes, and it is told that it is not enough.
            let isShort = try await eventually {
                try self.texts(bench, "SELECT missing FROM capacity WHERE missing LIKE '%inodes%'").count == 1
            }
            #expect(isShort, "\(agent.errorTail)")
            try fill(bench, "new", 60, "new")
            let isWaiting = try await eventually {
                try self.texts(bench, "SELECT 1 FROM job WHERE last_error_code = 'destinationFull' LIMIT 1").count == 1
            }
            #expect(isWaiting, "\(agent.errorTail)")
            #expect(try read(bench.backup.appending("deleted")) == Array("the only copy of it is in the backup\n".utf8))
            try command(["chattr", "-i", filler])
            try command(["rm", "-r", filler])
            try await bench.expectInSync(agent)
            let isOver = try await eventually {
                try self.texts(bench, "SELECT 1 FROM capacity WHERE missing IS NULL").count == 1
            }
            #expect(isOver, "with room again nothing is missing")
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test(
            "A catalogue copy that finds no inode is told, and what was saved is saved", .needsLoopDevice,
            .timeLimit(.minutes(2)))
        func catalogue() async throws {
            let (bench, disk) = try bench()
            try bench.write("f", "first\n")
            try await bench.saveOnce()
            try bench.write("g", "first\n")
            try await bench.saveOnce()
            _ = try exhaust(disk, but: 0)
            // A deletion needs no inode, and changes the catalogue.
            try command(["rm", bench.at("g")])
            let program = try await bench.once()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(program.errorTail.contains("catalogue copy was not written"), "\(program.errorTail)")
            #expect(try texts(bench, "SELECT 1 FROM journal WHERE event = 'catalogueFailed'").count == 1)
        }
    }
}
