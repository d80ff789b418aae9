import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// The program ends, or the machine, at each step between a lease and its completion.
    @Suite("Ended at each step of the store protocol", .needsFaults)
    struct CrashSteps {
        /// In their order. Not all of a group's files are at the same one when it ends.
        static let steps = ["leased", "staged", "versioned", "flushed", "renamed", "durable", "completed"]

        /// One of everything that a group can hold: a rewritten, a new and a deleted file, a changed link, a directory
        /// that becomes a file and a file that becomes a directory.
        private struct Change {
            let bench: Bench
            private(set) var before: Tree
            private(set) var after: Tree

            /// Saves a first state of the source, then changes it.
            init(in bench: Bench) async throws {
                self.bench = bench
                for number in 0..<4 { try bench.write("rewritten/\(number)", "first \(number)\n") }
                try bench.write("deleted", "to be deleted\n")
                try bench.write("directory/inside", "of a directory\n")
                try bench.write("file", "of a file\n")
                try command(["ln", "-s", "first", bench.at("link")])
                try await bench.saveOnce()
                before = try Tree(bench.source)

                for number in 0..<4 { try bench.write("rewritten/\(number)", "second and longer \(number)\n") }
                for number in 0..<4 { try bench.write("new/\(number)", "new \(number)\n") }
                try command(["rm", "-r", bench.at("deleted"), bench.at("directory"), bench.at("file")])
                try bench.write("directory", "now a file\n")
                try bench.write("file/inside", "now a directory\n")
                try command(["ln", "-sfn", "second", bench.at("link")])
                after = try Tree(bench.source)
            }

            /// A path holds the older state or the newer one, whole; and no older content is lost.
            func expectOldOrNew(sourceLocation: SourceLocation = #_sourceLocation) throws {
                let found = try Tree(bench.backup)
                for (path, entry) in found.entries where entry.kind != .directory {
                    let candidates = [before.entries[path], after.entries[path]].compactMap { $0?.digest }
                    #expect(
                        entry.digest.map { candidates.contains($0) } == true, "\(path) is neither the old nor the new",
                        sourceLocation: sourceLocation)
                }
                for (path, old) in before.entries where old.kind != .directory && after.entries[path]?.kind == old.kind
                {
                    #expect(found.entries[path] != nil, "\(path) is gone", sourceLocation: sourceLocation)
                }
                try expectOldKept(sourceLocation: sourceLocation)
            }

            /// Every older content is still somewhere in the backup: in its place, or as a version.
            func expectOldKept(sourceLocation: SourceLocation = #_sourceLocation) throws {
                let versions = try Tree(bench.backup.appending(".safebackup/versions")).entries.values
                let kept = Set(
                    versions.compactMap(\.digest) + (try Tree(bench.backup)).entries.values.compactMap(\.digest))
                for (path, old) in before.entries {
                    guard let digest = old.digest else { continue }
                    #expect(
                        kept.contains(digest), "the older content of \(path) is lost", sourceLocation: sourceLocation)
                }
            }
        }

        @Test("Killed at a step, then started again", arguments: steps, [1, 3])
        func killed(at step: String, occurrence: Int) async throws {
            let bench = try Bench()
            let change = try await Change(in: bench)
            let program = try await bench.once(fault: "kill=\(step),nth=\(occurrence)")
            // A step that is taken once for a group has no third time.
            if occurrence > 1 && program.ending == .exit(0) { return }
            try #require(program.ending == .signal(SIGKILL), "step \(step) was not reached:\n\(program.errorTail)")
            try change.expectOldOrNew()
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try bench.expectSaved()
            try change.expectOldKept()
        }

        @Test(
            "The page cache lost at a step, with destination and state on the disk", .needsLoopDevice, arguments: steps)
        func cutOff(at step: String) async throws {
            try await cut(at: step, isStateOnDisk: true)
        }

        /// The state knows more than the destination's disk: only a false promise makes that visible.
        @Test(
            "The destination's page cache lost at a step, the state kept", .needsLoopDevice,
            arguments: steps)
        func destinationCutOff(at step: String) async throws {
            try await cut(at: step, isStateOnDisk: false)
        }

        private func cut(at step: String, isStateOnDisk: Bool) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            if isStateOnDisk { bench.state = disk.mountPoint.appending("state") }
            let change = try await Change(in: bench)
            try await bench.cutOff(disk, at: step)

            try change.expectOldOrNew()
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try bench.expectSaved()
            try change.expectOldKept()
        }
    }
}
