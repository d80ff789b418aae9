import SafeBackupCore
import SafeBackupSystem

/// Content that tells of itself: which publication it is, how long it is, and the digest of the rest. A torn or mixed
/// file cannot look like one.
struct Publication {
    let number: Int
    let payload: [UInt8]

    private static let mark = "safebackup-publication"

    /// The whole file.
    var content: [UInt8] {
        Array("\(Self.mark) \(number) \(payload.count) \(Self.digest(number, payload))\n".utf8) + payload
    }

    init(number: Int, payload: [UInt8]) {
        self.number = number
        self.payload = payload
    }

    /// `nil` unless `content` is one whole publication and nothing else.
    init?(content: [UInt8]) {
        guard let end = content.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        let words = String(decoding: content[..<end], as: UTF8.self).split(separator: " ")
        let payload = Array(content[(end + 1)...])
        guard words.count == 4, words[0] == Self.mark, let number = Int(words[1]), Int(words[2]) == payload.count,
            words[3] == Self.digest(number, payload)
        else { return nil }
        self.init(number: number, payload: payload)
    }

    private static func digest(_ number: Int, _ payload: [UInt8]) -> String {
        SHA256.digest(of: Array("\(number) ".utf8) + payload).hex
    }
}

/// SplitMix64: a small generator whose sequence a failure can be repeated from.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// `count` bytes.
    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            withUnsafeBytes(of: next()) { bytes.append(contentsOf: $0) }
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }
}
