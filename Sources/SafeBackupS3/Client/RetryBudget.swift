/// How many retries a client may make: tokens that failures use up and successes give back, so that a server in trouble
/// is not drowned in repetitions. Pure.
///
/// The numbers are those of the AWS SDKs' standard mode.
package struct RetryBudget: Sendable, Hashable {
    package enum Kind: Sendable, Hashable {
        case transient, throttled

        package var cost: Int { self == .transient ? 14 : 5 }
    }

    package static let capacity = 500
    package private(set) var tokens = capacity

    package init() {}

    /// Pays for a retry; false: there is too little left, and the request fails now.
    package mutating func pay(_ kind: Kind) -> Bool {
        if tokens < kind.cost { return false }
        tokens -= kind.cost
        return true
    }

    /// A request succeeded: after a retry the last one's price comes back, else one token.
    package mutating func succeeded(after last: Kind?) {
        tokens = min(Self.capacity, tokens + (last?.cost ?? 1))
    }
}

/// How long to wait before a retry. Pure: randomness comes in.
package struct RetryBackoff: Sendable, Hashable {
    package var transientBase = Duration.milliseconds(50)
    package var throttledBase = Duration.seconds(1)
    package var cap = Duration.seconds(20)
    /// As the AWS server asks: at most this much longer than we would wait.
    package var serverExtra = Duration.seconds(5)
    /// The most that HTTP's `Retry-After` gets.
    package var httpCap = Duration.seconds(60)
    /// The first attempt included.
    package var attempts = 5

    package init() {}

    /// - Parameters:
    ///   - retry: 0 for the first.
    ///   - random: from 0 up to 1.
    ///   - asked: of `x-amz-retry-after`.
    ///   - askedByHTTP: of `Retry-After`.
    package func wait(
        _ kind: RetryBudget.Kind, retry: Int, random: Double, asked: Duration? = nil, askedByHTTP: Duration? = nil
    ) -> Duration {
        let base = kind == .transient ? transientBase : throttledBase
        let full = min(base * (1 << min(max(retry, 0), 20)), cap)
        let own = full * min(max(random, 0), 1)
        if let asked { return max(own, min(asked, own + serverExtra)) }
        if let askedByHTTP { return max(own, min(askedByHTTP, httpCap)) }
        return own
    }
}

/// How far the server's clock is from this machine's. Pure.
package struct ClockOffset: Sendable, Hashable {
    /// The server's time less ours.
    package private(set) var offset = Duration.zero

    package init() {}

    /// Whether signatures of this offset would be refused by a server whose time is `offset` from ours.
    package func isSkewed(_ other: Duration) -> Bool {
        let difference = other - offset
        return difference > S3ErrorMatrix.skewLimit || difference < .zero - S3ErrorMatrix.skewLimit
    }

    /// From now on signatures have the server's time.
    package mutating func correct(to offset: Duration) { self.offset = offset }
}

/// Whether denials mean the whole bucket: three different keys denied and nothing allowed since. Pure.
package struct DenialCount: Sendable, Hashable {
    package static let limit = 3
    private var keys: Set<[UInt8]> = []

    package init() {}

    /// True if the bucket is meant. At most `limit` keys are remembered.
    package mutating func denied(_ key: [UInt8]) -> Bool {
        if keys.count < Self.limit { keys.insert(key) }
        return keys.count >= Self.limit
    }

    package mutating func allowed() {
        if !keys.isEmpty { keys.removeAll() }
    }
}
