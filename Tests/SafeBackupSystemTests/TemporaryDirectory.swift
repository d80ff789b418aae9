import Foundation
import SafeBackupSystem
import SystemPackage

/// A directory of the test's own, removed with all in it when the object goes.
final class TemporaryDirectory: Sendable {
    let path: FilePath

    init() throws {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent("safebackup-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        path = FilePath(url.path)
    }

    deinit {
        do { try FileManager.default.removeItem(atPath: path.string) } catch { print("left behind: \(path): \(error)") }
    }

    func write(_ text: String, to name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path.appending(name).string))
    }
}
