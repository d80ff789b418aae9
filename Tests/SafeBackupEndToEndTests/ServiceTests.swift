import Foundation
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// With a socket of the test's in the service manager's place.
    @Suite("As a service")
    struct Service {
        @Test("It tells that it has started, what it does, that all of it moves, and that it stops")
        func tells() async throws {
            let bench = try Bench()
            try bench.write("file", "one")
            let manager = try Manager(in: bench)
            let agent = try await bench.startAgent(environment: manager.environment(watchdog: .milliseconds(1_200)))
            // Idle: nothing happens but what the manager asks for.
            try await manager.wait { $0.count { $0 == "WATCHDOG=1" } >= 5 }
            try await manager.wait { $0.contains("STATUS=Everything is saved") }
            #expect(manager.messages.count { $0 == "READY=1" } == 1)
            try await bench.stop(agent)
            manager.collect()
            #expect(manager.messages.last == "STOPPING=1")
            #expect(!agent.errorText.contains("stands still"), "\(agent.errorTail)")
        }

        @Test("A held source is no failed start: it is told that it runs, and why nothing is saved")
        func heldIsRunning() async throws {
            let bench = try Bench()
            try bench.write("file", "one")
            try await bench.saveOnce()
            try command(["mv", bench.source, bench.root.appending("away")])
            try bench.makeDirectory(bench.source)
            let manager = try Manager(in: bench)
            let agent = try bench.spawnAgent(environment: manager.environment(watchdog: .seconds(2)))
            try await manager.wait { $0.contains { $0.hasPrefix("STATUS=Held: ") } }
            #expect(manager.messages.contains("READY=1"))
            try await manager.wait { $0.contains("WATCHDOG=1") }
            try await bench.stop(agent)
        }

        @Test("A configuration that is read again is told as that, also one with a mistake in it")
        func reloads() async throws {
            let bench = try Bench()
            try bench.write("file", "one")
            let file = bench.root.appending("agent.conf")
            let text = """
                [source "s"]
                path = \(bench.source)
                destination = d
                [destination "d"]
                path = \(bench.backup)

                """
            try bench.write(file, Array(text.utf8))
            let manager = try Manager(in: bench)
            let agent = try bench.spawn(
                ["run", "--config", file, "--state", bench.state],
                environment: manager.environment(watchdog: .seconds(60)))
            try await manager.wait { $0.contains("READY=1") }
            for (content, event) in [
                (text + "close-delay = 1s\n", "holds from now on"), (text + "nonsense\n", "mistakes"),
            ] {
                let readies = manager.messages.count { $0 == "READY=1" }
                try bench.write(file, Array(content.utf8))
                agent.send(SIGHUP)
                try await manager.wait { $0.count { $0 == "READY=1" } > readies }
                #expect(manager.messages.last { $0.hasPrefix("RELOADING=1\nMONOTONIC_USEC=") } != nil)
                let isLogged = try await eventually { agent.errorText.contains(event) }
                #expect(isLogged, "\(agent.errorTail)")
            }
            #expect(manager.messages.count { $0.hasPrefix("RELOADING=1") } == 2)
            try await bench.stop(agent)
        }

        @Test("A drain that stands still gets no watchdog message, and the log says which part it is")
        func stalls() async throws {
            let bench = try Bench()
            let manager = try Manager(in: bench)
            // Stops the thread of the one group that this file makes, and nothing else.
            let agent = try await bench.startAgent(
                fault: "hang=staged", environment: manager.environment(watchdog: .milliseconds(1_200)))
            try await manager.wait { $0.contains("WATCHDOG=1") }
            try bench.write("file", "one")
            let isBlamed = try await eventually { agent.errorText.contains("stands still") }
            #expect(isBlamed && agent.errorText.contains("part=\"group to "), "\(agent.errorTail)")
            #expect(try await manager.finds(.milliseconds(1_200), over: 2), "told: \(manager.messages.suffix(5))")
            agent.crash()
        }
    }
}

@Suite("The service manager's socket")
struct ServiceManagerTests {
    @Test("A path and an abstract name are both reached, and a message has one assignment a line")
    func names() throws {
        let bench = try Bench()
        let path = Array("\(bench.root.string)/notify".utf8)
        // Abstract names are the whole machine's: the process and the directory make it ours.
        for address in [path, Array("@safebackup-test\(bench.root.string)".utf8)] {
            let socket = try NotifySocket(address)
            let manager = try ServiceManager(address: address)
            try manager.send(.ready, .status("two\nlines"))
            try manager.send(.watchdog)
            try manager.send(.stopping)
            #expect(socket.all() == ["READY=1\nSTATUS=two lines", "WATCHDOG=1", "STOPPING=1"])
            try manager.send(.reloading)
            let reloading = try #require(socket.next())
            #expect(reloading.wholeMatch(of: /RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+/) != nil, "\(reloading)")
        }
    }

    @Test("A name that is no path, too long or gone is an error, and not a crash or silence")
    func refused() throws {
        func failure(of address: String) -> Errno? {
            do throws(Errno) {
                let manager = try ServiceManager(address: Array(address.utf8))
                try manager.send(.ready)
                return nil
            } catch {
                return error
            }
        }
        #expect(failure(of: "vsock:2:1") == .addressFamilyNotSupported)
        #expect(failure(of: "@") == .addressFamilyNotSupported)
        #expect(failure(of: "/" + String(repeating: "x", count: 107)) == .fileNameTooLong)
        #expect(failure(of: "/nowhere/\(getpid())") == .noSuchFileOrDirectory)
        #expect(failure(of: "@safebackup-nobody-\(getpid())") == .connectionRefused)
    }
}

/// The service manager's end of the socket, and what it was told.
private final class Manager {
    private let socket: NotifySocket
    private let address: FilePath
    private(set) var messages: [String] = []

    init(in bench: Bench) throws {
        address = bench.root.appending("notify")
        socket = try NotifySocket(Array(address.string.utf8))
    }

    func environment(watchdog: Duration) -> [String: String] {
        let (seconds, attoseconds) = watchdog.components
        return [
            "NOTIFY_SOCKET": address.string,
            "WATCHDOG_USEC": "\(seconds * 1_000_000 + attoseconds / 1_000_000_000_000)",
        ]
    }

    func collect() { messages += socket.all() }

    /// Until what it was told is enough.
    func wait(until isEnough: ([String]) -> Bool, sourceLocation: SourceLocation = #_sourceLocation) async throws {
        let isOver = try await eventually {
            self.collect()
            return isEnough(self.messages)
        }
        #expect(isOver, "told: \(messages)", sourceLocation: sourceLocation)
    }

    /// Whether the watchdog's time goes by so often without a message, as the service manager judges it.
    func finds(_ watchdog: Duration, over times: Int) async throws -> Bool {
        var heard = 0
        var since = ContinuousClock.now
        return try await eventually {
            self.collect()
            let now = self.messages.count { $0 == "WATCHDOG=1" }
            if now > heard { (heard, since) = (now, ContinuousClock.now) }
            return ContinuousClock.now - since >= watchdog * times
        }
    }
}
