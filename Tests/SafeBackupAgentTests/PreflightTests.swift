import Foundation
import SafeBackupCore
import SystemPackage
import Testing

@testable import SafeBackupAgent

@Suite("Before a run")
struct PreflightTests {
    private func preflight(_ source: FilePath, _ destination: FilePath, state: FilePath) throws -> Preflight {
        try Preflight(source: source.bytes, destination: destination.bytes, state: state)
    }

    @Test("A source inside the destination, or the same directory, is refused; also through a link")
    func inside() throws {
        let temporary = try TemporaryDirectory()
        let backup = try temporary.make("backup")
        let source = try temporary.make("backup/photos")
        let state = try temporary.make("state")
        let link = temporary.path.appending("link")
        try FileManager.default.createSymbolicLink(atPath: link.string, withDestinationPath: backup.string)
        for (from, to) in [(source, backup), (source, link), (backup, backup), (backup, link)] {
            let error = #expect(throws: SafeBackupError.self) { try preflight(from, to, state: state) }
            #expect(error?.code == .invalidConfiguration)
        }
    }

    @Test("A destination or a state inside the source is found by what it is, not by its name")
    func own() throws {
        let temporary = try TemporaryDirectory()
        let source = try temporary.make("home")
        let backup = try temporary.make("home/backup")
        let state = try temporary.make("home/.state")
        let link = temporary.path.appending("elsewhere")
        try FileManager.default.createSymbolicLink(atPath: link.string, withDestinationPath: backup.string)
        let found = try preflight(source, link, state: state)
        #expect(found.isDestinationInside)
        #expect(found.isStateInside)
        #expect(found.isSameDevice)
        // Also before they are made.
        let future = try preflight(source, source.appending("new"), state: source.appending("a").appending("b"))
        #expect(future.isDestinationInside && future.isStateInside)
        // A name that only begins alike is no ancestor.
        let beside = try preflight(source, temporary.make("homework"), state: temporary.make("state"))
        #expect(!beside.isDestinationInside)
        #expect(!beside.isStateInside)
    }

    @Test("A destination that is missing is fine if its parent is there")
    func missing() throws {
        let temporary = try TemporaryDirectory()
        let source = try temporary.make("source")
        let found = try preflight(source, temporary.path.appending("new"), state: temporary.path.appending("state"))
        #expect(!found.destinationExists)
        #expect(found.destination == temporary.path.appending("new"))
        let error = #expect(throws: SafeBackupError.self) {
            try preflight(source, temporary.path.appending("no").appending("where"), state: temporary.path)
        }
        #expect(error?.message.contains("parent directory is not there") == true)
        // One that the state knows is away with its disk, and is waited for.
        let away = temporary.path.appending("media").appending("disk").appending("backup")
        let known = try Preflight(
            source: source.bytes, destination: away.bytes, state: temporary.path, known: [away.bytes])
        #expect(known.destination == away && !known.destinationExists && !known.isSameDevice)
    }

    @Test("A file where a directory is needed is named")
    func notDirectory() throws {
        let temporary = try TemporaryDirectory()
        try temporary.write("x", to: "file")
        let source = try temporary.make("source")
        for (from, to) in [
            (temporary.path.appending("file"), source), (source, temporary.path.appending("file")),
        ] {
            let error = #expect(throws: SafeBackupError.self) { try preflight(from, to, state: temporary.path) }
            #expect(error?.message.contains("is not a directory") == true)
        }
    }

    @Test("The state's place follows the option, systemd, XDG and the user, in this order")
    func statePlace() throws {
        let all = ["STATE_DIRECTORY": "/s/a:/s/b", "XDG_STATE_HOME": "/x", "HOME": "/h"]
        func place(_ option: String?, _ environment: [String: String], _ uid: UInt32) throws -> String {
            try StateDirectory.resolve(option: option.map { Array($0.utf8) }, environment: environment, uid: uid)
                .path.string
        }
        #expect(try place("/o", all, 0) == "/o")
        #expect(try place(nil, all, 0) == "/s/a")
        #expect(try place(nil, all.filter { $0.key != "STATE_DIRECTORY" }, 1) == "/x/safebackup")
        #expect(try place(nil, ["XDG_STATE_HOME": "relative", "HOME": "/h"], 1) == "/h/.local/state/safebackup")
        #expect(try place(nil, ["HOME": "/h"], 0) == "/var/lib/safebackup")
        #expect(throws: SafeBackupError.self) { try place(nil, [:], 1) }
        #expect(throws: SafeBackupError.self) { try place("", all, 1) }
    }

    @Test("A second agent is refused and told the first one's number and the way out")
    func lock() throws {
        let temporary = try TemporaryDirectory()
        let state = StateDirectory(path: temporary.path.appending("deep").appending("state"))
        try state.create()
        try state.create()
        let lock = try state.lock()
        let error = #expect(throws: SafeBackupError.self) { try state.lock() }
        #expect(error?.code == .stateLocked)
        #expect(error?.message.contains("\(ProcessInfo.processInfo.processIdentifier)") == true)
        #expect(error?.message.contains("--state") == true)
        #expect(state.holder().isHeld)
        withExtendedLifetime(lock) {}
    }
}
