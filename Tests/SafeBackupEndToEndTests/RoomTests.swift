import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Room in the destination")
    struct Room {
        private func usage(_ path: FilePath) throws -> VolumeStatistics {
            try VolumeStatistics(Descriptor.open(path, O_RDONLY | O_DIRECTORY))
        }

        private func fill(_ bench: Bench, _ directory: String, _ files: Int, seed: UInt64) throws {
            var random = SeededGenerator(seed: seed)
            for number in 0..<files { try bench.write(bench.at("\(directory)/\(number)"), random.bytes(1 << 20)) }
        }

        /// The paths whose versions went, in order.
        private func cleaned(_ bench: Bench) throws -> [String] {
            try texts(bench, "SELECT path FROM cleaned WHERE reason = 'cleaning' ORDER BY id")
        }

        private func texts(_ bench: Bench, _ sql: String) throws -> [String] {
            try StateFile(copying: bench.state).rows(sql).map { $0[0].text }
        }

        @Test(
            "When little is free older versions go, those that were stored first, and everything is saved",
            .needsLoopDevice)
        func versions() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            // 18 MiB that are saved first and then replaced, 16 MiB later: 34 MiB of versions.
            try fill(bench, "early", 18, seed: 1)
            try await bench.saveOnce()
            try fill(bench, "early", 18, seed: 2)
            try await bench.saveOnce()
            try fill(bench, "late", 16, seed: 3)
            try await bench.saveOnce()
            #expect(try cleaned(bench) == [])
            try fill(bench, "late", 16, seed: 4)
            try await bench.saveOnce()
            try fill(bench, "new", 14, seed: 5)
            try await bench.saveOnce()
            try bench.expectSaved()

            let gone = try cleaned(bench)
            #expect(!gone.isEmpty && gone.count < 34)
            let firstLate = gone.firstIndex { $0.hasPrefix("late/") } ?? gone.count
            #expect(gone[..<firstLate].count == min(gone.count, 18), "\(gone)")
            let room = try usage(disk.mountPoint)
            #expect(room.available.bytes >= room.total.bytes / 10)
            // Not far more than is needed.
            #expect(room.available.bytes <= room.total.bytes / 5 + 4 << 20)
        }

        @Test(
            "A disk that somebody else fills loses older versions at most, and saving goes on when there is room",
            .needsLoopDevice)
        func somebodyElse() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            try fill(bench, "kept", 6, seed: 1)
            try await bench.saveOnce()
            try fill(bench, "kept", 6, seed: 2)
            try bench.write("deleted", "the only copy of it is in the backup\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("deleted")])
            try await bench.saveOnce()
            let script = #"cat /dev/zero >"$0" 2>/dev/null; sync -f "$0"; truncate -s "-$1" "$0""#
            let filler = disk.mountPoint.appending("filler")
            try command(["bash", "-c", FilePath(script), filler, FilePath("\(4 << 20)")])

            try fill(bench, "new", 2, seed: 3)
            let program = try await bench.once()
            #expect([.exit(0), .exit(3)].contains(try #require(program.ending)), "\(program.errorTail)")
            // What the rules allow went, and it is told that it is not enough.
            #expect(try Set(cleaned(bench)) == Set((0..<6).map { "kept/\($0)" }))
            let told = try texts(bench, "SELECT level FROM journal WHERE event = 'cleaned'")
            #expect(told.contains("warning"))
            try bench.expectCatalogueIsTrue()
            #expect(try bench.differences().filter { !$0.hasSuffix("is missing") } == [])
            #expect(try read(bench.backup.appending("deleted")) == Array("the only copy of it is in the backup\n".utf8))

            try command(["rm", filler])
            try await bench.saveOnce()
            try bench.expectSaved()
        }
    }
}
