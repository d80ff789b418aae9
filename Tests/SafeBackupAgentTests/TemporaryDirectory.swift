import Foundation
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A directory of the test's own, without links in its path, removed with all in it when the object goes.
final class TemporaryDirectory: Sendable {
    let path: FilePath

    init() throws {
        let url = FileManager.default.temporaryDirectory.resolvingSymlinksInPath()
            .appendingPathComponent("safebackup-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        path = FilePath(url.path)
    }

    deinit {
        do { try FileManager.default.removeItem(atPath: path.string) } catch { print("left behind: \(path): \(error)") }
    }

    func make(_ name: String) throws -> FilePath {
        try FileManager.default.createDirectory(
            atPath: path.appending(name).string, withIntermediateDirectories: true)
        return path.appending(name)
    }

    func write(_ text: String, to name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path.appending(name).string))
    }

    func read(_ name: String) throws -> String {
        try String(decoding: Data(contentsOf: URL(fileURLWithPath: path.appending(name).string)), as: UTF8.self)
    }
}
