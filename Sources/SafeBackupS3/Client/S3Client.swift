package import SafeBackupCore
package import SafeBackupSystem

/// Speaks S3 with one bucket. See `ObjectStore` for what its requests promise.
///
/// Each attempt is signed anew, with the clock's offset, the keys and the region that hold then. What an attempt learns
/// of the server (its time, the bucket's region, that it knows no checksums) is kept for all that follow.
package final class S3Client: ObjectStore {
    /// Learnt from answers, for all requests.
    struct Learnt: Sendable {
        var region: String?
        var clock = ClockOffset()
        var budget = RetryBudget()
        var denials = DenialCount()
        var deniedRenewal: ContinuousClock.Instant?
        var checksumsRefused = false
        var bulkDeleteRefused = false
        var onlyListsV1 = false
        var lockSeen = false
        /// Calls under way, with their waits for another attempt.
        var calls: [UInt64: Task<Result<S3Answer, S3Failure>, Never>] = [:]
        var nextCall: UInt64 = 0
    }

    package let settings: S3ClientSettings
    private let transport: any HTTPTransport
    private let credentials: any CredentialsSource
    /// The address for a region; `nil`: for the configured one.
    private let locate: @Sendable (String?) throws(SafeBackupError) -> BucketAddress
    private let signer = Signer()
    private let gate: RequestGate
    let learnt = Locked(Learnt())
    private let clock: WallClock
    private let random: @Sendable () -> Double
    private let pause: @Sendable (Duration) async -> Void
    private let notice: @Sendable (S3Notice) -> Void

    /// - Parameters:
    ///   - locate: the address of the bucket for a region that the server named; for `nil` the configured one. Not asked
    ///     for another region where the endpoint is not AWS: only the signature changes then.
    ///   - random: from 0 up to 1.
    ///   - pause: waits; a cancelled task ends it early.
    ///   - notice: may be called from any task; must not block.
    /// - Throws: `invalidConfiguration` for settings that cannot go together.
    package init(
        _ settings: S3ClientSettings, transport: any HTTPTransport, credentials: any CredentialsSource,
        locate: @escaping @Sendable (String?) throws(SafeBackupError) -> BucketAddress,
        clock: WallClock = .system,
        random: @escaping @Sendable () -> Double = { Double.random(in: 0..<1) },
        pause: @escaping @Sendable (Duration) async -> Void = { try? await Task.sleep(for: $0) },
        notice: @escaping @Sendable (S3Notice) -> Void = { _ in }
    ) throws(SafeBackupError) {
        self.settings = settings
        self.transport = transport
        self.credentials = credentials
        self.locate = locate
        self.clock = clock
        self.random = random
        self.pause = pause
        self.notice = notice
        gate = RequestGate(maximum: settings.maxConnections)
        try settings.check(address: try locate(nil))
    }

    package func endRequests() {
        let calls = learnt.withLock { Array($0.calls.values) }
        for call in calls { call.cancel() }
    }

    /// How far the server's clock is from ours, once it mattered; zero before.
    package var clockOffset: Duration { learnt.withLock { $0.clock.offset } }
    /// Requests that may be under way at once now.
    package var currentLimit: Int { gate.currentLimit }
    /// The time here.
    var now: Timestamp { clock.now }

    /// Where requests go now.
    func address() throws(SafeBackupError) -> BucketAddress {
        guard let region = learnt.withLock({ $0.region }) else { return try locate(nil) }
        var address = try locate(nil)
        if address.isAWS { return try locate(region) }
        address.region = region
        return address
    }

    func tell(_ notice: S3Notice) { self.notice(notice) }

    // MARK: - One request, with its attempts

    /// What one attempt came to.
    private enum Attempt {
        case answer(S3Answer)
        case refusal(S3ErrorAnswer)
        case failure(TransportFailure)
    }

    /// What has been tried for one call.
    private struct Trial {
        var attempt = 1
        var paid: RetryBudget.Kind?
        var once: Set<S3Action> = []
        var refused: S3Credentials?
        var mayHaveArrived = false
    }

    /// Sends a call until it succeeds or nothing helps any more; `endRequests` ends it.
    /// - Parameter hasChecksum: its own headers name a checksum, so that the call must be made anew without.
    func perform(_ call: S3Call, hasChecksum: Bool = false) async throws(S3Failure) -> S3Answer {
        let (number, task) = learnt.withLock { learnt in
            let task = Task { () -> Result<S3Answer, S3Failure> in
                do throws(S3Failure) {
                    return .success(try await self.attempts(call, hasChecksum: hasChecksum))
                } catch {
                    return .failure(error)
                }
            }
            learnt.nextCall += 1
            learnt.calls[learnt.nextCall] = task
            return (learnt.nextCall, task)
        }
        defer { learnt.withLock { _ = $0.calls.removeValue(forKey: number) } }
        return try await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }.get()
    }

    private func attempts(_ call: S3Call, hasChecksum: Bool) async throws(S3Failure) -> S3Answer {
        var trial = Trial()
        while true {
            let used = try await keys(after: trial.refused)
            let address = try at(call)
            let subject = S3Failure.Subject(
                call.operation, bucket: settings.bucket, key: call.key, host: address.origin.hostHeader,
                credentials: used.description)
            try await enter()
            let began = ContinuousClock.now
            let made = try make(call, address)
            let attempt = await attempt(call, made, address, used)
            gate.leave()
            let rule: S3Rule
            var failure: S3Failure
            var answer: S3ErrorAnswer?
            switch attempt {
            case .answer(let answer):
                learnt.withLock { learnt in
                    learnt.budget.succeeded(after: trial.paid)
                    if call.key != nil { learnt.denials.allowed() }
                }
                return answer
            case .failure(let problem):
                if problem.kind == .cancelled || Task.isCancelled {
                    throw S3Failure(S3Failure.interrupted)
                }
                if problem.mayHaveArrived { trial.mayHaveArrived = true }
                rule = S3ErrorMatrix.rule(for: problem)
                failure = S3Failure(problem, rule: rule, subject)
            case .refusal(let refusal):
                if refusal.status >= 500 || (200...299).contains(refusal.status) { trial.mayHaveArrived = true }
                rule = judge(refusal, call, hadChecksum: hasChecksum || made.checksum != nil)
                let isOfBucket = rule.outcome == .denied && noteDenial(call)
                failure = S3Failure(refusal, rule: rule, subject, isOfBucket: isOfBucket)
                answer = refusal
            }
            failure.mayHaveArrived = trial.mayHaveArrived
            if Task.isCancelled { throw S3Failure(S3Failure.interrupted) }
            try await prepare(
                rule, answer, failure, &trial, call: call, address: address, used: used, began: began)
        }
    }

    /// Throws, or returns when another attempt is due.
    private func prepare(
        _ rule: S3Rule, _ answer: S3ErrorAnswer?, _ failure: S3Failure, _ trial: inout Trial, call: S3Call,
        address: BucketAddress, used: S3Credentials, began: ContinuousClock.Instant
    ) async throws(S3Failure) {
        switch rule.action {
        case .tell, .verify, .beginUploadAgain: throw failure
        case .retry: try await wait(.transient, answer, failure, &trial)
        case .slowDown:
            if let limit = gate.slowDown(requestBegan: began) { notice(.slowedDown(to: limit)) }
            try await wait(.throttled, answer, failure, &trial)
        case .sendAgain:
            if !trial.once.insert(.sendAgain).inserted { throw failure }
            try await wait(.transient, answer, failure, &trial)
        case .renewCredentials:
            if !trial.once.insert(.renewCredentials).inserted { throw failure }
            if rule.outcome == .denied, !mayRenewAfterDenial(used) { throw failure }
            let other: S3Credentials
            do throws(SafeBackupError) {
                other = try await credentials.credentials(after: used)
            } catch {
                // What the server said is what failed; a source that never has others need not be named.
                if used.expiration != nil { notice(.keysNotRenewed(error.message)) }
                throw failure
            }
            guard other != used else { throw failure }
            trial.refused = used
        case .correctClock:
            guard trial.once.insert(.correctClock).inserted, let time = answer?.serverTime else { throw failure }
            let offset = time - clock.now
            learnt.withLock { $0.clock.correct(to: offset) }
            notice(.clockCorrected(by: offset))
        case .changeRegion:
            guard trial.once.insert(.changeRegion).inserted else { throw failure }
            var region = answer?.region
            if region == nil, address.isAWS { region = await regionOfBucket(address, used) }
            guard let region, Self.isRegion(region) else { throw failure }
            if region == address.region {
                // A new bucket, whose name is not known everywhere yet.
                if answer?.status != 307 { throw failure }
                return try await wait(.transient, answer, failure, &trial)
            }
            let isNew = learnt.withLock { learnt in
                defer { learnt.region = region }
                return learnt.region != region
            }
            if isNew { notice(.regionChanged(from: address.region, to: region)) }
        case .dropChecksums:
            guard trial.once.insert(.dropChecksums).inserted else { throw failure }
            let isNew = learnt.withLock { learnt in
                defer { learnt.checksumsRefused = true }
                return !learnt.checksumsRefused
            }
            if isNew { notice(.checksumsDropped) }
            // The headers of such a call are its own: it is made anew.
            if call.operation == .createUpload { throw failure }
        }
    }

    /// Waits for the next attempt, if there is to be one.
    private func wait(
        _ kind: RetryBudget.Kind, _ answer: S3ErrorAnswer?, _ failure: S3Failure, _ trial: inout Trial
    ) async throws(S3Failure) {
        guard trial.attempt < settings.backoff.attempts, learnt.withLock({ $0.budget.pay(kind) }) else { throw failure }
        let time = settings.backoff.wait(
            kind, retry: trial.attempt - 1, random: random(), asked: answer?.retryAfter,
            askedByHTTP: answer?.httpRetryAfter)
        trial.attempt += 1
        trial.paid = kind
        await pause(time)
        if Task.isCancelled { throw S3Failure(S3Failure.interrupted) }
    }

    private func keys(after refused: S3Credentials?) async throws(S3Failure) -> S3Credentials {
        do { return try await credentials.credentials(after: refused) } catch { throw S3Failure(error) }
    }

    private func at(_ call: S3Call) throws(S3Failure) -> BucketAddress {
        do { return try address() } catch { throw S3Failure(error) }
    }

    private func enter() async throws(S3Failure) {
        do { try await gate.enter() } catch { throw S3Failure(error) }
    }

    private func make(_ call: S3Call, _ address: BucketAddress) throws(S3Failure) -> Made {
        do { return try request(call, address) } catch {
            gate.leave()
            throw S3Failure(error)
        }
    }

    private func judge(_ answer: S3ErrorAnswer, _ call: S3Call, hadChecksum: Bool) -> S3Rule {
        var sent = S3ErrorMatrix.Sent(call.operation)
        sent.hasChecksum = hadChecksum && !call.wantsMD5
        sent.hasACL = settings.acl != nil
        sent.onlyIfAbsent = call.onlyIfAbsent
        let now = clock.now
        let isSkewed = answer.serverTime.map { time in learnt.withLock { $0.clock.isSkewed(time - now) } } ?? false
        return S3ErrorMatrix.rule(for: answer, sent, isSkewed: isSkewed)
    }

    /// Whether a denial of this call means the whole bucket.
    private func noteDenial(_ call: S3Call) -> Bool {
        guard call.operation.isWrite, let key = call.key else { return false }
        return learnt.withLock { $0.denials.denied(key.bytes) }
    }

    /// New keys may have other rights; asked for at most once a minute, and only of a source that renews its keys.
    private func mayRenewAfterDenial(_ used: S3Credentials) -> Bool {
        if used.expiration == nil { return false }
        let now = ContinuousClock.now
        return learnt.withLock { learnt in
            if let last = learnt.deniedRenewal, now - last < .seconds(60) { return false }
            learnt.deniedRenewal = now
            return true
        }
    }

    // MARK: - One attempt

    /// A request of a call, not signed yet.
    struct Made: Sendable {
        var request: HTTPRequest
        var payload: PayloadHash
        var checksum: (algorithm: ChecksumAlgorithm, value: String)?
    }

    private func attempt(
        _ call: S3Call, _ made: Made, _ address: BucketAddress, _ keys: S3Credentials
    ) async -> Attempt {
        let response: HTTPResponse
        switch await send(made, address, keys) {
        case .success(let answer): response = answer
        case .failure(let problem): return .failure(problem)
        }
        if (200...299).contains(response.status) { return judge(response, call, made, address) }
        var answer = S3ErrorAnswer(response, now: clock.now)
        if call.method == .head, answer.code == nil, answer.status == 400 || answer.status == 403 {
            answer = await explained(answer, call, address, keys)
        }
        return .refusal(answer)
    }

    /// An answer to HEAD has no body: the same as a GET of one byte says why.
    private func explained(
        _ answer: S3ErrorAnswer, _ call: S3Call, _ address: BucketAddress, _ keys: S3Credentials
    ) async -> S3ErrorAnswer {
        var again = call
        again.method = .get
        again.sink = .memory(limit: 1 << 20)
        if call.key != nil { again.headers.append((name: "range", value: "bytes=0-0")) }
        guard let made = try? request(again, address), case .success(let response) = await send(made, address, keys)
        else { return answer }
        let other = S3ErrorAnswer(response, now: clock.now)
        return other.code == nil ? answer : other
    }

    private func send(
        _ made: Made, _ address: BucketAddress, _ keys: S3Credentials
    ) async -> Result<HTTPResponse, TransportFailure> {
        var request = made.request
        let date = clock.now + learnt.withLock { $0.clock.offset }
        do {
            try signer.sign(
                &request, credentials: keys, region: address.region, service: "s3", date: date, payload: made.payload)
        } catch {
            return .failure(TransportFailure(.badRequest, error.message))
        }
        do { return .success(try await transport.send(request)) } catch { return .failure(error) }
    }

    /// Whether a 2xx is what it says.
    private func judge(_ response: HTTPResponse, _ call: S3Call, _ made: Made, _ address: BucketAddress) -> Attempt {
        var answer = S3Answer(
            response: response, document: XMLElement(name: ""), checksum: made.checksum, isAWS: address.isAWS)
        let isKnown = response.header("etag") != nil || response.header("x-amz-request-id") != nil
        switch call.expected {
        case .object:
            if isKnown { return .answer(answer) }
            return .refusal(Self.page(response, clock.now))
        case .nothing, .receipt:
            // Where there is nothing to show, a type is no page: moto's receipts have HTML's.
            if S3ErrorAnswer.isHTML(response), !isKnown || !response.body.isEmpty {
                return .refusal(Self.page(response, clock.now))
            }
            if S3ErrorAnswer.error(in: response.body) != nil {
                return .refusal(S3ErrorAnswer(response, now: clock.now))
            }
            if call.expected == .receipt, !isKnown { return .refusal(Self.page(response, clock.now)) }
            return .answer(answer)
        case .document(let name):
            if S3ErrorAnswer.isHTML(response) { return .refusal(Self.page(response, clock.now)) }
            let error = S3ErrorAnswer(response, now: clock.now)
            if error.code != nil { return .refusal(error) }
            // Some servers have another last word, as moto, or none: rclone begins an upload with InitiateMultipartUpload.
            guard let root = try? XMLReader.read(response.body), Self.isNamed(root, name) else {
                // Cut, empty or something else: tried again, and told if it stays so.
                return .refusal(error)
            }
            answer.document = root
            return .answer(answer)
        }
    }

    private static func isNamed(_ root: XMLElement, _ name: String) -> Bool {
        if root.name == name { return true }
        guard name.hasSuffix("Result") else { return false }
        let stem = name.dropLast("Result".count)
        return root.name == stem || root.name == stem + "Response"
    }

    /// An answer of 2xx by something that is no S3 server.
    private static func page(_ response: HTTPResponse, _ now: Timestamp) -> S3ErrorAnswer {
        var answer = S3ErrorAnswer(response, now: now)
        answer.isHTML = true
        return answer
    }

    /// Asks for the bucket's region: every answer of AWS about a bucket has it, a refusal too.
    private func regionOfBucket(_ address: BucketAddress, _ keys: S3Credentials) async -> String? {
        let call = S3Call(.headBucket, .head, expected: .nothing)
        guard let made = try? request(call, address), case .success(let response) = await send(made, address, keys)
        else { return nil }
        return response.header("x-amz-bucket-region")
    }

    /// A label of a host's name: what is put into a host must be nothing else.
    static func isRegion(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= 63 && !text.hasPrefix("-")
            && text.utf8.allSatisfy { (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D }
    }
}
