import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

@Suite("The files of a configuration")
struct ConfigurationFilesTests {
    /// A directory of the test's own, and files in it.
    private final class Files {
        let root: FilePath

        init(_ contents: [String: String]) throws {
            var template = Array("/tmp/safebackup-configuration.XXXXXX".utf8CString)
            guard let made = mkdtemp(&template) else { throw Errno(rawValue: errno) }
            root = FilePath(platformString: made)
            for (name, content) in contents { try write(name, content) }
        }

        func write(_ name: String, _ content: String) throws {
            let path = root.appending(name)
            _ = path.removingLastComponent().withPlatformString { mkdir($0, 0o755) }
            let file = try Descriptor.open(path, O_WRONLY | O_CREAT, mode: 0o644)
            let bytes = Array(content.utf8)
            try bytes.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws -> Void in try file.write(bytes, at: 0) }
        }

        deinit {
            // Nothing here is deeper than one directory.
            for name in [
                "agent.conf.d/10-a.conf", "agent.conf.d/9-b.conf", "agent.conf.d/.swap.conf", "agent.conf.d/old",
            ] {
                _ = root.appending(name).withPlatformString { unlink($0) }
            }
            _ = root.appending("agent.conf.d").withPlatformString { rmdir($0) }
            _ = root.appending("agent.conf").withPlatformString { unlink($0) }
            _ = root.withPlatformString { rmdir($0) }
        }
    }

    private static let main = """
        [source "a"]
        path = /a
        destination = d
        [destination "d"]
        path = /d
        """

    @Test("Drop-ins are read after the file, in the order of their bytes; other names are not")
    func dropIns() throws {
        let files = try Files([
            "agent.conf": Self.main, "agent.conf.d/10-a.conf": "[destination \"d\"]\nidle-time = 1s\n",
            "agent.conf.d/9-b.conf": "[destination \"d\"]\nidle-time = 2s\n", "agent.conf.d/.swap.conf": "nonsense",
            "agent.conf.d/old": "nonsense",
        ])
        let read = try ConfigurationFiles.load(files.root.appending("agent.conf"))
        #expect(read.destinations.first?.idleTime == .seconds(2))
    }

    @Test("What is wrong in several files is told at once, with each one's name")
    func problems() throws {
        let files = try Files([
            "agent.conf": Self.main + "\nidle-tme = 1s", "agent.conf.d/10-a.conf": "[destination \"x\"]\npath = /d\n",
        ])
        do {
            _ = try ConfigurationFiles.load(files.root.appending("agent.conf"))
            Issue.record("it was accepted")
        } catch {
            let places = error.problems.map {
                "\(FilePath(printable($0.place.file)).lastComponent?.string ?? ""):\($0.place.line)"
            }
            #expect(places == ["agent.conf:6", "10-a.conf:1", "10-a.conf:2"])
        }
    }

    @Test(
        "A file that is not there, is a directory or is no text is told by its name",
        arguments: ["missing", ".", "large"])
    func unusable(name: String) throws {
        let files = try Files([:])
        if name == "large" { try files.write("agent.conf", String(repeating: "# much\n", count: 200_000)) }
        let path = name == "large" ? files.root.appending("agent.conf") : files.root.appending(name)
        do {
            _ = try ConfigurationFiles.load(path)
            Issue.record("it was accepted")
        } catch {
            #expect(error.problems.count == 1)
            #expect(error.problems.first?.place.line == 1)
        }
    }
}
