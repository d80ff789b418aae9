package import SafeBackupCore

/// The loops of the agent, and whether each of them moves.
package final class Vitals: Sendable {
    private struct State {
        var loops: [UInt64: Pulse] = [:]
        var next: UInt64 = 0
        var judge: VitalsJudge
        var isAlive = false
    }

    /// Of the running agent, if anybody wants to know.
    @TaskLocal package static var current: Vitals?

    private let state: Locked<State>
    private let whenAlive: @Sendable () -> Void

    /// - Parameters:
    ///   - patience: a loop that has not moved for so long is asked for a turn.
    ///   - whenAlive: called once, when the first loop begins that is no part of the start: the agent has its state and
    ///     knows what it is to do.
    package init(patience: Duration, whenAlive: @escaping @Sendable () -> Void) {
        state = Locked(State(judge: VitalsJudge(patience: patience)))
        self.whenAlive = whenAlive
    }

    /// Runs `body` as a loop that must move as long as it runs; where nobody asks, just runs it.
    ///
    /// - Parameters:
    ///   - isAlive: it shows that the start is over.
    ///   - waker: see `Pulse`.
    package static func loop<R: Sendable>(
        _ name: String, isAlive: Bool = true, waker: @escaping @Sendable () -> Void = {},
        _ body: () async throws(SafeBackupError) -> R
    ) async throws(SafeBackupError) -> R {
        // The task-local's own function knows no typed errors.
        let result = await unfailing(name, isAlive: isAlive, waker: waker) { () async -> Result<R, SafeBackupError> in
            do throws(SafeBackupError) {
                return .success(try await body())
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// As `loop`, for work that cannot fail.
    package static func unfailing<R: Sendable>(
        _ name: String, isAlive: Bool = true, waker: @escaping @Sendable () -> Void = {}, _ body: () async -> R
    ) async -> R {
        guard let vitals = current else { return await body() }
        let pulse = Pulse(name: name, waker: waker)
        let id = vitals.begin(pulse, isAlive)
        defer { vitals.end(id) }
        return await Pulse.$current.withValue(pulse) { await body() }
    }

    private func begin(_ pulse: Pulse, _ isAlive: Bool) -> UInt64 {
        let (id, isFirst) = state.withLock { state in
            state.next += 1
            state.loops[state.next] = pulse
            defer { state.isAlive = state.isAlive || isAlive }
            return (state.next, isAlive && !state.isAlive)
        }
        if isFirst { whenAlive() }
        return id
    }

    private func end(_ id: UInt64) { state.withLock { _ = $0.loops.removeValue(forKey: id) } }

    /// Looks at every loop, and asks those for a turn that stand still.
    package func look(at now: ContinuousClock.Instant) -> VitalsVerdict {
        let (verdict, asked) = state.withLock { state in
            let readings = state.loops.map {
                VitalsJudge.Reading(id: $0.key, name: $0.value.name, steps: $0.value.count)
            }
            let verdict = state.judge.look(readings, at: now)
            return (verdict, verdict.toAsk.compactMap { state.loops[$0] })
        }
        for pulse in asked { pulse.ask() }
        return verdict
    }
}

/// What a look at all loops found.
package struct VitalsVerdict: Sendable {
    /// Every loop has moved since the look that last said so.
    package var isMoving: Bool
    /// The loops that have not moved for longer than one is patient, although they were asked, longest first.
    package var still: [(name: String, time: Duration)]
    var toAsk: [UInt64]
}

/// Judges the loops by how their steps grow. Pure: the time comes in.
struct VitalsJudge: Sendable {
    struct Reading: Sendable {
        var id: UInt64
        var name: String
        var steps: UInt64
    }

    private struct Loop {
        var steps: UInt64
        var movedAt: ContinuousClock.Instant
        /// It has moved since everything was found to move.
        var hasMoved = true
        var askedAt: ContinuousClock.Instant?
    }

    private let patience: Duration
    private var loops: [UInt64: Loop] = [:]

    init(patience: Duration) { self.patience = patience }

    mutating func look(_ readings: [Reading], at now: ContinuousClock.Instant) -> VitalsVerdict {
        var verdict = VitalsVerdict(isMoving: true, still: [], toAsk: [])
        var seen: [UInt64: Loop] = [:]
        for reading in readings {
            // One that is new has moved: it began.
            var loop = loops[reading.id] ?? Loop(steps: reading.steps, movedAt: now)
            if loop.steps != reading.steps {
                loop = Loop(steps: reading.steps, movedAt: now)
            } else if now - loop.movedAt >= patience {
                if let asked = loop.askedAt, now - asked >= patience {
                    verdict.still.append((reading.name, now - loop.movedAt))
                }
                loop.askedAt = loop.askedAt ?? now
                verdict.toAsk.append(reading.id)
            }
            if !loop.hasMoved { verdict.isMoving = false }
            seen[reading.id] = loop
        }
        verdict.still.sort { $0.time > $1.time }
        if verdict.isMoving {
            for id in seen.keys { seen[id]?.hasMoved = false }
        }
        loops = seen
        return verdict
    }
}
