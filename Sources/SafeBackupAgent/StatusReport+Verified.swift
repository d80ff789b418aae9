import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

extension StatusReport {
    /// How the last verification of a source at a destination ended. What it found damaged is not called so any more when it was saved again.
    package struct Verified: Sendable, Encodable {
        package var sourcePath: String
        /// `nil`: none came to its end.
        package var at: String?
        /// `all` or `share`.
        package var scope: String?
        /// Of a share, in percent of the destination.
        package var share: Double?
        package var copies: Int
        package var bytes: Int64
        package var damaged: Int
        package var missing: Int
        /// How many of the damaged and missing ones still are.
        package var stillBad: Int
        /// Could not be read, or were in work.
        package var unverified: Int
        /// When all copies were last read in one go.
        package var allAt: String?
        /// When a later one was broken off, and why.
        package var failedAt: String?
        package var failure: String?

        private init(_ record: VerificationRecord, source: [UInt8]) {
            sourcePath = printable(source)
            at = record.endedAt?.iso8601
            scope = record.scope?.rawValue
            share = record.share
            copies = record.result.copies
            bytes = record.result.bytes
            damaged = record.result.damaged
            missing = record.result.missing
            stillBad = min(record.stillBad, damaged + missing)
            unverified = record.result.unverified
            allAt = record.allAt?.iso8601
            failedAt = record.failedAt?.iso8601
            failure = record.failure
        }

        /// Of all sources that are, or were, saved to the destination.
        static func of(
            _ destination: DestinationID, _ records: [VerificationRecord], _ status: StateStatus
        ) -> [Verified] {
            records.filter { $0.destination == destination }.map { record in
                Verified(record, source: status.sources.first { $0.record.id == record.source }?.record.path ?? [])
            }
        }

        /// How many that are saved to it were never verified.
        static func missing(
            _ destination: DestinationID, _ records: [VerificationRecord], _ status: StateStatus
        ) -> Int {
            status.pairs.count { pair in
                pair.record.isActive && pair.record.destination == destination
                    && !records.contains { $0.destination == destination && $0.source == pair.record.source }
            }
        }

        /// - Parameter never: how many sources besides were never verified.
        static func lines(_ all: [Verified], never: Int) -> [String] {
            let names = all.count + never > 1
            var lines = all.flatMap { $0.lines(named: names) }
            if never > 0 {
                let what = all.isEmpty ? "never" : "\(counted(never, "other source")) never"
                lines.append("  verified      \(what); 'safebackup verify' reads the stored copies again")
            }
            return lines
        }

        private func lines(named: Bool) -> [String] {
            var lines: [String] = []
            let name = named ? "\(sourcePath): " : ""
            if let at {
                var text =
                    "\(at), \(scope == VerificationRecord.Scope.all.rawValue ? "all" : "a share of \(percent) %"): "
                text += "\(counted(copies, "copy", "copies")) (\(ByteCount(bytes))), "
                var found: [String] = []
                let isMended = stillBad == 0
                if damaged > 0 { found.append("\(grouped(damaged)) \(isMended ? "damaged" : "DAMAGED")") }
                if missing > 0 { found.append("\(grouped(missing)) \(isMended ? "missing" : "MISSING")") }
                if !found.isEmpty && stillBad < damaged + missing {
                    found[found.count - 1] +=
                        isMended ? " (saved again since)" : " (\(grouped(stillBad)) of them still)"
                }
                if unverified > 0 { found.append("\(grouped(unverified)) could not be read") }
                text += found.isEmpty ? "none damaged" : found.joined(separator: ", ")
                if scope != VerificationRecord.Scope.all.rawValue { text += "; all at once: \(allAt ?? "never")" }
                lines.append("  verified      \(name)\(text)")
            } else {
                lines.append("  verified      \(name)never to its end")
            }
            if let failedAt {
                lines.append("                NOT VERIFIED \(failedAt): \(failure ?? "it was broken off")")
            }
            return lines
        }

        private var percent: String {
            guard let share else { return "?" }
            return share == share.rounded() ? "\(Int(share))" : "\(share)"
        }
    }
}
