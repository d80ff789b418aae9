import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What every provider needs to reach outside: requests, files, the time and pauses.
struct ServiceAccess: Sendable {
    var transport: any HTTPTransport
    /// Its threads may block: files, and programs.
    var io: ThreadExecutor
    var clock: WallClock
    /// A pause between two attempts.
    var sleep: @Sendable (Duration) async -> Void
    var signer = Signer()

    /// A token's file without the line end at its end. Read anew each time: whoever gives the token replaces the file.
    func tokenFile(_ path: FilePath, _ place: String) async throws(CredentialsFailure) -> String {
        let content: Result<[UInt8], Errno> = await io.run {
            do throws(Errno) {
                return .success(try Descriptor.open(path, O_RDONLY | O_NONBLOCK).readAll(limit: 1 << 20))
            } catch {
                return .failure(error)
            }
        }
        let bytes: [UInt8]
        switch content {
        case .success(let read): bytes = read
        case .failure(let error):
            throw CredentialsFailure(
                .retrieval, "\(place) cannot be read: \(error.explanation); let the agent's user read it",
                mayGoBy: error == .noSuchFileOrDirectory)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw CredentialsFailure(.retrieval, "\(place) holds no token, but bytes that are no text")
        }
        let token = text.last?.isNewline == true ? String(text.dropLast()) : text
        if token.isEmpty { throw CredentialsFailure(.retrieval, "\(place) is empty", mayGoBy: true) }
        return token
    }
}
