/// What becomes of a copy when its file was deleted at the source.
package enum DeletePolicy: String, ConfigurationValue, CaseIterable {
    /// It stays in its place.
    case keep
    /// It becomes a version.
    case mirror

    package static var form: String { allCases.map(\.rawValue).joined(separator: " or ") }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> DeletePolicy {
        guard let policy = DeletePolicy(rawValue: String(decoding: text, as: UTF8.self)) else {
            throw ConfigurationFault("is neither keep nor mirror")
        }
        return policy
    }

    package var written: [UInt8] { Array(rawValue.utf8) }
}

/// A number of threads.
package struct ThreadCount: ConfigurationValue, Comparable {
    package var count: Int

    package init(_ count: Int) { self.count = count }

    package static var form: String { "number" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ThreadCount {
        let isNumber = text.count <= 9 && text.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        guard isNumber, let count = Int(String(decoding: text, as: UTF8.self)) else {
            throw ConfigurationFault("is no number, as in 4")
        }
        return ThreadCount(count)
    }

    package var written: [UInt8] { Array("\(count)".utf8) }

    package static func < (left: ThreadCount, right: ThreadCount) -> Bool { left.count < right.count }
}
