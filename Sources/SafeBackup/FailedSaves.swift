/// Saves that failed since somebody was last told of them. Pure.
struct FailedSaves: Sendable {
    /// So many are kept; the others are counted.
    static let limit = 100

    private var count = 0
    private var first: [BackupSessionError] = []

    mutating func note(_ error: BackupSessionError) {
        count += 1
        if first.count < Self.limit { first.append(error) }
    }

    /// What is to be told, once; `nil`: none failed.
    mutating func take() -> BackupSessionError? {
        if count == 0 { return nil }
        defer { self = FailedSaves() }
        return .savesFailed(count: count, first: first)
    }
}
