import Foundation
import SafeBackupCore
import Testing

/// The vectors, read where they lie.
enum Vectors {
    static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "Vectors")

    private struct File<Case: Decodable>: Decodable { var cases: [Case] }

    static func read<Case: Decodable>(_ file: String, _ type: Case.Type) throws -> [Case] {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(File<Case>.self, from: Data(contentsOf: directory.appending(path: file))).cases
    }
}

/// `text`, a byte again and again, or a formula: as the vectors describe data.
struct PatternData: Decodable, Sendable {
    var kind: String
    var text: String?
    var byte: UInt8?
    var size: Int?
    var seed: Int?

    var bytes: [UInt8] {
        switch kind {
        case "text": return Array((text ?? "").utf8)
        case "repeat": return [UInt8](repeating: byte ?? 0, count: size ?? 0)
        default:
            let seed = seed ?? 0
            return [UInt8](unsafeUninitializedCapacity: size ?? 0) { buffer, count in
                count = size ?? 0
                for index in 0..<count {
                    buffer[index] = UInt8(
                        truncatingIfNeeded: index &* 131 &+ (index >> 8) &* 17 &+ (index >> 16) &* 29 &+ seed)
                }
            }
        }
    }
}
