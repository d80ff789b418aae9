import SafeBackupCore
import SafeBackupState

/// How far the look came whether a destination still has what was stored. Pure: instants come in.
struct CopyCheck: Sendable {
    typealias Instant = ContinuousClock.Instant

    /// Names that are looked for at once: what becomes due meanwhile waits for them.
    static let batch = 512
    private static let exampleLimit = 3

    /// From the end of one pass to the next.
    private let period: Duration
    private var nextAt: Instant?
    /// Of the pass that is under way: the pairs that are not done, and the last path that was looked for.
    private var sources: [SourceID]?
    private var position = RelativePath.root
    private(set) var looked = 0
    /// The sources whose copies were all looked for since the start, or since the destination came back.
    private(set) var whole: Set<SourceID> = []
    private(set) var differing = 0
    private(set) var examples: [RelativePath] = []

    init(period: Duration) { self.period = period }

    /// Due at once, from the beginning.
    mutating func restart() { self = CopyCheck(period: period) }

    func isDue(at now: Instant) -> Bool { sources != nil || nextAt.map { now >= $0 } ?? true }

    /// What is to be looked for now; `nil`: the pass is over.
    mutating func next(_ all: [SourceID]) -> (source: SourceID, after: RelativePath)? {
        let left = sources ?? all
        sources = left
        return left.first.map { ($0, position) }
    }

    /// The source's copies were all looked for.
    mutating func noteWhole(_ source: SourceID) { whole.insert(source) }

    /// This many names of the source were looked for, up to `path`; `nil`: it has no more.
    mutating func note(_ count: Int, upTo path: RelativePath?) {
        looked += count
        if let path {
            position = path
        } else {
            sources?.removeFirst()
            position = .root
        }
    }

    mutating func note(differing paths: [RelativePath]) {
        differing += paths.count
        examples += paths.prefix(Self.exampleLimit - examples.count)
    }

    /// The pass is over, or was given up.
    mutating func end(at now: Instant) {
        let known = whole
        restart()
        (whole, nextAt) = (known, now + period)
    }
}
