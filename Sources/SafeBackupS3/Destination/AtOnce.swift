/// Does something with each item, with at most `limit` at the same time, and begins no more once `ends` says so of an
/// outcome; what was begun is waited for.
///
/// - Returns: in the order of the items; `nil` for those that were not begun.
func atOnce<Item: Sendable, Outcome: Sendable>(
    _ items: [Item], limit: Int, ends: (Outcome) -> Bool = { _ in false },
    _ body: @escaping @Sendable (Item) async -> Outcome
) async -> [Outcome?] {
    var outcomes = [Outcome?](repeating: nil, count: items.count)
    await withTaskGroup(of: (Int, Outcome).self) { tasks in
        var next = 0
        var isOver = false
        func begin() {
            let (index, item) = (next, items[next])
            tasks.addTask { (index, await body(item)) }
            next += 1
        }
        while next < min(items.count, max(1, limit)) { begin() }
        for await (index, outcome) in tasks {
            isOver = isOver || ends(outcome)
            outcomes[index] = outcome
            if next < items.count, !isOver { begin() }
        }
    }
    return outcomes
}

extension Result where Success: Sendable {
    /// What a body that may throw came to.
    ///
    /// A function of its own: with Swift 6's optimiser a closure of a task that catches a typed error and returns it in a
    /// tuple may return something else beside it.
    static func of(_ body: () async throws(Failure) -> Success) async -> Self {
        do throws(Failure) {
            return .success(try await body())
        } catch {
            return .failure(error)
        }
    }

    var isFailure: Bool { if case .failure = self { true } else { false } }
}

extension Sequence {
    /// What succeeded.
    /// - Throws: the first failure in the order of the items.
    func successes<Success, Failure: Error>() throws(Failure) -> [Success]
    where Element == Result<Success, Failure>? {
        var found: [Success] = []
        for case .some(let result) in self { found.append(try result.get()) }
        return found
    }
}
