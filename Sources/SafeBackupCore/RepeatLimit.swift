/// Lets the first few of equal failures through and counts the rest, so that ten thousand files on a full disk are five
/// lines and a number. Pure: the time comes in.
///
/// A window begins with the first failure of its kind and ends after `period`, whatever came meanwhile; then what was
/// not shown is told once, and the next failure begins a new window.
package struct RepeatLimit<Kind: Hashable & Sendable>: Sendable {
    /// What was not shown.
    package struct Unshown: Sendable, Hashable {
        package let kind: Kind
        package let count: Int
        /// Since the first of this kind, shown or not.
        package let span: Duration
    }

    private struct Window {
        let began: ContinuousClock.Instant
        var shown = 1
        var unshown = 0
    }

    /// How many of one kind are shown in a window.
    private let burst: Int
    private let period: Duration
    /// How many kinds are remembered; the oldest gives way, and is told.
    private let kindLimit: Int
    private var windows: [Kind: Window] = [:]

    package init(burst: Int = 5, period: Duration = .seconds(600), kindLimit: Int = 256) {
        self.burst = max(1, burst)
        self.period = period
        self.kindLimit = max(1, kindLimit)
    }

    /// Whether this one is shown, and which counts are to be told before it.
    package mutating func note(
        _ kind: Kind, at now: ContinuousClock.Instant
    ) -> (isShown: Bool, ended: [Unshown]) {
        var ended = takeEnded(at: now)
        if var window = windows[kind] {
            let isShown = window.shown < burst
            if isShown { window.shown += 1 } else { window.unshown += 1 }
            windows[kind] = window
            return (isShown, ended)
        }
        if windows.count >= kindLimit, let oldest = windows.min(by: { $0.value.began < $1.value.began })?.key {
            if let count = close(oldest, at: now) { ended.append(count) }
        }
        windows[kind] = Window(began: now)
        return (true, ended)
    }

    /// When the next count is to be told; `nil` while everything was shown.
    package var nextEnd: ContinuousClock.Instant? {
        windows.values.lazy.filter { $0.unshown > 0 }.map(\.began).min().map { $0 + period }
    }

    /// The counts of the windows that are over.
    package mutating func takeEnded(at now: ContinuousClock.Instant) -> [Unshown] {
        let period = period
        return take(at: now) { now - $0.began >= period }
    }

    /// All counts, because nothing follows.
    package mutating func takeAll(at now: ContinuousClock.Instant) -> [Unshown] { take(at: now) { _ in true } }

    private mutating func take(at now: ContinuousClock.Instant, where isDue: (Window) -> Bool) -> [Unshown] {
        let due = windows.filter { isDue($0.value) }.sorted { $0.value.began < $1.value.began }
        var ended: [Unshown] = []
        for (kind, _) in due {
            if let count = close(kind, at: now) { ended.append(count) }
        }
        return ended
    }

    private mutating func close(_ kind: Kind, at now: ContinuousClock.Instant) -> Unshown? {
        guard let window = windows.removeValue(forKey: kind), window.unshown > 0 else { return nil }
        return Unshown(kind: kind, count: window.unshown, span: now - window.began)
    }
}
