import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// What `safebackup verify` asks of the agent after it has read copies: to mark what it found. The words of both sides.
struct VerifyRequest: Sendable {
    /// What the agent found when it looked again.
    enum Verdict: String, Sendable {
        /// It is marked, and stored again as a normal job, because the source has what was saved.
        case storedAgain
        /// It is marked; the source has changed since, and its newer content is saved by a normal job.
        case replaced
        /// It is marked; the source has it no more, or cannot be asked.
        case lost
        /// It is marked; its source is not saved there any more, so that nothing is stored again.
        case inactive
        /// Another copy took its place, or what is there changed: it is to be read again.
        case changed
        /// The agent is at work where it lies: it is to be read again later.
        case busy
    }

    var destination: DestinationID
    /// The copy that a rolling share ended with; `nil`: the place is not to be kept.
    var upTo: Int64?
    var faults: [(copy: Int64, fault: CopyFault)] = []
    /// Copies that were called damaged, and have the recorded content.
    var sound: [Int64] = []
    /// At the end, what was read of each source.
    var results: [SourceID: VerificationRecord.Result] = [:]
    /// Of a share, in percent.
    var share: Double?
    /// Why it was broken off, of these sources; they have no results.
    var failure: (sources: [SourceID], message: String)?

    init(destination: DestinationID, upTo: Int64? = nil) {
        self.destination = destination
        self.upTo = upTo
    }

    var arguments: [[UInt8]] {
        var words = ["\(destination.rawValue)", upTo.map { "\($0)" } ?? "-"]
        words += sound.map { "sound \($0)" }
        words += faults.map { "\($0.fault.kind.rawValue) \($0.copy) \($0.fault.inode) \($0.fault.ctime.nanoseconds)" }
        words += results.map {
            "ended \($0.rawValue) \($1.copies) \($1.bytes) \($1.damaged) \($1.missing) \($1.unverified)"
        }
        if let share { words.append("share \(share)") }
        if let failure {
            let sources = failure.sources.map { "\($0.rawValue)" }.joined(separator: ",")
            words.append("failed \(sources) \(failure.message)")
        }
        return words.map { Array($0.utf8) }
    }

    /// Throws `invalidConfiguration` for what is no such request: another release's, perhaps.
    init(_ arguments: [[UInt8]]) throws(SafeBackupError) {
        let refusal = SafeBackupError(
            .invalidConfiguration, "This agent does not understand what 'verify' found; is it another release?",
            disposition: .permanent)
        let words = arguments.map { String(decoding: $0, as: UTF8.self) }
        guard words.count >= 2, let destination = Int64(words[0]) else { throw refusal }
        self.destination = DestinationID(rawValue: destination)
        upTo = Int64(words[1])
        if upTo == nil && words[1] != "-" { throw refusal }
        for word in words.dropFirst(2) {
            let parts = word.split(separator: " ")
            if try readEnd(word, parts, refusal) { continue }
            guard parts.count >= 2, let copy = Int64(parts[1]) else { throw refusal }
            if parts[0] == "sound" {
                sound.append(copy)
                continue
            }
            guard parts.count == 4, let kind = CopyFault.Kind(rawValue: String(parts[0])), let inode = UInt64(parts[2]),
                let ctime = Int64(parts[3])
            else { throw refusal }
            faults.append((copy, CopyFault(kind: kind, inode: inode, ctime: FileTime(nanoseconds: ctime))))
        }
    }

    /// Reads a word that tells how a verification ended; `false`: it is another one.
    private mutating func readEnd(
        _ word: String, _ parts: [Substring], _ refusal: SafeBackupError
    ) throws(SafeBackupError) -> Bool {
        switch parts.first {
        case "ended":
            let numbers = parts.dropFirst().compactMap { Int64($0) }
            guard numbers.count == 6, parts.count == 7 else { throw refusal }
            var result = VerificationRecord.Result()
            (result.copies, result.bytes) = (Int(clamping: numbers[1]), numbers[2])
            (result.damaged, result.missing) = (Int(clamping: numbers[3]), Int(clamping: numbers[4]))
            result.unverified = Int(clamping: numbers[5])
            results[SourceID(rawValue: numbers[0])] = result
        case "share":
            guard parts.count == 2, let percent = Double(parts[1]), percent > 0, percent <= 100 else { throw refusal }
            share = percent
        case "failed":
            guard parts.count >= 2 else { throw refusal }
            let sources = parts[1].split(separator: ",").compactMap { Int64($0) }.map { SourceID(rawValue: $0) }
            let message = word.split(separator: " ", maxSplits: 2).dropFirst(2).first ?? ""
            failure = (sources, String(message))
        default: return false
        }
        return true
    }

    /// One verdict a line, as the faults are ordered, behind a sentence.
    static func answer(_ verdicts: [Verdict]) -> String {
        let marked = verdicts.count { $0 != .changed && $0 != .busy }
        let again = verdicts.count { $0 == .storedAgain || $0 == .replaced }
        var sentence = "No stored copy was found damaged"
        if marked > 0 {
            sentence =
                "\(ReportText.count(marked, "stored copy", "stored copies")) found damaged or missing and marked; "
                + "\(ReportText.grouped(again)) of them saved again from the source"
        }
        return ([sentence] + verdicts.map(\.rawValue)).joined(separator: "\n")
    }

    static func verdicts(_ answer: String) -> [Verdict] {
        answer.split(separator: "\n").dropFirst().map { Verdict(rawValue: String($0)) ?? .changed }
    }
}

extension RequestWork {
    /// Marks what was found, after a second look that the same is still there and nobody is at work on it.
    func verify(_ arguments: [[UInt8]]) async throws(SafeBackupError) -> Answer {
        let request = try VerifyRequest(arguments)
        let id = request.destination
        let (record, sources, active) = try await state.durably { (store) throws(SafeBackupError) in
            (
                try store.destinations().first { $0.id == id }, try store.sources(),
                Set(try store.pairs().filter { $0.destination == id && $0.isActive }.map(\.source))
            )
        }
        guard let record else { throw NamedSide.unknown([]) }
        var verdicts: [VerifyRequest.Verdict] = []
        if !request.faults.isEmpty {
            // An agent that replaces an object has its copy's row in work, and gives it another row: of an object whose row
            // stayed, what was read is so.
            let root =
                record.kind == "local"
                ? try await io.run { () throws(SafeBackupError) in
                    try VerifiedDestination.open(record, for: "verify")
                } : nil
            for (copy, fault) in request.faults {
                verdicts.append(try await judge(copy, fault, id, root, sources, active))
            }
        }
        let (sound, upTo, results, share) = (request.sound, request.upTo, request.results, request.share)
        let failure = request.failure
        try await state.durably { (store) throws(SafeBackupError) in
            try store.markSound(id, sound)
            if let upTo { try store.setVerified(id, upTo: upTo) }
            if !results.isEmpty { try store.noteVerified(id, results, share: share) }
            if let failure { try store.noteVerificationFailed(id, failure.sources, failure.message) }
        }
        return .done(VerifyRequest.answer(verdicts))
    }

    private func judge(
        _ copy: Int64, _ fault: CopyFault, _ destination: DestinationID, _ root: ConfinedDirectory?,
        _ sources: [SourceRecord], _ active: Set<SourceID>
    ) async throws(SafeBackupError) -> VerifyRequest.Verdict {
        let (suspect, outcome) = try await state.durably { (store) throws(SafeBackupError) in
            try store.suspect(destination, copy)
        }
        guard let suspect else { return outcome == .busy ? .busy : .changed }
        let source = sources.first { $0.id == suspect.source }
        let isActive = active.contains(suspect.source)
        let (isStill, look) = try await io.run { () throws(SafeBackupError) in
            let isStill: Bool
            do throws(Errno) {
                isStill =
                    try root.map { (root) throws(Errno) in
                        try CopyReader(root).isStill(fault, at: suspect.copy.location)
                    } ?? true
            } catch {
                throw VerifiedDestination.failure(error, suspect.copy.location)
            }
            let look = Self.look(at: suspect, in: source)
            // A job of a source that is not saved there would never be done.
            return (isStill, look == .lost || isActive ? look : .inactive)
        }
        if !isStill { return .changed }
        let marked = try await state.durably { (store) throws(SafeBackupError) in
            try store.markDamaged(destination, suspect, storesAgain: look == .storedAgain || look == .replaced)
        }
        switch marked {
        case .marked: return look
        case .gone: return .changed
        case .busy: return .busy
        }
    }

    /// What the source has at the path of a live name.
    private static func look(at suspect: SuspectCopy, in source: SourceRecord?) -> VerifyRequest.Verdict {
        guard let source, let live = suspect.live, let path = suspect.path else { return .lost }
        do throws(SafeBackupError) {
            let tree = try SourceRoot(path: FilePath(bytes: source.path), known: source.identity).opened()
            let status: FileStatus
            do throws(Errno) {
                status = try tree.status(of: path)
            } catch {
                // Ignored because nothing can be stored again from there now; an absence is found by the watch.
                return .lost
            }
            let isSame =
                status.kind == live.kind && status.size == live.fingerprint.size
                && status.fingerprint.mtime == live.fingerprint.mtime
            return isSame ? .storedAgain : .replaced
        } catch {
            return .lost
        }
    }
}

/// Opens a directory that is a destination, to read copies from it.
enum VerifiedDestination {
    /// - Parameter verb: whose; told where the destination is a bucket.
    /// - Throws: what holds it, if it is not there; `invalidConfiguration` if a person has it paused.
    static func open(_ record: DestinationRecord, for verb: String) throws(SafeBackupError) -> ConfinedDirectory {
        if record.pausedAt != nil { throw paused(record) }
        try record.refuseBucket(verb)
        let path = FilePath(bytes: record.location)
        let root = try CatalogueSelection.openBackup(path)
        try check(record)
        return root
    }

    static func paused(_ record: DestinationRecord) -> SafeBackupError {
        let name = printable(record.location)
        return SafeBackupError(
            .invalidConfiguration, "\(name) is paused and is not touched; 'safebackup resume \(name)' first",
            disposition: .permanent)
    }

    /// Proves that the path still leads to the destination: of a disk that went away nothing is missing.
    static func check(_ record: DestinationRecord) throws(SafeBackupError) {
        let path = FilePath(bytes: record.location)
        guard try LocalDestination.inspect(path).sentinel?.id == record.sentinel, record.sentinel != nil else {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(record.location)) does not hold the backup that this state knows; mount its disk",
                disposition: .destinationUnavailable)
        }
    }

    static func failure(_ error: Errno, _ location: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .destinationFailed, "The stored copy \(location) cannot be looked at: \(error.explanation)",
            disposition: .destinationUnavailable, systemError: error.rawValue)
    }
}
