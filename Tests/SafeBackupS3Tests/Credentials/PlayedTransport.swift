import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem

/// Answers requests by rules, in their order, each as often as it says; 404 when none fits. Keeps what it was asked.
final class PlayedTransport: HTTPTransport {
    struct Rule: Sendable {
        var method: String
        var path: String
        var form: [String: String] = [:]
        var times: Int?
        var status = 200
        var body: [UInt8] = []
        var failure: TransportFailure?
    }

    private struct State {
        var rules: [Rule]
        var requests: [HTTPRequest] = []
    }

    private let state: Locked<State>

    init(_ rules: [Rule]) { state = Locked(State(rules: rules)) }

    var requests: [HTTPRequest] { state.withLock { $0.requests } }

    func send(_ request: HTTPRequest) async throws(TransportFailure) -> HTTPResponse {
        let path = Self.path(request)
        let form = Self.form(request)
        let rule: Rule? = state.withLock { state in
            state.requests.append(request)
            let fit = state.rules.firstIndex { rule in
                rule.method == request.method.rawValue && rule.path == path && rule.times != 0
                    && rule.form.allSatisfy { form[$0.key] == $0.value }
            }
            guard let fit else { return nil }
            if let times = state.rules[fit].times { state.rules[fit].times = times - 1 }
            return state.rules[fit]
        }
        guard let rule else { return HTTPResponse(status: 404, headers: [], body: Array("no rule".utf8)) }
        if let failure = rule.failure { throw failure }
        return HTTPResponse(status: rule.status, headers: [], body: rule.body)
    }

    /// The container service's own address stands before the path, as in the vectors.
    static func path(_ request: HTTPRequest) -> String {
        request.origin.host == "169.254.170.2" ? "/169.254.170.2" + request.path : request.path
    }

    static func form(_ request: HTTPRequest) -> [String: String] {
        guard case .bytes(let bytes) = request.body else { return [:] }
        var form: [String: String] = [:]
        for field in String(decoding: bytes, as: UTF8.self).split(separator: "&") {
            let halves = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let decoded = halves.map {
                String(decoding: PercentEncoding.decode($0.utf8, plusIsSpace: true) ?? [], as: UTF8.self)
            }
            form[decoded[0]] = decoded.count > 1 ? decoded[1] : ""
        }
        return form
    }
}

/// A directory of the test's own, removed with all in it when the object goes.
final class Scratch: Sendable {
    let path: String

    init() throws {
        let url = FileManager.default.temporaryDirectory.resolvingSymlinksInPath()
            .appendingPathComponent("safebackup-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        path = url.path
    }

    deinit {
        do { try FileManager.default.removeItem(atPath: path) } catch { print("left behind: \(path): \(error)") }
    }

    func write(_ text: String, to name: String, mode: Int = 0o644) throws {
        let file = "\(path)/\(name)"
        try Data(text.utf8).write(to: URL(fileURLWithPath: file))
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file)
    }
}

/// A chain over played answers, without pauses.
struct PlayedChain {
    let transport: PlayedTransport
    let chain: CredentialsChain
    let io: ThreadExecutor

    init(
        _ rules: [PlayedTransport.Rule], environment: [String: String],
        settings: CredentialsChain.Settings = .init(), now: Timestamp = Timestamp(microseconds: 1_790_000_000_000_000)
    ) throws {
        transport = PlayedTransport(rules)
        io = try ThreadExecutor(name: "credentials", count: 1)
        chain = CredentialsChain(
            settings, environment: AWSEnvironment(environment.mapValues { Array($0.utf8) }), transport: transport,
            io: io, clock: WallClock { now }, sleep: { _ in })
    }

    /// The keys, or why there are none.
    func resolve() async -> Result<S3Credentials, CredentialsFailure> {
        defer { io.stop() }
        do throws(CredentialsFailure) { return .success(try await chain.resolve()) } catch { return .failure(error) }
    }
}
