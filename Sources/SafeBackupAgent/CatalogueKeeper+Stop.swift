import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// The last copy before an orderly end, so that what was saved since the one before is known also when the state is lost.
extension CatalogueKeeper {
    /// What is written by then is flushed and installed.
    private static let writingTime = Duration.seconds(4)
    /// Nobody waits for longer, also where a disk or server hangs: a stop as a whole takes at most ten seconds.
    private static let waitingTime = Duration.seconds(7)
    /// Of a copy whose flush was not timed yet: what a slow disk writes in some seconds.
    private static let sizeLimit: Int64 = 64 << 20

    /// Writes a catalogue copy if the catalogue changed since the last and that takes no longer than a stop may take.
    /// What is not written is told; the next run writes it. To be called when nothing else uses the destination.
    /// - Parameter requested: when the stop was asked for; its groups and walks have ended since.
    func exportAtStop(requestedAt requested: ContinuousClock.Instant) async {
        let over = TaskSignal()
        let isOver = Shared(false)
        // Not a child: one that hangs is left behind, and ends with the process.
        Task {
            do throws(SafeBackupError) {
                try await exportInTime(until: requested + Self.writingTime)
            } catch {
                if !isOver.value { tell(error) }
            }
            isOver.set(true)
            over.signal()
        }
        await over.wait(atMost: requested + Self.waitingTime - .now)
        if isOver.value { return }
        isOver.set(true)
        tell(SafeBackupError(.interrupted, "The destination does not answer in time", disposition: .transient))
    }

    private func exportInTime(until deadline: ContinuousClock.Instant) async throws(SafeBackupError) {
        guard let behind = try await behind(allowsPartial: true), let sentinel = behind.record.sentinel else { return }
        let record = behind.record
        // Held or paused: somebody else may be at work there.
        if record.hold != nil || record.pausedAt != nil || record.accepted != nil { return }
        if ContinuousClock.now + (cost.value ?? .zero) >= deadline {
            throw SafeBackupError(
                .interrupted,
                "The last one took \(secondsText(cost.value ?? .zero)) seconds, which a stop does not have",
                disposition: .transient)
        }
        try await unit.target.attach(expecting: sentinel)
        let result: Result<Void, SafeBackupError>
        do throws(SafeBackupError) {
            if try await mayReplace(behind) {
                try await write(sizeLimit: cost.value == nil ? Self.sizeLimit : nil) { ContinuousClock.now < deadline }
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await unit.target.detach()
        try result.get()
    }

    private func tell(_ error: SafeBackupError) {
        logger.notice(
            .catalogueFailed,
            "The catalogue copy was not brought up to date at the end; the next run does it",
            metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
    }
}
