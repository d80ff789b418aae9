import Glibc
import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem

/// Room for the copies: which saves may go on, which wait for a cleaning, and the cleaning itself.
extension LocalBackupSession {
    enum Admission {
        case go
        /// The disk must be looked at first.
        case check
        /// When what was admitted before it is stored.
        case later
        /// It waits for the cleaning.
        case parked
        /// As the disk was at the last look, there is no room.
        case lookAgain(SafeBackupError)
        case refused(SafeBackupError)
    }

    /// Takes those from the front for which there is room together. Of what comes first and finds none by itself, it
    /// waits for a cleaning or fails; what is left is asked for again when these are stored.
    func admit(_ files: inout ArraySlice<Found>) -> [Found] {
        var admitted: [Found] = []
        var growth = ByteCount(0)
        var looks = 0
        while let found = files.first {
            growth.bytes += found.file.size.bytes
            switch admission(found.entry, growth, isFirst: admitted.isEmpty, mayCheck: looks < 3) {
            case .go:
                admitted.append(found)
                files.removeFirst()
                looks = 0
                continue
            case .later: return admitted
            case .check:
                looks += 1
                check(growth: growth)
            case .lookAgain(let error):
                looks += 1
                if hasChanged(growth) {
                    check(growth: growth)
                } else {
                    finish(found.entry, .failure(error))
                    files.removeFirst()
                    looks = 0
                }
            case .parked:
                files.removeFirst()
                looks = 0
            case .refused(let error):
                finish(found.entry, .failure(error))
                files.removeFirst()
                looks = 0
            }
            growth.bytes -= found.file.size.bytes
        }
        return admitted
    }

    func admission(_ entry: Entry, _ growth: ByteCount, isFirst: Bool, mayCheck: Bool) -> Admission {
        state.withLock { state in
            switch state.guardian.admit(growth: growth) {
            case .go: return .go
            // So much is written by others that each look tells something else: writing will tell.
            case .check: return mayCheck ? .check : .go
            case .wait(let error):
                // What was admitted before it takes the room: one after the other.
                if !isFirst { return .later }
                if state.guardian.isCleaning && entry.waits < Self.waitLimit {
                    state.queue.park(entry)
                    return .parked
                }
                let mayHelp = entry.waits == 0 || (entry.waits < Self.waitLimit && state.guardian.shortfall == nil)
                guard mayCheck && mayHelp else { return .refused(error) }
                return .lookAgain(error)
            }
        }
    }

    /// Others may have made room since the disk was looked at, and a cleaning that freed too little may do better after
    /// a while. Whether it is worth asking the guard again.
    func hasChanged(_ growth: ByteCount) -> Bool {
        let available = usage()?.available.bytes ?? .max
        return state.withLock { state in
            let isRested = state.cleaningEnded.map { ContinuousClock.now - $0 > Self.cleaningRest } ?? true
            guard
                available >= state.guardian.limits.floor.bytes
                    && available - state.guardian.limits.floor.bytes >= growth.bytes
                    || isRested || state.guardian.shortfall == nil
            else { return false }
            state.guardian.mayHaveChanged()
            return true
        }
    }

    /// A write found the disk full: it waits for a cleaning, is tried again if there is room now, or fails. Returns what
    /// is to be tried again.
    func makeRoom(for found: Found, _ error: SafeBackupError) -> Entry? {
        var entry = found.entry
        if entry.waits < Self.waitLimit {
            state.withLock { $0.guardian.mayHaveChanged() }
            check(growth: found.file.size)
            let (hasRoom, isParked) = state.withLock { state in
                if case .go = state.guardian.admit(growth: found.file.size) { return (true, false) }
                guard state.guardian.isCleaning else { return (false, false) }
                state.queue.park(entry)
                return (false, true)
            }
            if isParked { return nil }
            entry.waits += 1
            if hasRoom { return entry }
        }
        finish(entry, .failure(error))
        return nil
    }

    /// Looks at the disk, and begins a cleaning if there is too little room for a save that grows the backup so much.
    func check(growth: ByteCount) {
        let usage = usage() ?? DiskUsage(total: ByteCount(.max), used: ByteCount(0), available: ByteCount(.max))
        // What the backup holds is known to the cleaner only: it is asked after each interval.
        let size = configuration.cleaning.limits.maxSize.map { ByteCount($0.bytes == .max ? .max : $0.bytes + 1) }
        let limits = state.withLock { state -> CleaningLimits? in
            guard case .clean(let limits) = state.guardian.checked(usage, size: size, growth: growth) else {
                return nil
            }
            state.cleaningsBegun += 1
            return limits
        }
        if let limits { cleaning.submit { self.clean(limits) } }
    }

    /// `nil` if it cannot be told; then nothing is cleaned for it, and writing tells when the disk is full.
    func usage() -> DiskUsage? {
        do throws(SafeBackupError) {
            guard let store = store.withLock({ $0 }) else { return nil }
            return try Self.usage(configuration, store)
        } catch {
            state.withLock { $0.failure = error }
            return nil
        }
    }

    static func usage(
        _ configuration: LocalBackupConfiguration, _ store: KeyedStore
    ) throws(SafeBackupError) -> DiskUsage? {
        if let usage = configuration.cleaning.usage { return try usage() }
        return try store.usage()
    }

    func clean(_ limits: CleaningLimits) {
        var configuration = configuration.cleaning
        configuration.limits = limits
        configuration.written = { [weak self] in self?.state.withLock { $0.written...$0.begun } ?? 0...0 }
        var failure: SafeBackupError?
        do throws(SafeBackupError) {
            // Another disk's files are not ours to remove.
            try store.withLock({ $0 })?.check()
            failure = try BackupCleaner(rootDirectory, configuration).clean().failure
        } catch {
            failure = error
        }
        let usage = usage()
        let begins = state.withLock { state -> Int in
            state.guardian.cleaned(usage, shortfall: failure)
            state.cleaningsEnded += 1
            state.cleaningEnded = .now
            if let failure { state.failure = failure }
            state.queue.unpark()
            return (0..<Self.workerLimit).count { _ in Self.takesWorker(&state) }
        }
        for _ in 0..<begins { savers.submit { self.work() } }
        resumeWaiters()
    }
}
