import Glibc
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Reads stored copies again and compares their digests with the catalogue's, at low priority and past the cache, in
/// the verb's own process: a running agent only marks what was found.
package struct Verification: Sendable {
    private let directory: StateDirectory
    private let paths: [[UInt8]]
    /// Of all bytes, for a rolling share; `nil`: everything.
    private let share: Double?
    private let bucket: (@Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup)?
    private let tell: @Sendable (String) -> Void

    /// How many copies are read between two looks at the state.
    private static let batch = 200
    /// What a copy costs besides its bytes, so that a share of small files is a share of the time too.
    private static let fileCost: Int64 = 16 << 10
    private static let attempts = 4

    /// - Parameters:
    ///   - paths: absolute, below a source, or relative to one, with all below them; none means all.
    ///   - share: between 0 and 1; goes on where the last one ended.
    ///   - bucket: reaches a bucket that the state knows, by its URL.
    ///   - tell: called for each damaged copy.
    package init(
        _ directory: StateDirectory, paths: [[UInt8]], share: Double?,
        bucket: (@Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup)? = nil,
        tell: @escaping @Sendable (String) -> Void
    ) {
        self.directory = directory
        self.paths = paths
        self.share = share
        self.bucket = bucket
        self.tell = tell
    }

    private struct Part {
        var destination: DestinationRecord
        var scopes: [CopyScope]
        /// Something is saved there.
        var isConfigured = true
        /// All that was ever saved there.
        var sources: [SourceID] = []

        /// What a verification of single paths found says nothing of the whole.
        var isWhole: Bool { scopes == [.all] }
    }

    private typealias Results = [SourceID: VerificationRecord.Result]

    /// A suspect is read again, as long as the agent is at work where it lies.
    private struct Found: Sendable {
        var copy: CopyRecord
        var finding: CopyReader.Finding
    }

    package func run() async throws(SafeBackupError) -> VerifyReport {
        try SHA256.requireAvailable()
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let io: ThreadExecutor
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.verify", isBackground: true)
        } catch {
            throw .noThread(error)
        }
        defer { io.stop() }
        let began = ContinuousClock.now
        var report = VerifyReport()
        report.share = share.map { $0 * 100 }
        for part in try parts(reader) {
            var results: Results = [:]
            do throws(SafeBackupError) {
                try await verify(part, reader, io, &report, &results)
            } catch {
                // One destination that is away does not keep the others from being read.
                if error.code == .stateFailed || error.code == .stateDamaged { throw error }
                if !part.isConfigured && error.isHolding {
                    report.leftOut.append("Nothing is saved there any more, and it was left out: \(error.message)")
                    continue
                }
                if error.holdsDestination { report.isHeld = true }
                report.failures.append(error.message)
                if part.isWhole { await noteFailure(part, error, &report) }
            }
        }
        report.finish(hasPaths: !paths.isEmpty, since: began)
        return report
    }

    private func parts(_ reader: StateReader) throws(SafeBackupError) -> [Part] {
        let pairs = try reader.pairs()
        let destinations = try reader.destinations()
        let running = pairs.contains(where: \.isActive) ? pairs.filter(\.isActive) : pairs
        if paths.isEmpty {
            let used = Set(running.map(\.destination))
            var parts: [Part] = []
            for destination in destinations {
                var part = Part(destination: destination, scopes: [.all], isConfigured: used.contains(destination.id))
                part.sources = pairs.filter { $0.destination == destination.id }.map(\.source)
                // What is not configured any more still holds what was saved there.
                if !part.isConfigured, try reader.copies(destination.id, .all, after: nil, limit: 1).copies.isEmpty {
                    continue
                }
                parts.append(part)
            }
            return parts
        }
        var parts = destinations.map { Part(destination: $0, scopes: []) }
        for argument in paths {
            for target in try SourcePath.targets(argument, in: try reader.sources()) {
                let known = pairs.filter { $0.source == target.source.id }
                for pair in known where pair.isActive || !known.contains(where: \.isActive) {
                    guard let index = parts.firstIndex(where: { $0.destination.id == pair.destination }) else {
                        continue
                    }
                    parts[index].scopes += Self.scopes(target.source.id, target.path, prefix: pair.prefix)
                }
            }
        }
        return parts.filter { !$0.scopes.isEmpty }
    }

    /// What a path of a source means, with all below it.
    static func scopes(_ source: SourceID, _ path: RelativePath, prefix: RelativePath) -> [CopyScope] {
        let location = prefix.appending(path)
        if location.isRoot { return [.all] }
        let below: [CopyScope] = [.below(location), .below(Layout.versions.appending(location))]
        return path.isRoot ? below : [.of(source, path)] + below
    }

    // MARK: Reading

    private func verify(
        _ part: Part, _ reader: StateReader, _ io: ThreadExecutor, _ report: inout VerifyReport,
        _ results: inout Results
    ) async throws(SafeBackupError) {
        let record = part.destination
        let bucket = bucket
        let place = try await io.run { () throws(SafeBackupError) in try CopyPlace.open(record, bucket: bucket) }
        if share != nil { return try await verifyShare(record, place, reader, io, &report, &results) }
        if part.isWhole { for source in part.sources { results[source] = VerificationRecord.Result() } }
        var last: Int64?
        for scope in part.scopes {
            var cursor: CopyCursor?
            repeat {
                let page = try reader.copies(record.id, scope, after: cursor, limit: Self.batch)
                try await verify(page, record, place, reader, io, &report, &results)
                if scope == .all, let newest = page.copies.last?.id { last = newest }
                cursor = page.next
            } while cursor != nil
        }
        guard part.isWhole else { return }
        var request = VerifyRequest(destination: record.id, upTo: last)
        request.results = results
        do throws(SafeBackupError) {
            try await send(request)
        } catch {
            // Everything was read, and who may only read the state may know it.
            report.failures.append("That all was verified could not be noted: \(error.message)")
        }
    }

    private func verifyShare(
        _ record: DestinationRecord, _ place: CopyPlace, _ reader: StateReader, _ io: ThreadExecutor,
        _ report: inout VerifyReport, _ results: inout Results
    ) async throws(SafeBackupError) {
        let total = try reader.verifiable(record.id)
        let start = try reader.verifiedUpTo(record.id)
        var budget = Double(total.bytes + Self.fileCost * total.copies) * (share ?? 1)
        var position = start
        var hasWrapped = false
        var lastSent = ContinuousClock.now
        while budget > 0 {
            var page = try reader.copies(record.id, .all, after: .after(position), limit: Self.batch)
            let copies = page.copies
            if copies.isEmpty || hasWrapped && copies[0].id > start {
                // From the beginning again, and never past where this began.
                if hasWrapped || start == 0 { break }
                (hasWrapped, position) = (true, 0)
                continue
            }
            let end = hasWrapped ? copies.prefix { $0.id <= start }.count : copies.count
            var count = 0
            while count < end && budget > 0 {
                if copies[count].digest != nil { budget -= Double(copies[count].size + Self.fileCost) }
                count += 1
            }
            (page.copies, page.sources) = (Array(copies[..<count]), Array(page.sources[..<count]))
            try await verify(page, record, place, reader, io, &report, &results)
            position = copies[count - 1].id
            if ContinuousClock.now - lastSent > .seconds(60) {
                // An end in the middle does not lose what was done.
                try await send(VerifyRequest(destination: record.id, upTo: position))
                lastSent = .now
            }
        }
        var request = VerifyRequest(destination: record.id, upTo: position)
        (request.results, request.share) = (results, report.share)
        try await send(request)
    }

    private func verify(
        _ page: CopyPage, _ record: DestinationRecord, _ place: CopyPlace, _ reader: StateReader,
        _ io: ThreadExecutor, _ report: inout VerifyReport, _ results: inout Results
    ) async throws(SafeBackupError) {
        let owners = Dictionary(zip(page.copies.map(\.id), page.sources)) { first, _ in first }
        func note(_ copy: CopyRecord, _ change: (inout VerificationRecord.Result) -> Void) {
            if let owner = owners[copy.id] { change(&results[owner, default: VerificationRecord.Result()]) }
        }
        report.withoutDigest += page.copies.count { $0.digest == nil }
        var waiting = page.copies.filter { $0.digest != nil }
        for attempt in 1...Self.attempts {
            if waiting.isEmpty { return }
            let asked = waiting
            let found = try await io.run { () throws(SafeBackupError) in try place.read(asked) }
            waiting = []
            var suspects: [Found] = []
            var sound: [Int64] = []
            for (copy, finding) in zip(asked, found) {
                switch finding {
                case .sound:
                    report.copies += 1
                    report.bytes += copy.size
                    note(copy) { ($0.copies, $0.bytes) = ($0.copies + 1, $0.bytes + copy.size) }
                    if copy.isDamaged { sound.append(copy.id) }
                case .forbidden(let reason):
                    report.note(unverified: "The stored copy \(copy.location) cannot be read: \(reason)")
                    note(copy) { $0.unverified += 1 }
                case .faulty: suspects.append(Found(copy: copy, finding: finding))
                }
            }
            if suspects.isEmpty && sound.isEmpty { return }
            report.soundAgain += sound.count
            // Of a disk that went away nothing is missing.
            try await io.run { () throws(SafeBackupError) in try place.check(record) }
            waiting = try await settle(suspects, sound, record, reader, &report) { copy, fault in
                note(copy) {
                    $0.copies += 1
                    if fault.kind == .missing { $0.missing += 1 } else { $0.damaged += 1 }
                }
            }
            if waiting.isEmpty { return }
            if attempt == Self.attempts {
                for copy in waiting {
                    report.note(unverified: "The stored copy \(copy.location) is in work; verify it later")
                    note(copy) { $0.unverified += 1 }
                }
                return
            }
            // What is at work there ends in a while; a rename and its row are a moment apart.
            do {
                try await Task.sleep(for: .milliseconds(300 * attempt))
            } catch {
                return  // cancelled: nobody waits any more
            }
        }
    }

    // MARK: Telling

    /// Has the suspects marked; those that must be read again come back, as they are known now.
    private func settle(
        _ suspects: [Found], _ sound: [Int64], _ record: DestinationRecord, _ reader: StateReader,
        _ report: inout VerifyReport, _ marked: (CopyRecord, CopyFault) -> Void
    ) async throws(SafeBackupError) -> [CopyRecord] {
        var request = VerifyRequest(destination: record.id)
        request.sound = sound
        // Before the catalogue may change by what the answer does.
        var damages: [VerifyReport.Damage] = []
        for suspect in suspects {
            guard case .faulty(let fault) = suspect.finding else { continue }
            request.faults.append((suspect.copy.id, fault))
            damages.append(try damage(suspect.copy, fault, record, reader))
        }
        let verdicts = try await send(request)
        var again: [CopyRecord] = []
        for (index, suspect) in suspects.enumerated() {
            let verdict = index < verdicts.count ? verdicts[index] : .changed
            if verdict == .changed || verdict == .busy {
                // Another copy has taken its place: that one has its own number and its own turn.
                if let known = try reader.copy(suspect.copy.id) { again.append(known) }
                continue
            }
            report.copies += 1
            report.damaged += 1
            if case .faulty(let fault) = suspect.finding { marked(suspect.copy, fault) }
            if verdict == .storedAgain { report.storedAgain += 1 } else { report.lost += 1 }
            damages[index].outcome = verdict.rawValue
            if verdict == .storedAgain {
                (damages[index].newestGood, damages[index].newestGoodFrom) = (nil, nil)
            } else if report.lost <= VerifyReport.searchLimit, let same = try reader.sameContent(as: suspect.copy) {
                damages[index].sameContent = same.description
                damages[index].sameContentHex = ReportText.hex(ifNeeded: same)
            }
            tell(damages[index].text)
            if report.damages.count < VerifyReport.listLimit { report.damages.append(damages[index]) }
        }
        return again
    }

    private func damage(
        _ copy: CopyRecord, _ fault: CopyFault, _ record: DestinationRecord, _ reader: StateReader
    ) throws(SafeBackupError) -> VerifyReport.Damage {
        let path = try reader.path(ofCopy: copy.id)
        let good = try reader.newestGoodVersion(besides: copy.id)
        return VerifyReport.Damage(
            path: path?.description, pathHex: path.flatMap { ReportText.hex(ifNeeded: $0) },
            destination: printable(record.location), location: copy.location.description,
            locationHex: ReportText.hex(ifNeeded: copy.location), fault: fault.kind.rawValue, outcome: "",
            newestGood: good?.copy.location.description, newestGoodFrom: good.map { LocalZone.system.text($0.began) })
    }

    /// So that `status` does not tell of an older one as if it were the last.
    private func noteFailure(_ part: Part, _ error: SafeBackupError, _ report: inout VerifyReport) async {
        var request = VerifyRequest(destination: part.destination.id)
        request.failure = (part.sources, error.message)
        do throws(SafeBackupError) {
            try await send(request)
        } catch {
            report.failures.append("That it was not verified could not be noted: \(error.message)")
        }
    }

    @discardableResult
    private func send(_ request: VerifyRequest) async throws(SafeBackupError) -> [VerifyRequest.Verdict] {
        let outcome = try await RequestVerb.ask("verify", request.arguments, in: directory, within: .seconds(120))
        guard case .done(let text) = outcome else { return [] }
        return VerifyRequest.verdicts(text)
    }
}
