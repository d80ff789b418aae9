import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// A destination that is full: its jobs wait, and go on as soon as there is room.
extension DestinationUnit {
    /// How long a pause may be: while something waits for room, it is looked for every second.
    func untilLook(_ pause: Duration) -> Duration {
        room.withLock { $0.isWaiting(at: .now) } ? min(pause, .seconds(1)) : pause
    }

    /// Asks how much is free, if something waits for it, and has that tried at once if it is more than before. To be called
    /// while no group is in flight, whose staged copies take room.
    func lookForRoom() async throws(SafeBackupError) {
        guard room.withLock({ $0.isWaiting(at: .now) }) else { return }
        guard target.traits.hasVolume else { return }
        let path = FilePath(bytes: target.location)
        let statistics = await io.run { () -> VolumeStatistics? in
            do throws(Errno) {
                return try VolumeStatistics(try Descriptor.open(path, O_RDONLY | O_DIRECTORY))
            } catch {
                return nil  // ignored because whoever stores there next says what is wrong
            }
        }
        guard let statistics else { return }
        let available = statistics.available
        let isMore = room.withLock { $0.look(available: available.bytes, inodes: statistics.inodes?.available) }
        if !isMore { return }
        let id = id
        let count = try await state.durably { (store) throws(SafeBackupError) in
            try store.retryNow(id, failedWith: .destinationFull)
        }
        if count > 0 {
            logger.info(
                .roomFound, "There is more room in the destination; what waited for it is tried",
                metadata: ["jobs": "\(count)", "available": "\(available)"])
            wake.signal()
        }
    }
}
