import SafeBackupSystem
import SystemPackage

/// Asks a program for keys: the profile's `credential_process`.
///
/// The program is started without a shell, has sixty seconds, and sees none of our keys in its environment.
struct ProcessCredentials {
    static let limit = Duration.seconds(60)

    var command: String
    /// The option with its profile and file, for messages.
    var place: String
    var environment: AWSEnvironment
    var limit = Self.limit

    /// Blocks.
    func load() throws(CredentialsFailure) -> S3Credentials {
        guard let words = ShellWords.split(command), let program = words.first, !program.isEmpty else {
            throw CredentialsFailure(
                .invalidConfiguration, "The command of \(place) is empty or ends within quotes; write PROGRAM ARGUMENT…"
            )
        }
        if words.contains(where: { $0.utf8.contains(0) }) {
            throw CredentialsFailure(.invalidConfiguration, "The command of \(place) holds a NUL; remove it")
        }
        let result: ChildProcess.Result
        do throws(Errno) {
            result = try ChildProcess.run(
                words.map { Array($0.utf8) }, environment: environment.forOtherPrograms, within: limit)
        } catch {
            let reason =
                error == .timedOut
                ? "did not end within \(limit.components.seconds) s and was killed"
                : "cannot be run: \(error.explanation)"
            throw CredentialsFailure(
                .retrieval, "The program \(program) of \(place) \(reason)", mayGoBy: error == .timedOut)
        }
        if result.code != 0 {
            throw CredentialsFailure(
                .retrieval,
                "The program \(program) of \(place) failed with exit code \(result.code); run it by hand as the agent's "
                    + "user and see what it says")
        }
        let from = "The program \(program) of \(place)"
        guard let document = CredentialsDocument.read(result.output) else {
            throw CredentialsFailure(.retrieval, "\(from) printed no JSON object with keys")
        }
        guard document.version == 1 else {
            throw CredentialsFailure(
                .retrieval, "\(from) printed version \(document.version.map(String.init) ?? "none"); it must be 1")
        }
        return try document.credentials(provider: "custom-process", token: document.sessionToken, from: from)
    }
}
