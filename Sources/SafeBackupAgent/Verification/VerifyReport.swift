import SafeBackupCore
import SafeBackupState

/// What `safebackup verify` tells when it has ended.
package struct VerifyReport: Sendable, Encodable {
    /// A copy that is not what was saved.
    package struct Damage: Sendable, Encodable {
        /// The path that has it, or had it last; `nil` for what no path ever had.
        package var path: String?
        package var pathHex: String?
        package var destination: String
        package var location: String
        package var locationHex: String?
        /// `content`, `missing`, `kind` or `unreadable`.
        package var fault: String
        /// `storedAgain`, `replaced` (the newer content of the source is saved), `inactive` (the source is not saved there any
        /// more, so that nothing is stored again) or `lost`; where only the destination was
        /// asked, `notAsked`: the source may have it, or of what is missing the agent may know where it went.
        package var outcome: String
        /// The newest state of the path that is neither fuzzy nor damaged, where this one is lost.
        package var newestGood: String?
        package var newestGoodFrom: String?
        /// Where the backup has the same content, by what it knows, where this one is lost.
        package var sameContent: String?
        package var sameContentHex: String?

        /// The outcome where only the destination was asked.
        static let notAsked = "notAsked"

        /// A sentence for a person.
        var text: String {
            let name = path ?? "A file without a path"
            let what =
                switch CopyFault.Kind(rawValue: fault) {
                case .some(let kind): CopyFault(kind: kind).explanation
                case nil: fault
                }
            var text = "\(name): the stored copy \(location) \(what); "
            if outcome == Self.notAsked {
                if fault == CopyFault.Kind.missing.rawValue {
                    text += "it was renamed or removed after the catalogue copy was written, or is lost; "
                }
                text +=
                    "'safebackup verify' on the machine that saves it tells more, and has it saved again where it can"
                return newestGood.map { "\(text); the newest good version known is of \(newestGoodFrom ?? "-"): \($0)" }
                    ?? text
            }
            switch VerifyRequest.Verdict(rawValue: outcome) {
            case .storedAgain: return text + "it is saved again from the source"
            case .replaced: text += "the source has changed since, and its newer content is saved"
            case .inactive:
                text += "its source is not saved there any more, as it is not configured, so that it is not saved again"
            default: text += "the source has it no more"
            }
            if let newestGood, let newestGoodFrom {
                text += "; the newest good version is of \(newestGoodFrom): \(newestGood)"
                return sameContent.map { "\(text); this state's content is stored as \($0) too" } ?? text
            }
            if let sameContent {
                return text + "; no other good version of it is kept, but the same content is stored as \(sameContent)"
            }
            return text + "; this state of it is lost, and no other good version is kept"
        }
    }

    /// How many damaged copies are listed in JSON at most; each is told in text.
    static let listLimit = 1_000
    /// For how many lost copies the same content is looked for: each look goes through the catalogue's copies.
    static let searchLimit = 100

    /// Read, and compared.
    package var copies = 0
    package var bytes: Int64 = 0
    /// Without a digest, which somebody else's files have not that were moved aside.
    package var withoutDigest = 0
    package var damaged = 0
    package var storedAgain = 0
    package var lost = 0
    package var damages: [Damage] = []
    /// Copies that could not be read, or were in work whenever they were read; with the reason of the first ones.
    package var unverified = 0
    package var reasons: [String] = []
    /// They were called damaged before, and have the recorded content.
    package var soundAgain = 0
    /// What kept a destination from being verified.
    package var failures: [String] = []
    /// Destinations that nothing is saved to any more, and that are not there.
    package var leftOut: [String] = []
    package var seconds = 0.0
    /// Of a rolling share, in percent.
    package var share: Double?
    /// By the catalogue copy of this time, where only the destination was asked.
    package var catalogueFrom: String?
    /// What lies in the destination and is not in that catalogue copy: compared with nothing. The first ones by name.
    package var notKnown: Int?
    package var notKnownNames: [String]?
    /// A destination is not there.
    var isHeld = false

    private enum CodingKeys: String, CodingKey {
        case copies, bytes, withoutDigest, damaged, storedAgain, lost, damages, unverified, reasons, soundAgain,
            failures, leftOut,
            seconds, share, catalogueFrom, notKnown, notKnownNames
    }

    /// How many files that nobody knows are named.
    static let notKnownLimit = 10

    /// Everything was read.
    /// - Parameter hasPaths: only a part was asked for.
    mutating func finish(hasPaths: Bool, since began: ContinuousClock.Instant) {
        if hasPaths, copies + withoutDigest + unverified + damaged + (notKnown ?? 0) == 0, failures.isEmpty {
            failures.append("The backup has nothing of what was named; nothing was read")
        }
        let (seconds, attoseconds) = (ContinuousClock.now - began).components
        self.seconds = Double(seconds) + Double(attoseconds / 1_000_000_000_000_000) / 1_000
    }

    /// A copy that is not what the catalogue copy tells, where only the destination was asked.
    /// - Returns: a sentence for a person.
    mutating func add(
        _ copy: CopyRecord, _ fault: CopyFault.Kind, by file: CatalogueFileReader, of destination: [UInt8]
    ) throws(SafeBackupError) -> String {
        copies += 1
        damaged += 1
        let owner = try file.owner(of: copy, searches: damaged <= Self.searchLimit)
        let good = try owner.flatMap { (owner) throws(SafeBackupError) in
            try file.newestGoodVersion(of: owner.path, owner.source, besides: copy.id)
        }
        let damage = Damage(
            path: owner?.path.description, pathHex: owner.flatMap { ReportText.hex(ifNeeded: $0.path) },
            destination: printable(destination), location: copy.location.description,
            locationHex: ReportText.hex(ifNeeded: copy.location), fault: fault.rawValue, outcome: Damage.notAsked,
            newestGood: good?.copy.location.description, newestGoodFrom: good.map { LocalZone.system.text($0.began) })
        if damages.count < Self.listLimit { damages.append(damage) }
        return damage.text
    }

    /// What lies in the destination, and not in the catalogue copy.
    mutating func note(notKnown place: RelativePath) {
        let number = (notKnown ?? 0) + 1
        notKnown = number
        if number <= Self.notKnownLimit { notKnownNames?.append(place.description) }
    }

    /// Why a copy was not compared that gave way to a newer one.
    static func replaced(_ location: RelativePath) -> String {
        "\(location) was replaced after the catalogue copy was written, and what was there before is not among the "
            + "versions: an agent saved it anew, or somebody changed it"
    }

    mutating func note(unverified reason: String) {
        unverified += 1
        if reasons.count < 20 { reasons.append(reason) }
    }

    /// 3: something is damaged or could not be verified, 4: a destination is not there, else 0.
    package var exitCode: Int32 {
        if isHeld { return 4 }
        return damaged > 0 || unverified > 0 || !failures.isEmpty ? 3 : 0
    }

    /// Without the damaged copies, which were told as they were found.
    package var text: String {
        var lines = leftOut + failures + reasons
        if unverified > reasons.count { lines.append("and \(ReportText.grouped(unverified - reasons.count)) more") }
        if withoutDigest > 0 {
            lines.append(
                "\(ReportText.count(withoutDigest, "copy", "copies")) that lay there before, without a digest, cannot be "
                    + "compared")
        }
        if soundAgain > 0 {
            lines.append(
                "\(ReportText.count(soundAgain, "copy", "copies")) called damaged before: has the recorded content after all"
            )
        }
        if let catalogueFrom {
            lines.append("Compared with the catalogue copy of \(catalogueFrom); nothing was written")
        }
        if let notKnown, notKnown > 0 {
            let names = (notKnownNames ?? []).joined(separator: ", ") + (notKnown > Self.notKnownLimit ? ", …" : "")
            lines.append(
                "\(ReportText.count(notKnown, "file is", "files are")) not in it, and compared with nothing: saved or renamed "
                    + "since, or somebody else's: \(names)")
        }
        let read =
            "\(ReportText.count(copies, "copy", "copies")) read (\(ByteCount(bytes)), \(secondsText(.seconds(seconds))) s)"
        if damaged > 0 && catalogueFrom != nil {
            lines.append("\(read): \(ReportText.grouped(damaged)) damaged or missing")
        } else if damaged > 0 {
            lines.append(
                "\(read): \(ReportText.grouped(damaged)) damaged or missing, \(ReportText.grouped(storedAgain)) of them saved "
                    + "again from the source, \(ReportText.grouped(lost)) lost")
        } else if unverified > 0 || !failures.isEmpty {
            lines.append("\(read): none is damaged, but not all could be read")
        } else {
            lines.append("\(read): all have the content that was saved")
        }
        return lines.joined(separator: "\n")
    }
}
