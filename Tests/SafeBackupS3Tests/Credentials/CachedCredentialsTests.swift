import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("Keys are refreshed ahead of their end, once")
struct CachedCredentialsTests {
    /// A clock that is set, a source that is told what to give, and how often it was asked.
    private final class Scene: Sendable {
        let now = Locked(Timestamp(microseconds: 1_790_000_000_000_000))
        let answers = Locked<[Result<S3Credentials, CredentialsFailure>]>([])
        let asked = Locked(0)
        let notices = Locked<[SafeBackupError]>([])
        /// While it is closed a refresh does not end.
        let gate: Gate

        init(open: Bool = true) { gate = Gate(isOpen: open) }

        var clock: WallClock { WallClock { self.now.withLock { $0 } } }

        func advance(_ duration: Duration) { now.withLock { $0 = $0 + duration } }

        func keys(_ name: String, for duration: Duration?, _ provider: String = "assume-role") -> S3Credentials {
            S3Credentials(
                accessKey: name, secretKey: "s", expiration: duration.map { clock.now + $0 }, provider: provider)
        }

        func next(_ answer: Result<S3Credentials, CredentialsFailure>) { answers.withLock { $0.append(answer) } }

        func source() -> CachedCredentials {
            CachedCredentials(
                clock: clock, jitter: { 0 }, notice: { notice in self.notices.withLock { $0.append(notice) } }
            ) { () async throws(CredentialsFailure) in
                self.asked.withLock { $0 += 1 }
                await self.gate.pass()
                let answer = self.answers.withLock { $0.isEmpty ? nil : $0.removeFirst() }
                guard let answer else { throw CredentialsFailure(.retrieval, "nothing is planned") }
                return try answer.get()
            }
        }

        func settled(_ condition: @Sendable () -> Bool) async -> Bool {
            let deadline = ContinuousClock.now + .seconds(30)
            while !condition() {
                if ContinuousClock.now > deadline { return false }
                await Task.yield()
            }
            return true
        }
    }

    /// Lets through when it is opened.
    private actor Gate {
        private var isOpen: Bool
        private var waiting: [CheckedContinuation<Void, Never>] = []

        init(isOpen: Bool) { self.isOpen = isOpen }

        func pass() async {
            if isOpen { return }
            await withCheckedContinuation { waiting.append($0) }
        }

        func open() {
            isOpen = true
            for continuation in waiting { continuation.resume() }
            waiting = []
        }

        func close() { isOpen = false }
    }

    private func name(_ source: CachedCredentials, after refused: S3Credentials? = nil) async -> String {
        do throws(SafeBackupError) {
            return try await source.credentials(after: refused).accessKey
        } catch {
            return "\(error.code) \(error.disposition.rawValue)"
        }
    }

    @Test("A hundred tasks that need keys at once ask once")
    func once() async {
        let scene = Scene(open: false)
        scene.next(.success(scene.keys("A", for: .seconds(3_600))))
        let source = scene.source()
        let names = await withTaskGroup(of: String.self) { group in
            for _ in 0..<100 { group.addTask { await name(source) } }
            #expect(await scene.settled { scene.asked.withLock { $0 } == 1 })
            await scene.gate.open()
            return await group.reduce(into: Set<String>()) { $0.insert($1) }
        }
        #expect(names == ["A"])
        #expect(scene.asked.withLock { $0 } == 1)
    }

    @Test("Fifteen minutes before the end the old keys are given while new ones are asked for")
    func advisory() async {
        let scene = Scene()
        scene.next(.success(scene.keys("A", for: .seconds(3_600))))
        let source = scene.source()
        #expect(await name(source) == "A")
        scene.advance(.seconds(3_600 - 901))
        #expect(await name(source) == "A")
        #expect(scene.asked.withLock { $0 } == 1)

        scene.advance(.seconds(1))
        await scene.gate.close()
        scene.next(.success(scene.keys("B", for: .seconds(3_600))))
        #expect(await name(source) == "A")
        #expect(await name(source) == "A")
        #expect(await scene.settled { scene.asked.withLock { $0 } == 2 })
        await scene.gate.open()
        var last = ""
        let deadline = ContinuousClock.now + .seconds(30)
        while last != "B", ContinuousClock.now < deadline { last = await name(source) }
        #expect(last == "B")
        #expect(scene.asked.withLock { $0 } == 2)
    }

    @Test("A failed refresh ahead of the end is told, and neither stops the old keys nor is repeated at each request")
    func advisoryFails() async {
        let scene = Scene()
        scene.next(.success(scene.keys("A", for: .seconds(3_600))))
        let source = scene.source()
        #expect(await name(source) == "A")
        scene.advance(.seconds(3_600 - 800))
        scene.next(.failure(CredentialsFailure(.sts, "away", mayGoBy: true)))
        #expect(await name(source) == "A")
        #expect(await scene.settled { scene.notices.withLock { $0.count } == 1 })
        for _ in 0..<10 { #expect(await name(source) == "A") }
        #expect(scene.asked.withLock { $0 } == 2)
        scene.advance(.seconds(61))
        scene.next(.success(scene.keys("B", for: .seconds(3_600))))
        #expect(await name(source) == "A")
        #expect(await scene.settled { scene.asked.withLock { $0 } == 3 })
    }

    @Test("Ten minutes before the end a failed refresh is the request's, and is not repeated by each")
    func mandatory() async {
        let scene = Scene()
        scene.next(.success(scene.keys("A", for: .seconds(3_600))))
        let source = scene.source()
        #expect(await name(source) == "A")
        scene.advance(.seconds(3_600 - 600))
        scene.next(.failure(CredentialsFailure(.sts, "away", mayGoBy: true)))
        for _ in 0..<20 { #expect(await name(source) == "credentialsFailed transient") }
        #expect(scene.asked.withLock { $0 } == 2)
        scene.advance(.seconds(11))
        scene.next(.success(scene.keys("B", for: .seconds(3_600))))
        #expect(await name(source) == "B")
    }

    @Test("Keys that were refused are asked for anew once, and others' newer ones are given at once")
    func refused() async {
        let scene = Scene()
        let first = scene.keys("A", for: nil)
        scene.next(.success(first))
        let source = scene.source()
        #expect(await name(source) == "A")
        scene.next(.success(scene.keys("B", for: nil)))
        #expect(await name(source, after: first) == "B")
        #expect(await name(source, after: first) == "B")
        #expect(scene.asked.withLock { $0 } == 2)
        // Static keys that were not replaced come again; the caller sees that they are the same.
        scene.advance(.seconds(11))
        scene.next(.success(scene.keys("B", for: nil)))
        #expect(await name(source, after: scene.keys("B", for: nil)) == "B")
    }

    @Test("New keys that have expired are a failure, except the metadata service's")
    func expired() async {
        let scene = Scene()
        scene.next(.success(scene.keys("A", for: .seconds(-1))))
        #expect(await name(scene.source()) == "credentialsFailed transient")

        let instance = Scene()
        instance.next(.success(instance.keys("I", for: .seconds(-1), "iam-role")))
        let source = instance.source()
        #expect(await name(source) == "I")
        instance.advance(.seconds(599))
        #expect(await name(source) == "I")
        #expect(instance.asked.withLock { $0 } == 1)
        instance.advance(.seconds(1))
        instance.next(.success(instance.keys("J", for: .seconds(21_600), "iam-role")))
        #expect(await name(source) == "J")
    }

    @Test("When the metadata service goes away its last keys stay in use")
    func staticStability() async {
        let scene = Scene()
        scene.next(.success(scene.keys("I", for: .seconds(3_600), "iam-role")))
        let source = scene.source()
        #expect(await name(source) == "I")
        scene.advance(.seconds(3_601))
        scene.next(.failure(CredentialsFailure(.none, "not reachable")))
        for _ in 0..<5 { #expect(await name(source) == "I") }
        #expect(scene.asked.withLock { $0 } == 2)
        #expect(scene.notices.withLock { $0.count } == 1)
    }

    @Test("Keys that live for five minutes are used, and replaced before their end")
    func shortLived() async {
        let scene = Scene()
        scene.next(.success(scene.keys("A", for: .seconds(300), "custom-process")))
        let source = scene.source()
        for _ in 0..<5 { #expect(await name(source) == "A") }
        #expect(scene.asked.withLock { $0 } == 1)
        scene.advance(.seconds(150))
        scene.next(.success(scene.keys("B", for: .seconds(300), "custom-process")))
        #expect(await name(source) == "B")
    }
}
