package import SafeBackupCore
package import SafeBackupSystem

/// The keys of a chain, refreshed ahead of their expiry by one task at a time.
///
/// Fifteen minutes before the end one task asks for new keys while the others go on with the old ones; a failure is told
/// and changes nothing. From ten minutes before the end on all wait for new keys, and a failure is theirs. The metadata
/// service is the exception: in an outage it gives keys that have expired and S3 takes them, so they stay in use, and it
/// is asked again some ten to twenty-five minutes later.
package actor CachedCredentials: CredentialsSource {
    /// How long before the end new keys are asked for, while the old ones are used.
    package static let advisory = Duration.seconds(15 * 60)
    /// How long before the end the old ones are not used any more.
    package static let mandatory = Duration.seconds(10 * 60)
    /// After a failure nobody asks again so soon: hundreds of requests would otherwise ask one after the other.
    package static let pause = Duration.seconds(10)
    /// As `pause`, where the old keys still do.
    package static let advisoryPause = Duration.seconds(60)

    private let load: @Sendable () async -> Result<S3Credentials, CredentialsFailure>
    private let clock: WallClock
    private let jitter: @Sendable () -> Double
    private let notice: @Sendable (SafeBackupError) -> Void

    private var current: S3Credentials?
    /// The metadata service's keys are used until then, whatever their expiry says.
    private var keptUntil: Timestamp?
    private var refresh: Task<Result<S3Credentials, CredentialsFailure>, Never>?
    private var lastFailure: (failure: CredentialsFailure, at: Timestamp)?

    /// - Parameters:
    ///   - jitter: 0 to 1, for the metadata service's pause.
    ///   - notice: told of a refresh that failed while the old keys still do.
    package init(
        clock: WallClock = .system, jitter: @escaping @Sendable () -> Double = { Double.random(in: 0..<1) },
        notice: @escaping @Sendable (SafeBackupError) -> Void = { _ in },
        load: @escaping @Sendable () async throws(CredentialsFailure) -> S3Credentials
    ) {
        self.clock = clock
        self.jitter = jitter
        self.notice = notice
        self.load = { () async -> Result<S3Credentials, CredentialsFailure> in
            do throws(CredentialsFailure) { return .success(try await load()) } catch { return .failure(error) }
        }
    }

    package func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials {
        let now = clock.now
        if let current, current != refused {
            switch state(of: current, now) {
            case .fresh: return current
            case .ageing:
                startInBackground(now)
                return current
            case .old: break
            }
        }
        if refresh == nil, let lastFailure, isRecent(lastFailure.at, now, Self.pause) {
            throw lastFailure.failure.error
        }
        switch await refreshed(now) {
        case .success(let keys): return keys
        case .failure(let failure):
            if let kept = keep(failure, refused: refused) { return kept }
            throw failure.error
        }
    }

    private enum State { case fresh, ageing, old }

    private func state(of keys: S3Credentials, _ now: Timestamp) -> State {
        if let keptUntil { return now < keptUntil ? .fresh : .old }
        guard let expiration = keys.expiration else { return .fresh }
        let left = expiration - now
        return left > Self.advisory ? .fresh : left > Self.mandatory ? .ageing : .old
    }

    /// A clock that was set back makes nothing recent for ever.
    private func isRecent(_ time: Timestamp, _ now: Timestamp, _ span: Duration) -> Bool {
        now >= time && now - time < span
    }

    private func startInBackground(_ now: Timestamp) {
        if refresh != nil { return }
        if let lastFailure, isRecent(lastFailure.at, now, Self.advisoryPause) { return }
        let task = start()
        Task {
            if case .failure(let failure) = await task.value { notice(failure.error) }
        }
    }

    /// Whoever comes first asks; the others wait for the same answer.
    private func refreshed(_ now: Timestamp) async -> Result<S3Credentials, CredentialsFailure> {
        let task = refresh ?? start()
        return await task.value
    }

    private func start() -> Task<Result<S3Credentials, CredentialsFailure>, Never> {
        let load = load
        let task = Task { finish(await load()) }
        refresh = task
        return task
    }

    private func finish(
        _ result: Result<S3Credentials, CredentialsFailure>
    ) -> Result<S3Credentials, CredentialsFailure> {
        refresh = nil
        let now = clock.now
        switch result {
        case .success(let keys):
            if let expiration = keys.expiration, expiration - now <= Self.advisory {
                if keys.provider == "iam-role" {
                    hold(keys, now)
                    return .success(keys)
                }
                if expiration <= now {
                    return failed(
                        CredentialsFailure(
                            .retrieval,
                            "The keys of \(keys.provider) that were just given have expired at \(expiration.iso8601); is "
                                + "this machine's clock right?", mayGoBy: true), now)
                }
            }
            current = keys
            // Keys that live for a few minutes only are used to their end.
            keptUntil = keys.expiration.flatMap { $0 - now <= Self.mandatory ? now + ($0 - now) / 2 : nil }
            lastFailure = nil
            return .success(keys)
        case .failure(let failure): return failed(failure, now)
        }
    }

    private func failed(_ failure: CredentialsFailure, _ now: Timestamp) -> Result<S3Credentials, CredentialsFailure> {
        lastFailure = (failure, now)
        return .failure(failure)
    }

    /// The old keys, where they are the metadata service's and the service is away. See: static stability.
    private func keep(_ failure: CredentialsFailure, refused: S3Credentials?) -> S3Credentials? {
        guard let current, current.provider == "iam-role", current != refused,
            failure.kind == .none || failure.kind == .retrieval
        else { return nil }
        if keptUntil.map({ $0 <= clock.now }) ?? true {
            hold(current, clock.now)
            notice(failure.error)
        }
        return current
    }

    private func hold(_ keys: S3Credentials, _ now: Timestamp) {
        current = keys
        keptUntil = now + .seconds(600 + Int64(900 * jitter()))
        lastFailure = nil
    }
}

extension CachedCredentials {
    /// Of a chain.
    package init(
        _ chain: CredentialsChain, clock: WallClock = .system,
        notice: @escaping @Sendable (SafeBackupError) -> Void = { _ in }
    ) {
        self.init(clock: clock, notice: notice) { () async throws(CredentialsFailure) in try await chain.resolve() }
    }
}
